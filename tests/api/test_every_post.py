"""`Idempotency-Key` on every POST that the description lists: a new route has no way round it.

Each route is asked twice with one key (the answer is replayed, nothing is done twice), with another body (422),
and twice at the same moment (it is done once). What was done is read off the database, whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Any, NamedTuple

import pytest

from app import rules
from app.api.server import create_app
from app.queue.connection import Queue
from app.settings import Settings
from app.store import epochs


class Ask(NamedTuple):
    """A request, and a body that makes it another one."""

    path: str
    body: Any
    other: Any
    kind: str = "application/json"

    def bytes_of(self, body: Any) -> bytes:
        return body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()


async def _batch(api: Any) -> str:
    return (await api.post("/v1/batches", api.batch([{"to": "+12025550101"}], body="x"))).json["url"]


async def _endpoint(api: Any) -> str:
    """Of a tenant that has room for another one."""
    for one in (await api.get("/v1/webhooks")).json["data"]:
        await api.call("DELETE", f"/v1/webhooks/{one['id']}")
    made = await api.post("/v1/webhooks", {"url": "https://example.com/hook"})
    return f"/v1/webhooks/{made.json['id']}"


async def _key(api: Any) -> str:
    made = await api.post("/v1/keys", {"name": "k", "scopes": ["send"], "reason": "test"})
    return f"/v1/keys/{made.json['id']}"


async def _post_message(api: Any) -> Ask:
    return Ask("/v1/messages", api.message(), api.message(body="other"))


async def _cancel_message(api: Any) -> Ask:
    url = (await api.post("/v1/messages", api.message())).json["url"]
    return Ask(f"{url}/cancel", {"reason": "a"}, {"reason": "b"})


async def _post_batch(api: Any) -> Ask:
    to = [{"to": "+12025550101"}]
    return Ask("/v1/batches", api.batch(to, body="x"), api.batch(to, body="y"))


async def _upload(api: Any) -> Ask:
    query = "category=transactional&sender=12025550199&body=x"
    file = b"to\n+12025550101\n"
    return Ask(f"/v1/batches/upload?{query}", file, b"to\n+12025550102\n", "text/csv")


async def _pause(api: Any) -> Ask:
    return Ask(f"{await _batch(api)}/pause", {"reason": "a"}, {"reason": "b"})


async def _resume(api: Any) -> Ask:
    url = await _batch(api)
    await api.post(f"{url}/pause", {})
    return Ask(f"{url}/resume", {"reason": "a"}, {"reason": "b"})


async def _cancel_batch(api: Any) -> Ask:
    return Ask(f"{await _batch(api)}/cancel", None, {"reason": "b"})


async def _template(api: Any) -> Ask:
    name = f"t-{uuid.uuid4().hex[:8]}"
    return Ask("/v1/templates", {"name": name, "body": "Hi {x}"}, {"name": name, "body": "Ho {x}"})


_numbers = iter(range(2025550110, 2025559999))


def _number() -> str:
    return f"+1{next(_numbers)}"


async def _suppression(api: Any) -> Ask:
    return Ask("/v1/suppressions", {"to": _number()}, {"to": _number()})


async def _suppressions(api: Any) -> Ask:
    path = "/v1/suppressions/bulk"
    return Ask(path, {"suppressions": [{"to": _number()}]}, {"suppressions": [{"to": _number()}]})


def _file() -> bytes:
    return f"to\n{_number()}\n".encode()


async def _suppression_file(api: Any) -> Ask:
    return Ask("/v1/suppressions/import", _file(), _file(), "text/csv")


async def _consent(api: Any) -> Ask:
    return Ask("/v1/consents", {"to": _number()}, {"to": _number()})


async def _consents(api: Any) -> Ask:
    return Ask("/v1/consents/bulk", {"consents": [{"to": _number()}]}, {"consents": [{"to": _number()}]})


async def _consent_file(api: Any) -> Ask:
    return Ask("/v1/consents/import", _file(), _file(), "text/csv")


async def _webhook(api: Any) -> Ask:
    await _endpoint(api)
    return Ask("/v1/webhooks", {"url": "https://example.com/a"}, {"url": "https://example.com/b"})


async def _callback_secret(api: Any) -> Ask:
    return Ask("/v1/webhooks/callback-secret/rotate", None, {"overlap_s": 60})


async def _webhook_secret(api: Any) -> Ask:
    return Ask(f"{await _endpoint(api)}/rotate", None, {"overlap_s": 60})


async def _replay(api: Any) -> Ask:
    url = await _delivered(api)
    return Ask(f"{url}/replay", {"since": "2020-01-01T00:00:00Z"}, {"since": "2020-01-02T00:00:00Z"})


async def _replay_one(api: Any) -> Ask:
    url = await _delivered(api)
    one = (await api.get(f"{url}/deliveries")).json["data"][0]
    return Ask(f"{url}/deliveries/{one['id']}/replay", None, {"x": 1})


async def _delivered(api: Any) -> str:
    """An endpoint with one delivery to it."""
    url = await _endpoint(api)
    message = (await api.post("/v1/messages", api.message())).json["url"]
    assert (await api.post(f"{message}/cancel")).status == 200
    return url


async def _estimate(api: Any) -> Ask:
    return Ask("/v1/texts/estimate", {"body": "x"}, {"body": "y"})


async def _sender(api: Any) -> Ask:
    body = {"address": f"S{uuid.uuid4().hex[:8]}", "reason": "r"}
    return Ask("/v1/senders", body, {**body, "reason": "another"})


async def _gateway(api: Any) -> Ask:
    name = f"g-{uuid.uuid4().hex[:8]}"
    body = {"name": name, "url": "smpp://u:p@127.0.0.1:2775", "reason": "r"}
    return Ask("/v1/gateways", body, {**body, "reason": "another"})


async def _route(api: Any) -> Ask:
    gateway = await _gateway(api)
    await api.post(gateway.path, gateway.body)
    body = {"to": "GB", "gateways": [gateway.body["name"]], "reason": "r"}
    return Ask("/v1/routes", body, {**body, "reason": "another"})


_regions = cycle(("GB", "FR", "SG", "IN", "AU", "DE", "ES", "IT", "JP", "BR", "MX", "ZA"))


async def _probe(api: Any) -> Ask:
    """A region is probed once in a while: another one each time."""
    route, region = await _route(api), next(_regions)
    body = {"region": region, "gateways": route.body["gateways"], "sender": "12025550199", "reason": "r"}
    change = {"test_numbers": ["+12025550101"], "reason": "r"}
    made = await api.call("PATCH", f"/v1/regions/{region}", json=change)
    assert made.status == 200, made.raw
    return Ask("/v1/probes", body, {**body, "reason": "another"})


async def _explain(api: Any) -> Ask:
    queue = Queue(api.redis_url)
    async with api.database.driver() as driver:  # it asks Redis' copy, which a dispatcher builds
        queue.attach(await epochs.start(driver, await queue.run_id()))
        await queue.load()
        await rules.load_copy(driver, queue)
        await epochs.finish(driver, queue.epoch)
    await queue.close()
    deadline = time.monotonic() + 30
    while (await api.post("/v1/messages/explain", api.message())).status == 503:  # it joins within a second
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    return Ask("/v1/messages/explain", api.message(), api.message(body="another"))


async def _tenant(api: Any) -> Ask:
    return Ask("/v1/tenants", {"name": uuid.uuid4().hex}, {"name": uuid.uuid4().hex})


async def _new_key(api: Any) -> Ask:
    body = {"name": "k", "scopes": ["send"], "reason": "r"}
    return Ask("/v1/keys", body, {**body, "name": "other"})


async def _rotate_key(api: Any) -> Ask:
    return Ask(f"{await _key(api)}/rotate", None, {"overlap_s": 60})


async def _revoke_key(api: Any) -> Ask:
    return Ask(f"{await _key(api)}/revoke", None, {"reason": "another"})


async def _keyword(api: Any) -> Ask:
    body = {"keyword": f"gift {uuid.uuid4().hex[:8]}", "reply": "r"}
    return Ask("/v1/keywords", body, {**body, "reply": "another"})


def _question() -> dict[str, Any]:
    name = uuid.uuid4().hex[:8]
    return {"name": name, "question": "q", "sender": "12025550199", "options": {"a": [f"a {name}"]}}


async def _survey(api: Any) -> Ask:
    body = _question()
    return Ask("/v1/surveys", body, {**body, "question": "another"})


async def _end_survey(api: Any) -> Ask:
    made = await api.post("/v1/surveys", _question())
    return Ask(f"/v1/surveys/{made.json['id']}/end", None, {"reason": "another"})


async def _registry(api: Any) -> Ask:
    lists = len(
        (await api.get("/v1/registries")).json["data"]
    )  # a first list of another country at each call
    country, number = (("VN", b"+84912345678\n"), ("GB", b"+447400123456\n"))[lists % 2]
    return Ask(f"/v1/registries/{country}/import", number, b"+12025550102\n", "text/csv")


async def _erasure(api: Any) -> Ask:
    number = f"+1202555{uuid.uuid4().int % 10_000:04d}"  # nobody who is suppressed already
    return Ask("/v1/erasures", {"to": number}, {"to": "+12025550156"})


async def _organisation(api: Any) -> Ask:
    return Ask("/v1/organisations", {"name": uuid.uuid4().hex}, {"name": uuid.uuid4().hex})


ASKS: dict[str, Callable[[Any], Awaitable[Ask]]] = {
    "/v1/messages": _post_message,
    "/v1/messages/{message_id}/cancel": _cancel_message,
    "/v1/batches": _post_batch,
    "/v1/batches/upload": _upload,
    "/v1/batches/{batch_id}/pause": _pause,
    "/v1/batches/{batch_id}/resume": _resume,
    "/v1/batches/{batch_id}/cancel": _cancel_batch,
    "/v1/templates": _template,
    "/v1/texts/estimate": _estimate,
    "/v1/suppressions": _suppression,
    "/v1/suppressions/bulk": _suppressions,
    "/v1/suppressions/import": _suppression_file,
    "/v1/consents": _consent,
    "/v1/consents/bulk": _consents,
    "/v1/consents/import": _consent_file,
    "/v1/keywords": _keyword,
    "/v1/surveys": _survey,
    "/v1/surveys/{survey_id}/end": _end_survey,
    "/v1/registries/{country}/import": _registry,
    "/v1/erasures": _erasure,
    "/v1/organisations": _organisation,
    "/v1/webhooks": _webhook,
    "/v1/webhooks/callback-secret/rotate": _callback_secret,
    "/v1/webhooks/{endpoint_id}/rotate": _webhook_secret,
    "/v1/webhooks/{endpoint_id}/replay": _replay,
    "/v1/webhooks/{endpoint_id}/deliveries/{delivery_id}/replay": _replay_one,
    "/v1/senders": _sender,
    "/v1/gateways": _gateway,
    "/v1/routes": _route,
    "/v1/probes": _probe,
    "/v1/messages/explain": _explain,
    "/v1/tenants": _tenant,
    "/v1/keys": _new_key,
    "/v1/keys/{key_id}/rotate": _rotate_key,
    "/v1/keys/{key_id}/revoke": _revoke_key,
}
"""A request of each POST, made anew at each call. A route that is missing here fails the first test below."""


def _posts() -> list[str]:
    paths = create_app(Settings()).openapi()["paths"]
    return sorted(path for path, operations in paths.items() if operations.get("post", {}).get("security"))


def test_there_is_a_request_for_every_post() -> None:
    assert set(ASKS) == set(_posts())


async def _send(api: Any, ask: Ask, body: Any, key: str) -> Any:
    headers = {"content-type": ask.kind}
    return await api.call("POST", ask.path, data=ask.bytes_of(body), idempotency_key=key, headers=headers)


async def _rows(api: Any) -> dict[str, tuple[int, str]]:
    """Every table's rows: how many, and a hash of them."""
    tables = await api.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT relispartition AND relname NOT IN ('idempotency', 'redis_epoch', 'api_keys')"
    )
    found = {}
    for (name,) in tables:
        rows = [row[0] for row in await api.fetch(f'SELECT t::text FROM "{name}" t ORDER BY 1')]
        found[name] = (len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest())
    return found


