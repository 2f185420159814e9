"""Batches: their row, their progress, their counts.

Guarantees: counts come from the tallies, their roll-up and the parcels, never from a count over messages,
and are read in one snapshot; every query asks for the tenant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import IntEnum
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from app.domain.message import State
from app.store.intake import as_uuid, at


class BatchState(IntEnum):
    """What may be done with a batch's parcels: only a running one's are handed over."""

    loading = 1
    running = 2
    paused = 3
    cancelled = 4


class NewBatch(msgspec.Struct, frozen=True):
    """A batch to be made. Times are Unix seconds."""

    id: bytes
    tenant_id: int
    name: str | None
    campaign: str | None
    category: int
    sender: str
    body: str
    template: str | None
    priority: int
    state: BatchState
    total: int
    rejected: int
    scheduled_at: float | None
    expires_at: float | None
    settings: dict[str, Any]
    created_at: float
    upload: dict[str, Any] | None = None


class Batch(msgspec.Struct, frozen=True):
    """A batch's row. `upload` is the progress of a streamed one."""

    id: UUID
    name: str | None
    campaign: str | None
    category: int
    sender: str
    body: str
    template: str | None
    priority: int
    state: BatchState
    total: int
    rejected: int
    scheduled_at: datetime | None
    expires_at: datetime | None
    settings: dict[str, Any]
    created_at: datetime
    sealed_at: datetime | None
    upload: dict[str, Any] | None


class Counts(msgspec.Struct, frozen=True):
    """Messages of a batch by state, and the members of its parcels that are due later."""

    by_state: dict[State, int]
    waiting: int  # members of parcels without an attempt under way
    deferred: int  # of these, due later


class RejectionRow(msgspec.Struct, frozen=True):
    """A recipient that was not accepted; `index` from 0."""

    index: int
    pointer: str
    code: str
    detail: str


_COLUMNS = (
    "id, name, campaign, category, sender, body, template, priority, state, total, rejected, "
    "scheduled_at, expires_at, settings, created_at, sealed_at, upload"
)


def _json(value: Any) -> Any:
    return msgspec.json.decode(value) if isinstance(value, str | bytes) else value


