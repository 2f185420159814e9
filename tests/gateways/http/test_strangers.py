"""Whatever a stranger sends to a callback: no provider's reader raises, and nothing gets through unsigned.

With a right signature, too: a provider's own values may be odd, and one odd value is no reason for a 500.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib
import json
import math
import pkgutil
import time
from urllib.parse import quote, urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gateways
from gateways import bird, http, line, plivo, sinch, twilio, vonage, zns

PUBLIC = {"callback_url": "https://v.example.org"}
URL = "https://v.example.org/v1/callbacks/g"
ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ED25519_PUBLIC = base64.b64encode(ED25519.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
ACCOUNT = "AC" + "0" * 32
TEMPLATE = {"template": "1"}
TOPIC = "arn:aws:sns:eu-west-1:123456789012:texts"


def _jwt(url, body):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    now = time.time()
    claims = {"iss": "MessageBird", "nbf": now - 1, "exp": now + 60}
    claims |= {"url_hash": hashlib.sha256(url.encode()).hexdigest()}
    claims |= {"payload_hash": hashlib.sha256(body).hexdigest()} if body else {}
    signed = f"{part({'alg': 'HS256'})}.{part(claims)}"
    digest = hmac.digest(b"s", signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def _telnyx(body):
    now = str(int(time.time()))
    given = base64.b64encode(ED25519.sign(f"{now}|".encode() + body)).decode()
    return {"telnyx-timestamp": now, "telnyx-signature-ed25519": given}


def _bird(body):
    now = str(int(time.time()))
    given = f"v1,{bird.signature(b's', 'm', now, body)}"
    return {"webhook-id": "m", "webhook-timestamp": now, "webhook-signature": given}


def _sinch(body):
    header = "x-sinch-webhook-signature"
    return {header: sinch.signature("s", body, "n", "1"), f"{header}-nonce": "n", f"{header}-timestamp": "1"}


def _zns(body):
    try:
        stamp = str(json.loads(body).get("timestamp", ""))
    except (ValueError, AttributeError):
        stamp = ""
    return {"x-zevent-signature": f"mac={zns.signature('1', 's', body, stamp)}"}


# scheme: its URL and settings, and how a call is signed: (fields, body) to headers; fields are those of a form
KINDS = {
    "twilio": (
        f"twilio://{ACCOUNT}:s@h.example",
        {},
        lambda fields, _: {"x-twilio-signature": twilio.signature("s", URL, fields)},
    ),
    "vonage": ("vonage://k:s@h.example", {"signature_secret": "s", "signature": "sha256"}, None),
    "plivo": (
        "plivo://MA:s@h.example",
        {},
        lambda fields, _: {
            "x-plivo-signature-v3": plivo.signature_v3("s", URL, fields, "n"),
            "x-plivo-signature-v3-nonce": "n",
        },
    ),
    "sinch": ("sinch://p:t@h.example", {"webhook_secret": "s"}, lambda _, body: _sinch(body)),
    "telnyx": ("telnyx://:k@h.example", {"public_key": ED25519_PUBLIC}, lambda _, body: _telnyx(body)),
    "bird": ("bird://:k@h.example", {"signing_secret": "cw=="}, lambda _, body: _bird(body)),
    "messagebird": (
        "messagebird://:k@h.example",
        {"signing_key": "s"},
        lambda _, body: {"messagebird-signature-jwt": _jwt(URL, body)},
    ),
    "line": (
        "line://:k@h.example",
        {"channel_secret": "s"},
        lambda _, body: {"x-line-signature": line.signature("s", body)},
    ),
    "zns": ("zns://:k@h.example", TEMPLATE | {"app_id": "1", "oa_secret": "s"}, lambda _, body: _zns(body)),
    "infobip": ("infobip://:k@h.example", {"token": "t"}, None),
    "aws": ("aws://k:s@sms-voice.eu-west-1.amazonaws.com", {"token": "t", "topics": f"{TOPIC},"}, None),
    "africastalking": ("africastalking://u:k@h.example", {"token": "t"}, None),
    "alibaba": ("alibaba://k:s@h.example", TEMPLATE | {"token": "t"}, None),
    "tencent": ("tencent://k:s@h.example", TEMPLATE | {"token": "t", "sdk_app_id": "1"}, None),
    "esms": ("esms://k:s@h.example", {"token": "t"}, None),
    "speedsms": ("speedsms://k:x@h.example", {"token": "t"}, None),
    "kannel": ("kannel://u:p@h.example", {"token": "t"}, None),
    "jasmin": ("kannel://u:p@h.example", {"token": "t", "flavour": "jasmin"}, None),
    "generic": (
        "generic://u:p@h.example/send",
        {
            "request": {"body": {"to": "{to}"}},
            "response": {"accepted": {"id": "/id"}},
            "receipt": {
                "format": "json",
                "list": "/results",
                "id": "/id",
                "state": "/status",
                "done_at": "/timestamp",
                "states": {"1": "delivered"},
            },
            "inbound": {"format": "json", "sender": "/from", "to": "/to", "text": "/text", "id": "/id"},
            "callback": {"token": {"query": "token", "value": "t"}},
        },
        None,
    ),
}
# Names that some provider's callback has.
NAMES = """
    MessageSid MessageStatus SmsStatus ErrorCode From To Body messageId status text msisdn to err-code scts
    MessageUUID Status Text type batch_id code recipient at operator_status_at statuses recipients id from
    body data event_type payload phone_number errors sent_at completed_at originator statusDatetime
    statusErrorCode events timestamp delivery event_name message msg_id delivery_time results sentAt doneAt
    groupId name error detail Message eventType messageStatus eventTimestamp messageRequestTimestamp
    originationPhoneNumber destinationPhoneNumber inboundMessageId originationNumber messageBody phoneNumber
    failureReason biz_id success err_code report_time send_time content dest_code sequence_id sid
    report_status nationcode mobile errmsg user_receive_time extend SMSID SendStatus SendSuccess SendFailed
    phonenumber phone tranId state reply in message_status err donedate coding binary token sig charset
    Type MessageId TopicArn Timestamp Signature SignatureVersion SigningCertURL SubscribeURL Token
