"""What may go now, what waits, what ends here: the rules at hand-over, for whole parcels at a time.

Guarantees: pure but for the question that `questions` builds for Redis' copy; every entry gets exactly one
verdict with a trace of (check, rule, version, verdict); a check that was not reached is not in the trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from app.countries.packs import Cap, Jurisdiction, Packs
from app.domain import ids
from app.domain.message import Category, State
from app.domain.pack import Entry, Pack, Parcel
from app.queue.rules import CAPPED, NO_CONSENT, PASS, SUPPRESSED, Question

Step = tuple[str, str, str, str]
"""(check, rule, version, verdict)"""

HOURS_CACHE_LIMIT = 50_000
CAP_RETRY_S = 3_600.0  # a capped text asks again after this, or when its window ends if that is sooner
VERSION = "1"  # of the rules that are code: expiry, suppression


class Waits(msgspec.Struct, gc=False):
    """Entries that wait: until when (Unix seconds) and why."""

    entries: list[Entry]
    until: float
    reason: str


class Decision(msgspec.Struct, gc=False):
    """A parcel's entries, each in exactly one place; `traces` groups pack indexes by their steps."""

    parcel: Parcel
    go: list[Entry]
    stops: list[tuple[Entry, State, str]]
    waits: list[Waits]
    traces: list[tuple[list[int], tuple[Step, ...], float | None]]
    held: list[Entry] = []  # outside their hours: an opt-out ends them now, not at the opening
    exempt: list[Entry] = []  # the one confirmation of a stop: it goes to a suppressed number
    caps: list[Cap | None] = []  # the frequency cap that each entry of `go` was counted against


