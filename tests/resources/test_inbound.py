"""Inbound texts: whose they are, stops that hold at once, starts that lift what a stop set, confirmations."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from datetime import UTC, datetime

import msgspec
import pytest

from app import rules
from app.domain import ids, template
from app.domain.contacts import brand_scope
from app.domain.keywords import normalise
from app.domain.message import Category
from app.domain.pack import Entry, Pack, decode_pack
from app.domain.recipient import hash_of
from app.queue import lanes
from app.queue import rules as fast
from app.queue.connection import Queue
from app.rules import Owner, Stop
from app.store import config, consent_requests, epochs, inbound_parts, keywords, webhook_endpoints
from app.store import rules as book
from app.store.engine import Database
from app.store.intake import Draft, accept
from dispatcher.inbound import STOP_WAIT_S, InboundResult, give_up, take
from gateways.base import Inbound, Part

ANN, BOB, LINE, OTHER = "+12025550101", "+84912345678", "12025550199", "12025550188"
NOW = time.time()
ONE, TWO, THREE = (Owner(n, b"key%d" % n * 4) for n in (1, 2, 3))


@pytest.fixture
async def database(postgres_url: str):
    database = Database(postgres_url, pool=4)
    async with database.driver() as driver:
        await driver.execute(
            "TRUNCATE suppressions, consents, rule_events, inbound, inbound_parts, senders, keywords, surveys,"
            " outcomes, finals, consent_requests, survey_answers, packs, lookups, parcels, tallies,"
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


@pytest.mark.parametrize("to", ["", "8199"])
async def test_a_stop_to_an_address_that_nobody_uses_is_for_everybody_who_texted_that_person(
    database, queue, receive, to: str
) -> None:
    await send(database, TWO, sender="SHOES", at=NOW - 50)
    await send(database, THREE, sender="HATS", at=NOW - 60)
    result = await receive("STOP", to=to)
    assert (result.tenant_id, result.stopped, result.confirmed) == (2, (2, 3), True)
    for owner, sender in ((TWO, "SHOES"), (TWO, LINE), (THREE, "HATS")):
        assert await held(queue, owner, sender=sender)
    assert not await held(queue, ONE)
    assert not await held(queue, TWO, e164=BOB, sender="SHOES")
    [pack] = [
        decode_pack(row["payload"]) for row in await fetch(database, "SELECT payload FROM packs ORDER BY id")
    ][-1:]
    assert (pack.tenant_id, pack.sender) == (2, "SHOES"), "answered by the address that the person knows"


async def test_what_came_to_no_address_is_for_who_texted_last(database, receive) -> None:
    assert (await receive("hello", to="")).tenant_id == 1
    assert not (await receive("STOP", to="")).confirmed, "there is nothing to answer from"
    await send(database, THREE, sender="HATS", at=NOW - 50)
    await send(database, TWO, sender="SHOES", at=NOW - 40)
    assert (await receive("hi again", to="")).tenant_id == 2
    assert (await receive("hello", to="8199")).tenant_id == 1, "an address, and none of theirs"


@pytest.mark.parametrize("text", ["STOPALL", "stop all"])
async def test_stopall_is_about_every_sender_of_the_tenant(database, queue, receive, text: str) -> None:
    await own(database, TWO)
    await receive(text)
    assert await held(queue, TWO, sender=OTHER)


async def test_a_stop_to_a_member_of_a_pool_holds_for_all_senders_also_when_it_has_left_the_pool(
    database, queue, receive
) -> None:
    await own(database, TWO)
    await own(database, TWO, OTHER)
    key = {"tenant_id": 2, "name": "main"}
    by = config.By("test", "test")
    async with database.begin() as connection:
        members = [{"address": LINE}, {"address": OTHER}]
        await config.create(connection, config.POOL, {**key, "members": members}, by)
    await receive("STOP")
    assert await held(queue, TWO, sender=OTHER)
    assert not await held(queue, TWO, e164=BOB, sender=OTHER)
    async with database.begin() as connection:
        await config.change(connection, config.POOL, key, {"members": [{"address": OTHER}]}, by)
    async with database.driver() as driver:
        left = await config.pool(driver, 2, "main")
    assert left is not None
    assert [member.address for member in left] == [OTHER]
    await receive("STOP", sender=BOB)
    assert await held(queue, TWO, e164=BOB, sender=OTHER)
    assert (await receive("START")).action == "start"
    assert not await held(queue, TWO, sender=OTHER)


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


# -- answers, own keywords, double opt-in


async def setting(database: Database, owner: Owner, **values: object) -> None:
    async with database.driver() as driver:
        await driver.execute(
            "UPDATE tenants SET settings = settings || $2 WHERE id = $1",
            owner.tenant_id,
            msgspec.json.encode(values).decode(),
        )


async def answers(database: Database) -> list[tuple[str, str]]:
    """Every text of ours, oldest first, with what it answers."""
    rows = await fetch(database, "SELECT payload FROM packs ORDER BY id")
    packs = [decode_pack(row["payload"]) for row in rows]
    return [(pack.body, str(next(iter(pack.entries[0].extra.values())))) for pack in packs]


async def keyword(database: Database, word: str, reply: str, *, sender: str = "", tenant: int = 2) -> None:
    async with database.driver() as driver:
        key = normalise(word)[0] if word else ""
        await keywords.put(driver, tenant, ids.new_id(NOW), sender=sender, key=key, keyword=word, reply=reply)


async def test_a_stop_closes_what_the_tenant_says_it_closes(database, queue, receive) -> None:
    for address, brand in ((LINE, "shoes"), (OTHER, "shoes"), ("12025550177", "hats")):
        async with database.driver() as driver:
            await driver.execute(
                "INSERT INTO senders (tenant_id, address, brand) VALUES (2, $1, $2)", address, brand
            )

    async def closed() -> list[bool]:
        found = []
        for address, brand in ((LINE, "shoes"), (OTHER, "shoes"), ("12025550177", "hats")):
            asked = fast.Question(
                tenant_id=2, sender=address, brand=brand_scope(brand), recipients=[hash_of(TWO.hash_key, ANN)]
            )
            found.append((await fast.check(queue, [asked]))[0].letters == fast.SUPPRESSED)
        return found

    for scope, wanted in (
        ("sender", [True, False, False]),
        ("brand", [True, True, False]),
        ("tenant", [True, True, True]),
    ):
        await setting(database, TWO, stop_scope=scope)
        await receive("STOP")
        assert await closed() == wanted, scope
        result = await receive("START")
        assert result.reply == "start"
        assert await closed() == [False, False, False], scope
    assert (await receive("START")).reply is None, "nothing was closed, so nothing is told"


async def test_help_is_answered_by_the_tenant_or_the_sender(database, receive) -> None:
    await own(database, TWO)
    await setting(database, TWO, brand="Shoes", contact="shoes.example")
    assert (await receive("HELP")).reply == "help"
    await setting(database, TWO, help_text="Call us")
    await receive("info", at=NOW + 1)
    await keyword(database, "", "Visit us", sender=LINE)
    await receive("help!", at=NOW + 2)
    bodies = await answers(database)
    assert bodies[0][0].startswith("Shoes alerts: help at shoes.example.")
    assert bodies[1:] == [("Call us", "help"), ("Visit us", "help")]


async def test_an_own_keyword_is_answered_and_a_stop_goes_before_it(database, queue, receive) -> None:
    await own(database, TWO)
    await keyword(database, "GIFT", "Your code: {none}")
    await keyword(database, "GIFT", "Of this sender", sender=LINE)
    await keyword(database, "stop", "a list that changed later")
    assert (await receive("  Gift! ")).reply == "keyword"
    result = await receive("gift please", at=NOW + 1)
    assert (result.action, result.keyword, result.reply) == ("keyword", "GIFT", "keyword")
    assert (await receive("I would like the gift")).action is None
    assert (await receive("STOP", at=NOW + 2)).action == "stop"
    assert (await receive("gift, but stop texting me")).action == "stop"
    assert await held(queue, TWO)
    assert [body for body, _ in await answers(database)][:2] == ["Of this sender", "Of this sender"]
    assert (await receive("gift", to=OTHER)).action is None, "another tenant's line"


async def test_a_reply_keeps_its_braces(database, receive) -> None:
    await own(database, TWO)
    await keyword(database, "code", "use {x}")
    await receive("code")
    [row] = await fetch(database, "SELECT payload FROM packs")
    assert template.parse(decode_pack(row["payload"]).body).render(None) == "use {x}"


async def test_nobody_is_answered_for_ever_and_no_machine_at_all(database, queue, receive) -> None:
    await own(database, TWO)
    await own(database, THREE, address="12025550101")
    await keyword(database, "ping", "pong")
    assert (await receive("ping", sender=ANN)).reply is None, "a number of ours would be answered by us"
    assert (await receive("ping", sender="36180")).reply is None
    assert (await receive("ping", sender="BANK")).reply is None
    for n in range(13):
        result = await receive("ping", sender=BOB, at=NOW + n)
        assert (result.action, result.reply) == ("keyword", "keyword" if n < 10 else None)
    assert (await receive("STOP", sender=BOB, at=NOW + 20)).confirmed is False
    assert await held(queue, TWO, e164=BOB), "the stop holds all the same"
    assert (await receive("ping", sender=BOB, at=NOW + 90_000)).reply == "keyword"


ASKED = ids.new_id(NOW)


async def ask(
    database: Database, owner: Owner, *, sender: str = LINE, until: float = NOW + 600, handed: bool = True
) -> None:
    stamp = [datetime.fromtimestamp(one, UTC) for one in (NOW - 1, until)]
    async with database.driver() as driver:
        await consent_requests.insert(
            driver, ids.new_id(NOW), owner.tenant_id, hash_of(owner.hash_key, ANN), purpose="marketing", brand="",
            sender=sender, evidence='{"form": "web"}', actor="key:x", message_id=ASKED,
            asked_at=stamp[0], until=stamp[1],
        )  # fmt: skip
    if handed:
        await answer(database, 1)


async def answer(database: Database, kind: int, at: float = NOW - 0.5) -> None:
    """A carrier's word on the question: 1 accepted, 2 rejected, 3 to be repeated, 4 unknown."""
    async with database.driver() as driver:
        await driver.execute(
            "INSERT INTO outcomes (message_id, attempt, segment, segments, gateway_id, kind, to_check, at)"
            " VALUES ($1, 1, 0, 1, 1, $2, 0, $3)",
            uuid.UUID(bytes=ASKED), kind, datetime.fromtimestamp(at, UTC),
        )  # fmt: skip


