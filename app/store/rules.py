"""Suppressions and consents: the book of record, and the events that made them.

Guarantees: every function is one statement, however many rows; each change leaves an event with its evidence
in the append-only `rule_events`, in the same transaction. A stop by keyword never weakens one made for
another reason, so what a START releases is only what a STOP set.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import asyncpg
import msgspec

from app.store import locks
from app.store.intake import signed

KEYWORD = "keyword"  # the source of a stop by text
CARRIER = "carrier"  # of one that the carrier told by refusing: it had the STOP, as a rule
BY_TEXT = (KEYWORD, CARRIER)  # only these are released by text
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
    """What is known of a person's consent to one purpose and brand ('': all of the tenant's)."""

    recipient: bytes
    purpose: str
    brand: str
    granted: bool
    kind: str  # express, soft, inquiry
    address: str | None
    country: str
    at: datetime
    ends_at: datetime | None


class Event(msgspec.Struct, frozen=True):
    """One line of the ledger: kind is suppressed, released, asked, granted or withdrawn; `at` is when it was said."""

    id: int
    kind: str
    scope: str
    brand: str
    evidence: dict[str, Any]
    actor: str
    at: datetime
    recorded_at: datetime


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
    SELECT $1::int, recipient, 'suppressed', sender, evidence::jsonb, $8::text, $9::timestamptz FROM given g
    WHERE $7::text <> 'import'  -- a file that is sent again says nothing new
       OR NOT EXISTS (SELECT FROM suppressions s WHERE s.tenant_id = $1::int AND s.recipient = g.recipient
                                                   AND s.sender = g.sender)
), put AS (
    INSERT INTO suppressions AS s (tenant_id, recipient, sender, address, reason, source, created_at)
    SELECT DISTINCT ON (recipient, sender) $1::int, recipient, sender, address, reason, $7::text,
           $9::timestamptz
    FROM given
    ON CONFLICT (tenant_id, recipient, sender) DO UPDATE
        SET reason = excluded.reason, source = excluded.source
        WHERE (s.source IN ('keyword', 'carrier') AND excluded.source NOT IN ('keyword', 'carrier'))
           OR excluded.source = 'erasure'
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
      AND (s.source = ANY($4) OR ($4::text[] IS NULL AND s.source <> 'erasure')) -- an erased person's stands for good
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
    only_sources: Sequence[str] | None,
    evidence: dict[str, Any],
    actor: str,
    at: datetime,
) -> int:
    """Take suppressions of (recipient, sender) away, of these sources or of any; gives how many there were."""
    found = await driver.fetch(
        _RELEASE,
        tenant_id,
        [signed(row[0]) for row in rows],
        [row[1] for row in rows],
        None if only_sources is None else list(only_sources),
        _json(evidence),
        actor,
        at,
    )
    return len(found)


_CONSENT = """
WITH given AS (
    SELECT * FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
                         $8::timestamptz[], $9::text[], $10::text[], $11::boolean[])
         AS g (recipient, purpose, brand, address, country, at, ends_at, kind, evidence, granted)
), logged AS (
    INSERT INTO rule_events (tenant_id, recipient, kind, scope, brand, evidence, actor, at, recorded_at)
    SELECT $1::int, recipient, CASE WHEN granted THEN 'granted' ELSE 'withdrawn' END, purpose, brand,
           evidence::jsonb, $12::text, at, $13::timestamptz
    FROM given
), newest AS (
    SELECT DISTINCT ON (recipient, purpose, brand) * FROM given
    ORDER BY recipient, purpose, brand, at DESC, granted
), put AS (
    INSERT INTO consents AS c (tenant_id, recipient, purpose, brand, granted, address, country, at, ends_at, kind)
    SELECT $1::int, recipient, purpose, brand, granted, address, country, at, ends_at, kind FROM newest
    ON CONFLICT (tenant_id, recipient, purpose, brand) DO UPDATE
        SET granted = excluded.granted, at = excluded.at, ends_at = excluded.ends_at, kind = excluded.kind,
            address = coalesce(excluded.address, c.address), country = excluded.country
        WHERE c.at < excluded.at OR (c.at = excluded.at AND NOT excluded.granted)
    RETURNING 1
)
SELECT count(*) FROM put
"""


class Said(msgspec.Struct, frozen=True):
    """A person's word about one purpose and brand ('': all of the tenant's): whose, what, when, until when."""

    recipient: bytes
    purpose: str
    brand: str
    address: str | None
    country: str
    at: datetime
    ends_at: datetime | None
    kind: str
    evidence: dict[str, Any]
    granted: bool


def _told(one: Said) -> dict[str, Any]:
    """What the ledger keeps beside the evidence."""
    kind = {} if one.kind == "express" else {"kind": one.kind}
    ends = {} if one.ends_at is None else {"expires_at": one.ends_at.isoformat()}
    return {**one.evidence, **kind, **ends}


async def consent(
    driver: asyncpg.Connection, tenant_id: int, words: Sequence[Said], *, actor: str, recorded_at: datetime
) -> int:
    """Put words into the ledger and make them hold; gives how many took effect.

    The newest word holds, in whatever order they arrive; of two of the same instant the withdrawal.
    """
    return await driver.fetchval(
        _CONSENT,
        tenant_id,
        [signed(one.recipient) for one in words],
        [one.purpose for one in words],
        [one.brand for one in words],
        [one.address for one in words],
        [one.country for one in words],
        [one.at for one in words],
        [one.ends_at for one in words],
        [one.kind for one in words],
        [_json(_told(one)) for one in words],
        [one.granted for one in words],
        actor,
        recorded_at,
    )


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


# -- reading

# our own names: no value from outside is ever put into a statement
_CONSENT_COLUMNS = "recipient, purpose, brand, granted, kind, address, country, at, ends_at"


def _consent_of(row: asyncpg.Record) -> Consent:
    return Consent(
        unsigned(row["recipient"]),
        *(
            row[name]
            for name in ("purpose", "brand", "granted", "kind", "address", "country", "at", "ends_at")
        ),
    )


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


async def words_of(
    driver: asyncpg.Connection, tenant_id: int, recipients: Sequence[bytes], purpose: str
) -> dict[tuple[bytes, str], Consent]:
    """What holds about that purpose, by recipient and brand."""
    found = await driver.fetch(
        f"SELECT {_CONSENT_COLUMNS} FROM consents WHERE tenant_id = $1 AND recipient = ANY($2::bigint[])"  # noqa: S608
        " AND purpose = $3",
        tenant_id,
        [signed(recipient) for recipient in recipients],
        purpose,
    )
    words = [_consent_of(row) for row in found]
    return {(one.recipient, one.brand): one for one in words}


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


async def all_suppressions(driver: asyncpg.Connection, tenant_id: int) -> AsyncIterator[list[Suppression]]:
    """Every suppression of a tenant, in a stable order, in pages."""
    async with driver.transaction(readonly=True):
        cursor = await driver.cursor(
            "SELECT recipient, sender, address, reason, source, created_at FROM suppressions WHERE tenant_id = $1"
            " ORDER BY recipient, sender",
            tenant_id,
        )
        while rows := await cursor.fetch(COPY_PAGE):
            yield [Suppression(**{**row, "recipient": unsigned(row["recipient"])}) for row in rows]


async def consents_page(
    driver: asyncpg.Connection,
    tenant_id: int,
    *,
    recipient: bytes | None = None,
    after: tuple[bytes, str, str] | None = None,
    limit: int = 100,
) -> list[Consent]:
    """A tenant's consents (of one number) in a stable order; `after` is (recipient, purpose, brand)."""
    found = await driver.fetch(
        f"SELECT {_CONSENT_COLUMNS} FROM consents WHERE tenant_id = $1"  # noqa: S608
        " AND ($2::bigint IS NULL OR recipient = $2)"
        " AND ($3::bigint IS NULL OR (recipient, purpose, brand) > ($3, $4, $5))"
        " ORDER BY recipient, purpose, brand LIMIT $6",
        tenant_id,
        None if recipient is None else signed(recipient),
        None if after is None else signed(after[0]),
        "" if after is None else after[1],
        "" if after is None else after[2],
        limit,
    )
    return [_consent_of(row) for row in found]