def _text(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _batch(row: asyncpg.Record) -> Batch:
    values = dict(row)
    values["state"] = BatchState(values["state"])
    values["settings"] = _json(values["settings"])
    values["upload"] = _json(values["upload"])
    return Batch(**values)


async def insert(driver: asyncpg.Connection, batch: NewBatch) -> None:
    """Make the batch, in the caller's transaction."""
    created_at = at(batch.created_at)
    await driver.execute(
        "INSERT INTO batches (id, tenant_id, name, campaign, category, sender, body, template, priority, "
        "state, total, rejected, scheduled_at, expires_at, settings, created_at, sealed_at, upload) VALUES "
        "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15::text::jsonb, $16, $17, "
        "$18::text::jsonb)",
        as_uuid(batch.id),
        batch.tenant_id,
        batch.name,
        batch.campaign,
        batch.category,
        batch.sender,
        batch.body,
        batch.template,
        batch.priority,
        int(batch.state),
        batch.total,
        batch.rejected,
        at(batch.scheduled_at),
        at(batch.expires_at),
        _text(batch.settings),
        created_at,
        None if batch.state is BatchState.loading else created_at,
        _text(batch.upload),
    )


async def reject(driver: asyncpg.Connection, batch_id: bytes, rows: Iterable[RejectionRow]) -> None:
    """Keep why recipients weren't accepted."""
    batch = as_uuid(batch_id)
    await driver.copy_records_to_table(
        "batch_rejections",
        records=[(batch, row.index, row.pointer, row.code, row.detail) for row in rows],
        columns=["batch_id", "index", "pointer", "code", "detail"],
    )


async def rejections(
    driver: asyncpg.Connection, batch_id: bytes, *, after: int, limit: int
) -> list[RejectionRow]:
    """The kept rejections behind that index. The caller has checked whose batch it is."""
    rows = await driver.fetch(
        "SELECT index, pointer, code, detail FROM batch_rejections "
        "WHERE batch_id = $1 AND index > $2 ORDER BY index LIMIT $3",
        as_uuid(batch_id),
        after,
        limit,
    )
    return [RejectionRow(**row) for row in rows]


async def get(driver: asyncpg.Connection, tenant_id: int, batch_id: bytes) -> Batch | None:
    """One batch of the tenant."""
    row = await driver.fetchrow(
        f"SELECT {_COLUMNS} FROM batches WHERE tenant_id = $1 AND id = $2",  # noqa: S608  a constant
        tenant_id,
        as_uuid(batch_id),
    )
    return _batch(row) if row else None


async def page(
    driver: asyncpg.Connection,
    tenant_id: int,
    *,
    before: bytes | None,
    states: Sequence[BatchState] | None,
    limit: int,
) -> list[Batch]:
    """The tenant's batches, newest first, behind the id `before`."""
    rows = await driver.fetch(
        f"SELECT {_COLUMNS} FROM batches WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2) "  # noqa: S608
        "AND ($3::smallint[] IS NULL OR state = ANY($3)) ORDER BY id DESC LIMIT $4",
        tenant_id,
        as_uuid(before),
        None if states is None else [int(state) for state in states],
        limit,
    )
    return [_batch(row) for row in rows]


# One statement, one snapshot: a roll-up moves rows from tallies to batch_states in one transaction.
_COUNTS = """
SELECT batch_id, 's' AS kind, state, sum(n)::bigint AS n FROM (
    SELECT batch_id, state, n FROM batch_states WHERE batch_id = ANY($1)
    UNION ALL SELECT batch_id, to_state, n FROM tallies WHERE batch_id = ANY($1)
    UNION ALL SELECT batch_id, from_state, -n FROM tallies WHERE batch_id = ANY($1) AND from_state IS NOT NULL
) moves GROUP BY batch_id, state
UNION ALL
SELECT batch_id, 'p', (due_at > $2)::int::smallint, sum(n)::bigint
FROM parcels WHERE batch_id = ANY($1) GROUP BY batch_id, due_at > $2
"""


async def counts(driver: asyncpg.Connection, batch_ids: Sequence[UUID], now_s: float) -> dict[UUID, Counts]:
    """Where the messages of these batches stand."""
    found: dict[UUID, tuple[dict[State, int], dict[int, int]]] = {one: ({}, {}) for one in batch_ids}
    for row in await driver.fetch(_COUNTS, list(batch_ids), at(now_s)):
        _count(found[row["batch_id"]], row)
    return {one: _counts(*both) for one, both in found.items()}


_REGIONS = """
SELECT region, 's' AS kind, state, sum(n)::bigint AS n FROM (
    SELECT region, state, n FROM batch_states WHERE batch_id = $1
    UNION ALL SELECT region, to_state, n FROM tallies WHERE batch_id = $1
    UNION ALL SELECT region, from_state, -n FROM tallies WHERE batch_id = $1 AND from_state IS NOT NULL
) moves GROUP BY region, state
UNION ALL
SELECT split_part(lane, ':', 1), 'p', (due_at > $2)::int::smallint, sum(n)::bigint
FROM parcels WHERE batch_id = $1 GROUP BY 1, due_at > $2
"""


async def by_region(driver: asyncpg.Connection, batch_id: UUID, now_s: float) -> dict[str, Counts]:
    """Where one batch's messages stand, by region."""
    found: dict[str, tuple[dict[State, int], dict[int, int]]] = {}
    for row in await driver.fetch(_REGIONS, batch_id, at(now_s)):
        _count(found.setdefault(row["region"], ({}, {})), row)
    return {region: _counts(*both) for region, both in sorted(found.items())}


def _count(both: tuple[dict[State, int], dict[int, int]], row: asyncpg.Record) -> None:
    states, parcels = both
    if row["kind"] == "p":
        parcels[row["state"]] = row["n"]
    elif row["n"]:
        states[State(row["state"])] = row["n"]


def _counts(states: dict[State, int], parcels: dict[int, int]) -> Counts:
    return Counts(states, parcels.get(0, 0) + parcels.get(1, 0), parcels.get(1, 0))


async def move(
    driver: asyncpg.Connection,
    tenant_id: int,
    batch_id: bytes,
    allowed: Sequence[BatchState],
    to: BatchState,
) -> bool:
    """Change a batch's state from one of `allowed`; False if it stood elsewhere."""
    status = await driver.execute(
        "UPDATE batches SET state = $4 WHERE tenant_id = $1 AND id = $2 AND state = ANY($3::smallint[])",
        tenant_id,
        as_uuid(batch_id),
        [int(state) for state in allowed],
        int(to),
    )
    return status == "UPDATE 1"


async def audit(
    driver: asyncpg.Connection,
    *,
    tenant_id: int,
    actor: str,
    reason: str,
    action: str,
    subject: str,
    before: Any = None,
    after: Any = None,
) -> None:
    """Write into the audit log, in the caller's transaction."""
    await driver.execute(
        "INSERT INTO audit_log (tenant_id, actor, reason, action, subject, before, after) "
        "VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7::text::jsonb)",
        tenant_id,
        actor,
        reason,
        action,
        subject,
        _text(before),
        _text(after),
    )


async def progressed(
    driver: asyncpg.Connection,
    batch_id: bytes,
    *,
    owner: str,
    total: int,
    rejected: int,
    upload: dict[str, Any],
) -> bool:
    """Note a chunk of an upload, in its transaction; False if the batch isn't loading or has another owner."""
    status = await driver.execute(
        "UPDATE batches SET total = total + $3, rejected = rejected + $4, upload = $5::text::jsonb "
        "WHERE id = $1 AND state = 1 AND upload->>'owner' = $2",
        as_uuid(batch_id),
        owner,
        total,
        rejected,
        _text(upload),
    )
    return status == "UPDATE 1"


async def take_over(driver: asyncpg.Connection, batch_id: bytes, upload: dict[str, Any]) -> bool:
    """Make another connection the owner of a loading batch."""
    status = await driver.execute(
        "UPDATE batches SET upload = $2::text::jsonb WHERE id = $1 AND state = 1",
        as_uuid(batch_id),
        _text(upload),
    )
    return status == "UPDATE 1"


async def seal(driver: asyncpg.Connection, batch_id: bytes, *, now_s: float) -> None:
    """An upload is complete: its batch runs. In the transaction of its last `progressed`."""
    await driver.execute(
        "UPDATE batches SET state = 2, sealed_at = $2 WHERE id = $1 AND state = 1",
        as_uuid(batch_id),
        at(now_s),
    )


async def uploaded(driver: asyncpg.Connection, tenant_id: int, key: str, *, since: bytes) -> Batch | None:
    """The newest batch of an upload with that idempotency key, made since that id."""
    row = await driver.fetchrow(
        f"SELECT {_COLUMNS} FROM batches WHERE tenant_id = $1 AND id >= $3 AND upload->>'key' = $2 "  # noqa: S608
        "ORDER BY id DESC LIMIT 1",
        tenant_id,
        key,
        as_uuid(since),
    )
    return _batch(row) if row else None


async def abandon(driver: asyncpg.Connection, after_s: float) -> None:
    """Uploads that nobody went on with: their batches are cancelled, and their parcels closed like any other's."""
    await driver.execute(
        "UPDATE batches SET state = 4 WHERE state = 1 AND created_at < now() - make_interval(secs => $1)",
        after_s,
    )
