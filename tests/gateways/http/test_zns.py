"""Zalo ZNS: a table of answers, what is asked, and signed events."""

from __future__ import annotations

import hashlib
import json

import pytest

from gateways import http, zns
from gateways.base import Accepted, Receipt, Rejected, Retry, Unknown

URL = "zns://:t0ken@business.openapi.zalo.me"
BASE = {"template": "1", "templates": {"7895417": "Mã OTP của <name> là <otp>."}}
CALLED = BASE | {"callback_url": "https://volley.example.org", "app_id": "431", "oa_secret": "s3cret"}
CALLBACK = "https://volley.example.org/v1/callbacks/z"


def parsed(url=URL, **settings):
    return zns.parse("z", url, BASE | settings)


@pytest.mark.parametrize(
    ("text", "template", "data"),
    [
        ("Mã OTP của Ann là 123.", "7895417", {"name": "Ann", "otp": "123"}),
        ('50% & "more" 👋', "1", {"content": '50% & "more" 👋'}),
    ],
)
def test_request(text, template, data, submission):
    asked = zns.request(parsed(), submission("m-1", to="+84987654321", text=text))
    assert (asked.method, asked.url) == ("POST", "https://business.openapi.zalo.me/message/template")
    assert asked.headers["access_token"] == "t0ken"
    assert json.loads(asked.body) == {
        "phone": "84987654321",
        "template_id": template,
        "template_data": data,
        "tracking_id": "m-1",
    }


def error(number):
    return {"error": number, "message": "x"}


ANSWERS = {
    "accepted": (200, {"error": 0, "message": "Success", "data": {"msg_id": "a4d0"}}, Accepted("a4d0")),
    "accepted without id": (200, {"error": 0, "data": {}}, Unknown("bad_answer", "no msg_id")),
    "accepted without data": (200, {"error": 0}, Unknown("bad_answer", "no msg_id")),
    "unexplained": (200, error(-100), Unknown("server_error", "-100")),
    "number": (200, error(-108), Rejected("invalid_number", "-108")),
    "no account": (200, error(-118), Rejected("unreachable", "-118")),
    "opted out": (200, error(-141), Rejected("opted_out", "-141")),
    "token expired": (200, error(-124), Retry("gateway_error", "-124")),
    "at night": (200, error(-133), Retry("throttled", "-133")),
    "a number we don't know": (200, error(-999), Rejected("rejected", "-999")),
    "server error": (500, {"error": 0, "data": {"msg_id": "a"}}, Unknown("server_error", "HTTP 500")),
    "throttled": (429, {}, Retry("throttled", "HTTP 429")),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, body, expected = ANSWERS[case]
    assert zns.outcome(parsed(), status, {}, json.dumps(body).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[" * 30_000, b'{"error": "0"}', b"\xff"])
def test_an_answer_that_makes_no_sense(body):
    assert zns.outcome(parsed(), 200, {}, body) == Unknown("bad_answer", "HTTP 200")


def test_no_number_is_in_both_tables():
    assert not set(zns.REJECTIONS) & set(zns.RETRIES)


EVENT = {
    "sender": {"id": "1"},
    "recipient": {"id": "2"},
    "event_name": "user_received_message",
    "message": {"delivery_time": "1700000000500", "msg_id": "a4d0", "tracking_id": "m-1"},
    "app_id": "431",
    "timestamp": "1700000000600",
}


def call(event, *, prefix="mac=", secret="s3cret", sent=None, settings=CALLED):
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    stamp = str(event.get("timestamp", "")) if isinstance(event, dict) else ""
    given = hashlib.sha256(b"431" + body + stamp.encode() + secret.encode()).hexdigest()
    headers = {"X-ZEvent-Signature": prefix + given}
    return http.receive("z", URL, settings, "POST", CALLBACK, headers, sent or body)


@pytest.mark.parametrize("prefix", ["mac=", "mac= ", ""])
def test_receipt(prefix):
    receipts, inbound, reply = call(EVENT, prefix=prefix)
    assert receipts == [Receipt("a4d0", "delivered", "user_received_message", done_at=1_700_000_000.5)]
    assert (inbound, reply.status) == ([], 200)


def test_other_events_are_none_of_ours():
    assert call(EVENT | {"event_name": "user_send_text"}) == ([], [], http.HttpReply(200))


@pytest.mark.parametrize(
    "forged",
    [{"secret": "guess"}, {"sent": json.dumps(EVENT | {"app_id": "432"}).encode()}, {"settings": BASE}],
)
def test_forged_events_give_403(forged):
    assert call(EVENT, **forged) == ([], [], http.HttpReply(403))


@pytest.mark.parametrize("body", [b"", b"[]", b"[" * 30_000, b"\xff"])
def test_what_is_no_event_gives_403(body):
    assert call(body)[2].status == 403


def test_signed_nonsense_gives_400():
    assert call(EVENT | {"message": {}})[2].status == 400


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("zns://business.openapi.zalo.me", {}, "url: needs :ACCESS_TOKEN"),
        (URL, {"callback_url": "https://v.example"}, "oa_secret: and app_id are needed"),
        (URL, {"template": ""}, "template: is needed"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway z: ") as error:
        zns.parse("z", url, BASE | settings)
    assert problem in str(error.value)
    assert "t0ken" not in str(error.value) + repr(parsed(**CALLED))


async def test_a_text_through_a_real_server(wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(200, b'{"error": 0, "data": {"msg_id": "a4d0"}}')

    server = await wire(behave)
    gateway = zns.build("z", f"zns+http://:t0ken@127.0.0.1:{server.port}?allow_private=true", CALLED, sink)
    await gateway.open(1)
    assert gateway.take(2) == 2
    gateway.submit([submission(segments=2)])
    assert await sink.outcomes_of(2) == [Accepted("a4d0")] * 2
    await gateway.close(1)
    assert server.requests[0].headers["access_token"] == "t0ken"
