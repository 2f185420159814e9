"""Webhook deliveries, as an outbox.

Guarantees: deliveries are written in the transaction of the change they tell of, so none is lost and none
tells of what didn't happen; a transaction of a tenant with neither endpoint nor callback pays for one small
query, however many messages it moves, and one that only records hand-overs pays nothing; a delivery is claimed
for a time, so a crashed worker's come back; the deliveries of one message to one target are claimed one at a
time, in the order in which they were written.

An event on the wire (Standard Webhooks):

    {"type": "message.delivered", "timestamp": "2026-01-31T12:00:00.000Z",
     "data": {"id": "…", "batch_id": null, "client_reference": "a-1", "to": "+12025550101", "sender": "…",
              "category": "otp", "region": "US", "state": "delivered", "reason": null, "segments": 1,
              "gateway": "sandbox", "gateway_message_id": "…", "metadata": null, "at": "…"}}

    {"type": "message.inbound", "timestamp": "…",
     "data": {"id": "…", "from": "+12025550101", "to": "12025550199", "port": null, "text": "STOP",
              "action": "stop", "keyword": "stop", "doubtful": false, "gateway": "sandbox", "at": "…"}}
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import msgspec

from app.domain import ids
from app.domain.message import Category, State
from app.domain.pack import Entry, Pack, decode_pack
from app.store.intake import as_uuid, at
from app.store.webhook_endpoints import callback_secrets, secrets_of, signing

ANY_EVENT = "*"
INBOUND = "message.inbound"
SUBMITTED = (
    "message.submitted"  # an event of nearly every message: who wants it names it, ANY_EVENT is not enough
)
PENDING, DELIVERED, GIVEN_UP = 1, 2, 3
STATES = {PENDING: "pending", DELIVERED: "delivered", GIVEN_UP: "given_up"}
PACKS_KNOWN = 50_000
TARGETS_LOOKED_AT = 2_000


class Event(msgspec.Struct, gc=False):
    """Something to tell. `payload` is the event's `data`; `callback_url` is the message's own."""

    tenant_id: int
    message_id: bytes | None
    event: str
    payload: dict[str, Any]
    at_s: float
    callback_url: str | None = None


class Change(msgspec.Struct, gc=False):
    """A message came into a state. What else the event says is read from its pack, if anybody wants it."""

    tenant_id: int
    message_id: bytes
    state: State
    reason: str | None = None
    gateway_id: int | None = None


class Delivery(msgspec.Struct, frozen=True):
    """One event on its way to one target."""

    id: UUID
    event: str
    message_id: UUID | None
    state: int
    tries: int
    next_at: datetime
    last_status: int | None
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None


class Claimed(msgspec.Struct, gc=False):
    """A delivery to be tried now. `tries` counts this one."""

    id: UUID
    endpoint_id: UUID | None
    tenant_id: int
    target: str
    url: str
    payload: bytes
    secrets: tuple[str, ...]
    tries: int
    created_at: datetime


class Result(msgspec.Struct, gc=False):
    """What came of a try. `next_at` None: it ends here, delivered or given up."""

    id: UUID
    endpoint_id: UUID | None
    delivered: bool
    status: int | None
    error: str | None
    next_at: datetime | None


class _Content(msgspec.Struct, frozen=True):
    """Packs by id with their entries by index, gateways' names by id; by message the carrier's id, and the
    segments as the last gateway that answered had cut them."""

    packs: Mapping[bytes, tuple[Pack, dict[int, Entry]]]
    gateways: Mapping[int, str] = {}
    carrier_ids: Mapping[bytes, str | None] = {}
    segments: Mapping[bytes, int] = {}


# -- writing events


async def enqueue(driver: asyncpg.Connection, events: Sequence[Event]) -> int:
    """A row for each subscribed endpoint and callback URL, in the caller's transaction; gives how many."""
    if not events:
        return 0
    endpoints = await subscribers(driver, {event.tenant_id for event in events})
    rows = []
    base, place = ids.new_id(events[0].at_s), 0
    for event in events:
        body = _encode(event)
        targets: list[tuple[UUID | None, str | None, str]] = [
            (endpoint_id, None, str(endpoint_id))
            for endpoint_id, wanted in endpoints.get(event.tenant_id, ())
            if _asked(wanted, event.event)
        ]
        if event.callback_url is not None:
            targets.append((None, event.callback_url, _origin(event.callback_url)))
        for endpoint_id, url, target in targets:
            if place >= ids.PACK_LIMIT:
                base, place = ids.new_id(event.at_s), 0
            row_id = as_uuid(ids.message_id(base, place))
            place += 1
            message_id, moment = as_uuid(event.message_id), at(event.at_s)
            rows.append(
                (
                    row_id,
                    event.tenant_id,
                    endpoint_id,
                    url,
                    target,
                    message_id,
                    event.event,
                    body,
                    moment,
                    moment,
                )
            )
    if rows:
        await driver.copy_records_to_table("webhook_deliveries", records=rows, columns=_COLUMNS)
    return len(rows)


