"""What a country's pack makes of a text at acceptance: labels, senders, links."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import pytest_asyncio

VN, CN, KR, FR, MY, AE, SA = (
    "+84912345678", "+8613812345678", "+821012345678", "+33612345678", "+60123456789", "+971501234567",
    "+966512345678",
)  # fmt: skip
TERMS = {
    "VN": {"opt_out": "Tu choi: 1800 0000"},
    "CN": {"brand": "沃立", "link_domains": ["example.cn"]},
    "KR": {"opt_out": "080-123-4567"},
    "FR": {"opt_out": "36180"},
}


@pytest_asyncio.fixture(scope="module", autouse=True)
async def _terms(api):
    reply = await api.call(
        "PATCH",
        f"/v1/tenants/{api.tenant_id}",
        json={"settings": {"brand": "Acme", "countries": TERMS}, "reason": "labels"},
    )
    assert reply.status == 200, reply.json
    assert reply.json["settings"]["countries"]["FR"]["opt_out"] == "36180"
    await until(lambda: posted(api, FR, "Sale"))


async def until(ask: Any) -> Any:
    """The first answer that is a 202: what is known of keys and senders is remembered for a second."""
    deadline = time.monotonic() + 20
    while (reply := await ask()).status != 202:
        assert time.monotonic() < deadline, reply.json
        await asyncio.sleep(0.05)
    return reply


async def posted(api: Any, to: str, body: str, category: str = "marketing", **more: Any) -> Any:
    sender = more.pop("sender", "Volley")
    return await api.post(
        "/v1/messages", api.message(to=to, body=body, category=category, sender=sender, **more)
    )


async def text_of(api: Any, reply: Any) -> str:
    assert reply.status == 202, reply.json
    return (await api.get(reply.json["url"])).json["body"]


@pytest.mark.parametrize(
    ("to", "text"),
    [
        (VN, "[QC] Sale Tu choi: 1800 0000"),
        (CN, "【沃立】Sale拒收请回复R"),
        (FR, "Sale STOP 36180"),
        (MY, "RM0 Acme: Sale"),
    ],
)
async def test_the_label_is_added_once_and_is_shown(api, to, text):
    assert await text_of(api, await posted(api, to, "Sale")) == text
    assert await text_of(api, await posted(api, to, text)) == text


async def test_korea(api):
    reply = await posted(api, KR, "Sale", sender="8215441234")
    assert await text_of(api, reply) == "(광고) Acme Sale 무료수신거부 080-123-4567"


async def test_what_is_no_marketing_has_no_label_unless_the_pack_says_so(api):
    assert await text_of(api, await posted(api, VN, "Code 1", "otp")) == "Code 1"
    assert await text_of(api, await posted(api, MY, "Code 1", "otp")) == "RM0 Acme: Code 1"


async def test_the_label_counts_into_the_segments(api):
    body = "x" * 150
    assert (await posted(api, FR, body, "transactional")).json["segments"] == 1
    assert (await posted(api, FR, body)).json["segments"] == 2
    assert (await posted(api, CN, "x" * 61)).json["segments"] == 2  # 【】 are not in GSM 7-bit: 61 + 10 > 70


async def test_a_text_that_is_too_long_with_its_label_is_refused(api):
    reply = await posted(api, FR, "x" * 1530)
    assert (reply.status, reply.code) == (422, "body_too_long")


async def test_braces_of_a_label_stay_braces(api):
    await api.call(
        "PATCH", f"/v1/tenants/{api.tenant_id}",
        json={"settings": {"countries": {**TERMS, "TW": {"brand": "A{x}"}}}, "reason": "braces"},
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while True:
        reply = await posted(api, "+886912345678", "Sale {name}", variables={"name": "An"})
        if not (await text_of(api, reply)).startswith("[Acme]"):
            break
        assert time.monotonic() < deadline
    assert await text_of(api, reply) == "[A{x}] Sale An"


async def test_a_batch_over_countries_has_each_ones_label(api):
    recipients = [
        {"to": VN, "variables": {"name": "An"}},
        {"to": VN, "variables": {"name": "[QC] Bo"}},  # has the label by its variable
        {"to": FR, "variables": {"name": "Cy"}},
        {"to": "+12025550101", "variables": {"name": "Di"}},
    ]
    reply = await api.post(
        "/v1/batches",
        api.batch(recipients, body="{name}!", category="marketing", sender="12025550100"),
    )
    assert reply.status == 202, reply.json
    assert reply.json["accepted"] == 2  # numbers can't send marketing to Viet Nam
    assert {one["code"] for one in reply.json["rejected"]} == {"sender_not_allowed"}
    assert reply.json["rejected"][0]["pointer"] == "/sender"
    reply = await api.post(
        "/v1/batches", api.batch(recipients[:3], body="{name}!", category="marketing", sender="Volley")
    )
    found = (await api.get(f"/v1/messages?batch={reply.json['id']}")).json["data"]
    texts = {(await api.get(f"/v1/messages/{one['id']}")).json["body"] for one in found}
    assert texts == {
        "[QC] An! Tu choi: 1800 0000", "[QC] Bo! Tu choi: 1800 0000", "Cy! STOP 36180",
    }  # fmt: skip


async def test_what_is_demanded_and_missing_is_a_clear_refusal(api):
    key = await api.tenant("no terms")
    for to, sender, code in (
        (CN, "Volley", "brand_required"),
        (FR, "Volley", "opt_out_text_required"),
        (KR, "8215441234", "brand_required"),
    ):
        body = api.message(to=to, body="Sale", category="marketing", sender=sender)
        reply = await api.post("/v1/messages", body, key=key)
        assert (reply.status, reply.code) == (422, code)
        assert reply.json["errors"][0]["pointer"] == "/body"
        assert "Sale" not in reply.raw.decode()


async def test_senders_that_must_be_marked_as_advertising(api):
    await api.post("/v1/senders", {"address": "AD-Acme", "registered": ["AE"], "reason": "licence"})
    await api.post("/v1/senders", {"address": "Acme", "registered": ["AE"], "reason": "licence"})
    reply = await posted(api, AE, "Sale", sender="Acme")
    assert (reply.status, reply.code) == (422, "sender_label_required")
    assert "AD-" in reply.json["detail"]
    await until(lambda: posted(api, AE, "Sale", sender="AD-Acme"))
    assert (await posted(api, AE, "Code 1", "otp", sender="Acme")).status == 202
    assert (await posted(api, SA, "Sale", sender="Acme")).code == "sender_label_required"
    assert (await posted(api, SA, "Sale", sender="Acme-AD")).json["warnings"][0]["code"] == (
        "sender_not_registered"
    )


async def test_senders_are_refused_or_warned_of_as_the_pack_says(api):
    assert (await posted(api, "+12025550101", "Hi", sender="Acme")).code == "sender_not_allowed"
    refused = await posted(api, AE, "Code 1", "otp", sender="Nobody")
    assert (refused.code, refused.json["errors"][0]["pointer"]) == ("sender_not_registered", "/sender")
    replaced = await posted(api, "+27821234567", "Hi", "transactional")
    assert [one["code"] for one in replaced.json["warnings"]] == ["sender_replaced"]
    assert (await posted(api, "+639171234567", "Hi", "transactional", sender="TEST")).code == (
        "sender_not_allowed"
    )
    assert "warnings" not in (await posted(api, "+447911123456", "Hi", "transactional")).json


@pytest.mark.parametrize(
    ("to", "text", "code"),
    [
        (FR, "Sale bit.ly/x STOP 36180", "link_shortener"),
        (FR, "Sale https://shop.example.com STOP 36180", None),
        (CN, "Sale https://shop.example.com", "link_not_allowed"),
        (CN, "Sale https://shop.example.cn/x", None),
        (MY, "Sale example.com", "link_not_allowed"),
        (MY, "Call 03-1234 5678", "phone_number_in_text"),
    ],
)
async def test_links(api, to, text, code):
    reply = await posted(api, to, text)
    assert (reply.code if reply.status != 202 else None) == code
    assert code is None or "example" not in reply.raw.decode()


async def test_an_otp_is_not_refused_for_its_link(api):
    assert (await posted(api, CN, "Code 1 https://example.com", "otp")).status == 202


async def test_terms_that_make_no_sense_are_refused(api):
    for terms, said in (
        ({"Vietnam": {}}, "Vietnam"),
        ({"VN": {"windows": {"daily": [["09:00", "12:00"], ["11:00", "13:00"]]}}}, "overlap"),
        ({"VN": {"link_domains": ["https://example.com"]}}, "domain"),
    ):
        reply = await api.call(
            "PATCH", f"/v1/tenants/{api.tenant_id}",
            json={"settings": {"countries": terms}, "reason": "x"},
        )  # fmt: skip
        assert reply.status == 422
        assert said in reply.raw.decode()
