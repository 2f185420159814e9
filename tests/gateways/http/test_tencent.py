"""Tencent: a table of answers, what is asked, callbacks, and the signature of Tencent's documentation."""

from __future__ import annotations

import hashlib
import json

import pytest

from gateways import http, tencent
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown

URL = "tencent://AKID:s3cret@sms.tencentcloudapi.com"
BASE = {
    "sdk_app_id": "1400006666",
    "template": "1110",
    "templates": {"2220": "您的验证码是{1},{2}分钟内有效。"},
    "sign_name": "腾讯云",
}
CALLED = BASE | {"callback_url": "https://volley.example.org", "token": "t0ken/1"}
PLAIN = "https://volley.example.org/v1/callbacks/tc"
CALLBACK = PLAIN + "?token=t0ken%2F1"


def parsed(url=URL, **settings):
    return tencent.parse("tc", url, BASE | settings)


@pytest.mark.parametrize(
    ("text", "template", "values"),
    [
        ("您的验证码是1234,5分钟内有效。", "2220", ["1234", "5"]),
        ("【腾讯云】您的验证码是1234,5分钟内有效。", "2220", ["1234", "5"]),  # Tencent puts it there
        ('50% & "more" 👋', "1110", ['50% & "more" 👋']),
    ],
)
def test_request(text, template, values, submission):
    sent = submission("m-1", to="+8613800138000", sender="", text=text)
    asked = tencent.request(parsed(), sent, lambda: 1_700_000_000.9)
    assert (asked.method, asked.url) == ("POST", "https://sms.tencentcloudapi.com/")
    headers = dict(asked.headers)
    given = headers.pop("Authorization")
    assert headers == {
        "Content-Type": "application/json; charset=utf-8",
        "Host": "sms.tencentcloudapi.com",
        "X-TC-Action": "SendSms",
        "X-TC-Version": "2021-01-11",
        "X-TC-Timestamp": "1700000000",
        "X-TC-Region": "ap-guangzhou",
    }
    assert json.loads(asked.body) == {
        "PhoneNumberSet": ["+8613800138000"],
        "SmsSdkAppId": "1400006666",
        "TemplateId": template,
        "TemplateParamSet": values,
        "SessionContext": "m-1",
        "SignName": "腾讯云",
    }
    assert given == tencent.authorization(
        ("AKID", "s3cret"), "sms", "sms.tencentcloudapi.com", asked.body, 1_700_000_000
    )


def test_an_international_text_has_a_sender(submission):
    asked = tencent.request(parsed(sign_name="", region="ap-singapore"), submission(sender="ACME"))
    body = json.loads(asked.body)
    assert (body["SenderId"], "SignName" in body) == ("ACME", False)
    assert asked.headers["X-TC-Region"] == "ap-singapore"


def test_signature_of_the_documentation():
    body = rb'{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}'
    host = "cvm.tencentcloudapi.com"
    assert hashlib.sha256(tencent.canonical_request(host, body).encode()).hexdigest() == (
        "5ffe6a04c0664d6b969fab9a13bdab201d63ee709638e2749d62a09ca18d7031"
    )
    credentials = ("AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE", "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE")
    assert tencent.authorization(credentials, "cvm", host, body, 1551113065) == (
        "TC3-HMAC-SHA256 Credential=AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE/2019-02-25/cvm/tc3_request, "
        "SignedHeaders=content-type;host, "
        "Signature=72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168"
    )


def status(code, serial="5000:1"):
    return {"Response": {"SendStatusSet": [{"SerialNo": serial, "Code": code, "Fee": 1}], "RequestId": "r"}}


def error(code):
    return {"Response": {"Error": {"Code": code, "Message": "x"}, "RequestId": "r"}}