_COLUMNS = [
    "id",
    "tenant_id",
    "endpoint_id",
    "url",
    "target",
    "message_id",
    "event",
    "payload",
    "next_at",
    "created_at",
]


async def subscribers(
    driver: asyncpg.Connection, tenant_ids: Collection[int]
) -> dict[int, list[tuple[UUID, frozenset[str]]]]:
    """The enabled endpoints of these tenants, with the events that they want."""
    found: dict[int, list[tuple[UUID, frozenset[str]]]] = defaultdict(list)
    for row in await driver.fetch(
        "SELECT id, tenant_id, events FROM webhook_endpoints WHERE enabled AND tenant_id = ANY($1::int[])",
        list(tenant_ids),
    ):
        found[row["tenant_id"]].append((row["id"], frozenset(row["events"])))
    return found


async def followers(driver: asyncpg.Connection) -> frozenset[int]:
    """The tenants of which an endpoint wants SUBMITTED."""
    rows = await driver.fetch(
        "SELECT DISTINCT tenant_id FROM webhook_endpoints WHERE enabled AND $1 = ANY(events)", SUBMITTED
    )
    return frozenset(row["tenant_id"] for row in rows)


class Publisher:
    """Tells of messages that changed. Make one a process: it remembers which packs name a callback URL.

    `followers` are the tenants that want to hear of hand-overs: whoever reads the configuration sets it.
    """

    def __init__(self) -> None:
        self._calls_back: OrderedDict[bytes, bool] = OrderedDict()
        self.followers: frozenset[int] = frozenset()

    async def publish(self, driver: asyncpg.Connection, changes: Sequence[Change], now_s: float) -> int:
        """Enqueue what somebody wants to hear, in the caller's transaction; gives how many deliveries."""
        if not changes:
            return 0
        packs = {ids.pack_of(change.message_id) for change in changes if change.state is not State.submitted}
        endpoints = await subscribers(driver, {change.tenant_id for change in changes})
        await self._learn(driver, packs)
        calling = {pack_id for pack_id in packs if self._calls_back[pack_id]}
        self._forget()
        if not endpoints and not calling:
            return 0
        wanted = [
            change
            for change in changes
            if any(_wants(events, change) for _, events in endpoints.get(change.tenant_id, ()))
            or (change.state is not State.submitted and ids.pack_of(change.message_id) in calling)
        ]
        if not wanted:
            return 0
        content = await _content(driver, wanted)
        return await enqueue(driver, [_event(change, content, now_s) for change in wanted])

    async def _learn(self, driver: asyncpg.Connection, pack_ids: set[bytes]) -> None:
        """Which of these packs name a callback URL: looked at once, in the payload, without decoding it."""
        unknown = [pack_id for pack_id in pack_ids if pack_id not in self._calls_back]
        if not unknown:
            return
        rows = await driver.fetch(
            "SELECT id FROM packs WHERE id = ANY($1::uuid[])"
            " AND position('callback_url'::bytea IN payload) > 0",
            [as_uuid(pack_id) for pack_id in unknown],
        )
        calling = {row["id"].bytes for row in rows}
        self._calls_back.update((pack_id, pack_id in calling) for pack_id in unknown)

    def _forget(self) -> None:
        while len(self._calls_back) > PACKS_KNOWN:
            self._calls_back.popitem(last=False)


