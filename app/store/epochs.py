"""Which epoch of Redis' copy is current, and of which server run. PostgreSQL decides; see ADR 1."""

from __future__ import annotations

import asyncpg
import msgspec


class Epoch(msgspec.Struct, frozen=True):
    """`ready`: built whole and checked; only then may anything be decided by it."""

    epoch: int
    run_id: str
    ready: bool


async def current(driver: asyncpg.Connection) -> Epoch:
    """The epoch in force."""
    row = await driver.fetchrow("SELECT epoch, run_id, ready FROM redis_epoch")
    return Epoch(row["epoch"], row["run_id"], row["ready"])


async def start(driver: asyncpg.Connection, run_id: str, above: int = 0) -> int:
    """Begin a new epoch on that server run, of a number over `above`; nothing is handed over until `finish`."""
    return await driver.fetchval(
        "UPDATE redis_epoch SET epoch = greatest(epoch, $2) + 1, run_id = $1, ready = false, changed_at = now()"
        " RETURNING epoch",
        run_id,
        above,
    )


async def finish(driver: asyncpg.Connection, epoch: int) -> bool:
    """The copy of that epoch is whole; False if it was spoiled or another was begun meanwhile."""
    return (
        await driver.execute(
            "UPDATE redis_epoch SET ready = true, changed_at = now() WHERE epoch = $1 AND run_id <> ''", epoch
        )
        == "UPDATE 1"
    )


async def spoil(driver: asyncpg.Connection, epoch: int) -> None:
    """The copy of that epoch can no longer be trusted (a write to it failed): rebuild before the next hand-over."""
    await driver.execute("UPDATE redis_epoch SET ready = false, run_id = '' WHERE epoch = $1", epoch)
