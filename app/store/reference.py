"""What acceptance looks up: region prefixes, templates, and what senders are registered as."""

from __future__ import annotations

import asyncpg


async def region_prefixes(driver: asyncpg.Connection) -> list[tuple[str, list[str]]]:
    """(region, number prefixes) of the regions that are finer than a country."""
    rows = await driver.fetch("SELECT code, prefixes FROM regions WHERE prefixes <> '{}' ORDER BY code")
    return [(row["code"], row["prefixes"]) for row in rows]


async def template(
    driver: asyncpg.Connection, tenant_id: int, name: str, version: int | None
) -> tuple[int, str, bool] | None:
    """(version, body, smart encoding) of a tenant's template that isn't archived: that version, or the newest."""
    row = await driver.fetchrow(
        "SELECT version, body, smart_encoding FROM templates WHERE tenant_id = $1 AND name = $2 "
        "AND ($3::int IS NULL OR version = $3) AND archived_at IS NULL ORDER BY version DESC LIMIT 1",
        tenant_id,
        name,
        version,
    )
    return (row["version"], row["body"], row["smart_encoding"]) if row else None


async def ways_out(driver: asyncpg.Connection) -> list[tuple[str, str]]:
    """(name, URL) of the enabled gateways. A URL holds its password."""
    return [
        (row["name"], row["url"])
        for row in await driver.fetch("SELECT name, url FROM gateways WHERE enabled")
    ]


async def senders(driver: asyncpg.Connection, tenant_id: int) -> dict[str, tuple[list[str], str]]:
    """(countries where it is registered, signature) of a tenant's senders that say something."""
    rows = await driver.fetch(
        "SELECT address, registered, signature FROM senders "
        "WHERE tenant_id = $1 AND (registered <> '{}' OR signature <> '')",
        tenant_id,
    )
    return {row["address"]: (row["registered"], row["signature"]) for row in rows}
