"""What of a decision goes now: its route, what fits its gateway's room, and the texts themselves.

Guarantees: nothing is made ready that there is no room for; what can't go now is named with its moment and reason;
all of a portion goes by one gateway.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import msgspec

from app.domain import ids, template, text
from app.domain.content import TOO_MANY_SEGMENTS, content
from app.domain.message import Category, State
from app.domain.pack import Entry, Pack, Rest
from app.domain.recipient import to_check
from app.domain.routing import Choice
from app.policy import Decision
from app.queue import throttles
from dispatcher.fleet import Fleet, Open, Way
from dispatcher.recorder import Tag
from gateways.base import Submission


class Portion(msgspec.Struct, gc=False):
    """The part of a decision that goes now, by one gateway."""

    decision: Decision
    open: Open
    submissions: list[Submission]
    segments: int
    grant: throttles.Grant | None = None
    held: list[tuple[list[Entry], float, str, bool]] = []  # entries, due, reason, to the head
    untouched: float | None = (
        None  # nothing of the parcel moved: give it back, blocked until then (0: at once)
    )


class Room:
    """One cycle's credit by gateway: `left` of it, and the `whole` of what was taken."""

    def __init__(self, credit: dict[str, int]) -> None:
        self.left = credit
        self.whole = dict(credit)

    def at(self, held: Open, segments: int) -> int:
        """What is left at a gateway; where nothing is, a little more is taken."""
        name = held.row.name
        room = self.left.get(name, 0)
        if room == 0:
            room = self.left[name] = held.gateway.take(segments)
            self.whole[name] = self.whole.get(name, 0) + room
        return room


def fits(rest: Rest, pack: Pack, entry: Entry, held: Open) -> bool:
    """Whether a gateway cuts a text as that one did which has the other part of it."""
    if rest.form < 0:
        return held.row.id == -rest.form
    coding = coding_for(pack, held)
    try:
        _, cut = content(template.parse(pack.body), entry, coding)
    except (KeyError, ValueError):
        return True  # it goes nowhere, and `portion` says so
    return text.form(cut.encoding, cut.header, cut.parts, coding.join) == rest.form


def coding_for(pack: Pack, held: Open) -> text.Coding:
    """How a gateway cuts the texts of a pack."""
    return held.gateway.asked_coding if pack.shift_tables else held.gateway.coding


def _validity_s(ends: float, now_s: float) -> int | None:
    """How long a carrier may try; None: as long as it likes."""
    return None if ends == math.inf else max(1, int(ends - now_s))


def _content(
    decision: Decision, body: template.Template, entry: Entry, coding: text.Coding, rest: Rest | None
) -> tuple[str, text.Segments] | None:
    """The words and segments of an entry. None: it goes nowhere, and ends."""
    most = decision.parcel.pack.max_segments
    try:
        words, cut = content(body, entry, coding)
    except (KeyError, ValueError):  # accepted by another version of these checks: it must not block the rest
        decision.stops.append((entry, State.failed, "unrenderable"))
        return None
    if most and len(cut.parts) > most and rest is None:
        decision.stops.append((entry, State.failed, TOO_MANY_SEGMENTS))
        return None
    return words, cut


