"""Routes, failover and explanations on real engines: explain, then send, and it is what was explained."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio

import app.countries
from app.domain.message import Category, State
from app.settings import Settings
from app.store import config, keys
from app.store.audit import By
from gateways.sandbox import Behaviour, Sandbox
from gateways.sandbox import Settings as SandboxSettings
from tests.api.conftest import Running
from tests.dispatcher.conftest import Smsc, country, numbers

if TYPE_CHECKING:
    from tests.dispatcher.conftest import MakeWorld, World

BY = By("tests", "a test")
Until = Callable[..., Awaitable[Any]]


@pytest_asyncio.fixture
async def other() -> AsyncIterator[Smsc]:
    """A second sandbox."""
    sandbox = Sandbox(SandboxSettings(port=0, control_port=0, behaviour=Behaviour(receipt_delay_s=0.05)))
    await sandbox.start()
    assert sandbox.control_port is not None
    yield Smsc(sandbox.port, sandbox.control_port)
    await sandbox.stop()


async def two(make_world: MakeWorld, smsc: Smsc, other: Smsc, **options: Any) -> World:
    """A world with the gateways `smsc` and `other`, and the route to them."""
    world = await make_world(smsc, **options)
    first = world.smsc
    world.smsc = other
    await world.gateway("other")
    world.smsc = first
    await world.change(config.ROUTE, {"id": 1}, gateways=["smsc", "other"])
    return world


async def both_bound(world: World, local: Any, until: Until) -> None:
    await until(lambda: all(local.process.fleet.usable(name) for name in ("smsc", "other")), "two are bound")


@pytest.mark.parametrize("fault", ["cut", "refused", "slow", "throttling"])
async def test_what_is_queued_goes_by_the_other_gateway(
    make_world: MakeWorld, smsc: Smsc, other: Smsc, until: Until, fault: str
) -> None:
    patience = {"response_timeout_s": 3, "bind_timeout_s": 3} if fault == "cut" else {}
    world = await two(make_world, smsc, other, **patience)
    local = await world.start()
    await both_bound(world, local, until)
    if fault == "refused":
        await smsc.change(error=1.0)
    elif fault == "slow":
        await smsc.change(answer_delay_s=2.0)
    elif fault == "throttling":
        await smsc.change(rate=1)
    else:
        await smsc.change(cut_at=1, mute=True)
    await world.accept(numbers(300), category=Category.transactional, retry_unknown=False)
    done = (State.delivered, State.unknown, State.submitted)

    async def settled() -> bool:
        states = await world.states()
        return sum(n for state, n in states.items() if state in done) == 300

    await until(settled, "all have left", timeout_s=60)
    taken = await other.taken()
    assert sum(taken.values()) > 150
    assert all(n == 1 for n in ((await smsc.taken()) + taken).values())
    states = await world.states()
    assert states[State.unknown] <= 100  # the window that was cut, and the one that got no answer
    await world.check_books()


async def test_a_gateway_without_receipts_becomes_the_last_choice(
    make_world: MakeWorld, smsc: Smsc, other: Smsc, until: Until
) -> None:
    world = await two(make_world, smsc, other)
    await world.change(config.GATEWAY, {"name": "smsc"}, health={"receipt_after_s": 1, "receipt_share": 0.5})
    await smsc.change(lost=1.0)
    local = await world.start()
    await both_bound(world, local, until)
    await world.accept(numbers(60), category=Category.transactional)
    watch = local.process.watch
    await until(lambda: watch.standing("smsc", "US") != "well", "it is judged", timeout_s=30)
    assert dict(watch.trips) == {("smsc", "no_receipts"): 1}
    await world.accept(numbers(40, start=1000), category=Category.transactional)
    await until(lambda: _is(other, 35), "the other one takes them")
    assert watch.standing("other", "US") == "well"


async def _is(smsc: Smsc, least: int) -> bool:
    return sum((await smsc.taken()).values()) >= least


async def test_the_only_gateway_goes_on_when_it_is_well_again(
    make_world: MakeWorld, smsc: Smsc, until: Until
) -> None:
    world = await make_world(smsc)
    await smsc.change(error=1.0)
    local = await world.start()
    await world.accept(numbers(40), category=Category.transactional)
    await until(lambda: local.process.watch.trips, "it is left")
    before = len(await smsc.ledger())
    assert before <= 100  # a window or two, not each text again and again
    await smsc.change(error=0.0)
    await world.until_final(timeout_s=60)
    assert await world.states() == Counter({State.delivered: 40})
    await world.check_books()


async def test_weights_split_and_a_recipient_keeps_its_gateway(
    make_world: MakeWorld, smsc: Smsc, other: Smsc, until: Until
) -> None:
    world = await two(make_world, smsc, other)
    await world.change(config.ROUTE, {"id": 1}, strategy="weight", weights=[75, 25])
    local = await world.start()
    await both_bound(world, local, until)
    people = numbers(400)
    await world.accept(people, category=Category.transactional)
    await world.until_final(timeout_s=60)
    first = await smsc.taken()
    assert 0.65 < len(first) / 400 < 0.85
    await world.accept(people, category=Category.transactional)
    await world.until_final(timeout_s=60)
    assert set(await smsc.taken()) == set(first)
    assert set((await other.taken()).values()) == {2}
    await world.check_books()


async def test_a_change_of_routes_holds_at_once(
    make_world: MakeWorld, smsc: Smsc, other: Smsc, until: Until
) -> None:
    world = await two(make_world, smsc, other)
    local = await world.start()
    await both_bound(world, local, until)
    started = time.monotonic()
    await world.change(config.ROUTE, {"id": 1}, gateways=["other"])
    version = await world.value("SELECT version FROM config_version")
    await until(lambda: local.process.fleet.config.version == version)
    print(f"in force after {time.monotonic() - started:.3f} s")
    await world.accept(numbers(20), category=Category.transactional)
    await world.until_final()
    assert not await smsc.ledger()


@pytest.mark.parametrize(("seed", "rounds"), [(1, 5), pytest.param(2, 30, marks=pytest.mark.soak)])
async def test_gateways_that_flap_and_routes_that_change_send_nothing_twice(
    make_world: MakeWorld, smsc: Smsc, other: Smsc, until: Until, seed: int, rounds: int
) -> None:
    """Rounds of faults at random while texts go: refusals, throttling, cuts, slow answers, and routes to gateways that
    are disabled meanwhile."""
    world = await two(make_world, smsc, other)
    await world.gateway("gone")
    await world.change(config.GATEWAY, {"name": "gone"}, enabled=False)
    local = await world.start()
    await both_bound(world, local, until)
    chance = random.Random(seed)
    well: dict[str, Any] = {"error": 0.0, "rate": 0, "answer_delay_s": 0.0, "cut_at": 0}
    faults: list[dict[str, Any]] = [
        {}, {"error": 0.7}, {"rate": 5}, {"answer_delay_s": 0.3}, {"cut_at": 3}, {"error": 1.0},
    ]  # fmt: skip
    ways = [["smsc", "other"], ["other", "smsc"], ["gone"], ["gone", "other"], ["smsc"]]
    total = 0
    for _ in range(rounds):
        people = numbers(25, start=total)
        total += len(people)
        await world.accept(people, category=Category.transactional, retry_unknown=False)
        for one in (smsc, other):
            await one.change(**{**well, **chance.choice(faults)})
        await world.change(config.ROUTE, {"id": 1}, gateways=chance.choice(ways))
        await world.change(config.GATEWAY, {"name": "other"}, enabled=chance.random() < 0.7)
        await asyncio.sleep(0.2)
    for one in (smsc, other):
        await one.change(**well)
    await world.change(config.ROUTE, {"id": 1}, gateways=["smsc", "other"])
    await world.change(config.GATEWAY, {"name": "other"}, enabled=True)
    done = (State.delivered, State.unknown, State.submitted)

    async def settled() -> bool:
        states = await world.states()
        return sum(n for state, n in states.items() if state in done) == total

    await until(settled, "all have left", timeout_s=90)
    taken = (await smsc.taken()) + (await other.taken())
    assert all(n == 1 for n in taken.values())
    states = await world.states()
    assert sum(taken.values()) >= total - states[State.unknown]
    await world.check_books()


# -- explanations


class Api:
    """The API beside a world, and a key of its first tenant."""

    def __init__(self, url: str, key: str, session: aiohttp.ClientSession) -> None:
        self.url, self.key, self.session = url, key, session

    async def of_tenant(self, world: World, tenant: int) -> Api:
        """The same for a tenant of the world."""
        return Api(self.url, await _key(world, tenant), self.session)

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.session.request(method, self.url + path, json=body, headers=headers) as r:
            return r.status, (await r.json(content_type=None)) if r.status != 204 else None


@pytest_asyncio.fixture
async def api_of() -> AsyncIterator[Callable[[World], Awaitable[Api]]]:
    """Starts an API for a world."""
    running: list[Running] = []
    session = aiohttp.ClientSession()

    async def make(world: World) -> Api:
        server = Running(Settings(database_url=world.database_url, redis_url=world.redis_url))
        port = await server.start()
        running.append(server)
        return Api(f"http://127.0.0.1:{port}", await _key(world, 1), session)

    yield make
    for server in running:
        await server.stop()
    await session.close()


async def _key(world: World, tenant: int) -> str:
    async with world.database.driver() as driver:
        _, secret = await keys.create(
            driver, tenant_id=tenant, name="test", scopes=keys.SCOPES, test=False, created_by="test",
            now_s=time.time(),
        )  # fmt: skip
    return secret


CASES: list[dict[str, Any]] = [
    {"category": "transactional", "body": "Hello"},
    {"category": "otp", "body": "Your code is 123456", "to": "+84912345678"},
    {"category": "transactional", "body": "Xin chào " * 20, "to": "+84912345679"},
    {"category": "transactional", "body": "Hi {name}", "variables": {"name": "An"}, "to": "+447911123456"},
    {"category": "transactional", "body": "Hi", "sender": "pool:main", "to": "+14155550123"},
    {"category": "transactional", "body": "Hi", "sender": "pool:main", "to": "+84912345670"},
]


async def test_what_is_explained_is_what_happens(
    make_world: MakeWorld, smsc: Smsc, other: Smsc, until: Until, api_of: Callable[[World], Awaitable[Api]]
) -> None:
    world = await two(make_world, smsc, other)
    folder = Path(app.countries.__file__).with_name("rules")
    world.packs = {one.name: one.read_bytes() for one in folder.glob("*.toml")}  # those that the API has
    for name, price in (("smsc", "0.05"), ("other", "0.03")):
        prices = {"*": price, "+84": "0.02" if name == "smsc" else "0.04"}
        await world.change(config.GATEWAY, {"name": name}, currency="USD", prices=prices)
    await world.change(config.ROUTE, {"id": 1}, strategy="cost")
    async with world.database.begin() as connection:
        for address in ("12025550111", "12025550112", "84901234567", "VOLLEY"):
            key = {"tenant_id": 1, "address": address}
            await config.create(connection, config.SENDER, key, BY)
        members = [{"address": a} for a in ("12025550111", "12025550112", "84901234567", "VOLLEY")]
        await config.create(connection, config.POOL, {"tenant_id": 1, "name": "main", "members": members}, BY)
    local = await world.start()
    await both_bound(world, local, until)
    api = await api_of(world)
    await until(lambda: _ready(api), "the API sees both gateways")
    for case in CASES:
        body = {"to": "+12025550101", "sender": "12025550199", **case}
        status, found = await api.call("POST", "/v1/messages/explain", body)
        assert status == 200, found
        (explained,) = found["data"]
        assert explained["verdict"] == "send", explained
        status, posted = await api.call("POST", "/v1/messages", body)
        assert status == 202, posted
        world.accepted += 1
        await world.until_final(timeout_s=40)
        _, message = await api.call("GET", f"/v1/messages/{posted['id']}")
        attempt = message["attempts"][-1]
        assert attempt["gateway"] == explained["gateway"]
        assert explained["gateway"] == ("smsc" if body["to"].startswith("+84") else "other")
        assert message["segments"] == explained["segments"] == len(attempt["outcomes"])
        assert message["sender"] == explained["sender"]
        assert message["body"] == explained["text"]
        steps = [{k: line[k] for k in ("check", "rule", "version", "verdict")} for line in message["trace"]]
        assert steps[: len(explained["checks"])] == explained["checks"]

    async def counted() -> list[dict[bytes, bytes]]:
        client = world.queue.client
        return [await client.hgetall(key) for key in await client.keys("*:histories")]

    for to in ("+14155550123", "+84912345678"):
        marketing = {"category": "marketing", "body": "Sale", "sender": "12025550199", "to": to}
        before = await counted()
        for _ in range(3):
            status, found = await api.call("POST", "/v1/messages/explain", marketing)
            assert status in (200, 422), found  # a country may refuse the sender
        assert await counted() == before  # nobody was counted as contacted
    batch: dict[str, Any] = {"category": "transactional", "body": "Hi", "sender": "pool:main"}
    batch["recipients"] = [{"to": "+4"}, {"to": "+14155550123"}, {"to": "+33612345678"}]
    status, found = await api.call("POST", "/v1/messages/explain", batch)
    assert status == 200, found
    assert [(one["index"], one["code"]) for one in found["rejected"]] == [(0, "invalid_number")]
    american, french = found["data"]
    assert american["sender"] in ("12025550111", "12025550112")
    assert french["sender"] == "VOLLEY"  # no number of that country: the one for all others
    assert american["price"] == {"amount": "0.03", "per_segment": "0.03", "currency": "USD", "to": "*"}
    assert not [r for r in await other.ledger() if r["to"] == "33612345678"]


async def test_what_is_explained_of_what_does_not_go_happens_too(
    make_world: MakeWorld, smsc: Smsc, other: Smsc, until: Until, api_of: Callable[[World], Awaitable[Api]]
) -> None:
    world = await two(make_world, smsc, other)
    await _own_packs(world)
    local = await world.start()
    await both_bound(world, local, until)
    api = await api_of(world)
    await until(lambda: _ready(api), "the API is attached")
    await world.gateway("off")
    await world.change(config.GATEWAY, {"name": "off"}, enabled=False)
    async with world.database.begin() as connection:
        for position, (to, gateways) in enumerate((("FR", ["off"]), ("+49", ["smsc"])), start=2):
            await config.create(
                connection, config.ROUTE, {"to": to, "gateways": gateways, "position": position}, BY
            )
    await world.change(config.ROUTE, {"id": 1}, to="US")
    await world.region("AU", paused=True)
    async with world.database.begin() as connection:
        await config.create(connection, config.ROUTE, {"to": "AU", "gateways": ["other"], "position": 4}, BY)
        await config.create(connection, config.ROUTE, {"to": "GB", "gateways": ["other"], "position": 5}, BY)
    version = await world.value("SELECT version FROM config_version")
    await until(lambda: local.process.fleet.config.version == version)
    assert (await api.call("POST", "/v1/suppressions", {"to": "+12025550101"}))[0] < 300
    await smsc.change(error=1.0, error_status="ESME_RSYSERR")
    await world.accept(numbers(30, start=500), category=Category.transactional, land="DE", region="DE")

    def body(to: str, **more: Any) -> dict[str, Any]:
        return {"to": to, "sender": "12025550199", "category": "transactional", "body": "Hi", **more}

    async def says(asked: dict[str, Any], verdict: str, reason: str | None) -> bool:
        """Within about a second of what has changed."""
        status, found = await api.call("POST", "/v1/messages/explain", asked)
        assert status == 200, found
        return (found["data"][0]["verdict"], found["data"][0]["reason"]) == (verdict, reason)

    async def posted(asked: dict[str, Any]) -> str:
        status, made = await api.call("POST", "/v1/messages", asked)
        assert status == 202, made
        world.accepted += 1
        return f"/v1/messages/{made['id']}"

    async def shows(url: str, state: str, reason: str | None) -> bool:
        _, message = await api.call("GET", url)
        return (message["state"], message["reason"]) == (state, reason)

    marketing = {"category": "marketing", "body": "Sale"}
    for asked, verdict, reason, state in (
        (body("+12025550101"), "stop", "opted_out", "suppressed"),
        (body("+447400123456", **marketing), "hold", "quiet_hours", "deferred"),
    ):
        await until(lambda asked=asked, v=verdict, r=reason: says(asked, v, r), reason)
        url = await posted(asked)
        await until(lambda url=url, s=state, r=reason: shows(url, s, r), reason)

    waiting = []
    for asked, reason in (
        (body("+61412345678"), "region_paused"),
        (body("+33612345678"), "no_gateway"),
        (body("+390612345678"), "no_route"),
    ):
        await until(lambda asked=asked, r=reason: says(asked, "hold", r), reason)
        waiting.append(await posted(asked))

    refused = body("+12025550103", sender="12025550199" * 3)
    explained, really = [await api.call("POST", f"/v1/messages{path}", refused) for path in ("/explain", "")]
    assert explained[0] == really[0] == 422
    assert explained[1]["errors"] == really[1]["errors"]

    capped = body("+14155550123", **marketing)
    await world.execute(
        "UPDATE tenants SET settings = settings || $1", '{"frequency_cap": {"max": 1, "per_s": 3600}}'
    )
    async with world.database.begin() as connection:
        await config.begin(connection)
    capped_version = await world.value("SELECT version FROM config_version")
    await until(lambda: local.process.fleet.config.version == capped_version, "contacts are counted")
    await smsc.change(error=0.0)
    await until(lambda: says(capped, "send", None), "it goes")
    first = await posted(capped)
    await until(lambda: shows(first, "delivered", None), "it went", timeout_s=40)
    await until(lambda: says(capped, "hold", "frequency_cap"), "the cap is reached")
    second = await posted(capped)
    await until(lambda: shows(second, "deferred", "frequency_cap"), "it is held")

    for url in waiting:
        _, message = await api.call("GET", url)
        assert message["state"] in ("accepted", "queued", "deferred"), message
        assert not message["attempts"]


async def test_an_explanation_knows_of_an_open_circuit(
    make_world: MakeWorld, smsc: Smsc, other: Smsc, until: Until, api_of: Callable[[World], Awaitable[Api]]
) -> None:
    world = await two(make_world, smsc, other)
    await _own_packs(world)
    local = await world.start()
    await both_bound(world, local, until)
    api = await api_of(world)
    await until(lambda: _ready(api), "the API is attached")
    await smsc.change(error=1.0, error_status="ESME_RSYSERR")
    await world.accept(numbers(40), category=Category.transactional)
    await until(lambda: local.process.watch.standing("smsc", "US") != "well", "it is failing")
    body = {"to": "+14155550123", "sender": "12025550199", "category": "transactional", "body": "Hi"}

    async def explained() -> Any:
        _, found = await api.call("POST", "/v1/messages/explain", body)
        (one,) = found["data"]
        return one if one["gateway"] == "other" else None

    told = await until(explained, "the API knows, about a second later")
    assert told["verdict"] == "send"
    assert told["checks"][-1]["check"] == "route"
    assert told["checks"][-1]["verdict"].startswith("other by preference, smsc failing")
    _, made = await api.call("POST", "/v1/messages", body)
    world.accepted += 1
    url = f"/v1/messages/{made['id']}"

    async def delivered() -> Any:
        _, message = await api.call("GET", url)
        return message if message["state"] == "delivered" else None

    message = await until(delivered, "it went", timeout_s=40)
    assert message["attempts"][-1]["gateway"] == "other"
    last = [line for line in message["trace"] if line["check"] == "route"][-1]
    assert last["verdict"].startswith("other by preference, smsc ")
    assert last["rule"] == "routes.1"

    await world.change(config.ROUTE, {"id": 1}, gateways=["smsc"])  # now it is the only one
    version = await world.value("SELECT version FROM config_version")
    await until(lambda: local.process.fleet.config.version == version)
    breaker = next(one for one in local.process.watch._breakers.values() if one.state != "closed")
    for _ in range(6):  # so that it rests for the longest time
        breaker.trip("failing", time.time())

    async def says(verdict: str, reason: str | None) -> bool:
        _, found = await api.call("POST", "/v1/messages/explain", body)
        (one,) = found["data"]
        return (one["verdict"], one["reason"], one["gateway"]) == (verdict, reason, "smsc")

    await until(lambda: says("hold", "gateway_failing"), "the API knows, about a second later")
    _, made = await api.call("POST", "/v1/messages", body)
    world.accepted += 1
    url, taken = f"/v1/messages/{made['id']}", len(await smsc.ledger())
    await asyncio.sleep(1.2)  # longer than from one look at what waits for a gateway to the next
    _, message = await api.call("GET", url)
    assert (message["state"], message["attempts"], breaker.state) == ("queued", [], "open"), message
    assert len(await smsc.ledger()) == taken  # nor was anything repeated
    await smsc.change(error=0.0)
    breaker.until = time.time()
    message = await until(delivered, "it goes", timeout_s=40)
    assert [attempt["gateway"] for attempt in message["attempts"]] == ["smsc"]
    await until(lambda: says("send", None), "it is well again")
    await world.check_books()


async def test_a_tenant_is_told_nothing_of_another(
    make_world: MakeWorld, smsc: Smsc, until: Until, api_of: Callable[[World], Awaitable[Api]]
) -> None:
    """What is explained to one is the same, whatever the other one has."""
    world = await make_world(smsc)
    await _own_packs(world)
    await world.start()
    first = await api_of(world)
    second = await first.of_tenant(world, 2)
    await until(lambda: _ready(first), "the API is attached")
    to = "+14155550123"
    plain = {"to": to, "sender": "12025550199", "category": "transactional", "body": "Hi"}
    asks = [plain, {**plain, "category": "marketing"}, {**plain, "sender": "VOLLEY"}]
    asks += [{**plain, "sender": "pool:main"}, {**plain, "to": "+14155550124"}]
    asks.append({"to": to, "sender": "12025550199", "category": "transactional", "template": "hello"})

    async def told(api: Api) -> list[tuple[int, Any]]:
        answers = [await api.call("POST", "/v1/messages/explain", ask) for ask in asks]
        for _, found in answers:
            for one in found.get("data", ()):
                for check in one["checks"]:
                    if check["check"] == "route":
                        del check["version"]  # of the whole configuration
            found.pop("instance", None)
        return answers

    before, theirs = await told(first), await told(second)
    assert before == theirs
    assert [status for status, _ in before] == [200, 200, 200, 422, 200, 422]

    await world.gateway("secret")
    await world.change(config.GATEWAY, {"name": "secret"}, rate=7, currency="USD", prices={"*": "0.01"})
    async with world.database.begin() as connection:
        route = {"to": "US", "gateways": ["secret"], "tenant_id": 2, "position": 1}
        await config.create(connection, config.ROUTE, route, BY)
        for address in ("12025550199", "VOLLEY"):
            await config.create(
                connection, config.SENDER, {"tenant_id": 2, "address": address, "rate": 3}, BY
            )
        pool = {"tenant_id": 2, "name": "main", "members": [{"address": "VOLLEY"}]}
        await config.create(connection, config.POOL, pool, BY)
    assert (await second.call("POST", "/v1/templates", {"name": "hello", "body": "Hello"}))[0] == 201
    assert (await second.call("POST", "/v1/suppressions", {"to": to}))[0] < 300

    async def theirs_holds() -> Any:
        answers = await told(second)
        return answers if "secret" in str(answers[4]) and "opted_out" in str(answers[0]) else None

    theirs = await until(theirs_holds, "it holds for whose it is")
    assert [status for status, _ in theirs] == [200] * 6
    now = await told(first)
    for ask, one, other in zip(asks, before, now, strict=True):
        assert one == other, ask
    _, hints = await first.call("POST", "/v1/messages/explain", plain)
    assert "secret" not in str(hints)


async def _own_packs(world: World) -> None:
    """Rules of this test's own, for the API and the dispatcher: open at every hour, but in GB, where the one hour is
    far from now."""
    far = (datetime.now(UTC).hour + 12) % 24
    hours = {"GB": f'[["{far:02}:00", "{far:02}:30"]]'}
    async with world.database.begin() as connection:
        for code in ("US", "GB", "AU", "FR", "DE", "IT"):
            (content,) = country(code, **({"hours": hours[code]} if code in hours else {})).values()
            key = {"code": code, "content": content.decode()}
            await config.create(connection, config.COUNTRY_PACK, key, BY)


async def _ready(api: Api) -> bool:
    """The API is attached, and the dispatcher has shown it that both gateways are up."""
    status, found = await api.call(
        "POST",
        "/v1/messages/explain",
        {"to": "+12025550101", "sender": "12025550199", "category": "otp", "body": "x"},
    )
    return status == 200 and all(one["health"] == "well" for one in found["data"][0]["gateways"])


async def test_a_probe_tells_what_each_gateway_does(
    make_world: MakeWorld, smsc: Smsc, other: Smsc, until: Until, api_of: Callable[[World], Awaitable[Api]]
) -> None:
    world = await two(make_world, smsc, other)
    await other.change(error=1.0, error_status="ESME_RX_P_APPN")
    local = await world.start()
    await both_bound(world, local, until)
    api = await api_of(world)
    probe = {"region": "US", "sender": "12025550199", "reason": "launch"}
    status, problem = await api.call("POST", "/v1/probes", probe)
    assert (status, problem["code"]) == (422, "invalid_value")
    change = {"test_numbers": ["+1 415 200 0001", "+14152000002", "+14152000003"], "reason": "our phones"}
    status, region = await api.call("PATCH", "/v1/regions/US", change)
    assert (status, region["test_numbers"]) == (200, ["+14152000001", "+14152000002", "+14152000003"])
    assert (await api.call("POST", "/v1/suppressions", {"to": "+14152000003"}))[0] < 300
    status, made = await api.call("POST", "/v1/probes", probe)
    assert (status, made["texts"], made["gateways"]) == (202, 6, ["smsc", "other"])
    world.accepted += 6
    assert (await api.call("POST", "/v1/probes", probe))[0] == 429
    await world.until_final(timeout_s=40)
    status, result = await api.call("GET", made["url"])
    assert status == 200
    assert result["complete"]
    good, bad = sorted(result["gateways"], key=lambda one: one["gateway"] != "smsc")
    assert (good["accepted"], good["delivered"], good["receipt_rate"], good["acceptance"]) == (2, 2, 1.0, 1.0)
    assert good["receipt_ms"] is not None
    assert (bad["accepted"], bad["refused"], bad["acceptance"], bad["reasons"]) == (
        0,
        2,
        0.0,
        {"rejected": 2, "opted_out": 1},
    )
    assert good["reasons"] == {
        "opted_out": 1
    }  # a test number that said stop has said stop, and no gateway is blamed
    assert (good["stopped"], bad["stopped"], good["waiting"], bad["waiting"]) == (1, 1, 0, 0)
    assert sorted(one["to"] for one in await smsc.ledger()) == ["14152000001", "14152000002"]
    await world.check_books()
    entries = await world.fetch("SELECT action, after::text FROM audit_log WHERE action ~ 'probe|region'")
    assert {row["action"] for row in entries} == {"region.create", "probe.create"}
    assert not any("4152000001" in row["after"] for row in entries)
    await until(lambda: _judged(api), "the gateway's health is shown")


async def _judged(api: Api) -> bool:
    status, found = await api.call("GET", "/v1/gateways/smsc/health")
    assert status == 200
    return (
        found["binds"] == 1 and found["total"]["answers"] >= 2 and found["regions"]["US"]["failed_share"] == 0
    )
