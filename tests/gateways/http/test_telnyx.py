"""Telnyx: a table of answers, what is asked, and webhooks signed with a key pair made here."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateways import http, telnyx
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown
from gateways.provider import BadSignature

URL = "telnyx://:KEY-t0ken@api.telnyx.com"
ID = "40385f64-5717-4562-b3fc-2c963f66afa6"
CALLBACK = "https://volley.example.org/v1/callbacks/t"
NOW_S = 1_700_000_000


def key_pair(seed):
    """The public key of a seed, and its function to sign."""
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed).digest())
    return private.public_key().public_bytes_raw(), private.sign


PUBLIC, sign = key_pair(b"telnyx")
_, sign_as_stranger = key_pair(b"stranger")
CALLED = {
    "callback_url": "https://volley.example.org",
    "public_key": base64.b64encode(PUBLIC).decode(),
}


def parsed(url=URL, **settings):
    return telnyx.parse("t", url, settings)


@pytest.mark.parametrize(
    ("fields", "settings", "expected"),
    [
        ({}, {}, {"from": "+12025550199", "encoding": "gsm7"}),
        ({"encoding": "ucs2"}, {}, {"from": "+12025550199", "encoding": "ucs2"}),
        ({"sender": "12345"}, {}, {"from": "12345", "encoding": "gsm7"}),
        (
            {"sender": ""},
            {"messaging_profile": "mp-1"},
            {"messaging_profile_id": "mp-1", "encoding": "gsm7"},
        ),
        ({"sender": "ACME"}, CALLED, {"from": "ACME", "encoding": "gsm7", "webhook_url": CALLBACK}),
    ],
)
def test_request(fields, settings, expected, submission):
    text = '50% & "more" “xin chào” 👋'
    asked = telnyx.request(parsed(**settings), submission(text=text, **fields))
    assert (asked.method, asked.url) == ("POST", "https://api.telnyx.com/v2/messages")
    assert asked.headers["Authorization"] == "Bearer KEY-t0ken"
    assert asked.headers["Idempotency-Key"] == "m-1"
    assert json.loads(asked.body) == {"to": "+12025550101", "text": text, "type": "SMS", **expected}


def error(code):
    return {"errors": [{"code": code, "title": "x", "detail": "x"}]}


ANSWERS = {
    "accepted": (200, {"data": {"id": ID, "to": [{"status": "queued"}], "errors": []}}, Accepted(ID)),
    "accepted without id": (200, {"data": {}}, Unknown("bad_answer", "no id")),
    "invalid number": (400, error("40310"), Rejected("invalid_number", "40310")),
    "a code as a number": (400, error(40310), Rejected("invalid_number", "40310")),
    "opted out": (400, error("40300"), Rejected("opted_out", "40300")),
    "no credit": (402, error("20100"), Rejected("no_credit", "20100")),
    "unverified sender": (403, error("40329"), Rejected("sender_unregistered", "40329")),
    "queue full": (429, error("40318"), Retry("queue_full", "40318", 3.0)),
    "wrong key": (401, error("10009"), Retry("gateway_error", "10009", 3.0)),
    "a code we don't know": (400, error("49999"), Rejected("rejected", "HTTP 400 49999")),
    "what Idempotency-Key was used for": (422, error("10027"), Unknown("duplicate", "HTTP 422 10027")),
    "a 422 that says nothing": (422, {"errors": []}, Unknown("duplicate", "HTTP 422")),
    "a 422 that says what it is about": (422, error("40310"), Rejected("invalid_number", "40310")),
    "no code": (400, {"errors": []}, Rejected("rejected", "HTTP 400")),
    "a known code in a server error": (500, error("40310"), Unknown("server_error", "HTTP 500 40310")),
    "a time-out inside": (408, error("10008"), Unknown("bad_answer", "HTTP 408 10008")),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, body, expected = ANSWERS[case]
    assert telnyx.outcome(parsed(), status, {"retry-after": "3"}, json.dumps(body).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[" * 30_000, b'{"data": 1}', b'{"data": "\xff"}'])
def test_an_answer_that_makes_no_sense(body):
    assert telnyx.outcome(parsed(), 200, {}, body) == Unknown("bad_answer", "HTTP 200")


def test_no_code_is_in_both_tables():
    assert not set(telnyx.REJECTIONS) & set(telnyx.RETRIES)


def event(kind, **payload):
    message = {
        "id": ID,
        "from": {"phone_number": "+12025550199"},
        "to": [{"phone_number": "+12025550101", "status": "delivered"}],
        "text": "Hello",
        "errors": [],
        "sent_at": "2023-11-14T22:13:20.500Z",
        "completed_at": None,
    }
    return {"data": {"event_type": kind, "id": "e-1", "payload": message | payload}}


INBOUND = event(
    "message.received",
    **{"from": {"phone_number": "+12025550101"}, "to": [{"phone_number": "+12025550199"}], "text": "Stop 👋"},
)


def call(data, *, stamp=NOW_S, signer=sign, sent=None, settings=CALLED):
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    given = base64.b64encode(signer(f"{stamp}|".encode() + body)).decode()
    headers = {"telnyx-timestamp": str(stamp), "telnyx-signature-ed25519": given}
    return telnyx.receive(parsed(**settings), "POST", CALLBACK, headers, sent or body, lambda: NOW_S)


@pytest.mark.parametrize(
    ("kind", "status", "code", "state"),
    [
        ("message.sent", "sent", "", "enroute"),
        ("message.finalized", "delivered", "", "delivered"),
        ("message.finalized", "read", "", "delivered"),
        ("message.finalized", "delivery_failed", "40008", "undelivered"),
        ("message.finalized", "sending_failed", "40014", "rejected"),
        ("message.finalized", "delivery_unconfirmed", "", "unknown"),
        ("message.finalized", "a_new_word", "", "unknown"),
    ],
)
def test_status_events(kind, status, code, state):
    to = [{"phone_number": "+12025550101", "status": status}]
    (receipt,) = call(event(kind, to=to, errors=[{"code": code}] if code else []))
    assert receipt == Receipt(
        ID,
        state,
        status,
        code,
        to="12025550101",
        sender="12025550199",
        submitted_at=1_700_000_000.5,
    )


def test_inbound():
    assert call(INBOUND) == [Inbound("+12025550101", "12025550199", "Stop 👋", ID)]


def test_another_event_is_none_of_ours():
    assert call(event("10dlc.campaign.update")) == []


@pytest.mark.parametrize(
    "forged",
    [
        {"signer": sign_as_stranger},
        {"sent": json.dumps(event("message.sent")).encode()},
        {"stamp": NOW_S - 301},
        {"stamp": NOW_S + 301},
        {"stamp": ""},
        {"stamp": "-1"},
        {"stamp": "1e9"},
        {"settings": {}},
    ],
)
def test_forged_and_stale_events(forged):
    with pytest.raises(BadSignature):
        call(INBOUND, **forged)


@pytest.mark.parametrize("given", ["", "é", "AAAA", base64.b64encode(bytes(64)).decode()])
def test_a_signature_that_is_none(given):
    headers = {"Telnyx-Timestamp": "1", "Telnyx-Signature-Ed25519": given}
    assert http.receive("t", URL, CALLED, "POST", CALLBACK, headers, b"{}")[2].status == 403


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"[" * 30_000, b"\xff", {}, event("message.sent", to=[]), event("message.sent", id="")],
)
def test_signed_nonsense(data):
    with pytest.raises(telnyx.BadCallback):
        call(data)


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("telnyx://api.telnyx.com", {}, "url: needs :API_KEY"),
        (URL, {"callback_url": "https://v.example"}, "public_key: is needed"),
        (URL, CALLED | {"public_key": "AAAA"}, "public_key: must be an Ed25519"),
        (URL, CALLED | {"public_key": "é"}, "public_key: must be an Ed25519"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway t: ") as error:
        telnyx.parse("t", url, settings)
    assert problem in str(error.value)
    assert "t0ken" not in str(error.value) + repr(parsed(**CALLED))


async def test_a_text_through_a_real_server(wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(200, json.dumps({"data": {"id": ID}}).encode())

    server = await wire(behave)
    url = f"telnyx+http://:KEY-t0ken@127.0.0.1:{server.port}?allow_private=true"
    gateway = telnyx.build("t", url, CALLED, sink)
    await gateway.open(1)
    assert gateway.take(2) == 2
    gateway.submit([submission(segments=2)])
    assert await sink.outcomes_of(2) == [Accepted(ID)] * 2
    await gateway.close(1)
    assert server.requests[0].headers["authorization"] == "Bearer KEY-t0ken"
