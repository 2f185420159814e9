"""Africa's Talking: a table of answers, what is asked, and callbacks."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from gateways import africastalking, http
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown

URL = "africastalking://acme:api-k3y@api.africastalking.com"
CALLED = {"callback_url": "https://volley.example.org", "token": "t0ken/1"}
PLAIN = "https://volley.example.org/v1/callbacks/at"
CALLBACK = PLAIN + "?token=t0ken%2F1"
ID = "ATXid_1"


def parsed(url=URL, **settings):
    return africastalking.parse("at", url, settings)


@pytest.mark.parametrize(("sender", "expected"), [("ACME", {"from": "ACME"}), ("", {})])
def test_request(sender, expected, submission):
    text = '50% & "more" “xin chào” 👋'
    asked = africastalking.request(parsed(**CALLED), submission(text=text, sender=sender))
    assert (asked.method, asked.url) == ("POST", "https://api.africastalking.com/version1/messaging")
    assert asked.headers["apiKey"] == "api-k3y"
    assert dict(africastalking.form_fields(asked.body)) == {
        "username": "acme",
        "to": "+12025550101",
        "message": text,
        "bulkSMSMode": "1",
        "enqueue": "1",
        **expected,
    }


def answer(code, message_id=ID):
    recipient = {"statusCode": code, "number": "+1", "status": "x", "cost": "0", "messageId": message_id}
    return {"SMSMessageData": {"Message": "Sent to 1/1", "Recipients": [recipient]}}


def nobody(message):
    return {"SMSMessageData": {"Message": message, "Recipients": []}}


ANSWERS = {
    "processed": (201, answer(100), Accepted(ID)),
    "sent": (201, answer(101), Accepted(ID)),
    "queued": (201, answer(102), Accepted(ID)),
    "without id": (201, answer(101, "None"), Unknown("bad_answer", "no messageId")),
    "held back": (201, answer(401, "None"), Unknown("held", "401")),
    "sender": (201, answer(402, "None"), Rejected("invalid_sender", "402")),
    "number": (201, answer(403, "None"), Rejected("invalid_number", "403")),
    "no credit": (201, answer(405, "None"), Rejected("no_credit", "405")),
    "opted out": (201, answer(406, "None"), Rejected("opted_out", "406")),
    "do not disturb": (201, answer(409, "None"), Rejected("blocked", "409")),
    "internal error": (201, answer(500, "None"), Unknown("server_error", "500")),
    "gateway error": (201, answer(501, "None"), Unknown("server_error", "501")),
    "a code we don't know": (201, answer(777, "None"), Rejected("rejected", "777")),
    "nobody, by the sender": (201, nobody("InvalidSenderId"), Rejected("invalid_sender", "InvalidSenderId")),
    "nobody, and why": (201, nobody("Odd"), Unknown("bad_answer", "not one recipient")),
    "wrong key": (401, "The supplied authentication is invalid", Retry("gateway_error", "HTTP 401")),
    "bad request": (400, {}, Rejected("rejected", "HTTP 400")),
    "throttled": (429, {}, Retry("throttled", "HTTP 429")),
    "server error": (500, answer(101), Unknown("server_error", "HTTP 500")),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, body, expected = ANSWERS[case]
    assert africastalking.outcome(parsed(), status, {}, json.dumps(body).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[" * 30_000, b'{"SMSMessageData": 1}', b"\xff"])
def test_an_answer_that_makes_no_sense(body):
    assert africastalking.outcome(parsed(), 201, {}, body) == Unknown("bad_answer", "HTTP 201")


def test_no_code_is_in_two_tables():
    codes = [*africastalking.ACCEPTED, *africastalking.REJECTIONS, *africastalking.DOUBTFUL]
    assert len(codes) == len(set(codes))


REPORT = {"id": ID, "status": "Success", "phoneNumber": "+254711000111", "networkCode": "63902"}
INBOUND = {"id": "mo1", "from": "+254711000111", "to": "22000", "text": "Stop 👋", "date": "2023-11-14"}


def call(fields, *, url=CALLBACK, settings=CALLED):
    body = fields if isinstance(fields, bytes) else urlencode(fields).encode()
    return http.receive("at", URL, settings, "POST", url, {}, body)


@pytest.mark.parametrize(
    ("status", "reason", "state"),
    [
        ("Submitted", "", "enroute"),
        ("Sent", "", "enroute"),
        ("Buffered", "", "enroute"),
        ("Success", "", "delivered"),
        ("Failed", "UserInactive", "undelivered"),
        ("AbsentSubscriber", "", "undelivered"),
        ("Rejected", "InsufficientCredit", "rejected"),
        ("Expired", "", "expired"),
        ("Odd", "", "unknown"),
    ],
)
def test_report_states(status, reason, state):
    receipts, inbound, reply = call(REPORT | {"status": status, "failureReason": reason})
    assert receipts == [Receipt(ID, state, status, reason, to="254711000111")]
    assert (inbound, reply.status) == ([], 200)


@pytest.mark.parametrize("reason", ["UserInBlackList", "UserInBlacklist"])
def test_a_person_on_the_senders_blacklist_is_told_of(reason):
    ((receipt,), _, _) = call(REPORT | {"status": "Failed", "failureReason": reason})
    assert (receipt.state, receipt.opted_out) == ("undelivered", True)


def test_inbound():
    receipts, inbound, reply = call(INBOUND)
    assert inbound == [Inbound("+254711000111", "22000", "Stop 👋", "mo1")]
    assert (receipts, reply.status) == ([], 200)


@pytest.mark.parametrize("query", ["", "?token=", "?token=t0ken", "?Token=t0ken%2F1"])
def test_a_stranger_gets_403(query):
    assert call(INBOUND, url=PLAIN + query) == ([], [], http.HttpReply(403))
    assert call(INBOUND, url=PLAIN + query, settings={})[2].status == 403


@pytest.mark.parametrize("fields", [b"", b"\xff", b"id=%ff", {"status": "Sent"}, {"id": "1"}])
def test_unreadable_calls_give_400(fields):
    assert call(fields)[2].status == 400


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("africastalking://api.africastalking.com", {}, "url: needs USERNAME"),
        (URL, {"callback_url": "https://v.example"}, "token: is needed"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway at: ") as error:
        africastalking.parse("at", url, settings)
    assert problem in str(error.value)
    assert "k3y" not in str(error.value) + repr(parsed(**CALLED))


async def test_a_text_through_a_real_server(wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(201, json.dumps(answer(101)).encode())

    server = await wire(behave)
    url = f"africastalking+http://acme:api-k3y@127.0.0.1:{server.port}?allow_private=true"
    gateway = africastalking.build("at", url, CALLED, sink)
    await gateway.open(1)
    assert gateway.take(2) == 2
    gateway.submit([submission(segments=2)])
    assert await sink.outcomes_of(2) == [Accepted(ID)] * 2
    await gateway.close(1)
    assert server.requests[0].headers["apikey"] == "api-k3y"