def _wants(events: frozenset[str], change: Change) -> bool:
    return _asked(events, f"message.{change.state.name}")


def _asked(wanted: frozenset[str], event: str) -> bool:
    return event in wanted or (ANY_EVENT in wanted and event != SUBMITTED)


async def _packs(
    driver: asyncpg.Connection, pack_ids: Iterable[bytes]
) -> dict[bytes, tuple[Pack, dict[int, Entry]]]:
    rows = await driver.fetch(
        "SELECT id, payload FROM packs WHERE id = ANY($1::uuid[])", [as_uuid(one) for one in pack_ids]
    )
    packs = {}
    for row in rows:
        pack = decode_pack(row["payload"])
        packs[row["id"].bytes] = (pack, {entry.index: entry for entry in pack.entries})
    return packs


async def _content(driver: asyncpg.Connection, changes: Sequence[Change]) -> _Content:
    """What the events of these messages say beside their state."""
    handed = [as_uuid(change.message_id) for change in changes if change.gateway_id is not None]
    packs = await _packs(driver, {ids.pack_of(change.message_id) for change in changes})
    if not handed:
        return _Content(packs)
    answers = await driver.fetch(
        "SELECT message_id, (array_agg(segments ORDER BY attempt DESC))[1] AS segments,"
        " (array_agg(gateway_message_id ORDER BY attempt DESC, segment)"
        " FILTER (WHERE gateway_message_id IS NOT NULL))[1] AS gateway_message_id"
        " FROM outcomes WHERE message_id = ANY($1::uuid[]) GROUP BY message_id",
        handed,
    )
    gateways = await driver.fetch("SELECT id, name FROM gateways")
    return _Content(
        packs,
        {row["id"]: row["name"] for row in gateways},
        {row["message_id"].bytes: row["gateway_message_id"] for row in answers},
        {row["message_id"].bytes: row["segments"] for row in answers},
    )


def _event(change: Change, content: _Content, now_s: float) -> Event:
    pack, entries = content.packs[ids.pack_of(change.message_id)]
    entry = entries[ids.index_of(change.message_id)]
    extra = entry.extra or {}
    data = {
        "id": ids.text(change.message_id),
        "batch_id": ids.text(pack.batch_id) if pack.batch_id else None,
        "client_reference": entry.reference,
        "to": entry.to,
        "sender": pack.sender,
        "category": Category(pack.category).name,
        "region": pack.region,
        "state": change.state.name,
        "reason": change.reason,
        "segments": content.segments.get(change.message_id, entry.segments),
        "gateway": None if change.gateway_id is None else content.gateways.get(change.gateway_id),
        "gateway_message_id": content.carrier_ids.get(change.message_id),
        "metadata": extra.get("metadata"),
        "at": stamp(now_s),
    }
    event = f"message.{change.state.name}"
    url = None if change.state is State.submitted else extra.get("callback_url")
    return Event(change.tenant_id, change.message_id, event, data, now_s, url)


def _encode(event: Event) -> bytes:
    return msgspec.json.encode({"type": event.event, "timestamp": stamp(event.at_s), "data": event.payload})


