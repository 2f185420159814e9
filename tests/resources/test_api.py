"""The resources over HTTP: a real server on real engines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import uvicorn

from app import rules
from app.api.server import create_app
from app.domain.recipient import hash_of
from app.queue import rules as fast
from app.queue.connection import Queue
from app.settings import Settings
from app.store import bootstrap, config, epochs, keys, webhooks
from app.store.engine import Database
from app.store.inbound import Row, insert

ADMIN = "an-admin-key-for-the-tests"
URL = "smpp://user:hidden@127.0.0.1:2775?window=10"


class Client:
    """A caller with a key."""

    def __init__(self, session: aiohttp.ClientSession, base: str, key: str | None) -> None:
        self._session, self._base, self.key = session, base, key

    def with_key(self, key: str | None) -> Client:
        return Client(self._session, self._base, key)

    async def __call__(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, **headers: str
    ) -> tuple[int, Any]:
        """(status, document)."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.key:
            sent["Authorization"] = f"Bearer {self.key}"
        given: dict[str, Any] = (
            {"data": raw} if raw is not None else {"json": body} if body is not None else {}
        )
        async with self._session.request(method, self._base + path, headers=sent, **given) as response:
            self.headers = response.headers
            text = await response.read()
            return response.status, (await response.json(content_type=None)) if text else None

    async def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        status, document = await self(method, path, body, **more)
        assert status < 300, document
        return document

    async def refused(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, str, str]:
        """(status, code, first pointer)."""
        status, document = await self(method, path, body, **more)
        assert status >= 400, document
        first = (document.get("errors") or [{}])[0]
        return status, document["code"], first.get("pointer", "")


@pytest.fixture(scope="module")
async def database(postgres_url: str) -> AsyncIterator[Database]:
    database = Database(postgres_url, pool=3)
    await bootstrap.first_key_async(postgres_url, ADMIN)
    yield database
    await database.dispose()


@pytest.fixture(scope="module")
async def queue(database: Database, redis_url: str) -> AsyncIterator[Queue]:
    queue = Queue(redis_url)
    async with database.driver() as driver:
        queue.attach(await epochs.start(driver, await queue.run_id()))
        await queue.load()
        await rules.load_copy(driver, queue)
        await epochs.finish(driver, queue.epoch)
    yield queue
    await queue.close()


@pytest.fixture(scope="module")
async def api(database: Database, queue: Queue, postgres_url: str, redis_url: str) -> AsyncIterator[Client]:
    app = create_app(Settings(database_url=postgres_url, redis_url=redis_url))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    server.install_signal_handlers = lambda: None
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as session:
        yield Client(session, f"http://127.0.0.1:{port}", ADMIN)
    server.should_exit = True
    await task


@pytest.fixture(scope="module")
async def other(api: Client) -> Client:
    """An admin of a tenant that is not the operator's."""
    tenant = await api.ok("POST", "/v1/tenants", {"name": "other", "settings": {"brand": "Other"}})
    key = await api.ok("POST", "/v1/keys", {"name": "k", "scopes": ["admin"], "tenant_id": tenant["id"]})
    return api.with_key(key["key"])


async def verdict(queue: Queue, key: bytes, tenant_id: int, e164: str, *, marketing: bool = False) -> str:
    asked = fast.Question(
        tenant_id=tenant_id, sender="S", recipients=[hash_of(key, e164)], need_consent=marketing
    )
    return (await fast.check(queue, [asked]))[0].letters


async def hash_key(database: Database, tenant_id: int) -> bytes:
    async with database.driver() as driver:
        return await driver.fetchval("SELECT hash_key FROM tenants WHERE id = $1", tenant_id)


# -- gateways, routes, regions, senders


async def test_a_gateway_s_password_is_written_and_never_read(api: Client, database: Database) -> None:
    made = await api.ok("POST", "/v1/gateways", {"name": "g1", "url": URL, "reason": "new"})
    assert made["url"] == URL.replace("hidden", "***")
    changed = await api.ok(
        "PATCH", "/v1/gateways/g1", {"url": made["url"].replace("window=10", "window=20"), "reason": "more"}
    )
    assert "window=20" in changed["url"]
    assert (changed["version"], made["version"]) == (2, 1)
    async with database.driver() as driver:
        stored = await driver.fetchval("SELECT url FROM gateways WHERE name = 'g1'")
        log = repr(
            await driver.fetch("SELECT before, after, reason FROM audit_log WHERE subject = 'gateway/g1'")
        )
    assert stored == URL.replace("window=10", "window=20")
    assert "hidden" not in log
    assert "more" in log
    assert "hidden" not in repr(await api.ok("GET", "/v1/gateways"))
    moved = {"url": "smpp://user:***@elsewhere.example:2775", "reason": "x"}
    assert await api.refused("PATCH", "/v1/gateways/g1", moved) == (422, "invalid_value", "/url")


