"""Erasure of a person's data: what is kept where, and how each place is made to forget.

Guarantees: what the accounting needs (ids, states, times, counts) stays; number, text, variables, references, evidence
and what was queued or stored about them goes. What is under way is left until it is settled: `messages` gives it again.
What names the person among others' things (a batch's name, an audit entry's reason) loses the number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from app.domain import ids, mentions
from app.domain.pack import Entry, Pack, decode_pack, encode
from app.domain.recipient import hash_of
from app.store import idempotency, inbox, receipts
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


async def key_of(driver: asyncpg.Connection, tenant_id: int) -> bytes:
    """The key of the tenant's recipient hashes."""
    return bytes(await driver.fetchval("SELECT hash_key FROM tenants WHERE id = $1", tenant_id))


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
    blanked = msgspec.structs.replace(pack, entries=entries)
    if all(not entry.to for entry in entries):  # then what they share is theirs, too
        blanked.body, blanked.metadata, blanked.campaign = "", None, None
    return blanked


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
        "UPDATE receipts SET raw = '', error = '' WHERE at >= $2 AND at <= $3 AND message_id = ANY($1)",
        uuids,
        first,
        last,
    )
    for table in ("outcomes", "finals", "segment_states"):
        await driver.execute(
            f"UPDATE {table} SET raw = NULL WHERE message_id = ANY($1) AND raw IS NOT NULL",  # noqa: S608 - our own
            uuids,
        )
    await driver.execute(
        "UPDATE webhook_deliveries SET url = NULL, target = 'erased', last_error = NULL,"
        " state = CASE state WHEN 1 THEN 3 ELSE state END"
        " WHERE created_at >= $2 AND message_id = ANY($1) AND endpoint_id IS NULL",
        uuids,
        first,
    )
    silenced = f"{_SILENCED} AND created_at >= $3 AND message_id = ANY($2)) {_FOUND}"
    await driver.execute(silenced, tenant_id, uuids, first)


# An event says that there was one, and nothing of whom.
_SILENCED = """
UPDATE webhook_deliveries SET payload = convert_to((jsonb_build_object('type', p->'type', 'timestamp',
p->'timestamp', 'data', jsonb_build_object('id', p->'data'->'id', 'erased', true)))::text, 'UTF8')
FROM (SELECT id, convert_from(payload, 'UTF8')::jsonb AS p FROM webhook_deliveries WHERE tenant_id = $1"""
_FOUND = "found WHERE found.id = webhook_deliveries.id"


