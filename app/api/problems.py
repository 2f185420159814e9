"""Errors as RFC 9457 `application/problem+json`.

Guarantees: every error answer of the API has this form, with a stable `code` from `codes.py`; none
repeats a phone number, a text or a secret; a 401 says how to authenticate, a 429 and a 503 when to return.

    {"type": "urn:volley:problem:invalid_number", "title": "…", "status": 422, "code": "invalid_number",
     "detail": "…", "errors": [{"index": 7, "pointer": "/recipients/7/to", "code": "…", "detail": "…"}]}
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import asyncpg
import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match

from app.api.codes import TITLES

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2  # of a 503 or 429 that knows no better
MAX_ERRORS = 100  # in one problem

log = logging.getLogger(__name__)


class FieldError(msgspec.Struct, frozen=True, omit_defaults=True):
    """One item of `errors`: the element of a list (`index`), the place (JSON Pointer, RFC 6901), what is wrong."""

    pointer: str
    code: str
    detail: str
    index: int | None = None
    reason: str | None = None  # finer than the code: `too_short` of an `invalid_number`


class Problem(Exception):
    """An error answer; raise it anywhere below a route."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[FieldError | Mapping[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = headers

    def body(self) -> bytes:
        """The JSON."""
        document: dict[str, Any] = {
            "type": f"urn:volley:problem:{self.code}",
            "title": TITLES.get(self.code, "Error"),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = self.errors[:MAX_ERRORS]
        return msgspec.json.encode(document)

    def all_headers(self) -> dict[str, str]:
        """The answer's headers but for its length."""
        headers = {"content-type": MEDIA_TYPE, **(self.headers or {})}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers.setdefault("www-authenticate", 'Bearer realm="volley"')
        if self.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            headers.setdefault("retry-after", str(RETRY_AFTER_S))
        return headers

    def response(self) -> Response:
        """The answer, for Starlette."""
        return Response(self.body(), self.status, headers=self.all_headers())


def field_problem(pointer: str, code: str, detail: str, *, reason: str | None = None) -> Problem:
    """A 422 about one field."""
    return Problem(422, code, detail, [FieldError(pointer, code, detail, reason=reason)])


def lost_infrastructure(error: BaseException) -> bool:
    """Whether this says that PostgreSQL can't be reached or has no room, rather than that we made a mistake."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or (error.orig is not None and lost_infrastructure(error.orig))
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)  # asyncpg's own: an argument that doesn't fit its column
    return isinstance(
        error,
        OSError  # refused, reset, no route; TimeoutError is one
        | asyncio.TimeoutError
        | PoolTimeout
        | asyncpg.InternalClientError  # the connection broke between two steps of asyncpg's protocol
        | asyncpg.PostgresConnectionError
        | asyncpg.CannotConnectNowError
        | asyncpg.AdminShutdownError
        | asyncpg.CrashShutdownError
        | asyncpg.TooManyConnectionsError
        | asyncpg.QueryCanceledError
        | asyncpg.ReadOnlySQLTransactionError
        | asyncpg.DiskFullError
        | asyncpg.LockNotAvailableError
        | asyncpg.SerializationError
        | asyncpg.DeadlockDetectedError,
    )


def problem_of(error: BaseException) -> Problem:
    """What the caller is told of an exception; an unexpected one is logged here, once."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, ClientDisconnect):
        return Problem(400, "incomplete_body", "the body ended early")  # which nobody reads
    cause = getattr(error, "orig", None) or error
    if lost_infrastructure(error):
        log.warning("database unavailable", extra={"error": type(cause).__name__})
        return Problem(503, "database_unavailable", "the database can't be reached or is busy; try again")
    log.error("unexpected error", exc_info=error)
    return Problem(500, "internal_error", "an unexpected error; it was logged")


_HTTP_CODES = {
    400: "invalid_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "request_timeout",
    409: "conflict",
    413: "request_too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    429: "rate_limited",
    503: "unavailable",
}


def _of_http(error: HTTPException) -> Problem:
    code = _HTTP_CODES.get(
        error.status_code, "invalid_request" if error.status_code < 500 else "internal_error"
    )
    return Problem(error.status_code, code, TITLES[code].lower(), headers=error.headers)


# pydantic's error types, by ours; what is missing here is `invalid_value`
_PYDANTIC = {
    "missing": "required",
    "extra_forbidden": "unknown_field",
    "string_too_long": "too_long",
    "string_too_short": "too_short",
    "too_long": "too_long",
    "too_short": "too_short",
    "invalid_time": "invalid_time",  # ours
    "timezone_aware": "invalid_time",
    "datetime_parsing": "invalid_time",
    "datetime_from_date_parsing": "invalid_time",
    "datetime_object_invalid": "invalid_time",
    "json_invalid": "malformed_json",
    "json_type": "malformed_json",
    "greater_than": "out_of_range",
    "greater_than_equal": "out_of_range",
    "less_than": "out_of_range",
    "less_than_equal": "out_of_range",
}


def of_validation(error: RequestValidationError) -> Problem:
    """A 422 of pydantic's findings: places and what was expected, never the values."""
    errors = []
    for found in error.errors()[:MAX_ERRORS]:
        kind = str(found["type"])
        code = _PYDANTIC.get(kind, "wrong_type" if kind.endswith("_type") else "invalid_value")
        where, *path = [str(part) for part in found["loc"]]
        pointer = "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in path)
        if code == "malformed_json":
            return Problem(400, code, "the body is not JSON")
        detail = (
            str(found["msg"]) if kind != "value_error" else str(found["msg"]).removeprefix("Value error, ")
        )
        place = pointer if where == "body" else f"{where}{pointer}"
        if (place, code) == ("/body", "too_long"):
            code = "body_too_long"  # of a template: as for a message
        errors.append(FieldError(pointer=place, code=code, detail=detail))
    return Problem(422, "invalid_request", errors[0].detail if errors else "the request is not valid", errors)


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def _allowed(app: FastAPI, scope: Mapping[str, Any]) -> set[str]:
    """Every method that the path answers to: the framework names those of the first route alone (RFC 9110, 10.2.1).
    A path with a route of its own (`/v1/consents/bulk`) has that route's methods, though others would match it."""
    if own := app.openapi()["paths"].get(scope["path"]):
        return {method.upper() for method in own}
    found = {method for method, path in app.state.hot if path == scope["path"]}
    for method in _METHODS:
        asked = {**scope, "method": method}
        if any(route.matches(asked)[0] is Match.FULL for route in app.router.routes):
            found.add(method)
    return found


def install(app: FastAPI) -> None:
    """Make every error of the app a problem."""

    async def problem(request: Request, error: Exception) -> Response:
        found = problem_of(error)
        if found.status == HTTPStatus.METHOD_NOT_ALLOWED:
            found.headers = {"allow": ", ".join(sorted(_allowed(app, request.scope)))}
        return found.response()

    async def validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return of_validation(error).response()

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(HTTPException, problem)
    app.add_exception_handler(ClientDisconnect, problem)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(Exception, problem)
