"""Signatures as the providers' own Python libraries make or take them, with texts that aren't ASCII.

Each vector was made once, by hand, by the release that stands beside it; thousands of random ones agreed, too.
"""

from __future__ import annotations

import msgspec
import pytest

from gateways import alibaba, aws, bird, line, plivo, sinch, telnyx, tencent, twilio, vonage
from gateways.base import Inbound
from gateways.provider import BadSignature

TWILIO_URL = "https://volley.example.org/v1/callbacks/tw?x=1"
TWILIO_FIELDS = [("Body", "chào & 50% 👋"), ("From", "+12025550101")]


@pytest.mark.parametrize(
    ("secret", "digest", "expected"),
    [
        ("t0ken", "sha1", "bgr/w+OiQ5X2fgPUoa1aT+v+36E="),
        ("shared", "sha256", "v+CilHTrhZH8/F6lqoantI9fMcDsR6qxf0LjSDEOd7Q="),  # a shared key
    ],
)
def test_twilio_9_13(secret, digest, expected):
    assert twilio.signature(secret, TWILIO_URL, TWILIO_FIELDS, digest) == expected


def test_twilio_with_a_shared_key_takes_no_weaker_signature():
    account = "AC" + "0" * 32
    public = {"callback_url": "https://volley.example.org", "webhook_key": "shared"}
    settings = twilio.parse("tw", f"twilio://{account}:t0ken@api.twilio.com", public)
    url = "https://volley.example.org/v1/callbacks/tw"
    body, fields = b"MessageSid=SM1&Body=STOP", [("MessageSid", "SM1"), ("Body", "STOP")]
    strong = {"x-twilio-signature": twilio.signature("shared", url, fields, "sha256")}
    assert twilio.receive(settings, "POST", url, strong, body) == [Inbound("", "", "STOP", "SM1")]
    for secret, digest in (("t0ken", "sha1"), ("shared", "sha1"), ("t0ken", "sha256")):
        weaker = {"x-twilio-signature": twilio.signature(secret, url, fields, digest)}
        with pytest.raises(BadSignature):
            twilio.receive(settings, "POST", url, weaker, body)


@pytest.mark.parametrize(
    ("digest", "expected"),
    [
        ("md5", "521af5af61a571ee69f066c6e1c97011"),
        ("sha1", "342a17777880cbe4890cdd0bc1d1976090161576"),
        ("sha256", "c586f76f0cc0a81de9bccfc9a67aca1f722042bd57ca7bbaf700bb85fa660e13"),
        (
            "sha512",
            "81750ad7ab9eee2fb164aaf114797d75f4e7523b5a3485bd6564317072a208739"
            "abde57f75c46445f94e2fcb4b0e693bc8e221e985a39e8820aa2c679b30f1b9",
        ),
    ],
)
def test_vonage_http_client_1_5_2(digest, expected):
    values = {"a": "1&2=3", "msisdn": "12025550101", "text": "chào", "timestamp": "1700000000"}
    assert vonage.signature("s3cret", digest, values) == expected


PLIVO_URL = "https://volley.example.org/v1/callbacks/pl"
PLIVO_FIELDS = [
    ("From", "12025550101"),
    ("To", "12025550199"),
    ("Text", "STOP now"),
    ("MessageUUID", "uuid-1"),
]


@pytest.mark.parametrize(
    ("query", "fields", "expected"),
    [
        ("?b=2&a=1", PLIVO_FIELDS, "Cvv7WzdlSrNdSj/bWJMlwp8nj7zEmaVuFoGExBJv6R4="),
        ("", PLIVO_FIELDS, "INxdppnPuyyMOthPewQVNq9tRSuhR+dKbxfd4zLXglE="),
        ("?b=2&a=1", [], "azIT02VryMmEb94dlYriphC0C30YY4Iwn69B3Vi8ais="),
    ],
)
def test_plivo_4_63(query, fields, expected):
    """ASCII only: that library reads the octets of UTF-8 as Latin-1 before it signs; Plivo's others don't."""
    assert plivo.signature_v3("t0ken", PLIVO_URL + query, fields, "12345") == expected


def test_sinch_2_3():
    given = sinch.signature("s3cret", '{"a":"ạ"}'.encode(), "nonce", "1700000000")
    assert given == "5W+AeN4OYaWP1zlX2stX6JXFxzOLpmWr5AQJ8U28eu8="


def test_line_bot_sdk_3_27():
    body = '{"events":[{"type":"delivery","text":"chào 👋"}]}'
    assert line.signature("s3cret", body.encode()) == "6nw/5M/C0OftMHfT8qF0L4D5SvAIZFmwbK3C8QtklFY="


