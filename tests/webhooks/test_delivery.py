"""The delivery worker against a real HTTP server that fails, hangs, drips, redirects and is gone."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from app.domain import ids
from app.store import webhook_endpoints, webhooks
from app.store.engine import Database
from dispatcher import webhooks as worker
from dispatcher.webhooks import Answer, Limits, next_try, run

QUICK = Limits(
    schedule_s=(0.02, 0.02, 0.02, 0.02), timeout_s=2.0, poll_s=0.02, open_first_s=0.2, allow_private=True
)
Answering = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


class Listener:
    """A local endpoint: `requests` are (path, headers, body) in the order of arrival."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: dict[str, Answering] = {}  # by path; without one, 204
        self.base = ""
        self._arrived = asyncio.Condition()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        async with self._arrived:
            self.requests.append((request.path, headers, body))
            self._arrived.notify_all()
        answer = self.answer.get(request.path)
        return await answer(request, body) if answer else web.Response(status=204)

    async def until(self, count: int, path: str | None = None) -> list[tuple[str, dict[str, str], bytes]]:
        """The requests, once there are so many (to that path)."""

        def enough() -> bool:
            return len(self.to(path)) >= count

        async with self._arrived:
            await asyncio.wait_for(self._arrived.wait_for(enough), 60)
        return self.to(path)

    def to(self, path: str | None) -> list[tuple[str, dict[str, str], bytes]]:
        return [one for one in self.requests if path is None or one[0] == path]


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    made = Listener()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    database = Database(postgres_url, pool=4)
    async with database.driver() as driver:
        await driver.execute(
            "TRUNCATE webhook_deliveries, webhook_endpoints, tenants, audit_log, gateways "
            "RESTART IDENTITY CASCADE"
        )
        for name in ("one", "two"):
            await driver.execute(
                "INSERT INTO tenants (name, hash_key) VALUES ($1, $2)", name, name.encode() * 8
            )
    yield database
    await database.dispose()


@pytest.fixture
async def start(database: Database) -> AsyncIterator[Callable[..., None]]:
    """`start()` begins a worker; it ends with the test."""
    stop, tasks = asyncio.Event(), []

    def begin(limits: Limits = QUICK, **given: object) -> None:
        tasks.append(asyncio.create_task(run(database, stop, limits=limits, **given)))  # type: ignore[arg-type]

    yield begin
    stop.set()
    await asyncio.gather(*tasks)


class Office:
    """Short words for the tests: endpoints and events of tenant 1."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def endpoint(
        self, url: str, events: tuple[str, ...] = ("*",), tenant_id: int = 1
    ) -> tuple[UUID, str]:
        async with self.database.driver() as driver:
            made = await webhook_endpoints.create(driver, tenant_id, url, events, time.time())
        assert made is not None
        return made[0].id, made[1]

    async def tell(self, *events: tuple[bytes | None, str], tenant_id: int = 1, **given: object) -> int:
        async with self.database.driver() as driver, driver.transaction():
            return await webhooks.enqueue(
                driver,
                [
                    webhooks.Event(tenant_id, message, event, {"n": n}, time.time(), **given)  # type: ignore[arg-type]
                    for n, (message, event) in enumerate(events)
                ],
            )

    async def states(self) -> list[int]:
        async with self.database.driver() as driver:
            return [r[0] for r in await driver.fetch("SELECT state FROM webhook_deliveries ORDER BY id")]

    async def settled(self, *wanted: int) -> None:
        """Until the deliveries' states are these."""
        async with asyncio.timeout(60):
            while await self.states() != list(wanted):
                await asyncio.sleep(0.01)

    async def rows(self, query: str, *given: object) -> list[dict[str, object]]:
        async with self.database.driver() as driver:
            return [dict(row) for row in await driver.fetch(query, *given)]


@pytest.fixture
def office(database: Database) -> Office:
    return Office(database)


def number_of(request: tuple[str, dict[str, str], bytes]) -> int:
    return msgspec.json.decode(request[2])["data"]["n"]


A, B = ids.message_id(ids.new_id(1), 0), ids.message_id(ids.new_id(2), 0)


