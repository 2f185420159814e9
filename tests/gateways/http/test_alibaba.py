"""Alibaba: a table of answers, what is asked, callbacks, and the signature of Alibaba's documentation."""

from __future__ import annotations

import hashlib
import json

import pytest

from gateways import alibaba, http, provider
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown

URL = "alibaba://AKID:s3cret@dysmsapi.aliyuncs.com"
BASE = {
    "template": "SMS_1",
    "templates": {"SMS_2": "您的验证码是${code}。"},
    "sign_name": "阿里云",
}
CALLED = BASE | {"callback_url": "https://volley.example.org", "token": "t0ken/1"}
PLAIN = "https://volley.example.org/v1/callbacks/al"
CALLBACK = PLAIN + "?token=t0ken%2F1"


def parsed(url=URL, **settings):
    return alibaba.parse("al", url, BASE | settings)


@pytest.mark.parametrize(
    ("text", "template", "param"),
    [
        ("您的验证码是1234。", "SMS_2", {"code": "1234"}),
        ("【阿里云】您的验证码是1234。", "SMS_2", {"code": "1234"}),  # Alibaba puts it there itself
        ('50% & "more" 👋', "SMS_1", {"content": '50% & "more" 👋'}),
    ],
)
def test_request(text, template, param, submission):
    asked = alibaba.request(
        parsed(), submission("m-1", to="+8613800138000", text=text), lambda: 1_700_000_000, lambda: "n-1"
    )
    address, _, query = asked.url.partition("?")
    assert (asked.method, address, asked.body) == ("POST", "https://dysmsapi.aliyuncs.com/", b"")
    got = dict(provider.form_fields(query))
    assert json.loads(got.pop("TemplateParam")) == param
    assert got == {
        "OutId": "m-1",
        "PhoneNumbers": "8613800138000",
        "SignName": "阿里云",
        "TemplateCode": template,
    }
    headers = dict(asked.headers)
    given = headers.pop("Authorization")
    assert headers.pop("Accept") == "application/json"
    assert headers == {
        "host": "dysmsapi.aliyuncs.com",
        "x-acs-action": "SendSms",
        "x-acs-content-sha256": hashlib.sha256(b"").hexdigest(),
        "x-acs-date": "2023-11-14T22:13:20Z",
        "x-acs-signature-nonce": "n-1",
        "x-acs-version": "2017-05-25",
    }
    assert given == alibaba.authorization(("AKID", "s3cret"), query, headers)


def test_each_request_has_its_own_nonce_and_the_sender_may_be_the_signature(submission):
    asked = [alibaba.request(parsed(sign_name=""), submission(sender="ACME")) for _ in range(2)]
    assert all("SignName=ACME" in one.url for one in asked)
    assert len({one.headers["x-acs-signature-nonce"] for one in asked}) == 2


def test_signature_of_the_documentation():
    """In "V3 request structure and signature", the example of ECS."""
    query = alibaba.canonical_query(
        {"RegionId": "cn-shanghai", "ImageId": "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd"}
    )
    headers = {
        "host": "ecs.cn-shanghai.aliyuncs.com",
        "x-acs-action": "RunInstances",
        "x-acs-content-sha256": hashlib.sha256(b"").hexdigest(),
        "x-acs-date": "2023-10-26T10:22:32Z",
        "x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d",
        "x-acs-version": "2014-05-26",
    }
    given = alibaba.authorization(("YourAccessKeyId", "YourAccessKeySecret"), query, headers)
    assert given.endswith("Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0")


def answer(code, **more):
    return {"Code": code, "Message": "x", "RequestId": "r"} | more


