"""SpeedSMS: a table of answers, what is asked, and callbacks."""

from __future__ import annotations

import json

import pytest

from gateways import http, speedsms
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown

URL = "speedsms://s3cret:x@api.speedsms.vn"
CALLED = {"callback_url": "https://volley.example.org", "token": "t0ken/1"}
PLAIN = "https://volley.example.org/v1/callbacks/sp"
CALLBACK = PLAIN + "?token=t0ken%2F1"


def parsed(url=URL, **settings):
    return speedsms.parse("sp", url, settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"sms_type": 3, "sender": "ACME"}),
        ({"sms_type": "2"}, {"sms_type": 2, "sender": ""}),
        ({"sms_type": "5"}, {"sms_type": 5, "sender": "ACME"}),
    ],
)
def test_request(settings, expected, submission):
    text = '50% & "more" “xin chào” 👋'
    asked = speedsms.request(parsed(**settings), submission(to="+84901888484", sender="ACME", text=text))
    assert (asked.method, asked.url) == ("POST", "https://api.speedsms.vn/index.php/sms/send")
    assert asked.headers["Authorization"] == "Basic czNjcmV0Ong="
    assert json.loads(asked.body) == {"to": ["84901888484"], "content": text, **expected}


def success(data):
    return {"status": "success", "code": "00", "data": data}


def error(code):
    return {"status": "error", "code": code, "message": "x", "invalidPhone": []}


ANSWERS = {
    "accepted": (200, success({"tranId": 123456, "totalSMS": 1, "invalidPhone": []}), Accepted("123456")),
    "accepted, the id as a word": (200, success({"tranId": "t-1"}), Accepted("t-1")),
    "accepted without id": (200, success({}), Unknown("bad_answer", "no tranId")),
    "a success that names our number as invalid": (
        200,
        success({"tranId": 123456, "totalSMS": 0, "invalidPhone": ["84901888484"]}),
        Rejected("invalid_number", "invalidPhone"),
    ),
    "accepted without data": (200, success(None), Unknown("bad_answer", "no tranId")),
    "number": (200, error("105"), Rejected("invalid_number", "105")),
    "too long": (200, error("113"), Rejected("content_rejected", "113")),
    "no credit": (200, error("300"), Rejected("no_credit", "300")),
    "address locked": (200, error("007"), Retry("gateway_error", "007")),
    "internal error": (200, error("500"), Unknown("server_error", "500")),
    "a code we don't know": (200, error("777"), Rejected("rejected", "777")),
    "wrong token": (401, {}, Retry("gateway_error", "HTTP 401")),
    "server error": (500, success({"tranId": 1}), Unknown("server_error", "HTTP 500")),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, body, expected = ANSWERS[case]
    assert speedsms.outcome(parsed(), status, {}, json.dumps(body).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[" * 30_000, b'{"code": []}', b"\xff"])
def test_an_answer_that_makes_no_sense(body):
    assert speedsms.outcome(parsed(), 200, {}, body) == Unknown("bad_answer", "HTTP 200")


def test_no_code_is_in_both_tables():
    assert not set(speedsms.REJECTIONS) & set(speedsms.RETRIES)


REPORT = {"type": "report", "tranId": 123456, "phone": "84901888484", "status": 0}


def call(event, *, url=CALLBACK, settings=CALLED):
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    return http.receive("sp", URL, settings, "POST", url, {}, body)


@pytest.mark.parametrize(
    ("status", "state"), [(0, "delivered"), (1, "enroute"), (63, "enroute"), (64, "undelivered")]
)
@pytest.mark.parametrize("phone", ["84901888484", "0901888484"])
def test_reports(status, state, phone):
    receipts, inbound, reply = call(REPORT | {"status": status, "phone": phone})
    error = str(status) if status else ""
    assert receipts == [Receipt("123456", state, str(status), error, to="84901888484")]
    assert (inbound, reply.status) == ([], 200)


def test_inbound():
    receipts, inbound, reply = call({"type": "sms", "phone": "0901888484", "content": "Stop 👋"})
    assert inbound == [Inbound("+84901888484", "", "Stop 👋")]
    assert (receipts, reply.status) == ([], 200)


@pytest.mark.parametrize("query", ["", "?token=", "?token=t0ken", "?Token=t0ken%2F1"])
def test_a_stranger_gets_403(query):
    assert call(REPORT, url=PLAIN + query) == ([], [], http.HttpReply(403))
    assert call(REPORT, url=PLAIN + query, settings={})[2].status == 403


@pytest.mark.parametrize(
    "event",
    [b"", b"[]", b"[" * 30_000, b"\xff", {}, {"type": "odd", "phone": "1"}, {"type": "report", "phone": "1"}],
)
def test_unreadable_calls_give_400(event):
    assert call(event)[2].status == 400


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("speedsms://api.speedsms.vn", {}, "url: needs ACCESS_TOKEN"),
        (URL, {"sms_type": "1"}, "sms_type: must be one of 2, 3, 4, 5"),
        (URL, {"callback_url": "https://v.example"}, "token: is needed"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway sp: ") as error:
        speedsms.parse("sp", url, settings)
    assert problem in str(error.value)
    assert "s3cret" not in str(error.value) + repr(parsed(**CALLED))


async def test_a_text_through_a_real_server(wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(200, json.dumps(success({"tranId": 7})).encode())

    server = await wire(behave)
    url = f"speedsms+http://s3cret:x@127.0.0.1:{server.port}?allow_private=true"
    gateway = speedsms.build("sp", url, CALLED, sink)
    await gateway.open(1)
    assert gateway.take(2) == 2
    gateway.submit([submission(segments=2)])
    assert await sink.outcomes_of(2) == [Accepted("7")] * 2
    await gateway.close(1)
    assert server.requests[0].target == "/index.php/sms/send"