async def test_a_delivery_is_signed_and_sent_once(office, listener, start) -> None:
    endpoint, secret = await office.endpoint(f"{listener.base}/hook")
    start()
    assert await office.tell((A, "message.delivered")) == 1
    [(_, headers, body)] = await listener.until(1)
    told = Webhook(secret).verify(body, headers)
    assert told["type"] == "message.delivered"
    assert told["data"] == {"n": 0}
    assert told["timestamp"].endswith("Z")
    assert headers["content-type"] == "application/json"
    await office.settled(webhooks.DELIVERED)
    [row] = await office.rows("SELECT * FROM webhook_deliveries")
    assert (row["tries"], row["last_status"], row["last_error"]) == (1, 204, None)
    assert str(row["id"]) == headers["webhook-id"]
    assert row["endpoint_id"] == endpoint


async def test_only_subscribed_enabled_endpoints_of_the_tenant_are_told(office, listener, start) -> None:
    await office.endpoint(f"{listener.base}/all")
    await office.endpoint(f"{listener.base}/inbound", ("message.inbound",))
    await office.endpoint(f"{listener.base}/other", tenant_id=2)
    off, _ = await office.endpoint(f"{listener.base}/off")
    async with office.database.driver() as driver:
        await webhook_endpoints.update(driver, 1, off.bytes, url="http://x", events=["*"], enabled=False)
    assert await office.tell((A, "message.delivered"), (None, "message.inbound")) == 3
    start()
    await listener.until(3)
    await office.settled(2, 2, 2)
    assert sorted(r[0] for r in listener.requests) == ["/all", "/all", "/inbound"]


async def test_a_failed_delivery_is_repeated_with_the_same_id(office, listener, start) -> None:
    answers = iter([500, 302, 429])

    async def flaky(request: web.Request, _: bytes) -> web.Response:
        return web.Response(status=next(answers, 200), headers={"Location": f"{listener.base}/elsewhere"})

    listener.answer["/hook"] = flaky
    _, secret = await office.endpoint(f"{listener.base}/hook")
    start()
    await office.tell((A, "message.delivered"))
    requests = await listener.until(4)
    await office.settled(webhooks.DELIVERED)
    assert len({headers["webhook-id"] for _, headers, _ in requests}) == 1
    assert not listener.to("/elsewhere"), "redirects are not followed"
    for _, headers, body in requests:
        Webhook(secret).verify(body, headers)


async def test_it_is_given_up_after_the_last_entry_of_the_schedule(office, listener, start) -> None:
    async def broken(*_: object) -> web.Response:
        return web.Response(status=500, text="+12025550101")

    listener.answer["/hook"] = broken
    await office.endpoint(f"{listener.base}/hook")
    start(msgspec.structs.replace(QUICK, schedule_s=(0.01, 0.01)))
    await office.tell((A, "message.delivered"))
    await office.settled(webhooks.GIVEN_UP)
    [row] = await office.rows("SELECT tries, last_status, last_error FROM webhook_deliveries")
    assert row == {"tries": 3, "last_status": 500, "last_error": "http_500"}
    assert len(listener.requests) == 3


async def test_one_that_hangs_holds_up_nobody_else(office, listener, start) -> None:
    release = asyncio.Event()

    async def hang(*_: object) -> web.Response:
        await release.wait()
        return web.Response()

    listener.answer["/slow"] = hang
    await office.endpoint(f"{listener.base}/slow")
    await office.endpoint(f"{listener.base}/fast")
    await office.tell(*((None, "message.delivered") for _ in range(100)))
    start(msgspec.structs.replace(QUICK, timeout_s=8.0))
    await listener.until(100, "/fast")
    assert len(listener.to("/slow")) == worker.PER_TARGET
    release.set()
    await office.settled(*[webhooks.DELIVERED] * 200)


async def test_a_time_out_is_a_failure(office, listener, start) -> None:
    async def drip(request: web.Request, _: bytes) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.05)

    listener.answer["/hook"] = drip
    await office.endpoint(f"{listener.base}/hook")
    start(msgspec.structs.replace(QUICK, timeout_s=0.2, schedule_s=()))
    await office.tell((A, "message.delivered"))
    await office.settled(webhooks.GIVEN_UP)
    [row] = await office.rows("SELECT last_error FROM webhook_deliveries")
    assert row["last_error"] == "timeout"


async def test_a_long_answer_is_not_read_to_its_end(office, listener, start) -> None:
    written = 0

    async def flood(request: web.Request, _: bytes) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        for _n in range(2_000):
            await response.write(b"x" * 65_536)
            written += 65_536
        return response

    listener.answer["/hook"] = flood
    await office.endpoint(f"{listener.base}/hook")
    start()
    await office.tell((A, "message.delivered"))
    await office.settled(webhooks.DELIVERED)
    assert written < 64 * 1024 * 1024


