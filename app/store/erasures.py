"""Erasure of a person's data: what is kept where, and how each place is made to forget.

Guarantees: what the accounting needs (ids, states, times, counts) stays; number, text, variables, references, evidence
and what was queued or stored about them goes. What is under way is left until it is settled: `messages` gives it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from app.domain import ids
from app.domain.pack import Entry, Pack, decode_pack, encode
from app.store import idempotency
from app.store.intake import as_uuid, signed
from app.store.rules import unsigned

PAGE = 500
LATE = timedelta(days=8)  # receipts and webhooks of a message are not younger than this after it


class Erasure(msgspec.Struct, frozen=True):
    """A request, and how far it is. `counts`: what was erased, by kind."""

    id: UUID
    tenant_id: int
    recipient: bytes
    actor: str
    reason: str
    asked_at: datetime
    done_at: datetime | None
    counts: dict[str, int]


_COLUMNS = "id, tenant_id, recipient, actor, reason, asked_at, done_at, counts"


def _erasure(row: asyncpg.Record) -> Erasure:
    return Erasure(**{**row, "recipient": unsigned(row["recipient"])})


async def insert(
    driver: asyncpg.Connection,
    erasure_id: bytes,
    tenant_id: int,
    recipient: bytes,
    *,
    actor: str,
    reason: str,
    now: datetime,
) -> None:
    """A request."""
    await driver.execute(
        "INSERT INTO erasures (id, tenant_id, recipient, actor, reason, asked_at) VALUES ($1, $2, $3, $4, $5, $6)",
        as_uuid(erasure_id),
        tenant_id,
        signed(recipient),
        actor,
        reason,
        now,
    )


async def read(driver: asyncpg.Connection, tenant_id: int, erasure_id: bytes) -> Erasure | None:
    """One request of the tenant."""
    row = await driver.fetchrow(
        f"SELECT {_COLUMNS} FROM erasures WHERE tenant_id = $1 AND id = $2",  # noqa: S608 - our own
        tenant_id,
        as_uuid(erasure_id),
    )
    return None if row is None else _erasure(row)


async def page(
    driver: asyncpg.Connection, tenant_id: int, *, before: bytes | None = None, limit: int = 100
) -> list[Erasure]:
    """A tenant's requests, newest first."""
    rows = await driver.fetch(
        f"SELECT {_COLUMNS} FROM erasures WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2)"  # noqa: S608
        " ORDER BY id DESC LIMIT $3",
        tenant_id,
        as_uuid(before),
        limit,
    )
    return [_erasure(row) for row in rows]


async def unfinished(driver: asyncpg.Connection) -> list[Erasure]:
    """The requests that something is left of."""
    rows = await driver.fetch(
        f"SELECT {_COLUMNS} FROM erasures WHERE done_at IS NULL ORDER BY id LIMIT {PAGE}"  # noqa: S608
    )
    return [_erasure(row) for row in rows]


async def advanced(
    driver: asyncpg.Connection, erasure: Erasure, counts: dict[str, int], done_at: datetime | None
) -> dict[str, int]:
    """Add what was erased; gives all counts so far."""
    total = {name: erasure.counts.get(name, 0) + counts.get(name, 0) for name in {**erasure.counts, **counts}}
    await driver.execute(
        "UPDATE erasures SET counts = $2, done_at = $3 WHERE id = $1", erasure.id, _json(total), done_at
    )
    return total


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


# -- messages


async def messages(driver: asyncpg.Connection, tenant_id: int, recipient: bytes, after: bytes) -> list[bytes]:
    """The ids of a page of that person's messages that are still known as theirs, above `after`."""
    rows = await driver.fetch(
        "SELECT message_id FROM lookups WHERE recipient = $1 AND tenant_id = $2 AND message_id > $3"
        " ORDER BY message_id LIMIT $4",
        signed(recipient),
        tenant_id,
        as_uuid(after),
        PAGE,
    )
    return [row["message_id"].bytes for row in rows]


async def under_way(driver: asyncpg.Connection, pack_ids: Sequence[bytes]) -> set[bytes]:
    """Which of these packs are in a parcel that a dispatcher holds: their bytes may be leaving now."""
    rows = await driver.fetch(
        "SELECT DISTINCT pack_id FROM parcels WHERE pack_id = ANY($1) AND lease_id IS NOT NULL",
        [as_uuid(one) for one in pack_ids],
    )
    return {row["pack_id"].bytes for row in rows}


async def open_parcels(driver: asyncpg.Connection, pack_ids: Sequence[bytes]) -> list[tuple[bytes, str]]:
    """(id, lane) of the parcels that wait with some of these packs."""
    rows = await driver.fetch(
        "SELECT id, lane FROM parcels WHERE pack_id = ANY($1) AND lease_id IS NULL",
        [as_uuid(one) for one in pack_ids],
    )
    return [(row["id"].bytes, row["lane"]) for row in rows]


async def blank(driver: asyncpg.Connection, pack_id: bytes, indexes: set[int]) -> list[Entry]:
    """Take number and content of these entries out of a pack; gives them as they were."""
    payload = await driver.fetchval("SELECT payload FROM packs WHERE id = $1 FOR UPDATE", as_uuid(pack_id))
    if payload is None:
        return []
    pack = decode_pack(payload)
    gone = [entry for entry in pack.entries if entry.index in indexes]
    await driver.execute(
        "UPDATE packs SET payload = $2 WHERE id = $1", as_uuid(pack_id), encode(_blanked(pack, indexes))
    )
    return gone