async def test_the_secrets_of_settings_don_t_follow_to_another_host(api: Client, database: Database) -> None:
    settings = {
        "request": {
            "url": "https://{host}/send",
            "headers": {"Authorization": "Bearer hidden"},
            "body": {"to": "{to}", "text": "{text}"},
        }
    }
    async with database.begin() as connection:
        values = {"name": "web", "url": "generic+https://h.example/send", "settings": settings}
        await config.create(connection, config.GATEWAY, values, config.By("test", "test"))
    shown = (await api.ok("GET", "/v1/gateways/web"))["settings"]
    assert shown["request"]["headers"] == {"Authorization": "***"}
    moved = {"url": "generic+https://evil.example/send", "reason": "x"}
    for body in (moved, {**moved, "settings": shown}):
        assert (await api.refused("PATCH", "/v1/gateways/web", body))[:2] == (422, "invalid_value")
    async with database.driver() as driver:
        assert await driver.fetchval("SELECT url FROM gateways WHERE name = 'web'") == values["url"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"name": "G", "url": URL}, (422, "invalid_value", "/name")),
        ({"name": "g9", "url": "nonsense://x"}, (422, "invalid_value", "/url")),
        ({"name": "g9", "url": "smpp://h?window=-1"}, (422, "invalid_value", "/url")),
        ({"name": "g9", "url": URL, "rate": -1}, (422, "invalid_value", "/rate")),
        ({"name": "g9", "url": URL, "settings": {"a": "\0"}}, (422, "nul_character", "/settings/a")),
        ({"name": "g9"}, (422, "invalid_request", "/url")),
    ],
)
async def test_a_wrong_gateway_is_refused(api: Client, body: dict, expected: tuple) -> None:
    assert await api.refused("POST", "/v1/gateways", {**body, "reason": "x"}) == expected


async def test_every_change_needs_a_reason_and_minds_the_version(api: Client) -> None:
    await api.ok("PATCH", "/v1/regions/VN", {"rate": 10, "reason": "new"})
    assert (await api.refused("PATCH", "/v1/regions/VN", {"rate": 11}))[:2] == (422, "invalid_request")
    stale = {"rate": 12, "version": 9, "reason": "x"}
    assert (await api.refused("PATCH", "/v1/regions/VN", stale))[:2] == (409, "conflict")
    fresh = await api.ok("PATCH", "/v1/regions/VN", {"rate": 12, "version": 1, "paused": True, "reason": "x"})
    assert (fresh["rate"], fresh["paused"], fresh["version"]) == (12, True, 2)
    assert (await api.ok("PATCH", "/v1/regions/VN", {"rate": 0, "reason": "x"}))["rate"] is None
    [newest, *_] = (await api.ok("GET", "/v1/audit?subject=region/VN"))["data"]
    assert (newest["actor"], newest["before"]["rate"], newest["after"]["rate"]) == ("key first key", 12, None)
    for code in ("UK", "US-FL"):  # a rate or a pause that would hold for nobody
        nobody = await api.refused("PATCH", f"/v1/regions/{code}", {"paused": True, "reason": "x"})
        assert nobody == (422, "invalid_value", "/prefixes")
    fine = {"rate": 5, "prefixes": ["1305"], "reason": "x"}
    assert (await api.ok("PATCH", "/v1/regions/US-FL", fine))["prefixes"] == ["+1305"]
    none = {"prefixes": [], "reason": "x"}
    assert (await api.refused("PATCH", "/v1/regions/US-FL", none))[:2] == (422, "invalid_value")
    await api.ok("DELETE", "/v1/regions/US-FL?reason=done")
    await api.ok("DELETE", "/v1/regions/VN?reason=done")
    assert (await api.refused("GET", "/v1/regions/VN"))[0] == 404


