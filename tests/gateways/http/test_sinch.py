"""Sinch: a table of answers, what is asked, and callbacks with the signature of its own library."""

from __future__ import annotations

import json

import pytest

from gateways import http, sinch
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown

URL = "sinch://plan1:t0ken@us.sms.api.sinch.com"
CALLED = {"callback_url": "https://volley.example.org", "token": "s3cret/1"}
SIGNED = {"callback_url": "https://volley.example.org", "webhook_secret": "foo_secret1234"}
PLAIN = "https://volley.example.org/v1/callbacks/s"
CALLBACK = PLAIN + "?token=s3cret%2F1"


def parsed(url=URL, **settings):
    return sinch.parse("s", url, settings)


@pytest.mark.parametrize(
    ("fields", "settings", "expected"),
    [
        ({}, {}, {}),
        ({"validity_s": 60}, {}, {"expire_at": "2023-11-14T22:14:20.500Z"}),
        ({"validity_s": 9_999_999}, {}, {"expire_at": "2023-11-17T22:13:20.500Z"}),
        ({}, CALLED, {"delivery_report": "per_recipient_final", "callback_url": CALLBACK}),
        ({}, SIGNED, {"delivery_report": "per_recipient_final", "callback_url": PLAIN}),
    ],
)
def test_request(fields, settings, expected, submission):
    text = '50% & "more" “xin chào” 👋'
    asked = sinch.request(parsed(**settings), submission("m-1", text=text, **fields), lambda: 1_700_000_000.5)
    assert (asked.method, asked.url) == ("POST", "https://us.sms.api.sinch.com/xms/v1/plan1/batches")
    assert asked.headers["Authorization"] == "Bearer t0ken"
    assert json.loads(asked.body) == {
        "type": "mt_text",
        "from": "12025550199",
        "to": ["12025550101"],
        "body": text,
        "client_reference": "m-1",
        **expected,
    }


def error(code):
    return {"code": code, "text": "x"}


