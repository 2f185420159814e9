"""Suppressions and consents: PostgreSQL and the copy that the dispatcher asks, also when one fails."""

from __future__ import annotations

import asyncio
import time
import uuid

import pytest

from app import rules
from app.domain.contacts import brand_scope
from app.domain.recipient import hash_of
from app.queue import rules as fast
from app.queue.connection import LAYOUT, EpochLost, Queue
from app.rules import Owner, Stop, Word
from app.store import epochs, registries
from app.store import rules as book
from app.store.engine import Database

ANN, BOB = "+12025550101", "+447400123456"
NOW = time.time()
KEY = {"actor": "key:test", "now_s": NOW}


@pytest.fixture
async def database(postgres_url: str):
    database = Database(postgres_url, pool=4)
    async with database.driver() as driver:
        await driver.execute(
            "TRUNCATE suppressions, consents, rule_events, cap_events, registry_entries, tenants, organisations"
            " RESTART IDENTITY CASCADE"
        )
        for name in ("one", "two"):
            await driver.execute(
                "INSERT INTO tenants (name, hash_key) VALUES ($1, $2)", name, name.encode() * 8
            )
    yield database
    await database.dispose()


@pytest.fixture
async def queue(database: Database, redis_url: str):
    queue = Queue(redis_url)
    await build(database, queue)
    yield queue
    await queue.close()


async def build(database: Database, queue: Queue) -> None:
    """What a dispatcher does: a new epoch on this server, filled and finished."""
    async with database.driver() as driver:
        epoch = await epochs.start(driver, await queue.run_id())
        queue.attach(epoch)
        await queue.load()
        await rules.load_copy(driver, queue)
        assert await epochs.finish(driver, epoch)


ONE, TWO = Owner(1, b"one" * 8), Owner(2, b"two" * 8)


async def verdict(
    queue: Queue, owner: Owner, e164: str, sender: str = "S", *, marketing: bool = False
) -> str:
    recipient = hash_of(owner.hash_key, e164)
    asked = fast.Question(
        tenant_id=owner.tenant_id, sender=sender, recipients=[recipient], need_consent=marketing
    )
    return (await fast.check(queue, [asked]))[0].letters


async def ready(database: Database) -> bool:
    async with database.driver() as driver:
        return (await epochs.current(driver)).ready


async def test_a_stop_holds_for_one_tenant_and_one_sender(database: Database, queue: Queue) -> None:
    assert await rules.suppress(database, queue, ONE, [Stop(ANN, "S")], source="api", **KEY) == 1
    assert await verdict(queue, ONE, ANN, "S") == fast.SUPPRESSED
    assert await verdict(queue, ONE, ANN, "T") == fast.PASS
    assert await verdict(queue, ONE, BOB, "S") == fast.PASS
    assert await verdict(queue, TWO, ANN, "S") == fast.PASS
    assert await rules.suppress(database, queue, ONE, [Stop(ANN)], source="api", **KEY) == 1
    assert await verdict(queue, ONE, ANN, "T") == fast.SUPPRESSED


async def test_a_release_lifts_what_it_names(database: Database, queue: Queue) -> None:
    await rules.suppress(database, queue, ONE, [Stop(ANN, "S"), Stop(ANN, "T")], source="api", **KEY)
    assert await rules.release(database, queue, ONE, [(ANN, "S")], **KEY) == 1
    assert await verdict(queue, ONE, ANN, "S") == fast.PASS
    assert await verdict(queue, ONE, ANN, "T") == fast.SUPPRESSED
    assert await rules.release(database, queue, ONE, [(ANN, "S")], **KEY) == 0


async def test_a_repeated_release_mends_a_copy_that_stayed_too_strict(
    database: Database, queue: Queue
) -> None:
    await rules.suppress(database, queue, ONE, [Stop(ANN, "S")], source="api", **KEY)
    async with database.driver() as driver:  # what a crash between the two transactions leaves
        await rules.release_within(driver, ONE, [(ANN, "S")], evidence={}, **KEY)
    assert await verdict(queue, ONE, ANN, "S") == fast.SUPPRESSED
    await rules.release(database, queue, ONE, [(ANN, "S")], **KEY)
    assert await verdict(queue, ONE, ANN, "S") == fast.PASS


