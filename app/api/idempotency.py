"""`Idempotency-Key` for every POST (draft-ietf-httpapi-idempotency-key-header).

A router of FastAPI routes gets it whole by its route class:

    router = APIRouter(route_class=IdempotentRoute)

Guarantees, for each tenant and path: the same key with the same request replays the stored answer, with
`Idempotency-Replayed: true`; with another request, 422; while the first is under way, 409 with
`Retry-After`, for LEASE_S at most, so a crash doesn't hold a key for ever. The key's scopes are checked
before anything is replayed. Only an answer below 400 is kept: after an error the key is free again, so a
request that was refused may be mended and sent with its key. An answer marked `Cache-Control: no-store`
(one that shows a secret) is not kept: its repetition is a 409 `idempotency_answer_not_kept`, and nothing
is done twice.

A streamed body is hashed as it is read (`StreamedRoute`): what it asks for is known, and compared, at its end.

The hot routes (messages, batches) claim their keys inside the accepting transaction: see `app.intake`. What they
would refuse is looked up first: what was accepted stays accepted, though its time has passed since.
A route here that crashes between its own commit and its answer's may be done again when the lease is over.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import Message, Receive

from app.api import openapi
from app.api.auth import Required, Scope, caller_from
from app.api.decoding import demand_json
from app.api.problems import Problem
from app.store import idempotency
from app.store.engine import Database
from app.store.idempotency import Slot, StoredAnswer, decode_answer, encode_answer, slot_of

HEADER = "idempotency-key"
REPLAYED = "idempotency-replayed"
MAX_KEY_CHARS = 255
LEASE_S = 60.0
NOT_KEPT = 0  # the status stored in place of an answer that shows a secret

UNREAD = b""  # the hash of a request whose body is still streaming in

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

log = logging.getLogger(__name__)


def checked_key(raw: str | None) -> str | None:
    """The header's value; None without one. Raises Problem (400)."""
    if raw is None:
        return None
    if not 1 <= len(raw) <= MAX_KEY_CHARS or not raw.isascii() or not raw.isprintable():
        raise Problem(
            400,
            "invalid_idempotency_key",
            f"an idempotency key has 1 to {MAX_KEY_CHARS} visible ASCII characters",
        )
    return raw


def request_hash(*parts: bytes) -> bytes:
    """What makes two requests the same: each part with its length."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def judged(kept: idempotency.Kept | None, wanted: bytes) -> tuple[int, StoredAnswer]:
    """The answer to replay. Raises Problem: another request (422), still under way (409), not kept (409)."""
    if kept is not None and kept.request_hash != wanted:
        raise Problem(422, "idempotency_key_reused", "this idempotency key was used for another request")
    if kept is None or kept.status is None:
        wait_s = 1 if kept is None else max(1, math.ceil(kept.locked_for_s))
        raise Problem(
            409,
            "idempotency_in_progress",
            "the first request with this idempotency key is still under way",
            headers={"retry-after": str(min(wait_s, 5))},
        )
    if kept.status == NOT_KEPT or kept.response is None:
        raise Problem(
            409,
            "idempotency_answer_not_kept",
            "the request with this idempotency key was done; its answer showed a secret once",
        )
    return kept.status, decode_answer(kept.response)


def replayed(status: int, stored: StoredAnswer) -> Response:
    """A stored answer, again."""
    return Response(stored.body, status, headers={**stored.headers, REPLAYED: "true"})


class IdempotentRoute(APIRoute):
    """A FastAPI route whose POST honours `Idempotency-Key`. See the head of this file."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        for scope in self._scopes():
            self.openapi_extra = {**(self.openapi_extra or {}), openapi.SCOPE: scope}

    def _scopes(self) -> list[Scope]:
        return [d.call.scope for d in self.dependant.dependencies if isinstance(d.call, Required)]

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        scopes = self._scopes()
        has_body = self.body_field is not None

        async def idempotent(request: Request) -> Response:
            raw = request.headers.get(HEADER)
            keyed = raw is not None and request.method == "POST"
            if not keyed and not has_body:
                return await handle(request)
            caller = await caller_from(request)
            for scope in scopes:
                caller.demand(scope)
            if has_body and (body := await request.body()):
                demand_json(body, request.headers.get("content-type"))
            if not keyed:
                return await handle(request)
            key = checked_key(raw)
            assert key is not None
            slot = slot_of(caller.tenant_id, caller.hash_key, f"POST {request.url.path}", key)
            return await self._once(request.app.state.context.database, slot, handle, request)

        return idempotent

    async def _once(self, database: Database, slot: Slot, handle: Handler, request: Request) -> Response:
        wanted = request_hash(request.url.query.encode(), await request.body())
        async with database.driver() as driver:
            if not await idempotency.claim(driver, slot, wanted, LEASE_S):
                kept = await idempotency.kept(driver, slot)
                return replayed(*judged(kept, wanted))
        return await _done(database, slot, handle, request)


