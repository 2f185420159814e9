"""Tenants: who messages, keys and rules belong to.

Guarantees: each tenant has a key of its own for the hashes of its recipients, so that the same number has
unrelated hashes in two tenants; it never leaves this layer but to make those hashes. The first tenant is the
operator's: only its keys reach what belongs to no tenant (gateways, routes, regions, other tenants).
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store import audit, config, keys, tables
from app.store.audit import By


class Tenant(msgspec.Struct, frozen=True):
    """A tenant. `hash_key` keys its recipient hashes."""

    id: int
    name: str
    hash_key: bytes
    settings: dict[str, Any]
    created_at: datetime

    def __repr__(self) -> str:
        return f"Tenant({self.id})"


class NameTaken(ValueError):
    """There is a tenant of that name."""


async def operator_id(connection: AsyncConnection) -> int | None:
    """The operator's tenant: the first that was made. None in an empty database."""
    return await connection.scalar(select(func.min(tables.tenants.c.id)))


async def create(connection: AsyncConnection, name: str, settings: dict[str, Any], by: By) -> Tenant:
    """A new tenant. Raises NameTaken. After the commit call `app.rules.prepare` for it."""
    table = tables.tenants
    made = await connection.execute(
        upsert(table)
        .values(name=name, hash_key=os.urandom(keys.HASH_KEY_BYTES), settings=settings)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(*table.c)
    )
    row = made.mappings().one_or_none()
    if row is None:
        raise NameTaken(name)
    tenant = Tenant(**row)
    if settings:
        await config.begin(connection)
    await audit.record(connection, by, "tenant.create", f"tenant/{tenant.id}", after={"name": name})
    return tenant


async def change(
    connection: AsyncConnection, tenant_id: int, name: str | None, settings: dict[str, Any], by: By
) -> Tenant | None:
    """Change the name and some settings (None takes one away); None when there is no such tenant.

    Raises NameTaken.
    """
    table = tables.tenants
    query = select(table).where(table.c.id == tenant_id).with_for_update(key_share=True)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        return None
    old = Tenant(**row)
    fresh = {key: value for key, value in {**old.settings, **settings}.items() if value is not None}
    wanted = old.name if name is None else name
    if wanted != old.name:
        taken = select(table.c.id).where(table.c.name == wanted)
        if await connection.scalar(taken) is not None:
            raise NameTaken(wanted)
    if (wanted, fresh) == (old.name, old.settings):
        return old
    changed = update(table).where(table.c.id == tenant_id).values(name=wanted, settings=fresh)
    await connection.execute(changed)
    await config.begin(connection)  # dispatchers decide by the settings
    await audit.record(
        connection,
        by,
        "tenant.change",
        f"tenant/{tenant_id}",
        before={"name": old.name, **{key: old.settings.get(key) for key in settings}},
        after={"name": wanted, **settings},
    )
    return await read(connection, tenant_id)


async def rotate_callback_secret(
    connection: AsyncConnection, tenant_id: int, previous_until_s: float, by: By
) -> Tenant:
    """The next generation of what signs callback URLs; the one before signs along until then (Unix seconds)."""
    table = tables.tenants
    query = select(table).where(table.c.id == tenant_id).with_for_update(key_share=True)
    old = Tenant(**(await connection.execute(query)).mappings().one())
    generation = int((old.settings.get("callback_secret") or {}).get("generation", 1)) + 1
    kept = {"generation": generation, "previous_until": previous_until_s}
    settings = {**old.settings, "callback_secret": kept}
    await connection.execute(update(table).where(table.c.id == tenant_id).values(settings=settings))
    await audit.record(
        connection,
        by,
        "tenant.rotate_callback_secret",
        f"tenant/{tenant_id}",
        after={"generation": generation},
    )
    return msgspec.structs.replace(old, settings=settings)


async def read(connection: AsyncConnection, tenant_id: int) -> Tenant | None:
    """One tenant."""
    query = select(tables.tenants).where(tables.tenants.c.id == tenant_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else Tenant(**row)


async def page(connection: AsyncConnection, *, after_id: int = 0, limit: int = 100) -> list[Tenant]:
    """Tenants by id, above `after_id`."""
    table = tables.tenants
    query = select(table).where(table.c.id > after_id).order_by(table.c.id).limit(limit)
    return [Tenant(**row) for row in (await connection.execute(query)).mappings()]
