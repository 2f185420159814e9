"""Which dispatchers are dead.

Guarantee: slow is not dead. A lease ends only when, over looks that each had a prompt answer and while our own
heartbeat went on, it neither beat nor moved; and while its lock is held, a process that answers its connection
has it, only after a time in which nothing that lives is silent. Our own lease is never ours to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from app.store.dispatch import Sighting

LOOK_EVERY_S = 0.5
STALL_S = 1.0  # an answer, or our own turn, later than this: what was seen before it says nothing
GONE_S = 2.0  # silent, and the lock is free: a live one beats every second and takes its lock back at once
CAREFUL_S = 5.0  # the same, when connections were lost: the others' take as long to come back as ours
CAREFUL_FOR_S = 15.0
HUNG_S = 60.0  # silent, and the lock is held: the process is there and does not run


class _Silence(msgspec.Struct, frozen=True):
    """Since when a lease looks as it does, and where our own heartbeat stood then."""

    seen_at: datetime
    held: bool
    own_seen_at: datetime
    since_s: float


class Watch:
    """Looks at the leases, as one dispatcher sees them. Times are of a monotonic clock."""

    def __init__(self, own: int) -> None:
        self._own = own
        self._silences: dict[int, _Silence] = {}
        self._looked_s = float("-inf")
        self._careful_until_s = float("-inf")

    def interrupted(self, now_s: float) -> None:
        """PostgreSQL was away: nobody could be heard of."""
        self._silences = {}
        self._careful_until_s = now_s + CAREFUL_FOR_S

    def look(self, found: Sequence[Sighting], began_s: float, ended_s: float) -> list[Sighting]:
        """The live leases, asked for at `began_s` and known at `ended_s`; gives those that are dead."""
        stalled = ended_s - began_s > STALL_S or began_s - self._looked_s > LOOK_EVERY_S + STALL_S
        self._looked_s = ended_s
        own = next((one.seen_at for one in found if one.lease_id == self._own), None)
        if own is None:
            self._silences = {}
            return []
        before = {} if stalled else self._silences
        self._silences = {}
        dead = []
        for one in found:
            if one.lease_id == self._own:
                continue
            silence = before.get(one.lease_id)
            if silence is None or (silence.seen_at, silence.held) != (one.seen_at, one.held):
                silence = _Silence(one.seen_at, one.held, own, ended_s)
            self._silences[one.lease_id] = silence
            if began_s - silence.since_s >= self._patience_s(one, began_s) and own != silence.own_seen_at:
                dead.append(one)
        return dead

    def _patience_s(self, one: Sighting, now_s: float) -> float:
        if one.held:
            return HUNG_S
        return CAREFUL_S if now_s < self._careful_until_s else GONE_S