def _blanked(pack: Pack, indexes: set[int]) -> Pack:
    entries = [_forgotten(entry) if entry.index in indexes else entry for entry in pack.entries]
    alone = all(entry.index in indexes for entry in pack.entries)  # then the pack's body is theirs, too
    return msgspec.structs.replace(pack, entries=entries, body="" if alone else pack.body)


def _forgotten(entry: Entry) -> Entry:
    return Entry(entry.index, "", bytes(8), entry.segments, body="")


async def forget_messages(
    driver: asyncpg.Connection, tenant_id: int, recipient: bytes, message_ids: Sequence[bytes]
) -> None:
    """Nobody can ask for these messages by their person or reference; the carriers' words on them go, too."""
    if not message_ids:
        return
    uuids = [as_uuid(one) for one in message_ids]
    await driver.execute(
        "DELETE FROM lookups WHERE recipient = $1 AND tenant_id = $2 AND message_id = ANY($3)",
        signed(recipient),
        tenant_id,
        uuids,
    )
    first = datetime.fromtimestamp(ids.created_at(min(message_ids)), tz=UTC)
    last = datetime.fromtimestamp(ids.created_at(max(message_ids)), tz=UTC) + LATE
    await driver.execute(
        "UPDATE receipts SET raw = '' WHERE at >= $2 AND at <= $3 AND message_id = ANY($1) AND raw <> ''",
        uuids,
        first,
        last,
    )


# -- everything else


async def forget_rules(driver: asyncpg.Connection, tenant_id: int, recipient: bytes) -> dict[str, int]:
    """Evidence and numbers of the ledger, the consents, questions asked and contact history. In a transaction."""
    await driver.execute("SELECT set_config('volley.erasing', 'on', true)")
    counts = {}
    for kind, statement in _RULES.items():
        done = await driver.execute(statement, tenant_id, signed(recipient))
        counts[kind] = int(done.rpartition(" ")[2])
    await driver.execute("SELECT set_config('volley.erasing', 'off', true)")
    return {kind: n for kind, n in counts.items() if n}


_RULES = {
    "ledger": "UPDATE rule_events SET evidence = '{}', actor = 'erased' WHERE tenant_id = $1 AND recipient = $2"
    " AND evidence <> '{}' AND evidence <> jsonb_build_object('reason', 'erased', 'source', 'erasure')",
    "suppressions": "UPDATE suppressions SET address = NULL WHERE tenant_id = $1 AND recipient = $2"
    " AND address IS NOT NULL",
    "consents": "DELETE FROM consents WHERE tenant_id = $1 AND recipient = $2",
    "questions": "DELETE FROM consent_requests WHERE tenant_id = $1 AND recipient = $2",
    "contacts": "DELETE FROM cap_events WHERE tenant_id = $1 AND recipient = $2",
    "answers": "UPDATE survey_answers SET recipient = hashint8extended(recipient, (random() * 1e15)::bigint)"
    " WHERE survey_id IN (SELECT id FROM surveys WHERE tenant_id = $1) AND recipient = $2",
}


async def consent_fields(driver: asyncpg.Connection, tenant_id: int, recipient: bytes) -> list[str]:
    """The brands of that person's consents: what Redis' copy has of them."""
    rows = await driver.fetch(
        "SELECT DISTINCT brand FROM consents WHERE tenant_id = $1 AND recipient = $2",
        tenant_id,
        signed(recipient),
    )
    return [row["brand"] for row in rows]


async def forget_number(
    driver: asyncpg.Connection, tenant_id: int, number: str, since: datetime
) -> dict[str, int]:
    """Inbound texts, webhooks (queued or sent) and stored answers that have the number."""
    counts = {}
    done = await driver.execute(
        "UPDATE inbound SET sender = '', text = '', keyword = NULL, gateway_message_id = ''"
        " WHERE tenant_id = $1 AND sender = $2",
        tenant_id,
        number,
    )
    counts["inbound"] = int(done.rpartition(" ")[2])
    done = await driver.execute(
        "UPDATE webhook_deliveries SET payload = convert_to((jsonb_build_object('type', p->'type', 'timestamp',"
        " p->'timestamp', 'data', jsonb_build_object('id', p->'data'->'id', 'erased', true)))::text, 'UTF8')"
        " FROM (SELECT id, convert_from(payload, 'UTF8')::jsonb AS p FROM webhook_deliveries WHERE tenant_id = $1"
        " AND created_at >= $3 AND position($2::bytea IN payload) > 0) found WHERE found.id = webhook_deliveries.id",
        tenant_id,
        number.encode(),
        since,
    )
    counts["webhooks"] = int(done.rpartition(" ")[2])
    done = await driver.execute(
        "UPDATE idempotency SET status = 0, response = $3 WHERE tenant_id = $1 AND position($2::bytea IN response) > 0",
        tenant_id,
        number.encode(),
        idempotency.encode_answer(idempotency.StoredAnswer(b"", {})),
    )
    counts["idempotency"] = int(done.rpartition(" ")[2])
    return {kind: n for kind, n in counts.items() if n}


async def proof(driver: asyncpg.Connection, erasure: Erasure, action: str, after: dict[str, Any]) -> None:
    """The audit log has what was asked and done, with the hash in place of the number."""
    await driver.execute(
        "INSERT INTO audit_log (tenant_id, actor, reason, action, subject, after) VALUES ($1, $2, $3, $4, $5, $6)",
        erasure.tenant_id,
        erasure.actor,
        erasure.reason,
        action,
        f"erasure/{erasure.id}",
        _json({"recipient": erasure.recipient.hex(), **after}),
    )