""".split()  # noqa: SIM905
WORDS = [
    "0",
    "1",
    "5",
    "delivered",
    "DELIVRD",
    "sms",
    "report",
    "mo_text",
    "message.received",
    "message.sent",
]
WORDS += ["TEXT_DELIVERED", "user_received_message", "SUCCESS", "9" * 5000, "-1", "1e999", "nan", "²", "\x00"]
WORDS += ["2024-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31 23:59:59", "00000000000000", "%ff"]
WORD = st.sampled_from(WORDS) | st.text(max_size=8)
LEAF = WORD | st.integers() | st.floats() | st.booleans() | st.none() | st.just(10**400)
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)
DOCUMENT = st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=12) | st.lists(
    st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=8), max_size=3
)
FORM = st.dictionaries(st.sampled_from(NAMES), WORD, max_size=12)
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def readers():
    return {kind: http.receiver("g", url, PUBLIC | given) for kind, (url, given, _) in KINDS.items()}


def well_made(received):
    receipts, texts, reply = received
    assert reply.status in (200, 204, 400, 403)
    assert reply.status < 400 or not (receipts or texts)
    for receipt in receipts:
        assert all(at is None or math.isfinite(at) for at in (receipt.done_at, receipt.submitted_at))
        assert len(receipt.gateway_message_id) <= 255
    for text in texts:
        assert "\x00" not in text.text + text.sender + text.to + text.gateway_message_id
    return reply.status


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(document=DOCUMENT, form=FORM, noise=st.binary(max_size=60))
def test_with_a_right_signature(readers, kind, document, form, noise):
    read, sign = readers[kind], KINDS[kind][2]
    body = json.dumps(document).encode("utf-8", "surrogatepass")
    encoded = urlencode(form, errors="surrogatepass").encode()
    fields = list(form.items())
    if sign is None:
        url = f"{URL}?token=t"
        signed = signed_form = {}
        if kind == "vonage":
            form = {
                **form,
                "sig": vonage.signature("s", "sha256", {k: v for k, v in form.items() if k != "sig"}),
            }
            encoded = urlencode(form, errors="surrogatepass").encode()
    else:
        url, signed, signed_form = URL, sign([], body), sign(fields, encoded)
    well_made(read("POST", url, JSON | signed, body))
    well_made(read("POST", url, signed_form, encoded))
    well_made(read("GET", f"{url}{'&' if '?' in url else '?'}{encoded.decode()}", signed, b""))
    well_made(read("POST", url, signed | JSON, noise))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(
    body=st.binary(max_size=60)
    | DOCUMENT.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    query=st.text(max_size=20) | st.just("token=") | st.just("token=T") | st.just("sig=&token=t%00"),
    value=st.text(max_size=40) | st.sampled_from(WORDS),
)
@example(body=b"", query="", value="9" * 5000)
def test_without_one_nothing_gets_through(readers, kind, body, query, value):
    guesses = {
        name: value
        for name in (
            "x-twilio-signature", "x-plivo-signature-v3", "x-plivo-signature-v2", "x-sinch-webhook-signature",
            "telnyx-timestamp", "telnyx-signature-ed25519", "messagebird-signature-jwt", "x-line-signature",
            "webhook-signature", "x-zevent-signature",
        )
    }  # fmt: skip
    for method in ("GET", "POST", "PUT", "HEAD"):
        for headers in ({}, JSON, guesses, guesses | JSON):
            url = f"{URL}?{quote(query, safe='=&%', errors='surrogatepass')}"
            assert well_made(readers[kind](method, url, headers, body)) in (400, 403)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_that_could_not_tell_who_calls_are_refused(kind):
    url, given, _ = KINDS[kind]
    secrets = {
        "signature_secret",
        "webhook_secret",
        "public_key",
        "signing_key",
        "signing_secret",
        "channel_secret",
        "oa_secret",
    }
    without = {
        name: value for name, value in given.items() if name not in secrets | {"token", "topics", "callback"}
    }
    if kind in ("twilio", "plivo"):  # signed with the password, which there is in any case
        return
    with pytest.raises(ValueError, match=r"^gateway g: "):
        http.receiver("g", url, PUBLIC | without)


def test_every_kind_that_is_called_back_is_here():
    modules = {module.name for module in pkgutil.iter_modules(gateways.__path__)}
    called = {name for name in modules if hasattr(importlib.import_module(f"gateways.{name}"), "receive")}
    assert {KINDS[kind][0].partition(":")[0] for kind in KINDS} == called - {"http"}
