"""Infobip: a table of answers, what is asked, and callbacks."""

from __future__ import annotations

import json

import pytest

from gateways import http, infobip
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown

URL = "infobip://:api-k3y@xyz.api.infobip.com"
CALLED = {"callback_url": "https://volley.example.org", "token": "t0ken/1"}
CALLBACK = "https://volley.example.org/v1/callbacks/i?token=t0ken%2F1"


def parsed(url=URL, **settings):
    return infobip.parse("i", url, settings)


@pytest.mark.parametrize(
    ("fields", "settings", "expected"),
    [
        ({}, {}, {}),
        (
            {"validity_s": 3600},
            {},
            {"options": {"validityPeriod": {"amount": 60, "timeUnit": "MINUTES"}}},
        ),
        ({"validity_s": 5}, {}, {"options": {"validityPeriod": {"amount": 1, "timeUnit": "MINUTES"}}}),
        (
            {},
            CALLED,
            {
                "webhooks": {
                    "delivery": {"url": CALLBACK},
                    "contentType": "application/json",
                    "callbackData": "m-1",
                }
            },
        ),
    ],
)
def test_request(fields, settings, expected, submission):
    text = '50% & "more" “xin chào” 👋'
    asked = infobip.request(parsed(**settings), submission(text=text, **fields))
    assert (asked.method, asked.url) == ("POST", "https://xyz.api.infobip.com/sms/3/messages")
    assert asked.headers["Authorization"] == "App api-k3y"
    assert json.loads(asked.body) == {
        "messages": [
            {
                "sender": "12025550199",
                "destinations": [{"to": "12025550101"}],
                "content": {"text": text},
                **expected,
            }
        ]
    }


def message(group, name, message_id="i-1"):
    return {"messageId": message_id, "status": {"groupId": group, "groupName": "x", "id": 1, "name": name}}


