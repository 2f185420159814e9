"""LINE: a table of answers, what is asked, and signed events."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest

from gateways import http, line
from gateways.base import Accepted, Receipt, Rejected, Retry, Unknown

URL = "line://:t0k%2Fen@api.line.me"
CALLED = {"callback_url": "https://volley.example.org", "channel_secret": "s3cret"}
CALLBACK = "https://volley.example.org/v1/callbacks/l"
TAG = "018f3c2e-7b1a-7c3d-9a40-5f2d1e8b6c00"


def parsed(url=URL, **settings):
    return line.parse("l", url, settings)


def test_request(submission):
    text = '50% & "more" “xin chào” 👋'
    asked = line.request(parsed(), submission(TAG, to="+818000001234", text=text))
    assert (asked.method, asked.url) == ("POST", "https://api.line.me/bot/pnp/push")
    assert asked.headers == {
        "Authorization": "Bearer t0k/en",
        "Content-Type": "application/json",
        "X-Line-Delivery-Tag": TAG,
    }
    assert json.loads(asked.body) == {
        # the example of LINE's own documentation
        "to": "d41e0ad70dddfeb68f149ad6fc61574b9c5780ab7bcb2fba5517771ffbb2409c",
        "messages": [{"type": "text", "text": text}],
    }


ANSWERS = {
    "accepted": (200, Accepted(TAG)),
    "accepted, to come later": (202, Accepted(TAG)),
    "bad request": (400, Rejected("invalid_request", "HTTP 400")),
    "nobody there": (422, Rejected("unreachable", "HTTP 422")),
    "wrong token": (401, Retry("gateway_error", "HTTP 401")),
    "not let in": (403, Retry("gateway_error", "HTTP 403")),
    "throttled": (429, Retry("throttled", "HTTP 429", 3.0)),
    "came before": (409, Unknown("bad_answer", "HTTP 409")),
    "an odd success": (204, Unknown("bad_answer", "HTTP 204")),
    "server error": (500, Unknown("server_error", "HTTP 500")),
}


@pytest.mark.parametrize("case", ANSWERS)
@pytest.mark.parametrize("body", [b"{}", b'{"message": "x"}', b"<html>", b"\xff"])
def test_outcome(case, body):
    status, expected = ANSWERS[case]
    assert line.outcome(parsed(), status, {"retry-after": "3"}, body, TAG) == expected


def delivery(tag=TAG):
    return {"type": "delivery", "timestamp": 1700000000500, "delivery": {"data": tag}, "mode": "active"}


MESSAGE = {
    "type": "message",
    "timestamp": 1,
    "source": {"userId": "U1"},
    "message": {"type": "text", "text": "x"},
}


def call(events, *, secret="s3cret", sent=None, settings=CALLED):
    body = (
        events if isinstance(events, bytes) else json.dumps({"destination": "U", "events": events}).encode()
    )
    given = base64.b64encode(hmac.digest(secret.encode(), body, hashlib.sha256)).decode()
    return http.receive("l", URL, settings, "POST", CALLBACK, {"X-Line-Signature": given}, sent or body)


def test_delivery_events():
    receipts, inbound, reply = call([delivery(), MESSAGE, delivery("t-2")])
    assert receipts == [
        Receipt(TAG, "delivered", "delivery", done_at=1_700_000_000.5),
        Receipt("t-2", "delivered", "delivery", done_at=1_700_000_000.5),
    ]
    assert (inbound, reply.status) == ([], 200)


@pytest.mark.parametrize("events", [[], [MESSAGE], [{"type": "delivery"}]])
def test_nothing_for_us(events):
    assert call(events) == ([], [], http.HttpReply(200))


@pytest.mark.parametrize("forged", [{"secret": "guess"}, {"sent": b'{"events": []}'}, {"settings": {}}])
def test_forged_events_give_403(forged):
    assert call([delivery()], **forged) == ([], [], http.HttpReply(403))


@pytest.mark.parametrize("headers", [{}, {"X-Line-Signature": ""}, {"X-Line-Signature": "é"}])
def test_unsigned_events_give_403(headers):
    assert http.receive("l", URL, CALLED, "POST", CALLBACK, headers, b'{"events": []}')[2].status == 403


@pytest.mark.parametrize("body", [b"", b"[]", b"[" * 30_000, b"\xff", b"{}", b'{"events": [{}]}'])
def test_signed_nonsense_gives_400(body):
    assert call(body)[2].status == 400


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("line://api.line.me", {}, "url: needs :CHANNEL_ACCESS_TOKEN"),
        (URL, {"callback_url": "https://v.example"}, "channel_secret: is needed"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway l: ") as error:
        line.parse("l", url, settings)
    assert problem in str(error.value)
    assert "t0k" not in str(error.value) + repr(parsed(**CALLED))


async def test_each_text_is_accepted_by_its_own_id(wire, sink, submission):
    """Answered all at once and in another order, over as many connections."""
    waiting = []

    async def behave(peer, seen):
        waiting.append(peer)
        if len(waiting) == 5:
            for one in reversed(waiting):
                await one.answer(200, b"{}")

    server = await wire(behave)
    gateway = line.build("l", f"line+http://:t0ken@127.0.0.1:{server.port}?allow_private=true", CALLED, sink)
    await gateway.open(1)
    assert gateway.take(5) == 5
    gateway.submit([submission(TAG[:-1] + str(i)) for i in range(5)])
    await sink.outcomes_of(5)
    await gateway.close(1)
    assert {(sent.message_id, outcome) for sent, _, outcome in sink.reported} == {
        (TAG[:-1] + str(i), Accepted(TAG[:-1] + str(i))) for i in range(5)
    }
