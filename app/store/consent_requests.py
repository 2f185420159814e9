"""Double opt-in: who was asked to confirm a consent, by which text, and until when the answer counts.

Guarantee: an answer counts only to a question that was handed to a carrier and has not come back undelivered.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from app.store import locks
from app.store.intake import as_uuid, signed


class Request(msgspec.Struct, frozen=True):
    """A question that is open. `handed_at`: when a carrier took it, or may have; None: nobody can have read it."""

    id: UUID
    purpose: str
    brand: str
    evidence: dict[str, Any]
    asked_at: datetime
    until: datetime
    handed_at: datetime | None


async def insert(
    driver: asyncpg.Connection,
    request_id: bytes,
    tenant_id: int,
    recipient: bytes,
    *,
    purpose: str,
    brand: str,
    sender: str,
    evidence: str,
    actor: str,
    message_id: bytes,
    asked_at: datetime,
    until: datetime,
) -> None:
    """A person was asked; `evidence` is JSON. The question is in the ledger, too."""
    await driver.execute(
        "WITH logged AS (INSERT INTO rule_events (tenant_id, recipient, kind, scope, brand, evidence, actor, at,"
        " recorded_at) VALUES ($2, $3, 'asked', $4, $5, $7::jsonb || jsonb_build_object('request_id', $1::uuid,"
        " 'sender', $6::text, 'message_id', $9::uuid, 'until', $11::timestamptz), $8, $10, $10))"
        " INSERT INTO consent_requests (id, tenant_id, recipient, purpose, brand, sender, evidence, actor, message_id,"
        " asked_at, until) VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9, $10, $11)",
        as_uuid(request_id),
        tenant_id,
        signed(recipient),
        purpose,
        brand,
        sender,
        evidence,
        actor,
        as_uuid(message_id),
        asked_at,
        until,
    )


_OPEN = """
SELECT r.id, r.purpose, r.brand, r.evidence, r.asked_at, r.until,
    (SELECT min(o.at) FROM outcomes o WHERE o.message_id = r.message_id AND o.kind IN (1, 4)
     AND NOT EXISTS (SELECT FROM finals f WHERE f.message_id = r.message_id AND f.state NOT IN (10, 17))) AS handed_at
FROM consent_requests r
WHERE r.tenant_id = $1 AND r.recipient = $2 AND ($3::text IS NULL OR r.sender = $3) AND r.answered_at IS NULL
  AND r.until > $4 AND r.asked_at <= $4
ORDER BY r.asked_at
"""


async def open_of(
    driver: asyncpg.Connection, tenant_id: int, recipient: bytes, sender: str | None, now: datetime
) -> list[Request]:
    """The questions by that sender (None: by any) to which no answer has come, oldest first."""
    return [Request(**row) for row in await driver.fetch(_OPEN, tenant_id, signed(recipient), sender, now)]


async def asked_since(
    driver: asyncpg.Connection, tenant_id: int, recipient: bytes, purpose: str, brand: str, since: datetime
) -> bool:
    """Whether that person was asked for this consent since then, whatever they answered. One at a time looks and asks:
    holds the person until the caller's transaction ends."""
    await driver.execute("SELECT pg_advisory_xact_lock($1, $2)", locks.ASKING_CLASS, signed(recipient) >> 32)
    return await driver.fetchval(
        "SELECT EXISTS (SELECT FROM consent_requests WHERE tenant_id = $1 AND recipient = $2 AND purpose = $3"
        " AND brand = $4 AND asked_at > $5)",
        tenant_id,
        signed(recipient),
        purpose,
        brand,
        since,
    )


async def answered(driver: asyncpg.Connection, ids: Sequence[UUID], now: datetime) -> None:
    """They are open no more."""
    await driver.execute("UPDATE consent_requests SET answered_at = $2 WHERE id = ANY($1)", list(ids), now)


async def drop(driver: asyncpg.Connection, tenant_id: int, recipient: bytes, now: datetime) -> None:
    """A person who said stop is asked no more."""
    await driver.execute(
        "UPDATE consent_requests SET answered_at = $3 WHERE tenant_id = $1 AND recipient = $2"
        " AND answered_at IS NULL",
        tenant_id,
        signed(recipient),
        now,
    )
