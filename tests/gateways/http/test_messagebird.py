"""MessageBird: a table of answers, what is asked, and callbacks with the signatures of MessageBird's own vectors."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from urllib.parse import urlencode

import pytest

from gateways import http, messagebird
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown
from gateways.provider import BadCallback, BadSignature

URL = "messagebird://:t0ken@rest.messagebird.com"
KEY = "36efdd1aace2e26cd490f0d951138253bef2f7c6d34d18981da781555cc4cebb"
SIGNED = {"callback_url": "https://volley.example.org", "signing_key": KEY}
CALLED = {"callback_url": "https://volley.example.org", "token": "s3cret/1"}
CALLBACK = "https://volley.example.org/v1/callbacks/b"
NOW_S = 1_625_479_200  # of the vectors


def parsed(url=URL, **settings):
    return messagebird.parse("b", url, settings)


@pytest.mark.parametrize(
    ("fields", "settings", "expected"),
    [
        ({}, {}, {"datacoding": "plain"}),
        ({"encoding": "ucs2"}, {}, {"datacoding": "unicode"}),
        ({"validity_s": 90}, {}, {"datacoding": "plain", "validity": 90}),
        ({}, SIGNED, {"datacoding": "plain", "reportUrl": CALLBACK}),
        ({}, CALLED, {"datacoding": "plain", "reportUrl": CALLBACK + "?token=s3cret%2F1"}),
    ],
)
def test_request(fields, settings, expected, submission):
    text = '50% & "more" “xin chào” 👋'
    asked = messagebird.request(parsed(**settings), submission("m-1", text=text, **fields))
    assert (asked.method, asked.url) == ("POST", "https://rest.messagebird.com/messages")
    assert asked.headers["Authorization"] == "AccessKey t0ken"
    assert json.loads(asked.body) == {
        "recipients": ["12025550101"],
        "originator": "12025550199",
        "body": text,
        "reference": "m-1",
        **expected,
    }


def error(code, parameter=None):
    return {"errors": [{"code": code, "description": "x", "parameter": parameter}]}


ANSWERS = {
    "created": (201, {"id": "m1", "recipients": {"items": [{"status": "sent"}]}}, Accepted("m1")),
    "created without id": (201, {}, Unknown("bad_answer", "no id")),
    "no such number": (422, error(9, "recipients"), Rejected("invalid_number", "9")),
    "no such sender": (422, error(10, "originator"), Rejected("invalid_sender", "10")),
    "something else is wrong": (422, error(10, "odd"), Rejected("invalid_request", "10")),
    "no credit": (402, error(25), Rejected("no_credit", "25")),
    "wrong key": (401, error(2), Retry("gateway_error", "2")),
    "wrong host": (404, error(98), Retry("gateway_error", "98")),
    "throttled": (429, error(10), Retry("throttled", "HTTP 429 10", 3.0)),
    "a code we don't know": (400, error(77), Rejected("rejected", "HTTP 400 77")),
    "internal error": (500, error(99), Unknown("server_error", "HTTP 500 99")),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, body, expected = ANSWERS[case]
    assert messagebird.outcome(parsed(), status, {"retry-after": "3"}, json.dumps(body).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[" * 30_000, b'{"id": 1}', b'{"id": "\xff"}'])
def test_an_answer_that_makes_no_sense(body):
    assert messagebird.outcome(parsed(), 201, {}, body) == Unknown("bad_answer", "HTTP 201")


def test_no_code_is_in_both_tables():
    assert not set(messagebird.REJECTIONS) & set(messagebird.RETRIES)


# From webhook_signature_test_data.json, which MessageBird's libraries share; all by KEY at NOW_S.
HS256 = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
GET_JWT = (
    f"{HS256}.eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXhwIjoxNjI1NDc5MjYwLCJqdGkiOiJjOTQ2YW"
    "Y3Ny1lMTgyLTRlYWEtYjJmZi0xYTU0NWI1ZTk5MWEiLCJ1cmxfaGFzaCI6IjQxZjA1ZjBkZGQwYTIyYWIyMDlhYzQ2ZjQ3YzQ1N"
    "zJkOWNlZmEyNTdlZDc0YjI0MDA0YmFlNzUzZWNlNmMyNjAifQ.huo2ou6JDoDc7sV25d75UMWeYhBeavQlLsqIibSZuac"
)
POST_JWT = (
    f"{HS256}.eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXhwIjoxNjI1NDc5MjYwLCJqdGkiOiI5M2U1NT"
    "AwNi1hMGU4LTQ1MjYtYTE5MC1mYTVmZjAwZWExMTYiLCJ1cmxfaGFzaCI6IjQxZjA1ZjBkZGQwYTIyYWIyMDlhYzQ2ZjQ3YzQ1N"
    "zJkOWNlZmEyNTdlZDc0YjI0MDA0YmFlNzUzZWNlNmMyNjAiLCJwYXlsb2FkX2hhc2giOiJkZmZkNjAyMWJiMmJkNWIwYWY2NzYy"
    "OTA4MDllYzNhNTMxOTFkZDgxYzdmNzBhNGIyODY4OGEzNjIxODI5ODZmIn0._H--TOuYFLpeEH39-rg5E3IHVkjHozBcaKVWPRC5m9I"
)
HS512_JWT = (
    "eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJNZXNzYWdlQmlyZCIsIm5iZiI6MTYyNTQ3OTIwMCwiZXhwIjoxNj"
    "I1NDc5MjYwLCJqdGkiOiI1OWEyNDRkYy1lOWFkLTRlMjMtOTc3OC0zNzFmYWEyMzhmNzIiLCJ1cmxfaGFzaCI6IjBmMTE1ZGIwN"
    "jJiN2MwZGQwMzBiMTY4NzhjOTlkZWE1YzM1NGI0OWRjMzdiMzhlYjg4NDYxNzljNzc4M2U5ZDcifQ.rd6r0iMyNGnVPCwurETph"
    "E3Y8rpAyvvnUK0S8WvGUkt2E1QSRAZ7NZJZBHw1Y_Wb5W-sK9HJr_PRL2vz4jRT3Q"
)
NONE_JWT = (
    "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJpc3MiOiJNZXNzYWdlQmlyZCIsImlhdCI6MTYyNTQ3OTIwMCwiZXhwIjoxNjI"
    "1NDc5MjYwLCJqdGkiOiI1OWEyNDRkYy1lOWFkLTRlMjMtOTc3OC0zNzFmYWEyMzhmNzIiLCJ1cmxfaGFzaCI6IjBmMTE1ZGIwNj"
    "JiN2MwZGQwMzBiMTY4NzhjOTlkZWE1YzM1NGI0OWRjMzdiMzhlYjg4NDYxNzljNzc4M2U5ZDcifQ."
)
PATH = "https://example.com/path?bar=1&foo=2"
ROOT = "https://example.com/"


@pytest.mark.parametrize(
    ("jwt", "url", "body", "late_s", "valid"),
    [
        (GET_JWT, PATH, b"", 0, True),
        (GET_JWT, PATH, b"", 61, True),  # a second of leeway
        (GET_JWT, PATH, b"", 62, False),
        (GET_JWT, PATH, b"", -1, True),
        (GET_JWT, PATH, b"", -2, False),
        (GET_JWT, "https://example.com/path?foo=2&bar=1", b"", 0, False),
        (GET_JWT, PATH, b"Hello, World!", 0, False),  # added on the way
        (POST_JWT, PATH, b"Hello, World!", 0, True),
        (POST_JWT, PATH, b"Hello, World?", 0, False),
        (POST_JWT, PATH, b"", 0, False),  # removed on the way
        (HS512_JWT, ROOT, b"", 0, True),
        (NONE_JWT, ROOT, b"", 0, False),
        (GET_JWT[:-1], PATH, b"", 0, False),
        ("", PATH, b"", 0, False),
        ("é.é.é", PATH, b"", 0, False),
        ("e30.e30.", PATH, b"", 0, False),
    ],
)
def test_signature_vectors(jwt, url, body, late_s, valid):
    assert messagebird.is_signed(KEY, jwt, url, body, NOW_S + late_s) is valid
    assert messagebird.is_signed("guess", jwt, url, body, NOW_S + late_s) is False


def jwt(url, body=b"", key=KEY, **claims):
    """A token as MessageBird would make it."""

    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    claims = {
        "iss": "MessageBird",
        "nbf": NOW_S,
        "exp": NOW_S + 60,
        "url_hash": hashlib.sha256(url.encode()).hexdigest(),
        **({"payload_hash": hashlib.sha256(body).hexdigest()} if body else {}),
    } | claims
    signed = f"{HS256}.{part(json.dumps(claims).encode())}"
    return f"{signed}.{part(hmac.digest(key.encode(), signed.encode(), 'sha256'))}"


REPORT = {
    "id": "m1",
    "reference": "m-1",
    "recipient": "12025550101",
    "status": "delivered",
    "statusErrorCode": "0",
    "statusDatetime": "2023-11-14T22:13:20+00:00",
}
INBOUND = {"id": "mo1", "recipient": "12025550199", "originator": "12025550101", "body": "Stop 👋"}


def report(fields, **claims):
    url = f"{CALLBACK}?{urlencode(fields)}"
    headers = {"messagebird-signature-jwt": jwt(url, **claims)}
    return messagebird.receive(parsed(**SIGNED), "GET", url, headers, b"", lambda: NOW_S)


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        ("scheduled", "", "accepted"),
        ("sent", "0", "enroute"),
        ("buffered", "", "enroute"),
        ("delivered", "0", "delivered"),
        ("expired", "", "expired"),
        ("delivery_failed", "103", "undelivered"),
        ("a_new_word", "", "unknown"),
    ],
)
def test_report_states(status, code, state):
    assert report(REPORT | {"status": status, "statusErrorCode": code}) == [
        Receipt("m1", state, status, "" if code == "0" else code, "12025550101", done_at=1_700_000_000.0)
    ]


@pytest.mark.parametrize("way", ["form", "json"])
@pytest.mark.parametrize(
    "fields",
    [INBOUND, {"mid": "mo1", "shortcode": "12345", "originator": "12025550101", "message": "Stop 👋"}],
)
def test_inbound(way, fields):
    body = (json.dumps(fields) if way == "json" else urlencode(fields)).encode()
    kind = "application/json" if way == "json" else "application/x-www-form-urlencoded"
    headers = {"messagebird-signature-jwt": jwt(CALLBACK, body), "content-type": kind}
    (text,) = messagebird.receive(parsed(**SIGNED), "POST", CALLBACK, headers, body, lambda: NOW_S)
    to = fields.get("recipient", "12345")
    assert text == Inbound("+12025550101", to, "Stop 👋", "mo1")


@pytest.mark.parametrize("forged", [{"key": "guess"}, {"iss": "Stranger"}, {"url_hash": "0"}, {"exp": 1}])
def test_forged_reports(forged):
    with pytest.raises(BadSignature):
        report(REPORT, **forged)


def test_by_token():
    def call(query):
        return http.receive("b", URL, CALLED, "GET", f"{CALLBACK}?{query}{urlencode(REPORT)}", {}, b"")

    receipts, _, reply = call("token=s3cret%2F1&")
    assert (len(receipts), reply.status, reply.body) == (1, 200, b"OK")
    for query in ("", "token=&", "token=s3cret&"):
        assert call(query)[2].status == 403
    both = SIGNED | CALLED  # the signature isn't replaced by the token
    url = f"{CALLBACK}?token=s3cret%2F1&{urlencode(REPORT)}"
    assert http.receive("b", URL, both, "GET", url, {}, b"")[2].status == 403
    assert http.receive("b", URL, {}, "GET", url, {}, b"")[2].status == 403


def test_signed_nonsense():
    for fields in ({}, {"id": "1"}, {"status": "sent"}):
        with pytest.raises(BadCallback):
            report(fields)
    for body in (b"[]", b"{", b"[" * 30_000, b"\xff"):
        headers = {"messagebird-signature-jwt": jwt(CALLBACK, body), "content-type": "application/json"}
        with pytest.raises(BadCallback):
            messagebird.receive(parsed(**SIGNED), "POST", CALLBACK, headers, body, lambda: NOW_S)


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("messagebird://rest.messagebird.com", {}, "url: needs :ACCESS_KEY"),
        (URL, {"callback_url": "https://v.example"}, "signing_key: or token is needed"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway b: ") as error:
        messagebird.parse("b", url, settings)
    assert problem in str(error.value)
    assert "t0ken" not in str(error.value) + repr(parsed(**SIGNED))


async def test_a_text_through_a_real_server(wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(201, b'{"id": "m1"}')

    server = await wire(behave)
    gateway = messagebird.build(
        "b", f"messagebird+http://:t0ken@127.0.0.1:{server.port}?allow_private=true", SIGNED, sink
    )
    await gateway.open(1)
    assert gateway.take(2) == 2
    gateway.submit([submission(segments=2)])
    assert await sink.outcomes_of(2) == [Accepted("m1")] * 2
    await gateway.close(1)
    assert server.requests[0].target == "/messages"
