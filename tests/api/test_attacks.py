"""What attackers try on every route: keys without the scope, bodies that can't be read or stored."""

from __future__ import annotations

import gzip
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

from app.api.server import create_app
from app.settings import Settings
from app.store import keys
from tests.api.test_every_post import ASKS, Ask

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


def _attacks(body: Any) -> Iterator[tuple[str, bytes]]:
    for poison in (NUL, SURROGATE):
        for place, poisoned in _poisoned(body, poison):
            yield f"{poison!r} at {place}", json.dumps(poisoned).encode()
    whole = json.dumps(body).encode()
    yield "invalid UTF-8", whole.replace(b'"', b'"\xff\xfe', 1)
    yield "10,000 deep", b"[" * 10_000 + b"]" * 10_000
    yield "10,000 deep inside", whole[:-1] + b', "x": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001
    yield "half of it", whole[: len(whole) // 2]
    yield "not an object", b"[1]"
    yield "a number beyond all", whole[:-1] + b', "y": 1e999999}'


async def test_no_body_breaks_a_route(api: Any) -> None:
    asks = [("POST", await make(api)) for path, make in ASKS.items()] + await _puts(api)
    broken = []
    for method, ask in asks:
        if not isinstance(ask.body, dict):
            continue
        for what, raw in _attacks(ask.body):
            reply = await api.call(method, ask.path, data=raw, headers={"content-type": "application/json"})
            if not 400 <= reply.status < 500 or not reply.code:
                broken.append((method, ask.path, what, reply.status, reply.raw[:200]))
    assert not broken, "\n".join(map(str, broken))


async def test_a_compressed_body_is_refused_and_never_unpacked(api: Any) -> None:
    for method, ask in [("POST", await make(api)) for make in ASKS.values()] + await _puts(api):
        packed = gzip.compress(ask.bytes_of(ask.body or {}))
        headers = {"content-type": ask.kind, "content-encoding": "gzip"}
        reply = await api.call(method, ask.path, data=packed, headers=headers)
        assert (reply.status, reply.code) == (415, "unsupported_media_type"), (ask.path, reply.raw)