async def ending_page(
    driver: asyncpg.Connection,
    tenant_id: int,
    ages: Sequence[tuple[str, str, int]],
    before: datetime,
    *,
    since: datetime,
    after: tuple[bytes, str, str] | None = None,
    limit: int = 100,
) -> list[tuple[Consent, datetime]]:
    """Consents to marketing that end between `since` and `before`, each with its end, in a stable order.

    `ages` are (country, kind, seconds) of the laws that let consents lapse.
    """
    found = await driver.fetch(
        f"""
        SELECT * FROM (
            SELECT {_CONSENT_COLUMNS}, least(c.ends_at, c.at + a.age_s * interval '1 second') AS ends
            FROM consents c LEFT JOIN unnest($2::text[], $3::text[], $4::bigint[]) AS a (country, kind, age_s)
                 USING (country, kind)
            WHERE c.tenant_id = $1 AND c.granted AND c.purpose = 'marketing'
        ) c WHERE ends >= $5 AND ends < $6
          AND ($7::bigint IS NULL OR (recipient, purpose, brand) > ($7, $8, $9))
        ORDER BY recipient, purpose, brand LIMIT $10
        """,  # noqa: S608 - our own column names
        tenant_id,
        [country for country, _, _ in ages],
        [kind for _, kind, _ in ages],
        [age_s for _, _, age_s in ages],
        since,
        before,
        None if after is None else signed(after[0]),
        "" if after is None else after[1],
        "" if after is None else after[2],
        limit,
    )
    return [(_consent_of(row), row["ends"]) for row in found]


