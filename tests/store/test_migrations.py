"""What the migrations make is what the code believes: `app.store.tables`, column by column."""

from __future__ import annotations

import asyncio

from sqlalchemy import Column, MetaData
from sqlalchemy.dialects import postgresql

from app.store import migrate, partitions, tables
from app.store.engine import Database

DIALECT = postgresql.dialect()


def described(column: Column) -> dict[str, object]:
    default = column.server_default
    text = str(default.arg) if default is not None and hasattr(default, "arg") else None
    return {
        "type": column.type.compile(DIALECT),
        "nullable": column.nullable,
        "primary key": column.primary_key,
        "identity": column.identity is not None and column.identity.always,
        "default": text.partition("::")[0] if text else None,
        "references": sorted(key.target_fullname for key in column.foreign_keys),
    }


async def reflected(url: str) -> MetaData:
    database = Database(url, pool=1)
    found = MetaData()
    async with database.connect() as connection:
        await connection.run_sync(found.reflect)
    await database.dispose()
    return found


async def test_tables_equal_what_the_migrations_make(postgres_url: str) -> None:
    real = await reflected(postgres_url)
    made = {
        name: table
        for name, table in real.tables.items()
        if name != "alembic_version" and not name.rpartition("_w")[2].isdigit()
    }
    assert set(made) == set(tables.metadata.tables)
    for name, table in tables.metadata.tables.items():
        assert list(made[name].columns.keys()) == list(table.columns.keys()), name
        for column in table.columns:
            assert described(column) == described(made[name].columns[column.name]), f"{name}.{column.name}"


async def test_migrating_twice_and_from_two_sides_at_once_is_the_same(empty_postgres_url: str) -> None:
    await asyncio.gather(*(migrate.upgrade_async(empty_postgres_url) for _ in range(3)))
    await migrate.upgrade_async(empty_postgres_url)
    assert "packs" in (await reflected(empty_postgres_url)).tables


async def test_no_index_of_a_hot_table_mentions_a_column_that_changes(postgres_url: str) -> None:
    """It would cost every update its place in the page (HOT)."""
    database = Database(postgres_url, pool=1)
    async with database.driver() as driver:
        rows = await driver.fetch(
            "SELECT tablename, indexdef FROM pg_indexes WHERE tablename = ANY($1)",
            ["packs", "attempts", "outcomes", "finals", "segment_states", "lookups"],
        )
        parents = {
            row["relname"] for row in await driver.fetch("SELECT relname FROM pg_class WHERE relkind = 'p'")
        }
    await database.dispose()
    assert parents == set(partitions.PARTITIONED)
    assert rows
    for row in rows:
        assert "state" not in row["indexdef"].partition("(")[2], row["indexdef"]