class Portioner:
    """`closed`: throttles with nothing free, until (Unix seconds)."""

    def __init__(self, fleet: Fleet, closed: Mapping[str, float]) -> None:
        self.fleet = fleet
        self.closed = closed

    def portion(
        self,
        decision: Decision,
        credit: Room,
        now_s: float,
        send_before: float,
    ) -> Portion:
        """What of a decision fits the gateway's room now; the rest waits at the head."""
        parcel, entries = decision.parcel, decision.go
        portion = Portion(decision, None, [], 0, held=[])  # type: ignore[arg-type]
        if not entries:
            return portion
        if parcel.masks:
            entries = self._alike(portion, entries, now_s)
        way = self._way(decision, entries, now_s)
        if way is None:
            decision.stops += [(entry, State.failed, "half_sent") for entry in entries]
            return portion
        if way.open is None:
            self._wait(portion, way, now_s)
            return portion
        if way.stuck:
            portion.held.append((way.stuck, now_s + way.wait_s, way.reason, False))
        if way.others:
            portion.held.append((way.others, now_s, "other_route", True))
        held, entries = way.open, way.entries
        portion.open = held
        name = held.row.name
        room = credit.at(held, parcel.segments)
        pack = parcel.pack
        body = template.parse(pack.body)
        ends = math.inf if pack.expires_at is None else pack.expires_at
        validity = _validity_s(ends, now_s)
        category = Category(pack.category).name
        coding = coding_for(pack, held)
        for place, entry in enumerate(entries):
            rest = parcel.masks.get(entry.index)
            whole = _content(decision, body, entry, coding, rest)
            if whole is None:
                continue
            words, cut = whole
            total = len(cut.parts)
            mask = (1 << total) - 1 if rest is None else rest.mask
            need = mask.bit_count()
            # A text longer than the whole window, or than the pace ever gives at once, goes alone when there is room
            # in the window: what does not fit comes back, what was too fast is made up for.
            alone = not portion.submissions and 0 < room == credit.whole.get(name)
            fits = portion.segments + need <= room or (alone and held.free() >= min(need, held.window()))
            if not fits:
                portion.held.append((entries[place:], now_s, "window_full", True))
                break
            portion.segments += need
            shuts = decision.shuts.get(entry.index)  # the carrier must not try on into the night
            message_id = ids.message_id(parcel.pack_id, entry.index)
            portion.submissions.append(
                Submission(
                    Tag(None, entry, message_id, to_check(entry.to), total, coding.join),  # type: ignore[arg-type]
                    ids.text(message_id),
                    entry.to,
                    pack.sender,
                    words,
                    cut.encoding,
                    cut.parts,
                    mask,
                    int.from_bytes(message_id[6:8], "big") ^ int.from_bytes(message_id[14:16], "big"),
                    send_before,
                    validity if shuts is None else _validity_s(min(ends, shuts), now_s),
                    category,
                    cut.header,
                    metadata=entry.extra.get("metadata", pack.metadata) if entry.extra else pack.metadata,
                )
            )
        credit.left[name] = max(0, room - portion.segments)
        self._tell_route(portion, way)
        if way.probes > len(portion.submissions):
            self.fleet.watch.back(name, pack.region, way.probes - len(portion.submissions))
        if not portion.submissions and not decision.stops and not decision.waits and len(portion.held) == 1:
            portion.untouched = 0.0
        return portion

    def _tell_route(self, portion: Portion, way: Way) -> None:
        """Add to the traces of what goes which route holds, and why this gateway was taken."""
        decision, pack = portion.decision, portion.decision.parcel.pack
        sent = {s.tag.entry.index for s in portion.submissions}  # type: ignore[attr-defined]
        name = portion.open.row.name
        groups: dict[Hashable, tuple[Choice, str, set[int]]] = {}
        if len(way.choices) == 1:
            groups[None] = (way.choices[0], way.entries[0].to, sent)
        else:
            for entry, choice in zip(way.entries, way.choices, strict=True):
                if entry.index in sent:
                    cost = choice.why == "cost"
                    price = (
                        self.fleet.table.price(name, entry.to, pack.region, pack.country) if cost else None
                    )
                    groups.setdefault((choice, price), (choice, entry.to, set()))[2].add(entry.index)
        for choice, to, indexes in groups.values() if sent else ():
            step = self.fleet.route_step(choice, name, pack, to, self.closed)
            traces = []
            for members, trace, until in decision.traces:
                ours = [index for index in members if index in indexes]
                rest = (
                    [index for index in members if index not in indexes] if len(ours) < len(members) else []
                )
                traces += [(ours, (*trace, step), until)] if ours else []
                traces += [(rest, trace, until)] if rest else []
            decision.traces = traces

    @staticmethod
    def _alike(portion: Portion, entries: list[Entry], now_s: float) -> list[Entry]:
        """Those that may go where the first one goes: a text of which a carrier has a part goes alone."""
        masks = portion.decision.parcel.masks
        first = entries[0]
        alike = [first] if first.index in masks else [e for e in entries if e.index not in masks]
        kept = {e.index for e in alike}
        apart = [e for e in entries if e.index not in kept]
        if apart:
            portion.held.append((apart, now_s, "other_route", True))
        return alike

    def _way(self, decision: Decision, entries: list[Entry], now_s: float) -> Way | None:
        """Where they go now. None: nowhere, ever."""
        parcel = decision.parcel
        rest = parcel.masks.get(entries[0].index) if parcel.masks else None
        if rest is None:
            return self.fleet.way(parcel.pack, entries, parcel.attempt, self.closed, now_s)
        return self.fleet.way_of_rests(
            parcel.pack, entries, self.closed, now_s, lambda held: fits(rest, parcel.pack, entries[0], held)
        )

    @staticmethod
    def _wait(portion: Portion, way: Way, now_s: float) -> None:
        """Nothing of it goes now."""
        if portion.held or portion.decision.stops or portion.decision.waits:
            portion.held.append((way.stuck, now_s + way.wait_s, way.reason, False))
        else:
            portion.untouched = now_s + way.wait_s