async def test_the_newest_word_about_consent_holds(database: Database, queue: Queue) -> None:
    async def ask() -> str:
        return await verdict(queue, ONE, ANN, marketing=True)

    assert await ask() == fast.NO_CONSENT
    assert await rules.grant(database, queue, ONE, [Word(ANN, at_s=NOW - 100)], **KEY) == 1
    assert await ask() == fast.PASS
    assert await rules.withdraw(database, queue, ONE, [Word(ANN, at_s=NOW - 200)], **KEY) == 0
    assert await ask() == fast.PASS
    assert await rules.withdraw(database, queue, ONE, [Word(ANN)], **KEY) == 1
    assert await ask() == fast.NO_CONSENT
    assert await rules.grant(database, queue, ONE, [Word(ANN, at_s=NOW - 50)], **KEY) == 0
    assert await ask() == fast.NO_CONSENT
    assert await rules.grant(database, queue, ONE, [Word(BOB, purpose="newsletter")], **KEY) == 1
    assert await verdict(queue, ONE, BOB, marketing=True) == fast.NO_CONSENT


async def test_a_keyword_never_weakens_another_stop(database: Database, queue: Queue) -> None:
    only = {"evidence": {}, "only_sources": book.BY_TEXT}
    for first, second in (("api", book.KEYWORD), (book.KEYWORD, "api")):
        for source in (first, second):
            await rules.suppress(database, queue, ONE, [Stop(ANN, "S")], source=source, **KEY)
        async with database.driver() as driver:
            assert await rules.release_within(driver, ONE, [(ANN, "S")], **only, **KEY) == 0
        await rules.release(database, queue, ONE, [(ANN, "S")], **KEY)
    await rules.suppress(database, queue, ONE, [Stop(ANN, "S")], source=book.KEYWORD, **KEY)
    async with database.driver() as driver:
        assert await rules.release_within(driver, ONE, [(ANN, "S")], **only, **KEY) == 1


@pytest.mark.parametrize("before", ["api", "import", "failover", book.KEYWORD])
async def test_an_erased_persons_stop_stands_whatever_stood_before(
    database: Database, queue: Queue, before: str
) -> None:
    ann = hash_of(ONE.hash_key, ANN)
    await rules.suppress(database, queue, ONE, [Stop(ANN)], source=before, **KEY)
    async with database.driver() as driver, driver.transaction():
        await rules.suppress_hashed_within(driver, queue, ONE, ann, reason="erased", source="erasure", **KEY)
    await rules.suppress(database, queue, ONE, [Stop(ANN)], source=before, **KEY)
    assert await rules.release(database, queue, ONE, [(ANN, "")], **KEY) == 0
    assert await verdict(queue, ONE, ANN) == fast.SUPPRESSED


async def test_every_change_is_in_the_ledger(database: Database, queue: Queue) -> None:
    await rules.suppress(
        database, queue, ONE, [Stop(ANN, "S", "complaint", {"ticket": 7})], source="api", **KEY
    )
    await rules.release(database, queue, ONE, [(ANN, "S")], **KEY, evidence={"ticket": 8})
    await rules.grant(database, queue, ONE, [Word(ANN, evidence={"form": "web"})], **KEY)
    await rules.withdraw(database, queue, ONE, [Word(ANN)], **KEY)
    async with database.driver() as driver:
        events = await book.events_of(driver, 1, hash_of(ONE.hash_key, ANN))
        assert not await book.events_of(driver, 2, hash_of(ONE.hash_key, ANN))
    assert [(e.kind, e.scope) for e in reversed(events)] == [
        ("suppressed", "S"),
        ("released", "S"),
        ("granted", "marketing"),
        ("withdrawn", "marketing"),
    ]
    assert events[-1].evidence == {"reason": "complaint", "source": "api", "ticket": 7}
    assert events[-2].evidence == {"was": "complaint", "source": "api", "ticket": 8}
    assert {e.actor for e in events} == {"key:test"}


async def test_a_copy_that_cannot_be_written_is_spoiled(database: Database, queue: Queue) -> None:
    unreachable = Queue("redis://127.0.0.1:1/0")
    unreachable.attach(queue.epoch)
    assert await ready(database)
    await rules.suppress(database, unreachable, ONE, [Stop(ANN)], source="api", **KEY)
    assert not await ready(database)
    await build(database, queue)
    assert await verdict(queue, ONE, ANN) == fast.SUPPRESSED
    await rules.withdraw(database, unreachable, ONE, [Word(BOB)], **KEY)
    assert not await ready(database)
    await unreachable.close()


