"""What a failover of PostgreSQL left open: parcels that are free to go here, and may have gone already.

Guarantee: `settle` is one transaction; a message that may have been handed over is `unknown` by it, with the
reason and a trace, and goes again only as `domain.retry` allows; doing it again finds nothing more to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import asyncpg
import msgspec
from asyncpg.pgproto.pgproto import UUID as PgUUID

from app.domain import ids
from app.domain.contacts import NO_CAMPAIGN
from app.domain.message import Category, State
from app.domain.pack import Entry, Parcel, bitmap, narrowed
from app.store.dispatch import Contact, Tally, intern_traces, remember_contacts, write_tallies
from app.store.intake import at
from app.store.parcels import parcel_of
from app.store.settlement import Estate, Settlement
from app.store.webhooks import Publisher

REASON = "failover"
PAGE = 200
_ANYBODY = 0  # the gateway, as nobody knows it; the lease, as it is nobody's
_QUEUED, _SUBMITTING = int(State.queued), int(State.submitting)


class Candidate(msgspec.Struct, frozen=True):
    """A parcel without a lease that was due. `batch_state` None: it is of no batch."""

    id: bytes
    generation: int
    lane: str
    batch_id: bytes | None
    batch_state: int | None


class Settled(msgspec.Struct):
    """Of some parcels: messages that are unknown now, those of them that go again, those that never left."""

    unknown: int = 0
    again: int = 0
    waiting: int = 0


async def candidates(
    driver: asyncpg.Connection, *, after: bytes, made_before: bytes, due_before_s: float
) -> list[Candidate]:
    """The next parcels by id that were free, due and made before: what is not due yet was never handed over, and
    what was made later is of the new timeline. A cancelled batch was cancelled before anything that is lost."""
    rows = await driver.fetch(
        "SELECT p.id, p.generation, p.lane, p.batch_id, b.state FROM parcels p"
        " LEFT JOIN batches b ON b.id = p.batch_id"
        " WHERE p.lease_id IS NULL AND p.id > $1 AND p.id < $2 AND p.due_at <= $3 AND b.state IS DISTINCT FROM 4"
        " ORDER BY p.id LIMIT $4",
        PgUUID(after),
        PgUUID(made_before),
        at(due_before_s),
        PAGE,
    )
    return [
        Candidate(
            r["id"].bytes, r["generation"], r["lane"], r["batch_id"] and r["batch_id"].bytes, r["state"]
        )
        for r in rows
    ]


async def unknown_packs(driver: asyncpg.Connection, pack_ids: Sequence[bytes]) -> set[bytes]:
    """Those of these packs that are not here: accepted, and lost."""
    rows = await driver.fetch("SELECT id FROM packs WHERE id = ANY($1)", [PgUUID(one) for one in pack_ids])
    return set(pack_ids) - {row[0].bytes for row in rows}


async def unknown_parcels(driver: asyncpg.Connection, parcel_ids: Sequence[bytes]) -> set[bytes]:
    """Those of these parcels that are not here."""
    rows = await driver.fetch(
        "SELECT id FROM parcels WHERE id = ANY($1)", [PgUUID(one) for one in parcel_ids]
    )
    return set(parcel_ids) - {row[0].bytes for row in rows}


async def settle(
    driver: asyncpg.Connection,
    parcel_ids: Sequence[bytes],
    successors: Mapping[bytes, Sequence[Parcel]],
    *,
    now_s: float,
    tried_s: float,
    to_check: Callable[[str], int],
    trace: tuple[int, list],
    publisher: Publisher,
) -> Settled:
    """End these parcels. `successors` are parcels by pack that Redis alone knows and that wait there: their messages
    were refused or held after what is lost here, and go on so; all the others may have been handed over."""
    async with driver.transaction():
        rows = await driver.fetch(
            "SELECT p.id, p.pack_id, p.generation, p.attempt, p.priority, p.due_at, p.members, p.masks, k.payload"
            " FROM parcels p JOIN packs k ON k.id = p.pack_id"
            " WHERE p.id = ANY($1) AND p.lease_id IS NULL ORDER BY p.id FOR UPDATE OF p",
            [PgUUID(one) for one in parcel_ids],
        )
        parcels = [parcel_of(row) for row in rows]
        estate = await Estate.read(driver, parcels)
        work = Settlement(now_s, to_check, REASON, tried_s)
        doubts: list[tuple[Parcel, Entry, int]] = []
        waiting = 0
        for parcel in parcels:
            rest = parcel.pack.entries
            for one in _later(parcel, successors.get(parcel.pack_id, ())):
                there = {e.index for e in one.pack.entries}
                theirs = [e for e in rest if e.index in there]
                rest = [e for e in rest if e.index not in there]
                if theirs:
                    waiting += len(theirs)
                    work.back.append(_again(one, parcel, theirs, now_s))
            doubts += [(parcel, entry, _mask(parcel, entry)) for entry in rest]
        doubts = _assume(doubts, estate)
        await _tried(driver, doubts, tried_s, now_s, trace)
        await write_tallies(driver, _moves(doubts), at(now_s))  # type: ignore[arg-type]
        for parcel, entry, _ in doubts:
            alone = msgspec.structs.replace(parcel, pack=narrowed(parcel.pack, [entry.index]))
            work.settle(alone, estate)
        await work.write(driver, publisher, REASON)
        await driver.execute("DELETE FROM parcels WHERE id = ANY($1)", [row["id"] for row in rows])
    back = sum(len(p.pack.entries) for p in work.back)
    return Settled(work.unknown, back - waiting, waiting)


def _later(parcel: Parcel, found: Sequence[Parcel]) -> list[Parcel]:
    """What was made of a parcel, the newest first."""
    made = [one for one in found if one.id > parcel.id and one.attempt >= parcel.attempt]
    return sorted(made, key=lambda one: one.id, reverse=True)


def _again(one: Parcel, parcel: Parcel, entries: Sequence[Entry], now_s: float) -> Parcel:
    indexes = [e.index for e in entries]
    masks = {i: one.masks[i] for i in indexes if i in one.masks}
    pack = narrowed(parcel.pack, indexes)
    return Parcel(ids.new_id(now_s), one.pack_id, 1, one.attempt, one.priority, one.due_at, pack, masks)


def _mask(parcel: Parcel, entry: Entry) -> int:
    rest = parcel.masks.get(entry.index)
    return rest.mask if rest is not None else (1 << entry.segments) - 1


def _assume(doubts: Sequence[tuple[Parcel, Entry, int]], estate: Estate) -> list[tuple[Parcel, Entry, int]]:
    """Put the attempts that may have been made into the estate; gives those that were not there."""
    new = []
    for parcel, entry, mask in doubts:
        key = (ids.message_id(parcel.pack_id, entry.index), parcel.attempt)
        if key not in estate.attempts and key[0] not in estate.final:
            estate.attempts[key] = (_SUBMITTING, _ANYBODY, mask)
            new.append((parcel, entry, mask))
    return new


async def _tried(
    driver: asyncpg.Connection,
    doubts: Sequence[tuple[Parcel, Entry, int]],
    tried_s: float,
    now_s: float,
    trace: tuple[int, list],
) -> None:
    """The attempts, their trace, and what counts against a frequency cap."""
    if not doubts:
        return
    tried = at(tried_s)
    assert tried is not None
    messages = [PgUUID(ids.message_id(p.pack_id, e.index)) for p, e, _ in doubts]
    await driver.execute(
        "INSERT INTO attempts (message_id, attempt, kind, mask, lease_id, at)"
        " SELECT u.m, u.a, $4, u.mask, $5, $6 FROM unnest($1::uuid[], $2::smallint[], $3::bigint[]) u(m, a, mask)",
        messages,
        [p.attempt for p, _, _ in doubts],
        [mask for _, _, mask in doubts],
        _SUBMITTING,
        _ANYBODY,
        tried,
    )
    await intern_traces(driver, {trace[0]: trace[1]})
    members: dict[tuple[bytes, int], list[int]] = {}
    for parcel, entry, _ in doubts:
        members.setdefault((parcel.pack_id, parcel.attempt), []).append(entry.index)
    await driver.copy_records_to_table(
        "decisions",
        records=[
            (PgUUID(pack), bitmap(indexes), attempt, trace[0], at(now_s))
            for (pack, attempt), indexes in members.items()
        ],
        columns=["pack_id", "members", "attempt", "trace_id", "at"],
    )
    counted = [
        Contact(
            p.pack.tenant_id, int.from_bytes(e.recipient, "big", signed=True), ids.message_id(p.pack_id, e.index),
            contact=True, campaign=NO_CAMPAIGN, content=None, organisation_id=None, organisation_recipient=None,
        )
        for p, e, _ in doubts
        if p.pack.category == Category.marketing
    ]  # fmt: skip
    await remember_contacts(driver, counted, tried)


def _moves(doubts: Sequence[tuple[Parcel, Entry, int]]) -> dict[Tally, int]:
    moves: dict[Tally, int] = {}
    for parcel, _, _ in doubts:
        pack = parcel.pack
        key = (pack.tenant_id, pack.batch_id, pack.region, pack.category, _ANYBODY, _QUEUED, _SUBMITTING)
        moves[key] = moves.get(key, 0) + 1
    return moves
