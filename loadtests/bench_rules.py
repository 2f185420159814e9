"""What the rules cost: 10 million suppressions, 1 million contact histories, all checks, a server of its own.

    python -m loadtests.bench_rules [--suppressions 10000000] [--histories 1000000] [--messages 100000] [--rebuild]

Prints JSON: the dispatcher's CPU and Redis' CPU a message for the whole decision (quiet hours, suppression, do-not-call
list, consent, the caps of country, tenant and campaign, the search for the same text) in packs of 100, and the memory
an entry. With --rebuild the suppressions stand in PostgreSQL, and a new epoch is built from them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from app import rules
from app.countries.packs import Packs
from app.domain import ids
from app.domain.contacts import Limit, TenantRules
from app.domain.message import Category
from app.domain.pack import Entry, Pack, Parcel
from app.engines.home import Home
from app.engines.postgres import Postgres
from app.engines.running import Running
from app.engines.valkey import Valkey
from app.policy import Desk
from app.queue import rules as fast
from app.queue.connection import Queue
from app.store import epochs, migrate
from app.store.engine import Database

PACK, PARCELS = 100, 10  # messages a parcel, parcels a cycle
TENANT = 1
MEMBERS = 5_000
NOON = 18 * 3_600  # UTC: noon or so in the United States


def recipients(first: int, count: int) -> list[bytes]:
    """Hashes that are as random as the real ones."""
    blob = os.urandom(8 * count)
    return [blob[8 * i : 8 * i + 8] for i in range(count)]


async def memory(queue: Queue) -> int:
    info: Any = await queue.client.info("memory")
    return int(info["used_memory"])


async def redis_cpu_s(queue: Queue) -> float:
    info: Any = await queue.client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def fill(queue: Queue, suppressions: int, histories: int) -> tuple[dict[str, float], list[bytes]]:
    """Suppressions, consents and histories; gives bytes an entry and the people with a history."""
    before = await memory(queue)
    for first in range(0, suppressions, MEMBERS):
        await fast.suppress(queue, TENANT, recipients(first, min(MEMBERS, suppressions - first)))
    filled = await memory(queue)
    people: list[bytes] = []
    now_ms, now_s = int(time.time() * 1000), time.time()
    for first in range(0, histories, MEMBERS):
        some = recipients(first, min(MEMBERS, histories - first))
        contacts = [fast.tenants_contact(TENANT, one, one + one, now_ms - 3_600_000) for one in some]
        await fast.remember_contacts(queue, contacts)
        people += some
    counted = await memory(queue)
    for first in range(0, len(people), MEMBERS):
        words = {one: fast.word(fast.EXPRESS, now_s, None) for one in people[first : first + MEMBERS]}
        await fast.set_consents(queue, TENANT, words)
    consented = await memory(queue)
    await fast.mark_whole(queue, [TENANT])
    return {
        "bytes_a_suppression": (filled - before) / max(1, suppressions),
        "bytes_a_history_of_one_contact": (counted - filled) / max(1, histories),
        "bytes_a_consent": (consented - counted) / max(1, histories),
        "all_mb": consented / 1e6,
    }, people


def parcels(people: list[bytes], start: int, now_s: float) -> list[Parcel]:
    """A cycle's parcels: marketing to people who have a history."""
    made = []
    for p in range(PARCELS):
        some = people[start + p * PACK : start + (p + 1) * PACK]
        entries = [Entry(i, f"+1212555{i:04d}", one, 1, {"name": f"A{i}"}) for i, one in enumerate(some)]
        pack = Pack(
            TENANT, None, "US", "US", int(Category.marketing), "12025550199", "Hello {name}", None, None, False,
            entries, campaign="spring",
        )  # fmt: skip
        made.append(Parcel(ids.new_id(now_s), ids.new_id(now_s), 1, 1, 5, now_s, pack))
    return made


async def measure(queue: Queue, people: list[bytes], messages: int) -> dict[str, float]:
    """CPU of both sides for whole decisions."""
    desk = Desk(Packs.load())
    desk.tenants = {
        TENANT: TenantRules(cap=Limit(50, 86_400), campaign_cap=Limit(50, 86_400), duplicate_s=600)
    }
    noon = time.time() // 86_400 * 86_400 + NOON
    made = [parcels(people, at, noon) for at in range(0, min(messages, len(people)), PACK * PARCELS)]
    sent = passed = 0
    own, server, began = own_cpu_s(), await redis_cpu_s(queue), time.monotonic()
    for cycle in made:
        decisions = [desk.first(parcel, noon) for parcel in cycle]
        asked = [(d, desk.questions(d)) for d in decisions]
        answers = iter(await fast.check(queue, [q for _, questions in asked for q in questions]))
        for decision, questions in asked:
            desk.second(decision, [next(answers) for _ in questions], noon)
            passed += len(decision.go)
        sent += PACK * PARCELS
    elapsed = time.monotonic() - began
    return {
        "messages": sent,
        "passed": passed,
        "dispatcher_cpu_us": (own_cpu_s() - own) / sent * 1e6,
        "redis_cpu_us": (await redis_cpu_s(queue) - server) / sent * 1e6,
        "elapsed_us": elapsed / sent * 1e6,
    }


async def rebuild(url: str, queue: Queue, suppressions: int) -> dict[str, float]:
    """A new epoch from that many suppressions in PostgreSQL."""
    await migrate.upgrade_async(url)
    database = Database(url, pool=2)
    async with database.driver() as driver:
        await driver.execute("INSERT INTO tenants (name, hash_key) VALUES ('t', '\\x00')")
        await driver.execute(
            "INSERT INTO suppressions (tenant_id, recipient, sender, reason, source)"
            " SELECT 1, hashint8extended(n, 0), '', 'r', 'import' FROM generate_series(1, $1::bigint) n",
            suppressions,
        )
        queue.attach(await epochs.start(driver, await queue.run_id()))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.monotonic()
        await rules.load_copy(driver, queue)
        took_s = time.monotonic() - began
    await database.dispose()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"rebuild_s": took_s, "rebuild_a_second": suppressions / took_s, "builder_grew_mb": grown / 1024}


async def run(args: argparse.Namespace, home: Home) -> dict[str, float]:
    valkey = Valkey(home)
    server = Running(valkey)
    server.start()
    found: dict[str, float] = {}
    try:
        queue = Queue(valkey.url)
        queue.attach(1)
        await queue.load()
        found, people = await fill(queue, args.suppressions, args.histories)
        found |= await measure(queue, people, args.messages)
        if args.rebuild:
            await queue.client.flushall()
            postgres = Postgres(home)
            books = Running(postgres)
            books.start()
            try:
                found |= await rebuild(postgres.url, queue, args.suppressions)
            finally:
                books.kill()
        await queue.close()
    finally:
        server.kill()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--suppressions", type=int, default=10_000_000)
    parser.add_argument("--histories", type=int, default=1_000_000)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rebuild", action="store_true")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="volley-bench-rules-"))
    folder.chmod(0o711)
    home = Home(folder / "home")
    try:
        found = asyncio.run(run(args, home))
    finally:
        home.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({name: round(value, 2) for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