ANSWERS = {
    "accepted": (200, answer("OK", BizId="9^0"), Accepted("9^0")),
    "accepted without id": (200, answer("OK"), Unknown("bad_answer", "no BizId")),
    "OK, but not 200": (400, answer("OK", BizId="9^0"), Unknown("bad_answer", "no BizId")),
    "number": (
        200,
        answer("isv.MOBILE_NUMBER_ILLEGAL"),
        Rejected("invalid_number", "isv.MOBILE_NUMBER_ILLEGAL"),
    ),
    "template": (
        200,
        answer("isv.SMS_TEMPLATE_ILLEGAL"),
        Rejected("content_rejected", "isv.SMS_TEMPLATE_ILLEGAL"),
    ),
    "no credit": (200, answer("isv.AMOUNT_NOT_ENOUGH"), Rejected("no_credit", "isv.AMOUNT_NOT_ENOUGH")),
    "too often": (
        200,
        answer("isv.BUSINESS_LIMIT_CONTROL"),
        Retry("throttled", "isv.BUSINESS_LIMIT_CONTROL"),
    ),
    "wrong secret": (400, answer("SignatureDoesNotMatch"), Retry("gateway_error", "SignatureDoesNotMatch")),
    "throttled": (400, answer("Throttling.User"), Retry("throttled", "Throttling.User")),
    "system error": (200, answer("isp.SYSTEM_ERROR"), Unknown("server_error", "isp.SYSTEM_ERROR")),
    "the same request twice": (
        400,
        answer("SignatureNonceUsed"),
        Unknown("server_error", "SignatureNonceUsed"),
    ),
    "a code we don't know": (200, answer("isv.ODD"), Rejected("rejected", "isv.ODD")),
    "an unknown code with 400": (400, answer("Odd"), Rejected("rejected", "HTTP 400 Odd")),
    "no code": (403, {}, Retry("gateway_error", "HTTP 403")),
    "a known code in a server error": (
        503,
        answer("Throttling"),
        Unknown("server_error", "HTTP 503 Throttling"),
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_outcome(case):
    status, body, expected = ANSWERS[case]
    assert alibaba.outcome(parsed(), status, {}, json.dumps(body).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[" * 30_000, b'{"Code": 1}', b"\xff"])
def test_an_answer_that_makes_no_sense(body):
    assert alibaba.outcome(parsed(), 200, {}, body) == Unknown("bad_answer", "HTTP 200")


def test_no_code_is_in_two_tables():
    codes = [*alibaba.REJECTIONS, *alibaba.RETRIES, *alibaba.DOUBTFUL]
    assert len(codes) == len(set(codes))


REPORT = {
    "phone_number": "85261234567",
    "send_time": "2023-11-15 06:13:20",
    "report_time": "2023-11-15 06:13:21",
    "success": True,
    "err_code": "DELIVERED",
    "err_msg": "x",
    "sms_size": "1",
    "biz_id": "9^0",
    "out_id": "m-1",
}
INBOUND = {
    "phone_number": "13800138000",
    "send_time": "2023-11-15 06:13:20",
    "content": "退订",
    "sign_name": "阿里云",
    "dest_code": "1234",
    "sequence_id": 77,
}


def call(events, *, url=CALLBACK, settings=CALLED):
    body = events if isinstance(events, bytes) else json.dumps(events).encode()
    return http.receive("al", URL, settings, "POST", url, {}, body)


def test_reports_and_texts_in_one_call():
    failed = REPORT | {"success": False, "err_code": "MK:0001", "phone_number": "13800138000"}
    receipts, inbound, reply = call([REPORT, failed, INBOUND])
    times = {"submitted_at": 1_700_000_000.0, "done_at": 1_700_000_001.0}
    assert receipts == [
        Receipt("9^0", "delivered", "success", to="85261234567", **times),
        Receipt("9^0", "undelivered", "failure", "MK:0001", **times),
    ]
    assert inbound == [Inbound("+8613800138000", "1234", "退订", "77")]
    assert (reply.status, json.loads(reply.body)["code"]) == (200, 0)


@pytest.mark.parametrize("query", ["", "?token=", "?token=t0ken", "?Token=t0ken%2F1"])
def test_a_stranger_gets_403(query):
    assert call([REPORT], url=PLAIN + query) == ([], [], http.HttpReply(403))
    assert call([REPORT], url=PLAIN + query, settings=BASE)[2].status == 403


@pytest.mark.parametrize(
    "events", [b"", b"{}", b"[" * 30_000, b"\xff", [{}], [{"phone_number": "1"}], [REPORT | {"biz_id": ""}]]
)
def test_unreadable_calls_give_400(events):
    assert call(events)[2].status == 400


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("alibaba://dysmsapi.aliyuncs.com", {}, "url: needs ACCESS_KEY_ID"),
        (URL, {"callback_url": "https://v.example"}, "token: is needed"),
        (URL, {"template": ""}, "template: is needed"),
        (URL, {"templates": {"SMS_3": "${a}${b}"}}, "templates.SMS_3: has placeholders side by side"),
    ],
)
def test_wrong_settings(url, settings, problem):
    with pytest.raises(ValueError, match=r"^gateway al: ") as error:
        alibaba.parse("al", url, BASE | settings)
    assert problem in str(error.value)
    assert "s3cret" not in str(error.value) + repr(parsed(**CALLED))


async def test_a_text_through_a_real_server(wire, sink, submission):
    async def behave(peer, seen):
        await peer.answer(200, json.dumps(answer("OK", BizId="9^0")).encode())

    server = await wire(behave)
    url = f"alibaba+http://AKID:s3cret@127.0.0.1:{server.port}?allow_private=true"
    gateway = alibaba.build("al", url, CALLED, sink)
    await gateway.open(1)
    assert gateway.take(2) == 2
    gateway.submit([submission(segments=2)])
    assert await sink.outcomes_of(2) == [Accepted("9^0")] * 2
    await gateway.close(1)
    query = server.requests[0].target.partition("?")[2]
    assert dict(provider.form_fields(query))["TemplateCode"] == "SMS_1"
