"""Twilio: a table of answers, what is asked, and callbacks with the signatures of Twilio's own vectors."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from gateways import http, twilio
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown
from gateways.provider import BadCallback, BadSignature

ACCOUNT = "AC" + "0" * 32
SERVICE = "MG" + "1" * 32
SID = "SM" + "2" * 32
URL = f"twilio://{ACCOUNT}:t0ken@api.twilio.com"
PUBLIC = {"callback_url": "https://volley.example.org"}
CALLBACK = "https://volley.example.org/v1/callbacks/tw"


def parsed(url=URL, **settings):
    return twilio.parse("tw", url, settings)


# -- requests


@pytest.mark.parametrize(
    ("fields", "settings", "expected"),
    [
        ({"sender": "12025550199"}, {}, {"From": "+12025550199"}),
        ({"sender": "12345"}, {}, {"From": "12345"}),
        ({"sender": "ACME"}, {}, {"From": "ACME"}),
        ({"sender": SERVICE}, {}, {"MessagingServiceSid": SERVICE}),
        ({"sender": ""}, {"messaging_service": SERVICE}, {"MessagingServiceSid": SERVICE}),
        (
            {"sender": "ACME"},
            {"messaging_service": SERVICE},
            {"MessagingServiceSid": SERVICE, "From": "ACME"},
        ),
        ({"sender": "ACME"}, PUBLIC, {"From": "ACME", "StatusCallback": CALLBACK}),
        ({"sender": "ACME", "validity_s": 90}, {}, {"From": "ACME", "ValidityPeriod": "90"}),
        ({"sender": "ACME", "validity_s": 99_999}, {}, {"From": "ACME", "ValidityPeriod": "36000"}),
        ({"sender": "ACME", "validity_s": 0}, {}, {"From": "ACME", "ValidityPeriod": "1"}),
    ],
)
def test_request(fields, settings, expected, submission):
    text = "50% & more = “xin chào” 👋\r\n+"
    asked = twilio.request(parsed(**settings), submission(text=text, **fields))
    assert asked.method == "POST"
    assert asked.url == f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    assert asked.headers["Content-Type"] == "application/x-www-form-urlencoded"
    got = dict(twilio.form_fields(asked.body))
    assert got == {"To": "+12025550101", "Body": text, "SmartEncoded": "false", **expected}


def test_api_key_signs_in_and_the_account_stands_in_the_path(submission):
    settings = parsed(f"twilio://SK1:s3cret@api.twilio.com?account={ACCOUNT}")
    asked = twilio.request(settings, submission())
    assert asked.headers["Authorization"] == "Basic U0sxOnMzY3JldA=="
    assert f"/Accounts/{ACCOUNT}/" in asked.url


# -- answers


def error(code, status=400):
    return status, json.dumps({"code": code, "message": "m", "more_info": "u", "status": status})


ANSWERS = {
    "queued": (201, json.dumps({"sid": SID, "status": "queued", "error_code": None}), Accepted(SID)),
    "created without a sid": (201, "{}", Unknown("bad_answer", "no sid")),
    "created, not JSON": (201, "<html>", Unknown("bad_answer", "HTTP 201")),
    "created, too deep": (201, "[" * 20_000, Unknown("bad_answer", "HTTP 201")),
    "created, not UTF-8": (201, b'{"sid": "\xff"}', Unknown("bad_answer", "HTTP 201")),
    "invalid number": (*error(21211), Rejected("invalid_number", "21211")),
    "cannot be reached": (*error(21214), Rejected("invalid_number", "21214")),
    "region not enabled": (*error(21408), Rejected("region_blocked", "21408")),
    "not a sender": (*error(21606), Rejected("invalid_sender", "21606")),
    "opted out": (*error(21610), Rejected("opted_out", "21610")),
    "no route": (*error(21612), Rejected("no_route", "21612")),
    "not a mobile": (*error(21614), Rejected("invalid_number", "21614")),
    "too long": (*error(21617), Rejected("content_rejected", "21617")),
    "unregistered": (*error(30034), Rejected("sender_unregistered", "30034")),
    "filtered": (*error(30007), Rejected("content_rejected", "30007")),
    "sender's queue is full": (*error(21611), Retry("queue_full", "21611")),
    "too many requests": (*error(20429, 429), Retry("throttled", "20429", 2.0)),
    "wrong credentials": (*error(20003, 401), Retry("gateway_error", "20003")),
    "wrong account": (*error(20404, 404), Retry("gateway_error", "20404")),
    "a code we don't know": (*error(21999), Rejected("rejected", "HTTP 400 21999")),
    "an unknown code with 429": (*error(29999, 429), Retry("throttled", "HTTP 429 29999", 2.0)),
    "a refusal without a code": (400, "{}", Rejected("rejected", "HTTP 400")),
    "a known code in a server error": (*error(21610, 500), Unknown("server_error", "HTTP 500 21610")),
    "unavailable": (*error(20503, 503), Unknown("server_error", "HTTP 503 20503")),
    "a proxy's page": (502, "<html>", Unknown("server_error", "HTTP 502")),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, body, expected = ANSWERS[case]
    data = body.encode() if isinstance(body, str) else body
    assert twilio.outcome(parsed(), status, {"retry-after": "2"}, data) == (
        Retry(expected.reason, expected.raw, 2.0) if isinstance(expected, Retry) else expected
    )


def test_no_code_is_in_both_tables():
    assert not set(twilio.REJECTIONS) & set(twilio.RETRIES)


# -- signatures: vectors of twilio-python's own tests (tests/unit/test_request_validator.py)

VECTOR_URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
VECTOR_FIELDS = [
    ("CallSid", "CA1234567890ABCDE"),
    ("Digits", "1234"),
    ("From", "+14158675309"),
    ("To", "+18005551212"),
    ("Caller", "+14158675309"),
]


@pytest.mark.parametrize(
    ("url", "fields", "expected"),
    [
        (VECTOR_URL, VECTOR_FIELDS, "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
        (
            VECTOR_URL,
            [("Sid", "CA123"), ("SidAccount", "AC123"), ("Digits", "5678"), ("Digits", "1234")],
            "IK+Dwps556ElfBT0I3Rgjkr1wJU=",
        ),
    ],
)
def test_signature_vectors(url, fields, expected):
    assert twilio.signature("12345", url, fields) == expected
    assert twilio.signature("12346", url, fields) != expected


@pytest.mark.parametrize(
    ("seen", "given"),
    [
        (VECTOR_URL, "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
        (VECTOR_URL.replace(".com", ".com:1234"), "RSOYDt4T1cUTdK1PDd93/VVr8B8="),  # signed without port
        (VECTOR_URL, "kvajT1Ptam85bY51eRf/AJRuM3w="),  # signed with :443
        (VECTOR_URL.replace("https", "http"), "0ZXoZLH/DfblKGATFgpif+LLRf4="),  # signed with :80
        (
            VECTOR_URL.replace("https", "http").replace(".com", ".com:1234"),
            "Zmvh+3yNM1Phv2jhDCwEM3q5ebU=",  # signed with :1234
        ),
    ],
)
def test_signature_with_and_without_port(seen, given):
    settings = parsed(f"twilio://{ACCOUNT}:12345@api.twilio.com")
    assert twilio._is_signed(settings, seen, VECTOR_FIELDS, given)
    assert not twilio._is_signed(settings, seen.replace("foo=1", "foo=2"), VECTOR_FIELDS, given)
    assert not twilio._is_signed(settings, seen, VECTOR_FIELDS[1:], given)


# -- callbacks


def call(fields, *, url=CALLBACK, method="POST", token="t0ken", signed_url=CALLBACK, settings=PUBLIC):
    """A callback as Twilio would make it, through the function that the API calls."""
    query = urlencode(fields)
    signed = signed_url + (f"?{query}" if method == "GET" else "")
    given = twilio.signature(token, signed, [] if method == "GET" else list(fields.items()))
    full_url = url + (f"?{query}" if method == "GET" else "")
    body = query.encode() if method == "POST" else b""
    return http.receive("tw", URL, settings, method, full_url, {"X-Twilio-Signature": given}, body)


STATUS = {
    "MessageSid": SID,
    "SmsSid": SID,
    "To": "+12025550101",
    "From": "+12025550199",
    "AccountSid": ACCOUNT,
}
INBOUND = {
    "MessageSid": SID,
    "SmsStatus": "received",
    "From": "+12025550101",
    "To": "+12025550199",
    "Body": "Stop 👋",
    "OptOutType": "STOP",
    "NumMedia": "0",
}


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        ("queued", "", "accepted"),
        ("sent", "", "enroute"),
        ("delivered", "", "delivered"),
        ("undelivered", "30005", "undelivered"),
        ("failed", "30001", "rejected"),
        ("failed", "30036", "expired"),
        ("canceled", "", "deleted"),
        ("a_new_word", "", "unknown"),
    ],
)
def test_status_callback(status, code, state):
    fields = STATUS | {"MessageStatus": status, "SmsStatus": status} | ({"ErrorCode": code} if code else {})
    receipts, inbound, reply = call(fields)
    assert receipts == [Receipt(SID, state, status, code, to="12025550101", sender="12025550199")]
    assert (inbound, reply.status) == ([], 200)


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_inbound_text_gets_an_empty_answer(method):
    receipts, inbound, reply = call(INBOUND, method=method)
    assert inbound == [Inbound("+12025550101", "12025550199", "Stop 👋", SID)]
    assert receipts == []
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/xml")
    assert reply.body.endswith(b"<Response/>")


def test_a_callback_tells_that_the_person_had_said_stop():
    """A text of a messaging service is taken, and refused behind the answer."""
    receipts, _, _ = call(STATUS | {"MessageStatus": "failed", "SmsStatus": "failed", "ErrorCode": "21610"})
    assert [one.opted_out for one in receipts] == [True]


def test_callback_behind_a_proxy_that_hides_the_public_address():
    receipts, _, reply = call(STATUS | {"MessageStatus": "sent"}, url="http://10.0.0.7:8000/v1/callbacks/tw")
    assert (len(receipts), reply.status) == (1, 200)


@pytest.mark.parametrize(
    "forged",
    [
        {"token": "guess"},
        {"signed_url": CALLBACK + "/other"},
        {"signed_url": CALLBACK.replace("https", "http")},
    ],
)
def test_forged_callback_gives_403_and_nothing_else(forged):
    receipts, inbound, reply = call(INBOUND, **forged)
    assert (receipts, inbound, reply.status) == ([], [], 403)


def test_callback_with_a_field_changed_after_signing():
    given = twilio.signature("t0ken", CALLBACK, list(INBOUND.items()))
    body = urlencode(INBOUND | {"From": "+12025550102"}).encode()
    with pytest.raises(BadSignature):
        twilio.receive(parsed(**PUBLIC), "POST", CALLBACK, {"x-twilio-signature": given}, body)


@pytest.mark.parametrize("headers", [{}, {"x-twilio-signature": ""}, {"x-twilio-signature": "é"}])
def test_callback_without_a_signature(headers):
    with pytest.raises(BadSignature):
        twilio.receive(parsed(**PUBLIC), "POST", CALLBACK, headers, b"MessageSid=1")


def test_signed_nonsense_gives_400():
    assert call({"MessageStatus": "sent"})[2].status == 400
    assert call({"MessageSid": SID})[2].status == 400
    with pytest.raises(BadCallback):
        twilio.receive(parsed(**PUBLIC), "POST", CALLBACK, {"x-twilio-signature": "x"}, b"a=%ff")
    with pytest.raises(BadCallback):
        twilio.receive(parsed(**PUBLIC), "POST", CALLBACK, {"x-twilio-signature": "x"}, b"a=1&" * 201)


# -- settings


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("twilio://api.twilio.com", {}, "url: needs ACCOUNT_SID"),
        ("twilio://SK1:t0ken@api.twilio.com", {}, "account: must be an account SID"),
        (
            f"twilio://SK1:t0ken@api.twilio.com?account={ACCOUNT}",
            PUBLIC,
            "auth_token: or webhook_key is needed to check the signatures",
        ),
        (URL + "?messaging_service=x", {}, "messaging_service: must be"),
        (URL + "?concurency=5", {}, "concurency: unknown option"),
        (URL + "?concurrency=many", {}, "concurrency: must be a number"),
        (URL + "?concurrency=0", {}, "concurrency: must lie between 1 and 1000"),
        (URL + "?allow_private=yes", {}, "allow_private: must be true or false"),
        (URL, {"callback_url": "volley.example.org"}, "callback_url: must be an http(s) URL"),
        (URL.replace("twilio:", "twilio+ftp:"), {}, "url: the part after '+' must be http or https"),
        (f"twilio://{ACCOUNT}:t0ken@", {}, "url: has no host"),
        (f"twilio://{ACCOUNT}:t0ken@h:99999", {}, "url: can't be read"),
    ],
)
def test_wrong_settings_are_named_in_one_line_without_secrets(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway tw: ") as error:
        twilio.parse("tw", url, settings)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)
    assert "t0ken" not in str(error.value)


def test_settings_show_no_secret():
    assert "t0ken" not in repr(parsed(**PUBLIC))


# -- end to end


async def test_a_text_through_a_real_server(wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(201, json.dumps({"sid": SID}).encode(), "Content-Type: application/json")

    server = await wire(behave)
    url = f"twilio+http://{ACCOUNT}:t0ken@127.0.0.1:{server.port}?allow_private=true"
    gateway = twilio.build("tw", url, PUBLIC, sink)
    await gateway.open(1)
    assert gateway.take(2) == 2
    gateway.submit([submission(segments=2)])
    assert await sink.outcomes_of(2) == [Accepted(SID)] * 2
    await gateway.close(1)
    (seen,) = server.requests
    assert (seen.method, seen.target) == ("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json")
    assert seen.form == {
        "To": "+12025550101",
        "From": "+12025550199",
        "Body": "Hello",
        "SmartEncoded": "false",
        "StatusCallback": CALLBACK,
    }
    assert seen.headers["accept-encoding"] == "identity"
