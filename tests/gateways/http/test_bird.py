"""Bird: a table of answers, what is asked, and events with a signature that Bird's own library takes."""

from __future__ import annotations

import base64
import json

import pytest

from gateways import bird, http
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown
from gateways.provider import BadCallback, BadSignature

URL = "bird://:bk_us1_k3y@us1.platform.bird.com"
SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
CALLED = {"callback_url": "https://volley.example.org", "signing_secret": SECRET}
CALLBACK = "https://volley.example.org/v1/callbacks/b"
NOW_S = 1_700_000_000


def parsed(url=URL, **settings):
    return bird.parse("b", url, settings)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"category": "otp"}, {"category": "authentication", "from": "+12025550199"}),
        ({"category": "marketing", "sender": "12345"}, {"category": "marketing", "from": "12345"}),
        ({"sender": "ACME"}, {"category": "transactional", "from": "ACME"}),
        ({"sender": "", "validity_s": 90}, {"category": "transactional"}),
    ],
)
def test_request(fields, expected, submission):
    text = '50% & "more" “xin chào” 👋'
    asked = bird.request(parsed(**CALLED), submission("m-1", text=text, **fields))
    assert (asked.method, asked.url) == ("POST", "https://us1.platform.bird.com/v1/sms/messages")
    assert asked.headers["Authorization"] == "Bearer bk_us1_k3y"
    assert asked.headers["Idempotency-Key"] == "m-1"
    assert json.loads(asked.body) == {
        "to": "+12025550101",
        "text": text,
        "metadata": {"message_id": "m-1"},
        "options": {"smart_encoding": False},
        **expected,
    }


def error(name="", **more):
    return {"error": {"type": "validation_error", "name": name, "message": "x", **more}}


def message(status, code=None):
    failure = None if code is None else {"code": code, "description": "x"}
    return {"id": "sms_1", "status": status, "last_error": failure, "segments": {"count": 1}}


