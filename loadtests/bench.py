"""`make bench`: how many texts a second Volley takes to their last receipt, and what that costs.

Guarantees: what is measured is the real service (`loadtests/rig.py`), over its public API, to an SMSC in a
process of its own, with receipts and with everything durable; stdout gets one line of JSON, progress goes to
stderr; the exit code is 0 only when every message was delivered, none twice, and the accounting balances.

`loadtests/README.md` says what each figure means and where it comes from.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import platform
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import aiohttp
import asyncpg
import msgspec
import uvloop

from app.domain.message import State
from loadtests.rig import Options, Rig, machine_cpu_s

MAX_BATCH = 10_000
POLL_S = 0.25
STALL_S = 60.0  # no message became final for so long: give up
SETTLE_S = 15.0  # for the last parcels to be settled and the last deltas to be rolled up
MAX_ERRORS_SHOWN = 3
BODY = "Hi {name}, your parcel 00417 arrives today between 9 and 11."
SENDER = "12025550199"
AREAS = (212, 305, 312, 415, 512, 617, 702, 808)  # area codes; in use, so that every number is a valid one
DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "appendonly": "yes",
    "appendfsync": "everysec",
}

_encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct):
    """What is read of a 202 to a batch."""

    accepted: int
    rejected_count: int


class Posted(msgspec.Struct):
    """What the client saw. Times are Unix seconds."""

    accepted: int = 0
    rejected: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    errors: list[str] = []


# -- what is sent


def numbers() -> Iterator[str]:
    """Valid US numbers, each once. None in an exchange 555, whose numbers mean faults to the sandbox."""
    exchanges = [e for e in range(200, 1000) if e % 100 != 11 and e != 555]
    for exchange, area in itertools.product(exchanges, AREAS):
        for line in range(10_000):
            yield f"+1{area}{exchange}{line:04d}"


def batch_bodies(messages: int, size: int) -> list[bytes]:
    """POST /v1/batches, ready to send: making them is not what is measured."""
    source = numbers()
    terms = {"category": "transactional", "sender": SENDER, "body": BODY}
    bodies = []
    for start in range(0, messages, size):
        recipients = [
            {"to": to, "variables": {"name": f"N{start + i}"}}
            for i, to in enumerate(itertools.islice(source, min(size, messages - start)))
        ]
        bodies.append(_encode({**terms, "recipients": recipients}))
    return bodies


def single_bodies(messages: int) -> list[bytes]:
    """POST /v1/messages, ready to send."""
    terms = {"category": "transactional", "sender": SENDER, "body": BODY}
    return [
        _encode({**terms, "to": to, "variables": {"name": f"N{i}"}})
        for i, to in enumerate(itertools.islice(numbers(), messages))
    ]


# -- posting


class Client:
    """Posts bodies over `connections` connections, each with its next one as soon as it has its answer."""

    def __init__(self, rig: Rig, arguments: argparse.Namespace) -> None:
        self._url = rig.url + ("/v1/messages" if arguments.singles else "/v1/batches")
        self._headers = {"Authorization": f"Bearer {rig.key}", "Content-Type": "application/json"}
        self._connections = arguments.connections or (64 if arguments.singles else 2)
        per_post = 1 if arguments.singles else arguments.batch_size
        self._every_s = per_post / arguments.rate if arguments.rate else 0.0
        self._singles = arguments.singles
        self.posted = Posted()

    async def run(self, bodies: Sequence[bytes]) -> None:
        """Returns when every body has its answer."""
        waiting = iter(enumerate(bodies))
        connector = aiohttp.TCPConnector(limit=self._connections)
        async with aiohttp.ClientSession(connector=connector, headers=self._headers) as session:
            self.posted.first_at = time.time()
            await asyncio.gather(*(self._post_all(session, waiting) for _ in range(self._connections)))
            self.posted.last_at = time.time()

    async def _post_all(self, session: aiohttp.ClientSession, waiting: Iterator[tuple[int, bytes]]) -> None:
        for number, body in waiting:
            if self._every_s:
                pause_s = self.posted.first_at + number * self._every_s - time.time()
                await asyncio.sleep(max(0.0, pause_s))
            try:
                async with session.post(self._url, data=body) as response:
                    self._answered(response.status, await response.read())
            except (aiohttp.ClientError, TimeoutError) as error:
                self.posted.errors.append(repr(error))

    def _answered(self, status: int, body: bytes) -> None:
        if status != 202:
            self.posted.errors.append(f"{status} {body[:300].decode('utf-8', 'replace')}")
        elif self._singles:
            self.posted.accepted += 1
        else:
            answer = msgspec.json.decode(body, type=Answer)
            self.posted.accepted += answer.accepted
            self.posted.rejected += answer.rejected_count


# -- waiting

_FINAL = """
SELECT coalesce(sum(n), 0)::bigint
FROM (SELECT to_state, n FROM move_totals UNION ALL SELECT to_state, n FROM tallies) t
WHERE to_state = ANY($1)
"""
FINAL_STATES = [int(state) for state in State if state.final]


async def progress(driver: asyncpg.Connection) -> AsyncIterator[int]:
    """Messages that are final, every POLL_S; ends when none became final for STALL_S."""
    last, changed_at = -1, time.monotonic()
    while time.monotonic() - changed_at < STALL_S:
        final = await driver.fetchval(_FINAL, FINAL_STATES)
        if final != last:
            last, changed_at = final, time.monotonic()
        yield final
        await asyncio.sleep(POLL_S)


async def await_final(
    driver: asyncpg.Connection, rig: Rig, client: Client, posting: asyncio.Task[None]
) -> None:
    """Returns when all that was accepted is final, or when nothing goes on."""
    shown_at = 0.0
    async for final in progress(driver):
        if posting.done() and final >= client.posted.accepted:
            break
        if crashed := rig.crashed():
            say(f"{', '.join(crashed)} ended by itself")
            break
        if time.monotonic() - shown_at >= 1.0:
            shown_at = time.monotonic()
            say(f"{client.posted.accepted:>9,} accepted {final:>9,} final")
    await posting


async def await_settled(driver: asyncpg.Connection) -> None:
    """Let the last parcels be settled, so that the two sides of the books can be compared."""
    deadline = time.monotonic() + SETTLE_S
    while await driver.fetchval("SELECT EXISTS (SELECT FROM parcels)") and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)


# -- measuring

# An id holds the millisecond in which its request was taken up, before the commit (RFC 9562, 5.7).
_BORN = "('x' || left(replace(%s.message_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0"
_LATENCY = """
SELECT percentile_disc(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM {end}.at) - {born})
FROM {source}
"""
_SPANS = {
    "accept_to_submit_s": _LATENCY.format(
        end="o", born=_BORN % "o", source="outcomes o WHERE o.kind = 1 AND o.segment = 0"
    ),
    "accept_to_delivered_s": _LATENCY.format(
        end="f", born=_BORN % "f", source=f"finals f WHERE f.state = {int(State.delivered)}"
    ),
}
_OPEN = """
SELECT coalesce(sum(n) FILTER (WHERE from_state = 0), 0)::bigint AS accepted,
       coalesce(sum(n) FILTER (WHERE to_state = ANY($1) AND NOT from_state = ANY($1)), 0)::bigint AS final
