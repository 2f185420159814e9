"""Throttled segments between the journal and the wire: each waits for its slot, and its tokens are accounted for.

Guarantees: nothing is submitted before its slot; a token is confirmed as used only after its segment was written, and
given back only when that certainly did not leave; what waits here waits at most `throttles.AHEAD_MS`, and its
`send_before` is looked at by the gateway as always.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence

from app.queue import throttles
from app.queue.connection import EpochLost, Unavailable
from dispatcher.fleet import Open
from gateways.base import Outcome, Retry, Submission
from gateways.path import LONGEST_S, Path

CONFIRM_EVERY_S = 0.02
_TICK_S = 0.001  # of the event loop's timers, which may be early by one


class Slot:
    """Segments of one grant that go at one moment, with the tokens that they use."""

    __slots__ = ("batch", "grant", "left", "moment", "path", "seen_s", "tokens")

    def __init__(self, grant: throttles.Grant, moment: int, path: Path) -> None:
        self.grant = grant
        self.path = path
        self.moment = moment  # ms, by Redis' clock
        self.tokens: list[tuple[int, int]] = []
        self.batch: list[Submission] = []
        self.left = 0  # segments without an outcome
        self.seen_s = 0.0  # by then the carrier had seen what is answered

    def add(self, submission: Submission, tokens: Sequence[tuple[int, int]]) -> None:
        submission.tag.slot = self  # type: ignore[attr-defined]
        self.batch.append(submission)
        self.tokens += tokens
        self.left += submission.mask.bit_count()

    def ended(self, submission: Submission, outcome: Outcome, now_s: float) -> None:
        """A segment has its outcome."""
        self.left -= 1
        if type(outcome) is Retry and not outcome.sent:
            submission.tag.unsent += 1  # type: ignore[attr-defined]
        elif submission.written_at:
            self.path.answered(submission.written_at, now_s)
            self.seen_s = max(self.seen_s, self.path.seen_s(submission.written_at, now_s))
        else:
            self.seen_s = now_s

    def settled(self, now_s: float) -> bool:
        """Whether what became of all tokens is known: answered, or written long ago."""
        if self.left == 0:
            return True
        seen_s = self.seen_s
        for submission in self.batch:
            unsent = submission.tag.unsent  # type: ignore[attr-defined]
            if submission.written + unsent < submission.mask.bit_count():
                return False
            if now_s < submission.written_at + LONGEST_S:
                return False
            seen_s = max(seen_s, self.path.seen_s(submission.written_at, now_s))
        self.seen_s = seen_s
        return True

    def spent(self) -> list[throttles.Spent]:
        """What to confirm; those that did not leave are taken from the last tokens."""
        unsent = sum(submission.tag.unsent for submission in self.batch)  # type: ignore[attr-defined]
        records = []
        for moment, n in reversed(self.tokens):
            back = min(n, unsent)
            unsent -= back
            records.append(throttles.Spent(self.grant.throttles, moment, n - back, back, self.seen_s))
        return records


class Schedule:
    """All slots of one dispatcher."""

    def __init__(self, tokens: throttles.Throttles, clock: Callable[[], float] = time.monotonic) -> None:
        self._throttles = tokens
        self._clock = clock
        self._next: dict[tuple[str, int], tuple[Open, list[Submission]]] = {}
        self._paths: dict[str, Path] = defaultdict(Path)
        self._waiting = 0  # batches whose slot has not come
        self._submitted = asyncio.Event()
        self._open: list[Slot] = []
        self._unused: list[throttles.Spent] = []
        self._confirming: asyncio.Task[None] | None = None

    def add(self, held: Open, grant: throttles.Grant, submissions: Sequence[Submission]) -> None:
        """Give each its tokens, soonest first; a text goes with the last of its own. The rest of them return."""
        left = deque(grant.slots)
        slot: Slot | None = None
        for submission in submissions:
            need, tokens = submission.mask.bit_count(), []
            while need:
                moment, n = left.popleft()
                used = min(n, need)
                need -= used
                tokens.append((moment, used))
                if used < n:
                    left.appendleft((moment, n - used))
            if slot is None or slot.moment != moment:
                slot = Slot(grant, moment, self._paths[held.row.name])
                self._open.append(slot)
            slot.add(submission, tokens)
            self._next.setdefault((held.row.name, moment), (held, []))[1].append(submission)
        self._unused += [throttles.Spent(grant.throttles, moment, 0, n) for moment, n in left]

    def go(self) -> None:
        """Submit what was added, each batch when its slot comes."""
        batches, self._next = self._next, {}
        for (_, moment), (held, batch) in batches.items():
            self._waiting += 1
            self._submit(self._throttles.due(moment), held, batch)
        if (self._open or self._unused) and (self._confirming is None or self._confirming.done()):
            self._confirming = asyncio.create_task(self._confirm(), name="confirm tokens")

    def _submit(self, due_s: float, held: Open, batch: list[Submission]) -> None:
        early_s = due_s - self._clock()
        if early_s > 0:
            asyncio.get_running_loop().call_later(max(early_s, _TICK_S), self._submit, due_s, held, batch)
            return
        self._waiting -= 1
        if not self._waiting:
            self._submitted.set()
        held.gateway.submit(batch)

    async def drained(self) -> None:
        """Returns when every slot has come."""
        while self._waiting:
            self._submitted.clear()
            await self._submitted.wait()

    async def _confirm(self) -> None:
        """One script call for all that is settled, until nothing is open. What can't be said ages out: said twice, it
        might take another's tokens."""
        while self._open or self._unused:
            await asyncio.sleep(CONFIRM_EVERY_S)
            now_s = self._clock()
            spent, self._unused = self._unused, []
            still = []
            for slot in self._open:
                if slot.settled(now_s):
                    spent += slot.spent()
                    slot.batch.clear()  # a circle that the collector doesn't see: tags are outside its view
                else:
                    still.append(slot)
            self._open = still
            if spent:
                try:
                    await self._throttles.confirm(spent)
                except (EpochLost, Unavailable):
                    continue
