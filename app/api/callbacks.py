"""Where HTTP providers call back: receipts and inbound texts, at `/v1/callbacks/{gateway}`.

Guarantees: the provider's signature is what authenticates (no key of ours); the answer is sent after what came
is committed; a failure to store is 503, so that the provider calls again. The dispatcher matches receipts and
takes texts in within a second. Queries may hold a provider's token, so they are never logged.
"""

from __future__ import annotations

import time

import msgspec
from fastapi import APIRouter, Request, Response

from app.api.problems import Problem
from app.domain.recipient import to_check
from app.store import config as configuration
from app.store import inbox, receipts
from gateways import http
from gateways.base import Inbound, Receipt

MAX_BODY_BYTES = 256 * 1024  # some hundred receipts; anyone may send so much, so it isn't more
CONFIG_FRESH_S = 2.0

router = APIRouter(prefix="/v1/callbacks", tags=["callbacks"])


class Receivers:
    """The readers of each HTTP gateway's callbacks, made anew when its configuration changes."""

    def __init__(self) -> None:
        self._read_at = 0.0
        self._rows: dict[str, configuration.Gateway] = {}
        self._made: dict[str, tuple[int, http.Receiver, str]] = {}

    async def of(self, request: Request, name: str) -> tuple[configuration.Gateway, http.Receiver, str]:
        """The gateway, its reader, and the public address of both, if it has one. Raises Problem 404 for a gateway that
        does not exist or takes no callbacks."""
        if time.monotonic() - self._read_at > CONFIG_FRESH_S:
            async with request.app.state.context.database.driver() as driver:
                self._rows = {row.name: row for row in (await configuration.load(driver)).gateways}
            self._read_at = time.monotonic()
        row = self._rows.get(name)
        if row is None:
            raise Problem(404, "not_found", "there is no such gateway")
        made = self._made.get(name)
        if made is None or made[0] != row.version:
            try:
                read = http.receiver(name, row.url, row.settings)
                made = (row.version, read, http.called_back_at(name, row.url, row.settings))
            except (LookupError, ValueError):
                raise Problem(404, "not_found", "this gateway takes no callbacks") from None
            self._made[name] = made
        return row, *made[1:]


receivers = Receivers()
asker = http.Asker()


@router.api_route(
    "/{gateway}", methods=["GET", "POST"], summary="A provider's callback", include_in_schema=False
)
async def take(gateway: str, request: Request) -> Response:
    """Receipts and inbound texts of one HTTP gateway."""
    row, read, public_url = await receivers.of(request, gateway)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and (len(declared) > 9 or int(declared) > MAX_BODY_BYTES):
        raise _too_large()
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
    found, texts, reply = await asker.read(
        read, request.method, _as_called(public_url, request), dict(request.headers), bytes(body)
    )
    if found or texts:
        await _store(request, row.id, found, texts)
    return Response(reply.body, reply.status, dict(reply.headers))


def _too_large() -> Problem:
    return Problem(413, "request_too_large", f"at most {MAX_BODY_BYTES} bytes")


def _as_called(public_url: str, request: Request) -> str:
    """The URL as the provider called it: the public address of this gateway where one is set, with this query."""
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{public_url}{query}" if public_url else str(request.url)


async def _store(request: Request, gateway_id: int, found: list[Receipt], texts: list[Inbound]) -> None:
    now_s = time.time()
    slips = [
        receipts.Slip(
            gateway_id,
            r.gateway_message_id,
            r.state,
            r.raw,
            r.error,
            r.done_at,
            r.submitted_at,
            to_check(r.to) if r.to else None,
            now_s,
            r.whole,
            r.opted_out,
        )
        for r in found
    ]
    async with request.app.state.context.database.driver() as driver, driver.transaction():
        if slips:
            await receipts.park(driver, slips, now_s, first_s=0.0)
        if texts:
            await inbox.park(driver, gateway_id, [msgspec.msgpack.encode(t) for t in texts], now_s)