ANSWERS = {
    "accepted": (202, message("accepted"), Accepted("sms_1")),
    "accepted without id": (202, {}, Unknown("bad_answer", "HTTP 202")),
    "refused at once": (
        202,
        message("rejected", "recipient_opted_out"),
        Rejected("opted_out", "recipient_opted_out"),
    ),
    "refused, by a code we don't know": (202, message("rejected", "odd"), Rejected("rejected", "odd")),
    "refused, and no word why": (202, message("failed"), Rejected("rejected", "failed")),
    "number": (422, error("SMSInvalidRecipient"), Rejected("invalid_number", "SMSInvalidRecipient")),
    "sender": (422, error("SMSSenderNotConfigured"), Rejected("invalid_sender", "SMSSenderNotConfigured")),
    "too long": (422, error("Odd", param="text"), Rejected("content_rejected", "Odd")),
    "a field, in the details": (
        422,
        error(details=[{"param": "to", "message": "x"}]),
        Rejected("invalid_number", "to"),
    ),
    "a field that we don't know": (422, error(param="odd"), Rejected("invalid_request", "odd")),
    "no field: perhaps a key that came before": (422, error("Odd"), Unknown("duplicate", "HTTP 422 Odd")),
    "422 without a word": (422, [], Unknown("duplicate", "HTTP 422")),
    "the same request is under way": (409, error("Odd"), Unknown("bad_answer", "HTTP 409 Odd")),
    "no credit": (402, error("Odd"), Rejected("no_credit", "HTTP 402 Odd")),
    "wrong key": (401, error(), Retry("gateway_error", "HTTP 401")),
    "a key that may not": (403, error(), Retry("gateway_error", "HTTP 403")),
    "another region's key": (421, error(), Retry("gateway_error", "HTTP 421")),
    "throttled": (429, error(), Retry("throttled", "HTTP 429", 3.0)),
    "bad request": (400, error("Odd"), Rejected("rejected", "HTTP 400 Odd")),
    "internal error": (500, error("Odd"), Unknown("server_error", "HTTP 500 Odd")),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, body, expected = ANSWERS[case]
    assert bird.outcome(parsed(), status, {"retry-after": "3"}, json.dumps(body).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[" * 30_000, b'{"id": 1}', b'{"id": "\xff"}'])
def test_an_answer_that_makes_no_sense(body):
    assert bird.outcome(parsed(), 202, {}, body) == Unknown("bad_answer", "HTTP 202")


def call(event, *, at_s=NOW_S, **headers):
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    given = bird.signature(base64.b64decode(SECRET[6:]), "msg_1", str(NOW_S), body)
    signed = {"webhook-id": "msg_1", "webhook-timestamp": str(NOW_S), "webhook-signature": f"v1,{given}"}
    return bird.receive(parsed(**CALLED), "POST", CALLBACK, signed | headers, body, lambda: at_s)


def event(kind, **data):
    fields = {"sms_id": "sms_1", "to": "+12025550101", "from": "+12025550199", "tags": None, **data}
    return {"type": kind, "timestamp": "2023-11-14T22:13:20Z", "data": fields}


@pytest.mark.parametrize(
    ("kind", "code", "state"),
    [
        ("sms.accepted", "", "accepted"),
        ("sms.sent", "", "enroute"),
        ("sms.delivered", "", "delivered"),
        ("sms.undelivered", "unreachable", "undelivered"),
        ("sms.failed", "provider_unavailable", "undelivered"),
        ("sms.rejected", "recipient_opted_out", "rejected"),
        ("sms.expired", "", "expired"),
    ],
)
def test_events(kind, code, state):
    failure = {"error": {"code": code, "description": "x"}} if code else {"error": None}
    assert call(event(kind, **failure)) == [
        Receipt(
            "sms_1",
            state,
            kind,
            code,
            "12025550101",
            "12025550199",
            done_at=1_700_000_000.0,
            opted_out=code == "recipient_opted_out",
        )
    ]


def test_inbound():
    text = event("sms.received", text="Stop 👋", **{"from": "+12025550101", "to": "+12025550199"})
    assert call(text) == [Inbound("+12025550101", "12025550199", "Stop 👋", "sms_1")]


@pytest.mark.parametrize("other", [event("email.delivered"), {"type": "new", "data": [1]}, {"type": "new"}])
def test_other_events_are_taken_and_not_read(other):
    assert call(other) == []


def test_strangers():
    good = event("sms.delivered")
    assert call(good, at_s=NOW_S + 300)
    assert call(
        good, **{"webhook-signature": "v1,AAAA v2,odd v1," + _given(good)}
    )  # while a secret is rotated
    for forged in (
        {"at_s": NOW_S + 301},
        {"at_s": NOW_S - 301},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": _given(good)},
        {"webhook-signature": "v2," + _given(good)},
        {"webhook-signature": ""},
        {"webhook-id": "msg_2"},
        {"webhook-timestamp": str(NOW_S + 1)},
        {"webhook-timestamp": "9" * 5000},
        {"webhook-timestamp": ""},
    ):
        with pytest.raises(BadSignature):
            call(good, **forged)
    unset = bird.signature(b"", "msg_1", str(NOW_S), b"{}")
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(NOW_S), "webhook-signature": f"v1,{unset}"}
    with pytest.raises(BadSignature):  # no secret, no caller: not even by the empty key
        bird.receive(parsed(), "POST", CALLBACK, headers, b"{}", lambda: NOW_S)


def _given(content):
    body = json.dumps(content).encode()
    return bird.signature(base64.b64decode(SECRET[6:]), "msg_1", str(NOW_S), body)


@pytest.mark.parametrize(
    "nonsense", [b"[]", b"{", b"[" * 30_000, b"\xff", {"type": "sms.sent"}, {"type": "sms.sent", "data": 1}]
)
def test_signed_nonsense(nonsense):
    with pytest.raises(BadCallback):
        call(nonsense)


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("bird://us1.platform.bird.com", {}, "url: needs :API_KEY"),
        ("bird://:k@rest.messagebird.com", {}, "url: is MessageBird's API"),
        (URL, {"callback_url": "https://v.example"}, "signing_secret: is needed"),
        (URL, {"signing_secret": "whsec_!"}, "signing_secret: must be"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway b: ") as error:
        bird.parse("b", url, settings)
    assert problem in str(error.value)
    assert "bk_us1" not in str(error.value) + repr(parsed(**CALLED))


async def test_a_text_through_a_real_server(wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(202, b'{"id": "sms_1", "status": "accepted"}')

    server = await wire(behave)
    gateway = bird.build("b", f"bird+http://:k@127.0.0.1:{server.port}?allow_private=true", CALLED, sink)
    await gateway.open(1)
    assert gateway.take(2) == 2
    gateway.submit([submission(segments=2)])
    assert await sink.outcomes_of(2) == [Accepted("sms_1")] * 2
    await gateway.close(1)
    assert server.requests[0].target == "/v1/sms/messages"
    assert http.receive("b", URL, CALLED, "POST", CALLBACK, {}, b"{}")[2].status == 403
