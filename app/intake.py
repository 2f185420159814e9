"""The way in: what the API accepts is committed here, and offered to Redis behind the commit.

Guarantees: `post` and `accept` return only once everything is committed (ADR 1, step 1), or raise and nothing
was; of several requests with one idempotency key one is accepted, and the others get its answer; a fault
of Redis never delays or refuses an acceptance.

Single messages share transactions: the next group is what arrived while the last one was committed. There is
no timer, so one message alone waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import asyncpg
import msgspec

from app.domain import ids
from app.domain.pack import PACK_SIZE, Entry, Pack, Parcel
from app.offering import attach, offer_open
from app.queue import lanes
from app.queue.connection import EpochLost, Queue, Unavailable
from app.store import batches, epochs, idempotency, singles
from app.store.batches import NewBatch, RejectionRow
from app.store.engine import Database
from app.store.idempotency import Answered, Kept, Slot
from app.store.intake import Draft, accept
from app.store.parcels import HORIZON_S

MAX_GROUP = 500  # single messages in one transaction
MAX_WAITING = 20_000  # single messages waiting for theirs
PACKS_A_COPY = 10  # packs written in one stretch: bounds how long the loop is held
MAX_UNOFFERED = 2_000  # parcels kept for Redis; what is over is left to the sweeper
OFFER_PAGE = 25
EPOCH_CHECK_S = 1.0
REATTACH_S = 0.5
DRAIN_S = 2.0  # for what is to be offered at the end
STOP_S = 10.0  # for what is being committed at the end

log = logging.getLogger(__name__)


class Full(Exception):
    """More is waiting than may; try again later."""


class _Closed(Exception):
    """The connection is of no more use; whoever was being served on it has been told."""


class Keyed(msgspec.Struct, frozen=True):
    """An idempotency key with its request, and how to write the answer for an id."""

    slot: Slot
    request_hash: bytes
    status: int
    answer: Callable[[bytes], bytes]


class Single(msgspec.Struct, gc=False):
    """One message to accept; `pack` has its only entry. Without `scheduled_at` it is due at once."""

    pack: Pack
    due_at: float
    priority: int
    keyed: Keyed | None = None


_BAD_ROW = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    ValueError,
    TypeError,
    OverflowError,
)

Waiting = tuple[Single, "asyncio.Future[bytes | Kept]"]


class Intake:
    """Accepts. Make one a process; `start`, then `stop`."""

    def __init__(self, database: Database, queue: Queue, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._waiting: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._group_task: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.offers = Offers(database, queue)
        self.groups = 0
        self.grouped = 0

    def start(self) -> None:
        """Begin to serve."""
        self._group_task = asyncio.create_task(self._serve(), name="group commit")
        self.offers.start()

    async def stop(self) -> None:
        """Commit what is waiting, offer what is committed, and end."""
        if self._group_task is not None:
            await asyncio.wait(
                [self._group_task, idle := asyncio.ensure_future(self._idle.wait())],
                timeout=STOP_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            idle.cancel()
            await _ended(self._group_task)
        for task in tuple(self._background):
            await _ended(task)
        await self.offers.stop()

    async def post(self, single: Single) -> bytes | Kept:
        """Accept one message: its id, or what is kept under its key. Raises Full."""
        if len(self._waiting) >= MAX_WAITING:
            raise Full
        future: asyncio.Future[bytes | Kept] = asyncio.get_running_loop().create_future()
        self._waiting.append((single, future))
        self._idle.clear()
        self._arrived.set()
        return await future

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            try:
                await self._serve_on_one_connection()
            except _Closed:
                self._arrived.set()  # for those still waiting: on another connection
            except asyncio.CancelledError:
                self._fail_all(ConnectionAbortedError("shutting down"))
                raise
            except Exception as error:  # no connection to be had
                self._fail_all(error)

    async def _serve_on_one_connection(self) -> None:
        """Group after group, until a fault of the connection: taking one from the pool costs as much as a group."""
        async with self._database.driver() as driver:
            while True:
                await self._arrived.wait()
                if driver.is_closed():
                    raise _Closed
                self._arrived.clear()
                while self._waiting:
                    group = self._take()
                    try:
                        await self._commit(driver, group)
                    except asyncio.CancelledError:
                        _fail(group, ConnectionAbortedError("shutting down"))
                        raise
                    except Exception as error:
                        await self._one_by_one(driver, group, error)
                    if driver.is_closed() or driver.is_in_transaction():
                        raise _Closed
                self._idle.set()

    def _fail_all(self, error: BaseException) -> None:
        self._arrived.clear()
        waiting, self._waiting = list(self._waiting), deque()
        _fail(waiting, error)
        self._idle.set()

    def _take(self) -> list[Waiting]:
        """The next group; of several messages with one key the first, the rest come after."""
        group: list[Waiting] = []
        seen: set[Slot] = set()
        later: list[Waiting] = []
        while self._waiting and len(group) < MAX_GROUP:
            one = self._waiting.popleft()
            keyed = one[0].keyed
            if keyed is not None:
                if keyed.slot in seen:
                    later.append(one)
                    continue
                seen.add(keyed.slot)
            group.append(one)
        self._waiting.extendleft(reversed(later))
        return group

    async def _one_by_one(self, driver: asyncpg.Connection, group: list[Waiting], error: Exception) -> None:
        """A group failed: one bad message must not take its neighbours along."""
        if len(group) == 1 or not isinstance(error, _BAD_ROW):
            _fail(group, error)
            return
        for one in group:
            try:
                await self._commit(driver, [one])
            except Exception as alone:
                _fail([one], alone)

    async def _commit(self, driver: asyncpg.Connection, group: list[Waiting]) -> None:
        now_s = self._clock()
        drafts, found = _grouped([single for single, _ in group], now_s)
        lost: dict[int, Kept] = {}
        if any(single.keyed is not None for single, _ in group):
            async with driver.transaction():
                lost = await self._claimed(driver, group, found)
                if lost:
                    drafts = _without(drafts, {found[place] for place in lost})
                parcels = await singles.accept(driver, drafts, now_s) if drafts else []
        else:
            parcels = await singles.accept(driver, drafts, now_s)  # one statement, its own transaction
        self.groups += 1
        self.grouped += len(group) - len(lost)
        self.offers.push(parcels)
        for place, (_, future) in enumerate(group):
            if not future.done():
                future.set_result(lost.get(place) or found[place])

    async def _claimed(
        self, driver: asyncpg.Connection, group: list[Waiting], found: Sequence[bytes]
    ) -> dict[int, Kept]:
        """Claim the group's keys with their answers: what is kept of those that another request has, by place."""
        asked = {
            single.keyed.slot: (place, single.keyed)
            for place, (single, _) in enumerate(group)
            if single.keyed is not None
        }
        if not asked:
            return {}
        ours = await idempotency.claim_answered(
            driver,
            [
                Answered(slot, keyed.request_hash, keyed.status, keyed.answer(found[place]))
                for slot, (place, keyed) in asked.items()
            ],
        )
        lost: dict[int, Kept] = {}
        for slot in asked.keys() - ours:
            kept = await idempotency.kept(driver, slot)
            lost[asked[slot][0]] = kept or Kept(asked[slot][1].request_hash, None, None, 1.0)
        return lost

    async def accept_batch(
        self,
        batch: NewBatch,
        drafts: Sequence[Draft],
        rejected: Sequence[RejectionRow],
        keyed: Keyed | None,
    ) -> Kept | None:
        """Accept a whole batch in one transaction; what is kept under its key if another request has it."""
        parcels: list[Parcel] = []
        async with self._database.driver() as driver, driver.transaction():
            if keyed is not None:
                answered = Answered(keyed.slot, keyed.request_hash, keyed.status, keyed.answer(batch.id))
                if not await idempotency.claim_answered(driver, [answered]):
                    kept = await idempotency.kept(driver, keyed.slot)
                    return kept or Kept(keyed.request_hash, None, None, 1.0)
            await batches.insert(driver, batch)
            parcels = await self.write(driver, drafts, batch.created_at)
            if rejected:
                await batches.reject(driver, batch.id, rejected)
        self.offers.push(parcels)
        return None

    async def write(self, driver: asyncpg.Connection, drafts: Sequence[Draft], now_s: float) -> list[Parcel]:
        """`store.intake.accept` in stretches that let others have their turn; the caller commits."""
        parcels: list[Parcel] = []
        for start in range(0, len(drafts), PACKS_A_COPY):
            parcels += await accept(driver, drafts[start : start + PACKS_A_COPY], now_s)
        return parcels

    def offer_batch(self, batch_id: bytes) -> None:
        """Offer all that is open of a batch, in the background: it was sealed or resumed."""
        self._spawn(self.offers.offer_batch(batch_id))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