async def test_routes_keep_their_order(api: Client) -> None:
    await api.ok("POST", "/v1/gateways", {"name": "g2", "url": URL, "reason": "new"})

    async def order() -> list[str]:
        return [route["to"] for route in (await api.ok("GET", "/v1/routes"))["data"]]

    for to in ("*", "VN", "+8490"):
        await api.ok("POST", "/v1/routes", {"to": to, "gateways": ["g2"], "position": 1, "reason": "x"})
    assert await order() == ["+8490", "VN", "*"]
    last = (await api.ok("GET", "/v1/routes"))["data"][2]
    moved = await api.ok(
        "PATCH", f"/v1/routes/{last['id']}", {"position": 1, "category": "otp", "reason": "x"}
    )
    assert moved["category"] == "otp"
    assert await order() == ["*", "+8490", "VN"]
    await api.ok("DELETE", f"/v1/routes/{last['id']}?reason=x")
    assert await order() == ["+8490", "VN"]
    unknown = {"to": "*", "gateways": ["nobody"], "reason": "x"}
    assert await api.refused("POST", "/v1/routes", unknown) == (422, "invalid_value", "/gateways")


async def test_what_belongs_to_no_tenant_is_the_operator_s(other: Client) -> None:
    for path in ("gateways", "routes", "regions", "tenants", "gateways/g1"):
        assert (await other.refused("GET", f"/v1/{path}"))[:2] == (403, "forbidden"), path
    change = {"rate": 1, "reason": "x"}
    assert (await other.refused("PATCH", "/v1/regions/FR", change))[:2] == (403, "forbidden")


async def test_a_sender_can_t_be_taken_from_another_tenant(api: Client, other: Client) -> None:
    made = await other.ok("POST", "/v1/senders", {"address": "+12025550177", "rate": 5, "reason": "ours"})
    assert made["address"] == "12025550177"
    again = {"address": "12025550177", "reason": "x"}
    assert (await other.refused("POST", "/v1/senders", again))[:2] == (409, "conflict")
    third = await api.ok("POST", "/v1/tenants", {"name": "third"})
    key = await api.ok("POST", "/v1/keys", {"name": "k", "scopes": ["operate"], "tenant_id": third["id"]})
    assert (await api.with_key(key["key"]).refused("POST", "/v1/senders", again))[:2] == (409, "conflict")
    assert (await api.ok("GET", "/v1/senders"))["data"] == []
    assert (await other.ok("PATCH", "/v1/senders/12025550177", {"rate": 6, "reason": "x"}))["rate"] == 6
    await other.ok("DELETE", "/v1/senders/+12025550177?reason=x")


# -- tenants and keys


async def test_a_new_tenant_may_send_at_once(api: Client, database: Database, queue: Queue) -> None:
    tenant = await api.ok(
        "POST", "/v1/tenants", {"name": "fresh", "settings": {"default_sender": "+12025550199"}}
    )
    assert tenant["settings"]["default_sender"] == "12025550199"
    key = await hash_key(database, tenant["id"])
    assert await verdict(queue, key, tenant["id"], "+12025550101") == fast.PASS
    assert (await api.refused("POST", "/v1/tenants", {"name": "fresh"}))[:2] == (409, "conflict")
    changed = await api.ok(
        "PATCH",
        f"/v1/tenants/{tenant['id']}",
        {"settings": {"brand": "F", "default_sender": None}, "reason": "x"},
    )
    assert (changed["settings"]["brand"], changed["settings"]["default_sender"]) == ("F", None)
    names = []
    path = "/v1/tenants?limit=1"
    while path:
        page = await api.ok("GET", path)
        names += [one["name"] for one in page["data"]]
        path = page["next"] and f"/v1/tenants?limit=1&cursor={page['next']}"
    assert names[0] == "default"
    assert "fresh" in names


async def test_a_key_is_shown_once_rotated_with_overlap_and_revoked(api: Client, database: Database) -> None:
    made = await api.ok("POST", "/v1/keys", {"name": "robot", "scopes": ["read"]})
    assert api.headers["cache-control"] == "no-store"
    assert "key" not in await api.ok("GET", f"/v1/keys/{made['id']}")
    robot = api.with_key(made["key"])
    await robot.ok("GET", "/v1/templates")
    assert (await robot.refused("GET", "/v1/keys"))[:2] == (403, "forbidden")
    rotated = await api.ok("POST", f"/v1/keys/{made['id']}/rotate", {"overlap_s": 3_600})
    for key in (made["key"], rotated["key"]):
        await api.with_key(key).ok("GET", "/v1/templates")
    assert (await api.refused("POST", f"/v1/keys/{made['id']}/rotate"))[:2] == (409, "conflict")
    await api.ok("POST", f"/v1/keys/{rotated['id']}/revoke")
    async with database.driver() as driver:
        assert await keys.find(driver, keys.hash_of(rotated["key"])) is None
    await api.ok("DELETE", f"/v1/keys/{made['id']}")
    listed = [key["id"] for key in (await api.ok("GET", "/v1/keys"))["data"]]
    assert made["id"] not in listed
    assert made["id"] in [key["id"] for key in (await api.ok("GET", "/v1/keys?revoked=true"))["data"]]