async def test_the_events_of_one_message_come_in_order(office, listener, start) -> None:
    failures = 2

    async def first_fails(_: web.Request, body: bytes) -> web.Response:
        nonlocal failures
        if msgspec.json.decode(body)["data"]["n"] == 0 and failures:
            failures -= 1
            return web.Response(status=503)
        return web.Response()

    listener.answer["/hook"] = first_fails
    await office.endpoint(f"{listener.base}/hook")
    await office.tell((A, "message.unconfirmed"), (A, "message.delivered"), (B, "message.delivered"))
    start(), start()
    await office.settled(2, 2, 2)
    of_a = [n for n in map(number_of, listener.requests) if n in (0, 1)]
    assert of_a == [0, 0, 0, 1]


async def test_after_failures_in_a_row_a_target_gets_one_at_a_time(office, listener, start) -> None:
    down = True

    async def maybe(*_: object) -> web.Response:
        return web.Response(status=500 if down else 200)

    listener.answer["/hook"] = maybe
    await office.endpoint(f"{listener.base}/hook")
    await office.tell(*((None, "message.delivered") for _ in range(60)))
    start(msgspec.structs.replace(QUICK, open_first_s=1.5, schedule_s=(0.01,) * 30))
    await listener.until(worker.PER_TARGET)
    await asyncio.sleep(0.1)
    assert len(listener.requests) == worker.PER_TARGET, "the breaker is open"
    await listener.until(worker.PER_TARGET + 1)
    down = False
    await office.settled(*[webhooks.DELIVERED] * 60)


async def test_gone_disables_the_endpoint_at_once(office, listener, start) -> None:
    async def gone(*_: object) -> web.Response:
        return web.Response(status=410)

    listener.answer["/hook"] = gone
    endpoint, _ = await office.endpoint(f"{listener.base}/hook")
    start()
    await office.tell((A, "message.delivered"))
    await office.settled(webhooks.GIVEN_UP)
    [row] = await office.rows(
        "SELECT enabled, disabled_reason FROM webhook_endpoints WHERE id = $1", endpoint
    )
    assert row["enabled"] is False
    assert "410" in str(row["disabled_reason"])
    [entry] = await office.rows("SELECT tenant_id, actor, action, subject FROM audit_log")
    assert entry == {
        "tenant_id": 1,
        "actor": "dispatcher",
        "action": "webhook.disable",
        "subject": f"webhook/{endpoint}",
    }
    assert await office.tell((A, "message.delivered")) == 0


async def test_days_of_failure_disable_the_endpoint_and_a_success_forgets_them(
    office, listener, start
) -> None:
    down = True

    async def maybe(*_: object) -> web.Response:
        return web.Response(status=500 if down else 200)

    listener.answer["/hook"] = maybe
    endpoint, _ = await office.endpoint(f"{listener.base}/hook")
    now = time.time() + 3_600

    def clock() -> float:
        return now

    start(msgspec.structs.replace(QUICK, schedule_s=()), clock=clock)

    async def failing_since() -> object:
        [row] = await office.rows("SELECT failing_since FROM webhook_endpoints")
        return row["failing_since"]

    await office.tell((A, "message.delivered"))
    await office.settled(3)
    assert await failing_since() == datetime.fromtimestamp(now, UTC)
    down = False
    await office.tell((A, "message.delivered"))
    await office.settled(3, 2)
    assert await failing_since() is None
    down = True
    await office.tell((A, "message.delivered"))
    await office.settled(3, 2, 3)
    now += worker.DISABLE_AFTER_S + 1
    await office.tell((A, "message.delivered"))
    await office.settled(3, 2, 3, 3)
    [row] = await office.rows(
        "SELECT enabled, disabled_reason FROM webhook_endpoints WHERE id = $1", endpoint
    )
    assert row == {"enabled": False, "disabled_reason": "no delivery succeeded for 5 days"}


async def test_both_secrets_sign_while_they_overlap(office, listener, start) -> None:
    endpoint, old = await office.endpoint(f"{listener.base}/hook")
    async with office.database.driver() as driver:
        rotated = await webhook_endpoints.rotate(driver, 1, endpoint.bytes, time.time())
    assert rotated is not None
    start()
    await office.tell((A, "message.delivered"))
    [(_, headers, body)] = await listener.until(1)
    for secret in (old, rotated[1]):
        Webhook(secret).verify(body, headers)
    async with office.database.driver() as driver:
        await driver.execute(
            "UPDATE webhook_endpoints SET secrets = jsonb_set(secrets, '{1,expires_at}', '1'::jsonb)"
        )
    await office.tell((A, "message.delivered"))
    _, (_, headers, body) = await listener.until(2)
    Webhook(rotated[1]).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(body, headers)