async def consented(queue: Queue, owner: Owner) -> bool:
    asked = fast.Question(
        tenant_id=owner.tenant_id, sender=LINE, recipients=[hash_of(owner.hash_key, ANN)], need_consent=True
    )
    return (await fast.check(queue, [asked]))[0].letters == fast.PASS


@pytest.mark.parametrize("word", ["yes", "YES!", "START"])
async def test_a_yes_confirms_what_was_asked_from_that_sender_in_time(
    database, queue, receive, word: str
) -> None:
    await own(database, TWO)
    await own(database, TWO, address=OTHER)
    await receive(word)
    assert not await consented(queue, TWO), "nobody had asked"
    await ask(database, TWO)
    await receive(word, to=OTHER)
    assert not await consented(queue, TWO), "another sender had asked"
    await receive(word, at=NOW + 601)
    assert not await consented(queue, TWO), "too late"
    result = await receive(word, at=NOW + 60)
    assert (result.action, result.reply) == ("start", "start")
    assert await consented(queue, TWO)
    async with database.driver() as driver:
        events = await book.events_of(driver, 2, hash_of(TWO.hash_key, ANN))
    assert [one.kind for one in events][:1] == ["granted"]
    assert events[0].evidence["form"] == "web"
    assert events[0].evidence["inbound_id"] == ids.text(result.id)
    assert events[0].evidence["double_opt_in"] is True
    assert (await receive("yes", at=NOW + 61)).reply is None, "once"


