"""Who is asking: API keys, scopes, tenants.

Guarantees: a revoked key is refused within CACHE_S in every process; an unknown key costs at most one
query, and what is remembered of keys is bounded; a key's secret is compared by its SHA-256 alone and
never kept. `admin` holds every scope.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.api.problems import Problem
from app.store import keys
from app.store.engine import Database

Scope = Literal["send", "read", "rules", "operate", "admin"]

CACHE_S = 1.0  # how long a key is believed without asking
MAX_CACHED = 10_000
MAX_HEADER_BYTES = 512

bearer = HTTPBearer(auto_error=False, scheme_name="key", description="An API key: `vk_…`")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated key. `scopes` are the key's; ask with `may`. `hash_key` keys the tenant's recipient hashes."""

    tenant_id: int
    key_id: UUID
    key_name: str
    scopes: frozenset[str]
    test: bool
    hash_key: bytes = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def may(self, scope: Scope) -> bool:
        """Whether the key has the scope, or is an admin's."""
        return scope in self.scopes or "admin" in self.scopes

    def demand(self, scope: Scope) -> None:
        """403 without the scope."""
        if not self.may(scope):
            raise Problem(403, "forbidden", f"the scope '{scope}' is needed")

    @property
    def actor(self) -> str:
        """How the audit log names this caller."""
        return f"key {self.key_name}"


class Authenticator:
    """Finds callers by the Authorization header. One a process."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock  # monotonic seconds
        self._known: dict[bytes, tuple[float, Caller | None]] = {}
        self._asking: dict[bytes, asyncio.Task[Caller | None]] = {}

    def cached(self, header: bytes) -> Caller | None:
        """The caller, if it was asked for a moment ago; else None, and `authenticate` decides."""
        found = self._known.get(header)
        if found is None or found[0] < self._clock():
            return None
        return found[1]

    async def authenticate(self, header: bytes | None) -> Caller:
        """The caller of that `Authorization` header. Raises Problem (401)."""
        if not header:
            raise Problem(401, "unauthenticated", "send an API key as 'Authorization: Bearer vk_…'")
        found = self._known.get(header)
        if found is not None and found[0] >= self._clock():
            caller = found[1]
        else:
            caller = await self._asked_once(header)
        if caller is None:
            raise Problem(401, "unauthenticated", "the API key is not valid, or was revoked")
        return caller

    async def _asked_once(self, header: bytes) -> Caller | None:
        """One query, however many requests come with the same key at once."""
        task = self._asking.get(header)
        if task is None:
            task = self._asking[header] = asyncio.ensure_future(self._ask(header))
            task.add_done_callback(lambda _: self._asking.pop(header, None))
        return await asyncio.shield(task)

    async def _ask(self, header: bytes) -> Caller | None:
        scheme, _, secret = header.partition(b" ")
        secret = secret.strip()
        if scheme.lower() != b"bearer" or not secret or len(header) > MAX_HEADER_BYTES:
            return None
        believed_from = self._clock()
        async with self._database.driver() as driver:
            stored = await keys.find(driver, hashlib.sha256(secret).digest())
        caller = None if stored is None else caller_of(stored)
        if len(self._known) >= MAX_CACHED:
            self._known.clear()
        self._known[header] = (believed_from + CACHE_S, caller)
        return caller


def caller_of(stored: keys.StoredKey) -> Caller:
    """A stored key as the API knows it."""
    return Caller(
        stored.tenant_id,
        stored.id,
        stored.name,
        frozenset(stored.scopes),
        stored.test,
        stored.hash_key,
        stored.settings,
    )


async def caller_from(request: Request) -> Caller:
    """The caller of a FastAPI request; asked once a request. Raises Problem (401)."""
    caller = request.scope.get("volley.caller")
    if caller is None:
        authenticator: Authenticator = request.app.state.context.authenticator
        header = request.headers.get("authorization")
        caller = await authenticator.authenticate(header.encode("latin-1") if header else None)
        request.scope["volley.caller"] = caller
    return caller


class Required:
    """A FastAPI dependency: the caller, with that scope. See `require`."""

    def __init__(self, scope: Scope) -> None:
        self.scope: Scope = scope

    async def __call__(
        self, request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)] = None
    ) -> Caller:
        caller = await caller_from(request)
        caller.demand(self.scope)
        return caller


def require(scope: Scope) -> Required:
    """`caller: Annotated[Caller, Depends(require("rules"))]`: 401 without a valid key, 403 without the scope."""
    return Required(scope)
