"""The control API of the sandbox: what it received, and how it shall behave.

| request | answer |
|---|---|
| GET /stats | counters, binds, submits a second now and at their peak in any sliding second |
| GET /ledger?since=0&limit=1000&to=84 | submits after number `since`, oldest first; `next` goes on |
| GET /ledger.ndjson?since=0&to=84 | the same, all of them, one JSON object a line |
| GET /duplicates?to=84&limit=1000 | texts that were taken more than once |
| GET /peak?to=84&status=0 | the most submits in any sliding second, from the ledger |
| GET /behaviour | every fault and its setting |
| POST /behaviour {"rate": 500, …} | change some of them |
| POST /mo {"from": "+1…", "to": "…", "text": "STOP", …} | a text from a person (`gateways.sandbox.texts`) |
| GET /garbage | the kinds of broken PDUs |
| POST /garbage {"kind": "length_0"} or {"hex": "00ff…"} | send one to every bind |
| POST /unbind | send unbind to every bind |
| POST /cut | drop every connection |
| POST /reset | as at the start, but for the binds |
| GET /healthz | 200 while the process lives |
| GET /readyz | 200 while SMPP connections are taken, else 503 |
| GET /metrics | the counters as Prometheus' text |

`system_id` in the body of /mo, /garbage, /unbind and /cut names one account. Errors are `{"error": "…"}`, mostly with
status 400.

Guarantee: no web page reaches it through the browser of whoever runs it. Requests that a page of another origin made
(`Origin`, `Sec-Fetch-Site`) get 403, and so does a `Host` that isn't loopback, which is what DNS rebinding would
send; a body that isn't declared as JSON gets 415. On another address than loopback it wants a token.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from gateways.sandbox import metrics
from gateways.sandbox.garbage import KINDS
from gateways.sandbox.texts import Inbound

if TYPE_CHECKING:
    from gateways.sandbox.server import Sandbox, Settings

MAX_LEDGER_PAGE = 10_000
MAX_BODY_BYTES = 256 * 1024
_LINES_IN_A_WRITE = 500

_encode = msgspec.json.encode
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Garbage(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /garbage: one of `KINDS`, or bytes in hexadecimal."""

    kind: str = ""
    hex: str = ""
    system_id: str = ""

    def data(self) -> bytes:
        """Raises ValueError."""
        if bool(self.kind) == bool(self.hex):
            raise ValueError("either kind or hex")
        if self.kind and self.kind not in KINDS:
            raise ValueError("kind: one of " + ", ".join(KINDS))
        return KINDS[self.kind] if self.kind else bytes.fromhex(self.hex)