class Offers:
    """Committed parcels on their way to Redis: best effort, in batches, behind the acceptance."""

    def __init__(self, database: Database, queue: Queue) -> None:
        self._database = database
        self._queue = queue
        self._pending: deque[Parcel] = deque()
        self._wanted = asyncio.Event()
        self._drained = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.attached = False
        self.offered = 0
        self.left = 0  # to the sweeper

    def start(self) -> None:
        """Begin to offer."""
        self._tasks = [
            asyncio.create_task(self._serve(), name="offers"),
            asyncio.create_task(self._watch(), name="redis epoch"),
        ]

    async def stop(self) -> None:
        """Offer what is pending, if Redis is there, and end."""
        if self._pending and self.attached:
            await asyncio.wait([asyncio.ensure_future(self._drained.wait())], timeout=DRAIN_S)
        for task in self._tasks:
            await _ended(task)

    def push(self, parcels: Sequence[Parcel]) -> None:
        """Offer these as soon as may be."""
        if not parcels:
            return
        horizon = time.time() + HORIZON_S
        near = [parcel for parcel in parcels if parcel.due_at <= horizon]
        room = MAX_UNOFFERED - len(self._pending)
        self.left += max(0, len(near) - room)
        self._pending.extend(near[: max(0, room)])
        self._drained.clear()
        self._wanted.set()

    async def offer_batch(self, batch_id: bytes) -> None:
        """All that is open of a batch."""
        try:
            await offer_open(self._database, self._queue, batch_id)
        except (EpochLost, Unavailable, OSError) as error:
            self._lost(error)
        except Exception:
            log.exception("offering a batch failed; the sweeper offers it")

    async def _serve(self) -> None:
        while True:
            await self._wanted.wait()
            if not self.attached:
                await asyncio.sleep(REATTACH_S)  # `_watch` attaches
                continue
            self._wanted.clear()
            while self._pending and self.attached:
                page = [self._pending.popleft() for _ in range(min(OFFER_PAGE, len(self._pending)))]
                try:
                    await lanes.offer(self._queue, page)
                    self.offered += len(page)
                except (EpochLost, Unavailable, OSError) as error:
                    self._lost(error)
                    self.push(page)
                except Exception:
                    self.left += len(page)
                    log.exception("offering failed; the sweeper offers these parcels")
            if not self._pending:
                self._drained.set()

    def _lost(self, error: BaseException) -> None:
        if self.attached:
            self.attached = False
            log.warning(
                "parcels can't be offered to Redis now; they wait in PostgreSQL",
                extra={"error": type(error).__name__},
            )

    async def _watch(self) -> None:
        """Follow the epoch that PostgreSQL names: an old epoch's keys are read by nobody."""
        while True:
            try:
                await self._follow()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # PostgreSQL is away: nothing is accepted either
                log.debug("the epoch can't be read", extra={"error": type(error).__name__})
            await asyncio.sleep(EPOCH_CHECK_S if self.attached else REATTACH_S)

    async def _follow(self) -> None:
        async with self._database.driver() as driver:
            epoch = await epochs.current(driver)
        if self.attached and epoch.ready and epoch.epoch == self._queue.epoch:
            return
        self.attached = epoch.ready and await attach(self._database, self._queue)
        if self.attached and self._pending:
            self._wanted.set()