async def test_a_yes_to_a_question_that_nobody_got_is_none(database, queue, receive) -> None:
    await own(database, TWO)
    await ask(database, TWO, handed=False)
    await receive("yes", at=NOW + 1)
    assert not await consented(queue, TWO), "it waits yet"
    await answer(database, 2)
    await answer(database, 3)
    await receive("yes", at=NOW + 2)
    assert not await consented(queue, TWO), "it was refused"
    await answer(database, 1, NOW + 10)
    await receive("yes", at=NOW + 9)
    assert not await consented(queue, TWO), "it was handed over later"
    async with database.driver() as driver:
        await driver.execute(
            "INSERT INTO finals (message_id, state, at) VALUES ($1, 11, now())", uuid.UUID(bytes=ASKED)
        )
        await receive("yes", at=NOW + 20)
        assert not await consented(queue, TWO), "it came back"
        await driver.execute("DELETE FROM finals")
    await receive("yes", at=NOW + 30)
    assert await consented(queue, TWO)


async def test_a_stop_closes_the_question_too(database, queue, receive) -> None:
    await own(database, TWO)
    await ask(database, TWO)
    await receive("STOP")
    await receive("yes", at=NOW + 1)
    assert not await consented(queue, TWO)
    assert await held(queue, TWO)


async def test_a_survey_collects_and_counts_one_answer_a_person(database, receive) -> None:
    await own(database, TWO)
    survey = ids.new_id(NOW)
    async with database.driver() as driver:
        await keywords.create_survey(
            driver, 2, survey, name="s", question="Pizza?", sender=LINE,
            ends_at=datetime.fromtimestamp(NOW + 100, UTC),
        )  # fmt: skip
        for n, (option, word) in enumerate((("Yes", "yes"), ("Yes", "1"), ("No", "2"))):
            await keywords.put(
                driver, 2, ids.message_id(survey, n), sender=LINE, key=normalise(word)[0], keyword=word,
                reply="Thanks", survey_id=survey, option=option,
            )  # fmt: skip
    result = await receive("1")
    assert (result.action, result.reply) == ("answer", "answer")
    await receive("2", at=NOW + 1)
    await receive("Yes!", sender=BOB, at=NOW + 2)
    assert (await receive("1", sender="+447400123456", at=NOW + 200)).action is None, "it is over"
    async with database.driver() as driver:
        found = await keywords.survey(driver, 2, survey)
        assert found is not None
        assert found.counts == {"Yes": 1, "No": 1}
        assert [(one.address, one.option) for one in await keywords.answers(driver, survey)] == [
            (ANN, "No"),
            (BOB, "Yes"),
        ]
        assert await keywords.end_survey(driver, 2, survey, datetime.fromtimestamp(NOW, UTC))
    assert (await receive("1", at=NOW + 3)).action is None