async def test_a_copy_in_another_layout_is_spoiled_by_a_stop(
    database: Database, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API of a newer Volley while an older one's dispatchers go on: they would not find what it writes."""
    monkeypatch.setattr("app.queue.connection.LAYOUT", LAYOUT + 1)
    await rules.suppress(database, queue, ONE, [Stop(ANN)], source="api", **KEY)
    assert not await ready(database)
    await build(database, queue)
    assert await verdict(queue, ONE, ANN) == fast.SUPPRESSED
    await rules.suppress(database, queue, ONE, [Stop(BOB)], source="api", **KEY)
    assert await ready(database)
    assert await verdict(queue, ONE, BOB) == fast.SUPPRESSED


async def test_a_new_epoch_has_everything(database: Database, queue: Queue, monkeypatch) -> None:
    monkeypatch.setattr(book, "COPY_PAGE", 7)
    numbers = [f"+1202555{i:04d}" for i in range(100)]
    await rules.suppress(database, queue, ONE, [Stop(n, "S") for n in numbers], source="api", **KEY)
    await rules.suppress(database, queue, TWO, [Stop(n) for n in numbers[:50]], source="api", **KEY)
    await rules.grant(database, queue, TWO, [Word(n) for n in numbers], **KEY)
    await rules.withdraw(database, queue, TWO, [Word(n) for n in numbers[90:]], **KEY)
    async with database.driver() as driver:
        await driver.executemany(
            "INSERT INTO cap_events (tenant_id, recipient, message_id, at)"
            " VALUES (1, $1, gen_random_uuid(), now() - $2::int * interval '1 hour')",
            [(int.from_bytes(hash_of(ONE.hash_key, BOB), "big", signed=True), hours) for hours in (1, 2, 30)],
        )
    await queue.client.flushdb()
    with pytest.raises(EpochLost):
        await verdict(queue, ONE, BOB)
    await build(database, queue)
    assert {await verdict(queue, ONE, n) for n in numbers} == {fast.SUPPRESSED}
    assert [await verdict(queue, TWO, n, marketing=True) for n in numbers] == [
        *[fast.SUPPRESSED] * 50,
        *[fast.PASS] * 40,
        *[fast.NO_CONSENT] * 10,
    ]
    recipient = hash_of(ONE.hash_key, BOB)
    asked = [
        fast.Question(
            tenant_id=1,
            sender="S",
            recipients=[recipient],
            keep_ms=86_400_000,
            caps=(fast.Cap(fast.CAPPED, n, 86_400_000),),
            tokens=[b"12345678"],
        )
        for n in (2, 3)
    ]
    assert [one.letters for one in await fast.check(queue, asked)] == [fast.CAPPED, fast.PASS]


async def test_changes_while_an_epoch_is_built_are_in_it(
    database: Database, queue: Queue, monkeypatch
) -> None:
    """Also when the change comes from a process that still knows the old epoch."""
    monkeypatch.setattr(book, "COPY_PAGE", 3)
    numbers = [f"+1202555{i:04d}" for i in range(60)]
    await rules.grant(database, queue, ONE, [Word(n, at_s=NOW - 10) for n in numbers], **KEY)
    other = Queue("redis://127.0.0.1:1")
    other.client, other.epoch = queue.client, queue.epoch
    builder = Queue("redis://127.0.0.1:1")
    builder.client = queue.client

    async def change() -> None:
        for n in numbers:
            await rules.withdraw(database, other, ONE, [Word(n)], **KEY)
            await rules.suppress(database, other, ONE, [Stop(n, "T")], source="api", **KEY)

    await asyncio.gather(build(database, builder), change())
    assert {await verdict(builder, ONE, n, marketing=True) for n in numbers} == {fast.NO_CONSENT}
    assert {await verdict(builder, ONE, n, "T") for n in numbers} == {fast.SUPPRESSED}


async def test_opposite_changes_at_once_leave_the_copy_as_the_book(database: Database, queue: Queue) -> None:
    async def stop() -> None:
        await rules.suppress(database, queue, ONE, [Stop(ANN, "S")], source="api", **KEY)

    async def lift() -> None:
        await rules.release(database, queue, ONE, [(ANN, "S")], **KEY)

    for _ in range(10):
        await asyncio.gather(stop(), lift(), stop(), lift())
        async with database.driver() as driver:
            held = await book.suppressed(driver, 1, [(hash_of(ONE.hash_key, ANN), "S")])
        assert (await verdict(queue, ONE, ANN, "S") == fast.SUPPRESSED) == bool(held)


async def test_a_new_tenant_may_send_at_once(database: Database, queue: Queue) -> None:
    async with database.driver() as driver:
        await driver.execute("INSERT INTO tenants (name, hash_key) VALUES ('three', 'k')")
    three = Owner(3, b"k")
    with pytest.raises(EpochLost):
        await verdict(queue, three, ANN)
    await rules.prepare(database, queue, 3)
    assert await verdict(queue, three, ANN) == fast.PASS


async def test_a_bulk_with_doubles_is_one_statement(database: Database, queue: Queue) -> None:
    numbers = [f"+1202{i:07d}" for i in range(5_000)]
    stops = [Stop(n) for n in numbers * 2]
    assert await rules.suppress(database, queue, ONE, stops, source="upload", **KEY) == 5_000
    async with database.driver() as driver:
        assert await driver.fetchval("SELECT count(*) FROM suppressions") == 5_000
    words = [Word(n) for n in numbers * 2]
    assert await rules.grant(database, queue, ONE, words, **KEY) == 5_000


async def test_an_epoch_spoiled_while_it_is_built_is_never_finished(database: Database, queue: Queue) -> None:
    unreachable = Queue("redis://127.0.0.1:1/0")
    async with database.driver() as driver:
        epoch = await epochs.start(driver, await queue.run_id())
        queue.attach(epoch)
        await rules.load_copy(driver, queue)
        await rules.suppress(database, unreachable, ONE, [Stop(ANN)], source="api", **KEY)
        assert not await epochs.finish(driver, epoch)
    assert not await ready(database)
    await unreachable.close()


async def test_what_is_built_is_what_each_change_wrote(
    database: Database, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value for value, over pages that end within a tenant and within a person."""
    monkeypatch.setattr(book, "COPY_PAGE", 3)
    monkeypatch.setattr(registries, "COPY_PAGE", 3)
    people = [f"+1202555{n:04d}" for n in range(100, 108)]
    for owner in (ONE, TWO):
        stops = [Stop(one, sender) for one in people for sender in ("", "12025550199", brand_scope("hats"))]
        await rules.suppress(database, queue, owner, stops, source="api", **KEY)
        await rules.enlist(database, queue, owner, "US", people, 1)
        for n, one in enumerate(people):
            kind, ends_s = ("express", "soft", "inquiry")[n % 3], (None, NOW + 90.7, 2.0**31 + 5)[n % 3]
            word = Word(one, at_s=NOW - 1000.6 * n, brand=("", "hats")[n % 2], kind=kind, ends_s=ends_s)
            await rules.grant(database, queue, owner, [word], **KEY)
        await rules.withdraw(database, queue, owner, [Word(people[0]), Word(people[1], brand="hats")], **KEY)
        await contact(database, queue, owner, people)
    before, written = queue.epoch, await everything(queue)
    await build(database, queue)
    assert queue.epoch > before
    assert await everything(queue) == written
    assert {"{t1}:histories", "{o7}:histories", "{t2}:consents", "{t2}:listed:US"} <= written.keys()
    assert len(written["{t1}:suppressed"]) == len(people) + 1, "with the mark that it is whole"


@pytest.mark.parametrize("rebuilt", [False, True])
async def test_a_longer_window_counts_what_the_shorter_one_had_dropped(
    database: Database, queue: Queue, monkeypatch: pytest.MonkeyPatch, *, rebuilt: bool
) -> None:
    """Of the tenant and of its organisation; those at the edge and the new ones once. The other tenant goes on."""
    monkeypatch.setattr(book, "COPY_PAGE", 3)
    day_ms = 86_400_000
    recipient, now_ms = hash_of(ONE.hash_key, ANN), int(time.time() * 1000)
    ages_ms = [40 * day_ms, 6 * day_ms, 5 * day_ms, 4 * day_ms, 3 * day_ms, day_ms + 60_000, 60_000]
    async with database.driver() as driver:
        await driver.execute(
            "INSERT INTO organisations (id, name, hash_key, budget) OVERRIDING SYSTEM VALUE"
            """ VALUES (7, 'group', 'key', '{"max": 9, "per_s": 60}')"""
        )
        for n, age_ms in enumerate(ages_ms):
            for owner in (ONE, TWO):
                await driver.execute(
                    "INSERT INTO cap_events (tenant_id, recipient, message_id, at, contact, organisation_id,"
                    " organisation_recipient) VALUES ($1, $2, $3, to_timestamp($4::numeric / 1000), true, 7, $2)",
                    owner.tenant_id, int.from_bytes(recipient, "big", signed=True),
                    uuid.UUID(bytes=bytes([n + 1]) * 15 + bytes([owner.tenant_id])), now_ms - age_ms,
                )  # fmt: skip
        await build(database, queue)
        of_one, of_two, of_group = fast.of_tenant(1), fast.of_tenant(2), fast.of_organisation(7)
        assert [len(one) for one in (await everything(queue))["{t1}:histories"].values()] == [24], (
            "one day is kept"
        )

        week = '{"frequency_cap": {"max": 7, "per_s": 604800}}'
        await driver.execute("UPDATE tenants SET settings = settings || $1 WHERE id = 1", week)
        await driver.execute("UPDATE organisations SET budget = budget || '{\"per_s\": 604800}' WHERE id = 7")

        def asked(
            most: int, span_ms: int, token: int, *, only_ask: bool = False, tenant_id: int = 1
        ) -> fast.Question:
            return fast.Question(
                tenant_id=tenant_id, sender="S", recipients=[recipient], keep_ms=span_ms, tokens=[bytes([token]) * 16],
                caps=(fast.Cap(fast.CAPPED, most, span_ms),), only_ask=only_ask,
            )  # fmt: skip

        [answer] = await fast.check(queue, [asked(7, 7 * day_ms, 99)])
        assert answer.letters == fast.UNREADY
        [answer] = await fast.check(queue, [asked(7, 7 * day_ms, 99, only_ask=True)])
        assert answer.letters == fast.PASS, "who only asks gets the answer of now"
        [answer] = await fast.check(queue, [asked(7, day_ms, 98, tenant_id=2)])
        assert answer.letters == fast.PASS, "the other tenant goes on"

        if rebuilt:
            await build(database, queue)
        else:
            assert await rules.deepen(driver, queue) == 2
        assert await rules.deepen(driver, queue) == 0
        assert await fast.reaches(queue, [of_one, of_two, of_group]) == {
            of_one: 7 * day_ms,
            of_two: day_ms,
            of_group: 7 * day_ms,
        }
        # six in seven days: one more goes, then no other
        [answer] = await fast.check(queue, [asked(7, 7 * day_ms, 97)])
        assert answer.letters == fast.PASS
        [answer] = await fast.check(queue, [asked(7, 7 * day_ms, 96)])
        assert answer.letters == fast.CAPPED
        assert answer.free_at_s[0] == pytest.approx((now_ms - 6 * day_ms) / 1000 + 7 * 86_400, abs=0.002), (
            "in order"
        )
        histories = (await everything(queue))["{o7}:histories"]
        assert [len(one) for one in histories.values()] == [12 * 24], "both tenants' six"  # type: ignore[attr-defined]


async def contact(database: Database, queue: Queue, owner: Owner, people: list[str]) -> None:
    """Texts that count: of a campaign or none, some for an organisation, one of them tried twice."""
    for n, one in enumerate([*people, people[0]]):
        at_ms, recipient = int(NOW * 1000) - 60_000 + n, hash_of(owner.hash_key, one)
        message_id = bytes([n % len(people)]) * 16
        campaign, content = (b"camp", b"texts") if n % 2 else (fast.NO_CAMPAIGN, fast.NO_CONTENT)
        contacts = [
            fast.tenants_contact(owner.tenant_id, recipient, message_id, at_ms, n != 3, campaign, content),
            fast.organisations_contact(7, recipient, message_id, at_ms),
        ]
        await fast.remember_contacts(queue, contacts)
        async with database.driver() as driver:
            await driver.execute(
                "INSERT INTO cap_events (tenant_id, recipient, message_id, at, contact, campaign, content,"
                " organisation_id, organisation_recipient)"
                " VALUES ($1, $2, $3, to_timestamp($4::numeric / 1000), $5, $6, $7, 7, $2)",
                owner.tenant_id, int.from_bytes(recipient, "big", signed=True), uuid.UUID(bytes=message_id), at_ms,
                n != 3, campaign if n % 2 else None, content if n % 2 else None,
            )  # fmt: skip


async def everything(queue: Queue) -> dict[str, object]:
    """The copy of the rules in this epoch, by key without the epoch."""
    found: dict[str, object] = {}
    async for key in queue.client.scan_iter(f"v{queue.epoch}:{{*"):
        name = key.decode().partition(":")[2]
        kind = (await queue.client.type(key)).decode()
        found[name] = await (queue.client.smembers(key) if kind == "set" else queue.client.hgetall(key))
    return found