class Desk:
    """The checks, with their caches. `packs` may be replaced at any time by a newer version."""

    def __init__(self, packs: Packs) -> None:
        self.packs = packs
        self._hours: dict[tuple[Jurisdiction, int], tuple[float, bool, Step]] = {}

    def replace(self, packs: Packs) -> None:
        """Newer country packs hold from the next decision on."""
        self.packs = packs
        self._hours.clear()

    def first(self, parcel: Parcel, now_s: float) -> Decision:
        """Expiry and quiet hours: what needs no question to Redis."""
        decision = Decision(parcel, [], [], [], [])
        pack = parcel.pack
        if pack.expires_at is not None:
            if now_s >= pack.expires_at:
                step: Step = ("expiry", "message.expires_at", VERSION, "stop")
                decision.stops = [(e, State.expired, "expired") for e in pack.entries]
                decision.traces.append(([e.index for e in pack.entries], (step,), None))
                return decision
            base: tuple[Step, ...] = (("expiry", "message.expires_at", VERSION, "pass"),)
        else:
            base = ()
        rules = self.packs.pack(pack.country)
        category = Category(pack.category)
        if category != Category.marketing and getattr(rules.data, category.name) is None:
            step = ("quiet_hours", f"{rules.id}.{category.name}", rules.version, "exempt")
            decision.go = pack.entries
            decision.traces.append(([e.index for e in pack.entries], (*base, step), None))
            return decision
        self._quiet_hours(decision, base, now_s)
        return decision

    def _quiet_hours(self, decision: Decision, base: tuple[Step, ...], now_s: float) -> None:
        pack = decision.parcel.pack
        passed: dict[Step, list[int]] = {}
        held: dict[tuple[Step, float], list[Entry]] = {}
        for entry in pack.entries:
            jurisdiction = self.packs.jurisdiction(entry.to, pack.country)
            until, is_open, step = self._verdict(jurisdiction, pack.category, now_s)
            if is_open:
                decision.go.append(entry)
                passed.setdefault(step, []).append(entry.index)
            else:
                held.setdefault((step, until), []).append(entry)
        for step, indexes in passed.items():
            decision.traces.append((indexes, (*base, step), None))
        for (step, until), entries in held.items():
            stale = until == math.inf or (pack.expires_at is not None and until >= pack.expires_at)
            indexes = [e.index for e in entries]
            if stale:
                stop = (*base, step, ("expiry", "message.expires_at", VERSION, "stop"))
                decision.stops += [(e, State.expired, "quiet_hours_past_expiry") for e in entries]
                decision.traces.append((indexes, stop, None))
            else:
                decision.waits.append(Waits(entries, until, "quiet_hours"))
                decision.traces.append((indexes, (*base, step), until))

    def _verdict(self, jurisdiction: Jurisdiction, category: int, now_s: float) -> tuple[float, bool, Step]:
        key = (jurisdiction, category)
        known = self._hours.get(key)
        if known is not None and now_s < known[0]:
            return known
        hours = self.packs.hours(jurisdiction, Category(category), now_s)
        step: Step = ("quiet_hours", hours.rule, hours.version, "pass" if hours.open else "hold")
        if len(self._hours) >= HOURS_CACHE_LIMIT:
            self._hours.clear()
        found = (hours.until, hours.open, step)
        self._hours[key] = found
        return found

    def questions(self, decision: Decision) -> list[Question]:
        """What Redis' copy must say about the entries that may still go: one for each frequency cap among them.

        Puts `decision.go` into the order of the questions.
        """
        pack = decision.parcel.pack
        decision.exempt = [e for e in decision.go if e.extra is not None and "confirms" in e.extra]
        if decision.exempt:
            apart = {e.index for e in decision.exempt}
            decision.go = [e for e in decision.go if e.index not in apart]
        decision.held = [e for waits in decision.waits for e in waits.entries]
        if pack.category != Category.marketing:
            asking = [*decision.go, *decision.held]
            return self._plain(pack, asking, need_consent=False)
        by_cap: dict[Cap | None, list[Entry]] = {}
        for entry in decision.go:
            cap = self.packs.cap(self.packs.jurisdiction(entry.to, pack.country))
            by_cap.setdefault(cap, []).append(entry)
        decision.go = [entry for entries in by_cap.values() for entry in entries]
        decision.caps = [cap for cap, entries in by_cap.items() for _ in entries]
        consent = self.packs.consent(pack.country).required
        counted = [
            Question(
                pack.tenant_id,
                pack.sender,
                [e.recipient for e in entries],
                need_consent=consent,
                cap_max=cap.max if cap else 0,
                cap_window_ms=cap.per_s * 1000 if cap else 0,
                cap_tokens=[ids.message_id(decision.parcel.pack_id, e.index) for e in entries]
                if cap
                else None,
            )
            for cap, entries in by_cap.items()
        ]
        return counted + self._plain(pack, decision.held, need_consent=consent)

    @staticmethod
    def _plain(pack: Pack, entries: Sequence[Entry], *, need_consent: bool) -> list[Question]:
        """A question without a cap; none for nobody."""
        if not entries:
            return []
        recipients = [e.recipient for e in entries]
        return [Question(pack.tenant_id, pack.sender, recipients, need_consent=need_consent)]

    def second(self, decision: Decision, letters: str, now_s: float) -> None:
        """The answers, one letter an entry of `go`, then of `held`: who is stopped leaves; traces grow."""
        going = len(decision.go)
        caps = decision.caps or [None] * going
        decision.traces = self._grown(decision, letters, [*caps, *(None for _ in decision.held)], now_s)
        if letters.count(PASS) != len(letters):
            self._sort_out(decision, letters[:going], caps, now_s)
            self._stop_held(decision, letters[going:])
        if decision.exempt:
            decision.go = [*decision.go, *decision.exempt]

    @staticmethod
    def _stop_held(decision: Decision, letters: str) -> None:
        """Who waits for an hour and has opted out, or never consented, ends now."""
        stopped = {
            e.index: letter for e, letter in zip(decision.held, letters, strict=True) if letter != PASS
        }
        if not stopped:
            return
        for waits in decision.waits:
            for entry in waits.entries:
                if entry.index in stopped:
                    reason = "opted_out" if stopped[entry.index] == SUPPRESSED else "no_consent"
                    decision.stops.append((entry, State.suppressed, reason))
            waits.entries = [e for e in waits.entries if e.index not in stopped]
        decision.waits = [waits for waits in decision.waits if waits.entries]

    def _sort_out(self, decision: Decision, letters: str, caps: Sequence[Cap | None], now_s: float) -> None:
        """Whom the copy stops or holds leaves `go`."""
        pack = decision.parcel.pack
        go, capped = [], []
        for entry, letter in zip(decision.go, letters, strict=True):
            if letter == SUPPRESSED:
                decision.stops.append((entry, State.suppressed, "opted_out"))
            elif letter == NO_CONSENT:
                decision.stops.append((entry, State.suppressed, "no_consent"))
            elif letter == CAPPED:
                capped.append(entry)
            else:
                go.append(entry)
        if decision.caps:
            decision.caps = [cap for cap, letter in zip(caps, letters, strict=True) if letter == PASS]
        decision.go = go
        if capped:
            until = now_s + CAP_RETRY_S
            if pack.expires_at is not None and until >= pack.expires_at:
                decision.stops += [(e, State.expired, "frequency_cap_past_expiry") for e in capped]
            else:
                decision.waits.append(Waits(capped, until, "frequency_cap"))

    def _grown(
        self, decision: Decision, letters: str, caps: Sequence[Cap | None], now_s: float
    ) -> list[tuple[list[int], tuple[Step, ...], float | None]]:
        """The traces with the steps of Redis' answers."""
        asked = {
            entry.index: (letter, cap)
            for entry, letter, cap in zip([*decision.go, *decision.held], letters, caps, strict=True)
        }
        traces = []
        replies = {e.index for e in decision.exempt}
        for indexes, trace, until in decision.traces:
            groups: dict[tuple[str, Cap | None] | None, list[int]] = {}
            for index in indexes:
                groups.setdefault(asked.get(index), []).append(index)
            for answer, members in groups.items():
                if answer is None:
                    step: Step = ("suppression", "reply.confirmation", VERSION, "exempt")
                    traces.append((members, (*trace, step) if replies.issuperset(members) else trace, until))
                else:
                    when = (
                        now_s + CAP_RETRY_S if answer[0] == CAPPED else until if answer[0] == PASS else None
                    )
                    traces.append((members, trace + self._steps(decision.parcel.pack, *answer), when))
        return traces

    def _steps(self, pack: Pack, letter: str, cap: Cap | None) -> tuple[Step, ...]:
        """The steps that Redis' answer stands for."""
        suppression = ("suppression", "tenant.suppressions", VERSION)
        if letter == SUPPRESSED:
            return ((*suppression, "stop"),)
        steps: tuple[Step, ...] = ((*suppression, "pass"),)
        if pack.category == Category.marketing:
            rule = self.packs.consent(pack.country)
            if letter == NO_CONSENT:
                return (*steps, ("consent", rule.rule, rule.version, "stop"))
            steps = (*steps, ("consent", rule.rule, rule.version, "pass" if rule.required else "exempt"))
        if cap is not None:
            steps = (*steps, ("frequency_cap", cap.rule, cap.version, "hold" if letter == CAPPED else "pass"))
        return steps


def trace_id(trace: Sequence[Step]) -> int:
    """The id under which a trace is interned: a hash of its steps, as a signed 64-bit number."""
    return int.from_bytes(blake2b(repr(trace).encode(), digest_size=8).digest(), "big", signed=True)