async def test_an_idempotent_key_is_made_once(api: Client) -> None:
    body = {"name": "once", "scopes": ["read"]}
    await api.ok("POST", "/v1/keys", body, Idempotency_Key="k-1")
    assert (await api.refused("POST", "/v1/keys", body, Idempotency_Key="k-1"))[:2] == (
        409,
        "idempotency_answer_not_kept",
    )
    names = [key["name"] for key in (await api.ok("GET", "/v1/keys"))["data"]]
    assert names.count("once") == 1


async def test_an_admin_of_a_tenant_reaches_its_own_keys_alone(api: Client, other: Client) -> None:
    [operator, *_] = (await api.ok("GET", "/v1/tenants"))["data"]
    new = {"name": "x", "scopes": ["read"], "tenant_id": operator["id"]}
    assert (await other.refused("POST", "/v1/keys", new))[:2] == (403, "forbidden")
    assert (await other.refused("GET", f"/v1/keys?tenant_id={operator['id']}"))[:2] == (403, "forbidden")
    [own] = (await other.ok("GET", "/v1/keys"))["data"]
    assert (await api.refused("GET", f"/v1/keys/{own['id']}"))[0] == 404
    assert all(entry["tenant_id"] != operator["id"] for entry in (await other.ok("GET", "/v1/audit"))["data"])


# -- templates


async def test_templates_have_versions_that_never_change(api: Client, other: Client) -> None:
    body = {"name": "welcome", "body": "Hi {name}", "variables": ["name"]}
    assert (await api.ok("POST", "/v1/templates", body))["version"] == 1
    assert (await api.refused("POST", "/v1/templates", body))[:2] == (409, "conflict")
    assert (await api.ok("PUT", "/v1/templates/welcome", {"body": "Hi {name}"}))["version"] == 1
    second = await api.ok("PUT", "/v1/templates/welcome", {"body": "Hello {name}, {place}"})
    assert (second["version"], second["variables"]) == (2, ["name", "place"])
    assert (await api.ok("GET", "/v1/templates/welcome"))["version"] == 2
    assert (await api.ok("GET", "/v1/templates/welcome/versions/1"))["body"] == "Hi {name}"
    assert [v["version"] for v in (await api.ok("GET", "/v1/templates/welcome/versions"))["data"]] == [2, 1]
    assert (await other.refused("GET", "/v1/templates/welcome"))[0] == 404
    await api.ok("DELETE", "/v1/templates/welcome")
    assert (await api.ok("GET", "/v1/templates"))["data"] == []
    assert (await api.refused("DELETE", "/v1/templates/welcome"))[0] == 404
    assert (await api.ok("POST", "/v1/templates", body))["version"] == 3


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"body": "Hi {name"}, (422, "template_syntax", "/body")),
        ({"body": "Hi {name}", "variables": []}, (422, "missing_variable", "/variables")),
        ({"body": "Hi", "variables": ["name"]}, (422, "invalid_value", "/variables/0")),
        ({"body": ""}, (422, "invalid_request", "/body")),
        ({"body": "a\0b"}, (422, "nul_character", "/body")),
        ({"body": "\ud800"}, (422, "lone_surrogate", "/body")),
        ({"body": "x", "more": 1}, (422, "invalid_request", "/more")),
    ],
)
async def test_a_wrong_template_is_refused(api: Client, body: dict, expected: tuple) -> None:
    assert await api.refused("PUT", "/v1/templates/t", body) == expected


# -- suppressions and consents


async def test_a_suppression_holds_when_it_is_answered(api: Client, database: Database, queue: Queue) -> None:
    key = await hash_key(database, 1)
    made = await api.ok("POST", "/v1/suppressions", {"to": "+1 202-555-0111", "reason": "complaint"})
    assert (made["to"], made["sender"], made["source"]) == ("+12025550111", None, "api")
    assert await verdict(queue, key, 1, "+12025550111") == fast.SUPPRESSED
    await api.ok("POST", "/v1/suppressions", {"to": "+12025550111", "sender": "S"})
    [one] = (await api.ok("GET", "/v1/suppressions?to=%2B12025550111&limit=1"))["data"]
    assert one["reason"] == "complaint"
    standing = await api.ok("GET", "/v1/suppressions/+12025550111")
    assert {s["sender"] for s in standing["suppressed"]} == {None, "S"}
    assert [e["kind"] for e in standing["events"]] == ["suppressed", "suppressed"]
    assert standing["events"][0]["actor"] == "key first key"
    for sender in ("?sender=S", ""):
        assert await verdict(queue, key, 1, "+12025550111") == fast.SUPPRESSED
        await api.ok("DELETE", f"/v1/suppressions/+12025550111{sender}")
    assert await verdict(queue, key, 1, "+12025550111") == fast.PASS
    assert (await api.refused("DELETE", "/v1/suppressions/+12025550111"))[0] == 404
    assert await api.refused("POST", "/v1/suppressions", {"to": "12"}) == (422, "invalid_number", "/to")


