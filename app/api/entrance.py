"""The outermost layer: counts, bounds and times every request, and serves the hot routes without the framework.

Guarantees: a key is checked before a byte of the body is read, and before the request counts as in flight;
at most MAX_REQUESTS_IN_FLIGHT requests and MAX_BYTES_IN_FLIGHT bytes of bodies are worked on at once, what is
over gets a 503 with Retry-After; a body over its route's limit is refused while it comes in, not after, and
one that stalls is given up; a client that goes away in mid-body leaves nothing behind; every error is a
problem.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from fastapi import FastAPI, HTTPException
from starlette.types import Message, Receive, Scope, Send

from app.api import limits
from app.api.admission import ALWAYS, Paced, Slots, public_kind
from app.api.auth import Caller
from app.api.context import Context
from app.api.problems import Problem, problem_of

LINGER_BYTES = 64 * 1024 * 1024  # of a refused body that are read and thrown away, so that the answer arrives
LINGER_S = 3.0

_NAMES = {
    b"authorization": "authorization",
    b"content-type": "content_type",
    b"content-length": "content_length",
    b"content-encoding": "content_encoding",
    b"idempotency-key": "idempotency_key",
    b"transfer-encoding": "transfer_encoding",
}


class Disconnected(Exception):
    """The client went away before its request was whole."""


class Headers(msgspec.Struct, gc=False):
    """Those that the hot routes look at."""

    authorization: bytes | None = None
    content_type: bytes | None = None
    content_length: bytes | None = None
    content_encoding: bytes | None = None
    idempotency_key: bytes | None = None
    transfer_encoding: bytes | None = None

    @property
    def announces_body(self) -> bool:
        """Whether a body follows (RFC 9112, 6.3)."""
        return self.transfer_encoding is not None or self.content_length not in (None, b"0")


class Answer(msgspec.Struct, gc=False):
    """A JSON answer, whole."""

    status: int
    body: bytes
    headers: dict[str, str] | None = None


class Request:
    """One request to a hot route, by `caller`. Its body counts against the process' bytes in flight until it is
    answered."""

    __slots__ = ("_context", "_held", "_receive", "caller", "headers", "path", "query")

    def __init__(
        self, scope: Scope, headers: Headers, receive: Paced, context: Context, caller: Caller
    ) -> None:
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.headers = headers
        self.caller = caller
        self._receive = receive
        self._context = context
        self._held = 0

    async def chunks(self, limit: int) -> Any:
        """The body as it comes. Raises Problem (408, 413, 503), Disconnected."""
        declared = self.headers.content_length
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        size = 0
        while not self._receive.complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            if chunk:
                yield chunk

    async def body(self, limit: int) -> bytes:
        """The whole body."""
        parts = []
        async for chunk in self.chunks(limit):
            self.hold(len(chunk))
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def hold(self, size: int) -> None:
        """Count bytes as in flight. Raises Problem (503)."""
        metrics = self._context.metrics
        if metrics.bytes_in_flight + size > limits.MAX_BYTES_IN_FLIGHT:
            raise Problem(503, "overloaded", "too many bytes of requests are being worked on")
        metrics.bytes_in_flight += size
        self._held += size

    def let_go(self) -> None:
        """The request is answered."""
        self._context.metrics.bytes_in_flight -= self._held
        self._held = 0

    def demand_json(self) -> None:
        """415 for a body that isn't declared as JSON; one that is undeclared passes."""
        kind = self.headers.content_type
        if kind is None:
            return
        media = kind.partition(b";")[0].strip().lower()
        if media != b"application/json" and not media.endswith(b"+json"):
            raise Problem(415, "unsupported_media_type", "send application/json")


def _headers(scope: Scope) -> Headers:
    found = Headers()
    for name, value in scope["headers"]:
        field = _NAMES.get(name)
        if field is not None:
            setattr(found, field, value)
    return found


def _too_large(limit: int) -> Problem:
    return Problem(413, "request_too_large", f"the body is larger than {limit} bytes")


Hot = Callable[[Request, Context], Awaitable[Answer]]