def _grouped(singles: Sequence[Single], now_s: float) -> tuple[list[Draft], list[bytes]]:
    """Packs of what goes together, and each message's id in the order given."""
    drafts: dict[tuple[Any, ...], Draft] = {}
    done: list[Draft] = []
    found: list[bytes] = []
    for single in singles:
        pack, entry = single.pack, single.pack.entries[0]
        same = (
            pack.tenant_id,
            pack.region,
            pack.country,
            pack.category,
            pack.sender,
            pack.template,
            pack.body if pack.template else None,
            pack.expires_at,
            pack.retry_unknown,
            pack.test,
            pack.shift_tables,
            pack.campaign,
            pack.gateway,
            single.due_at,
            single.priority,
        )
        draft = drafts.get(same)
        if draft is None or len(draft.pack.entries) >= PACK_SIZE:
            draft = Draft(ids.new_id(now_s), _copy(pack), single.due_at, single.priority)
            drafts[same] = draft
            done.append(draft)
        _join(draft.pack, entry, pack.body)
        found.append(ids.message_id(draft.pack_id, entry.index))
    return done, found


def _copy(pack: Pack) -> Pack:
    return msgspec.structs.replace(pack, entries=[])


def _join(pack: Pack, entry: Entry, body: str) -> None:
    entry.index = len(pack.entries)
    entry.body = None if body == pack.body else body
    pack.entries.append(entry)


def _without(drafts: Sequence[Draft], lost: set[bytes]) -> list[Draft]:
    """The drafts less those messages; indexes stay, since answers name them already."""
    left = []
    for draft in drafts:
        draft.pack.entries = [
            entry for entry in draft.pack.entries if ids.message_id(draft.pack_id, entry.index) not in lost
        ]
        if draft.pack.entries:
            left.append(draft)
    return left


def _fail(group: Sequence[Waiting], error: BaseException) -> None:
    for _, future in group:
        if not future.done():
            future.set_exception(error)


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
