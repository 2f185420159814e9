"""Inbound texts on their way from the API's callbacks to the dispatcher, which takes them in.

Guarantees: a text is removed in the transaction that hands it out, which the caller commits after it was taken
in; one that can't be taken in is set aside and stays, so that the others have their turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import msgspec

from app.store.intake import at


class _From(msgspec.Struct):
    sender: str = ""


_FROM = msgspec.msgpack.Decoder(_From)  # of an encoded text, who it is from


async def park(driver: asyncpg.Connection, gateway_id: int, payloads: Sequence[bytes], now_s: float) -> None:
    """Keep encoded texts until the dispatcher takes them."""
    await driver.copy_records_to_table(
        "parked_inbound",
        records=[(gateway_id, payload, at(now_s)) for payload in payloads],
        columns=["gateway_id", "payload", "at"],
    )


async def unpark(driver: asyncpg.Connection, after: int = 0) -> tuple[int, int, bytes] | None:
    """The oldest text past row `after`: (row, gateway, encoded). In the caller's transaction: rolled back, it stays."""
    row = await driver.fetchrow(
        "DELETE FROM parked_inbound WHERE id = (SELECT id FROM parked_inbound WHERE id > $1 AND failed_at IS NULL"
        " ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id, gateway_id, payload",
        after,
    )
    return None if row is None else (row["id"], row["gateway_id"], row["payload"])


async def set_aside(driver: asyncpg.Connection, row_id: int, now_s: float) -> None:
    """This text is not handed out again, and not removed. Setting `failed_at` to NULL brings it back."""
    await driver.execute("UPDATE parked_inbound SET failed_at = $2 WHERE id = $1", row_id, at(now_s))


async def waiting(driver: asyncpg.Connection) -> list[tuple[int, str, bool]]:
    """(row, sender, whether it was set aside) of all texts that were not taken in."""
    rows = await driver.fetch("SELECT id, payload, failed_at IS NOT NULL FROM parked_inbound")
    return [(row_id, _FROM.decode(payload).sender, aside) for row_id, payload, aside in rows]


async def remove(driver: asyncpg.Connection, row_id: int) -> None:
    """This text is kept no longer."""
    await driver.execute("DELETE FROM parked_inbound WHERE id = $1", row_id)


async def parts_from(driver: asyncpg.Connection) -> dict[str, bool]:
    """The senders of parts of texts that are kept, and whether some of theirs wait for the others."""
    rows = await driver.fetch("SELECT sender, bool_or(NOT given_out) FROM inbound_parts GROUP BY sender")
    return dict(map(tuple, rows))


async def remove_parts(driver: asyncpg.Connection, sender: str) -> None:
    """The parts of texts of this sender that were given out as a whole."""
    await driver.execute("DELETE FROM inbound_parts WHERE sender = $1 AND given_out", sender)
