"""Probes: texts to our own phones by each gateway of a region, and what came of them.

Guarantees: a probe and its messages are committed together; what is reported is read from the journal, the outcomes
and the receipts, as for any message.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg
import msgspec
from asyncpg.pgproto.pgproto import UUID as PgUUID

from app.store import locks
from app.store.intake import at


class Seen(msgspec.Struct, frozen=True):
    """What became of one text of a probe. `sent`: a gateway was given it. `state` is its final one; `answer_ms` and
    `receipt_ms` from the hand-over to the carrier's answer, and from that to the receipt."""

    message_id: bytes
    gateway: str
    sent: bool
    accepted: bool
    unknown: bool
    refused: bool
    reason: str | None
    answer_ms: int | None
    state: int | None
    receipt_ms: int | None


class Probe(msgspec.Struct, frozen=True):
    """A probe as it was asked for."""

    id: bytes
    region: str
    sender: str
    created_at: datetime


async def lately(driver: asyncpg.Connection, region: str, since_s: float) -> float | None:
    """When a region's newest probe since then was made (Unix seconds); serialised with others in this transaction."""
    await driver.execute("SELECT pg_advisory_xact_lock($1)", locks.PROBES)
    newest = await driver.fetchval(
        "SELECT max(created_at) FROM probes WHERE region = $1 AND created_at > $2", region, at(since_s)
    )
    return None if newest is None else newest.timestamp()


async def insert(
    driver: asyncpg.Connection,
    probe: tuple[bytes, int, str, str, float],
    messages: Sequence[tuple[bytes, str]],
) -> None:
    """(id, tenant, region, sender, at) and its (message, gateway), in the caller's transaction."""
    probe_id, tenant_id, region, sender, at_s = probe
    await driver.execute(
        "INSERT INTO probes (id, tenant_id, region, sender, created_at) VALUES ($1, $2, $3, $4, $5)",
        PgUUID(probe_id),
        tenant_id,
        region,
        sender,
        at(at_s),
    )
    await driver.copy_records_to_table(
        "probe_messages",
        records=[(PgUUID(message), PgUUID(probe_id), gateway) for message, gateway in messages],
        columns=["message_id", "probe_id", "gateway"],
    )


async def find(driver: asyncpg.Connection, tenant_id: int, probe_id: bytes) -> Probe | None:
    """A tenant's probe."""
    row = await driver.fetchrow(
        "SELECT id, region, sender, created_at FROM probes WHERE id = $1 AND tenant_id = $2",
        PgUUID(probe_id),
        tenant_id,
    )
    return None if row is None else Probe(row["id"].bytes, row["region"], row["sender"], row["created_at"])


_SEEN = """
SELECT m.message_id, m.gateway, a.at AS sent_at, o.accepted, o.unknown, o.refused, o.reason, o.at AS answered_at,
       f.state, f.reason AS final_reason, f.at AS final_at
FROM probe_messages m
LEFT JOIN LATERAL (SELECT at, attempt FROM attempts WHERE message_id = m.message_id AND kind = 4
                   ORDER BY attempt DESC LIMIT 1) a ON true
LEFT JOIN LATERAL (SELECT bool_and(kind = 1) AS accepted, bool_or(kind = 4) AS unknown,
                          bool_or(kind IN (2, 3)) AS refused, max(reason) AS reason, max(at) AS at FROM outcomes
                   WHERE message_id = m.message_id AND attempt = a.attempt HAVING count(*) > 0) o ON true
LEFT JOIN finals f ON f.message_id = m.message_id
WHERE m.probe_id = $1 ORDER BY m.message_id
"""


async def seen(driver: asyncpg.Connection, probe_id: bytes) -> list[Seen]:
    """What became of each of its texts till now, by the last attempt."""
    return [
        Seen(
            row["message_id"].bytes,
            row["gateway"],
            row["sent_at"] is not None,
            bool(row["accepted"]),
            bool(row["unknown"]),
            bool(row["refused"]),
            row["final_reason"] or row["reason"],
            _ms(row["sent_at"], row["answered_at"]),
            row["state"],
            _ms(row["answered_at"], row["final_at"]) if row["accepted"] else None,
        )
        for row in await driver.fetch(_SEEN, PgUUID(probe_id))
    ]


def _ms(before: datetime | None, after: datetime | None) -> int | None:
    if before is None or after is None:
        return None
    return max(0, int((after - before).total_seconds() * 1000))
