"""What tenants and organisations have set about contacting people, as the dispatcher decides by it."""

from __future__ import annotations

import os
from collections import defaultdict
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.contacts import Organisation, TenantRules, limit_of
from app.store import audit, config, keys, tables
from app.store.audit import By


async def load(driver: asyncpg.Connection) -> dict[int, TenantRules]:
    """The rules of every tenant. In a transaction of the caller's they are of one moment."""
    organisations = {
        row["id"]: _organisation(row["id"], bytes(row["hash_key"]), row["budget"])
        for row in await driver.fetch("SELECT id, hash_key, budget FROM organisations")
    }
    brands: dict[int, dict[str, str]] = defaultdict(dict)
    for row in await driver.fetch("SELECT tenant_id, address, brand FROM senders WHERE brand <> ''"):
        brands[row["tenant_id"]][row["address"]] = row["brand"]
    lists: dict[int, set[str]] = defaultdict(set)
    for row in await driver.fetch("SELECT tenant_id, country FROM registries"):
        lists[row["tenant_id"]].add(row["country"])
    rows = await driver.fetch("SELECT id, settings FROM tenants")
    return {
        row["id"]: of_settings(
            row["settings"],
            brands.get(row["id"], {}),
            frozenset(lists.get(row["id"], ())),
            organisations.get(row["settings"].get("organisation") or 0),
        )
        for row in rows
    }


def of_settings(
    settings: dict[str, Any],
    brands: dict[str, str],
    lists: frozenset[str] = frozenset(),
    organisation: Organisation | None = None,
) -> TenantRules:
    """A tenant's rules from its settings."""
    return TenantRules(
        cap=limit_of(settings.get("frequency_cap")),
        campaign_cap=limit_of(settings.get("campaign_cap")),
        duplicate_s=settings.get("duplicate_window_s") or 0,
        duplicate_otp=bool(settings.get("duplicate_otp")),
        stop_scope=settings.get("stop_scope") or "sender",
        brands=brands,
        registries=lists,
        organisation=organisation,
    )


def _organisation(organisation_id: int, hash_key: bytes, budget: dict[str, Any] | None) -> Organisation:
    given = budget or {}
    return Organisation(
        organisation_id,
        hash_key,
        limit_of(budget),
        given.get("reserved", 0),
        given.get("reserved_priority", 0),
    )


async def spans(driver: asyncpg.Connection) -> tuple[dict[int, int], dict[int, int]]:
    """How far (s) the limits of each tenant, and of each organisation, look back."""
    own = {tenant_id: rules.longest_s for tenant_id, rules in (await load(driver)).items()}
    shared = await driver.fetch("SELECT id, coalesce((budget->>'per_s')::int, 0) AS per_s FROM organisations")
    return own, {row["id"]: row["per_s"] for row in shared}


async def organisation_ids(driver: asyncpg.Connection) -> list[int]:
    """Every organisation."""
    return [row["id"] for row in await driver.fetch("SELECT id FROM organisations ORDER BY id")]


# -- organisations


class Stored(msgspec.Struct, frozen=True):
    """An organisation as the operator sees it."""

    id: int
    name: str
    budget: dict[str, Any] | None
    created_at: datetime


_SHOWN = [tables.organisations.c[name] for name in ("id", "name", "budget", "created_at")]


async def organisations(connection: AsyncConnection, *, after_id: int = 0, limit: int = 100) -> list[Stored]:
    """Organisations by id, above `after_id`."""
    table = tables.organisations
    query = select(*_SHOWN).where(table.c.id > after_id).order_by(table.c.id).limit(limit)
    return [Stored(**row) for row in (await connection.execute(query)).mappings()]


async def read_organisation(connection: AsyncConnection, organisation_id: int) -> Stored | None:
    """One organisation."""
    query = select(*_SHOWN).where(tables.organisations.c.id == organisation_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else Stored(**row)


async def create_organisation(
    connection: AsyncConnection, name: str, budget: dict[str, Any] | None, by: By
) -> Stored | None:
    """A new organisation with a hash key of its own; None when the name is taken. Afterwards `app.rules.prepare`."""
    await config.begin(connection)
    made = await connection.execute(
        upsert(tables.organisations)
        .values(name=name, hash_key=os.urandom(keys.HASH_KEY_BYTES), budget=budget)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(*_SHOWN)
    )
    row = made.mappings().one_or_none()
    if row is None:
        return None
    stored = Stored(**row)
    await audit.record(
        connection,
        by,
        "organisation.create",
        f"organisation/{stored.id}",
        after={"name": name, "budget": budget},
    )
    return stored


async def change_organisation(
    connection: AsyncConnection, organisation_id: int, values: dict[str, Any], by: By
) -> Stored | None:
    """Set its name or budget; None when there is no such organisation. Raises config.Exists."""
    await config.begin(connection)
    table = tables.organisations
    before = await read_organisation(connection, organisation_id)
    if before is None:
        return None
    if values:
        taken = select(table.c.id).where(table.c.name == values.get("name"), table.c.id != organisation_id)
        if await connection.scalar(taken) is not None:
            raise config.Exists(f"organisation/{organisation_id}")
        await connection.execute(update(table).where(table.c.id == organisation_id).values(**values))
    await audit.record(
        connection,
        by,
        "organisation.change",
        f"organisation/{organisation_id}",
        before={name: getattr(before, name) for name in values},
        after=values,
    )
    return await read_organisation(connection, organisation_id)


async def members(connection: AsyncConnection, organisation_id: int) -> list[int]:
    """The tenants that share its budget."""
    table = tables.tenants
    query = select(table.c.id).where(
        func.coalesce(table.c.settings["organisation"].as_integer(), 0) == organisation_id
    )
    return list(await connection.scalars(query.order_by(table.c.id)))
