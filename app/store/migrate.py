"""Bring a database to the newest schema. Safe to run from several processes at once."""

from __future__ import annotations

import asyncio
import time
from importlib.resources import files

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from app.store import locks, partitions
from app.store.engine import Database

_LOCK = locks.MIGRATE


def _run(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def upgrade_async(database_url: str) -> None:
    """Alembic to head under an advisory lock, then the partitions for the weeks to come."""
    database = Database(database_url, pool=1, name="volley migrate")
    try:
        async with database.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            await connection.run_sync(_run)
        async with database.driver() as driver:
            await partitions.ensure(driver, time.time())
    finally:
        await database.dispose()


def upgrade(database_url: str) -> None:
    """`upgrade_async`, for callers without an event loop."""
    asyncio.run(upgrade_async(database_url))
