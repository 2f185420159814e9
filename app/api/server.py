"""The API's process: the app, its lifespan, and the server around it.

Guarantees: at a stop, requests under way are finished and what they accepted is committed; a worker
process that dies is started again by its parent; nothing is logged per request.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import APIRouter, FastAPI
from uvicorn.supervisors import Multiprocess

from app import logs
from app.api import (
    batches,
    callbacks,
    console,
    docs,
    explain,
    health,
    limits,
    openapi,
    posting,
    problems,
    reading,
    reports,
    upload,
)
from app.api.auth import Authenticator
from app.api.context import Context
from app.api.edge import Edge
from app.api.entrance import Application
from app.api.explaining import Explainer
from app.api.metrics import LEAVE_S, Metrics
from app.api.reference import References
from app.intake import Intake
from app.queue.connection import Queue
from app.settings import Settings
from app.store.engine import Database

POOL = 10  # connections to PostgreSQL, a process
STOP_S = 2  # for requests under way at a stop
GC_THRESHOLD = 50_000  # objects of a request are plain structs: the collector finds nothing in them

DESCRIPTION = """Volley sends texts: it takes messages one by one, in batches and as files, hands each to a
gateway at a moment and a rate that the rules of its recipient's region allow, and tells what became of it.

Errors are `application/problem+json` (RFC 9457) with a stable `code`. Every POST honours `Idempotency-Key`.
Lists are paged by opaque cursors."""

HOT = {
    ("POST", posting.MESSAGES): posting.post_message,
    ("POST", posting.BATCHES): posting.post_batch,
    ("POST", upload.UPLOAD): upload.post_upload,
}


def create_app(settings: Settings, metrics_folder: Path | None = None) -> FastAPI:
    """The app; its context is made when it starts. `settings` name PostgreSQL and Redis; `metrics_folder`
    is where several workers leave their counters for each other."""
    app = Application(
        hot=HOT,
        title="Volley",
        version="1",
        description=DESCRIPTION,
        lifespan=partial(_lifespan, settings=settings, metrics_folder=metrics_folder),
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.schema_head = health.schema_head()
    problems.install(app)
    openapi.install(app)
    docs.install(app)
    for router in _routers():
        app.include_router(router)
    return app


def _routers() -> Iterable[APIRouter]:
    """Ours, and those of the resources."""
    yield health.router
    yield explain.router
    yield reading.router
    yield batches.router
    yield callbacks.router
    yield reports.router
    yield console.router
    resources = importlib.util.find_spec("app.api.resources")
    if resources is not None and resources.origin is not None:
        from app.api.resources import routers  # noqa: PLC0415

        yield from routers


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings, metrics_folder: Path | None) -> AsyncIterator[None]:
    if settings.database_url is None or settings.redis_url is None:
        raise ValueError("the API needs a database_url and a redis_url")
    database = Database(settings.database_url, pool=POOL, name="volley api")
    queue = Queue(settings.redis_url)
    intake = Intake(database, queue)
    metrics = Metrics(intake, metrics_folder)
    app.state.context = Context(
        settings=settings,
        database=database,
        queue=queue,
        authenticator=Authenticator(database, time.monotonic),
        references=References(database, time.monotonic),
        explainer=Explainer(database),
        intake=intake,
        metrics=metrics,
    )
    intake.start()
    leaving = asyncio.create_task(_leave(metrics))
    try:
        yield
    finally:
        leaving.cancel()
        await intake.stop()
        metrics.leave()
        await queue.close()
        await database.dispose()


async def _leave(metrics: Metrics) -> None:
    """Once a second, this worker's counters for the others."""
    while True:
        metrics.leave()
        await asyncio.sleep(LEAVE_S)


def worker_app(settings: Settings, metrics_folder: Path | None = None) -> FastAPI:
    """The app of one worker process."""
    logs.configure("api", settings.log_level)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    return create_app(settings, metrics_folder)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Blocks."""
    logs.configure("api", settings.log_level)
    if settings.api_workers == 1:
        uvicorn.Server(_config(settings, None)).run()
        return
    with tempfile.TemporaryDirectory(prefix="volley-metrics-") as folder:
        config = _config(settings, Path(folder))
        Multiprocess(config, sockets=[config.bind_socket()]).run()


def _config(settings: Settings, metrics_folder: Path | None) -> uvicorn.Config:
    return uvicorn.Config(
        partial(worker_app, settings, metrics_folder),
        factory=True,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=Edge,
        lifespan="on",
        access_log=False,
        proxy_headers=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=limits.KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
        workers=settings.api_workers,
    )