@pytest.mark.parametrize("path", _posts())
async def test_a_repeated_post_is_done_once(api: Any, path: str) -> None:
    ask, key = await ASKS[path](api), uuid.uuid4().hex
    before = await _rows(api)
    first = await _send(api, ask, ask.body, key)
    assert first.status < 300, first.raw
    done = await _rows(api)
    again = await _send(api, ask, ask.body, key)
    if "no-store" in first.headers.get("cache-control", ""):
        assert (again.status, again.code) == (409, "idempotency_answer_not_kept")
    else:
        assert (again.status, again.raw) == (first.status, first.raw)
        assert again.headers["idempotency-replayed"] == "true"
    other = await _send(api, ask, ask.other, key)
    assert (other.status, other.code) == (422, "idempotency_key_reused")
    assert await _rows(api) == done
    cost = _grown(before, done)

    ask, key = await ASKS[path](api), uuid.uuid4().hex  # and at the same moment
    before = await _rows(api)
    replies = await asyncio.gather(*(_send(api, ask, ask.body, key) for _ in range(2)))
    winners = [r for r in replies if r.status < 300 and "idempotency-replayed" not in r.headers]
    assert len(winners) == 1, [r.raw for r in replies]
    for loser in (r for r in replies if r is not winners[0]):
        assert loser.raw == winners[0].raw or loser.code in (
            "idempotency_in_progress",
            "idempotency_answer_not_kept",
        )
    assert _grown(before, await _rows(api)) == cost


