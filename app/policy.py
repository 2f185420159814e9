"""What may go now, what waits, what ends here: the rules at hand-over, for whole parcels at a time.

Guarantees: pure but for the question that `questions` builds for Redis' copy; every entry gets exactly one
verdict with a trace of (check, rule, version, verdict); a check that was not reached is not in the trace.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from hashlib import blake2b

import msgspec

from app.countries.packs import Cap, Jurisdiction, Packs
from app.countries.tenants import OwnHours, TenantTerms
from app.domain import ids, template
from app.domain.contacts import NO_RULES, TenantRules, brand_scope, campaign_of, content_of
from app.domain.message import Category, State
from app.domain.pack import Entry, Pack, Parcel
from app.domain.quiet import DAY_S, Hours
from app.domain.recipient import hash_of
from app.queue.connection import Queue
from app.queue.rules import (
    BUDGET_SPENT,
    CAMPAIGN_CAPPED,
    COUNTRY_CAPS,
    EXPIRED_CONSENT,
    LIMITS,
    LISTED,
    NO_CONSENT,
    PASS,
    REPEATED,
    SUPPRESSED,
    TENANT_CAPPED,
    UNREADY,
    Answer,
    Budget,
    Question,
)
from app.queue.rules import Cap as Limit
from app.queue.rules import (
    check as ask_copy,
)

Step = tuple[str, str, str, str]
"""(check, rule, version, verdict)"""

HOURS_CACHE_LIMIT = 50_000
LEAD_S = 60  # how long a text takes to its phone, where the region says nothing: hours shut so much earlier
UNREADY_RETRY_S = 5.0  # a text whose recipient's history is not there yet asks again after this
CAP_RETRY_S = 3_600.0  # a capped text asks again after this, when nobody says when its limit is free
WAIT_STEP_S = 60.0  # ... and who is free at about the same time waits in one parcel
VERSION = "1"  # of the rules that are code: expiry, suppression
STOPPED = {
    SUPPRESSED: "opted_out",
    LISTED: "do_not_call",
    NO_CONSENT: "no_consent",
    EXPIRED_CONSENT: "consent_expired",
    REPEATED: "duplicate",
}
HELD = {
    **dict.fromkeys(COUNTRY_CAPS, "frequency_cap"),
    TENANT_CAPPED: "frequency_cap",
    CAMPAIGN_CAPPED: "campaign_cap",
    BUDGET_SPENT: "contact_budget",
    UNREADY: "contact_history",
}


class Waits(msgspec.Struct, gc=False):
    """Entries that wait: until when (Unix seconds) and why."""

    entries: list[Entry]
    until: float
    reason: str


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """On hours; it holds before `until` (Unix seconds)."""

    until: float
    open: bool
    steps: tuple[Step, ...]


class Asked(msgspec.Struct, gc=False):
    """A question, whom it is about, and the country's caps in it. `going`: they go if it is answered so."""

    entries: list[Entry]
    question: Question
    caps: tuple[Cap, ...]
    going: bool


class Decision(msgspec.Struct, gc=False):
    """A parcel's entries, each in exactly one place; `traces` groups pack indexes by their steps."""

    parcel: Parcel
    go: list[Entry]
    stops: list[tuple[Entry, State, str]]
    waits: list[Waits]
    traces: list[tuple[list[int], tuple[Step, ...], float | None]]
    exempt: list[Entry] = []  # the one confirmation of a stop: it goes to a suppressed number
    asked: list[Asked] = []  # what Redis' copy was asked; those that are held, too: an opt-out ends them now
    places: dict[Jurisdiction, list[Entry]] = {}  # those of `go` that hours let pass, by where they may be
    shuts: dict[int, float] = {}  # index of each of `go` whose hours end today: when (Unix seconds)
    counted: dict[
        int, tuple[Asked, int]
    ] = {}  # index of each of `go` that counts: its question, its place there

    def hold_all(self, until: float, reason: str) -> None:
        """None of them goes before that: said between `first` and `questions`."""
        self.waits.append(Waits(self.go, until, reason))
        self.go, self.places = [], {}