async def test_many_at_once_and_in_pages(
    api: Client, other: Client, database: Database, queue: Queue
) -> None:
    numbers = [f"+120255{i:05d}" for i in range(10_000, 12_500)]
    items = [{"to": n} for n in numbers] + [{"to": "nonsense"}, {"to": numbers[0], "sender": "?" * 15}]
    taken = await api.ok("POST", "/v1/suppressions/bulk", {"suppressions": items}, Idempotency_Key="bulk-1")
    assert (taken["accepted"], taken["new"], taken["rejected_count"]) == (2_500, 2_500, 2)
    assert [(r["index"], r["pointer"], r["code"]) for r in taken["rejected"]] == [
        (2_500, "/suppressions/2500/to", "invalid_number"),
        (2_501, "/suppressions/2501/sender", "invalid_sender"),
    ]
    again = await api.ok("POST", "/v1/suppressions/bulk", {"suppressions": items}, Idempotency_Key="bulk-1")
    assert again == taken
    key = await hash_key(database, 1)
    assert {await verdict(queue, key, 1, n) for n in numbers[::250]} == {fast.SUPPRESSED}
    seen: list[str] = []
    path = "/v1/suppressions?limit=500"
    while path:
        page = await api.ok("GET", path)
        seen += [one["to"] for one in page["data"]]
        path = page["next"] and f"/v1/suppressions?limit=500&cursor={page['next']}"
    assert sorted(seen) == numbers
    assert (await other.ok("GET", "/v1/suppressions"))["data"] == []
    page = await api.ok("GET", "/v1/suppressions?limit=1")
    stolen = f"/v1/suppressions?limit=1&cursor={page['next']}"
    assert (await other.refused("GET", stolen))[:2] == (400, "invalid_cursor")
    too_many = {"suppressions": [{"to": "+12025550111"}] * 10_001}
    assert (await api.refused("POST", "/v1/suppressions/bulk", too_many))[0] in (413, 422)


@pytest.mark.parametrize(
    ("media", "content"),
    [
        ("text/csv", b"to,sender\n+447400123456,S\n+447400123457,\nnot a number,\n"),
        (
            "application/x-ndjson",
            b'{"to":"+447400123456","sender":"S"}\n{"to":"+447400123457"}\n{"to":"x"}\n',
        ),
    ],
)
async def test_a_file_of_suppressions(other: Client, media: str, content: bytes) -> None:
    taken = await other.ok("POST", "/v1/suppressions/import", raw=content, Content_Type=media)
    line = 4 if media == "text/csv" else 3
    assert (taken["accepted"], taken["rejected_count"]) == (2, 1)
    assert [(r["index"], r["code"]) for r in taken["rejected"]] == [(line, "invalid_number")]
    found = await other.ok("GET", "/v1/suppressions")
    assert {(s["to"], s["sender"]) for s in found["data"]} == {
        ("+447400123456", "S"),
        ("+447400123457", None),
    }


async def test_a_large_file_is_taken_in_chunks(other: Client) -> None:
    rows = "".join(f"+120256{i:05d}\n" for i in range(20_000))
    taken = await other.ok(
        "POST", "/v1/suppressions/import", raw=b"phone\n" + rows.encode(), Content_Type="text/csv"
    )
    assert taken["accepted"] + taken["rejected_count"] == 20_000
    assert taken["accepted"] > 15_000
    wrong = await other.refused("POST", "/v1/suppressions/import", raw=b"x", Content_Type="image/png")
    assert wrong[:2] == (415, "unsupported_media_type")
    header = await other.refused("POST", "/v1/suppressions/import", raw=b"name\nx\n", Content_Type="text/csv")
    assert header[:2] == (422, "malformed_row")