async def test_a_start_lifts_what_the_carrier_had_told_and_nothing_of_ours(database, queue, receive) -> None:
    await own(database, TWO)
    blocked = [rules.Blocked(2, hash_of(TWO.hash_key, ANN), LINE, ANN, {"raw": "21610"})]
    async with database.driver() as driver, driver.transaction():
        assert await rules.suppress_blocked_within(driver, queue, blocked, now_s=NOW) == 1
    assert await held(queue, TWO)
    await receive("START")
    assert not await held(queue, TWO)


# -- what a carrier repeats


async def test_what_a_carrier_repeats_without_an_id_is_stored_once(database, queue) -> None:
    async def receive(text: str, at: float, repeat_s: float = 60.0) -> bool:
        [result] = await take(database, queue, 1, [Inbound(ANN, LINE, text, repeat_s=repeat_s)], at)
        return result.id is not None

    assert await receive("hello", NOW)
    assert not await receive("hello", NOW + 30)
    assert await receive("hello there", NOW + 30)
    assert await receive("hello", NOW + 61), "a person may say it again"
    assert await receive("hello", NOW + 62, repeat_s=0)
    both = await take(database, queue, 1, [Inbound(ANN, LINE, "yes?", repeat_s=60)] * 2, NOW)
    assert [one.id is not None for one in both] == [True, False]