async def forget_batches(driver: asyncpg.Connection, tenant_id: int, batch_ids: dict[bytes, int]) -> None:
    """Batches of that person alone, by how many texts of theirs were in each: the batch's own text is theirs, too."""
    await driver.execute(
        "UPDATE batches b SET body = '', name = NULL, settings = '{}', upload = NULL FROM"
        " unnest($2::uuid[], $3::bigint[]) u(id, n) WHERE b.id = u.id AND b.tenant_id = $1 AND b.total <= u.n",
        tenant_id,
        [as_uuid(one) for one in batch_ids],
        list(batch_ids.values()),
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


class Known(msgspec.Struct, frozen=True):
    """What Redis' copy has of a person: the brands of their consents, and contacts that count for an organisation
    (organisation, its hash of the person, message id)."""

    brands: list[str]
    shared: list[tuple[int, bytes, bytes]]


async def known_to_copy(driver: asyncpg.Connection, tenant_id: int, recipient: bytes) -> Known:
    """Asked before `forget_rules`."""
    brands = await driver.fetch(
        "SELECT DISTINCT brand FROM consents WHERE tenant_id = $1 AND recipient = $2",
        tenant_id,
        signed(recipient),
    )
    shared = await driver.fetch(
        "SELECT organisation_id, organisation_recipient, message_id FROM cap_events WHERE tenant_id = $1"
        " AND recipient = $2 AND organisation_id IS NOT NULL",
        tenant_id,
        signed(recipient),
    )
    return Known([row["brand"] for row in brands], [(r[0], unsigned(r[1]), r[2].bytes) for r in shared])


async def forget_number(driver: asyncpg.Connection, tenant_id: int, number: str) -> dict[str, int]:
    """Inbound texts, webhooks (queued or sent) and stored answers that have the number, and every mention of it."""
    mention, digits = mentions.pattern(number), number.encode()
    counts = {
        "inbound": await _done(driver, _INBOUND, tenant_id, number),
        "webhooks": await _done(
            driver, f"{_SILENCED} AND position($2::bytea IN payload) > 0) {_FOUND}", tenant_id, digits
        ),
        "idempotency": await _done(
            driver,
            "UPDATE idempotency SET status = 0, response = $3"
            " WHERE tenant_id = $1 AND position($2::bytea IN response) > 0",
            tenant_id,
            digits,
            idempotency.encode_answer(idempotency.StoredAnswer(b"", {})),
        ),
        "mentions": await _forget_parked_receipts(driver, number),
    }
    for statement in _MENTIONS:
        counts["mentions"] += await _done(driver, statement, tenant_id, mention, mentions.REPLACEMENT)
    # whose they will be is not known before they are whole: none is kept, and a stop in them holds already
    await driver.execute("DELETE FROM inbound_parts WHERE sender = $1", number)
    return {kind: n for kind, n in counts.items() if n}


async def _done(driver: asyncpg.Connection, statement: str, *arguments: object) -> int:
    return int((await driver.execute(statement, *arguments)).rpartition(" ")[2])


# What came in to nobody's address is nobody's to keep.
_INBOUND = """
UPDATE inbound SET sender = '', text = '', keyword = NULL, gateway_message_id = ''
WHERE (tenant_id = $1 OR tenant_id IS NULL) AND sender = $2
"""


def _rid(table: str, *columns: str) -> str:
    """$2 replaced by $3 wherever a tenant's row has it; a column with its cast is 'settings::jsonb'."""
    pairs = [(name, cast) for name, _, cast in (column.partition("::") for column in columns)]
    sets = ", ".join(
        f"{name} = regexp_replace({name}::text, $2, $3, 'g'){'::' + cast if cast else ''}"
        for name, cast in pairs
    )
    found = " OR ".join(f"{name}::text ~ $2" for name, _ in pairs)
    return f"UPDATE {table} SET {sets} WHERE tenant_id = $1 AND ({found})"  # noqa: S608 - our own


_MENTIONS = (
    _rid("audit_log", "reason", "subject", "before::jsonb", "after::jsonb"),
    _rid("batches", "name", "settings::jsonb"),
    _rid("suppressions", "reason"),
)


async def _forget_parked_receipts(driver: asyncpg.Connection, number: str) -> int:
    """A carrier's own words may have the number; its verdict stays."""
    rows = await driver.fetch(
        "SELECT id, receipt FROM parked_receipts WHERE position($1::bytea IN receipt) > 0 FOR UPDATE",
        number[-7:].encode(),
    )
    changed = 0
    for row in rows:
        receipt = receipts.without_mentions(row["receipt"], number)
        if receipt is not None:
            changed += 1
            await driver.execute("UPDATE parked_receipts SET receipt = $2 WHERE id = $1", row["id"], receipt)
    return changed


async def came_in(driver: asyncpg.Connection, erasure: Erasure, hash_key: bytes) -> tuple[set[str], bool]:
    """The person's number as texts have it that came in since the request, and whether some wait to be taken in:
    they may be a stop that other tenants must heed."""

    def theirs(number: str) -> bool:
        return hash_of(hash_key, number) == erasure.recipient

    waiting = False
    for row_id, sender, aside in await inbox.waiting(driver):
        if theirs(f"+{sender.removeprefix('+')}"):
            if aside:
                await inbox.remove(driver, row_id)
            waiting |= not aside
    for sender, incomplete in (await inbox.parts_from(driver)).items():
        if theirs(f"+{sender.removeprefix('+')}"):
            await inbox.remove_parts(driver, sender)
            waiting |= incomplete
    senders = await driver.fetch(
        "SELECT DISTINCT sender FROM inbound WHERE (tenant_id = $1 OR tenant_id IS NULL) AND id >= $2",
        erasure.tenant_id,
        as_uuid(ids.first_id_at(erasure.asked_at.timestamp())),
    )
    return {row["sender"] for row in senders if theirs(row["sender"])}, waiting


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