async def test_the_newest_word_about_consent_holds(api: Client, database: Database, queue: Queue) -> None:
    key, to = await hash_key(database, 1), "+12025550122"

    async def ask() -> str:
        return await verdict(queue, key, 1, to, marketing=True)

    assert await ask() == fast.NO_CONSENT
    given = {"to": to, "source": "web form", "evidence": {"ip": "192.0.2.1"}, "at": "2026-01-01T00:00:00Z"}
    assert (await api.ok("POST", "/v1/consents", given))["status"] == "granted"
    assert await ask() == fast.PASS
    late = {"to": to, "status": "withdrawn", "at": "2025-12-31T00:00:00Z"}
    assert (await api.ok("POST", "/v1/consents", late))["status"] == "granted"
    assert (await api.ok("DELETE", f"/v1/consents/{to}?reason=asked"))["status"] == "withdrawn"
    assert await ask() == fast.NO_CONSENT
    events = (await api.ok("GET", f"/v1/suppressions/{to}"))["events"]
    assert {e["kind"] for e in events} == {"granted", "withdrawn"}
    assert {"source": "web form", "ip": "192.0.2.1"}.items() <= events[-1]["evidence"].items() or any(
        e["evidence"].get("ip") == "192.0.2.1" for e in events
    )
    future = {"to": to, "at": "2126-01-01T00:00:00Z"}
    assert await api.refused("POST", "/v1/consents", future) == (422, "invalid_time", "/at")
    assert (await api.refused("DELETE", "/v1/consents/+12025550133"))[0] == 404


async def test_many_consents_at_once(api: Client, database: Database, queue: Queue) -> None:
    key = await hash_key(database, 1)
    items = [{"to": f"+1202557{i:04d}", "status": "withdrawn" if i % 2 else "granted"} for i in range(1_000)]
    taken = await api.ok("POST", "/v1/consents/bulk", {"consents": [*items, {"to": "1"}]})
    assert (taken["accepted"], taken["rejected_count"]) == (1_000, 1)
    verdicts = [await verdict(queue, key, 1, one["to"], marketing=True) for one in items[:20]]
    assert verdicts == [fast.PASS, fast.NO_CONSENT] * 10
    content = b"to,source,at\n+12025580001,paper,2026-01-01T00:00:00Z\n+12025580002,,\n+12025580003,x,never\n"
    taken = await api.ok("POST", "/v1/consents/import", raw=content, Content_Type="text/csv")
    assert (taken["accepted"], [r["index"] for r in taken["rejected"]]) == (2, [4])
    found = await api.ok("GET", "/v1/consents/+12025580001")
    assert (found["data"][0]["status"], found["data"][0]["at"]) == ("granted", "2026-01-01T00:00:00Z")


# -- inbound and webhooks


async def test_inbound_texts_are_their_tenant_s(api: Client, other: Client, database: Database) -> None:
    await api("POST", "/v1/gateways", {"name": "g3", "url": URL, "reason": "new"})
    now = time.time()
    async with database.driver() as driver:
        gateway_id = await driver.fetchval("SELECT id FROM gateways WHERE name = 'g3'")
        rows = [
            Row(
                b"\x01" * 15 + bytes([n]),
                1,
                gateway_id,
                "+12025550101",
                "36180",
                f"t{n}",
                action,
                None,
                False,
                "",
                now,
                port=16_000 if n == 0 else None,
            )
            for n, action in enumerate((None, "stop", None))
        ]
        await insert(driver, rows)
    page = await api.ok("GET", "/v1/inbound?limit=2")
    assert [one["text"] for one in page["data"]] == ["t2", "t1"]
    rest = await api.ok("GET", f"/v1/inbound?limit=2&cursor={page['next']}")
    assert [(one["text"], one["from"], one["gateway"], one["port"]) for one in rest["data"]] == [
        ("t0", "+12025550101", "g3", 16_000)
    ]
    [stop] = (await api.ok("GET", "/v1/inbound?action=stop&from=%2B12025550101&to=36180"))["data"]
    again = await api.ok("GET", f"/v1/inbound/{stop['id']}")
    assert (again["action"], again["port"]) == ("stop", None)
    assert (await other.refused("GET", f"/v1/inbound/{stop['id']}"))[0] == 404
    assert (await other.ok("GET", "/v1/inbound"))["data"] == []


