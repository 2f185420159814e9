"""Webhook endpoints: where a tenant wants its events, which ones, and the secrets that sign them.

Guarantees: a secret is given out once, when it is made; after a rotation the one before signs along for
OVERLAP_S; an endpoint belongs to one tenant, and no function here reaches another's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from app.domain import ids
from app.store.intake import as_uuid

MAX_ENDPOINTS = 20  # of one tenant: each event is a row for each of them
MAX_SECRETS = 3  # that sign at once
OVERLAP_S = 86_400
SECRET_PREFIX = "whsec_"  # noqa: S105 - what every secret begins with
SECRET_BYTES = 32


class Secret(msgspec.Struct, frozen=True, omit_defaults=True):
    """`expires_at` (Unix seconds): until then it signs beside the newer one."""

    secret: str
    expires_at: float | None = None

    def __repr__(self) -> str:
        return "Secret()"


class Endpoint(msgspec.Struct, frozen=True):
    """Where a tenant wants its events."""

    id: UUID
    tenant_id: int
    url: str
    events: tuple[str, ...]
    secrets: tuple[Secret, ...]
    enabled: bool
    disabled_reason: str | None
    failing_since: datetime | None
    created_at: datetime


# -- secrets


def new_secret() -> str:
    """A fresh secret, as Standard Webhooks writes it."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(SECRET_BYTES)).decode()


def signing(secrets: Iterable[Secret], now_s: float) -> tuple[str, ...]:
    """Those that sign now, newest first."""
    return tuple(one.secret for one in secrets if one.expires_at is None or one.expires_at > now_s)


def callback_secrets(hash_key: bytes, settings: Mapping[str, Any], now_s: float) -> tuple[str, ...]:
    """What signs the calls to messages' own callback URLs: derived from the tenant's key and a generation.

    `settings["callback_secret"]` is {"generation", "previous_until"}; without it, the generation is 1.
    """
    kept = settings.get("callback_secret") or {}
    generation = int(kept.get("generation", 1))
    generations = [generation]
    if generation > 1 and float(kept.get("previous_until", 0)) > now_s:
        generations.append(generation - 1)
    return tuple(_derived(hash_key, one) for one in generations)


def _derived(hash_key: bytes, generation: int) -> str:
    made = hmac.digest(hash_key, b"volley callback secret %d" % generation, hashlib.sha256)
    return SECRET_PREFIX + base64.b64encode(made).decode()


def secrets_of(value: Any) -> tuple[Secret, ...]:
    return msgspec.convert(value, tuple[Secret, ...])


# -- endpoints


def _endpoint(row: asyncpg.Record) -> Endpoint:
    return Endpoint(**{**row, "events": tuple(row["events"]), "secrets": secrets_of(row["secrets"])})


async def create(
    driver: asyncpg.Connection, tenant_id: int, url: str, events: Sequence[str], now_s: float
) -> tuple[Endpoint, str] | None:
    """A new endpoint and its secret; None when the tenant has MAX_ENDPOINTS."""
    secret = new_secret()
    async with driver.transaction():
        await driver.execute("SELECT FROM tenants WHERE id = $1 FOR NO KEY UPDATE", tenant_id)
        n = await driver.fetchval("SELECT count(*) FROM webhook_endpoints WHERE tenant_id = $1", tenant_id)
        if n >= MAX_ENDPOINTS:
            return None
        row = await driver.fetchrow(
            "INSERT INTO webhook_endpoints (id, tenant_id, url, events, secrets)"
            " VALUES ($1, $2, $3, $4, $5::text::jsonb) RETURNING *",
            as_uuid(ids.new_id(now_s)),
            tenant_id,
            url,
            list(events),
            _json([Secret(secret)]),
        )
    return _endpoint(row), secret


_READ = "SELECT * FROM webhook_endpoints WHERE tenant_id = $1 AND id = $2"
_READ_LOCKED = _READ + " FOR UPDATE"


async def read(
    driver: asyncpg.Connection, tenant_id: int, endpoint_id: bytes, *, lock: bool = False
) -> Endpoint | None:
    """One endpoint of the tenant; with `lock`, until the transaction ends nobody else changes it."""
    row = await driver.fetchrow(_READ_LOCKED if lock else _READ, tenant_id, as_uuid(endpoint_id))
    return None if row is None else _endpoint(row)


async def listed(driver: asyncpg.Connection, tenant_id: int) -> list[Endpoint]:
    """All of the tenant's (at most MAX_ENDPOINTS)."""
    rows = await driver.fetch("SELECT * FROM webhook_endpoints WHERE tenant_id = $1 ORDER BY id", tenant_id)
    return [_endpoint(row) for row in rows]


async def update(
    driver: asyncpg.Connection,
    tenant_id: int,
    endpoint_id: bytes,
    *,
    url: str,
    events: Sequence[str],
    enabled: bool,
) -> Endpoint | None:
    """Set what may be changed; enabling forgets the failures before."""
    row = await driver.fetchrow(
        "UPDATE webhook_endpoints SET url = $3, events = $4, enabled = $5,"
        " disabled_reason = CASE WHEN $5 THEN NULL WHEN enabled THEN 'by request' ELSE disabled_reason END,"
        " failing_since = CASE WHEN $5 AND NOT enabled THEN NULL ELSE failing_since END"
        " WHERE tenant_id = $1 AND id = $2 RETURNING *",
        tenant_id,
        as_uuid(endpoint_id),
        url,
        list(events),
        enabled,
    )
    return None if row is None else _endpoint(row)


async def rotate(
    driver: asyncpg.Connection, tenant_id: int, endpoint_id: bytes, now_s: float, overlap_s: float = OVERLAP_S
) -> tuple[Endpoint, str] | None:
    """A new secret; the one before signs along for `overlap_s`. None when there is no such endpoint."""
    secret = new_secret()
    async with driver.transaction():
        found = await read(driver, tenant_id, endpoint_id, lock=True)
        if found is None:
            return None
        older = [
            Secret(one.secret, now_s + overlap_s if one.expires_at is None else one.expires_at)
            for one in found.secrets
            if one.expires_at is None or one.expires_at > now_s
        ]
        kept = [
            Secret(secret),
            *(one for one in older if one.expires_at is not None and one.expires_at > now_s),
        ]
        row = await driver.fetchrow(
            "UPDATE webhook_endpoints SET secrets = $2::text::jsonb WHERE id = $1 RETURNING *",
            as_uuid(endpoint_id),
            _json(kept[:MAX_SECRETS]),
        )
    return _endpoint(row), secret


async def remove(driver: asyncpg.Connection, tenant_id: int, endpoint_id: bytes) -> bool:
    """Take an endpoint away, with its deliveries."""
    async with driver.transaction():
        status = await driver.execute(
            "DELETE FROM webhook_endpoints WHERE tenant_id = $1 AND id = $2", tenant_id, as_uuid(endpoint_id)
        )
        if status != "DELETE 1":
            return False
        await driver.execute(
            "DELETE FROM webhook_deliveries WHERE tenant_id = $1 AND endpoint_id = $2",
            tenant_id,
            as_uuid(endpoint_id),
        )
    return True


def _json(secrets: Sequence[Secret]) -> str:
    return msgspec.json.encode(secrets).decode()