class Desk:
    """The checks, with their caches. `packs` may be replaced at any time by a newer version.

    `terms`: what tenants have set by country. `leads`: how long a text takes to its phone, in seconds by region.
    """

    def __init__(self, packs: Packs) -> None:
        self.packs = packs
        self.tenants: Mapping[int, TenantRules] = {}
        self._caps: dict[Jurisdiction, tuple[Cap, ...]] = {}
        self._longest_cap_s = packs.longest_cap_s()
        self._terms: Mapping[int, TenantTerms] = {}
        self._leads: Mapping[str, int] = {}
        self._hours: dict[tuple[Jurisdiction, int, int, int], Verdict] = {}

    def replace(self, packs: Packs) -> None:
        """Newer country packs hold from the next decision on."""
        self.packs = packs
        self._longest_cap_s = packs.longest_cap_s()
        self._hours.clear()
        self._caps.clear()

    def set_hours(self, terms: Mapping[int, TenantTerms], leads: Mapping[str, int]) -> None:
        """What tenants have set, and the delays of regions, from the next decision on."""
        self._terms, self._leads = terms, leads
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
        if self._forbidden(pack):  # stopped in `second`: an opt-out goes before
            decision.waits.append(Waits(pack.entries, math.inf, "legal_block"))
            decision.traces.append(([e.index for e in pack.entries], base, None))
            return decision
        if category != Category.marketing and getattr(rules.data, category.name) is None:
            step = ("quiet_hours", f"{rules.id}.{category.name}", rules.version, "exempt")
            decision.go = pack.entries
            decision.traces.append(([e.index for e in pack.entries], (*base, step), None))
            return decision
        self._quiet_hours(decision, base, now_s)
        return decision

    def _forbidden(self, pack: Pack) -> bool:
        """Whether the country forbids texts of this category."""
        forbidden = self.packs.pack(pack.country).data.forbidden
        return forbidden is not None and Category(pack.category).name in forbidden.categories

    def _quiet_hours(self, decision: Decision, base: tuple[Step, ...], now_s: float) -> None:
        pack = decision.parcel.pack
        terms = self._terms.get(pack.tenant_id)
        marketing = pack.category == Category.marketing
        own = terms.own_hours(pack.country) if terms is not None and marketing else None
        lead_s = self._leads.get(pack.region, LEAD_S)
        passed: dict[tuple[Step, ...], list[int]] = {}
        held: dict[tuple[tuple[Step, ...], float], list[Entry]] = {}
        decision.shuts, decision.places = {}, {}
        for jurisdiction, entries in self._places(pack).items():
            key = (jurisdiction, pack.category, pack.tenant_id if own is not None else 0, lead_s)
            known = self._hours.get(key)
            if known is None or now_s >= known.until:
                known = self._verdict(key, own, now_s)
            if known.open:
                decision.go += entries
                decision.places[jurisdiction] = entries
                indexes = [e.index for e in entries]
                passed.setdefault(known.steps, []).extend(indexes)
                if known.until < now_s + DAY_S:
                    decision.shuts.update(dict.fromkeys(indexes, known.until + lead_s))
            else:
                held.setdefault((known.steps, known.until), []).extend(entries)
        for steps, indexes in passed.items():
            decision.traces.append((indexes, (*base, *steps), None))
        for (steps, until), entries in held.items():
            stale = until == math.inf or (pack.expires_at is not None and until >= pack.expires_at)
            indexes = [e.index for e in entries]
            if stale:
                stop = (*base, *steps, ("expiry", "message.expires_at", VERSION, "stop"))
                decision.stops += [(e, State.expired, "quiet_hours_past_expiry") for e in entries]
                decision.traces.append((indexes, stop, None))
            else:
                decision.waits.append(Waits(entries, until, "quiet_hours"))
                decision.traces.append((indexes, (*base, *steps), until))

    def _places(self, pack: Pack) -> dict[Jurisdiction, list[Entry]]:
        """A pack's entries by where they may be, in their order within each place."""
        found: dict[Jurisdiction, list[Entry]] = {}
        place, country = self.packs.jurisdiction, pack.country
        for entry in pack.entries:
            where = place(entry.to, country, entry.zone)
            if where in found:
                found[where].append(entry)
            else:
                found[where] = [entry]
        return found

    def window(
        self, pack: Pack, now_s: float, memo: dict[Hashable, tuple[float, float, tuple[Step, ...]] | None]
    ) -> tuple[float, float, tuple[Step, ...]] | None:
        """(until when, from when again, why) texts of a pack that is open now may go: the last of its recipients'
        closings, the first of their openings after it. None: one of them is closed now, or none ever closes.

        `memo` is for the packs that are asked about at the same time.
        """
        terms = self._terms.get(pack.tenant_id)
        own = terms.own_hours(pack.country) if terms is not None else None
        lead_s = self._leads.get(pack.region, LEAD_S)
        shuts, opens = 0.0, math.inf
        why: tuple[Step, ...] = ()
        for entry in pack.entries:
            jurisdiction = self.packs.jurisdiction(entry.to, pack.country, entry.zone)
            key = (jurisdiction, pack.tenant_id if own is not None else 0, lead_s)
            if key not in memo:
                memo[key] = self._shift(jurisdiction, own, lead_s, now_s)
            found = memo[key]
            if found is None:
                return None
            if found[0] > shuts:
                shuts, why = found[0], found[2]
            opens = min(opens, found[1])
        return (shuts, opens, why) if opens < math.inf else None

    def _shift(
        self, jurisdiction: Jurisdiction, own: OwnHours | None, lead_s: int, now_s: float
    ) -> tuple[float, float, tuple[Step, ...]] | None:
        """Until when marketing may go there and from when again; None: it may not now, or always may."""
        rule, widen = (own.rule, own.widen) if own is not None else (None, False)

        def hours(at: float) -> Hours:
            return self.packs.hours(
                jurisdiction, Category.marketing, at, widen=widen, lead_s=lead_s, own=rule
            )

        now = hours(now_s)
        if not now.open or now.until == math.inf:
            return None
        then = hours(now.until)
        step: Step = ("deadline", now.rule, now.version, "hold")
        return None if then.open else (now.until, then.until, (step,))

    def _verdict(
        self, key: tuple[Jurisdiction, int, int, int], own: OwnHours | None, now_s: float
    ) -> Verdict:
        """Whether hours are open, from the packs and what the tenant has set; kept until it changes."""
        jurisdiction, category, _, lead_s = key
        hours = self.packs.hours(
            jurisdiction,
            Category(category),
            now_s,
            widen=own is not None and own.widen,
            lead_s=lead_s,
            own=own.rule if own is not None else None,
        )
        step: Step = ("quiet_hours", hours.rule, hours.version, "pass" if hours.open else "hold")
        steps: tuple[Step, ...] = (step,)
        if own is not None and not hours.rule.startswith(own.id):
            steps = (step, ("tenant_hours", own.id, own.version, "widen" if own.widen else "pass"))
        if len(self._hours) >= HOURS_CACHE_LIMIT:
            self._hours.clear()
        found = self._hours[key] = Verdict(hours.until, hours.open, steps)
        return found

    def questions(self, decision: Decision, *, only_ask: bool = False) -> list[Question]:
        """What Redis' copy must say about the entries that may still go, and about those that are held.

        `only_ask` counts nobody as contacted. The questions are kept in `decision.asked`, for `second`.
        """
        pack = decision.parcel.pack
        decision.exempt = [e for e in decision.go if e.extra is not None and "confirms" in e.extra]
        if decision.exempt:
            apart = {e.index for e in decision.exempt}
            decision.go = [e for e in decision.go if e.index not in apart]
        held = [e for waits in decision.waits for e in waits.entries]
        rules = self.tenants.get(pack.tenant_id, NO_RULES)
        decision.asked = []
        by_caps: dict[tuple[Cap, ...], list[Entry]] = {}
        if pack.category == Category.marketing:
            for place, entries in self._by_number(decision).items():
                if place not in self._caps:
                    self._remember_cap(place)
                by_caps.setdefault(self._caps[place], []).extend(entries)
        elif decision.go:
            by_caps[()] = decision.go
        for caps, entries in by_caps.items():
            question = self._question(pack, rules, entries)
            self._count(question, decision.parcel, rules, caps, entries, only_ask=only_ask)
            decision.asked.append(Asked(entries, question, caps, True))
        if held:
            decision.asked.append(Asked(held, self._question(pack, rules, held), (), False))
        return [asked.question for asked in decision.asked]

    def _by_number(self, decision: Decision) -> dict[Jurisdiction, list[Entry]]:
        """Those that go, by where their numbers are: of a zone that the sender knows, a cap knows nothing."""
        if decision.places and not decision.exempt and not any([entry.zone for entry in decision.go]):
            return decision.places
        found: dict[Jurisdiction, list[Entry]] = {}
        for entry in decision.go:
            place = self.packs.jurisdiction(entry.to, decision.parcel.pack.country)
            found.setdefault(place, []).append(entry)
        return found

    def _remember_cap(self, place: Jurisdiction) -> None:
        if len(self._caps) >= HOURS_CACHE_LIMIT:
            self._caps.clear()
        self._caps[place] = self.packs.caps(place)

    def _question(self, pack: Pack, rules: TenantRules, entries: Sequence[Entry]) -> Question:
        """Suppression, do-not-call list and consent."""
        question = Question(
            tenant_id=pack.tenant_id,
            sender=pack.sender,
            brand=brand_scope(rules.brands.get(pack.sender, "")),
            recipients=[e.recipient for e in entries],
        )
        if pack.category == Category.marketing and not self._forbidden(pack):
            consent = self.packs.consent(pack.country)
            question.registry = pack.country
            question.need_consent = consent.required
            question.heed_withdrawal = not consent.required
            question.ages = consent.ages
        return question

    def _count(
        self,
        question: Question,
        parcel: Parcel,
        rules: TenantRules,
        of_country: Sequence[Cap],
        entries: Sequence[Entry],
        *,
        only_ask: bool,
    ) -> None:
        """The limits on contacts, and the search for the same text; nothing if none is set."""
        pack = parcel.pack
        caps = []
        if pack.category == Category.marketing:
            caps = [
                Limit(letter, one.max, one.per_s * 1000)
                for letter, one in zip(COUNTRY_CAPS, of_country, strict=False)
            ]
            if rules.cap is not None:
                caps.append(Limit(TENANT_CAPPED, rules.cap.max, rules.cap.per_s * 1000))
            if rules.campaign_cap is not None and pack.campaign:
                one = rules.campaign_cap
                caps.append(Limit(CAMPAIGN_CAPPED, one.max, one.per_s * 1000, True))
            question.budget = _budget(rules, parcel.priority, entries)
        again = rules.duplicate_s if pack.category != Category.otp or rules.duplicate_otp else 0
        if not caps and not again and question.budget is None:
            return
        question.keep_ms = max(self._longest_cap_s, rules.longest_s) * 1000 or question.budget.window_ms  # type: ignore[union-attr]
        question.caps = tuple(caps)
        question.contact = pack.category == Category.marketing
        question.campaign = campaign_of(pack.campaign)
        question.tokens = ids.message_ids_at(parcel.pack_id, [e.index for e in entries])
        question.only_ask = only_ask
        if again:
            question.duplicate_ms = again * 1000
            question.contents = _contents(pack, entries)

    def second(self, decision: Decision, answers: Sequence[Answer], now_s: float) -> None:
        """The answers, one for each question: who is stopped or held leaves `go`; traces grow."""
        passed = all(a.letters.count(PASS) == len(a.letters) for a in answers)
        frees = [_frees(answer, now_s) for answer in answers]
        decision.traces = self._grown(decision, answers, frees, one=passed and len(answers) == 1)
        decision.counted = {}
        decision.go = []
        for asked, answer, free in zip(decision.asked, answers, frees, strict=True):
            letters = answer.letters
            if asked.going:
                self._sort_out(decision, asked, letters, free)
            elif letters.count(PASS) != len(letters):
                self._stop_held(decision, asked, letters)
        self._block(decision)
        if decision.exempt:
            decision.go = [*decision.go, *decision.exempt]

    @staticmethod
    def _block(decision: Decision) -> None:
        """Whom no opt-out has stopped, a law does."""
        if decision.waits and any(waits.reason == "legal_block" for waits in decision.waits):
            for waits in decision.waits:
                decision.stops += [(e, State.suppressed, waits.reason) for e in waits.entries]
            decision.waits = []

    @staticmethod
    def _stop_held(decision: Decision, asked: Asked, letters: str) -> None:
        """Who waits for an hour and has opted out, or never consented, ends now."""
        stopped = {
            e.index: letter for e, letter in zip(asked.entries, letters, strict=True) if letter != PASS
        }
        for waits in decision.waits:
            for entry in waits.entries:
                if entry.index in stopped:
                    decision.stops.append((entry, State.suppressed, STOPPED[stopped[entry.index]]))
            waits.entries = [e for e in waits.entries if e.index not in stopped]
        decision.waits = [waits for waits in decision.waits if waits.entries]

    @staticmethod
    def _sort_out(decision: Decision, asked: Asked, letters: str, free: dict[int, float]) -> None:
        """Whom the copy stops or holds leaves `go`; who goes and was counted is in `counted`."""
        pack, question = decision.parcel.pack, asked.question
        counting = question.keep_ms > 0 and not question.only_ask
        if letters.count(PASS) == len(letters):
            decision.go += asked.entries
            if counting:
                decision.counted.update((e.index, (asked, place)) for place, e in enumerate(asked.entries))
            return
        waiting: dict[tuple[str, float], list[Entry]] = {}
        for place, (entry, letter) in enumerate(zip(asked.entries, letters, strict=True)):
            if letter == PASS:
                decision.go.append(entry)
                if counting:
                    decision.counted[entry.index] = (asked, place)
            elif letter in LIMITS:
                waiting.setdefault((HELD[letter], free[place]), []).append(entry)
            else:
                decision.stops.append((entry, State.suppressed, STOPPED[letter]))
        for (reason, until), entries in waiting.items():
            if pack.expires_at is not None and until >= pack.expires_at:
                decision.stops += [(e, State.expired, f"{reason}_past_expiry") for e in entries]
            else:
                decision.waits.append(Waits(entries, until, reason))

    def _grown(
        self, decision: Decision, answers: Sequence[Answer], frees: Sequence[dict[int, float]], *, one: bool
    ) -> list[tuple[list[int], tuple[Step, ...], float | None]]:
        """The traces with the steps of Redis' answers. `one`: there is one question, and all of it passed."""
        if one and not decision.exempt:
            steps = self._steps(decision.parcel.pack, decision.asked[0], PASS)
            going = {e.index for e in decision.asked[0].entries}
            return [
                (indexes, trace + steps if indexes[0] in going else trace, until)
                for indexes, trace, until in decision.traces
            ]
        told: dict[int, tuple[int, str, float | None]] = {}
        for number, (asked, answer) in enumerate(zip(decision.asked, answers, strict=True)):
            for place, (entry, letter) in enumerate(zip(asked.entries, answer.letters, strict=True)):
                told[entry.index] = (number, letter, frees[number].get(place))
        traces = []
        replies = {e.index for e in decision.exempt}
        for indexes, trace, until in decision.traces:
            groups: dict[tuple[int, str, float | None] | None, list[int]] = {}
            for index in indexes:
                groups.setdefault(told.get(index), []).append(index)
            for answered, members in groups.items():
                if answered is None:
                    step: Step = ("suppression", "reply.confirmation", VERSION, "exempt")
                    traces.append((members, (*trace, step) if replies.issuperset(members) else trace, until))
                    continue
                number, letter, free = answered
                steps = self._steps(decision.parcel.pack, decision.asked[number], letter)
                when = until if letter == PASS else free if letter in LIMITS else None
                traces.append((members, trace + steps, when))
        return traces

    def _steps(self, pack: Pack, asked: Asked, letter: str) -> tuple[Step, ...]:
        """The steps that Redis' answer stands for: those passed, then the one that stops or holds."""
        steps: list[Step] = []
        for letters, (check, rule, version), passing in self._checks(pack, asked):
            if letter in letters:
                verdict = "hold" if letter in LIMITS else "stop"
                return (*steps, (check, rule, version, verdict))
            if passing is not None:
                steps.append((check, rule, version, passing))
        return tuple(steps)

    def _checks(self, pack: Pack, asked: Asked) -> Iterator[tuple[str, tuple[str, str, str], str | None]]:
        """(letters that it stops with, check with rule and version, verdict when passed), in order."""
        yield SUPPRESSED, ("suppression", "tenant.suppressions", VERSION), "pass"
        question = asked.question
        if self._forbidden(pack):
            rules = self.packs.pack(pack.country)
            yield "", ("legal_block", f"{rules.id}.forbidden", rules.version), "stop"
            return
        if question.registry:
            known = question.registry in self.tenants.get(pack.tenant_id, NO_RULES).registries
            rule_of = f"registry.{question.registry}"
            yield LISTED, ("do_not_call", rule_of, VERSION), "pass" if known else None
        if pack.category == Category.marketing:
            rule = self.packs.consent(pack.country)
            passing = "pass" if rule.required else "exempt"
            yield NO_CONSENT + EXPIRED_CONSENT, ("consent", rule.rule, rule.version), passing
        if question.keep_ms:
            yield UNREADY, ("contact_history", "tenant.contact_history", VERSION), None
        for place, limit in enumerate(question.caps):  # the country's come first
            if place < len(asked.caps):
                cap = asked.caps[place]
                yield limit.letter, ("frequency_cap", cap.rule, cap.version), "pass"
            else:
                name = "frequency_cap" if limit.letter == TENANT_CAPPED else "campaign_cap"
                yield limit.letter, (name, f"tenant.{name}", VERSION), "pass"
        if question.duplicate_ms:
            yield REPEATED, ("duplicate", "tenant.duplicate_window_s", VERSION), "pass"
        if question.budget is not None:
            yield BUDGET_SPENT, ("contact_budget", "organisation.budget", VERSION), "pass"


