"""Templates: named bodies whose versions never change.

Guarantees: a version, once made, keeps its body for ever, so a message that names it says what was sent; two
writers at once make two versions; an archived template is found by its versions' numbers no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from app.domain import ids
from app.store.intake import as_uuid

MAX_VERSIONS = 10_000


class Template(msgspec.Struct, frozen=True):
    """One version."""

    id: UUID
    name: str
    version: int
    body: str
    variables: tuple[str, ...]
    created_at: datetime
    created_by: str
    archived_at: datetime | None
    smart_encoding: bool


_COLUMNS = "id, name, version, body, variables, created_at, created_by, archived_at, smart_encoding"


def _template(row: asyncpg.Record) -> Template:
    return Template(**{**row, "variables": tuple(row["variables"])})


async def add(
    driver: asyncpg.Connection,
    tenant_id: int,
    name: str,
    body: str,
    variables: Sequence[str],
    *,
    actor: str,
    now_s: float,
    first: bool = False,
    smart_encoding: bool = False,
) -> Template | None:
    """The next version, in the caller's transaction. With `first`, None when the name is in use."""
    await driver.execute("SELECT FROM tenants WHERE id = $1 FOR NO KEY UPDATE", tenant_id)
    last = await driver.fetchrow(
        "SELECT version, archived_at FROM templates WHERE tenant_id = $1 AND name = $2"
        " ORDER BY version DESC LIMIT 1",
        tenant_id,
        name,
    )
    if last is not None and first and last["archived_at"] is None:
        return None
    row = await driver.fetchrow(
        "INSERT INTO templates (id, tenant_id, name, version, body, variables, created_by, smart_encoding)"  # noqa: S608
        f" VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING {_COLUMNS}",
        as_uuid(ids.new_id(now_s)),
        tenant_id,
        name,
        1 if last is None else last["version"] + 1,
        body,
        list(variables),
        actor,
        smart_encoding,
    )
    return _template(row)


async def page(
    driver: asyncpg.Connection, tenant_id: int, *, after: str = "", archived: bool = False, limit: int = 100
) -> list[Template]:
    """The newest version of each template, by name, above the name `after`."""
    rows = await driver.fetch(
        f"SELECT * FROM (SELECT DISTINCT ON (name) {_COLUMNS} FROM templates"  # noqa: S608 - our own columns
        " WHERE tenant_id = $1 AND name > $2 AND ($3 OR archived_at IS NULL)"
        " ORDER BY name, version DESC) newest ORDER BY name LIMIT $4",
        tenant_id,
        after,
        archived,
        limit,
    )
    return [_template(row) for row in rows]


async def versions(
    driver: asyncpg.Connection, tenant_id: int, name: str, *, below: int | None = None, limit: int = 100
) -> list[Template]:
    """The versions of one, newest first, also archived ones."""
    rows = await driver.fetch(
        f"SELECT {_COLUMNS} FROM templates WHERE tenant_id = $1 AND name = $2"  # noqa: S608 - our own columns
        " AND ($3::int IS NULL OR version < $3) ORDER BY version DESC LIMIT $4",
        tenant_id,
        name,
        below,
        limit,
    )
    return [_template(row) for row in rows]


async def read(
    driver: asyncpg.Connection, tenant_id: int, name: str, version: int | None = None
) -> Template | None:
    """That version, archived or not, or the newest."""
    row = await driver.fetchrow(
        f"SELECT {_COLUMNS} FROM templates WHERE tenant_id = $1 AND name = $2"  # noqa: S608 - our own columns
        " AND ($3::int IS NULL OR version = $3) ORDER BY version DESC LIMIT 1",
        tenant_id,
        name,
        version,
    )
    return None if row is None else _template(row)


async def archive(driver: asyncpg.Connection, tenant_id: int, name: str) -> int:
    """No new message may name it; gives how many versions that was about."""
    status = await driver.execute(
        "UPDATE templates SET archived_at = now() WHERE tenant_id = $1 AND name = $2 AND archived_at IS NULL",
        tenant_id,
        name,
    )
    return int(status.split()[-1])