async def words_until(
    driver: asyncpg.Connection, tenant_id: int, recipient: bytes, purpose: str, brand: str, until: datetime
) -> list[Event]:
    """The newest word about that purpose for the brand and for all of the tenant's, said up to then; at most two."""
    found = await driver.fetch(
        "SELECT DISTINCT ON (brand) id, kind, scope, brand, evidence, actor, at, recorded_at FROM rule_events"
        " WHERE tenant_id = $1 AND recipient = $2 AND kind IN ('granted', 'withdrawn') AND scope = $3"
        " AND brand = ANY($4) AND at <= $5 ORDER BY brand, at DESC, kind DESC, id DESC",
        tenant_id,
        signed(recipient),
        purpose,
        list({"", brand}),
        until,
    )
    return [Event(**row) for row in found]


class Line(msgspec.Struct, frozen=True):
    """A word of the ledger with the number that it is about; None: known as a hash alone."""

    event: Event
    address: str | None


async def ledger(driver: asyncpg.Connection, tenant_id: int) -> AsyncIterator[list[Line]]:
    """Every consent and withdrawal of a tenant, oldest first, in pages."""
    async with driver.transaction(readonly=True):
        cursor = await driver.cursor(
            "SELECT e.id, e.kind, e.scope, e.brand, e.evidence, e.actor, e.at, e.recorded_at, c.address"
            " FROM rule_events e LEFT JOIN consents c ON c.tenant_id = e.tenant_id AND c.recipient = e.recipient"
            " AND c.purpose = e.scope AND c.brand = e.brand"
            " WHERE e.tenant_id = $1 AND e.kind IN ('granted', 'withdrawn') ORDER BY e.id",
            tenant_id,
        )
        while rows := await cursor.fetch(COPY_PAGE):
            yield [Line(Event(*list(row)[:8]), row["address"]) for row in rows]


async def stops_until(
    driver: asyncpg.Connection, tenant_id: int, recipient: bytes, until: datetime
) -> list[Event]:
    """The suppressions of that number that stood at that moment, by the events that made them."""
    found = await driver.fetch(
        "SELECT * FROM (SELECT DISTINCT ON (scope) id, kind, scope, brand, evidence, actor, at, recorded_at"
        " FROM rule_events WHERE tenant_id = $1 AND recipient = $2 AND kind IN ('suppressed', 'released')"
        " AND at <= $3 ORDER BY scope, at DESC, id DESC) e WHERE kind = 'suppressed'",
        tenant_id,
        signed(recipient),
        until,
    )
    return [Event(**row) for row in found]


async def events_of(
    driver: asyncpg.Connection, tenant_id: int, recipient: bytes, limit: int = 100
) -> list[Event]:
    """What happened to one number, newest first."""
    found = await driver.fetch(
        "SELECT id, kind, scope, brand, evidence, actor, at, recorded_at FROM rule_events"
        " WHERE tenant_id = $1 AND recipient = $2 ORDER BY id DESC LIMIT $3",
        tenant_id,
        signed(recipient),
        limit,
    )
    return [Event(**row) for row in found]


def unsigned(recipient: int) -> bytes:
    """The inverse of `app.store.intake.signed`."""
    return recipient.to_bytes(8, "big", signed=True)


# -- for the copy in Redis

COPY_PAGE = 50_000
LEAST = (-(2**31), -(2**63), "")  # before the first of (tenant, recipient, sender or brand)

# A page begins where the last one ended by a plain comparison of rows: with `OR` beside it, or a parameter that may be
# NULL, PostgreSQL walks the index from its start for every page.