FROM (SELECT from_state, to_state, n FROM move_totals
      UNION ALL SELECT coalesce(from_state, 0), to_state, n FROM tallies) t
"""


async def measure_latency(driver: asyncpg.Connection) -> dict[str, dict[str, float] | None]:
    """p50 and p99 in seconds, from what is stored."""
    found: dict[str, dict[str, float] | None] = {}
    for name, query in _SPANS.items():
        values = await driver.fetchval(query)
        found[name] = values and {"p50": round(float(values[0]), 3), "p99": round(float(values[1]), 3)}
    return found


async def account(driver: asyncpg.Connection, posted: Posted) -> dict[str, Any]:
    """Promise 1 from three sides: the client's 202s, the rows of final states, the deltas of transitions.

    `difference` is what was promised less what is final or open; `deltas_difference` compares the deltas
    with the rows. Both are 0 when the books balance.
    """
    async with driver.transaction(isolation="repeatable_read", readonly=True):
        rows = await driver.fetch("SELECT state, count(*) FROM finals GROUP BY state ORDER BY state")
        moves = await driver.fetchrow(_OPEN, FINAL_STATES)
        stored = await driver.fetchval("SELECT coalesce(sum(n), 0)::bigint FROM packs")
        waiting = await driver.fetchval("SELECT coalesce(sum(n + in_flight), 0)::bigint FROM parcels")
    final = {State(state).name: n for state, n in rows}
    ended = sum(final.values())
    still_open = moves["accepted"] - moves["final"]
    return {
        "accepted": posted.accepted,
        "stored": stored,
        "final": final,
        "open": still_open,
        "in_parcels": waiting,
        "difference": posted.accepted - ended - still_open,
        "deltas_difference": moves["final"] - ended,
    }


async def carrier_stats(rig: Rig) -> dict[str, Any]:
    """The sandbox's own counters: what really came over the wire."""
    async with aiohttp.ClientSession() as session, session.get(f"{rig.control_url}/stats") as response:
        return dict(await response.json())


def faults(result: dict[str, Any], posted: Posted, messages: int) -> list[str]:
    """Why this run does not count; none when it does."""
    books, found = result["accounting"], []
    delivered = books["final"].get("delivered", 0)
    if posted.errors:
        found.append(f"{len(posted.errors)} posts failed: {'; '.join(posted.errors[:MAX_ERRORS_SHOWN])}")
    if posted.accepted != messages:
        found.append(f"{posted.accepted} of {messages} messages were accepted")
    if delivered != messages:
        found.append(f"{delivered} of {messages} messages were delivered")
    if any(books[name] for name in ("difference", "deltas_difference", "open", "in_parcels")):
        found.append("the accounting does not balance")
    if books["stored"] != posted.accepted:
        found.append(f"{books['stored']} messages are stored")
    if result["carrier"]["submits"] != posted.accepted:
        found.append(f"the carrier got {result['carrier']['submits']} submits for {posted.accepted} messages")
    if result["durability"] != DURABLE:
        found.append(f"not everything is durable: {result['durability']}")
    return found


