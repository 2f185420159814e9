"""AWS End User Messaging: a table of answers, what is asked, events, and the signatures of AWS' documentation."""

from __future__ import annotations

import json

import pytest

from gateways import aws, http
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown

URL = "aws://AKID:s3cr%2Ft%2B@sms-voice.eu-west-1.amazonaws.com"
CALLED = {"callback_url": "https://volley.example.org", "token": "t0ken/1"}
PLAIN = "https://volley.example.org/v1/callbacks/a"
CALLBACK = PLAIN + "?token=t0ken%2F1"
NOW_S = 1_700_000_000.9
ID = "862a8790-60c0-4430-9b2b-658bdexample"


def parsed(url=URL, **settings):
    return aws.parse("a", url, settings)


@pytest.mark.parametrize(
    ("fields", "settings", "expected"),
    [
        ({}, {}, {"OriginationIdentity": "+12025550199"}),
        ({"sender": "ACME"}, {}, {"OriginationIdentity": "ACME"}),
        ({"sender": ""}, {"configuration_set": "cs"}, {"ConfigurationSetName": "cs"}),
        ({"sender": "", "validity_s": 90}, {}, {"TimeToLive": 90}),
        ({"sender": "", "validity_s": 1}, {}, {"TimeToLive": 5}),
        ({"sender": "", "validity_s": 999_999}, {}, {"TimeToLive": 259_200}),
        ({"sender": "", "category": "marketing"}, {}, {"MessageType": "PROMOTIONAL"}),
    ],
)
def test_request(fields, settings, expected, submission):
    text = '50% & "more" “xin chào” 👋'
    asked = aws.request(parsed(**settings), submission("m-1", text=text, **fields), lambda: NOW_S)
    assert (asked.method, asked.url) == ("POST", "https://sms-voice.eu-west-1.amazonaws.com/")
    assert asked.headers["Host"] == "sms-voice.eu-west-1.amazonaws.com"
    assert asked.headers["X-Amz-Date"] == "20231114T221320Z"
    assert asked.headers["X-Amz-Target"] == "PinpointSMSVoiceV2.SendTextMessage"
    assert asked.headers["Content-Type"] == "application/x-amz-json-1.0"
    assert asked.headers["Authorization"].startswith(
        "AWS4-HMAC-SHA256 Credential=AKID/20231114/eu-west-1/sms-voice/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature="
    )
    assert json.loads(asked.body) == {
        "DestinationPhoneNumber": "+12025550101",
        "MessageBody": text,
        "MessageType": "TRANSACTIONAL",
        "Context": {"message_id": "m-1"},
        **expected,
    }


def test_temporary_credentials_are_signed_too(submission):
    asked = aws.request(parsed(session_token="st"), submission())
    assert asked.headers["X-Amz-Security-Token"] == "st"
    assert "x-amz-date;x-amz-security-token;x-amz-target" in asked.headers["Authorization"]


# The examples of "Signature Version 4 signing process" in the AWS General Reference.
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def test_signing_key_of_the_documentation():
    assert aws.signing_key(SECRET, "20120215", "us-east-1", "iam").hex() == (
        "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"
    )


def test_signature_of_the_documentation():
    headers = {
        "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
        "Host": "iam.amazonaws.com",
        "X-Amz-Date": "20150830T123600Z",
    }
    url = "https://iam.amazonaws.com/?Version=2010-05-08&Action=ListUsers"
    assert aws.authorization(("AKIDEXAMPLE", SECRET), "us-east-1", "iam", "GET", url, headers, b"") == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date, "
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )


def test_any_change_is_another_signature(submission):
    def signed(url=URL, **fields):
        return aws.request(parsed(url), submission(**fields), lambda: NOW_S).headers["Authorization"]

    all_of_them = {
        signed(),
        signed(text="x"),
        signed(URL.replace("s3cr", "secr")),
        signed(URL.replace("eu-west-1", "eu-west-2")),
    }
    assert len(all_of_them) == 4


def error(kind, reason=None, **more):
    return {"__type": f"com.amazonaws.pinpointsmsvoicev2#{kind}", "Message": "x", "Reason": reason} | more


def field(name):
    return {"Fields": [{"Name": name, "Message": "x"}]}


