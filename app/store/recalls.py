"""Texts that a carrier is asked to take back (cancel_sm): a row for each, that outlives its answer.

Guarantees: a message is asked about only by a dispatcher that holds its gateway, one at a time; what the carrier
answers is written with what follows from it; a receipt that says `deleted` of a recalled text means `cancelled`,
whether it comes before the answer or after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import asyncpg
import msgspec
from asyncpg.pgproto.pgproto import UUID as PgUUID

from app.domain import ids
from app.domain.pack import Entry, decode_pack
from app.store.intake import as_uuid, at

CLAIM_LIMIT = 100
KEPT_S = 80 * 3600  # longer than the receipt horizon


class Taken(msgspec.Struct, frozen=True):
    """A segment that the carrier took, and of which it has not told a final state."""

    segment: int
    segments: int
    gateway_message_id: str
    answered_at: datetime


class Recall(msgspec.Struct, frozen=True):
    """A text to be taken back now. `sender` and `to` as they were submitted; without `taken` nothing is left to ask."""

    message_id: bytes
    gateway_id: int
    tries: int  # this one counts
    sender: str
    to: str
    taken: tuple[Taken, ...]


async def ask(driver: asyncpg.Connection, message_id: bytes, gateway_id: int, now_s: float) -> None:
    """Ask for it, in the caller's transaction. Asking again changes nothing while it is open, or was answered."""
    await driver.execute(
        "INSERT INTO recalls (message_id, gateway_id, asked_at, next_at) VALUES ($1, $2, $3, $3)"
        " ON CONFLICT (message_id) DO UPDATE SET answer = NULL, tries = 0, next_at = $3"
        " WHERE recalls.answer = 'unanswered'",
        as_uuid(message_id),
        gateway_id,
        at(now_s),
    )


async def answer_of(driver: asyncpg.Connection, message_id: bytes) -> str | None:
    """`asked` while it is open, then the answer; None: nobody asked."""
    return await driver.fetchval(
        "SELECT coalesce(answer, 'asked') FROM recalls WHERE message_id = $1", as_uuid(message_id)
    )


async def claim(
    driver: asyncpg.Connection, gateway_ids: Sequence[int], now_s: float, patience_s: float
) -> list[Recall]:
    """Open recalls of these gateways; nobody else gets them for `patience_s`."""
    rows = await driver.fetch(
        "UPDATE recalls r SET tries = tries + 1, next_at = $3 FROM (SELECT message_id FROM recalls"
        " WHERE answer IS NULL AND next_at <= $2 AND gateway_id = ANY($1)"
        " ORDER BY next_at LIMIT $4 FOR UPDATE SKIP LOCKED) due"
        " WHERE r.message_id = due.message_id RETURNING r.message_id, r.gateway_id, r.tries",
        list(gateway_ids),
        at(now_s),
        at(now_s + patience_s),
        CLAIM_LIMIT,
    )
    return [await _recall(driver, row) for row in rows]


async def _recall(driver: asyncpg.Connection, row: asyncpg.Record) -> Recall:
    message_id = row["message_id"].bytes
    payload = await driver.fetchval(
        "SELECT payload FROM packs WHERE id = $1", as_uuid(ids.pack_of(message_id))
    )
    pack = decode_pack(payload) if payload is not None else None
    index = ids.index_of(message_id)
    entry: Entry | None = next((e for e in pack.entries if e.index == index), None) if pack else None
    taken = await taken_of(driver, message_id) if entry is not None else ()
    return Recall(
        message_id,
        row["gateway_id"],
        row["tries"],
        pack.sender if pack else "",
        entry.to if entry else "",
        taken,
    )


_TAKEN = """
SELECT DISTINCT ON (segment) segment, segments, gateway_message_id, at FROM outcomes o
WHERE message_id = $1 AND kind = 1 AND ($2::int IS NULL OR gateway_id = $2)
  AND NOT EXISTS (SELECT FROM finals f WHERE f.message_id = o.message_id)
  AND NOT EXISTS (SELECT FROM segment_states s WHERE s.message_id = o.message_id AND s.segment = o.segment)
ORDER BY segment, attempt DESC
"""


async def taken_of(
    driver: asyncpg.Connection, message_id: bytes, gateway_id: int | None = None
) -> tuple[Taken, ...]:
    """The segments of a text (by that gateway) that a carrier took, and of which it has told no final state."""
    rows = await driver.fetch(_TAKEN, as_uuid(message_id), gateway_id)
    return tuple(Taken(*row) for row in rows)


async def answered(driver: asyncpg.Connection, message_id: bytes, answer: str) -> None:
    """What came of it, in the caller's transaction."""
    await driver.execute("UPDATE recalls SET answer = $2 WHERE message_id = $1", as_uuid(message_id), answer)


async def recalled(driver: asyncpg.Connection, message_ids: Iterable[bytes]) -> set[bytes]:
    """Those of the messages that were to be taken back."""
    rows = await driver.fetch(
        "SELECT message_id FROM recalls WHERE message_id = ANY($1)", [PgUUID(one) for one in message_ids]
    )
    return {row[0].bytes for row in rows}


async def forget(driver: asyncpg.Connection, now_s: float) -> None:
    """Drop what no receipt can speak of any more."""
    now = at(now_s)
    assert now is not None
    await driver.execute("DELETE FROM recalls WHERE asked_at < $1", now - timedelta(seconds=KEPT_S))