ANSWERS = {
    "created": (201, {"id": "01FC", "to": ["12025550101"], "canceled": False}, Accepted("01FC")),
    "created without id": (201, {}, Unknown("bad_answer", "no id")),
    "bad number": (
        400,
        error("syntax_invalid_parameter_format"),
        Rejected("invalid_request", "syntax_invalid_parameter_format"),
    ),
    "no callback": (
        403,
        error("missing_callback_url"),
        Retry("gateway_error", "missing_callback_url"),
    ),
    "taken for a group": (403, error("unknown_group"), Rejected("invalid_number", "unknown_group")),
    "a code we don't know": (400, error("odd"), Rejected("rejected", "HTTP 400 odd")),
    "wrong token": (401, {}, Retry("gateway_error", "HTTP 401")),
    "no credit": (402, {}, Rejected("no_credit", "HTTP 402")),
    "throttled": (429, {}, Retry("throttled", "HTTP 429", 3.0)),
    "a known code in a server error": (500, error("unknown_group"), "server"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, body, expected = ANSWERS[case]
    if expected == "server":
        expected = Unknown("server_error", "HTTP 500 unknown_group")
    assert sinch.outcome(parsed(), status, {"retry-after": "3"}, json.dumps(body).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[" * 30_000, b'{"id": 1}', b'{"id": "\xff"}'])
def test_an_answer_that_makes_no_sense(body):
    assert sinch.outcome(parsed(), 201, {}, body) == Unknown("bad_answer", "HTTP 201")


def test_no_code_is_in_both_tables():
    assert not set(sinch.REJECTIONS) & set(sinch.RETRIES)


REPORT = {
    "type": "recipient_delivery_report_sms",
    "batch_id": "01FC",
    "recipient": "12025550101",
    "code": 0,
    "status": "Delivered",
    "at": "2023-11-14T22:13:21.000Z",
    "operator_status_at": "2023-11-14T22:13:20.500Z",
    "client_reference": "m-1",
}
INBOUND = {
    "type": "mo_text",
    "id": "01MO",
    "from": "12025550101",
    "to": "12025550199",
    "body": "Stop 👋",
    "received_at": "2023-11-14T22:13:20.500Z",
}


def call(event, *, url=CALLBACK, settings=CALLED, headers=None):
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    return http.receive("s", URL, settings, "POST", url, headers or {}, body)


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        ("Queued", 400, "accepted"),
        ("DISPATCHED", 401, "enroute"),
        ("Delivered", 0, "delivered"),
        ("Failed", 402, "undelivered"),
        ("Expired", 406, "expired"),
        ("Cancelled", 407, "deleted"),
        ("Rejected", 408, "rejected"),
        ("Odd", 999, "unknown"),
    ],
)
def test_report_states(status, code, state):
    receipts, inbound, reply = call(REPORT | {"status": status, "code": code})
    error = str(code) if code else ""
    assert receipts == [Receipt("01FC", state, status, error, to="12025550101", done_at=1_700_000_000.5)]
    assert (inbound, reply.status) == ([], 200)


def test_report_on_the_batch():
    statuses = [{"code": 402, "status": "Failed", "count": 1, "recipients": ["12025550101"]}]
    receipts, _, _ = call({"type": "delivery_report_sms", "batch_id": "01FC", "statuses": statuses})
    assert receipts == [Receipt("01FC", "undelivered", "Failed", "402", to="12025550101")]


def test_inbound():
    receipts, inbound, reply = call(INBOUND)
    assert inbound == [Inbound("+12025550101", "12025550199", "Stop 👋", "01MO")]
    assert (receipts, reply.status) == ([], 200)


VECTOR = (
    '{"app_id":"01EB37HMH1M6SV18BSNS3G135H","accepted_time":"2020-11-17T15:09:11.659Z",'
    '"project_id":"c36f3d3d-1513-2edd-ae42-11995557ff61",'
    '"message_delivery_report":{"message_id":"01EQBC1A3BEK731GY4YXEN0C2R",'
    '"conversation_id":"01EPYATA64TMNZ1FV02JKF12JF","status":"QUEUED_ON_CHANNEL",'
    '"contact_id":"01EXA07N79THJ20WSN6AS30TMW"}}'
)


def test_signature_vector_of_sinch_sdk_python():
    given = sinch.signature("foo_secret1234", VECTOR.encode(), "01FJA8B4A7BM43YGWSG9GBV067", "1634579353")
    assert given == "Yc+3R1pIS78xLASybulhs8BsSo9BPB3Pr92QCUoczfk="


def signed(event, secret="foo_secret1234"):
    return {
        "X-Sinch-Webhook-Signature": sinch.signature(secret, json.dumps(event).encode(), "n", "1"),
        "X-Sinch-Webhook-Signature-Nonce": "n",
        "X-Sinch-Webhook-Signature-Timestamp": "1",
    }


def test_signed_callbacks():
    assert len(call(REPORT, url=PLAIN, settings=SIGNED, headers=signed(REPORT))[0]) == 1
    for headers in ({}, signed(REPORT, "guess"), signed(INBOUND)):
        assert call(REPORT, url=PLAIN, settings=SIGNED, headers=headers)[2].status == 403
    both = SIGNED | {"token": "s3cret/1"}  # the signature isn't replaced by the token
    assert call(REPORT, settings=both)[2].status == 403


@pytest.mark.parametrize("query", ["", "?token=", "?token=s3cret", "?Token=s3cret%2F1"])
def test_a_stranger_gets_403(query):
    assert call(INBOUND, url=PLAIN + query) == ([], [], http.HttpReply(403))
    assert call(INBOUND, url=PLAIN + query, settings={})[2].status == 403


@pytest.mark.parametrize(
    "event", [b"", b"[]", b"[" * 30_000, b"\xff", {}, {"type": "mo_text", "id": "1"}, {"type": "mo_binary"}]
)
def test_unreadable_calls_give_400(event):
    assert call(event)[2].status == 400


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("sinch://us.sms.api.sinch.com", {}, "url: needs SERVICE_PLAN_ID"),
        (URL, {"callback_url": "https://v.example"}, "webhook_secret: or token is needed"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway s: ") as error:
        sinch.parse("s", url, settings)
    assert problem in str(error.value)
    assert "t0ken" not in str(error.value) + repr(parsed(**CALLED))


async def test_a_text_through_a_real_server(wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(201, b'{"id": "01FC"}')

    server = await wire(behave)
    url = f"sinch+http://plan1:t0ken@127.0.0.1:{server.port}?allow_private=true"
    gateway = sinch.build("s", url, CALLED, sink)
    await gateway.open(1)
    assert gateway.take(2) == 2
    gateway.submit([submission(segments=2, validity_s=60)])
    assert await sink.outcomes_of(2) == [Accepted("01FC")] * 2
    await gateway.close(1)
    assert server.requests[0].target == "/xms/v1/plan1/batches"
