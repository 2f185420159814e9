"""The control API of the sandbox: what it received, and how it shall behave. Loopback only.

| request | answer |
|---|---|
| GET /stats | counters, binds, submits a second now and at their peak in any sliding second |
| GET /ledger?since=0&limit=1000&to=84 | submits after number `since`, oldest first; `next` goes on |
| GET /peak?to=84&status=0 | the most submits in any sliding second, from the ledger |
| GET /behaviour | every fault and its setting |
| POST /behaviour {"rate": 500, …} | change some of them |
| POST /mo {"from": "+1…", "to": "…", "text": "STOP", "system_id": "…"} | a text from a person |
| POST /cut | drop every connection |
| POST /reset | counters, ledger and behaviour as at the start |
| GET /healthz | 200 while the process lives |
| GET /readyz | 200 while SMPP connections are taken, else 503 |
| GET /metrics | the counters as Prometheus' text |

Errors are `{"error": "…"}` with status 400.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from gateways.sandbox import metrics

if TYPE_CHECKING:
    from gateways.sandbox.server import Sandbox

MAX_LEDGER_PAGE = 10_000

_encode = msgspec.json.encode


class Inbound(msgspec.Struct, forbid_unknown_fields=True, rename={"sender": "from"}):
    """Body of POST /mo."""

    sender: str
    to: str
    text: str
    system_id: str = ""


def application(sandbox: Sandbox) -> web.Application:
    """The routes above for one sandbox."""
    smsc = sandbox.smsc

    async def stats(_: web.Request) -> web.Response:
        return _json(smsc.stats(time.monotonic()))

    async def ledger(request: web.Request) -> web.Response:
        since = int(request.query.get("since", "0"))
        limit = min(int(request.query.get("limit", "1000")), MAX_LEDGER_PAGE)
        entries = smsc.ledger.since(since, limit, request.query.get("to", ""))
        return _json({"next": entries[-1]["number"] if entries else since, "entries": entries})

    async def peak(request: web.Request) -> web.Response:
        status = request.query.get("status")
        most = smsc.ledger.peak(request.query.get("to", ""), int(status, 0) if status else None)
        return _json({"peak_per_second": most})

    async def behaviour(_: web.Request) -> web.Response:
        return _json(smsc.behaviour)

    async def change(request: web.Request) -> web.Response:
        sandbox.change(msgspec.json.decode(await request.read(), type=dict[str, Any]))
        return _json(smsc.behaviour)

    async def inbound(request: web.Request) -> web.Response:
        wanted = msgspec.json.decode(await request.read(), type=Inbound)
        parts = sandbox.inbound(wanted.sender, wanted.to, wanted.text, wanted.system_id)
        return _json({"parts": parts})

    async def cut(_: web.Request) -> web.Response:
        return _json({"connections": sandbox.cut_all()})

    async def reset(_: web.Request) -> web.Response:
        smsc.reset()
        return _json({})

    exporter = metrics.Exporter(smsc)

    async def healthz(_: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        listening = sandbox.listening
        body = {
            "status": "ok" if listening else "unavailable",
            "checks": {"smpp": "ok" if listening else "down"},
        }
        return web.Response(
            status=200 if listening else 503, body=_encode(body), content_type="application/json"
        )

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(
            body=exporter.render(), headers={"Content-Type": f"{metrics.CONTENT_TYPE}; charset=utf-8"}
        )

    app = web.Application(middlewares=[_errors])
    app.add_routes(
        [
            web.get("/stats", stats),
            web.get("/ledger", ledger),
            web.get("/peak", peak),
            web.get("/behaviour", behaviour),
            web.post("/behaviour", change),
            web.post("/mo", inbound),
            web.post("/cut", cut),
            web.post("/reset", reset),
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", exposition),
        ]
    )
    return app


def _json(body: object) -> web.Response:
    return web.Response(body=_encode(body), content_type="application/json")


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except (ValueError, msgspec.MsgspecError) as error:
        return web.Response(status=400, body=_encode({"error": str(error)}), content_type="application/json")
