"""Delivers webhooks: signed, at least once, for days, and no endpoint waits for another.

Guarantees: a delivery ends delivered, or given up after the last entry of SCHEDULE_S; what a crashed process
was delivering is tried again after LEASE_S; of one message, a target gets the events in order; a target never
has more than PER_TARGET requests under way, and after BREAK_AFTER failures in a row it gets none for a while,
then one. Redirects are not followed, answers are read up to MAX_ANSWER_BYTES, and the address that is
connected to must be public, whatever the name resolved to before, unless private ones are allowed.

An endpoint that answers 410 Gone is disabled at once, one that fails for DISABLE_AFTER_S as well; both are in
the audit log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aiohttp
import msgspec
from standardwebhooks import Webhook

from app.store import webhooks as store
from app.store.engine import Database
from app.store.webhooks import Claimed, Result
from gateways.http import is_public
from gateways.provider import retry_after_s

# Seconds from one try to the next, each with up to JITTER more or less: 12 tries again in 3.3 days.
SCHEDULE_S = (5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 57_600, 86_400, 86_400)
JITTER = 0.2
DISABLE_AFTER_S = 5 * 86_400
KEEP_S = 14 * 86_400  # a delivery can be replayed for so long
PER_TARGET = 16
MAX_IN_FLIGHT = 256
CLAIM_LIMIT = 128  # in one statement
CONNECT_S = 5.0
TIMEOUT_S = 15.0  # of the whole exchange
LEASE_S = 60.0
POLL_S = 0.25
AFTER_ERROR_S = 1.0
PURGE_EVERY_S = 600.0
BREAK_AFTER = 5
OPEN_FIRST_S = 10.0  # without requests after the breaker opened; doubles
OPEN_LONGEST_S = 600.0
MAX_ANSWER_BYTES = 64 * 1024
DRAIN_S = 4.0
GONE = 410

log = logging.getLogger("volley.webhooks")


class Limits(msgspec.Struct, frozen=True):
    """What may differ from the table above."""

    schedule_s: Sequence[float] = SCHEDULE_S
    timeout_s: float = TIMEOUT_S
    poll_s: float = POLL_S
    open_first_s: float = OPEN_FIRST_S
    disable_after_s: float = DISABLE_AFTER_S
    allow_private: bool = False


class Answer(msgspec.Struct, frozen=True):
    """What a try came to: a status, or the word for why there is none."""

    status: int | None
    error: str | None = None
    retry_after_s: float | None = None

    @property
    def good(self) -> bool:
        return self.status is not None and 200 <= self.status <= 299


async def run(
    database: Database,
    stop: asyncio.Event,
    *,
    limits: Limits | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Deliver until `stop` is set, then let what is under way end. Never raises for lost infrastructure."""
    worker = Worker(database, limits or Limits(), clock)
    try:
        await worker.run(stop)
    finally:
        await worker.close()


def next_try(
    answer: Answer, tries: int, now: datetime, schedule_s: Sequence[float], jitter: float
) -> datetime | None:
    """When to try again after `tries` tries; None: never. `jitter` lies between -1 and 1."""
    if answer.good or answer.status == GONE or tries > len(schedule_s):
        return None
    delay_s = schedule_s[tries - 1] * (1 + JITTER * jitter)
    return now + timedelta(seconds=max(delay_s, answer.retry_after_s or 0.0))


def signature_headers(claimed: Claimed, now: datetime) -> dict[str, str]:
    """The headers of Standard Webhooks, signed by every secret that holds."""
    name, body = str(claimed.id), claimed.payload.decode()
    signed = [Webhook(secret).sign(name, now, body) for secret in claimed.secrets]
    return {
        "webhook-id": name,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signed),
        "content-type": "application/json",
    }


