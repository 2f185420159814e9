"""Vonage: a table of answers, what is asked, and callbacks with the signatures of its own libraries."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlencode

import pytest

from app.domain.text import join
from gateways import http, vonage
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown

URL = "vonage://key:s3cret@rest.nexmo.com"
SIGNED = {"callback_url": "https://volley.example.org", "signature_secret": "signing"}
CALLBACK = "https://volley.example.org/v1/callbacks/v"


def parsed(url=URL, **settings):
    return vonage.parse("v", url, settings)


@pytest.mark.parametrize(
    ("fields", "settings", "expected"),
    [
        ({}, {}, {"type": "text"}),
        ({"encoding": "ucs2"}, {}, {"type": "unicode"}),
        ({"validity_s": 3600}, {}, {"type": "text", "ttl": "3600000"}),
        ({"validity_s": 5}, {}, {"type": "text", "ttl": "20000"}),
        ({}, SIGNED, {"type": "text", "status-report-req": "1", "callback": CALLBACK}),
    ],
)
def test_request(fields, settings, expected, submission):
    text = "50% & more = “xin chào” 👋"
    asked = vonage.request(parsed(**settings), submission("m-1", text=text, **fields))
    assert (asked.method, asked.url) == ("POST", "https://rest.nexmo.com/sms/json")
    assert dict(parse_qsl(asked.body.decode())) == {
        "api_key": "key",
        "api_secret": "s3cret",
        "to": "12025550101",
        "from": "12025550199",
        "text": text,
        "client-ref": "m-1",
        **expected,
    }
    assert "s3cret" not in repr(asked)


def part(status, message_id="0A1"):
    return {"to": "12025550101", "message-id": message_id, "status": status, "error-text": "x"}


ANSWERS = {
    "accepted": (200, [part("0")], [Accepted("0A1")]),
    "accepted in parts": (200, [part("0", "a"), part("0", "b")], [Accepted("a"), Accepted("b")]),
    "half accepted": (200, [part("0", "a"), part("9", "")], [Accepted("a"), Rejected("no_credit", "9")]),
    "accepted without id": (200, [part("0", "")], [Unknown("bad_answer", "no message-id")]),
    "throttled": (200, [part("1")], [Retry("throttled", "1")]),
    "wrong credentials": (200, [part("4")], [Retry("gateway_error", "4")]),
    "internal error": (200, [part("5")], [Unknown("server_error", "5")]),
    "unknown prefix": (200, [part("6")], [Rejected("no_route", "6")]),
    "barred": (200, [part("7")], [Rejected("blocked", "7")]),
    "sender": (200, [part("15")], [Rejected("invalid_sender", "15")]),
    "a status we don't know": (200, [part("77")], [Rejected("rejected", "77")]),
    "no parts": (200, [], Unknown("bad_answer", "no parts")),
    "too many requests": (429, [], Retry("throttled", "HTTP 429")),
    "server error": (500, [part("0")], Unknown("server_error", "HTTP 500")),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, messages, expected = ANSWERS[case]
    body = json.dumps({"message-count": str(len(messages)), "messages": messages}).encode()
    assert vonage.outcome(parsed(), status, {}, body) == expected


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{}", b"[" * 30_000, b'{"messages": [{}]}', b'{"messages": "\xff"}']
)
def test_an_answer_that_makes_no_sense(body):
    assert vonage.outcome(parsed(), 200, {}, body) == Unknown("bad_answer", "HTTP 200")


def test_no_status_is_in_both_tables():
    assert not set(vonage.REJECTIONS) & set(vonage.RETRIES)


# Vectors of vonage-python-sdk's own tests (tests/test_signature.py), secret "secret".
@pytest.mark.parametrize(
    ("digest", "expected"),
    [
        ("md5hash", "6af838ef94998832dbfc29020b564830"),
        ("md5", "c15c21ced558c93a226c305f58f902f2"),
        ("sha1", "3e19a4e6880fdc2c1426bfd0587c98b9532f0210"),
        ("sha256", "a321e824b9b816be7c3f28859a31749a098713d39f613c80d455bbaffae1cd24"),
        (
            "sha512",
            "812a18f76680fa0fe1b8bd9ee1625466ceb1bd96242e4d050d2cfd9a7b40166c"
            "63ed26ec9702168781b6edcf1633db8ff95af9341701004eec3fcf9550572ee8",
        ),
    ],
)
def test_signature_vectors(digest, expected):
    values = {"timestamp": "1461605396", "b": "2", "a": "1"}
    assert vonage.signature("secret", digest, values) == expected


RECEIPT = {
    "msisdn": "12025550101",
    "to": "12025550199",
    "network-code": "310260",
    "messageId": "0A1",
    "price": "0.03330000",
    "status": "delivered",
    "scts": "2311142213",
    "err-code": "0",
    "message-timestamp": "2023-11-14 22:13:20",
    "timestamp": "1700000000",
    "nonce": "n",
}
INBOUND = {
    "msisdn": "12025550101",
    "to": "12025550199",
    "messageId": "0B2",
    "text": "Stop = now & 👋",
    "type": "unicode",
    "keyword": "STOP",
    "timestamp": "1700000000",
}


def call(values, way, *, secret="signing", digest="sha256"):
    """A signed callback in one of the three ways it may come."""
    values = values | {"sig": vonage.signature(secret, digest, values).upper()}
    settings = SIGNED | {"signature": "sha256"}
    if way == "query":
        return http.receive("v", URL, settings, "GET", f"{CALLBACK}?{urlencode(values)}", {}, b"")
    if way == "json":
        headers = {"Content-Type": "application/json"}
        return http.receive("v", URL, settings, "POST", CALLBACK, headers, json.dumps(values).encode())
    return http.receive("v", URL, settings, "POST", CALLBACK, {}, urlencode(values).encode())


@pytest.mark.parametrize("way", ["query", "form", "json"])
def test_receipt(way):
    receipts, inbound, reply = call(RECEIPT, way)
    assert receipts == [
        Receipt(
            "0A1", "delivered", "delivered", to="12025550101", sender="12025550199", done_at=1_699_999_980.0
        )
    ]
    assert (inbound, reply.status) == ([], 204)


@pytest.mark.parametrize("way", ["query", "form", "json"])
def test_inbound(way):
    receipts, inbound, reply = call(INBOUND, way)
    assert inbound == [Inbound("+12025550101", "12025550199", "Stop = now & 👋", "0B2")]
    assert (receipts, reply.status) == ([], 204)


LONG = {"concat": "true", "concat-ref": "a7", "concat-total": "2", "concat-part": "2"}


def test_a_long_inbound_text_comes_in_parts():
    seen = []
    for index in ("1", "2"):
        _, (inbound,), _ = call(INBOUND | LONG | {"concat-part": index, "text": f"{index}👋 "}, "form")
        seen.append(inbound)
    first, second = (one.part for one in seen)
    assert (first.total, first.index, second.index) == (2, 1, 2)
    assert first.reference == second.reference < 2**31
    assert join({one.index: (one.octets, one.encoding) for one in (first, second)}, 2) == "1👋 2👋 "
    _, (other,), _ = call(INBOUND | LONG | {"concat-ref": "a8"}, "form")
    assert other.part.reference != first.reference


@pytest.mark.parametrize(
    "odd",
    [
        {"concat": "false"},
        {"concat-part": "3"},
        {"concat-part": "0"},
        {"concat-total": "256"},
        {"concat-total": "²"},
    ],
)
def test_what_is_no_right_part_is_a_text(odd):
    _, (inbound,), _ = call(INBOUND | LONG | odd, "form")
    assert (inbound.text, inbound.part) == (INBOUND["text"], None)


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        ("buffered", "0", "enroute"),
        ("accepted", "0", "accepted"),
        ("expired", "1", "expired"),
        ("failed", "9", "undelivered"),
        ("rejected", "6", "rejected"),
        ("odd", "99", "unknown"),
    ],
)
def test_receipt_states(status, code, state):
    ((receipt,), _, _) = call(RECEIPT | {"status": status, "err-code": code}, "form")
    assert (receipt.state, receipt.raw, receipt.error) == (state, status, "" if code == "0" else code)
    assert receipt.opted_out is (code == "9")


@pytest.mark.parametrize("forged", [{"secret": "guess"}, {"digest": "md5hash"}])
def test_forged_callback_gives_403(forged):
    assert call(INBOUND, "form", **forged) == ([], [], http.HttpReply(403))


def test_unsigned_and_unreadable_callbacks():
    assert http.receive("v", URL, SIGNED, "POST", CALLBACK, {}, urlencode(INBOUND).encode())[2].status == 403
    assert http.receive("v", URL, {}, "POST", CALLBACK, {}, b"sig=x&messageId=1")[2].status == 403
    for body in (b"[]", b"{", b'{"a": [1]}', b"[" * 30_000):
        headers = {"content-type": "application/json; charset=utf-8"}
        assert http.receive("v", URL, SIGNED, "POST", CALLBACK, headers, body)[2].status == 400
    assert call({"a": "1"}, "form")[2].status == 400
    assert call({"messageId": "1"}, "form")[2].status == 400


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("vonage://rest.nexmo.com", {}, "url: needs API_KEY:API_SECRET"),
        (URL, {"callback_url": "https://v.example"}, "signature_secret: is needed"),
        (URL + "?signature=crc32", {}, "signature: must be one of"),
        (URL, SIGNED | {"callback_url": f"https://{'v' * 60}.example.org/a/b/c"}, "callback_url: makes"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway v: ") as error:
        vonage.parse("v", url, settings)
    assert problem in str(error.value)
    assert "s3cret" not in str(error.value) + repr(parsed(**SIGNED))


async def test_each_segment_has_its_own_id(wire, sink, submission):
    answer = {"messages": [part("0", "a"), part("0", "b")]}

    async def behave(peer, seen):
        await peer.answer(200, json.dumps(answer).encode())

    server = await wire(behave)
    url = f"vonage+http://key:s3cret@127.0.0.1:{server.port}?allow_private=true"
    gateway = vonage.build("v", url, {}, sink)
    await gateway.open(1)
    for segments in (2, 3, 1):  # as many parts as we count, fewer, more
        assert gateway.take(segments) == segments
        gateway.submit([submission(segments=segments)])
        await sink.until(lambda: gateway.binds()[0].in_flight == 0)
    await gateway.close(1)
    assert [(i, o.gateway_message_id) for _, i, o in sink.reported] == [
        (0, "a"),
        (1, "b"),
        (0, "a"),
        (1, "b"),
        (2, "b"),
        (0, "a"),
    ]
    assert server.requests[0].target == "/sms/json"