async def test_a_stop_is_never_taken_for_a_repetition_and_a_start_after_it_is(database, queue) -> None:
    await own(database, TWO)

    async def receive(text: str, at: float) -> bool:
        [result] = await take(database, queue, 1, [Inbound(ANN, LINE, text, repeat_s=60)], at)
        return result.id is not None

    assert await receive("STOP", NOW)
    assert await receive("START", NOW + 1)
    assert not await held(queue, TWO)
    assert await receive("STOP", NOW + 2)
    assert await held(queue, TWO)
    assert not await receive("START", NOW + 3), "the carrier's, as far as anybody can tell"
    assert await held(queue, TWO)
    assert await receive("START", NOW + 64)
    assert not await held(queue, TWO)


# -- ports


async def test_a_text_to_a_port_is_heeded_as_a_stop_only(database, queue) -> None:
    await own(database, TWO)
    async with database.driver() as driver:
        await webhook_endpoints.create(driver, 2, "https://e.example/", ["message.inbound"], NOW)

    async def receive(text: str, port: int | None = 16_000, at: float = NOW) -> InboundResult:
        [result] = await take(database, queue, 1, [Inbound(ANN, LINE, text, repeat_s=60, port=port)], at)
        return result

    assert (await receive("HELP")).reply is None
    first = await receive("STOP")
    assert (first.action, first.doubtful, first.stopped, first.reply) == ("stop", False, (2,), None)
    assert await held(queue, TWO)
    start = await receive("START")
    assert (start.action, start.keyword, start.reply) == (None, None, None)
    assert await held(queue, TWO), "only a person takes it back"
    doubtful = await receive("please stop", 16_001)
    assert (doubtful.action, doubtful.doubtful, doubtful.reply) == ("stop", True, None)
    assert await fetch(database, "SELECT FROM packs") == []

    assert (await receive("HELP")).id is None, "a repetition"
    assert (await receive("HELP", 16_001)).id is not None, "for another application"
    assert (await receive("HELP", None)).reply == "help", "a person's"
    assert (await receive("STOP", None, NOW + 1)).reply == "stop", "not confirmed yet"

    rows = [(row["text"], row["port"]) for row in await fetch(database, "SELECT text, port FROM inbound")]
    assert Counter(rows) == Counter(
        [("HELP", 16_000), ("HELP", 16_001), ("HELP", None), ("STOP", 16_000), ("STOP", None), ("START", 16_000),
         ("please stop", 16_001)]
    )  # fmt: skip
    events = await fetch(database, "SELECT payload FROM webhook_deliveries")
    told = [msgspec.json.decode(event["payload"])["data"] for event in events]
    assert Counter((one["text"], one["port"]) for one in told) == Counter(rows)


async def test_a_port_starts_no_keyword(database, queue) -> None:
    await own(database, TWO)
    await keyword(database, "roses", "Red ones")
    [machine] = await take(database, queue, 1, [Inbound(ANN, LINE, "roses", port=2948)], NOW)
    assert (machine.action, machine.reply) == (None, None)
    [person] = await take(database, queue, 1, [Inbound(ANN, LINE, "roses")], NOW)
    assert (person.action, person.reply) == ("keyword", "keyword")


# -- parts


def part(index: int, text: str, total: int = 2, reference: int = 7, sender: str = ANN) -> Inbound:
    return Inbound(sender, LINE, text, part=Part(reference, total, index, text.encode(), "gsm7", 300.0))


async def texts(database: Database) -> list[str]:
    return [row["text"] for row in await fetch(database, "SELECT text FROM inbound ORDER BY at, id")]


async def test_parts_meet_whoever_stores_them(database, queue) -> None:
    assert await take(database, queue, 1, [part(2, "world")], NOW) == []
    assert await take(database, queue, 1, [part(2, "world")], NOW) == [], "a repetition"
    assert await texts(database) == []
    [result] = await take(database, queue, 1, [part(1, "hello ")], NOW + 100)
    assert result.id is not None
    assert await take(database, queue, 1, [part(1, "hello "), part(2, "world")], NOW + 101) == []
    assert await texts(database) == ["hello world"]
    async with database.driver() as driver:
        assert await inbound_parts.forget(driver, NOW + 401) == []
    assert await fetch(database, "SELECT * FROM inbound_parts") == []