async def test_a_message_s_own_callback_is_signed_by_the_tenant_s_secret(office, listener, start) -> None:
    assert await office.tell((A, "message.delivered"), callback_url=f"{listener.base}/mine") == 1
    start()
    [(path, headers, body)] = await listener.until(1)
    assert path == "/mine"
    [secret] = webhook_endpoints.callback_secrets(b"one" * 8, {}, time.time())
    Webhook(secret).verify(body, headers)
    [other] = webhook_endpoints.callback_secrets(b"two" * 8, {}, time.time())
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(body, headers)


async def test_private_addresses_are_refused_unless_allowed(office, listener, start) -> None:
    port = listener.base.rpartition(":")[2]
    hosts = ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::1]", "0.0.0.0", "169.254.169.254")
    spelled = ("2130706433", "0x7f000001", "0177.0.0.1", "127.1")  # the same, as a resolver reads it
    for host in (*hosts, *spelled):
        await office.tell((None, "message.delivered"), callback_url=f"http://{host}:{port}/")
    start(msgspec.structs.replace(QUICK, allow_private=False, schedule_s=()))
    await office.settled(*[webhooks.GIVEN_UP] * len(hosts + spelled))
    rows = await office.rows("SELECT DISTINCT last_error FROM webhook_deliveries")
    assert {row["last_error"] for row in rows} <= {"address_not_allowed", "invalid_url"}
    assert not listener.requests


async def test_a_name_that_leads_here_is_refused(office, listener, start, monkeypatch) -> None:
    """Whatever DNS said before: what counts is the address that would be connected to."""
    port = int(listener.base.rpartition(":")[2])

    def resolve(host: object, port: object, *given: object, **options: object) -> list[tuple[object, ...]]:
        assert host in (b"hooks.example.com", "hooks.example.com")
        kind = socket.SOCK_STREAM
        return [
            (socket.AF_INET, kind, 6, "", ("127.0.0.1", port)),
            (socket.AF_INET6, kind, 6, "", ("::ffff:127.0.0.1", port, 0, 0)),
        ]

    await office.tell((None, "message.delivered"), callback_url=f"http://hooks.example.com:{port}/")
    start(msgspec.structs.replace(QUICK, allow_private=False, schedule_s=()))
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", resolve)
        await office.settled(webhooks.GIVEN_UP)
    [row] = await office.rows("SELECT last_error FROM webhook_deliveries")
    assert row["last_error"] == "address_not_allowed"
    assert not listener.requests


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_not_followed(status, office, listener, start) -> None:
    async def elsewhere(request: web.Request, _: bytes) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": f"{listener.base}/inside"})

    listener.answer["/hook"] = elsewhere
    await office.tell((None, "message.delivered"), callback_url=f"{listener.base}/hook")
    start(msgspec.structs.replace(QUICK, schedule_s=()))
    await office.settled(webhooks.GIVEN_UP)
    [row] = await office.rows("SELECT last_error FROM webhook_deliveries")
    assert row["last_error"] == f"http_{status}"
    assert not listener.to("/inside")


HEAD = b"HTTP/1.1 200 OK\r\n"
BOMB = gzip.compress(b"\0" * 8 * 1024 * 1024)  # 8 KiB of it
ODD_ANSWERS = {
    "a thousand times as long, unpacked": (
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB,
        webhooks.DELIVERED,
        None,
    ),
    "a head without end": (HEAD + b"X: " + b"y" * 70_000, webhooks.GIVEN_UP, "bad_answer"),
    "a body that never comes": (HEAD + b"Content-Length: 9\r\n\r\n", webhooks.GIVEN_UP, "timeout"),
    "informational answers for ever": (b"HTTP/1.1 102 X\r\n\r\n" * 500, webhooks.GIVEN_UP, "timeout"),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", webhooks.GIVEN_UP, "bad_answer"),
}


@pytest.mark.parametrize("case", ODD_ANSWERS)
async def test_odd_answers(case, office, start) -> None:
    answer, state, error = ODD_ANSWERS[case]
    held = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await held.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await office.tell((None, "message.delivered"), callback_url=f"http://127.0.0.1:{port}/")
    start(msgspec.structs.replace(QUICK, schedule_s=(), timeout_s=2.0 if error != "timeout" else 0.5))
    await office.settled(state)
    [row] = await office.rows("SELECT last_error FROM webhook_deliveries")
    assert row["last_error"] == error
    held.set()
    server.close()


