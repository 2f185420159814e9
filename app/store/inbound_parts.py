"""The parts of long inbound texts that came apart: kept until their text is whole, or was waited for long enough.

Guarantees: each call is within a transaction that holds the gateway's lock (`app.store.inbound.lock`), so of two
dispatchers with the last two parts one completes the text; a part stays until its text is given out in the same
transaction; what a whole text was made of is known until its time is over, so that a repeated part makes no other one.
"""

from __future__ import annotations

from datetime import datetime

import asyncpg
import msgspec

from app.store.intake import at


class Key(msgspec.Struct, frozen=True):
    """Which text: of whom, to which address, by which concatenation."""

    sender: str
    to: str
    reference: int
    total: int


class Kept(msgspec.Struct):
    """What is kept of a text: (octets, encoding) by index from 1, and the ports of the parts that name one."""

    parts: dict[int, tuple[bytes, str]]
    ports: dict[int, int]
    given_out: bool
    until: datetime | None


_OF = 'gateway_id = $1 AND sender = $2 AND "to" = $3 AND reference = $4 AND total = $5'


async def kept(driver: asyncpg.Connection, gateway_id: int, key: Key) -> Kept:
    """The parts of a text that are there."""
    rows = await driver.fetch(
        f"SELECT index, octets, encoding, port, given_out, until FROM inbound_parts WHERE {_OF}",  # noqa: S608 - ours
        gateway_id,
        *msgspec.structs.astuple(key),
    )
    return Kept(
        {row["index"]: (row["octets"], row["encoding"]) for row in rows},
        {row["index"]: row["port"] for row in rows if row["port"] is not None},
        any(row["given_out"] for row in rows),
        min((row["until"] for row in rows), default=None),
    )


async def keep(
    driver: asyncpg.Connection,
    gateway_id: int,
    key: Key,
    index: int,
    part: tuple[bytes, str],
    until_s: float,
    port: int | None,
) -> None:
    """Keep one more."""
    await driver.execute(
        'INSERT INTO inbound_parts (gateway_id, sender, "to", reference, total, index, octets, encoding, until, port)'
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        gateway_id,
        *msgspec.structs.astuple(key),
        index,
        *part,
        at(until_s),
        port,
    )


async def give_out(driver: asyncpg.Connection, gateway_id: int, key: Key) -> None:
    """The text is whole: from now on its parts are repetitions."""
    await driver.execute(
        f"UPDATE inbound_parts SET given_out = true WHERE {_OF}",  # noqa: S608 - ours
        gateway_id,
        *msgspec.structs.astuple(key),
    )


async def hurry(driver: asyncpg.Connection, gateway_id: int, key: Key, until_s: float) -> None:
    """Its other parts are waited for until then at the latest."""
    await driver.execute(
        f"UPDATE inbound_parts SET until = least(until, $6) WHERE {_OF}",  # noqa: S608 - ours
        gateway_id,
        *msgspec.structs.astuple(key),
        at(until_s),
    )


async def drop(driver: asyncpg.Connection, gateway_id: int, key: Key) -> None:
    """Its parts go with the text that was made of them."""
    await driver.execute(
        f"DELETE FROM inbound_parts WHERE {_OF}",  # noqa: S608 - ours
        gateway_id,
        *msgspec.structs.astuple(key),
    )


async def forget(driver: asyncpg.Connection, now_s: float) -> list[int]:
    """Drop what was made whole and is repeated no more; the gateways of what was waited for long enough."""
    await driver.execute("DELETE FROM inbound_parts WHERE until <= $1 AND given_out", at(now_s))
    rows = await driver.fetch(
        "SELECT DISTINCT gateway_id FROM inbound_parts WHERE until <= $1 AND NOT given_out", at(now_s)
    )
    return [row["gateway_id"] for row in rows]


async def overdue(driver: asyncpg.Connection, gateway_id: int, now_s: float, limit: int) -> list[Key]:
    """Texts of a gateway whose other parts were waited for long enough."""
    rows = await driver.fetch(
        'SELECT sender, "to", reference, total FROM inbound_parts WHERE gateway_id = $1 AND NOT given_out'
        " GROUP BY 1, 2, 3, 4 HAVING min(until) <= $2 ORDER BY min(until) LIMIT $3",
        gateway_id,
        at(now_s),
        limit,
    )
    return [Key(*row) for row in rows]
