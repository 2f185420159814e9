"""What follows from an outcome: final, wait, or try again, and when.

Guarantee (promise 2): a segment that may have been handed over is tried again only when it is an OTP inside
its validity, or a transactional text whose request allowed it. A marketing text never is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from app.domain.message import Category, State

MAX_REFUSALS = 8  # explicit refusals before we give up; what never left us is tried until it expires
MAX_NOT_SENT = 4_000  # ... or, without an expiry, so often: a day, at NOT_SENT_LIMIT_S. Waiting doesn't count
MAX_ATTEMPTS = 32_000  # whatever the expiry: a week, and what the journal can count
MAX_UNKNOWN_RETRIES = 2
BACKOFF_FIRST_S = 1.0
BACKOFF_LIMIT_S = 60.0
NOT_SENT_LIMIT_S = 30.0  # the carrier was not bothered: be back soon after it is
UNKNOWN_DELAY_S = 5.0  # before an OTP of unknown fate goes again: its receipt may come first

Kind = Literal["accepted", "again", "unknown", "rejected"]
_GRAVITY = ("accepted", "again", "unknown", "rejected")  # a text is as good as its worst segment


class Part(msgspec.Struct, frozen=True, gc=False):
    """One segment's outcome. `sent` is False when no byte left; `delay_s` is the carrier's Retry-After."""

    kind: Kind
    reason: str = ""
    raw: str = ""
    sent: bool = True
    delay_s: float | None = None


class Conclusion(msgspec.Struct, gc=False):
    """What one attempt came to: the moves of the message, and what is to be tried again.

    `mask`: these segments only; 0: all of the text, and in whatever way the next gateway cuts it.
    """

    moves: list[tuple[State, State]]
    reason: str | None = None
    raw: str | None = None
    again_s: float | None = None
    mask: int = 0

    @property
    def state(self) -> State:
        return self.moves[-1][1]


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """The message's next state, and if it is to be tried again, after how long."""

    state: State
    reason: str | None
    again_s: float | None = None


def backoff_s(attempt: int, jitter: float, limit_s: float = BACKOFF_LIMIT_S) -> float:
    """Exponential from 1 s to the limit, spread by `jitter` (0 to 1) over the upper half."""
    full = min(limit_s, BACKOFF_FIRST_S * 2 ** min(attempt - 1, 10))
    return full * (0.5 + 0.5 * jitter)


def after_refusal(
    *,
    reason: str,
    attempt: int,
    now_s: float,
    expires_s: float | None,
    left_us: bool,
    delay_s: float | None,
    jitter: float,
) -> Verdict:
    """A segment was explicitly refused (`left_us`), or no byte of it left: may it go again, and when."""
    limit_s = BACKOFF_LIMIT_S if left_us else NOT_SENT_LIMIT_S
    wait = delay_s if delay_s is not None else backoff_s(attempt, jitter, limit_s)
    if expires_s is not None and now_s + wait >= expires_s:
        return Verdict(State.expired, reason)
    most = MAX_REFUSALS if left_us else MAX_NOT_SENT if expires_s is None else MAX_ATTEMPTS
    if attempt >= most:
        return Verdict(State.failed, reason)
    return Verdict(State.queued, reason, wait)


def after_unknown(
    *,
    reason: str,
    category: int,
    allowed: bool,
    attempt: int,
    now_s: float,
    expires_s: float | None,
) -> Verdict:
    """A segment may have been handed over: wait for its receipt, or (OTP, or allowed) go again."""
    may = category == Category.otp or (category == Category.transactional and allowed)
    alive = expires_s is not None and now_s + UNKNOWN_DELAY_S < expires_s
    if may and attempt <= MAX_UNKNOWN_RETRIES and (alive or (allowed and expires_s is None)):
        return Verdict(State.queued, reason, UNKNOWN_DELAY_S)
    return Verdict(State.unknown, reason)


def conclude(
    parts: Sequence[Part | None],
    *,
    category: int,
    allowed: bool,
    attempt: int,
    now_s: float,
    expires_s: float | None,
    jitter: float,
) -> Conclusion:
    """The message's next state from its segments' outcomes in one attempt (None: not part of it)."""
    worst = max((p for p in parts if p is not None), key=lambda p: _GRAVITY.index(p.kind))
    here = State.submitting
    if worst.kind == "accepted":
        return Conclusion([(here, State.submitted)])
    raw = worst.raw or None
    if worst.kind == "rejected":
        return Conclusion([(here, State.rejected)], worst.reason, raw)
    if worst.kind == "unknown":
        verdict = after_unknown(
            reason=worst.reason,
            category=category,
            allowed=allowed,
            attempt=attempt,
            now_s=now_s,
            expires_s=expires_s,
        )
        moves = [(here, State.unknown)]
        if verdict.state == State.queued:
            moves.append((State.unknown, State.queued))
        wrong: tuple[Kind, ...] = ("unknown", "again")
    else:
        verdict = after_refusal(
            reason=worst.reason,
            attempt=attempt,
            now_s=now_s,
            expires_s=expires_s,
            left_us=worst.sent,
            delay_s=worst.delay_s,
            jitter=jitter,
        )
        moves = [(here, verdict.state)]
        wrong = ("again",)
    return Conclusion(moves, worst.reason, raw, verdict.again_s, repeated(parts, wrong))


def repeated(parts: Sequence[Part | None], wrong: Sequence[Kind]) -> int:
    """The mask of the segments that have to go again; 0 when it is all of them."""
    mask = sum(1 << i for i, part in enumerate(parts) if part is not None and part.kind in wrong)
    return 0 if mask == (1 << len(parts)) - 1 else mask
