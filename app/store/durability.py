"""What the database server promises about a commit, and what it does not."""

from __future__ import annotations

import asyncpg

from app.store import timelines

_MUST = {
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "synchronous_commit": ("on", "remote_apply", "remote_write"),
}


async def weaknesses(driver: asyncpg.Connection) -> list[str]:
    """Sentences on what an accepted message would not survive; empty: nothing known."""
    found = []
    for name, wanted in _MUST.items():
        value = await driver.fetchval("SELECT current_setting($1)", name)
        if value not in wanted:
            found.append(f"{name} is {value}: a crash of PostgreSQL's machine can lose what was accepted")
    if not await driver.fetchval("SELECT current_setting('synchronous_standby_names')"):
        found.append(
            "there is no synchronous standby: a failover of PostgreSQL can lose what was accepted last"
        )
    if not await timelines.current(driver):
        found.append("the server does not tell its timeline: a failover would not be noticed")
    return found
