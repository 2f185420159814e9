"""Suppressions and consents: the book of record, and the events that made them.

Guarantees: every function is one statement, however many rows; each change leaves an event with its evidence
in the append-only `rule_events`, in the same transaction. A stop by keyword never weakens one made for
another reason, so what a START releases is only what a STOP set.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from app.store import locks
from app.store.intake import signed

KEYWORD = "keyword"  # the source of a stop by text; only these are released by text
MARKETING = "marketing"  # the purpose of which Redis holds a copy

# Rule changes share a lock and a page of the copy takes it alone: a page is read and written to Redis with no
# change between. Changes of one tenant come one after the other, so Redis sees them in PostgreSQL's order.


class Suppression(msgspec.Struct, frozen=True):
    """An address that is never sent to: by one sender, or ('') by none of the tenant."""

    recipient: bytes
    sender: str
    address: str | None  # E.164; None: kept as a hash alone
    reason: str
    source: str
    created_at: datetime


class Consent(msgspec.Struct, frozen=True):
    """What is known of a person's consent to one purpose."""

    recipient: bytes
    purpose: str
    granted: bool
    address: str | None
    at: datetime


class Event(msgspec.Struct, frozen=True):
    """One line of the ledger: kind is suppressed, released, granted or withdrawn."""

    id: int
    kind: str
    scope: str
    evidence: dict[str, Any]
    actor: str
    at: datetime


# -- order


async def lock_for_change(driver: asyncpg.Connection, tenant_ids: Sequence[int]) -> None:
    """Hold off other changes of these tenants, and pages of the copy, until this transaction ends."""
    await driver.execute("SELECT pg_advisory_xact_lock_shared($1)", locks.RULES)
    for tenant_id in sorted(set(tenant_ids)):
        await driver.execute("SELECT pg_advisory_xact_lock($1::int, $2::int)", locks.TENANT_CLASS, tenant_id)


async def lock_for_copy(driver: asyncpg.Connection) -> None:
    """Hold off every change until this transaction ends."""
    await driver.execute("SELECT pg_advisory_xact_lock($1)", locks.RULES)


# -- changes

_SUPPRESS = """
WITH given AS (
    SELECT recipient, sender, address, reason, evidence
    FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[])
         AS g (recipient, sender, address, reason, evidence)
), logged AS (
    INSERT INTO rule_events (tenant_id, recipient, kind, scope, evidence, actor, at)
    SELECT $1::int, recipient, 'suppressed', sender, evidence::jsonb, $8::text, $9::timestamptz FROM given
), put AS (
    INSERT INTO suppressions AS s (tenant_id, recipient, sender, address, reason, source, created_at)
    SELECT DISTINCT ON (recipient, sender) $1::int, recipient, sender, address, reason, $7::text,
           $9::timestamptz
    FROM given
    ON CONFLICT (tenant_id, recipient, sender) DO UPDATE
        SET reason = excluded.reason, source = excluded.source
        WHERE s.source = 'keyword' AND excluded.source <> 'keyword'
    RETURNING s.created_at = $9 AS fresh
)
SELECT count(*) FILTER (WHERE fresh) FROM put
"""


async def suppress(
    driver: asyncpg.Connection,
    tenant_id: int,
    rows: Sequence[tuple[bytes, str, str | None, str, dict[str, Any]]],
    *,
    source: str,
    actor: str,
    at: datetime,
) -> int:
    """Rows of (recipient, sender, address, reason, evidence); gives how many were not there yet."""
    return await driver.fetchval(
        _SUPPRESS,
        tenant_id,
        [signed(row[0]) for row in rows],
        [row[1] for row in rows],
        [row[2] for row in rows],
        [row[3] for row in rows],
        [_json({"reason": row[3], "source": source, **row[4]}) for row in rows],
        source,
        actor,
        at,
    )


_RELEASE = """
WITH given AS (
    SELECT DISTINCT recipient, sender FROM unnest($2::bigint[], $3::text[]) AS g (recipient, sender)
), gone AS (
    DELETE FROM suppressions s USING given g
    WHERE s.tenant_id = $1::int AND s.recipient = g.recipient AND s.sender = g.sender
      AND ($4::text IS NULL OR s.source = $4)
    RETURNING s.recipient, s.sender, s.source, s.reason
)
INSERT INTO rule_events (tenant_id, recipient, kind, scope, evidence, actor, at)
SELECT $1::int, recipient, 'released', sender,
       jsonb_build_object('was', reason, 'source', source) || $5::text::jsonb, $6::text, $7::timestamptz
FROM gone RETURNING 1
"""