def stamp(instant_s: float) -> str:
    """RFC 3339, in UTC, with milliseconds."""
    moment = datetime.fromtimestamp(instant_s, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


# -- the worker's side

_TARGETS = """
WITH RECURSIVE t AS (
    (SELECT target FROM webhook_deliveries WHERE state = 1 ORDER BY target LIMIT 1)
    UNION ALL
    SELECT (SELECT d.target FROM webhook_deliveries d WHERE d.state = 1 AND d.target > t.target
            ORDER BY d.target LIMIT 1)
    FROM t WHERE t.target IS NOT NULL
), listed AS (SELECT target FROM t WHERE target IS NOT NULL LIMIT $1)
SELECT s.target, d.next_at FROM listed s CROSS JOIN LATERAL (
    SELECT next_at FROM webhook_deliveries WHERE state = 1 AND target = s.target ORDER BY next_at LIMIT 1
) d LEFT JOIN webhook_endpoints e ON e.id::text = s.target
WHERE e.enabled IS NOT FALSE
"""
_CLAIM = """
WITH wanted AS (SELECT * FROM unnest($1::text[], $2::int[]) AS w (target, n)),
due AS (
    SELECT d.id FROM wanted w CROSS JOIN LATERAL (
        SELECT id FROM webhook_deliveries d
        WHERE d.state = 1 AND d.target = w.target AND d.next_at <= $3
          -- the first of its message; as a subquery, not an anti-join, so that no plan compares all with all
          AND (d.message_id IS NULL OR d.id = (
              SELECT e.id FROM webhook_deliveries e WHERE e.state = 1 AND e.message_id = d.message_id
              AND e.target = d.target ORDER BY e.id LIMIT 1))
        ORDER BY d.next_at, d.id LIMIT w.n FOR UPDATE SKIP LOCKED
    ) d
)
UPDATE webhook_deliveries d SET next_at = $4, tries = LEAST(d.tries + 1, 1000)
FROM due WHERE d.id = due.id
RETURNING d.id, d.tenant_id, d.endpoint_id, d.url, d.target, d.payload, d.tries, d.created_at
"""
_WHERE_TO = """
SELECT id, tenant_id, url, secrets FROM webhook_endpoints WHERE id = ANY($1::uuid[])
"""


async def targets(driver: asyncpg.Connection) -> dict[str, datetime]:
    """Who has something pending, and since or from when it is due. Without disabled endpoints."""
    rows = await driver.fetch(_TARGETS, TARGETS_LOOKED_AT)
    return {row["target"]: row["next_at"] for row in rows}


async def claim(
    driver: asyncpg.Connection, room: Mapping[str, int], now: datetime, lease_s: float
) -> list[Claimed]:
    """Take up to `room[target]` due deliveries of each target; those without a result return after `lease_s`.

    Of one message and target only the first is given."""
    async with driver.transaction():
        rows = await driver.fetch(
            _CLAIM, list(room), list(room.values()), now, now + timedelta(seconds=lease_s)
        )
        endpoints = {
            row["id"]: row
            for row in await driver.fetch(_WHERE_TO, [r["endpoint_id"] for r in rows if r["endpoint_id"]])
        }
        callers = {row["tenant_id"] for row in rows if row["endpoint_id"] is None}
        keys = {
            row["id"]: callback_secrets(row["hash_key"], row["settings"], now.timestamp())
            for row in await driver.fetch(
                "SELECT id, hash_key, settings FROM tenants WHERE id = ANY($1::int[])", list(callers)
            )
        }
    claimed = []
    for row in sorted(rows, key=lambda r: r["id"]):
        endpoint = endpoints.get(row["endpoint_id"])
        if endpoint is not None:
            url, secrets = endpoint["url"], signing(secrets_of(endpoint["secrets"]), now.timestamp())
        else:
            url, secrets = row["url"] or "", keys.get(row["tenant_id"], ())
        claimed.append(
            Claimed(
                row["id"], row["endpoint_id"], row["tenant_id"], row["target"], url, bytes(row["payload"]),
                secrets, row["tries"], row["created_at"],
            )
        )  # fmt: skip
    return claimed


async def finish(driver: asyncpg.Connection, results: Sequence[Result], now: datetime) -> list[UUID]:
    """Write what came of tries; gives the endpoints of which none succeeded."""
    await driver.execute(
        "UPDATE webhook_deliveries d SET state = r.state, next_at = coalesce(r.next_at, d.next_at),"
        " last_status = r.status, last_error = r.error,"
        " delivered_at = CASE WHEN r.state = 2 THEN $6::timestamptz END"
        " FROM unnest($1::uuid[], $2::smallint[], $3::timestamptz[], $4::smallint[], $5::text[])"
        " AS r (id, state, next_at, status, error) WHERE d.id = r.id AND d.state = 1",
        [r.id for r in results],
        [DELIVERED if r.delivered else PENDING if r.next_at else GIVEN_UP for r in results],
        [r.next_at for r in results],
        [r.status for r in results],
        [r.error for r in results],
        now,
    )
    good = {r.endpoint_id for r in results if r.endpoint_id and r.delivered}
    bad = {r.endpoint_id for r in results if r.endpoint_id and not r.delivered} - good
    if good:
        await driver.execute(
            "UPDATE webhook_endpoints SET failing_since = NULL"
            " WHERE id = ANY($1::uuid[]) AND failing_since IS NOT NULL",
            list(good),
        )
    if not bad:
        return []
    await driver.execute(
        "UPDATE webhook_endpoints SET failing_since = $2"
        " WHERE id = ANY($1::uuid[]) AND failing_since IS NULL",
        list(bad),
        now,
    )
    return list(bad)


async def disable_failing(
    driver: asyncpg.Connection, endpoint_ids: Sequence[UUID], since_before: datetime, reason: str
) -> list[UUID]:
    """Disable those that have failed since before then, with an entry in the audit log; gives which."""
    rows = await driver.fetch(
        "WITH off AS (UPDATE webhook_endpoints SET enabled = false, disabled_reason = $3"
        " WHERE id = ANY($1::uuid[]) AND enabled AND failing_since <= $2 RETURNING id, tenant_id),"
        " logged AS (INSERT INTO audit_log (tenant_id, actor, reason, action, subject, before, after)"
        " SELECT tenant_id, 'dispatcher', $3, 'webhook.disable', 'webhook/' || id,"
        " '{\"enabled\": true}'::jsonb, '{\"enabled\": false}'::jsonb FROM off)"
        " SELECT id FROM off",
        list(endpoint_ids),
        since_before,
        reason,
    )
    return [row["id"] for row in rows]


async def purge(driver: asyncpg.Connection, before: datetime, limit: int = 10_000) -> int:
    """Remove deliveries created before then, also what disabled endpoints left; gives how many."""
    status = await driver.execute(
        "DELETE FROM webhook_deliveries WHERE ctid = ANY(ARRAY(SELECT ctid FROM webhook_deliveries"
        " WHERE created_at < $1 LIMIT $2))",
        before,
        limit,
    )
    return int(status.split()[-1])


# -- for people


async def deliveries(
    driver: asyncpg.Connection,
    tenant_id: int,
    endpoint_id: bytes,
    *,
    state: int | None = None,
    before: bytes | None = None,
    limit: int = 100,
) -> list[Delivery]:
    """An endpoint's deliveries, newest first, below the id `before`."""
    rows = await driver.fetch(
        "SELECT id, event, message_id, state, tries, next_at, last_status, last_error,"
        " created_at, delivered_at"
        " FROM webhook_deliveries WHERE endpoint_id = $2 AND tenant_id = $1"
        " AND ($3::smallint IS NULL OR state = $3) AND ($4::uuid IS NULL OR id < $4)"
        " ORDER BY id DESC LIMIT $5",
        tenant_id,
        as_uuid(endpoint_id),
        state,
        as_uuid(before),
        limit,
    )
    return [Delivery(**row) for row in rows]


async def replay(
    driver: asyncpg.Connection,
    tenant_id: int,
    endpoint_id: bytes,
    *,
    now: datetime,
    delivery_id: bytes | None = None,
    since: datetime | None = None,
    limit: int = 100_000,
) -> int:
    """Deliver again one, or all since a time (of an endpoint); gives how many. The `webhook-id` stays."""
    status = await driver.execute(
        "UPDATE webhook_deliveries SET state = 1, tries = 0, next_at = $3, delivered_at = NULL"
        " WHERE id IN (SELECT id FROM webhook_deliveries WHERE tenant_id = $1 AND endpoint_id = $2"
        " AND ($4::uuid IS NULL OR id = $4) AND ($5::timestamptz IS NULL OR created_at >= $5)"
        " AND ($4::uuid IS NOT NULL OR state <> 1) ORDER BY id LIMIT $6)",
        tenant_id,
        as_uuid(endpoint_id),
        now,
        as_uuid(delivery_id),
        since,
        limit,
    )
    return int(status.split()[-1])