ANSWERS = {
    "pending": (200, [message(1, "PENDING_ENROUTE")], Accepted("i-1")),
    "accepted, and not queued yet": (200, [message(0, "MESSAGE_ACCEPTED")], Accepted("i-1")),
    "pending without id": (200, [message(1, "PENDING_ACCEPTED", "")], Unknown("bad_answer", "no messageId")),
    "no route": (200, [message(5, "REJECTED_NETWORK")], Rejected("no_route", "REJECTED_NETWORK")),
    "no credit": (
        200,
        [message(5, "REJECTED_NOT_ENOUGH_CREDITS")],
        Rejected("no_credit", "REJECTED_NOT_ENOUGH_CREDITS"),
    ),
    "a new rejection": (200, [message(5, "REJECTED_NEW")], Rejected("rejected", "REJECTED_NEW")),
    "flooding": (
        200,
        [message(5, "REJECTED_FLOODING_FILTER")],
        Retry("throttled", "REJECTED_FLOODING_FILTER"),
    ),
    "a new group": (200, [message(9, "ODD")], Unknown("bad_answer", "ODD")),
    "no status": (200, [{"messageId": "i-1"}], Unknown("bad_answer", "no status")),
    "no message": (200, [], Unknown("bad_answer", "not one message")),
    "unauthorized": (401, [], Retry("gateway_error", "HTTP 401")),
    "bad request": (400, [], Rejected("rejected", "HTTP 400")),
    "throttled": (429, [], Retry("throttled", "HTTP 429")),
    "server error": (500, [message(1, "PENDING_ENROUTE")], Unknown("server_error", "HTTP 500")),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, messages, expected = ANSWERS[case]
    body = json.dumps({"bulkId": "b", "messages": messages}).encode()
    assert infobip.outcome(parsed(), status, {}, body) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[" * 30_000, b'{"messages": [1]}', b"\xff"])
def test_an_answer_that_makes_no_sense(body):
    assert infobip.outcome(parsed(), 200, {}, body) == Unknown("bad_answer", "HTTP 200")


def receive(results, *, url=CALLBACK, settings=CALLED):
    body = results if isinstance(results, bytes) else json.dumps({"results": results}).encode()
    return http.receive("i", URL, settings, "POST", url, {}, body)


def report(group, name, **fields):
    return {"messageId": "i-1", "to": "12025550101", "sender": "ACME"} | message(group, name) | fields


@pytest.mark.parametrize(
    ("group", "name", "state"),
    [
        (1, "PENDING_WAITING_DELIVERY", "enroute"),
        (0, "MESSAGE_ACCEPTED", "accepted"),
        (2, "UNDELIVERABLE_NOT_DELIVERED", "undelivered"),
        (3, "DELIVERED_TO_OPERATOR", "enroute"),
        (3, "DELIVERED_TO_HANDSET", "delivered"),
        (4, "EXPIRED_EXPIRED", "expired"),
        (5, "REJECTED_NETWORK", "rejected"),
        (9, "ODD", "unknown"),
    ],
)
def test_report_states(group, name, state):
    receipts, inbound, reply = receive([report(group, name)])
    assert receipts == [Receipt("i-1", state, name, to="12025550101", sender="ACME")]
    assert (inbound, reply.status) == ([], 200)


def test_reports_and_texts_in_one_call():
    error = {"groupId": 1, "id": 5, "name": "EC_ABSENT_SUBSCRIBER", "permanent": False}
    full = report(
        2,
        "UNDELIVERABLE_NOT_DELIVERED",
        error=error,
        sentAt="2023-11-14T22:13:20.500+0000",
        doneAt="2023-11-15T05:13:21.000+0700",
    )
    old = {"from": "ACME"} | {k: v for k, v in report(3, "DELIVERED_TO_HANDSET").items() if k != "sender"}
    text = {"messageId": "mo-1", "from": "12025550101", "to": "12025550199", "text": "STOP", "smsCount": 1}
    receipts, inbound, _ = receive([full, old, text])
    assert receipts[0].error == "5"
    assert (receipts[0].submitted_at, receipts[0].done_at) == (1_700_000_000.5, 1_700_000_001.0)
    assert (receipts[1].state, receipts[1].sender) == ("delivered", "ACME")
    assert inbound == [Inbound("+12025550101", "12025550199", "STOP", "mo-1")]


@pytest.mark.parametrize("query", ["", "?token=", "?token=t0ken", "?token=t0ken%2F2", "?Token=t0ken%2F1"])
def test_a_stranger_gets_403(query):
    receipts, inbound, reply = receive(
        [report(3, "DELIVERED_TO_HANDSET")], url=CALLBACK.partition("?")[0] + query
    )
    assert (receipts, inbound, reply.status) == ([], [], 403)


def test_without_a_token_nobody_gets_in():
    assert receive([report(3, "X")], url="https://v/?token=", settings={})[2].status == 403


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"[" * 30_000, b"\xff", b'{"results": [{}]}', b'{"results": [{"messageId": "1"}]}']
)
def test_unreadable_calls_give_400(body):
    assert receive(body)[2].status == 400


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("infobip://xyz.api.infobip.com", {}, "url: needs :API_KEY"),
        (URL, {"callback_url": "https://v.example"}, "token: is needed"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway i: ") as error:
        infobip.parse("i", url, settings)
    assert problem in str(error.value)
    assert "k3y" not in str(error.value) + repr(parsed(**CALLED))


async def test_a_text_through_a_real_server(wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(200, json.dumps({"messages": [message(1, "PENDING_ACCEPTED")]}).encode())

    server = await wire(behave)
    url = f"infobip+http://:api-k3y@127.0.0.1:{server.port}?allow_private=true"
    gateway = infobip.build("i", url, CALLED, sink)
    await gateway.open(1)
    assert gateway.take(2) == 2
    gateway.submit([submission(segments=2)])
    assert await sink.outcomes_of(2) == [Accepted("i-1")] * 2
    await gateway.close(1)
    assert server.requests[0].headers["authorization"] == "App api-k3y"