class Whom(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /cut and /unbind; none at all means everyone."""

    system_id: str = ""


def is_open_to(settings: Settings) -> bool:
    """Whether these settings open the control API to nobody but this machine, or to whoever has the token."""
    return _is_loopback(settings.control_host) or bool(settings.control_token)


class Control:
    """The routes above for one sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._smsc = sandbox.smsc
        self._exporter = metrics.Exporter(sandbox.smsc)

    async def stats(self, _: web.Request) -> web.StreamResponse:
        return _json(self._smsc.stats(time.monotonic()))

    async def ledger(self, request: web.Request) -> web.StreamResponse:
        since, limit = _number(request, "since", 0), _number(request, "limit", 1000)
        entries = self._smsc.ledger.since(since, min(limit, MAX_LEDGER_PAGE), request.query.get("to", ""))
        return _json({"next": entries[-1]["number"] if entries else since, "entries": entries})

    async def export(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/x-ndjson"})
        since = _number(request, "since", 0)
        await response.prepare(request)
        lines: list[bytes] = []
        for line in self._smsc.ledger.lines(since, request.query.get("to", "")):
            lines.append(line)
            if len(lines) == _LINES_IN_A_WRITE:
                await response.write(b"".join(lines))
                lines.clear()
        await response.write_eof(b"".join(lines))
        return response

    async def duplicates(self, request: web.Request) -> web.StreamResponse:
        limit = min(_number(request, "limit", 1000), MAX_LEDGER_PAGE)
        return _json({"duplicates": self._smsc.ledger.duplicates(request.query.get("to", ""), limit)})

    async def peak(self, request: web.Request) -> web.StreamResponse:
        status = request.query.get("status")
        most = self._smsc.ledger.peak(request.query.get("to", ""), int(status, 0) if status else None)
        return _json({"peak_per_second": most})

    async def behaviour(self, _: web.Request) -> web.StreamResponse:
        return _json(self._smsc.behaviour)

    async def change(self, request: web.Request) -> web.StreamResponse:
        self._sandbox.change(msgspec.json.decode(await request.read(), type=dict[str, Any]))
        return _json(self._smsc.behaviour)

    async def inbound(self, request: web.Request) -> web.StreamResponse:
        return _json(
            {"parts": self._sandbox.deliver(msgspec.json.decode(await request.read(), type=Inbound))}
        )

    async def kinds(self, _: web.Request) -> web.StreamResponse:
        return _json({"kinds": list(KINDS)})

    async def garbage(self, request: web.Request) -> web.StreamResponse:
        wanted = msgspec.json.decode(await request.read(), type=Garbage)
        return _json({"connections": self._sandbox.garbage(wanted.data(), wanted.system_id)})

    async def unbind(self, request: web.Request) -> web.StreamResponse:
        return _json({"connections": self._sandbox.unbind_all(await _whom(request))})

    async def cut(self, request: web.Request) -> web.StreamResponse:
        return _json({"connections": self._sandbox.cut_all(await _whom(request))})

    async def reset(self, _: web.Request) -> web.StreamResponse:
        self._sandbox.reset()
        return _json({})

    async def healthz(self, _: web.Request) -> web.StreamResponse:
        return _json({"status": "ok"})

    async def readyz(self, _: web.Request) -> web.StreamResponse:
        if self._sandbox.listening:
            return _json({"status": "ok", "checks": {"smpp": "ok"}})
        return _json({"status": "unavailable", "checks": {"smpp": "down"}}, HTTPStatus.SERVICE_UNAVAILABLE)

    async def exposition(self, _: web.Request) -> web.StreamResponse:
        content_type = f"{metrics.CONTENT_TYPE}; charset=utf-8"
        return web.Response(body=self._exporter.render(), headers={hdrs.CONTENT_TYPE: content_type})


def application(sandbox: Sandbox) -> web.Application:
    """The API for one sandbox."""
    control = Control(sandbox)
    app = web.Application(middlewares=[_gate(sandbox.settings), _errors], client_max_size=MAX_BODY_BYTES)
    app.add_routes(
        [
            web.get("/stats", control.stats),
            web.get("/ledger", control.ledger),
            web.get("/ledger.ndjson", control.export),
            web.get("/duplicates", control.duplicates),
            web.get("/peak", control.peak),
            web.get("/behaviour", control.behaviour),
            web.post("/behaviour", control.change),
            web.post("/mo", control.inbound),
            web.get("/garbage", control.kinds),
            web.post("/garbage", control.garbage),
            web.post("/unbind", control.unbind),
            web.post("/cut", control.cut),
            web.post("/reset", control.reset),
            web.get("/healthz", control.healthz),
            web.get("/readyz", control.readyz),
            web.get("/metrics", control.exposition),
        ]
    )
    return app


def _gate(settings: Settings) -> Middleware:
    """Who may ask; see the head of this file."""
    expected = f"Bearer {settings.control_token}".encode() if settings.control_token else b""

    @web.middleware
    async def gate(request: web.Request, handler: _Handler) -> web.StreamResponse:
        if _from_a_page(request):
            return _error(HTTPStatus.FORBIDDEN, "this API is not for web pages")
        if expected:
            given = request.headers.get(hdrs.AUTHORIZATION, "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(expected, given):
                return _error(HTTPStatus.UNAUTHORIZED, "Authorization: Bearer is missing or wrong")
        elif not _is_loopback(_host(request)):
            return _error(HTTPStatus.FORBIDDEN, "Host must be a loopback address or localhost")
        if request.can_read_body and request.content_type != "application/json":
            return _error(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json")
        return await handler(request)

    return gate


def _from_a_page(request: web.Request) -> bool:
    """Browsers name the origin of each request that isn't a plain navigation, and where it came from."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    return hdrs.ORIGIN in request.headers or site not in ("none", "same-origin")


def _host(request: web.Request) -> str:
    """Of `Host`, without port and brackets."""
    host = request.headers.get(hdrs.HOST, "")
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


async def _whom(request: web.Request) -> str:
    body = await request.read()
    return msgspec.json.decode(body, type=Whom).system_id if body else ""


def _number(request: web.Request, name: str, default: int) -> int:
    """Raises ValueError."""
    written = request.query.get(name, str(default))
    if not (written.isascii() and written.isdigit()) or len(written) > 15:
        raise ValueError(f"{name}: must be a number, 0 or more")
    return int(written)


def _json(body: object, status: int = HTTPStatus.OK) -> web.Response:
    return web.Response(status=status, body=_encode(body), content_type="application/json")


def _error(status: int, problem: str) -> web.Response:
    return _json({"error": problem}, status)


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:  # no such path or method, or a body that is too large
        return _error(error.status, error.reason)
    except (ValueError, msgspec.MsgspecError) as error:
        return _error(HTTPStatus.BAD_REQUEST, str(error))