_SUPPRESSIONS_TO_COPY = """
WITH page AS MATERIALIZED (
    SELECT tenant_id, recipient, sender FROM suppressions
    WHERE (tenant_id, recipient, sender) > ($1::int, $2::bigint, $3::text)
    ORDER BY tenant_id, recipient, sender LIMIT $4
), packed AS (
    SELECT tenant_id, sender, string_agg(int8send(recipient), ''::bytea) AS people FROM page GROUP BY 1, 2
)
SELECT packed.*, ends.* FROM packed, (
    SELECT tenant_id, recipient, sender FROM page ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT 1
) ends
"""
# A word as `app.queue.rules.word` packs it.
_CONSENTS_TO_COPY = """
WITH page AS MATERIALIZED (
    SELECT tenant_id, recipient, brand, granted, kind, at, ends_at FROM consents
    WHERE purpose = $4 AND (tenant_id, recipient, purpose, brand) > ($1::int, $2::bigint, $4, $3::text)
    ORDER BY tenant_id, recipient, purpose, brand LIMIT $5
), packed AS (
    SELECT tenant_id, brand, string_agg(int8send(recipient)
        || CASE WHEN NOT granted THEN 'w'::bytea WHEN kind = 'express' THEN 'e' WHEN kind = 'soft' THEN 's'
           WHEN kind = 'inquiry' THEN 'i' END
        || substring(int8send(floor(extract(epoch FROM at))::bigint) FROM 5)
        || substring(int8send(CASE WHEN ends_at IS NULL THEN 0
           ELSE greatest(1, floor(extract(epoch FROM ends_at))::bigint) END) FROM 5), ''::bytea) AS said
    FROM page GROUP BY 1, 2
)
SELECT packed.*, ends.* FROM packed, (
    SELECT tenant_id, recipient, brand FROM page ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT 1
) ends
"""
Packed = tuple[int, str, bytes]
"""(tenant, sender or brand, what of its people goes into the copy, one after the other)"""


async def suppressions_to_copy(
    driver: asyncpg.Connection, after: tuple[int, int, str]
) -> tuple[list[Packed], tuple[int, int, str] | None]:
    """The next suppressions of all tenants, 8 bytes each; and where the page ends (None: that was all)."""
    return _packed(await driver.fetch(_SUPPRESSIONS_TO_COPY, *after, COPY_PAGE))


async def consents_to_copy(
    driver: asyncpg.Connection, after: tuple[int, int, str]
) -> tuple[list[Packed], tuple[int, int, str] | None]:
    """The next words about marketing of all tenants, 8 bytes of person and 9 of word each; and where the page ends."""
    return _packed(await driver.fetch(_CONSENTS_TO_COPY, *after, MARKETING, COPY_PAGE))


def _packed(found: Sequence[asyncpg.Record]) -> tuple[list[Packed], tuple[int, int, str] | None]:
    page = [(row[0], row[1], row[2]) for row in found]
    return page, (found[0][3], found[0][4], found[0][5]) if found else None


class CountedText(NamedTuple):
    """A text that counts against caps: its time (6 bytes, ms) with the last 8 bytes of its id, and what else a history
    has of it (10 bytes)."""

    tenant_id: int
    recipient: bytes
    organisation_id: int | None
    organisation_recipient: bytes | None
    stamp: bytes
    rest: bytes


_COUNTED = """
SELECT tenant_id, int8send(recipient), organisation_id, int8send(organisation_recipient),
    substring(int8send(floor(extract(epoch FROM at) * 1000)::bigint) FROM 3)
        || substring(uuid_send(message_id) FROM 9),
    CASE WHEN contact THEN '\\x01'::bytea ELSE '\\x00'::bytea END
        || coalesce(campaign, '\\x00000000'::bytea) || coalesce(content, '\\x0000000000'::bytea)
FROM cap_events
"""


async def contacts_to_copy(driver: asyncpg.Connection, since: datetime) -> AsyncIterator[list[CountedText]]:
    """Every text that counts, oldest first, in pages."""
    async with driver.transaction(readonly=True):
        cursor = await driver.cursor(_COUNTED + "WHERE at > $1 ORDER BY at", since)
        while rows := await cursor.fetch(COPY_PAGE):
            yield [CountedText(*row) for row in rows]


Owner = tuple[Literal["tenant_id", "organisation_id"], int]


async def older_contacts(
    driver: asyncpg.Connection, of: Owner, since: datetime, to: datetime
) -> AsyncIterator[list[CountedText]]:
    """The texts of one tenant or organisation in (since, to], newest first, in pages."""
    column, number = of
    of_owner = f"WHERE {column} = $1 AND at > $2 AND at <= $3 ORDER BY at DESC"
    async with driver.transaction(readonly=True):
        cursor = await driver.cursor(_COUNTED + of_owner, number, since, to)
        while rows := await cursor.fetch(COPY_PAGE):
            yield [CountedText(*row) for row in rows]


async def tenant_ids(driver: asyncpg.Connection) -> list[int]:
    """Every tenant."""
    return [row["id"] for row in await driver.fetch("SELECT id FROM tenants ORDER BY id")]
