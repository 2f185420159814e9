"""Console sessions: a signed cookie that names an API key, and a limit on attempts to sign in.

Guarantees: the cookie holds no secret of the key and no script can read it; a session ends LIFETIME_S after the
sign-in, and with its key at the next request; a change needs the session's own token besides the cookie;
whoever guesses keys gets ATTEMPTS of them a minute, and the memory for counting that is bounded.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from app.api.auth import Caller, caller_of
from app.store import sessions
from app.store.engine import Database

COOKIE = "volley_session"
LIFETIME_S = 12 * 3600
ATTEMPTS = 10  # refused sign-ins a minute and address
ATTEMPTS_OF_ALL = 120  # and of all addresses together
WINDOW_S = 60.0
MAX_ADDRESSES = 4096
MAX_COOKIE_CHARS = 256
_KEY_ID, _EXPIRES, _MAC = 16, 8, 32


@dataclass(frozen=True, slots=True)
class Session:
    """Who is signed in. `token` is what a change must carry."""

    caller: Caller
    tenant: str
    token: str

    @property
    def operator(self) -> bool:
        """Whether the key sees what belongs to no tenant: gateways, lanes, dispatchers."""
        return self.caller.may("operate")


def issue(caller: Caller, now_s: float) -> str:
    """The cookie's value for a caller who just signed in."""
    body = caller.key_id.bytes + int(now_s + LIFETIME_S).to_bytes(_EXPIRES, "big")
    mac = _mac(caller.hash_key, b"session", body)
    return base64.urlsafe_b64encode(body + mac).rstrip(b"=").decode()


async def session_of(cookie: str | None, database: Database, now_s: float) -> Session | None:
    """The session of a cookie; None when it is none, is over, or its key was revoked."""
    raw = _decoded(cookie)
    if raw is None:
        return None
    body, mac = raw[: _KEY_ID + _EXPIRES], raw[_KEY_ID + _EXPIRES :]
    if int.from_bytes(body[_KEY_ID:], "big") <= now_s:
        return None
    async with database.driver() as driver:
        found = await sessions.key_of(driver, UUID(bytes=body[:_KEY_ID]))
    if found is None:
        return None
    stored, tenant = found
    if not hmac.compare_digest(mac, _mac(stored.hash_key, b"session", body)):
        return None
    caller = caller_of(stored)
    if not caller.may("read"):
        return None
    return Session(caller, tenant, _mac(stored.hash_key, b"change", body).hex())


def _decoded(cookie: str | None) -> bytes | None:
    if not cookie or len(cookie) > MAX_COOKIE_CHARS or not cookie.isascii():
        return None
    try:
        raw = base64.b64decode(cookie + "=" * (-len(cookie) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == _KEY_ID + _EXPIRES + _MAC else None


def _mac(tenant_key: bytes, purpose: bytes, body: bytes) -> bytes:
    """Signed with the tenant's secret, for one purpose only: it keys other hashes, too."""
    key = hmac.digest(tenant_key, b"volley console " + purpose, hashlib.sha256)
    return hmac.digest(key, body, hashlib.sha256)


class Attempts:
    """Counts refused sign-ins by address in windows of WINDOW_S. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refused: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._of_all = (0.0, 0)

    def allowed(self, address: str) -> bool:
        """Whether that address may try a key now."""
        return (
            self._current(self._refused.get(address))[1] < ATTEMPTS
            and self._current(self._of_all)[1] < ATTEMPTS_OF_ALL
        )

    def refused(self, address: str) -> None:
        """A key of that address was not one."""
        self._refused[address] = self._one_more(self._refused.pop(address, None))
        self._of_all = self._one_more(self._of_all)
        while len(self._refused) > MAX_ADDRESSES:
            self._refused.popitem(last=False)

    def _current(self, counted: tuple[float, int] | None) -> tuple[float, int]:
        now = self._clock()
        return counted if counted is not None and now - counted[0] < WINDOW_S else (now, 0)

    def _one_more(self, counted: tuple[float, int] | None) -> tuple[float, int]:
        since, n = self._current(counted)
        return since, n + 1
