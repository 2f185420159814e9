"""API keys: who may do what, for which tenant. Only hashes of secrets are stored.

A key is `vk_` and 256 random bits, so a plain SHA-256 can't be turned back; an operator's own first key
(`VOLLEY_API_KEY`) is as strong as they made it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from app.domain import ids
from app.store import locks
from app.store.intake import as_uuid

PREFIX = "vk_"
SHOWN_CHARS = 10  # of a key, kept to tell keys apart
SCOPES = ("send", "read", "rules", "operate", "admin")
HASH_KEY_BYTES = 32
DEFAULT_TENANT = "default"
DEFAULT_SENDER = "Volley"  # the first tenant's, so that a first message needs none; its owner changes it


class StoredKey(msgspec.Struct, frozen=True):
    """A live key with its tenant. `hash_key` keys the recipient hashes of the tenant."""

    id: UUID
    tenant_id: int
    name: str
    scopes: tuple[str, ...]
    test: bool
    hash_key: bytes
    settings: dict[str, Any]

    def __repr__(self) -> str:
        return f"StoredKey({self.id}, tenant {self.tenant_id})"


class KeyRow(msgspec.Struct, frozen=True):
    """A key as its owner sees it."""

    id: UUID
    tenant_id: int
    name: str
    prefix: str
    scopes: tuple[str, ...]
    test: bool
    created_at: datetime
    created_by: str
    revoked_at: datetime | None


def new_secret() -> str:
    """A fresh key, to be shown once."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(secret: str) -> bytes:
    """What is stored of a key, and what it is found by."""
    return hashlib.sha256(secret.encode()).digest()


_LIVE = """
SELECT k.id, k.tenant_id, k.name, k.scopes, k.test, t.hash_key, t.settings
FROM api_keys k JOIN tenants t ON t.id = k.tenant_id
WHERE k.hash = $1 AND (k.revoked_at IS NULL OR k.revoked_at > now())
"""


async def find(driver: asyncpg.Connection, secret_hash: bytes) -> StoredKey | None:
    """The live key of that hash. A revocation in the future (rotation) still lives."""
    row = await driver.fetchrow(_LIVE, secret_hash)
    if row is None:
        return None
    return StoredKey(
        row["id"],
        row["tenant_id"],
        row["name"],
        tuple(row["scopes"]),
        row["test"],
        bytes(row["hash_key"]),
        _json(row["settings"]),
    )


def _json(value: Any) -> dict[str, Any]:
    return msgspec.json.decode(value) if isinstance(value, str | bytes) else dict(value or {})


async def create(
    driver: asyncpg.Connection,
    *,
    tenant_id: int,
    name: str,
    scopes: Sequence[str],
    test: bool,
    created_by: str,
    now_s: float,
    secret: str | None = None,
) -> tuple[KeyRow, str]:
    """A new key and its secret, which is nowhere kept. asyncpg.UniqueViolationError if the secret exists."""
    secret = secret or new_secret()
    row = await driver.fetchrow(
        "INSERT INTO api_keys (id, tenant_id, name, prefix, hash, scopes, test, created_by) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8) "
        "RETURNING id, tenant_id, name, prefix, scopes, test, created_at, created_by, revoked_at",
        as_uuid(ids.new_id(now_s)),
        tenant_id,
        name,
        secret[:SHOWN_CHARS] if len(secret) > 2 * SHOWN_CHARS else secret[:3],
        hash_of(secret),
        list(scopes),
        test,
        created_by,
    )
    return _key_row(row), secret


async def listed(driver: asyncpg.Connection, tenant_id: int, *, revoked: bool = False) -> list[KeyRow]:
    """The tenant's keys, newest first; with `revoked`, those too."""
    rows = await driver.fetch(
        "SELECT id, tenant_id, name, prefix, scopes, test, created_at, created_by, revoked_at FROM api_keys "
        "WHERE tenant_id = $1 AND ($2 OR revoked_at IS NULL OR revoked_at > now()) ORDER BY id DESC",
        tenant_id,
        revoked,
    )
    return [_key_row(row) for row in rows]


async def get(driver: asyncpg.Connection, tenant_id: int, key_id: bytes) -> KeyRow | None:
    """One key of the tenant."""
    row = await driver.fetchrow(
        "SELECT id, tenant_id, name, prefix, scopes, test, created_at, created_by, revoked_at FROM api_keys "
        "WHERE tenant_id = $1 AND id = $2",
        tenant_id,
        as_uuid(key_id),
    )
    return _key_row(row) if row else None


async def revoke(
    driver: asyncpg.Connection, tenant_id: int, key_id: bytes, at: datetime | None = None
) -> KeyRow | None:
    """End a key, now or `at` that time; None if the tenant has no such key. Ending it twice keeps the earlier time."""
    row = await driver.fetchrow(
        "UPDATE api_keys SET revoked_at = LEAST(coalesce(revoked_at, 'infinity'), coalesce($3, now())) "
        "WHERE tenant_id = $1 AND id = $2 "
        "RETURNING id, tenant_id, name, prefix, scopes, test, created_at, created_by, revoked_at",
        tenant_id,
        as_uuid(key_id),
        at,
    )
    return _key_row(row) if row else None


def _key_row(row: asyncpg.Record) -> KeyRow:
    values = dict(row)
    values["scopes"] = tuple(values["scopes"])
    return KeyRow(**values)


async def bootstrap(
    driver: asyncpg.Connection, *, secret: str | None, now_s: float, default_sender: str = DEFAULT_SENDER
) -> str | None:
    """Make the first tenant and its admin key. Gives the secret of a key made now, else None.

    Safe from several processes at once. With `secret`, that key exists afterwards, also in a database
    that has keys already (unless it was revoked); without, a key is made only where there is none at all.
    """
    async with driver.transaction():
        await driver.execute("SELECT pg_advisory_xact_lock($1)", locks.BOOTSTRAP)
        tenant_id = await driver.fetchval("SELECT min(id) FROM tenants")
        if tenant_id is None:
            tenant_id = await create_tenant(driver, DEFAULT_TENANT, {"default_sender": default_sender})
        if secret is None:
            if await driver.fetchval("SELECT EXISTS (SELECT FROM api_keys)"):
                return None
        elif await driver.fetchval("SELECT EXISTS (SELECT FROM api_keys WHERE hash = $1)", hash_of(secret)):
            return None
        _, made = await create(
            driver,
            tenant_id=tenant_id,
            name="first key",
            scopes=SCOPES,
            test=False,
            created_by="volley",
            now_s=now_s,
            secret=secret,
        )
        return made


async def create_tenant(driver: asyncpg.Connection, name: str, settings: dict[str, Any]) -> int:
    """A tenant with a hash key of its own; gives its id. asyncpg.UniqueViolationError if the name is taken."""
    return await driver.fetchval(
        "INSERT INTO tenants (name, hash_key, settings) VALUES ($1, $2, $3::text::jsonb) RETURNING id",
        name,
        os.urandom(HASH_KEY_BYTES),
        msgspec.json.encode(settings).decode(),
    )