async def release(
    driver: asyncpg.Connection,
    tenant_id: int,
    rows: Sequence[tuple[bytes, str]],
    *,
    only_source: str | None,
    evidence: dict[str, Any],
    actor: str,
    at: datetime,
) -> int:
    """Take suppressions of (recipient, sender) away, of one source or of any; gives how many there were."""
    found = await driver.fetch(
        _RELEASE,
        tenant_id,
        [signed(row[0]) for row in rows],
        [row[1] for row in rows],
        only_source,
        _json(evidence),
        actor,
        at,
    )
    return len(found)


_CONSENT = """
WITH given AS (
    SELECT DISTINCT ON (recipient, purpose) recipient, purpose, address, evidence, at
    FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
         AS g (recipient, purpose, address, evidence, at)
    ORDER BY recipient, purpose, at DESC
), logged AS (
    INSERT INTO rule_events (tenant_id, recipient, kind, scope, evidence, actor, at)
    SELECT $1::int, recipient, CASE WHEN $7::boolean THEN 'granted' ELSE 'withdrawn' END, purpose,
           evidence::jsonb || jsonb_build_object('recorded_at', $9::timestamptz), $8::text, at
    FROM given
), put AS (
    INSERT INTO consents AS c (tenant_id, recipient, purpose, granted, address, at)
    SELECT $1::int, recipient, purpose, $7::boolean, address, at FROM given
    ON CONFLICT (tenant_id, recipient, purpose) DO UPDATE
        SET granted = excluded.granted, at = excluded.at, address = coalesce(excluded.address, c.address)
        WHERE c.at < excluded.at OR (c.at = excluded.at AND NOT excluded.granted)
    RETURNING 1
)
SELECT count(*) FROM put
"""


async def consent(
    driver: asyncpg.Connection,
    tenant_id: int,
    rows: Sequence[tuple[bytes, str, str | None, dict[str, Any], datetime]],
    *,
    granted: bool,
    actor: str,
    recorded_at: datetime,
) -> int:
    """Rows of (recipient, purpose, address, evidence, when it was said); gives how many took effect.

    The newest word holds, in whatever order they arrive; of two of the same instant the withdrawal.
    """
    return await driver.fetchval(
        _CONSENT,
        tenant_id,
        [signed(row[0]) for row in rows],
        [row[1] for row in rows],
        [row[2] for row in rows],
        [_json(row[3]) for row in rows],
        [row[4] for row in rows],
        granted,
        actor,
        recorded_at,
    )


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


# -- reading


async def suppressed(
    driver: asyncpg.Connection, tenant_id: int, rows: Sequence[tuple[bytes, str]]
) -> set[tuple[bytes, str]]:
    """Which of these (recipient, sender) are suppressed now."""
    found = await driver.fetch(
        "SELECT s.recipient, s.sender FROM suppressions s"
        " JOIN unnest($2::bigint[], $3::text[]) AS g (recipient, sender) USING (recipient, sender)"
        " WHERE s.tenant_id = $1",
        tenant_id,
        [signed(row[0]) for row in rows],
        [row[1] for row in rows],
    )
    return {(unsigned(row["recipient"]), row["sender"]) for row in found}


async def consented(
    driver: asyncpg.Connection, tenant_id: int, recipients: Sequence[bytes], purpose: str
) -> set[bytes]:
    """Which of these recipients have a consent to that purpose that holds now."""
    found = await driver.fetch(
        "SELECT recipient FROM consents WHERE tenant_id = $1 AND recipient = ANY($2::bigint[])"
        " AND purpose = $3 AND granted",
        tenant_id,
        [signed(recipient) for recipient in recipients],
        purpose,
    )
    return {unsigned(row["recipient"]) for row in found}


async def suppressions_page(
    driver: asyncpg.Connection,
    tenant_id: int,
    *,
    recipient: bytes | None = None,
    after: tuple[bytes, str] | None = None,
    limit: int = 100,
) -> list[Suppression]:
    """A tenant's suppressions (of one number) in a stable order."""
    found = await driver.fetch(
        "SELECT recipient, sender, address, reason, source, created_at FROM suppressions WHERE tenant_id = $1"
        " AND ($2::bigint IS NULL OR recipient = $2)"
        " AND ($3::bigint IS NULL OR (recipient, sender) > ($3, $4)) ORDER BY recipient, sender LIMIT $5",
        tenant_id,
        None if recipient is None else signed(recipient),
        None if after is None else signed(after[0]),
        "" if after is None else after[1],
        limit,
    )
    return [Suppression(**{**row, "recipient": unsigned(row["recipient"])}) for row in found]


