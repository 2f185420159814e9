"""The key behind a console session, and the secret that signs it.

Guarantee: a session is worth what its key is worth now: a revoked key, or one that lost a scope, is so here, too.
"""

from __future__ import annotations

from uuid import UUID

import asyncpg
import msgspec

from app.store.keys import StoredKey

_LIVE = """
SELECT k.id, k.tenant_id, k.name, k.scopes, k.test, t.hash_key, t.settings, t.name AS tenant
FROM api_keys k JOIN tenants t ON t.id = k.tenant_id
WHERE k.id = $1 AND (k.revoked_at IS NULL OR k.revoked_at > now())
"""


async def key_of(driver: asyncpg.Connection, key_id: UUID) -> tuple[StoredKey, str] | None:
    """The live key of that id, and its tenant's name."""
    row = await driver.fetchrow(_LIVE, key_id)
    if row is None:
        return None
    settings = row["settings"]
    if isinstance(settings, str | bytes):
        settings = msgspec.json.decode(settings)
    stored = StoredKey(
        row["id"],
        row["tenant_id"],
        row["name"],
        tuple(row["scopes"]),
        row["test"],
        bytes(row["hash_key"]),
        dict(settings or {}),
    )
    return stored, row["tenant"]
