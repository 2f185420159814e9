"""Who may be worked on now, and how long a body may take to come in.

Guarantees: a request takes one of the MAX_REQUESTS_IN_FLIGHT slots only once its key is known, and no key
holds more than half of them; requests that need no key (carriers' callbacks, the console, the documentation)
have slots of their own, by kind, so that strangers can take none from those who have a key; a body that
stalls or trickles ends with a 408, while one that keeps coming may take as long as it needs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Hashable

from starlette.types import Message, Receive

from app.api import limits
from app.api.problems import Problem

ALWAYS = frozenset(("/healthz", "/readyz", "/metrics"))  # answered however much there is to do
KEYED = "/v1/"
CALLBACKS = "/v1/callbacks/"  # a gateway's own signature is their key, and it covers the body


def public_kind(path: str) -> str | None:
    """Whose slots a request without a key takes; None for a path that needs a key."""
    if path.startswith(CALLBACKS):
        return "callbacks"
    if path.startswith(KEYED):
        return None
    return "console" if path.startswith("/console/") else "pages"


class Slots:
    """Requests under way, by holder: a key's id, or a kind of public request. Not for threads."""

    __slots__ = ("_held", "_keyed")

    def __init__(self) -> None:
        self._held: Counter[Hashable] = Counter()
        self._keyed = 0

    def take(self, holder: Hashable, *, public: bool) -> None:
        """One slot, until `release`. Raises Problem (503, 429) and takes none."""
        held = self._held[holder]
        if public:
            if held >= limits.MAX_PUBLIC_IN_FLIGHT:
                raise _overloaded()
        else:
            if self._keyed >= limits.MAX_REQUESTS_IN_FLIGHT:
                raise _overloaded()
            if held >= max(limits.MAX_REQUESTS_IN_FLIGHT // 2, 1):
                raise Problem(
                    429,
                    "rate_limited",
                    "this key has too many requests under way",
                    headers={"retry-after": "1"},
                )
            self._keyed += 1
        self._held[holder] = held + 1

    def release(self, holder: Hashable, *, public: bool) -> None:
        """Give a taken slot back."""
        if not public:
            self._keyed -= 1
        if self._held[holder] == 1:
            del self._held[holder]
        else:
            self._held[holder] -= 1


def _overloaded() -> Problem:
    return Problem(503, "overloaded", "too many requests are being served", headers={"retry-after": "1"})


class Paced:
    """An ASGI `receive` whose body has a deadline (RFC 9110, 15.5.9). Raises Problem (408).

    Only time spent waiting for the client counts. Waiting uses up an allowance of BODY_ALLOWANCE_S, and each
    MIN_BODY_BYTES_PER_S that arrive give a second of it back: so what matters is the recent average.
    """

    __slots__ = ("_left_s", "_receive", "complete", "late")

    def __init__(self, receive: Receive, *, has_body: bool) -> None:
        self._receive = receive
        self._left_s = limits.BODY_ALLOWANCE_S
        self.complete = not has_body
        self.late = False

    async def __call__(self) -> Message:
        if self.complete:  # what comes next is the client's leaving, which may take its time
            return await self._receive()
        now = asyncio.get_running_loop().time
        asked = now()
        try:
            async with asyncio.timeout(max(min(limits.BODY_IDLE_S, self._left_s), 0.0)):
                message = await self._receive()
        except TimeoutError:
            self.late = True
            raise Problem(
                408,
                "request_timeout",
                "the body stopped, or came in too slowly",
                headers={"connection": "close"},
            ) from None
        self.complete = not message.get("more_body", False)
        gained_s = len(message.get("body", b"")) / limits.MIN_BODY_BYTES_PER_S
        self._left_s = min(self._left_s - (now() - asked) + gained_s, limits.BODY_ALLOWANCE_S)
        return message
