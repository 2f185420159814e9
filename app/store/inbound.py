"""Texts that came in: stored once, and whose they are.

Guarantees: a carrier's repetition within REPEAT_S is known by its id and the sender (`dispatcher.inbound` says
what is done where there is none); who uses an address is asked of the sender table and of what was sent to that
person, never guessed from the text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from app.domain import ids
from app.domain.pack import decode_pack
from app.domain.recipient import hash_of
from app.store import locks
from app.store.intake import as_uuid, at, signed

REPEAT_S = 86_400
SENT_WITHIN_S = 90 * 86_400  # how long a text sent to a person says whose their answer is
CONTAINED_S = 900  # a repeated part is of a text that came within so long,
CONTAINED_CHARACTERS = 67  # and that was longer than this: it had parts
LOOKED_AT = 200  # newest texts sent to one person


class Owner(msgspec.Struct, frozen=True):
    """A tenant, as far as inbound texts need it."""

    id: int
    name: str
    hash_key: bytes
    settings: dict[str, Any]

    def __repr__(self) -> str:
        return f"Owner({self.id})"


class Row(msgspec.Struct, frozen=True):
    """A text to be stored."""

    id: bytes
    tenant_id: int | None
    gateway_id: int
    sender: str
    to: str
    text: str
    action: str | None
    keyword: str | None
    doubtful: bool
    gateway_message_id: str
    at_s: float
    reply: str | None = None
    port: int | None = None


class Stored(msgspec.Struct, frozen=True):
    """A text as its tenant reads it."""

    id: UUID
    sender: str
    to: str
    text: str
    action: str | None
    keyword: str | None
    doubtful: bool
    gateway: str
    at: datetime
    reply: str | None
    port: int | None


async def lock(driver: asyncpg.Connection, gateway_id: int) -> None:
    """One at a time stores what a gateway received, so that a repetition finds the first."""
    await driver.execute("SELECT pg_advisory_xact_lock($1::int, $2::int)", locks.INBOUND_CLASS, gateway_id)


async def repeats(
    driver: asyncpg.Connection, gateway_id: int, texts: Sequence[tuple[str, str]], now_s: float
) -> set[tuple[str, str]]:
    """Which of these (carrier's id, sender) are stored already. Texts without an id can't be known again."""
    rows = await driver.fetch(
        "SELECT gateway_message_id, sender FROM inbound WHERE gateway_message_id <> ''"
        " AND gateway_message_id = ANY($1::text[]) AND gateway_id = $2 AND at > $3",
        [name for name, _ in texts if name],
        gateway_id,
        at(now_s - REPEAT_S),
    )
    return {(row["gateway_message_id"], row["sender"]) for row in rows}


async def equal_lately(
    driver: asyncpg.Connection, gateway_id: int, senders: Sequence[str], now_s: float, within_s: float
) -> set[tuple[str, str, str, int | None]]:
    """(sender, to, text, port) of what came from these people by that gateway within so long."""
    rows = await driver.fetch(
        'SELECT sender, "to", text, port FROM inbound WHERE sender = ANY($1::text[]) AND id >= $2 AND gateway_id = $3',
        list(senders),
        as_uuid(ids.first_id_at(now_s - within_s)),
        gateway_id,
    )
    return {(row["sender"], row["to"], row["text"], row["port"]) for row in rows}


async def contained(
    driver: asyncpg.Connection, gateway_id: int, sender: str, to: str, pieces: Sequence[str], now_s: float
) -> bool:
    """Whether one text that came lately from that person to that address has all of these pieces."""
    rows = await driver.fetch(
        'SELECT text FROM inbound WHERE sender = $1 AND id >= $2 AND gateway_id = $3 AND "to" = $4'
        " AND length(text) > $5",
        sender,
        as_uuid(ids.first_id_at(now_s - CONTAINED_S)),
        gateway_id,
        to,
        CONTAINED_CHARACTERS,
    )
    return any(all(piece in row["text"] for piece in pieces) for row in rows)


async def insert(driver: asyncpg.Connection, rows: Sequence[Row]) -> None:
    """Store texts."""
    await driver.copy_records_to_table(
        "inbound",
        records=[
            (
                as_uuid(r.id), r.tenant_id, r.gateway_id, r.sender, r.to, r.text, r.action, r.keyword,
                r.doubtful, r.gateway_message_id, at(r.at_s), r.reply, r.port,
            )
            for r in rows
        ],
        columns=[
            "id", "tenant_id", "gateway_id", "sender", "to", "text", "action", "keyword",
            "doubtful", "gateway_message_id", "at", "reply", "port",
        ],
    )  # fmt: skip


async def owners(driver: asyncpg.Connection) -> dict[int, Owner]:
    """Every tenant, the operator's first."""
    rows = await driver.fetch("SELECT id, name, hash_key, settings FROM tenants ORDER BY id")
    return {row["id"]: Owner(row["id"], row["name"], bytes(row["hash_key"]), row["settings"]) for row in rows}


async def pooled(driver: asyncpg.Connection, addresses: Sequence[str]) -> set[tuple[int, str]]:
    """Which tenants have which of these addresses in a sender pool, or had it there."""
    rows = await driver.fetch(
        "SELECT p.tenant_id, m->>'address' AS address FROM sender_pools p, jsonb_array_elements(p.members) m"
        " WHERE m->>'address' = ANY($1::text[])",
        list(addresses),
    )
    return {(row["tenant_id"], row["address"]) for row in rows}


async def registered(driver: asyncpg.Connection, addresses: Sequence[str]) -> dict[str, dict[int, str]]:
    """The tenants to whom these addresses belong by the sender table, each with its brand there ('': none)."""
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for row in await driver.fetch(
        "SELECT tenant_id, address, brand FROM senders WHERE address = ANY($1::text[]) ORDER BY tenant_id",
        list(addresses),
    ):
        found[row["address"]][row["tenant_id"]] = row["brand"]
    return found


async def is_ours(driver: asyncpg.Connection, e164: str) -> bool:
    """Whether that number is a sender of any tenant: an answer to it would be answered by us."""
    return await driver.fetchval(
        "SELECT EXISTS (SELECT FROM senders WHERE address = $1)", e164.removeprefix("+")
    )


async def replies(driver: asyncpg.Connection, tenant_id: int, sender: str, since_s: float) -> int:
    """How many of that person's texts to that tenant were answered since then."""
    return await driver.fetchval(
        "SELECT count(*) FROM inbound WHERE sender = $1 AND id >= $2 AND reply IS NOT NULL AND tenant_id = $3",
        sender,
        as_uuid(ids.first_id_at(since_s)),
        tenant_id,
    )


async def senders_to(
    driver: asyncpg.Connection, e164: str, address: str, tenants: Mapping[int, Owner], now_s: float
) -> list[int]:
    """The tenants that sent to that person from that address, the last one first."""
    hashes = {(one.id, signed(hash_of(one.hash_key, e164))) for one in tenants.values()}
    rows = await driver.fetch(
        "SELECT message_id, tenant_id, recipient FROM lookups WHERE recipient = ANY($1::bigint[])"
        " AND message_id >= $2 ORDER BY message_id DESC LIMIT $3",
        [recipient for _, recipient in hashes],
        as_uuid(ids.first_id_at(now_s - SENT_WITHIN_S)),
        LOOKED_AT,
    )
    sent = [
        (row["tenant_id"], ids.pack_of(row["message_id"].bytes))
        for row in rows
        if (row["tenant_id"], row["recipient"]) in hashes
    ]
    if not sent:
        return []
    senders = await _senders(driver, {pack_id for _, pack_id in sent})
    matching = (tenant_id for tenant_id, pack_id in sent if senders.get(pack_id) == address)
    return list(dict.fromkeys(matching))


async def _senders(driver: asyncpg.Connection, pack_ids: Collection[bytes]) -> dict[bytes, str]:
    """By which sender each pack went."""
    rows = await driver.fetch(
        "SELECT id, payload FROM packs WHERE id = ANY($1::uuid[])", [as_uuid(pack_id) for pack_id in pack_ids]
    )
    return {row["id"].bytes: decode_pack(row["payload"]).sender for row in rows}


async def stopped_lately(
    driver: asyncpg.Connection, tenant_id: int, sender: str, to: str, since_s: float
) -> bool:
    """Whether that person said stop to that address since then, and not to an application there."""
    return await driver.fetchval(
        'SELECT EXISTS (SELECT FROM inbound WHERE tenant_id = $1 AND id >= $2 AND sender = $3 AND "to" = $4'
        " AND action = 'stop' AND port IS NULL)",
        tenant_id,
        as_uuid(ids.first_id_at(since_s)),
        sender,
        to,
    )


async def texted(
    driver: asyncpg.Connection, e164: str, tenants: Mapping[int, Owner], now_s: float
) -> dict[int, str]:
    """Every tenant that sent to that person lately, with the sender that it used last; the last one first."""
    hashes = {(one.id, signed(hash_of(one.hash_key, e164))) for one in tenants.values()}
    rows = await driver.fetch(
        "SELECT DISTINCT ON (tenant_id, recipient) tenant_id, recipient, message_id FROM lookups"
        " WHERE recipient = ANY($1::bigint[]) AND message_id >= $2 ORDER BY tenant_id, recipient, message_id DESC",
        [recipient for _, recipient in hashes],
        as_uuid(ids.first_id_at(now_s - SENT_WITHIN_S)),
    )
    newest = sorted(
        (
            (row["message_id"].bytes, row["tenant_id"])
            for row in rows
            if (row["tenant_id"], row["recipient"]) in hashes
        ),
        reverse=True,
    )
    senders = await _senders(driver, {ids.pack_of(message_id) for message_id, _ in newest})
    return {tenant_id: senders.get(ids.pack_of(message_id), "") for message_id, tenant_id in newest}


_SHOWN = """
SELECT i.id, i.sender, i."to", i.text, i.action, i.keyword, i.doubtful, g.name AS gateway, i.at, i.reply, i.port
FROM inbound i JOIN gateways g ON g.id = i.gateway_id
WHERE i.tenant_id = $1
"""


async def page(
    driver: asyncpg.Connection,
    tenant_id: int,
    *,
    before: bytes | None = None,
    sender: str | None = None,
    to: str | None = None,
    action: str | None = None,
    doubtful: bool | None = None,
    limit: int = 100,
) -> list[Stored]:
    """A tenant's texts, newest first, below the id `before`."""
    rows = await driver.fetch(
        _SHOWN + " AND ($2::uuid IS NULL OR i.id < $2) AND ($3::text IS NULL OR i.sender = $3)"
        ' AND ($4::text IS NULL OR i."to" = $4) AND ($5::text IS NULL OR i.action = $5)'
        " AND ($6::boolean IS NULL OR i.doubtful = $6) ORDER BY i.id DESC LIMIT $7",
        tenant_id,
        as_uuid(before),
        sender,
        to,
        action,
        doubtful,
        limit,
    )
    return [Stored(**row) for row in rows]


async def read(driver: asyncpg.Connection, tenant_id: int, inbound_id: bytes) -> Stored | None:
    """One text of the tenant."""
    row = await driver.fetchrow(_SHOWN + " AND i.id = $2", tenant_id, as_uuid(inbound_id))
    return None if row is None else Stored(**row)
