"""Plivo: a table of answers, what is asked, and callbacks with the signatures of its own library."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from gateways import http, plivo
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown

URL = "plivo://MA1:t0ken@api.plivo.com"
CALLED = {"callback_url": "https://volley.example.org"}
CALLBACK = "https://volley.example.org/v1/callbacks/p"
ID = "db3ce55a-7f1d-11e1-8ea7-1231380bc196"


def parsed(url=URL, **settings):
    return plivo.parse("p", url, settings)


@pytest.mark.parametrize(
    ("fields", "settings", "expected"),
    [
        ({}, {}, {"src": "12025550199"}),
        ({}, {"powerpack": "pp-1"}, {"powerpack_uuid": "pp-1"}),
        ({"validity_s": 90}, {}, {"src": "12025550199", "message_expiry": 90}),
        ({"validity_s": 1}, {}, {"src": "12025550199", "message_expiry": 5}),
        ({"validity_s": 10_800}, {}, {"src": "12025550199"}),  # what Plivo does anyway
        ({}, CALLED, {"src": "12025550199", "url": CALLBACK, "method": "POST"}),
    ],
)
def test_request(fields, settings, expected, submission):
    text = '50% & "more" “xin chào” 👋'
    asked = plivo.request(parsed(**settings), submission(text=text, **fields))
    assert (asked.method, asked.url) == ("POST", "https://api.plivo.com/v1/Account/MA1/Message/")
    assert asked.headers["Authorization"] == "Basic TUExOnQwa2Vu"
    assert json.loads(asked.body) == {"dst": "12025550101", "text": text, "type": "sms", **expected}


ANSWERS = {
    "queued": (202, {"message": "message(s) queued", "message_uuid": [ID]}, Accepted(ID)),
    "no id": (202, {"message_uuid": []}, Unknown("bad_answer", "not one message_uuid")),
    "an empty id": (202, {"message_uuid": [""]}, Unknown("bad_answer", "not one message_uuid")),
    "two ids": (202, {"message_uuid": [ID, "x"]}, Unknown("bad_answer", "not one message_uuid")),
    "nothing": (202, {}, Unknown("bad_answer", "not one message_uuid")),
    "not an object": (202, [], Unknown("bad_answer", "HTTP 202")),
    "invalid parameter": (400, {"error": "invalid src"}, Rejected("rejected", "HTTP 400")),
    "wrong credentials": (401, {}, Retry("gateway_error", "HTTP 401")),
    "no credit": (402, {}, Rejected("no_credit", "HTTP 402")),
    "wrong account": (404, {}, Retry("gateway_error", "HTTP 404")),
    "throttled": (429, {}, Retry("throttled", "HTTP 429", 3.0)),
    "server error": (500, {"message_uuid": [ID]}, Unknown("server_error", "HTTP 500")),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, body, expected = ANSWERS[case]
    assert plivo.outcome(parsed(), status, {"retry-after": "3"}, json.dumps(body).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 30_000, b'{"message_uuid": ["\xff"]}'])
def test_an_answer_that_makes_no_sense(body):
    assert plivo.outcome(parsed(), 202, {}, body) == Unknown("bad_answer", "HTTP 202")


def test_signature_v2_vector_of_plivo_python():
    expected = "ehV3IKhLysWBxC1sy8INm0qGoQYdYsHwuoKjsX7FsXc="
    assert plivo.signature_v2("my_auth_token", "https://answer.url", "12345") == expected
    assert plivo.signature_v2("my_auth_token", "https://answer.url?a=1", "12345") == expected
    assert plivo.signature_v2("my_auth_tokens", "https://answer.url", "12345") != expected


# What plivo-python 4 computes for the same calls.
@pytest.mark.parametrize(
    ("url", "fields", "expected"),
    [
        (
            "https://answer.url/x",
            [("b", "2"), ("a", "1 ü")],
            "SCp7F0vjcoO54+YxHQyh0xe4XxqQyDyIoiPcy8vSJvQ=",
        ),
        (
            "https://answer.url/x?q=2&p=1",
            [("b", "2"), ("a", "1")],
            "evDb2BrjJFNBZKz3ay+mTl124rvDFdEKBxj1K/x2uT4=",
        ),
        ("https://answer.url/x?q=2&p=1", [], "sEW/grE0BbDsNaB/6dwoocO9AIitQLZt0AAj6fvS45o="),
        ("https://answer.url/x", [], "l/m/aAl42odhVVQZwJ971QVpS7siLElyi8TkDS7bbyU="),
    ],
)
def test_signature_v3(url, fields, expected):
    assert plivo.signature_v3("my_auth_token", url, fields, "12345") == expected


STATUS = {"MessageUUID": ID, "To": "12025550101", "From": "12025550199", "Type": "sms", "Units": "1"}
INBOUND = {"MessageUUID": ID, "From": "12025550101", "To": "12025550199", "Text": "Stop 👋", "Type": "sms"}


def signed(fields, version, token="t0ken"):
    if version == "v3":
        given = plivo.signature_v3(token, CALLBACK, list(fields.items()), "nonce-1")
        return {"X-Plivo-Signature-V3": f"other,{given}", "X-Plivo-Signature-V3-Nonce": "nonce-1"}
    header = {"v2": "X-Plivo-Signature-V2", "ma": "X-Plivo-Signature-Ma-V2"}[version]
    return {
        header: plivo.signature_v2(token, CALLBACK, "nonce-1"),
        "X-Plivo-Signature-V2-Nonce": "nonce-1",
    }


def call(fields, *, version="v3", sent=None, **options):
    headers = signed(fields, version, **options)
    return http.receive("p", URL, CALLED, "POST", CALLBACK, headers, urlencode(sent or fields).encode())


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        ("queued", "", "accepted"),
        ("sent", "", "enroute"),
        ("delivered", "000", "delivered"),
        ("undelivered", "80", "undelivered"),
        ("failed", "450", "rejected"),
        ("failed", "420", "expired"),
        ("a_new_word", "", "unknown"),
    ],
)
@pytest.mark.parametrize("version", ["v3", "v2", "ma"])
def test_status_callback(status, code, state, version):
    receipts, inbound, reply = call(STATUS | {"Status": status, "ErrorCode": code}, version=version)
    error = "" if code == "000" else code
    assert receipts == [Receipt(ID, state, status, error, to="12025550101", sender="12025550199")]
    assert (inbound, reply.status) == ([], 200)


def test_a_person_who_said_stop_to_plivo_is_told_of():
    ((receipt,), _, _) = call(STATUS | {"Status": "failed", "ErrorCode": "200"})
    assert (receipt.state, receipt.opted_out) == ("rejected", True)


def test_a_part_of_a_long_text_reports_on_the_whole():
    ((receipt,), _, _) = call(STATUS | {"Status": "sent", "MessageUUID": "part", "ParentMessageUUID": ID})
    assert receipt.gateway_message_id == ID


def test_inbound():
    receipts, inbound, reply = call(INBOUND)
    assert inbound == [Inbound("+12025550101", "12025550199", "Stop 👋", ID)]
    assert (receipts, reply.status) == ([], 200)


def test_callback_by_get():
    url = f"{CALLBACK}?{urlencode(STATUS | {'Status': 'sent'})}"
    given = plivo.signature_v3("t0ken", url, [], "n")
    headers = {"X-Plivo-Signature-V3": given, "X-Plivo-Signature-V3-Nonce": "n"}
    assert len(http.receive("p", URL, CALLED, "GET", url, headers, b"")[0]) == 1
    assert http.receive("p", URL, CALLED, "GET", url + "1", headers, b"")[2].status == 403


@pytest.mark.parametrize(
    "forged",
    [{"token": "guess"}, {"token": "guess", "version": "v2"}, {"sent": INBOUND | {"From": "12025550102"}}],
)
def test_forged_callbacks_give_403(forged):
    assert call(INBOUND, **forged) == ([], [], http.HttpReply(403))


@pytest.mark.parametrize("headers", [{}, {"X-Plivo-Signature-V3": ""}, {"X-Plivo-Signature-V2": ","}])
def test_unsigned_callbacks_give_403(headers):
    body = urlencode(INBOUND).encode()
    assert http.receive("p", URL, CALLED, "POST", CALLBACK, headers, body)[2].status == 403


def test_signed_nonsense_gives_400():
    assert call({"Status": "sent"})[2].status == 400
    assert call({"MessageUUID": ID})[2].status == 400


@pytest.mark.parametrize("url", ["plivo://api.plivo.com", "plivo://MA1@api.plivo.com", "plivo://a/b:t0ken@h"])
def test_wrong_settings(url):
    with pytest.raises(ValueError, match=r"^gateway p: url: ") as error:
        plivo.parse("p", url, {})
    assert "t0ken" not in str(error.value) + repr(parsed(**CALLED))


async def test_a_text_through_a_real_server(wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(202, json.dumps({"message_uuid": [ID]}).encode())

    server = await wire(behave)
    gateway = plivo.build(
        "p", f"plivo+http://MA1:t0ken@127.0.0.1:{server.port}?allow_private=true", CALLED, sink
    )
    await gateway.open(1)
    assert gateway.take(2) == 2
    gateway.submit([submission(segments=2)])
    assert await sink.outcomes_of(2) == [Accepted(ID)] * 2
    await gateway.close(1)
    assert server.requests[0].target == "/v1/Account/MA1/Message/"