# -- the run


async def run(arguments: argparse.Namespace, rig: Rig) -> tuple[dict[str, Any], list[str]]:
    """The result, and what speaks against it."""
    messages = arguments.messages
    say(f"making {messages:,} messages")
    bodies = single_bodies(messages) if arguments.singles else batch_bodies(messages, arguments.batch_size)
    client = Client(rig, arguments)
    driver = await asyncpg.connect(rig.database_url)
    try:
        durability = await rig.durability()
        before, machine_before, own_before = rig.cpu_s(), machine_cpu_s(), time.process_time()
        posting = asyncio.create_task(client.run(bodies))
        await await_final(driver, rig, client, posting)
        after, machine_after, own_after = rig.cpu_s(), machine_cpu_s(), time.process_time()
        await await_settled(driver)
        ended_at = await driver.fetchval("SELECT extract(epoch FROM max(at))::float FROM finals")
        spent = {name: after[name] - before[name] for name in before}
        spent["client"] = own_after - own_before
        others = None
        if machine_before is not None and machine_after is not None:
            others = round(machine_after - machine_before - sum(spent.values()), 2)
        stats = await carrier_stats(rig)
        posted = client.posted
        seconds = (ended_at or time.time()) - posted.first_at
        posting_s = posted.last_at - posted.first_at
        result: dict[str, Any] = {
            "messages": posted.accepted,
            "seconds": round(seconds, 2),
            "messages_per_second": round(posted.accepted / seconds),
            "accepted_per_second": round(posted.accepted / posting_s) if posting_s else None,
            **await measure_latency(driver),
            "cpu_s_per_1000": {n: round(s * 1000 / max(1, posted.accepted), 4) for n, s in spent.items()},
            "cpu_s_of_others": others,
            "accounting": await account(driver, posted),
            "carrier": {"submits": stats["submits"], "receipts": stats["receipts_acknowledged"]},
            "durability": durability,
            "setup": setup_of(arguments),
        }
    finally:
        await driver.close()
    result["cpu_s_per_1000"]["all"] = round(sum(result["cpu_s_per_1000"].values()), 4)
    return result, faults(result, posted, messages)


def setup_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What another run needs to be like to be compared with this one."""
    return {
        "post": "singles" if arguments.singles else f"batches of {arguments.batch_size}",
        "rate": arguments.rate,
        "binds": arguments.binds,
        "window": arguments.window,
        "receipt_delay_s": arguments.receipt_delay,
        "api_workers": arguments.api_workers,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__)
    add = parser.add_argument
    add("--messages", type=int, default=50_000, metavar="N", help="default %(default)s")
    add(
        "--batch-size",
        type=int,
        default=MAX_BATCH,
        metavar="N",
        help="recipients a post; default %(default)s",
    )
    add("--singles", action="store_true", help="post each message by itself")
    add(
        "--rate", type=float, metavar="N", help="messages posted a second; default: as fast as they are taken"
    )
    add("--connections", type=int, metavar="N", help="posts at once; default 2, of singles 64")
    add("--binds", type=int, default=2, metavar="N", help="SMPP sessions; default %(default)s")
    add("--window", type=int, default=500, metavar="N", help="PDUs unanswered a bind; default %(default)s")
    add("--receipt-delay", type=float, default=1.0, metavar="S", help="default %(default)s")
    add("--api-workers", type=int, default=1, metavar="N", help="default %(default)s")
    add("--keep", action="store_true", help="leave the data folder, and say where it is")
    add("--profile", choices=("api", "dispatch", "sandbox"), help="run this role under cProfile")
    arguments = parser.parse_args(words)
    if not 1 <= arguments.batch_size <= MAX_BATCH:
        parser.error(f"--batch-size: 1 to {MAX_BATCH}")
    if arguments.messages < 1:
        parser.error("--messages: 1 or more")
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    """Run it; gives the exit code."""
    arguments = parse(words)
    options = Options(
        binds=arguments.binds,
        window=arguments.window,
        receipt_delay_s=arguments.receipt_delay,
        api_workers=arguments.api_workers,
        profile=arguments.profile,
        keep=arguments.keep,
    )
    with Rig(options, say) as rig:
        result, wrong = uvloop.run(run(arguments, rig))
        if wrong or rig.crashed():
            say(rig.logs())
    print(msgspec.json.encode(result).decode(), flush=True)
    for fault in wrong:
        say(f"FAULT: {fault}")
    if options.profile is not None:
        say(f"profile of {options.profile}: python -m pstats {rig.profile_path}")
    elif options.keep:
        say(f"kept: {rig.folder}")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