async def test_what_a_dead_process_had_claimed_is_delivered_again(office, listener, start) -> None:
    await office.endpoint(f"{listener.base}/hook")
    await office.tell((A, "message.delivered"))
    now = datetime.now(UTC)
    async with office.database.driver() as driver:
        [target] = await webhooks.targets(driver)
        [claimed] = await webhooks.claim(driver, {target: 10}, now, 60.0)
        assert await webhooks.claim(driver, {target: 10}, now, 60.0) == []
        assert len(await webhooks.claim(driver, {target: 10}, now + timedelta(seconds=61), 0.0)) == 1
    start(clock=lambda: time.time() + 120)
    [(_, headers, _)] = await listener.until(1)
    assert headers["webhook-id"] == str(claimed.id)


async def test_two_workers_deliver_each_event_once(office, listener, start) -> None:
    await office.endpoint(f"{listener.base}/hook")
    start(), start()
    await office.tell(*((None, "message.delivered") for _ in range(200)))
    await office.settled(*[webhooks.DELIVERED] * 200)
    assert (
        len({headers["webhook-id"] for _, headers, _ in listener.requests}) == len(listener.requests) == 200
    )


async def test_replay_of_one_and_since_a_time(office, listener, start) -> None:
    endpoint, _ = await office.endpoint(f"{listener.base}/hook")
    start()
    await office.tell((A, "message.delivered"), (B, "message.delivered"))
    await office.settled(2, 2)
    async with office.database.driver() as driver:
        one, *_ = await webhooks.deliveries(driver, 1, endpoint.bytes)
        now = datetime.now(UTC)
        replay = webhooks.replay
        assert await replay(driver, 1, endpoint.bytes, now=now, delivery_id=one.id.bytes) == 1
        assert await replay(driver, 2, endpoint.bytes, now=now, delivery_id=one.id.bytes) == 0
    await listener.until(3)
    await office.settled(2, 2)
    async with office.database.driver() as driver:
        assert await replay(driver, 1, endpoint.bytes, now=now, since=now + timedelta(hours=1)) == 0
        assert await replay(driver, 1, endpoint.bytes, now=now, since=now - timedelta(hours=1)) == 2
    await listener.until(5)
    await office.settled(2, 2)
    assert len({headers["webhook-id"] for _, headers, _ in listener.requests}) == 2


async def test_a_stopped_worker_ends_what_is_under_way(office, listener) -> None:
    await office.endpoint(f"{listener.base}/hook")
    await office.tell((A, "message.delivered"))
    stop, arrived, release = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(*_: object) -> web.Response:
        arrived.set()
        await release.wait()
        return web.Response()

    listener.answer["/hook"] = slow
    task = asyncio.create_task(worker.run(office.database, stop, limits=QUICK))
    await arrived.wait()
    stop.set()
    await asyncio.sleep(0)
    release.set()
    await asyncio.wait_for(task, 5)
    assert await office.states() == [webhooks.DELIVERED]


NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("answer", "tries", "delay_s"),
    [
        (Answer(200), 1, None),
        (Answer(299), 1, None),
        (Answer(410), 1, None),
        (Answer(None, "timeout"), 1, 5),
        (Answer(301), 2, 30),
        (Answer(400), 12, 86_400),
        (Answer(500), 13, None),
        (Answer(429, "http_429", 3_000.0), 1, 3_000),
        (Answer(503, "http_503", 1.0), 2, 30),
    ],
)
def test_when_to_try_again(answer: Answer, tries: int, delay_s: float | None) -> None:
    when = next_try(answer, tries, NOW, worker.SCHEDULE_S, 0.0)
    assert when == (None if delay_s is None else NOW + timedelta(seconds=delay_s))


def test_jitter_spreads_both_ways_and_the_schedule_lasts_for_days() -> None:
    spread = [next_try(Answer(500), 5, NOW, worker.SCHEDULE_S, jitter) for jitter in (-1.0, 1.0)]
    assert [when - NOW for when in spread if when] == [timedelta(seconds=1_440), timedelta(seconds=2_160)]
    assert 3 * 86_400 < sum(worker.SCHEDULE_S) < worker.DISABLE_AFTER_S
    assert Limits().allow_private is False
