"""What attackers try on every route: keys without the scope, bodies that can't be read or stored."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from app.api import limits
from app.api.server import create_app
from app.settings import Settings
from app.store import keys
from tests.api.test_every_post import ASKS, Ask, _rows

NUL, SURROGATE = "a\x00b", "a\ud800b"


def _operations() -> list[tuple[str, str, str]]:
    """(method, path, scope) of every operation that asks for a key."""
    paths = create_app(Settings()).openapi()["paths"]
    return [
        (method, path, operation["security"][0]["key"][0])
        for path, operations in paths.items()
        for method, operation in operations.items()
        if operation.get("security")
    ]


def _filled(path: str) -> str:
    values = {"version": "1", "number": "+12025550101", "code": "US", "country": "US", "name": "none"}
    return re.sub(
        r"{(\w+)}", lambda m: values.get(m[1], "1" if m[1] == "tenant_id" else str(uuid.UUID(int=7))), path
    )


async def test_each_route_enforces_the_scope_that_it_declares_and_no_other_opens_it(api: Any) -> None:
    having, without = {}, {}
    async with api.database.driver() as driver:
        for scope in keys.SCOPES:
            others = tuple(one for one in keys.SCOPES if one not in (scope, "admin"))
            having[scope] = await api.scoped(api.tenant_id, (scope,), driver=driver)
            without[scope] = await api.scoped(api.tenant_id, others, driver=driver)
    for method, path, scope in _operations():
        if method == "delete" and "countr" in path:
            continue  # nothing to be deleted is no 403 either, but it changes every other test's rules
        body = b"" if method in ("post", "put", "patch") else None
        for header in ({}, {"Idempotency-Key": uuid.uuid4().hex}):
            refused = await api.call(
                method.upper(), _filled(path), key=without[scope], data=body, headers=header
            )
            assert (refused.status, refused.code) == (403, "forbidden"), (method, path, scope)
        allowed = await api.call(method.upper(), _filled(path), key=having[scope], data=body)
        assert allowed.status not in (401, 403), (method, path, scope, allowed.raw)
        assert allowed.status < 500, (method, path, allowed.raw)


async def _puts(api: Any) -> list[tuple[str, Ask]]:
    gateway = await ASKS["/v1/gateways"](api)
    assert (await api.post(gateway.path, gateway.body)).status == 201
    sender = await ASKS["/v1/senders"](api)
    assert (await api.post(sender.path, sender.body)).status == 201
    pool = {"senders": [sender.body["address"]], "reason": "r"}
    price = {"prices": [{"prefix": "1", "price": "0.01", "currency": "USD"}], "reason": "r"}
    bodies = {
        "/v1/templates/attacked": {"body": "Hi {x}", "variables": ["x"]},
        "/v1/pools/attacked": pool,
        f"/v1/gateways/{gateway.body['name']}/prices": price,
        "/v1/currencies/EUR": {"rate": "1.1", "reason": "r"},
        "/v1/countries/US": {"pack": {"name": "x", "quiet": ["x"]}, "reason": "r"},
    }
    patches = {
        f"/v1/senders/{sender.body['address']}": {"reason": "r", "country": "US"},
        f"/v1/gateways/{gateway.body['name']}": {"reason": "r", "url": "smpp://u:p@127.0.0.1:2775"},
        "/v1/regions/GB": {"reason": "r", "test_numbers": ["+12025550101"]},
        f"/v1/tenants/{api.tenant_id}": {"reason": "r", "name": "x", "settings": {"default_sender": "x"}},
    }
    return [("PUT", Ask(p, b, b)) for p, b in bodies.items()] + [
        ("PATCH", Ask(p, b, b)) for p, b in patches.items()
    ]


def _poisoned(body: Any, poison: str) -> Iterator[tuple[str, Any]]:
    """The body with that string in each place where it has one, and as a key of each object."""
    if isinstance(body, str):
        yield "", poison
    elif isinstance(body, dict):
        for name, value in body.items():
            for place, inner in _poisoned(value, poison):
                yield f"/{name}{place}", {**body, name: inner}
        yield "/?", {**body, poison: 1}
    elif isinstance(body, list):
        for i, value in enumerate(body):
            for place, inner in _poisoned(value, poison):
                yield f"/{i}{place}", [*body[:i], inner, *body[i + 1 :]]


def _attacks(body: Any, limit: int) -> Iterator[tuple[str, bytes, set[str], str]]:
    """(what, body, the codes of which one says so, the place that it names). A place that takes only a few words, or no
    other field, may say that instead; a decoder that knows what it wants needn't look into what it doesn't."""
    elsewhere = {"unknown_field", "invalid_value", "wrong_type"}
    for poison, code in ((NUL, "nul_character"), (SURROGATE, "lone_surrogate")):
        for place, poisoned in _poisoned(body, poison):
            yield repr(poison), json.dumps(poisoned).encode(), {code, *elsewhere}, place
    whole = json.dumps(body).encode()
    yield "invalid UTF-8", whole.replace(b'"', b'"\xff\xfe', 1), {"invalid_utf8"}, ""
    yield "10,000 deep", b"[" * 10_000 + b"]" * 10_000, {"json_too_deep", "wrong_type"}, ""
    deep = b', "x": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001
    yield "10,000 deep inside", whole[:-1] + deep, {"json_too_deep", "unknown_field"}, ""
    yield "half of it", whole[: len(whole) // 2], {"malformed_json"}, ""
    yield "not an object", b"[1]", {"wrong_type"}, ""
    yield "a number beyond all", whole[:-1] + b', "y": 1e999999}', {"out_of_range", "unknown_field"}, ""
    yield "NaN", whole[:-1] + b', "y": NaN}', {"malformed_json", "unknown_field"}, ""
    yield "too large", whole[:-1] + b" " * limit + b"}", {"request_too_large"}, ""


def _said(reply: Any, codes: set[str], place: str) -> bool:
    """Whether the problem names what is wrong, and where."""
    errors = reply.json.get("errors", [])
    if not place:
        return reply.code in codes or (bool(errors) and {one["code"] for one in errors} <= codes)
    places = (place, place.removesuffix("/?"))
    return any(one["code"] in codes and one["pointer"] in places for one in errors)


_LIMITS = {
    "batches": limits.MAX_BATCH_BYTES,
    "explain": limits.MAX_BATCH_BYTES,
    "bulk": limits.MAX_BULK_BYTES,
    "prices": limits.MAX_BULK_BYTES,
}


async def test_no_body_breaks_a_route_and_each_is_told_what_is_wrong_with_it(api: Any) -> None:
    paths = create_app(Settings()).openapi()["paths"]
    asks = [("POST", await make(api)) for path, make in ASKS.items() if "requestBody" in paths[path]["post"]]
    broken = []
    for method, ask in asks + await _puts(api):
        body = ask.other if ask.body is None else ask.body  # an optional one
        if not isinstance(body, dict):
            continue
        limit = _LIMITS.get(ask.path.rpartition("/")[2], limits.MAX_MESSAGE_BYTES)
        for what, raw, codes, place in _attacks(body, limit):
            reply = await api.call(method, ask.path, data=raw, headers={"content-type": "application/json"})
            if not 400 <= reply.status < 500 or not _said(reply, codes, place):
                broken.append((method, ask.path, what, place, reply.status, reply.raw[:300]))
    assert not broken, "\n".join(map(str, broken))


async def test_a_body_of_another_type_is_refused(api: Any) -> None:
    paths = create_app(Settings()).openapi()["paths"]
    asks = [("POST", await make(api)) for path, make in ASKS.items() if "requestBody" in paths[path]["post"]]
    for method, ask in asks + await _puts(api):
        body = ask.other if ask.body is None else ask.body
        reply = await api.call(
            method, ask.path, data=ask.bytes_of(body), headers={"content-type": "text/html; charset=utf-8"}
        )
        assert (reply.status, reply.code) == (415, "unsupported_media_type"), (method, ask.path, reply.raw)


async def test_a_body_that_ends_early_does_nothing_and_is_no_error_of_ours(
    api: Any, caplog: pytest.LogCaptureFixture
) -> None:
    paths = create_app(Settings()).openapi()["paths"]
    asks = [("POST", await make(api)) for path, make in ASKS.items() if "requestBody" in paths[path]["post"]]
    asks += await _puts(api)
    asks = [one for one in asks if one[1].kind == "application/json"]  # what came of a file is kept
    before = await _rows(api)
    for method, ask in asks:
        whole = ask.bytes_of(ask.other if ask.body is None else ask.body)
        for key in ("", f"idempotency-key: {uuid.uuid4().hex}\r\n"):
            head = (
                f"{method} {ask.path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {api.key}\r\n{key}"
                f"content-type: {ask.kind}\r\ncontent-length: {len(whole) + 1}\r\n\r\n"
            )
            reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
            writer.write(head.encode() + whole[: len(whole) // 2])
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            assert not answer or b" 400 " in answer.split(b"\r\n", 1)[0], (method, ask.path, answer)
    while (await api.get("/metrics")).raw.find(b"volley_http_requests_in_flight 0.0") < 0:
        await asyncio.sleep(0.01)
    assert await _rows(api) == before
    assert not await api.fetch("SELECT FROM idempotency WHERE status IS NULL")
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []


async def test_a_compressed_body_is_refused_and_never_unpacked(api: Any) -> None:
    for method, ask in [("POST", await make(api)) for make in ASKS.values()] + await _puts(api):
        packed = gzip.compress(ask.bytes_of(ask.body or {}))
        headers = {"content-type": ask.kind, "content-encoding": "gzip"}
        reply = await api.call(method, ask.path, data=packed, headers=headers)
        assert (reply.status, reply.code) == (415, "unsupported_media_type"), (ask.path, reply.raw)