def test_telnyx_4_189():
    key = "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
    signature = "nPCEBDTE+IT0sB6iQ/7qiDLm4GlZfdNRAN0nD8lU78xKCBb3BxFs9OuukCFgWK3csXiSuExUaXOkoDxsViIDDA=="
    body = '{"data":{"event_type":"message.received","payload":{"text":"chào"}}}'
    settings = telnyx.parse("te", "telnyx://:key@api.telnyx.com", {"public_key": key})
    headers = {"telnyx-timestamp": "1700000000", "telnyx-signature-ed25519": signature}
    assert telnyx._is_signed(settings.public_key, headers, body.encode(), 1_700_000_100)
    assert not telnyx._is_signed(settings.public_key, headers, body.encode() + b" ", 1_700_000_100)
    assert not telnyx._is_signed(settings.public_key, headers, body.encode(), 1_700_000_301)


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (
            "",
            "SignedHeaders=content-type;host;x-amz-date;x-amz-target, "
            "Signature=c67a42408e9caae1de10f2bf13e67a1c32014252546042fc76e639808216d56a",
        ),
        (
            "t0ken",
            "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, "
            "Signature=332039ebbb42f9986a734a8344c191396d2e13fcaf2f13809dc77f2c2d045f0f",
        ),
    ],
)
def test_botocore_1_44_8(token, expected, submission):
    """The whole request, as botocore signs it."""
    url = "aws://AKIDEXAMPLE:s3cr%2Fet%2BKey@sms-voice.eu-central-1.amazonaws.com"
    settings = aws.parse("a", url, {"configuration_set": "texts", "session_token": token})
    text = submission(sender="12345", text="Chào 👋")
    asked = aws.request(settings, text, clock=lambda: 1_700_000_000)
    assert msgspec.json.decode(asked.body)["MessageBody"] == "Chào 👋"
    credential = "Credential=AKIDEXAMPLE/20231114/eu-central-1/sms-voice/aws4_request"
    assert asked.headers["Authorization"] == f"AWS4-HMAC-SHA256 {credential}, {expected}"


def test_tencentcloud_sdk_python_3_1():
    body = '{"PhoneNumberSet":["+8613711112222"],"TemplateParamSet":["chào 1234"]}'.encode()
    given = tencent.authorization(("id", "s3cret"), "sms", "sms.tencentcloudapi.com", body, 1_700_000_000)
    assert given.endswith("Signature=99435c7a0fdded4e076d459450d31d0a5190f93ad9ab4ba8c335e59671c8bb3a")


def test_alibabacloud_tea_openapi_0_4_6(submission):
    """The whole request, as Alibaba's library signs it."""
    settings = {"template": "SMS_1", "sign_name": "阿里云"}
    gateway = alibaba.parse("al", "alibaba://AKID:s3cret@dysmsapi.aliyuncs.com", settings)
    text = submission("m-1", to="+84912345678", text="Chào & 50% = *~+/ 你好 👋")
    asked = alibaba.request(gateway, text, lambda: 1_700_000_000, lambda: "n-1")
    signed = "host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version"
    assert asked.headers["Authorization"] == (
        f"ACS3-HMAC-SHA256 Credential=AKID,SignedHeaders={signed},"
        "Signature=72b7c8a4b919da9d692bf7a5c415e86bbaf3821c6950cecd6950a017add8ffeb"
    )


def test_messagebird_sdk_0_106_0():
    body = (
        '{"type":"sms.received","timestamp":"2026-05-21T12:00:00Z","data":{"sms_id":"sms_01krdgeqcxet5s7t44vh8rt9mg",'
        '"workspace_id":"ws_01krdgeqcxet5s7t44vh8rt9mg","to":"+12025550199","from":"+12025550101","text":"chào 👋",'
        '"tags":null,"metadata":null,"requested_language":null,"resolved_language":null,"template_id":null,'
        '"template_version_id":null,"template_content_hash":null,'
        '"segments":{"count":1,"encoding":"UCS2","characters":6}}}'
    ).encode()
    settings = {"signing_secret": "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}
    gateway = bird.parse("b", "bird://:k@us1.platform.bird.com", settings)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": "1700000000",
        "webhook-signature": "v1,uwQaxWr3PKXQHFcXhIC38VExRZ7Ka33VqR0g0J3vhX4=",
    }
    (text,) = bird.receive(gateway, "POST", "https://v.example", headers, body, lambda: 1_700_000_100)
    assert text == Inbound("+12025550101", "12025550199", "chào 👋", "sms_01krdgeqcxet5s7t44vh8rt9mg")