async def test_a_webhook_endpoint_from_its_secret_to_its_replays(
    api: Client, other: Client, database: Database
) -> None:
    made = await api.ok(
        "POST", "/v1/webhooks", {"url": "https://e.example/h", "events": ["message.delivered"]}
    )
    path = f"/v1/webhooks/{made['id']}"
    assert made["secret"].startswith("whsec_")
    assert "secret" not in await api.ok("GET", path)
    rotated = await api.ok("POST", f"{path}/rotate")
    assert rotated["secret"] != made["secret"]
    assert rotated["secrets"] == 2
    async with database.driver() as driver, driver.transaction():
        event = webhooks.Event(1, None, "message.delivered", {"n": 1}, time.time())
        assert await webhooks.enqueue(driver, [event, event]) == 2
        await driver.execute("UPDATE webhook_deliveries SET state = 2, delivered_at = now()")
    page = await api.ok("GET", f"{path}/deliveries?state=delivered&limit=1")
    [delivery] = page["data"]
    assert (delivery["state"], delivery["next_at"]) == ("delivered", None)
    assert page["next"]
    one = await api.ok("POST", f"{path}/deliveries/{delivery['id']}/replay")
    assert one == {"replayed": 1}
    assert len((await api.ok("GET", f"{path}/deliveries?state=pending"))["data"]) == 1
    assert await api.ok("POST", f"{path}/replay", {"since": "2026-01-01T00:00:00Z"}) == {"replayed": 1}
    for method, where in (
        ("GET", path),
        ("GET", f"{path}/deliveries"),
        ("POST", f"{path}/rotate"),
        ("DELETE", path),
    ):
        assert (await other.refused(method, where))[0] == 404, where
    off = await api.ok("PATCH", path, {"enabled": False})
    assert (off["enabled"], off["disabled_reason"]) == (False, "by request")
    assert (await api.ok("PATCH", path, {"enabled": True, "events": ["*"]}))["disabled_reason"] is None
    await api.ok("DELETE", path)
    assert (await api.ok("GET", "/v1/webhooks"))["data"] == []
    for wrong in ("ftp://e.example/", "https://u:p@e.example/", "https:///x", "http://a b/"):
        assert await api.refused("POST", "/v1/webhooks", {"url": wrong}) == (422, "invalid_value", "/url")
    unknown = {"url": "https://e.example", "events": ["message.nothing"]}
    assert (await api.refused("POST", "/v1/webhooks", unknown))[:2] == (422, "invalid_request")


async def test_the_secret_of_callbacks_rotates_with_overlap(api: Client, other: Client) -> None:
    [first] = (await api.ok("GET", "/v1/webhooks/callback-secret"))["secrets"]
    rotated = (await api.ok("POST", "/v1/webhooks/callback-secret/rotate"))["secrets"]
    assert rotated[1:] == [first]
    assert (await api.ok("GET", "/v1/webhooks/callback-secret"))["secrets"] == rotated
    assert (await other.ok("GET", "/v1/webhooks/callback-secret"))["secrets"] != [first]


# -- all of them


ROUTES = [
    ("GET", "templates"),
    ("GET", "suppressions"),
    ("GET", "consents"),
    ("GET", "inbound"),
    ("GET", "webhooks"),
    ("GET", "senders"),
    ("GET", "gateways"),
    ("GET", "routes"),
    ("GET", "regions"),
    ("GET", "tenants"),
    ("GET", "keys"),
    ("GET", "audit"),
]


@pytest.mark.parametrize(("method", "name"), ROUTES)
async def test_nothing_is_read_without_a_key_or_its_scope(api: Client, method: str, name: str) -> None:
    assert (await api.with_key(None).refused(method, f"/v1/{name}"))[:2] == (401, "unauthenticated")
    made = await api.ok("POST", "/v1/keys", {"name": "send only", "scopes": ["send"]})
    assert (await api.with_key(made["key"]).refused(method, f"/v1/{name}"))[:2] == (403, "forbidden")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[" * 10_000, b'"x"', b'{"to": "\\ud800"}', b"null"]
)
async def test_a_body_that_can_t_be_read_is_a_problem(api: Client, content: bytes) -> None:
    for path in ("suppressions", "consents", "templates", "webhooks", "gateways", "keys"):
        status, code, _ = await api.refused(
            "POST", f"/v1/{path}", raw=content, Content_Type="application/json"
        )
        assert 400 <= status < 500, (path, code)


async def test_a_template_s_body_that_is_too_long_has_the_code_of_a_message_s(api: Client) -> None:
    body = {"name": "too-long", "body": "x" * 1_601}
    assert (await api("POST", "/v1/templates", body))[1]["errors"][0]["code"] == "body_too_long"


# -- routing: strategies, prices, currencies, pools


