"""Requests as the providers' own Python libraries make them: caught once on loopback, from the releases named here.

`theirs` is the body without what a library adds of itself (Plivo's `log`, Telnyx' `use_profile_webhooks`); where ours
differs on purpose, `ours` says how.
"""

from __future__ import annotations

import importlib
from urllib.parse import urlsplit

import msgspec
import pytest

from gateways.provider import form_fields

TEXT = "Chào & 50% 👋"
NUMBER, NAME, CALLBACK = "12025550100", "Volley", "https://v.example.org/v1/callbacks/g"
PUBLIC = {"callback_url": "https://v.example.org"}
ACCOUNT = "AC" + "0" * 32

# name of the library and its release: URL, settings, submission, path, body, what ours has otherwise
REQUESTS = {
    "twilio 9.13.0": (
        f"twilio://{ACCOUNT}:tok@api.twilio.com",
        PUBLIC,
        {"sender": NUMBER, "validity_s": 60},
        f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json",
        {
            "To": "+12025550101",
            "StatusCallback": CALLBACK,
            "ValidityPeriod": "60",
            "SmartEncoded": "false",
            "From": "+12025550100",
            "Body": TEXT,
        },
        {},
    ),
    "vonage-sms 1.2.0": (
        "vonage://abcd1234:sec@rest.nexmo.com",
        {**PUBLIC, "signature_secret": "s", "signature": "sha256"},
        {"sender": NAME, "validity_s": 60},
        "/sms/json",
        {
            "to": "12025550101",
            "from": NAME,
            "text": TEXT,
            "client-ref": "id-1",
            "type": "unicode",
            "ttl": "60000",
            "callback": CALLBACK,
        },
        {
            "api_key": "abcd1234",
            "api_secret": "sec",
            "status-report-req": "1",
        },  # theirs: in a header; by default
    ),
    "infobip-api-python-client 6.0.0": (
        "infobip://:key@h.api.infobip.com",
        {**PUBLIC, "token": "t"},
        {"sender": NAME, "validity_s": 300},
        "/sms/3/messages",
        {
            "messages": [
                {
                    "sender": NAME,
                    "destinations": [{"to": "12025550101"}],
                    "content": {"text": TEXT},
                    "options": {"validityPeriod": {"amount": 5, "timeUnit": "MINUTES"}},
                    "webhooks": {
                        "delivery": {"url": f"{CALLBACK}?token=t"},
                        "contentType": "application/json",
                        "callbackData": "id-1",
                    },
                }
            ]
        },
        {},
    ),
    "sinch 2.3.0": (
        "sinch://plan:tok@us.sms.api.sinch.com",
        {**PUBLIC, "webhook_secret": "s"},
        {"sender": NUMBER},
        "/xms/v1/plan/batches",
        {
            "to": ["+12025550101"],
            "from": NUMBER,
            "body": TEXT,
            "type": "mt_text",
            "delivery_report": "per_recipient",
            "callback_url": CALLBACK,
            "client_reference": "id-1",
        },
        {"to": ["12025550101"], "delivery_report": "per_recipient_final"},
    ),
    "plivo 4.63.0": (
        "plivo://MA1:tok@api.plivo.com",
        PUBLIC,
        {"sender": NUMBER, "validity_s": 60},
        "/v1/Account/MA1/Message/",
        {
            "dst": "12025550101",
            "text": TEXT,
            "src": NUMBER,
            "type": "sms",
            "url": CALLBACK,
            "method": "POST",
            "message_expiry": 60,
        },
        {},
    ),
    "telnyx 4.189.0": (
        "telnyx://:key@api.telnyx.com",
        {**PUBLIC, "public_key": "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="},
        {"sender": NUMBER},
        "/v2/messages",
        {
            "to": "+12025550101",
            "from": "+12025550100",
            "text": TEXT,
            "type": "SMS",
            "webhook_url": CALLBACK,
        },
        {"encoding": "ucs2"},  # theirs: auto by default
    ),
    "messagebird-sdk 0.106.0": (
        "bird://:bk_us1_x@us1.platform.bird.com",
        {},
        {"sender": NUMBER, "category": "otp"},
        "/v1/sms/messages",
        {
            "to": "+12025550101",
            "from": "+12025550100",
            "text": TEXT,
            "category": "authentication",
            "metadata": {"message_id": "id-1"},
            "options": {"smart_encoding": False},
        },
        {},
    ),
    "messagebird 2.2.0": (
        "messagebird://:key@rest.messagebird.com",
        {**PUBLIC, "signing_key": "s"},
        {"sender": NAME, "validity_s": 60},
        "/messages",
        {
            "datacoding": "unicode",
            "reference": "id-1",
            "validity": 60,
            "reportUrl": CALLBACK,
            "originator": NAME,
            "body": TEXT,
            "recipients": "12025550101",
        },
        {"recipients": ["12025550101"]},
    ),
    "africastalking 2.0.3": (
        "africastalking://user:key@api.africastalking.com",
        {},
        {"to": "+254711111111", "sender": NAME},
        "/version1/messaging",
        {
            "username": "user",
            "to": "+254711111111",
            "message": TEXT,
            "bulkSMSMode": "1",
            "from": NAME,
            "enqueue": "1",
        },
        {},
    ),
    "tencentcloud-sdk-python-sms 3.1.153": (
        "tencent://id:s3cret@sms.tencentcloudapi.com",
        {"sdk_app_id": "1400", "sign_name": NAME, "template": "1"},
        {"to": "+8613711112222", "sender": ""},
        "/",
        {
            "PhoneNumberSet": ["+8613711112222"],
            "SmsSdkAppId": "1400",
            "TemplateId": "1",
            "SignName": NAME,
            "TemplateParamSet": [TEXT],
            "SessionContext": "id-1",
        },
        {},
    ),
}


@pytest.mark.parametrize("library", REQUESTS)
def test_a_request_is_that_of_the_providers_library(library, submission):
    url, settings, fields, path, theirs, ours = REQUESTS[library]
    provider = importlib.import_module(f"gateways.{url.partition(':')[0]}")
    text = submission("id-1", text=TEXT, encoding="ucs2", **fields)
    asked = provider.request(provider.parse("g", url, settings), text)
    form = "form" in asked.headers["Content-Type"]
    body = dict(form_fields(asked.body)) if form else msgspec.json.decode(asked.body)
    assert (asked.method, urlsplit(asked.url).path) == ("POST", path)
    assert body == theirs | ours
