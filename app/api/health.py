"""/healthz, /readyz and /metrics, without a key."""

from __future__ import annotations

import asyncio
import logging
from importlib.resources import files
from typing import Any

from alembic.config import Config
from alembic.script import ScriptDirectory
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.api.context import Context
from app.api.metrics import CONTENT_TYPE
from app.api.problems import Problem

CHECK_S = 3.0

router = APIRouter(tags=["health"])
log = logging.getLogger(__name__)


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> dict[str, str]:
    """200 while the process serves; asks nobody else."""
    return {"status": "alive"}


@router.get("/readyz", summary="Can messages be accepted?")
async def readyz(request: Request) -> Response:
    """200 when PostgreSQL answers and is migrated. Redis is reported, but accepting doesn't need it."""
    context: Context = request.app.state.context
    try:
        async with asyncio.timeout(CHECK_S), context.database.driver() as driver:
            found = await driver.fetchval("SELECT version_num FROM alembic_version")
    except Exception as error:
        log.warning("not ready", extra={"error": type(error).__name__})
        raise Problem(503, "database_unavailable", "PostgreSQL doesn't answer, or has no schema") from None
    if found != request.app.state.schema_head:
        raise Problem(503, "unavailable", f"the schema is at {found}; this version needs its migrations")
    checks: dict[str, Any] = {
        "postgresql": "ok",
        "schema": found,
        "redis": "ok" if await _redis(context) else "unreachable",
        "queue": "attached" if context.intake.offers.attached else "waiting for a dispatcher to build it",
    }
    return JSONResponse({"status": "ready", "checks": checks})


async def _redis(context: Context) -> bool:
    try:
        async with asyncio.timeout(CHECK_S):
            return bool(await context.queue.client.ping())
    except Exception:
        return False


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """The exposition text, version 0.0.4."""
    context: Context = request.app.state.context
    return Response(context.metrics.render(), media_type=CONTENT_TYPE)


def schema_head() -> str:
    """The newest migration that this version has."""
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head is not None
    return head
