"""The audit log: who changed what, why, and what it was before and after. Append-only.

Guarantee: an entry is written in the transaction of the change it tells of, so there is no change without
its entry and no entry without its change. What is given to `record` holds no secret: callers mask first.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store import tables


class By(msgspec.Struct, frozen=True):
    """Who makes a change, and why. `tenant_id` is None for what belongs to no tenant (gateways, regions)."""

    actor: str  # "key vk_ab12…", "volley apply", "bootstrap"
    reason: str
    tenant_id: int | None = None


class Entry(msgspec.Struct, frozen=True):
    """One entry as it is read."""

    id: int
    at: datetime
    tenant_id: int | None
    actor: str
    reason: str
    action: str
    subject: str
    before: Any
    after: Any


async def record(
    connection: AsyncConnection,
    by: By,
    action: str,
    subject: str,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """One entry; `before` and `after` are JSON values without secrets."""
    await connection.execute(
        insert(tables.audit_log).values(
            tenant_id=by.tenant_id,
            actor=by.actor,
            reason=by.reason,
            action=action,
            subject=subject,
            before=before,
            after=after,
        )
    )


async def page(
    connection: AsyncConnection,
    *,
    tenant_id: int | None,
    before_id: int | None = None,
    subject: str | None = None,
    limit: int = 100,
) -> list[Entry]:
    """Newest first, below `before_id`. `tenant_id` None gives every tenant's and the service's own."""
    log = tables.audit_log
    query = select(log).order_by(log.c.id.desc()).limit(limit)
    if tenant_id is not None:
        query = query.where(log.c.tenant_id == tenant_id)
    if before_id is not None:
        query = query.where(log.c.id < before_id)
    if subject is not None:
        query = query.where(log.c.subject == subject)
    return [Entry(**row) for row in (await connection.execute(query)).mappings()]
