"""eSMS: a table of answers, what is asked, and callbacks."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from gateways import esms, http
from gateways.base import Accepted, Receipt, Rejected, Retry, Unknown

URL = "esms://key:s3cret@rest.esms.vn"
CALLED = {"callback_url": "https://volley.example.org", "token": "t0ken/1"}
PLAIN = "https://volley.example.org/v1/callbacks/e"
CALLBACK = PLAIN + "?token=t0ken%2F1"


def parsed(url=URL, **settings):
    return esms.parse("e", url, settings)


@pytest.mark.parametrize(
    ("fields", "settings", "expected"),
    [
        ({}, {}, {"Phone": "0901888484", "SmsType": "2", "IsUnicode": "0", "Brandname": "ACME"}),
        (
            {"encoding": "ucs2"},
            {},
            {"Phone": "0901888484", "SmsType": "2", "IsUnicode": "1", "Brandname": "ACME"},
        ),
        (
            {},
            {"sms_type": "8"},
            {"Phone": "0901888484", "SmsType": "8", "IsUnicode": "0", "Unicode": "0"},
        ),
        (
            {"to": "+85612345678"},
            CALLED,
            {
                "Phone": "85612345678",
                "SmsType": "2",
                "IsUnicode": "0",
                "Brandname": "ACME",
                "CallbackUrl": CALLBACK,
            },
        ),
    ],
)
def test_request(fields, settings, expected, submission):
    text = '50% & "more" “xin chào” 👋'
    sent = submission("m-1", text=text, **({"to": "+84901888484", "sender": "ACME"} | fields))
    asked = esms.request(parsed(**settings), sent)
    path = "/MainService.svc/json/SendMultipleMessage_V4_post_json/"
    assert (asked.method, asked.url) == ("POST", f"https://rest.esms.vn{path}")
    assert json.loads(asked.body) == {
        "ApiKey": "key",
        "SecretKey": "s3cret",
        "Content": text,
        "RequestId": "m-1",
        **expected,
    }


def answer(code, **more):
    return {"CodeResult": code, "CountRegenerate": 0} | more


ANSWERS = {
    "accepted": (200, answer("100", SMSID="d5-1"), Accepted("d5-1")),
    "accepted, the code as a number": (200, answer(100, SMSID="d5-1"), Accepted("d5-1")),
    "accepted without id": (200, answer("100", SMSID=None), Unknown("bad_answer", "no SMSID")),
    "came before": (200, answer("124", SendStatus="5"), Unknown("duplicate", "124")),
    "blocked": (200, answer("99"), Rejected("blocked", "99")),
    "no credit": (200, answer("103"), Rejected("no_credit", "103")),
    "brand name": (200, answer("104"), Rejected("invalid_sender", "104")),
    "number": (200, answer("108"), Rejected("invalid_number", "108")),
    "template": (200, answer("146", SMSID="x"), Rejected("content_rejected", "146")),
    "wrong key": (200, answer("101"), Retry("gateway_error", "101")),
    "throttled": (200, answer("160"), Retry("throttled", "160")),
    "a code we don't know": (200, answer("777"), Rejected("rejected", "777")),
    "no code": (200, {"error": "Invalid request"}, Unknown("bad_answer", "HTTP 200")),
    "server error": (500, answer("100", SMSID="x"), Unknown("server_error", "HTTP 500")),
    "bad request": (400, {}, Rejected("rejected", "HTTP 400")),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, body, expected = ANSWERS[case]
    assert esms.outcome(parsed(), status, {}, json.dumps(body).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[" * 30_000, b"\xff"])
def test_an_answer_that_makes_no_sense(body):
    assert esms.outcome(parsed(), 200, {}, body) == Unknown("bad_answer", "HTTP 200")


def test_no_code_is_in_both_tables():
    assert not set(esms.REJECTIONS) & set(esms.RETRIES)


STATUS = {
    "SMSID": "d5-1",
    "SendFailed": "0",
    "SendStatus": "5",
    "SendSuccess": "1",
    "TotalReceiver": "1",
    "RequestId": "m-1",
    "TypeId": "2",
    "telcoid": "1",
    "phonenumber": "0901888484",
}


def call(fields, *, url=CALLBACK, join="&", settings=CALLED):
    full = f"{url}{join}{urlencode(fields)}"
    return http.receive("e", URL, settings, "GET", full, {}, b"")


@pytest.mark.parametrize("join", ["&", "?"])
@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"SendStatus": "1"}, "accepted"),
        ({"SendStatus": "4"}, "rejected"),
        ({"SendStatus": "5"}, "delivered"),
        ({"SendStatus": "5", "SendSuccess": "0", "SendFailed": "1"}, "undelivered"),
        ({"SendStatus": "5", "SendSuccess": "0"}, "unknown"),
        ({"SendStatus": "7", "SendSuccess": "0"}, "enroute"),
        ({"SendStatus": "9"}, "unknown"),
    ],
)
def test_statuses(fields, state, join):
    receipts, inbound, reply = call(STATUS | fields, join=join)
    assert receipts == [Receipt("d5-1", state, fields["SendStatus"], to="84901888484")]
    assert (inbound, reply.status) == ([], 200)


@pytest.mark.parametrize("query", ["?", "?token=", "?token=t0ken", "?Token=t0ken%2F1"])
def test_a_stranger_gets_403(query):
    assert call(STATUS, url=PLAIN + query) == ([], [], http.HttpReply(403))
    assert call(STATUS, url=PLAIN + query, settings={})[2].status == 403


@pytest.mark.parametrize("fields", [{}, {"SMSID": "1"}, {"SendStatus": "5"}])
def test_unreadable_calls_give_400(fields):
    assert call(fields)[2].status == 400


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("esms://rest.esms.vn", {}, "url: needs API_KEY"),
        (URL, {"sms_type": "1"}, "sms_type: must be one of 2, 8"),
        (URL, {"callback_url": "https://v.example"}, "token: is needed"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway e: ") as error:
        esms.parse("e", url, settings)
    assert problem in str(error.value)
    assert "s3cret" not in str(error.value) + repr(parsed(**CALLED))


async def test_a_text_through_a_real_server(wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(200, json.dumps(answer("100", SMSID="d5-1")).encode())

    server = await wire(behave)
    gateway = esms.build(
        "e", f"esms+http://key:s3cret@127.0.0.1:{server.port}?allow_private=true", CALLED, sink
    )
    await gateway.open(1)
    assert gateway.take(2) == 2
    gateway.submit([submission(segments=2)])
    assert await sink.outcomes_of(2) == [Accepted("d5-1")] * 2
    await gateway.close(1)
    assert server.requests[0].target.endswith("/SendMultipleMessage_V4_post_json/")
