"""While the sandbox is the only way out, what a country would refuse is a warning; the text stays with the sandbox."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import pytest_asyncio

from app import rules
from app.domain.pack import decode_pack
from app.domain.routing import sandbox_only
from app.queue.connection import Queue
from app.store import epochs

SANDBOX = {"name": "sandbox", "url": "smpp://volley:secret@127.0.0.1:2775?binds=1", "reason": "a first look"}
REAL = {"name": "carrier", "url": "smpp://volley:secret@192.0.2.1:2775?binds=1", "reason": "for real"}
TOUR = (
    "+84912345678", "+8613812345678", "+821012345678", "+33612345678", "+60123456789", "+971501234567",
    "+966512345678", "+12025550101", "+447400123456", "+4915112345678", "+919812345678", "+886912345678",
)  # fmt: skip


@pytest_asyncio.fixture(scope="module", autouse=True)
async def _sandbox(api: Any, redis_url: str) -> None:
    queue = Queue(redis_url)
    async with api.database.driver() as driver:  # explanations ask Redis' copy, which a dispatcher builds
        queue.attach(await epochs.start(driver, await queue.run_id()))
        await queue.load()
        await rules.load_copy(driver, queue)
        await epochs.finish(driver, queue.epoch)
    await queue.close()
    reply = await api.post("/v1/gateways", SANDBOX)
    assert reply.status == 201, reply.raw


async def marketing(api: Any, **more: Any) -> Any:
    batch = api.batch([{"to": one} for one in TOUR], body="Sale", category="marketing", sender="Acme")
    return await api.post("/v1/batches", {**batch, **more})


async def until(ask: Any, accepted: int | None) -> Any:
    """The first answer with so many accepted (None: fewer than all), within the second that references are kept."""
    deadline = time.monotonic() + 20
    while True:
        reply = await ask()
        found = reply.json.get("accepted", 0)
        if found == accepted or (accepted is None and found < len(TOUR)):
            return reply
        assert time.monotonic() < deadline, reply.json
        await asyncio.sleep(0.1)


async def gateways_of(api: Any, batch: str) -> dict[str, str]:
    """The gateway that each message is pinned to, by country."""
    rows = await api.fetch("SELECT payload FROM packs WHERE batch_id = $1", batch)
    return {pack.country: pack.gateway for pack in (decode_pack(row["payload"]) for row in rows)}


async def test_a_first_batch_over_twelve_countries_goes_to_the_sandbox_with_warnings(api):
    reply = await until(lambda: marketing(api), len(TOUR))
    assert reply.status == 202
    assert not reply.json["rejected"]
    said = {(one["code"], one["rule"]) for one in reply.json["warnings"]}
    assert {
        ("opt_out_text_required", "FR.label"),
        ("opt_out_text_required", "VN.label"),
        ("brand_required", "CN.label"),
        ("sender_not_allowed", "US.sender_id"),
        ("sender_label_required", "AE.label"),
    } <= said
    details = {one["rule"]: one["detail"] for one in reply.json["warnings"] if one["rule"] == "FR.label"}
    assert details["FR.label"].startswith("would be refused over a real gateway: FR: ")
    pinned = await gateways_of(api, reply.json["id"])
    assert {pinned[one] for one in ("VN", "CN", "FR", "US", "AE")} == {"sandbox"}
    assert pinned["GB"] == ""  # nothing there would be refused: it goes wherever the routes lead


async def test_what_needs_no_words_of_the_tenant_is_added(api):
    for to, text in (("+84912345678", "[QC] Sale"), ("+8613812345678", "Sale拒收请回复R")):
        body = api.message(to=to, body="Sale", category="marketing", sender="Acme")
        reply = await api.post("/v1/messages", body)
        assert (await api.get(reply.json["url"])).json["body"] == text


async def test_texts_with_variables_and_links_are_warned_of_too(api):
    body = api.message(
        to="+33612345678",
        body="{x} STOP 36180",
        variables={"x": "bit.ly/y"},
        category="marketing",
        sender="Acme",
    )
    reply = await api.post("/v1/messages", body)
    assert (reply.status, [one["code"] for one in reply.json["warnings"]]) == (202, ["link_shortener"])
    row = (await api.fetch("SELECT payload FROM packs ORDER BY id DESC LIMIT 1"))[0]
    assert decode_pack(row["payload"]).gateway == "sandbox"


async def test_explain_says_the_same(api):
    body = api.message(to="+33612345678", body="Sale", category="marketing", sender="Acme")
    deadline = time.monotonic() + 20
    while (reply := await api.post("/v1/messages/explain", body)).status == 503:  # Redis' copy is being built
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert reply.status == 200, reply.json
    assert [one["code"] for one in reply.json["warnings"]] == ["opt_out_text_required"]


async def test_another_gateway_makes_them_refusals_and_test_keys_stay_spared(api):
    made = await api.post("/v1/gateways", REAL)
    assert made.status == 201
    reply = await until(lambda: marketing(api), None)
    assert {"opt_out_text_required", "brand_required", "sender_not_allowed"} <= {
        one["code"] for one in reply.json["rejected"]
    }
    async with api.database.driver() as driver:
        key = await api.scoped(api.tenant_id, ("send", "read"), driver=driver, test=True)
    body = api.message(to="+33612345678", body="Sale", category="marketing", sender="Acme")
    tested = await api.post("/v1/messages", body, key=key)
    assert (tested.status, [one["code"] for one in tested.json["warnings"]]) == (
        202,
        ["opt_out_text_required"],
    )
    changed = await api.call(
        "PATCH", "/v1/gateways/carrier", json={"enabled": False, "reason": "not yet"},
        headers={"If-Match": made.headers.get("etag", "*")},
    )  # fmt: skip
    assert changed.status == 200, changed.raw
    await until(lambda: marketing(api), len(TOUR))


@pytest.mark.parametrize(
    ("name", "url", "is_it"),
    [
        ("sandbox", "smpp://volley:secret@127.0.0.1:2775?binds=2", True),
        ("sandbox", "smpp://volley:secret@sandbox:2775?binds=2", True),
        ("sandbox", "smpp://[::1]", True),
        ("sandbox", "smpp://volley:secret@smsc.example.com:2775", False),
        ("sandbox", "smpp://volley:secret@sandbox.example.com:2775", False),
        ("sandbox", "smpp://127.0.0.1:x@smsc.example.com:2775", False),
        ("sandbox", "smpps://volley:secret@127.0.0.1:2775", False),
        ("sandbox", "twilio://sid:token@127.0.0.1", False),
        ("carrier", "smpp://volley:secret@127.0.0.1:2775", False),
    ],
)
def test_what_counts_as_the_sandbox(name, url, is_it):
    assert sandbox_only([(name, url)]) is is_it
    assert not sandbox_only([(name, url), ("carrier", "smpp://192.0.2.1")])
    assert not sandbox_only([])