class _Target:
    """One endpoint, or the origin of callback URLs: what is under way, and its circuit breaker."""

    __slots__ = ("failures", "in_flight", "open_s", "open_until")

    def __init__(self) -> None:
        self.in_flight = 0
        self.failures = 0  # in a row
        self.open_until = 0.0  # monotonic
        self.open_s = 0.0

    def room(self, now: float) -> int:
        """How many more requests it may get now: none while open, one to try whether it is back."""
        if now < self.open_until:
            return 0
        limit = 1 if self.failures >= BREAK_AFTER else PER_TARGET
        return max(0, limit - self.in_flight)

    def note(self, good: bool, now: float, open_first_s: float) -> None:
        """A request ended."""
        self.in_flight -= 1
        if good:
            self.failures, self.open_s = 0, 0.0
            return
        self.failures += 1
        if self.failures >= BREAK_AFTER and now >= self.open_until:
            self.open_s = min(max(open_first_s, self.open_s * 2), OPEN_LONGEST_S)
            self.open_until = now + self.open_s


class Worker:
    """Claims what is due, delivers it, writes what came of it."""

    def __init__(self, database: Database, limits: Limits, clock: Callable[[], float]) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock
        self._targets: dict[str, _Target] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._results: list[tuple[Result, int | None]] = []
        self._wake = asyncio.Event()
        self._purged_at = float("-inf")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=MAX_IN_FLIGHT,
                keepalive_timeout=15,
                socket_factory=None if limits.allow_private else _public_socket,
            ),
            headers={"User-Agent": "Volley"},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=limits.timeout_s, sock_connect=CONNECT_S),
            auto_decompress=False,
            trust_env=False,
        )
        self.delivered = 0
        self.failed = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set."""
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._wake.clear()
                try:
                    busy, wait_s = await self._round(), self._limits.poll_s
                except Exception as error:  # PostgreSQL is away; leases bring back what was claimed
                    log.warning("webhooks wait", extra={"error": type(error).__name__}, exc_info=True)
                    busy, wait_s = False, AFTER_ERROR_S
                if not busy:
                    waking = asyncio.create_task(self._wake.wait())
                    await asyncio.wait({waking, stopped}, timeout=wait_s, return_when="FIRST_COMPLETED")
                    waking.cancel()
        finally:
            stopped.cancel()

    async def close(self) -> None:
        """Let requests end for DRAIN_S (being cancelled cuts that short), write what came of them, end the rest."""
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=DRAIN_S)
        finally:
            for task in self._tasks:
                task.cancel()
            try:
                await asyncio.gather(*self._tasks, return_exceptions=True)
                with contextlib.suppress(Exception):  # tried again after its lease
                    await self._record()
            finally:
                await self._session.close()

    async def _round(self) -> bool:
        """Record, claim, begin; whether there may be more to do at once."""
        await self._record()
        room = await self._room()
        if not room:
            return False
        now = datetime.fromtimestamp(self._clock(), UTC)
        async with self._database.driver() as driver:
            claimed = await store.claim(driver, room, now, LEASE_S)
        for one in claimed:
            self._targets.setdefault(one.target, _Target()).in_flight += 1
            task = asyncio.create_task(self._deliver(one))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return bool(claimed)

    async def _room(self) -> dict[str, int]:
        """Who has something due, and how many more requests it may get."""
        free = min(CLAIM_LIMIT, MAX_IN_FLIGHT - len(self._tasks))
        if free <= 0:
            return {}
        async with self._database.driver() as driver:
            pending = await store.targets(driver)
            await self._purge(driver)
        now, monotonic = datetime.fromtimestamp(self._clock(), UTC), time.monotonic()
        self._targets = {
            name: target
            for name, target in self._targets.items()
            if target.in_flight or (target.failures and name in pending)
        }
        due = [name for name, at in pending.items() if at <= now]
        random.shuffle(due)  # none is always the last
        room: dict[str, int] = {}
        for name in due:
            target = self._targets.get(name)
            wanted = PER_TARGET if target is None else target.room(monotonic)
            if wanted and free > 0:
                room[name] = min(wanted, max(1, free))
                free -= room[name]
        return room

    async def _record(self) -> None:
        """Write what came of the tries that ended, in one transaction."""
        if not self._results:
            return
        batch, self._results = self._results, []
        now = datetime.fromtimestamp(self._clock(), UTC)
        gone = [r.endpoint_id for r, status in batch if status == GONE and r.endpoint_id]
        try:
            async with self._database.driver() as driver, driver.transaction():
                failing = await store.finish(driver, [r for r, _ in batch], now)
                if gone:
                    await store.disable_failing(driver, gone, now, "the endpoint answered 410 Gone")
                if failing:
                    await self._disable(driver, failing, now)
        except BaseException:
            self._results[:0] = batch
            raise

    async def _disable(self, driver: Any, endpoint_ids: Sequence[UUID], now: datetime) -> None:
        days = self._limits.disable_after_s / 86_400
        since = now - timedelta(seconds=self._limits.disable_after_s)
        reason = f"no delivery succeeded for {days:g} days"
        for endpoint_id in await store.disable_failing(driver, endpoint_ids, since, reason):
            log.warning("a webhook endpoint was disabled", extra={"endpoint": str(endpoint_id)})

    async def _purge(self, driver: Any) -> None:
        if time.monotonic() - self._purged_at >= PURGE_EVERY_S:
            self._purged_at = time.monotonic()
            await store.purge(driver, datetime.fromtimestamp(self._clock() - KEEP_S, UTC))

    async def _deliver(self, claimed: Claimed) -> None:
        answer = Answer(None, "interrupted")
        try:
            answer = await self._post(claimed)
        finally:
            good = answer.good
            self._targets[claimed.target].note(good, time.monotonic(), self._limits.open_first_s)
            if good:
                self.delivered += 1
            else:
                self.failed += 1
            if answer.error != "interrupted":
                now = datetime.fromtimestamp(self._clock(), UTC)
                jitter = random.uniform(-1, 1)  # noqa: S311 - spreads load, guards nothing
                when = next_try(answer, claimed.tries, now, self._limits.schedule_s, jitter)
                result = Result(claimed.id, claimed.endpoint_id, good, answer.status, answer.error, when)
                self._results.append((result, answer.status))
            self._wake.set()

    async def _post(self, claimed: Claimed) -> Answer:
        """One request. Errors are single words: an answer's text could repeat a number."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        try:
            async with self._session.post(
                claimed.url,
                data=claimed.payload,
                headers=signature_headers(claimed, now),
                allow_redirects=False,
            ) as response:
                await _discard(response)
                status = response.status
                after_s = retry_after_s(_lower(response.headers)) if status in (429, 503) else None
                return Answer(status, None if 200 <= status <= 299 else f"http_{status}", after_s)
        except TimeoutError:
            return Answer(None, "timeout")
        except (aiohttp.InvalidURL, ValueError):
            return Answer(None, "invalid_url")
        except (aiohttp.ClientError, OSError) as error:
            return Answer(None, _word(error))


async def _discard(response: aiohttp.ClientResponse) -> None:
    """Read the answer, so that the connection can be used again, unless it is too long."""
    size = 0
    async for chunk in response.content.iter_chunked(8_192):
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            response.close()
            return


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class _PrivateAddress(OSError):
    """The name resolves to an address that isn't public."""


def _public_socket(info: Any) -> socket.socket:
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        raise _PrivateAddress
    return socket.socket(family, kind, protocol)


def _word(error: BaseException) -> str:
    cause = getattr(error, "os_error", error)
    if isinstance(cause, _PrivateAddress):
        return "address_not_allowed"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns"
    if isinstance(error, aiohttp.ClientSSLError):
        return "tls"
    if isinstance(error, aiohttp.ClientConnectorError | OSError):
        return "connection_failed"
    return "bad_answer"