def counted(decision: Decision, index: int) -> tuple[Question, int] | None:
    """The question by which the entry of that index was counted, and its place in it; None: it was not."""
    found = decision.counted.get(index)
    return None if found is None else (found[0].question, found[1])


def _budget(rules: TenantRules, priority: int, entries: Sequence[Entry]) -> Budget | None:
    organisation = rules.organisation
    if organisation is None or organisation.limit is None:
        return None
    return Budget(
        organisation.id,
        [hash_of(organisation.hash_key, e.to) for e in entries],
        organisation.allowed(priority),
        organisation.limit.per_s * 1000,
    )


def _contents(pack: Pack, entries: Sequence[Entry]) -> list[bytes]:
    """By what the texts of entries are known again; one that can't be rendered is like no other."""
    found = []
    parse, shared = template.parse, pack.body
    for entry in entries:
        try:
            words = parse(shared if entry.body is None else entry.body).render(entry.variables)
        except (KeyError, ValueError):
            words = entry.to
        found.append(content_of(words))
    return found


def _frees(answer: Answer, now_s: float) -> dict[int, float]:
    """When those that a limit holds ask again: rounded up, so that they wait together."""
    frees = {}
    for place, letter in enumerate(answer.letters):
        if letter == UNREADY:
            frees[place] = now_s + UNREADY_RETRY_S
        elif letter in LIMITS:
            free = answer.free_at_s.get(place, now_s + CAP_RETRY_S)
            frees[place] = math.ceil(free / WAIT_STEP_S) * WAIT_STEP_S
    return frees


async def ask(
    desk: Desk, queue: Queue, decisions: Sequence[Decision], now_s: float, *, only_ask: bool = False
) -> None:
    """Take the answers of Redis' copy into these decisions: one round trip. `only_ask` counts nobody.

    Raises EpochLost, Unavailable.
    """
    asking = [(d, desk.questions(d, only_ask=only_ask)) for d in decisions if d.go or d.waits]
    if not asking:
        return
    answers = iter(await ask_copy(queue, [q for _, questions in asking for q in questions]))
    for decision, questions in asking:
        desk.second(decision, [next(answers) for _ in questions], now_s)


def trace_id(trace: Sequence[Step]) -> int:
    """The id under which a trace is interned: a hash of its steps, as a signed 64-bit number."""
    return int.from_bytes(blake2b(repr(trace).encode(), digest_size=8).digest(), "big", signed=True)