ANSWERS = {
    "accepted": (200, {"MessageId": ID}, Accepted(ID)),
    "accepted without id": (200, {}, Unknown("bad_answer", "no MessageId")),
    "opted out": (
        400,
        error("ConflictException", "DESTINATION_PHONE_NUMBER_OPTED_OUT"),
        Rejected("opted_out", "ConflictException DESTINATION_PHONE_NUMBER_OPTED_OUT"),
    ),
    "number blocked by the account": (
        400,
        error("ConflictException", "DESTINATION_PHONE_NUMBER_BLOCKED_BY_PROTECT_NUMBER_OVERRIDE"),
        Rejected("blocked", "ConflictException DESTINATION_PHONE_NUMBER_BLOCKED_BY_PROTECT_NUMBER_OVERRIDE"),
    ),
    "country blocked": (
        400,
        error("ValidationException", "DESTINATION_COUNTRY_BLOCKED"),
        Rejected("region_blocked", "ValidationException DESTINATION_COUNTRY_BLOCKED"),
    ),
    "bad number": (
        400,
        error("ValidationException", "INVALID_PARAMETER", **field("DestinationPhoneNumber")),
        Rejected("invalid_number", "ValidationException INVALID_PARAMETER"),
    ),
    "another field": (
        400,
        error("ValidationException", "INVALID_PARAMETER", **field("Odd")),
        Rejected("rejected", "ValidationException INVALID_PARAMETER"),
    ),
    "a reason we don't know": (
        400,
        error("ConflictException", "ODD"),
        Rejected("rejected", "ConflictException ODD"),
    ),
    "no reason": (400, error("ValidationException"), Rejected("rejected", "ValidationException")),
    "unknown sender": (
        400,
        error("ResourceNotFoundException", ResourceType="sender-id"),
        Rejected("invalid_sender", "ResourceNotFoundException"),
    ),
    "unknown configuration set": (
        400,
        error("ResourceNotFoundException", ResourceType="configuration-set"),
        Retry("gateway_error", "ResourceNotFoundException"),
    ),
    "throttled": (400, error("ThrottlingException"), Retry("throttled", "ThrottlingException")),
    "spent": (
        400,
        error("ServiceQuotaExceededException", "MONTHLY_SPEND_LIMIT_REACHED_FOR_TEXT"),
        Retry("gateway_error", "ServiceQuotaExceededException MONTHLY_SPEND_LIMIT_REACHED_FOR_TEXT"),
    ),
    "wrong key": (
        400,
        {"__type": "UnrecognizedClientException"},
        Retry("gateway_error", "UnrecognizedClientException"),
    ),
    "an error we don't know": (400, error("Odd"), Rejected("rejected", "HTTP 400 Odd")),
    "forbidden without a type": (403, {}, Retry("gateway_error", "HTTP 403")),
    "internal error": (
        500,
        error("InternalServerException"),
        Unknown("server_error", "HTTP 500 InternalServerException"),
    ),
    "throttled with a server error": (
        503,
        error("ThrottlingException"),
        Unknown("server_error", "HTTP 503 ThrottlingException"),
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, body, expected = ANSWERS[case]
    assert aws.outcome(parsed(), status, {}, json.dumps(body).encode()) == expected


def test_type_in_a_header():
    headers = {"x-amzn-errortype": "ThrottlingException:http://internal.amazon.com/x"}
    assert aws.outcome(parsed(), 400, headers, b"{}") == Retry("throttled", "ThrottlingException")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[" * 30_000, b'{"MessageId": 1}', b"\xff"])
def test_an_answer_that_makes_no_sense(body):
    assert aws.outcome(parsed(), 200, {}, body) == Unknown("bad_answer", "HTTP 200")


EVENT = {
    "eventType": "TEXT_DELIVERED",
    "eventVersion": "1.0",
    "eventTimestamp": 1700000001500,
    "isFinal": True,
    "originationPhoneNumber": "+12025550199",
    "destinationPhoneNumber": "+12025550101",
    "messageId": ID,
    "messageRequestTimestamp": 1700000000500,
    "messageStatus": "DELIVERED",
    "messageStatusDescription": "x",
    "context": {"message_id": "m-1"},
}
INBOUND = {
    "originationNumber": "+12025550101",
    "destinationNumber": "+12025550199",
    "messageKeyword": "KEYWORD_1",
    "messageBody": "Stop 👋",
    "inboundMessageId": "in-1",
}
WRAPPINGS = {
    "raw": lambda event: event,
    "EventBridge": lambda event: {"version": "0", "source": "aws.sms-voice", "detail": event},
}


def call(event, *, url=CALLBACK, settings=CALLED):
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    return http.receive("a", URL, settings, "POST", url, {}, body)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("TEXT_QUEUED", "accepted"),
        ("TEXT_SUCCESSFUL", "enroute"),
        ("TEXT_DELIVERED", "delivered"),
        ("TEXT_BLOCKED", "rejected"),
        ("TEXT_CARRIER_BLOCKED", "undelivered"),
        ("TEXT_UNREACHABLE", "undelivered"),
        ("TEXT_TTL_EXPIRED", "expired"),
        ("TEXT_ODD", "unknown"),
    ],
)
def test_events(kind, state, wrapping):
    status = kind.removeprefix("TEXT_")
    receipts, inbound, reply = call(WRAPPINGS[wrapping](EVENT | {"eventType": kind, "messageStatus": status}))
    error = "" if state in ("accepted", "enroute", "delivered") else status
    assert receipts == [
        Receipt(ID, state, kind, error, "12025550101", "12025550199", 1_700_000_000.5, 1_700_000_001.5)
    ]
    assert (inbound, reply.status) == ([], 200)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_inbound(wrapping):
    receipts, inbound, reply = call(WRAPPINGS[wrapping](INBOUND))
    assert inbound == [Inbound("+12025550101", "12025550199", "Stop 👋", "in-1")]
    assert (receipts, reply.status) == ([], 200)


def test_other_events_are_none_of_ours():
    assert call({"eventType": "VOICE_COMPLETED"}) == ([], [], http.HttpReply(200))


@pytest.mark.parametrize("query", ["", "?token=", "?token=t0ken", "?Token=t0ken%2F1"])
def test_a_stranger_gets_403(query):
    assert call(EVENT, url=PLAIN + query) == ([], [], http.HttpReply(403))
    assert call(EVENT, url=PLAIN + query, settings={})[2].status == 403


@pytest.mark.parametrize(
    "event",
    [
        b"",
        b"[]",
        b"[" * 30_000,
        b'{"detail": ' * 5000,
        b"\xff",
        {},
        {"eventType": "TEXT_SENT"},
    ],
)
def test_unreadable_calls_give_400(event):
    assert call(event)[2].status == 400


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("aws://sms-voice.eu-west-1.amazonaws.com", {}, "url: needs ACCESS_KEY_ID"),
        ("aws://AKID:s3cr@localhost", {}, "region: is needed"),
        (URL, {"callback_url": "https://v.example"}, "token: is needed"),
        (URL, {"callback_url": "https://v.example", "topics": "VolleyTexts"}, "topics: must be ARNs"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway a: ") as error:
        aws.parse("a", url, settings)
    assert problem in str(error.value)
    assert "s3cr" not in str(error.value) + repr(parsed(**CALLED))


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("sms-voice.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("sms-voice-fips.us-east-1.amazonaws.com", "us-east-1"),
        ("vpce-1.sms-voice.ap-southeast-2.vpce.amazonaws.com", "ap-southeast-2"),
    ],
)
def test_region_of_a_host(host, region):
    assert parsed(f"aws://AKID:s@{host}").region == region


async def test_a_text_through_a_real_server(wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(200, json.dumps({"MessageId": ID}).encode())

    server = await wire(behave)
    url = f"aws+http://AKID:s3cr@127.0.0.1:{server.port}?allow_private=true&region=eu-west-1"
    gateway = aws.build("a", url, CALLED, sink)
    await gateway.open(1)
    assert gateway.take(2) == 2
    gateway.submit([submission(segments=2)])
    assert await sink.outcomes_of(2) == [Accepted(ID)] * 2
    await gateway.close(1)
    (seen,) = server.requests
    assert seen.headers["host"] == f"127.0.0.1:{server.port}"  # as it was signed
    sent = {name: seen.headers[name] for name in ("content-type", "host", "x-amz-date", "x-amz-target")}
    again = aws.authorization(
        ("AKID", "s3cr"), "eu-west-1", "sms-voice", "POST", f"http://{sent['host']}/", sent, seen.body
    )
    assert seen.headers["authorization"] == again
