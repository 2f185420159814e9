"""The words of a message that every part of Volley shares: category, states, and the moves between them.

Guarantee: `MOVES` is the only place that says which state may follow which.
"""

from __future__ import annotations

from enum import IntEnum


class Category(IntEnum):
    """Why a text is sent; the rules depend on it, so it has no default."""

    otp = 1
    transactional = 2
    marketing = 3


class State(IntEnum):
    """Where a message stands. Numbers are stored; names are the API's."""

    accepted = 1
    queued = 2
    deferred = 3
    submitting = 4
    submitted = 5
    unknown = 6
    delivered = 10
    undelivered = 11
    rejected = 12
    suppressed = 13
    cancelled = 14
    expired = 15
    failed = 16
    unconfirmed = 17

    @property
    def final(self) -> bool:
        return self >= State.delivered


# What may follow what. `accepted`, `queued` and `deferred` are carried by a message's parcel: a
# batch still loading, a due time now, a due time to come.
MOVES: dict[State, frozenset[State]] = {
    State.accepted: frozenset({State.queued, State.deferred, State.cancelled, State.expired}),
    State.queued: frozenset(
        {
            State.deferred,
            State.submitting,
            State.suppressed,
            State.cancelled,
            State.expired,
            State.failed,
            State.rejected,
        }
    ),
    State.deferred: frozenset({State.queued, State.cancelled, State.expired, State.suppressed}),
    # back to queued only after an explicit refusal, or when no byte left
    State.submitting: frozenset(
        {State.submitted, State.unknown, State.queued, State.rejected, State.failed, State.expired}
    ),
    # cancelled: the carrier took it back when asked to
    State.submitted: frozenset(
        {State.delivered, State.undelivered, State.rejected, State.cancelled, State.unconfirmed}
    ),
    # back to queued only for an OTP inside its validity, or a transactional text whose request allowed it
    State.unknown: frozenset(
        {State.submitted, State.queued, State.delivered, State.undelivered, State.rejected, State.unconfirmed}
    ),
    # the one correction of a final state: a receipt that came after the horizon
    State.unconfirmed: frozenset({State.delivered, State.undelivered, State.rejected, State.cancelled}),
    State.delivered: frozenset(),
    State.undelivered: frozenset(),
    State.rejected: frozenset(),
    State.suppressed: frozenset(),
    State.cancelled: frozenset(),
    State.expired: frozenset(),
    State.failed: frozenset(),
}