class Application(FastAPI):
    """FastAPI behind this entrance. `hot` are the bare routes, by method and path."""

    def __init__(self, *, hot: Mapping[tuple[str, str], Hot], **options: Any) -> None:
        super().__init__(**options)
        self._hot = dict(hot)
        self._slots = Slots()
        self.state.hot = frozenset(hot)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        metrics = self.state.context.metrics
        started = time.perf_counter()
        hot = self._hot.get((scope["method"], scope["path"]))
        status = 500
        try:
            status = await self._admitted(hot, scope, receive, send)
        except Disconnected:
            status = 499
        finally:
            route = scope["path"] if hot is not None else _route(scope)
            metrics.request(scope["method"], route, status, time.perf_counter() - started)

    async def _admitted(self, hot: Hot | None, scope: Scope, receive: Receive, send: Send) -> int:
        """Check the key, take a slot, serve; the answer's status."""
        context: Context = self.state.context
        if scope["path"] in ALWAYS:
            return await self._framework(scope, receive, send)
        headers = _headers(scope)
        paced = Paced(receive, has_body=headers.announces_body)
        public = public_kind(scope["path"])
        holder: Hashable = public
        caller = None
        try:
            if public is None:
                caller = await context.authenticator.authenticate(headers.authorization)
                holder = caller.key_id
                scope["volley.caller"] = caller
                if headers.announces_body:
                    _refuse_encoded(headers)
            self._slots.take(holder, public=public is not None)
        except Exception as error:
            return await _answered(_answer(problem_of(error)), paced, send)
        context.metrics.in_flight += 1
        try:
            if hot is None or caller is None:
                return await self._framework(scope, _closing(paced), send)
            answer = await _served(hot, Request(scope, headers, paced, context, caller), context)
        finally:
            context.metrics.in_flight -= 1
            self._slots.release(holder, public=public is not None)
        return await _answered(answer, paced, send)

    async def _framework(self, scope: Scope, receive: Receive, send: Send) -> int:
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await super().__call__(scope, bounded(receive, scope), watched)
        return status


def _refuse_encoded(headers: Headers) -> None:
    """415: what unpacks to a thousand times its size is not bounded by a limit on what comes in."""
    if headers.content_encoding not in (None, b"identity"):
        raise Problem(415, "unsupported_media_type", "send the body without a content encoding")


async def _served(hot: Hot, request: Request, context: Context) -> Answer:
    try:
        return await hot(request, context)
    except (Disconnected, asyncio.CancelledError):
        raise
    except Exception as error:
        return _answer(problem_of(error))
    finally:
        request.let_go()


async def _answered(answer: Answer, body: Paced, send: Send) -> int:
    """Send the answer. Of a body that isn't whole, read what is left, within bounds, so that the client gets to
    read its answer; then close the connection."""
    if body.complete:
        await _send(send, answer)
        return answer.status
    await _send(send, answer, more=True)
    if not body.late:
        with suppress(TimeoutError, Problem):
            await asyncio.wait_for(_linger(body), LINGER_S)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    return answer.status


async def _linger(body: Paced) -> None:
    left = LINGER_BYTES
    while not body.complete and left > 0:
        message = await body()
        if message["type"] == "http.disconnect":
            return
        left -= len(message.get("body", b""))


def _closing(body: Paced) -> Receive:
    """`body` for the framework, which passes on its own kind of exception alone."""

    async def receiving() -> Message:
        try:
            return await body()
        except Problem as problem:
            raise HTTPException(problem.status, headers=dict(problem.headers or {})) from None

    return receiving


def bounded(receive: Receive, scope: Scope) -> Receive:
    """`receive` for the framework's routes, whose bodies are small, or streamed. Raises HTTPException (413)."""
    limit = _LIMITS.get(scope["path"].rpartition("/")[2], limits.MAX_MESSAGE_BYTES)
    size = 0

    async def receiving() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > limit:  # as the framework's own, which it passes on
                raise HTTPException(413)
        return message

    return receiving


_LIMITS = {
    "bulk": limits.MAX_BULK_BYTES,
    "prices": limits.MAX_BULK_BYTES,
    "prices.csv": limits.MAX_BULK_BYTES,
    "import": limits.MAX_UPLOAD_BYTES,  # streamed
}


def _route(scope: Scope) -> str:
    """The path's pattern: a bounded set of labels."""
    route = scope.get("route")
    return getattr(route, "path", None) or "other"


def _answer(problem: Problem) -> Answer:
    return Answer(problem.status, problem.body(), problem.all_headers())


async def _send(send: Send, answer: Answer, *, more: bool = False) -> None:
    headers = [(b"content-length", str(len(answer.body)).encode())]
    if answer.headers is None:
        headers.append((b"content-type", b"application/json"))
    else:
        headers += [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()
        ]
        if "content-type" not in answer.headers:
            headers.append((b"content-type", b"application/json"))
    if more and not any(name == b"connection" for name, _ in headers):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": more})
