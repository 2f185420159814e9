"""Double opt-in: who was asked to confirm a consent, by which text, and until when the answer counts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from app.store.intake import as_uuid, signed


class Request(msgspec.Struct, frozen=True):
    """A question that is open."""

    id: UUID
    purpose: str
    brand: str
    evidence: dict[str, Any]
    asked_at: datetime
    until: datetime


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


async def open_of(
    driver: asyncpg.Connection, tenant_id: int, recipient: bytes, sender: str | None, now: datetime
) -> list[Request]:
    """The questions that an answer to that sender (None: to any) would confirm, oldest first."""
    rows = await driver.fetch(
        "SELECT id, purpose, brand, evidence, asked_at, until FROM consent_requests WHERE tenant_id = $1"
        " AND recipient = $2 AND ($3::text IS NULL OR sender = $3) AND answered_at IS NULL AND until > $4"
        " AND asked_at <= $4 ORDER BY asked_at",
        tenant_id,
        signed(recipient),
        sender,
        now,
    )
    return [Request(**row) for row in rows]


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
