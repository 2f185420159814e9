"""Do-not-call lists: a country's register as a tenant drew it, under the tenant's own licence.

Guarantees: numbers are kept as the tenant's keyed hashes alone; a new import replaces the list only when it was
whole (`finish`): until then what was on the old list and what is on the new one are both blocked.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg
import msgspec

from app.store.intake import signed
from app.store.rules import unsigned

COPY_PAGE = 50_000
LEAST = (-(2**31), "", -(2**63))  # before the first of (tenant, country, recipient)
PAGE = 10_000


class Registry(msgspec.Struct, frozen=True):
    """A list and how fresh it is."""

    country: str
    format: str
    entries: int
    as_of: datetime | None
    valid_until: datetime | None
    imported_at: datetime | None


_COLUMNS = "country, format, entries, as_of, valid_until, imported_at"


async def of_tenant(driver: asyncpg.Connection, tenant_id: int) -> list[Registry]:
    """A tenant's lists by country."""
    rows = await driver.fetch(
        f"SELECT {_COLUMNS} FROM registries WHERE tenant_id = $1 ORDER BY country",  # noqa: S608 - our own
        tenant_id,
    )
    return [Registry(**row) for row in rows]


async def begin(driver: asyncpg.Connection, tenant_id: int, country: str, name: str) -> int:
    """The generation of a new import."""
    return await driver.fetchval(
        "INSERT INTO registries AS r (tenant_id, country, format, generation) VALUES ($1, $2, $3, 1)"
        " ON CONFLICT (tenant_id, country) DO UPDATE SET generation = r.generation + 1, format = excluded.format"
        " RETURNING generation",
        tenant_id,
        country,
        name,
    )


async def put(
    driver: asyncpg.Connection, tenant_id: int, country: str, recipients: Sequence[bytes], generation: int
) -> int:
    """Numbers of an import; gives how many were not on the list."""
    return await driver.fetchval(
        "WITH put AS (INSERT INTO registry_entries AS e (tenant_id, country, recipient, generation)"
        " SELECT DISTINCT $1::int, $2::text, r, $4::int FROM unnest($3::bigint[]) AS r"
        " ON CONFLICT (tenant_id, country, recipient) DO UPDATE SET generation = excluded.generation"
        " RETURNING xmax = 0 AS fresh) SELECT count(*) FILTER (WHERE fresh) FROM put",
        tenant_id,
        country,
        [signed(one) for one in recipients],
        generation,
    )


async def outdated(driver: asyncpg.Connection, tenant_id: int, country: str, generation: int) -> list[bytes]:
    """Remove a page of what an older import had and this one has not; gives it, to be taken off the copy after."""
    rows = await driver.fetch(
        "DELETE FROM registry_entries WHERE (tenant_id, country, recipient) IN (SELECT tenant_id, country, recipient"
        " FROM registry_entries WHERE tenant_id = $1 AND country = $2 AND generation < $3 LIMIT $4)"
        " RETURNING recipient",
        tenant_id,
        country,
        generation,
        PAGE,
    )
    return [unsigned(row["recipient"]) for row in rows]


async def finish(
    driver: asyncpg.Connection,
    tenant_id: int,
    country: str,
    *,
    as_of: datetime,
    valid_until: datetime,
    imported_at: datetime,
) -> None:
    """The import was whole: the list is as fresh as this says."""
    await driver.execute(
        "UPDATE registries SET as_of = $3, valid_until = $4, imported_at = $5, entries = (SELECT count(*)"
        " FROM registry_entries WHERE tenant_id = $1 AND country = $2) WHERE tenant_id = $1 AND country = $2",
        tenant_id,
        country,
        as_of,
        valid_until,
        imported_at,
    )


async def remove(driver: asyncpg.Connection, tenant_id: int, country: str) -> bool:
    """The list's row goes; its entries by `outdated` with a generation above all."""
    done = await driver.execute(
        "DELETE FROM registries WHERE tenant_id = $1 AND country = $2", tenant_id, country
    )
    return done == "DELETE 1"


async def stale(driver: asyncpg.Connection, now: datetime) -> int:
    """How many lists are older than they may be."""
    return await driver.fetchval("SELECT count(*) FROM registries WHERE valid_until < $1", now)


async def is_listed(driver: asyncpg.Connection, tenant_id: int, country: str, recipient: bytes) -> bool:
    """Whether that number is on the country's list."""
    return await driver.fetchval(
        "SELECT EXISTS (SELECT FROM registry_entries WHERE tenant_id = $1 AND country = $2 AND recipient = $3)",
        tenant_id,
        country,
        signed(recipient),
    )


async def still_listed(
    driver: asyncpg.Connection, tenant_id: int, country: str, recipients: Sequence[bytes]
) -> set[bytes]:
    """Which of these are on the list."""
    rows = await driver.fetch(
        "SELECT recipient FROM registry_entries WHERE tenant_id = $1 AND country = $2"
        " AND recipient = ANY($3::bigint[])",
        tenant_id,
        country,
        [signed(one) for one in recipients],
    )
    return {unsigned(row["recipient"]) for row in rows}


_TO_COPY = """
WITH page AS MATERIALIZED (
    SELECT tenant_id, country, recipient FROM registry_entries
    WHERE (tenant_id, country, recipient) > ($1::int, $2::text, $3::bigint)
    ORDER BY tenant_id, country, recipient LIMIT $4
), packed AS (
    SELECT tenant_id, country, string_agg(int8send(recipient), ''::bytea) AS people FROM page GROUP BY 1, 2
)
SELECT packed.*, ends.* FROM packed, (
    SELECT tenant_id, country, recipient FROM page ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT 1
) ends
"""


async def to_copy(
    driver: asyncpg.Connection, after: tuple[int, str, int]
) -> tuple[list[tuple[int, str, bytes]], tuple[int, str, int] | None]:
    """(tenant, country, its next people, 8 bytes each) of all lists; and where the page ends (None: that was all)."""
    found = await driver.fetch(_TO_COPY, *after, COPY_PAGE)
    page = [(row[0], row[1], row[2]) for row in found]
    return page, (found[0][3], found[0][4], found[0][5]) if found else None
