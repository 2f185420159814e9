"""A small client of the API, for the commands that send.

Guarantees: every POST carries an idempotency key and is repeated with the same one when the
connection breaks, so nothing is sent twice; what the API refuses is one line with its code and
detail; the key is never printed.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from app.cli.terminal import Failure
from app.settings import Settings

ATTEMPTS = 4
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 300.0  # an upload of a million rows is answered when all are committed
RETRIED = frozenset((429, 503))

Body = Callable[[], Any]


class Api:
    """The API behind a base URL. Use as an asynchronous context manager."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url.rstrip("/")
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"},
            timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S),
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """With VOLLEY_URL and VOLLEY_API_KEY, or the port and the key file of `volley up`. Raises Failure."""
        return cls(settings.api_url, _key(settings))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The answer's JSON. Raises Failure."""
        return await self._ask("GET", path, params or {}, {}, lambda: None)

    async def post(self, path: str, *, json: object) -> dict[str, Any]:
        """Post a JSON body; the answer's JSON. Raises Failure."""
        body = msgspec.json.encode(json)
        return await self.upload(path, {}, "application/json", lambda: body)

    async def upload(
        self,
        path: str,
        params: Mapping[str, str],
        content_type: str,
        body: Body,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Post what `body` gives, made anew for each attempt; the answer's JSON. Raises Failure."""
        headers = {
            "Content-Type": content_type,
            "Idempotency-Key": idempotency_key or str(uuid.uuid4()),
        }
        return await self._ask("POST", path, params, headers, body)

    async def _ask(
        self, method: str, path: str, params: Mapping[str, str], headers: Mapping[str, str], body: Body
    ) -> dict[str, Any]:
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._session.request(
                    method, self._url + path, params=params, headers=headers, data=body()
                ) as response:
                    content = await response.read()
                    if response.status not in RETRIED or attempt == ATTEMPTS:
                        return _answer(response.status, content)
                    pause_s = _retry_after_s(response.headers.get("Retry-After"), pause_s)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                if attempt == ATTEMPTS or isinstance(error, aiohttp.InvalidURL):
                    raise Failure(self._unreachable(error)) from None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        raise AssertionError("the last attempt answers or raises")

    def _unreachable(self, error: Exception) -> str:
        if isinstance(error, aiohttp.ClientConnectorError):
            return f"nothing answers at {self._url}: does `volley up` run? (VOLLEY_URL names another place)"
        return f"the connection to {self._url} broke: {str(error) or type(error).__name__}"


def _retry_after_s(header: str | None, otherwise_s: float) -> float:
    """The pause that the API asks for, within our own limit."""
    if header is None or not header.isdigit():
        return otherwise_s
    return min(float(header), LONGEST_PAUSE_S)


def _answer(status: int, content: bytes) -> dict[str, Any]:
    """The body of a success; a problem (RFC 9457) as Failure."""
    try:
        body = msgspec.json.decode(content) if content else {}
    except msgspec.DecodeError:
        body = {}
    if status < 400 and isinstance(body, dict):
        return body
    raise Failure(_problem(status, body))


def _problem(status: int, body: Any) -> str:
    if not isinstance(body, dict) or ("title" not in body and "code" not in body):
        return f"the API answered {status}"
    line = f"{body.get('code', status)}: {body.get('detail') or body.get('title')}"
    errors = body.get("errors")
    if isinstance(errors, list):
        for error in errors[:3]:
            if isinstance(error, dict):
                line += f"; {error.get('pointer', '')} {error.get('detail') or error.get('code')}"
    return line


def _key(settings: Settings) -> str:
    if settings.api_key is not None:
        return settings.api_key
    path = settings.data_dir / "api-key"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        raise Failure(f"VOLLEY_API_KEY: not set, and there is no {path}") from None
    except OSError as error:
        raise Failure(f"VOLLEY_API_KEY: not set, and {path}: {error.strerror}") from None