ANSWERS = {
    "accepted": (200, status("Ok"), Accepted("5000:1")),
    "accepted without id": (200, status("Ok", ""), Unknown("bad_answer", "no SerialNo")),
    "number": (
        200,
        status("InvalidParameterValue.IncorrectPhoneNumber", ""),
        Rejected("invalid_number", "InvalidParameterValue.IncorrectPhoneNumber"),
    ),
    "opted out": (
        200,
        status("FailedOperation.PhoneNumberInBlacklist"),
        Rejected("opted_out", "FailedOperation.PhoneNumberInBlacklist"),
    ),
    "template": (
        200,
        error("FailedOperation.TemplateUnapprovedOrNotExist"),
        Rejected("content_rejected", "FailedOperation.TemplateUnapprovedOrNotExist"),
    ),
    "too often": (
        200,
        status("LimitExceeded.PhoneNumberThirtySecondLimit"),
        Retry("throttled", "LimitExceeded.PhoneNumberThirtySecondLimit"),
    ),
    "country on the list": (
        200,
        status("LimitExceeded.AppCountryOrRegionInBlacklist"),
        Rejected("region_blocked", "LimitExceeded.AppCountryOrRegionInBlacklist"),
    ),
    "throttled": (200, error("RequestLimitExceeded"), Retry("throttled", "RequestLimitExceeded")),
    "wrong secret": (
        200,
        error("AuthFailure.SignatureFailure"),
        Retry("gateway_error", "AuthFailure.SignatureFailure"),
    ),
    "time-out inside": (
        200,
        status("InternalError.Timeout"),
        Unknown("server_error", "InternalError.Timeout"),
    ),
    "a code we don't know": (200, status("Odd.Odd"), Rejected("rejected", "Odd.Odd")),
    "no code": (200, status(""), Unknown("server_error")),
    "no status": (200, {"Response": {}}, Unknown("bad_answer", "not one status")),
    "a server error": (502, status("Ok"), Unknown("server_error", "HTTP 502")),
    "forbidden": (403, {}, Retry("gateway_error", "HTTP 403")),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    code, body, expected = ANSWERS[case]
    assert tencent.outcome(parsed(), code, {}, json.dumps(body).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[" * 30_000, b'{"Response": 1}', b"\xff"])
def test_an_answer_that_makes_no_sense(body):
    assert tencent.outcome(parsed(), 200, {}, body) == Unknown("bad_answer", "HTTP 200")


def test_no_code_is_in_both_tables():
    assert not set(tencent.REJECTIONS) & set(tencent.RETRIES)


REPORT = {
    "user_receive_time": "2023-11-15 06:13:20",
    "nationcode": "86",
    "mobile": "13800138000",
    "report_status": "SUCCESS",
    "errmsg": "DELIVRD",
    "description": "x",
    "sid": "5000:1",
}
REPLY = {"extend": "01", "mobile": "13800138000", "nationcode": "86", "text": "退订", "time": 1457336869}


def call(event, *, url=CALLBACK, settings=CALLED):
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    return http.receive("tc", URL, settings, "POST", url, {}, body)


@pytest.mark.parametrize(
    ("status", "error", "state"),
    [
        ("SUCCESS", "DELIVRD", "delivered"),
        ("FAIL", "UNDELIV", "undelivered"),
        ("FAIL", "EXPIRED", "expired"),
        ("FAIL", "REJECTD", "rejected"),
        ("FAIL", "MK:0001", "undelivered"),
        ("ODD", "EXPIRED", "unknown"),
    ],
)
def test_reports(status, error, state):
    receipts, inbound, answer = call([REPORT, REPORT | {"report_status": status, "errmsg": error}])
    code = "" if status == "SUCCESS" else error
    assert receipts[1] == Receipt("5000:1", state, status, code, to="8613800138000", done_at=1_700_000_000.0)
    assert (len(receipts), inbound, json.loads(answer.body)["result"]) == (2, [], 0)


def test_reply():
    receipts, inbound, answer = call(REPLY)
    assert inbound == [Inbound("+8613800138000", "01", "退订")]
    assert (receipts, answer.status) == ([], 200)
    assert call([REPORT | {"mobile": "+8613800138000"}])[0][0].to == "8613800138000"


@pytest.mark.parametrize("query", ["", "?token=", "?token=t0ken", "?Token=t0ken%2F1"])
def test_a_stranger_gets_403(query):
    assert call([REPORT], url=PLAIN + query) == ([], [], http.HttpReply(403))
    assert call([REPORT], url=PLAIN + query, settings=BASE)[2].status == 403


@pytest.mark.parametrize("event", [b"", b"{}", b"[" * 30_000, b"\xff", [{}], {"mobile": "1"}, [1]])
def test_unreadable_calls_give_400(event):
    assert call(event)[2].status == 400


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("tencent://sms.tencentcloudapi.com", {}, "url: needs SECRET_ID"),
        (URL, {"sdk_app_id": ""}, "sdk_app_id: is needed"),
        (URL, {"callback_url": "https://v.example"}, "token: is needed"),
        (URL, {"template": ""}, "template: is needed"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway tc: ") as error:
        tencent.parse("tc", url, BASE | settings)
    assert problem in str(error.value)
    assert "s3cret" not in str(error.value) + repr(parsed(**CALLED))


async def test_a_text_through_a_real_server(wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(200, json.dumps(status("Ok")).encode())

    server = await wire(behave)
    url = f"tencent+http://AKID:s3cret@127.0.0.1:{server.port}?allow_private=true"
    gateway = tencent.build("tc", url, CALLED, sink)
    await gateway.open(1)
    assert gateway.take(2) == 2
    gateway.submit([submission(segments=2)])
    assert await sink.outcomes_of(2) == [Accepted("5000:1")] * 2
    await gateway.close(1)
    assert server.requests[0].headers["host"] == f"127.0.0.1:{server.port}"
