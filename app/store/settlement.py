"""What becomes of messages whose dispatcher can't say it any more: read from the journal, by the rules of retry.

Guarantee: an attempt without outcome is `unknown` and goes again only as `retry.conclude` allows; what is final
stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import asyncpg
import msgspec
from asyncpg.pgproto.pgproto import UUID as PgUUID

from app.domain import ids, retry
from app.domain.message import State
from app.domain.pack import Entry, Parcel, Rest, narrowed
from app.store.dispatch import OUTCOME_COLUMNS, Tally, are_final, insert_parcels, write_finals, write_tallies
from app.store.intake import at
from app.store.webhooks import Change, Publisher

_PARTS: dict[int, retry.Kind] = {1: "accepted", 2: "rejected", 3: "again", 4: "unknown"}
_SUBMITTING = int(State.submitting)


class Estate(msgspec.Struct):
    """What the journal says about the messages of some parcels."""

    attempts: dict[tuple[bytes, int], tuple[int, int, int]]  # (message, attempt) -> kind, gateway, mask
    outcomes: dict[tuple[bytes, int], dict[int, tuple[int, str, float]]]  # -> segment -> kind, reason, at
    totals: dict[
        tuple[bytes, int], int
    ]  # (message, attempt) -> segments of the whole text, as its outcomes say
    final: set[bytes]

    @classmethod
    async def read(cls, driver: asyncpg.Connection, parcels: Sequence[Parcel]) -> Estate:
        messages = [ids.message_id(p.pack_id, e.index) for p in parcels for e in p.pack.entries]
        members = [PgUUID(one) for one in messages]
        attempts = await driver.fetch(
            "SELECT message_id, attempt, kind, gateway_id, mask FROM attempts WHERE message_id = ANY($1)",
            members,
        )
        outcomes = await driver.fetch(
            "SELECT message_id, attempt, segment, kind, reason, at, segments FROM outcomes"
            " WHERE message_id = ANY($1)",
            members,
        )
        by_attempt: dict[tuple[bytes, int], dict[int, tuple[int, str, float]]] = {}
        for r in outcomes:
            by_attempt.setdefault((r[0].bytes, r[1]), {})[r[2]] = (r[3], r[4] or "", r[5].timestamp())
        return cls(
            {(r[0].bytes, r[1]): (r[2], r[3] or 0, r[4]) for r in attempts},
            by_attempt,
            {(r[0].bytes, r[1]): r[6] for r in outcomes},
            await are_final(driver, messages),
        )


class Settlement:
    """Collects what has to be written for parcels whose messages may have been handed over."""

    def __init__(
        self, now_s: float, to_check: Callable[[str], int], reason: str, tried_s: float | None = None
    ) -> None:
        """`reason` is that of a segment whose outcome nobody knows; `tried_s` when it was handed over, if it was."""
        self.now_s = now_s
        self.tried_s = now_s if tried_s is None else tried_s
        self.to_check = to_check
        self.reason = reason
        self.outcomes: list[tuple] = []
        self.finals: list[tuple[bytes, int, str | None, str | None]] = []
        self.changes: list[Change] = []
        self.tallies: dict[Tally, int] = {}
        self.back: list[Parcel] = []
        self.unknown = 0

    def settle(self, parcel: Parcel, estate: Estate) -> None:
        """Attempt without outcome is unknown, no attempt goes on."""
        never: list[Entry] = []
        again: list[tuple[Entry, Rest | None]] = []
        for entry in parcel.pack.entries:
            key = (ids.message_id(parcel.pack_id, entry.index), parcel.attempt)
            attempt = estate.attempts.get(key)
            if attempt is None:
                never.append(entry)
            elif attempt[0] == _SUBMITTING:
                known = estate.outcomes.get(key, {})
                total = _total(parcel, entry, attempt[2], key, estate)
                final = key[0] in estate.final
                end = self._conclude(parcel, entry, key[0], attempt, known, total=total, final=final)
                if end is not None and end.again_s is not None:
                    # how that gateway cuts texts is not known here
                    again.append((entry, Rest(end.mask, -attempt[1]) if end.mask else None))
        if never:
            self.back.append(self._parcel(parcel, [(e, parcel.masks.get(e.index)) for e in never], 0))
        if again:
            self.back.append(self._parcel(parcel, again, 1))

    def _parcel(self, old: Parcel, items: Sequence[tuple[Entry, Rest | None]], more: int) -> Parcel:
        due = self.now_s + (retry.UNKNOWN_DELAY_S if more else 0)
        return Parcel(
            ids.new_id(self.now_s),
            old.pack_id,
            1,
            old.attempt + more,
            old.priority,
            due,
            narrowed(old.pack, [e.index for e, _ in items]),
            {e.index: rest for e, rest in items if rest is not None},
        )

    def _conclude(
        self,
        parcel: Parcel,
        entry: Entry,
        message_id: bytes,
        attempt: tuple[int, int, int],
        known: dict[int, tuple[int, str, float]],
        *,
        total: int,
        final: bool,
    ) -> retry.Conclusion | None:
        """What one attempt came to. What the dead one had concluded itself is counted already: only the text that
        it was to repeat is still to be put into a parcel (None: there is nothing to do)."""
        _, gateway_id, mask = attempt
        pack = parcel.pack
        parts: list[retry.Part | None] = [None] * total
        lost = []
        for segment in range(total):
            if mask >> segment & 1:
                kind, reason, _ = known.get(segment, (4, self.reason, 0.0))
                parts[segment] = retry.Part(_PARTS[kind], reason)
                if segment not in known:
                    lost.append(segment)
        if final:  # by what was recorded, or by a receipt for an earlier attempt
            return None
        end = retry.conclude(
            parts,
            category=pack.category,
            allowed=pack.retry_unknown,
            attempt=parcel.attempt,
            now_s=self.now_s if lost else max(at_s for _, _, at_s in known.values()),
            expires_s=pack.expires_at,
            jitter=0.5,
        )
        if lost:
            self._count(parcel, entry, message_id, gateway_id, lost, total, end)
        elif end.state.final:  # by a hair: it had drawn another delay, and did not end the text
            end = msgspec.structs.replace(end, again_s=0.0, mask=retry.repeated(parts, ("again",)))
        if not lost and end.again_s is not None:  # the move back to the queue goes with the new parcel
            doubtful = any(part is not None and part.kind == "unknown" for part in parts)
            before = State.unknown if doubtful else State.submitting
            key = (
                pack.tenant_id, pack.batch_id, pack.region, pack.category,
                gateway_id, int(before), int(State.queued),
            )  # fmt: skip
            self.tallies[key] = self.tallies.get(key, 0) + 1
        return end

    def _count(
        self,
        parcel: Parcel,
        entry: Entry,
        message_id: bytes,
        gateway_id: int,
        lost: Sequence[int],
        total: int,
        end: retry.Conclusion,
    ) -> None:
        pack = parcel.pack
        check, tried = self.to_check(entry.to), at(self.tried_s)
        for segment in lost:
            self.outcomes.append(
                (
                    PgUUID(message_id), parcel.attempt, segment, total, gateway_id, 4, check,
                    None, self.reason, None, tried,
                )
            )  # fmt: skip
        self.unknown += 1
        for before, after in end.moves:
            key = (
                pack.tenant_id, pack.batch_id, pack.region, pack.category,
                gateway_id, int(before), int(after),
            )  # fmt: skip
            self.tallies[key] = self.tallies.get(key, 0) + 1
        if end.state.final:
            self.finals.append((message_id, int(end.state), end.reason, end.raw))
            self.changes.append(Change(pack.tenant_id, message_id, end.state, end.reason))

    async def write(self, driver: asyncpg.Connection, publisher: Publisher, why: str) -> None:
        """Everything collected, in the caller's transaction; `why` is the new parcels' reason."""
        now = at(self.now_s)
        assert now is not None
        await driver.copy_records_to_table("outcomes", records=self.outcomes, columns=OUTCOME_COLUMNS)
        await write_finals(driver, self.finals, now)
        await publisher.publish(driver, self.changes, self.now_s)
        await write_tallies(driver, self.tallies, now)
        await insert_parcels(driver, [(p, why) for p in self.back])


def _total(parcel: Parcel, entry: Entry, mask: int, key: tuple[bytes, int], estate: Estate) -> int:
    """Segments of a text as it was cut for an attempt; another gateway may have cut it otherwise than intake did."""
    message_id, attempt = key
    if key in estate.totals:
        return estate.totals[key]
    if entry.index not in parcel.masks:  # all of it went
        return mask.bit_length() or entry.segments
    return estate.totals.get((message_id, attempt - 1)) or max(entry.segments, mask.bit_length())
