"""Inbound texts: whose they are, stops that hold at once, starts that lift what a stop set, confirmations."""

from __future__ import annotations

import time

import msgspec
import pytest

from app import rules
from app.domain import ids
from app.domain.message import Category
from app.domain.pack import Entry, Pack, decode_pack
from app.domain.recipient import hash_of
from app.queue import lanes
from app.queue import rules as fast
from app.queue.connection import Queue
from app.rules import Owner, Stop
from app.store import config, epochs, webhook_endpoints
from app.store import rules as book
from app.store.engine import Database
from app.store.intake import Draft, accept
from dispatcher.inbound import take
from gateways.base import Inbound

ANN, BOB, LINE, OTHER = "+12025550101", "+84912345678", "12025550199", "12025550188"
NOW = time.time()
ONE, TWO, THREE = (Owner(n, b"key%d" % n * 4) for n in (1, 2, 3))


@pytest.fixture
async def database(postgres_url: str):
    database = Database(postgres_url, pool=4)
    async with database.driver() as driver:
        await driver.execute(
            "TRUNCATE suppressions, consents, rule_events, inbound, senders, packs, lookups, parcels, tallies,"
            " webhook_deliveries, webhook_endpoints, gateways, regions, tenants RESTART IDENTITY CASCADE"
        )
        for owner, name in ((ONE, "default"), (TWO, "Two Ltd"), (THREE, "three")):
            await driver.execute("INSERT INTO tenants (name, hash_key) VALUES ($1, $2)", name, owner.hash_key)
        await driver.execute("INSERT INTO gateways (name, url) VALUES ('g', 'smpp://h')")
    yield database
    await database.dispose()


@pytest.fixture
async def queue(database: Database, redis_url: str):
    queue = Queue(redis_url)
    async with database.driver() as driver:
        queue.attach(await epochs.start(driver, await queue.run_id()))
        await queue.load()
        await rules.load_copy(driver, queue)
        await epochs.finish(driver, queue.epoch)
    yield queue
    await queue.close()


@pytest.fixture
def receive(database: Database, queue: Queue):
    async def one(text: str, sender: str = ANN, to: str = LINE, *, name: str = "", at: float = NOW):
        [result] = await take(database, queue, 1, [Inbound(sender, to, text, name)], at)
        return result

    return one


async def own(database: Database, owner: Owner, address: str = LINE) -> None:
    async with database.begin() as connection:
        values = {"tenant_id": owner.tenant_id, "address": address}
        await config.create(connection, config.SENDER, values, config.By("test", "test"))


async def send(
    database: Database, owner: Owner, to: str = ANN, sender: str = LINE, *, at: float = NOW
) -> None:
    entry = Entry(0, to, hash_of(owner.hash_key, to), 1)
    pack = Pack(
        owner.tenant_id, None, "US", "US", Category.marketing, sender, "hi", None, None, False, [entry]
    )
    async with database.driver() as driver, driver.transaction():
        await accept(driver, [Draft(ids.new_id(at), pack, at, 5)], at)


async def held(queue: Queue, owner: Owner, e164: str = ANN, sender: str = LINE) -> bool:
    asked = fast.Question(
        tenant_id=owner.tenant_id, sender=sender, recipients=[hash_of(owner.hash_key, e164)]
    )
    return (await fast.check(queue, [asked]))[0].letters == fast.SUPPRESSED


async def fetch(database: Database, query: str) -> list[dict[str, object]]:
    async with database.driver() as driver:
        return [dict(row) for row in await driver.fetch(query)]


async def test_a_text_belongs_to_the_owner_of_the_address(database, receive) -> None:
    await own(database, TWO)
    result = await receive("hello", to=f"+{LINE}")
    assert (result.tenant_id, result.action) == (2, None)
    [row] = await fetch(database, "SELECT * FROM inbound")
    assert (row["tenant_id"], row["sender"], row["to"], row["text"]) == (2, ANN, LINE, "hello")


async def test_else_to_who_last_sent_from_there_to_that_person_else_to_the_first(database, receive) -> None:
    assert (await receive("hello")).tenant_id == 1
    await send(database, THREE, at=NOW - 50)
    await send(database, TWO, at=NOW - 40)
    await send(database, ONE, sender=OTHER, at=NOW - 30)
    await send(database, ONE, to=BOB, at=NOW - 20)
    assert (await receive("hello")).tenant_id == 2


async def test_a_stop_holds_for_every_tenant_that_uses_the_address(database, queue, receive) -> None:
    await own(database, TWO)
    await send(database, THREE)
    result = await receive("STOP")
    assert (result.action, result.tenant_id, result.stopped) == ("stop", 2, (2, 3))
    assert [await held(queue, owner) for owner in (ONE, TWO, THREE)] == [False, True, True]
    assert not await held(queue, TWO, sender=OTHER)
    assert not await held(queue, TWO, e164=BOB)