async def test_the_first_part_that_names_a_port_names_that_of_the_text(database, queue) -> None:
    for index, port in ((3, 16_003), (1, None), (2, 16_002)):
        one = msgspec.structs.replace(part(index, str(index), 3), port=port)
        found = await take(database, queue, 1, [one], NOW)
    assert [result.action for result in found] == [None]
    assert await fetch(database, "SELECT text, port FROM inbound") == [{"text": "123", "port": 16_002}]
    late = msgspec.structs.replace(part(2, "late", 3, 8), port=16_004)
    await take(database, queue, 1, [late], NOW)
    await give_up(database, queue, 1, NOW + 301)
    assert await fetch(database, "SELECT port FROM inbound ORDER BY at DESC LIMIT 1") == [{"port": 16_004}]


async def test_the_last_two_parts_at_one_moment_make_one_text(database, queue) -> None:
    for reference in range(10):
        await take(database, queue, 1, [part(1, "a", 3, reference)], NOW)
        found = await asyncio.gather(
            take(database, queue, 1, [part(2, "b", 3, reference)], NOW),
            take(database, queue, 1, [part(3, str(reference), 3, reference)], NOW),
        )
        assert sum(len(one) for one in found) == 1
    assert sorted(await texts(database)) == [f"ab{reference}" for reference in range(10)]


async def test_what_does_not_come_in_time_is_shown_as_missing(database, queue) -> None:
    await take(database, queue, 1, [part(1, "one ", 3), part(3, " three", 3)], NOW)
    assert await give_up(database, queue, 1, NOW + 299) == []
    async with database.driver() as driver:
        assert await inbound_parts.forget(driver, NOW + 299) == []
        assert await inbound_parts.forget(driver, NOW + 301) == [1]
    [result] = await give_up(database, queue, 1, NOW + 301)
    assert result.id is not None
    assert await texts(database) == ["one … three"]
    assert await give_up(database, queue, 1, NOW + 302) == []


async def test_another_text_under_the_same_reference_loses_none(database, queue) -> None:
    await take(database, queue, 1, [part(1, "old")], NOW)
    await take(database, queue, 1, [part(1, "new "), part(2, "text")], NOW + 1)
    assert await texts(database) == ["old…", "new text"]


async def test_a_part_repeated_elsewhere_after_its_text_is_no_text(database, queue) -> None:
    whole = "a" * 153 + "the end"
    await take(database, queue, 1, [Inbound(ANN, LINE, whole)], NOW)
    await take(database, queue, 1, [part(2, "the end")], NOW + 5)
    assert await give_up(database, queue, 1, NOW + 306) == []
    assert await texts(database) == [whole]


async def test_a_stop_in_a_part_counts_at_once(database, queue) -> None:
    await own(database, TWO)
    first = "a" * 140 + " I have had enough of this "
    assert await take(database, queue, 1, [part(2, "STOP")], NOW) == []
    assert await held(queue, TWO)
    [result] = await take(database, queue, 1, [part(1, first)], NOW + 5)
    assert (result.action, result.doubtful, result.confirmed) == ("stop", True, True)
    [row] = await fetch(database, "SELECT * FROM inbound")
    assert (row["text"], row["action"]) == (f"{first}STOP", "stop")


async def test_a_stop_whose_other_parts_do_not_come_is_confirmed_in_time(database, queue) -> None:
    await own(database, TWO)
    await take(database, queue, 1, [part(2, "STOP")], NOW)
    [result] = await give_up(database, queue, 1, NOW + STOP_WAIT_S + 1)
    assert (result.action, result.confirmed) == ("stop", True)
    assert await texts(database) == ["…STOP"]


async def test_parts_of_two_people_and_two_gateways_stay_apart(database, queue) -> None:
    async with database.driver() as driver:
        await driver.execute("INSERT INTO gateways (name, url) VALUES ('h', 'smpp://h')")
    await take(database, queue, 1, [part(1, "mine "), part(2, "yours", sender=BOB)], NOW)
    await take(database, queue, 2, [part(2, "its")], NOW)
    assert await texts(database) == []
    await take(database, queue, 1, [part(2, "own")], NOW)
    assert await texts(database) == ["mine own"]