class StreamedRoute(IdempotentRoute):
    """The same for a body that is too large to be held: the claim stands while it streams in, and its hash is
    stored with the answer. A request that repeats the key after that is read to its end and compared."""

    async def _once(self, database: Database, slot: Slot, handle: Handler, request: Request) -> Response:
        body = _Hashed(request)
        async with database.driver() as driver:
            ours = await idempotency.claim(driver, slot, UNREAD, LEASE_S)
            kept = None if ours else await idempotency.kept(driver, slot)
        if ours:
            async with _held(database, slot):
                return await _done(database, slot, handle, Request(request.scope, body), body)
        if kept is None or kept.status is None:
            return replayed(*judged(None, UNREAD))  # whatever it asks for, the first is under way
        async for _ in Request(request.scope, body).stream():
            pass
        return replayed(*judged(kept, body.digest()))


class _Hashed:
    """An ASGI `receive` that hashes the body on its way."""

    def __init__(self, request: Request) -> None:
        self._receive: Receive = request.receive
        kind = request.headers.get("content-type", "").encode("latin-1")
        self._head = request_hash(request.url.query.encode(), kind)
        self._hash = hashlib.blake2b(digest_size=16)

    async def __call__(self) -> Message:
        message = await self._receive()
        self._hash.update(message.get("body", b""))
        return message

    def digest(self) -> bytes:
        """Of the request, as far as it was read."""
        return request_hash(self._head, self._hash.digest())


@asynccontextmanager
async def _held(database: Database, slot: Slot) -> AsyncIterator[None]:
    """Keep a claim for as long as its request takes."""

    async def extend() -> None:
        while True:
            await asyncio.sleep(LEASE_S / 4)
            try:
                async with database.driver() as driver:
                    await idempotency.extend(driver, slot, LEASE_S)
            except Exception:
                log.warning("an idempotency claim could not be extended", exc_info=True)

    extending = asyncio.create_task(extend())
    try:
        yield
    finally:
        extending.cancel()


async def _done(
    database: Database, slot: Slot, handle: Handler, request: Request, body: _Hashed | None = None
) -> Response:
    """Run the request that holds the claim, and keep its answer."""
    try:
        response = await handle(request)
    except BaseException:
        await _released(database, slot)
        raise
    if response.status_code >= 400 or not hasattr(response, "body"):
        await _released(database, slot)
        return response
    status, stored = response.status_code, b""
    if "no-store" in response.headers.get("cache-control", ""):
        status = NOT_KEPT
    else:
        headers = {n: response.headers[n] for n in ("content-type", "location") if n in response.headers}
        stored = encode_answer(StoredAnswer(bytes(response.body), headers))
    async with database.driver() as driver:
        await idempotency.answer(driver, slot, status, stored, body.digest() if body else None)
    return response


async def _released(database: Database, slot: Slot) -> None:
    try:
        async with database.driver() as driver:
            await idempotency.release(driver, slot)
    except Exception:
        log.warning("an idempotency claim stays until its lease ends", exc_info=True)
