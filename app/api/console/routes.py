"""The console's routes: sign in, sign out, the page, its data, and the three things that it can do to a batch.

Guarantees: nothing changes but by a POST from our own pages (the browser's word on the origin, SameSite=Strict and the
session's token); the API's own functions make the change, with their scopes, their audit log and their answers.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app.api import batches
from app.api.auth import Caller
from app.api.console import pages
from app.api.console.live import Live
from app.api.console.sessions import COOKIE, LIFETIME_S, WINDOW_S, Attempts, Session, issue, session_of
from app.api.context import Context
from app.api.problems import Problem

MAX_FORM_BYTES = 4096
TOKEN_HEADER = "x-volley-token"  # noqa: S105  a name

Action = Callable[[str, Request, Caller], Awaitable[Response]]
ACTIONS: dict[str, Action] = {"pause": batches.pause, "resume": batches.resume, "cancel": batches.cancel}

router = APIRouter(include_in_schema=False)


class Desk:
    """What the console keeps in a process: attempts to sign in, and the last readings."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.attempts = Attempts(time.monotonic)
        self.live = Live(context)


def _desk(request: Request) -> Desk:
    """Made with the first request of a process, kept beside its context."""
    state = request.app.state
    desk: Desk | None = getattr(state, "console", None)
    if desk is None or desk.context is not state.context:
        desk = state.console = Desk(state.context)
    return desk


async def _session(request: Request) -> Session | None:
    context: Context = request.app.state.context
    return await session_of(request.cookies.get(COOKIE), context.database, context.clock())


@router.get("/")
async def home(request: Request) -> Response:
    """The live page, or the sign-in."""
    session = await _session(request)
    if session is None:
        return pages.sign_in()
    return pages.console(
        tenant=session.tenant,
        key_name=session.caller.key_name,
        token=session.token,
        operator=session.operator,
    )


@router.get("/console/static/{name}")
async def static(name: str) -> Response:
    """Styles and scripts."""
    found = pages.asset(name)
    if found is None:
        raise Problem(404, "not_found", "there is no such file")
    return found


@router.post("/console/sign-in")
async def sign_in(request: Request) -> Response:
    """An API key for a session."""
    desk = _desk(request)
    if not _from_our_page(request):
        return pages.sign_in("This form was sent from another site.", HTTPStatus.FORBIDDEN)
    address = request.client.host if request.client else ""
    if not desk.attempts.allowed(address):
        wait_s = math.ceil(WINDOW_S)
        return pages.sign_in("Too many attempts. Try again in a minute.", 429, retry_after_s=wait_s)
    key = (await _form(request)).get("key", "").strip()
    try:
        caller = await desk.context.authenticator.authenticate(f"Bearer {key}".encode() if key else None)
    except Problem as problem:
        if problem.status != HTTPStatus.UNAUTHORIZED:
            raise
        desk.attempts.refused(address)
        return pages.sign_in("That key is not valid, or it was revoked.", HTTPStatus.UNAUTHORIZED)
    if not caller.may("read"):
        return pages.sign_in("That key lacks the scope “read”.", HTTPStatus.FORBIDDEN)
    answer = RedirectResponse("/", HTTPStatus.SEE_OTHER, headers=pages.HEADERS)
    answer.set_cookie(
        COOKIE,
        issue(caller, desk.context.clock()),
        max_age=LIFETIME_S,
        path="/",
        secure=_over_tls(request),
        httponly=True,
        samesite="strict",
    )
    return answer


@router.post("/console/sign-out")
async def sign_out(request: Request) -> Response:
    """The end of the session in this browser."""
    if not _from_our_page(request):
        raise Problem(403, "forbidden", "this was sent from another site")
    answer = RedirectResponse("/", HTTPStatus.SEE_OTHER, headers=pages.HEADERS)
    answer.delete_cookie(COOKIE, path="/", secure=_over_tls(request), httponly=True, samesite="strict")
    return answer


@router.get("/console/live")
async def live(request: Request) -> Response:
    """What the page shows now."""
    session = await _signed_in(request)
    document = await _desk(request).live.document(session)
    return _json(document)


@router.post("/console/batches/{batch_id}/{action}")
async def act(batch_id: str, action: str, request: Request) -> Response:
    """Pause, resume or cancel a batch of the session's tenant."""
    session = await _signed_in(request)
    token = request.headers.get(TOKEN_HEADER, "")
    if not _from_our_page(request) or not hmac.compare_digest(token.encode(), session.token.encode()):
        raise Problem(403, "forbidden", "this was not sent by the console's page")
    if action not in ACTIONS:
        raise Problem(404, "not_found", "there is no such action")
    session.caller.demand("operate")
    answer = await ACTIONS[action](batch_id, request, session.caller)
    answer.headers.update(pages.HEADERS)
    return answer


async def _signed_in(request: Request) -> Session:
    session = await _session(request)
    if session is None:
        raise Problem(401, "unauthenticated", "the session is over; sign in again")
    return session


def _json(document: dict[str, Any]) -> Response:
    body = msgspec.json.encode(document)
    return Response(body, media_type="application/json", headers=pages.HEADERS)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form (application/x-www-form-urlencoded), the first of each name."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise Problem(413, "request_too_large", "the form is too large")
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=8)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}


def _from_our_page(request: Request) -> bool:
    """Whether the browser says that this comes from our own origin (Fetch, section 3.2; Fetch Metadata).

    Programs say neither; what they send is no cross-site request.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")


def _over_tls(request: Request) -> bool:
    """Whether the browser speaks TLS, to us or to the proxy before us. Believing a header only adds to the cookie."""
    forwarded = request.headers.get("x-forwarded-proto", "")
    return request.url.scheme == "https" or forwarded.partition(",")[0].strip() == "https"