@pytest.mark.parametrize("text", ["STOPALL", "stop all"])
async def test_stopall_is_about_every_sender_of_the_tenant(database, queue, receive, text: str) -> None:
    await own(database, TWO)
    await receive(text)
    assert await held(queue, TWO, sender=OTHER)


async def test_a_start_lifts_only_what_a_stop_set(database, queue, receive) -> None:
    await own(database, TWO)
    await rules.suppress(database, queue, TWO, [Stop(BOB, LINE)], source="api", actor="x", now_s=NOW)
    for person in (ANN, BOB):
        await receive("STOP", sender=person)
        assert await held(queue, TWO, e164=person)
        assert (await receive("START", sender=person)).action == "start"
    assert not await held(queue, TWO)
    assert await held(queue, TWO, e164=BOB)
    await receive("STOPALL")
    await receive("UNSTOP")
    assert not await held(queue, TWO)


async def test_a_doubtful_start_lifts_nothing_and_a_doubtful_stop_holds(database, queue, receive) -> None:
    await own(database, TWO)
    result = await receive("please stop texting me every day I am tired of it")
    assert (result.action, result.doubtful) == ("stop", True)
    assert await held(queue, TWO)
    result = await receive("yes")
    assert (result.action, result.doubtful) == ("start", True)
    assert await held(queue, TWO)


async def test_one_confirmation_within_five_minutes_goes_into_the_outbox(database, queue, receive) -> None:
    await own(database, TWO)
    assert (await receive("STOP", at=NOW)).confirmed
    assert not (await receive("STOP", at=NOW + 100)).confirmed
    assert not (await receive("hello", at=NOW + 110)).confirmed
    [row] = await fetch(database, "SELECT payload FROM packs")
    pack = decode_pack(row["payload"])
    assert (pack.tenant_id, pack.sender, pack.category, pack.region) == (
        2,
        LINE,
        Category.transactional,
        "US",
    )
    [entry] = pack.entries
    assert (entry.to, entry.extra) == (ANN, {"confirms": "stop"})
    assert pack.body.startswith("Two Ltd: You are unsubscribed")
    [lane] = await lanes.lanes(queue)
    assert lane == f"US:{Category.transactional.value}"
    assert (await receive("STOP", at=NOW + 1_000)).confirmed


async def test_the_confirmation_speaks_the_person_s_language(database, receive) -> None:
    assert (await receive("TC", sender=BOB)).confirmed
    [row] = await fetch(database, "SELECT payload FROM packs")
    pack = decode_pack(row["payload"])
    assert pack.country == "VN"
    assert "unsubscribed" not in pack.body


async def test_a_repetition_by_the_carrier_changes_nothing(database, queue, receive) -> None:
    await own(database, TWO)
    first = await receive("STOP", name="m1")
    await receive("START", name="m2")
    again = await receive("STOP", name="m1")
    assert first.id is not None
    assert again.id is None
    assert not await held(queue, TWO)
    assert len(await fetch(database, "SELECT * FROM inbound")) == 2
    [one, two] = await take(database, queue, 1, [Inbound(ANN, LINE, "x", "m9")] * 2, NOW)
    assert one.id is not None
    assert two.id is None


async def test_the_owner_is_told(database, receive) -> None:
    await own(database, TWO)
    async with database.driver() as driver:
        await webhook_endpoints.create(driver, 2, "https://e.example/", ["message.inbound"], NOW)
    result = await receive("Stop")
    [row] = await fetch(database, "SELECT payload FROM webhook_deliveries")
    told = msgspec.json.decode(row["payload"])
    assert told["type"] == "message.inbound"
    assert told["data"]["id"] == ids.text(result.id)
    assert (told["data"]["from"], told["data"]["action"], told["data"]["gateway"]) == (ANN, "stop", "g")


async def test_a_stop_holds_although_redis_is_away(database, queue) -> None:
    await own(database, TWO)
    away = Queue("redis://127.0.0.1:1/0")
    away.attach(queue.epoch)
    [result] = await take(database, away, 1, [Inbound(ANN, LINE, "STOP")], NOW)
    assert result.stopped == (2,)
    async with database.driver() as driver:
        assert not (await epochs.current(driver)).ready, "nothing is handed over until the copy is rebuilt"
        assert await book.suppressed(driver, 2, [(hash_of(TWO.hash_key, ANN), LINE)])
    await away.close()


async def test_senders_that_are_no_numbers_are_stored_and_not_answered(database, receive) -> None:
    result = await receive("STOP", sender="36180")
    assert (result.action, result.confirmed) == ("stop", False)
    assert (await receive("\0ok", sender="BANK")).action is None