async def test_a_route_s_strategy_and_weights_belong_together(api: Client) -> None:
    for name in ("w1", "w2"):
        await api.ok("POST", "/v1/gateways", {"name": name, "url": URL, "reason": "new"})
    route = {"to": "TH", "gateways": ["w1", "w2"], "reason": "split"}
    for more in (
        {"strategy": "weight"},
        {"strategy": "weight", "weights": [1]},
        {"strategy": "weight", "weights": [0, 0]},
        {"weights": [1, 1]},
    ):
        assert await api.refused("POST", "/v1/routes", route | more) == (422, "invalid_value", "/weights")
    made = await api.ok(
        "POST", "/v1/routes", route | {"strategy": "weight", "weights": [7, 3], "sender": "+84"}
    )
    assert (made["strategy"], made["weights"], made["sender"]) == ("weight", [7, 3], "84")
    path = f"/v1/routes/{made['id']}"
    fewer = {"gateways": ["w1"], "reason": "one"}
    assert await api.refused("PATCH", path, fewer) == (422, "invalid_value", "/weights")
    cost = await api.ok("PATCH", path, {"strategy": "cost", "weights": [], "reason": "cheaper"})
    assert (cost["strategy"], cost["weights"], cost["version"]) == ("cost", [], 2)
    await api("DELETE", f"{path}?reason=done")


async def test_price_lists_are_exact_and_replaced_whole(api: Client, other: Client) -> None:
    await api.ok("POST", "/v1/gateways", {"name": "p1", "url": URL, "reason": "new"})
    path = "/v1/gateways/p1/prices"
    assert await api.ok("GET", path) == {"currency": None, "prices": {}, "version": 1}
    listed = {"prices": {"84": "0.0310", "*": "0.05"}, "reason": "list"}
    assert await api.refused("PUT", path, listed) == (422, "invalid_value", "/currency")
    made = await api.ok("PUT", path, listed | {"currency": "EUR"})
    assert made == {"currency": "EUR", "prices": {"+84": "0.0310", "*": "0.05"}, "version": 2}
    assert (await api("PUT", path, {"prices": {"*": 0.05}, "reason": "a float"}))[0] == 422
    file = f"{path}.csv?reason=file"
    kind = {"content_type": "text/csv"}
    loaded = await api.ok("PUT", file, raw=b"to,price\n+66,0.02\n", **kind)
    assert loaded["prices"] == {"+66": "0.02"}
    bad = await api.refused("PUT", file, raw=b"to,price\n+66,0.03\n+66,0.04\n", **kind)
    assert bad == (422, "invalid_value", "/prices")
    assert (await api.ok("GET", path))["prices"] == {"+66": "0.02"}
    assert (await other("GET", path))[0] == 403
    rate = await api.ok("PUT", "/v1/currencies/EUR", {"rate": "1.08", "reason": "today"})
    assert rate["rate"] == "1.08"
    zero = await api.refused("PUT", "/v1/currencies/EUR", {"rate": "0", "reason": "x"})
    assert zero == (422, "invalid_value", "/rate")
    assert [one["code"] for one in (await api.ok("GET", "/v1/currencies"))["data"]] == ["EUR"]
    assert (await api("DELETE", "/v1/currencies/EUR?reason=x"))[0] == 204
    trail = (await api.ok("GET", "/v1/audit?limit=3"))["data"]
    assert {one["action"] for one in trail} >= {"currency.remove", "currency.create"}


async def test_a_pool_has_registered_senders_and_keeps_them(api: Client) -> None:
    pool = {"members": [{"address": "+12025550142"}, {"address": "VOLLEY"}], "reason": "pool"}
    refused = await api.refused("PUT", "/v1/pools/main", pool)
    assert refused == (422, "invalid_value", "/members/0/address")
    for address in ("12025550142", "VOLLEY"):
        await api.ok("POST", "/v1/senders", {"address": address, "reason": "ours"})
    made = await api.ok("PUT", "/v1/pools/main", pool)
    assert made["members"] == [
        {"address": "12025550142", "countries": ["US"]},
        {"address": "VOLLEY", "countries": []},
    ]
    assert (await api("DELETE", "/v1/senders/VOLLEY?reason=gone"))[0] == 422
    fewer = await api.ok("PUT", "/v1/pools/main", {"members": [{"address": "12025550142"}], "reason": "one"})
    assert [one["address"] for one in fewer["members"]] == ["12025550142"]
    assert (await api("DELETE", "/v1/senders/VOLLEY?reason=gone"))[0] == 204
    message = {"to": "+12025550101", "category": "transactional", "body": "x", "sender": "pool:nobody"}
    assert await api.refused("POST", "/v1/messages", message) == (422, "invalid_sender", "/sender")
    assert (await api("POST", "/v1/messages", message | {"sender": "pool:main"}))[0] == 202
    assert (await api("DELETE", "/v1/pools/main?reason=done"))[0] == 204