async def consents_page(
    driver: asyncpg.Connection,
    tenant_id: int,
    *,
    recipient: bytes | None = None,
    after: tuple[bytes, str] | None = None,
    limit: int = 100,
) -> list[Consent]:
    """A tenant's consents (of one number) in a stable order."""
    found = await driver.fetch(
        "SELECT recipient, purpose, granted, address, at FROM consents WHERE tenant_id = $1"
        " AND ($2::bigint IS NULL OR recipient = $2)"
        " AND ($3::bigint IS NULL OR (recipient, purpose) > ($3, $4)) ORDER BY recipient, purpose LIMIT $5",
        tenant_id,
        None if recipient is None else signed(recipient),
        None if after is None else signed(after[0]),
        "" if after is None else after[1],
        limit,
    )
    return [Consent(**{**row, "recipient": unsigned(row["recipient"])}) for row in found]


async def events_of(
    driver: asyncpg.Connection, tenant_id: int, recipient: bytes, limit: int = 100
) -> list[Event]:
    """What happened to one number, newest first."""
    found = await driver.fetch(
        "SELECT id, kind, scope, evidence, actor, at FROM rule_events WHERE tenant_id = $1 AND recipient = $2"
        " ORDER BY id DESC LIMIT $3",
        tenant_id,
        signed(recipient),
        limit,
    )
    return [Event(**row) for row in found]


def unsigned(recipient: int) -> bytes:
    """The inverse of `app.store.intake.signed`."""
    return recipient.to_bytes(8, "big", signed=True)


# -- for the copy in Redis

COPY_PAGE = 5_000


async def suppressions_to_copy(
    driver: asyncpg.Connection, after: tuple[int, bytes, str] | None
) -> list[tuple[int, bytes, str]]:
    """The next (tenant, recipient, sender) of all tenants."""
    found = await driver.fetch(
        "SELECT tenant_id, recipient, sender FROM suppressions"
        " WHERE $1::int IS NULL OR (tenant_id, recipient, sender) > ($1, $2::bigint, $3::text)"
        " ORDER BY tenant_id, recipient, sender LIMIT $4",
        None if after is None else after[0],
        None if after is None else signed(after[1]),
        None if after is None else after[2],
        COPY_PAGE,
    )
    return [(row["tenant_id"], unsigned(row["recipient"]), row["sender"]) for row in found]


async def consents_to_copy(
    driver: asyncpg.Connection, after: tuple[int, bytes] | None
) -> list[tuple[int, bytes]]:
    """The next (tenant, recipient) of all tenants with a marketing consent that holds."""
    found = await driver.fetch(
        "SELECT tenant_id, recipient FROM consents"
        " WHERE purpose = $3 AND granted AND ($1::int IS NULL OR (tenant_id, recipient) > ($1, $2::bigint))"
        " ORDER BY tenant_id, recipient LIMIT $4",
        None if after is None else after[0],
        None if after is None else signed(after[1]),
        MARKETING,
        COPY_PAGE,
    )
    return [(row["tenant_id"], unsigned(row["recipient"])) for row in found]


async def caps_to_copy(
    driver: asyncpg.Connection, since: datetime
) -> AsyncIterator[list[tuple[int, bytes, bytes, int]]]:
    """(tenant, recipient, message id, at in ms) of every text that counts against a cap, in pages."""
    async with driver.transaction(readonly=True):
        cursor = await driver.cursor(
            "SELECT tenant_id, recipient, message_id, at FROM cap_events WHERE at > $1", since
        )
        while rows := await cursor.fetch(COPY_PAGE):
            yield [
                (
                    r["tenant_id"],
                    unsigned(r["recipient"]),
                    r["message_id"].bytes,
                    int(r["at"].timestamp() * 1000),
                )
                for r in rows
            ]


async def tenant_ids(driver: asyncpg.Connection) -> list[int]:
    """Every tenant."""
    return [row["id"] for row in await driver.fetch("SELECT id FROM tenants ORDER BY id")]