def _grown(before: dict[str, tuple[int, str]], after: dict[str, tuple[int, str]]) -> dict[str, int]:
    return {name: n - before[name][0] for name, (n, _) in after.items() if n != before[name][0]}


async def test_a_file_that_broke_off_leaves_its_key_free_and_one_under_way_holds_it(api: Any) -> None:
    """The claim stands from the first byte; the file's hash is known at its last."""
    key, file = uuid.uuid4().hex, _file()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> Any:
        yield file[:4]
        begun.set()
        await go_on.wait()
        yield file[4:]

    headers = {"content-type": "text/csv"}
    path = "/v1/suppressions/import"
    first = asyncio.create_task(api.call("POST", path, data=slowly(), idempotency_key=key, headers=headers))
    await begun.wait()
    while not await api.fetch("SELECT FROM idempotency WHERE key = $1", await api.kept_as(key)):
        await asyncio.sleep(0.01)
    held = await api.call("POST", path, data=file, idempotency_key=key, headers=headers)
    assert (held.status, held.code) == (409, "idempotency_in_progress")
    go_on.set()
    assert (await first).json["accepted"] == 1
    again = await api.call("POST", path, data=file, idempotency_key=key, headers=headers)
    assert (again.status, again.headers["idempotency-replayed"]) == (200, "true")

    key = uuid.uuid4().hex
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {api.key}\r\ncontent-type: text/csv\r\n"
        f"idempotency-key: {key}\r\ncontent-length: 1000\r\n\r\nto\n"
    )
    writer.write(head.encode())
    while not await api.fetch("SELECT FROM idempotency WHERE key = $1", await api.kept_as(key)):
        await asyncio.sleep(0.01)
    writer.close()
    while await api.fetch("SELECT FROM idempotency WHERE key = $1", await api.kept_as(key)):
        await asyncio.sleep(0.01)
    assert (await api.call("POST", path, data=file, idempotency_key=key, headers=headers)).status == 200
    assert reader is not None
