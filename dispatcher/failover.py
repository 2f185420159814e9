"""After a failover of PostgreSQL: its books are put in order before anything is handed over.

The new primary may miss the last commits of the old one: journals of texts that were handed over, opt-outs. Redis,
which saw them, says which parcels still wait in their lanes; those never left. What it holds as claimed, or holds
no longer, may have left, and is `unknown`. An opt-out that Redis has and PostgreSQL has not is written back.

Guarantee: until `put_in_order` has committed, the journal takes nothing on the new timeline. It may be broken off
and done again at any point. The caller holds the lock of the epoch.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import defaultdict

import asyncpg

from app import rules
from app.domain import ids
from app.domain.pack import Parcel
from app.domain.recipient import to_check
from app.policy import VERSION, Step, trace_id
from app.queue import cleaning, lanes
from app.queue.connection import Queue
from app.store import audit, epochs, failover, timelines
from app.store.batches import BatchState
from app.store.engine import Database
from app.store.webhooks import Publisher

BEAT_SLACK_S = 30.0  # from a dispatcher's last heartbeat that is here to the last commit that is
CLOCKS_S = 5.0  # by which clocks may differ, and pauses be offered late
STEP: Step = ("failover", "postgresql.timeline", VERSION, "unknown")

log = logging.getLogger("volley.dispatcher")


async def put_in_order(
    database: Database, driver: asyncpg.Connection, queue: Queue, publisher: Publisher
) -> None:
    """Reconcile the open parcels and the opt-outs with Redis. Raises what PostgreSQL and Redis raise."""
    timeline = await timelines.current(driver)
    since_s = (await timelines.last_work(driver)).timestamp()
    log.warning(
        "PostgreSQL failed over to timeline %s: nothing is handed over until its books are in order", timeline
    )
    epoch = await epochs.current(driver)
    newest = await cleaning.last(queue)
    old = copy.copy(queue)
    old.attach(epoch.epoch)
    trusted = (
        epoch.ready
        and epoch.run_id == await queue.run_id()
        and newest is not None
        and newest[0] == epoch.epoch
        and await cleaning.is_whole(old)
    )
    if not trusted:
        log.error("Redis lost its data, too: every text that was due is in doubt, and opt-outs may be lost")
    suppressed = withdrawn = 0
    for number in {epoch.epoch, newest[0] if newest else epoch.epoch}:
        view = copy.copy(queue)
        view.attach(number)
        found = await rules.merge_back(driver, view, time.time())
        suppressed, withdrawn = suppressed + found[0], withdrawn + found[1]
    names = await lanes.close(old)
    successors, lost = await _strays(driver, old, names, since_s) if trusted else ({}, 0)
    noticed_s = (await timelines.noticed(driver)).timestamp()
    made_before_s = min(since_s + BEAT_SLACK_S, noticed_s, time.time())
    done = await _settle(driver, old if trusted else None, successors, since_s, made_before_s, publisher)
    result = {
        "timeline": timeline,
        "unknown": done.unknown,
        "again": done.again,
        "waiting": done.waiting,
        "lost_in_redis": lost,
        "suppressed": suppressed,
        "withdrawn": withdrawn,
        "redis_trusted": trusted,
    }
    async with database.begin() as connection:
        await audit.record(
            connection,
            audit.By("volley", "PostgreSQL failed over", None),
            "failover",
            "postgresql",
            after=result,
        )
    async with driver.transaction():
        await timelines.put_in_order(driver)
    log.warning("PostgreSQL's books are in order on timeline %s: %s", timeline, result)


async def _settle(
    driver: asyncpg.Connection,
    old: Queue | None,
    successors: dict[bytes, list[Parcel]],
    since_s: float,
    made_before_s: float,
    publisher: Publisher,
) -> failover.Settled:
    """Every parcel that was free, due and does not wait in Redis."""
    now_s, after, all_done = time.time(), bytes(16), failover.Settled()
    made_before = ids.first_id_at(made_before_s)  # what is made here, too, is of the new timeline
    trace = (trace_id((STEP,)), [STEP])
    while True:
        page = await failover.candidates(
            driver, after=after, made_before=made_before, due_before_s=now_s + CLOCKS_S
        )
        if not page:
            return all_done
        after = page[-1].id
        doubtful = page if old is None else await _doubtful(old, page, since_s)
        if not doubtful:
            continue
        done = await failover.settle(
            driver,
            [one.id for one in doubtful],
            successors,
            now_s=now_s,
            tried_s=min(since_s, now_s),
            to_check=to_check,
            trace=trace,
            publisher=publisher,
        )
        all_done.unknown += done.unknown
        all_done.again += done.again
        all_done.waiting += done.waiting


async def _doubtful(old: Queue, page: list[failover.Candidate], since_s: float) -> list[failover.Candidate]:
    """Those that Redis holds as claimed, or no longer holds. What is paused or loading here is not expected there;
    it is in doubt if Redis was offered some of its batch after the last commit that is here."""
    by_lane: dict[str, list[failover.Candidate]] = defaultdict(list)
    for one in page:
        by_lane[one.lane].append(one)
    gone = []
    for lane, some in by_lane.items():
        held = await lanes.waiting(old, lane, [(one.id, one.generation) for one in some])
        gone += [one for one, there in zip(some, held, strict=True) if not there]
    standing = {one.batch_id for one in gone if one.batch_state not in (None, BatchState.running)}
    offered = await lanes.offered_at(old, [one for one in standing if one is not None])
    return [
        one
        for one in gone
        if one.batch_id not in standing or offered.get(one.batch_id or b"", 0.0) >= since_s - CLOCKS_S
    ]


async def _strays(
    driver: asyncpg.Connection, old: Queue, names: list[str], since_s: float
) -> tuple[dict[bytes, list[Parcel]], int]:
    """By pack, the parcels that wait in Redis and that PostgreSQL does not know, as young as what it lost; and how
    many messages wait there whose very acceptance is lost."""
    found: dict[bytes, list[Parcel]] = defaultdict(list)
    oldest = ids.first_id_at(since_s - CLOCKS_S)
    lost = 0
    for name in names:
        async for page in lanes.entries(old, name):
            young = {one.id: one for one in page if one.id > oldest}
            strange = await failover.unknown_parcels(driver, list(young)) if young else set()
            packs = {young[one].pack_id for one in strange}
            nowhere = await failover.unknown_packs(driver, list(packs)) if packs else set()
            for one in strange:
                parcel = young[one]
                if parcel.pack_id in nowhere:
                    lost += len(parcel.pack.entries)
                else:
                    found[parcel.pack_id].append(parcel)
    return found, lost
