"""Alibaba Cloud SMS (dysmsapi): the SendSms operation of version 2017-05-25.

    alibaba://ACCESS_KEY_ID:ACCESS_KEY_SECRET@dysmsapi.aliyuncs.com?token=…

Takes templates, not texts: see `gateways.templates` for `template`, `template_parameter` (here
`content` by default) and `templates`, written with `${name}`. Other options, beside those of every HTTP
gateway: `sign_name`, the approved signature; without it the message's sender is taken for it. A text
that begins with it in `【】` is sent without, since Alibaba puts it there itself. Segments are counted as
China's carriers bill them, 70 characters of whatever letters (`ucs2_only=false` for texts abroad).
`token`, needed when callbacks are used: Alibaba signs none, so this secret stands in the query of their URL
(keep it out of access logs). Set SmsReport and SmsUp in the console to `{callback_url}/v1/callbacks/{gateway}?token=…`.

Guarantees: pure but for clock and nonce that `request` is given; requests are signed by ACS3-HMAC-SHA256
(signature V3), fields in the query as Alibaba's own library has them; a callback is read only after its
token was checked. Our message id goes along as `OutId`, which comes back in reports but isn't used against
duplicates. No validity can be given. One BizId stands for all segments of a text.

Never run against Alibaba's service. The request is that of Alibaba's own library (compared over loopback with
alibabacloud_dysmsapi20170525 4.6.0), its signature that of alibabacloud_tea_openapi 0.4.6 and of the
documentation's example (tests). Answers, reports and inbound texts follow documentation alone.
Sources: https://help.aliyun.com/zh/sms/developer-reference/api-dysmsapi-2017-05-25-sendsms,
https://help.aliyun.com/zh/sdk/product-overview/v3-request-structure-and-signature,
https://help.aliyun.com/zh/sms/developer-reference/api-error-codes,
https://help.aliyun.com/zh/sms/developer-reference/smsreport-2,
https://help.aliyun.com/zh/sms/developer-reference/smsup-2.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Literal
from urllib.parse import quote, urlsplit

import msgspec

from gateways import templates
from gateways.base import (
    Accepted,
    Gateway,
    Inbound,
    Outcome,
    Receipt,
    Rejected,
    Retry,
    Sink,
    Submission,
    Unknown,
)
from gateways.http import HttpGateway
from gateways.provider import (
    BadCallback,
    HttpReply,
    HttpRequest,
    ProviderSettings,
    by_status,
    called_with,
    callers_token,
    check_token,
    decoded,
    digits,
    parse_dsn,
    text,
    wrong,
)

PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
NOTHING = hashlib.sha256(b"").hexdigest()  # of the body
CHINA = timezone(timedelta(hours=8))  # of the times in callbacks

# `Code` of the answer, whatever its HTTP status.
REJECTIONS: dict[str, str] = {
    "isv.AMOUNT_NOT_ENOUGH": "no_credit",
    "isv.BLACK_KEY_CONTROL_LIMIT": "content_rejected",  # a forbidden word in a value
    "isv.CUSTOMER_REFUSED": "opted_out",
    "isv.DOMESTIC_NUMBER_NOT_SUPPORTED": "no_route",
    "isv.INVALID_JSON_PARAM": "invalid_request",
    "isv.INVALID_PARAMETERS": "invalid_request",
    "isv.MOBILE_COUNT_OVER_LIMIT": "invalid_request",
    "isv.MOBILE_NUMBER_ILLEGAL": "invalid_number",
    "isv.PARAM_LENGTH_LIMIT": "content_rejected",
    "isv.PARAM_NOT_SUPPORT_URL": "content_rejected",
    "isv.PHONENUMBER_BLACKLIST": "blocked",
    "isv.SIGN_NAME_ILLEGAL": "invalid_sender",
    "isv.SMS_CONTENT_ILLEGAL": "content_rejected",
    "isv.SMS_SIGNATURE_ILLEGAL": "invalid_sender",
    "isv.SMS_SIGNATURE_SCENE_ILLEGAL": "invalid_sender",  # signature and template don't go together
    "isv.SMS_SIGN_ILLEGAL": "invalid_sender",
    "isv.SMS_TEMPLATE_ILLEGAL": "content_rejected",
    "isv.TEMPLATE_MISSING_PARAMETERS": "content_rejected",
    "isv.TEMPLATE_PARAMS_ILLEGAL": "content_rejected",
    "isv.UNSUPPORTED_CONTENT": "content_rejected",
}
RETRIES: dict[str, str] = {
    "isv.ACCOUNT_ABNORMAL": "gateway_error",
    "isv.ACCOUNT_NOT_EXISTS": "gateway_error",
    "isv.BUSINESS_LIMIT_CONTROL": "throttled",  # texts to one number: a minute's, an hour's, a day's
    "isv.DAY_LIMIT_CONTROL": "throttled",
    "isv.MONTH_LIMIT_CONTROL": "throttled",
    "isv.DENY_IP_RANGE": "gateway_error",
    "isv.OUT_OF_SERVICE": "gateway_error",  # the account is overdue
    "isv.PRODUCT_UNSUBSCRIBE": "gateway_error",
    "isv.PRODUCT_UN_SUBSCRIPT": "gateway_error",
    "isp.RAM_PERMISSION_DENY": "gateway_error",
    "InvalidAccessKeyId.NotFound": "gateway_error",
    "InvalidAccessKeyId.Inactive": "gateway_error",
    "InvalidTimeStamp.Expired": "gateway_error",  # our clock is 15 minutes off
    "SignatureDoesNotMatch": "gateway_error",
    "IncompleteSignature": "gateway_error",
    "Throttling": "throttled",
    "Throttling.User": "throttled",
    "Throttling.Api": "throttled",
}
# After these the text may go out yet. A nonce used before: the request came twice, one of them counts.
DOUBTFUL = frozenset({"isp.SYSTEM_ERROR", "isp.GATEWAY_ERROR", "isp.UNKNOWN", "SignatureNonceUsed"})


class Settings(ProviderSettings, frozen=True):
    url: str
    host: str
    templates: templates.Templates
    sign_name: str
    token: str


class _Answer(msgspec.Struct):
    code: str = msgspec.field(default="", name="Code")
    id: str = msgspec.field(default="", name="BizId")


class _Event(msgspec.Struct):
    """A report (SmsReport) or an inbound text (SmsUp)."""

    number: str = msgspec.field(name="phone_number")
    id: str = msgspec.field(default="", name="biz_id")
    success: bool | None = None
    code: str = msgspec.field(default="", name="err_code")
    reported: str = msgspec.field(default="", name="report_time")
    sent: str = msgspec.field(default="", name="send_time")
    content: str | None = None
    number_of_ours: str = msgspec.field(default="", name="dest_code")
    sequence: str | int = msgspec.field(default="", name="sequence_id")


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    keys = ("sign_name", "token", *templates.KEYS)
    dsn = parse_dsn(name, url, settings, extra=keys, ucs2_only=True)
    if not dsn.username or not dsn.password:
        raise wrong(name, "url", "needs ACCESS_KEY_ID:ACCESS_KEY_SECRET before the host")
    token = callers_token(name, dsn)
    return Settings(
        dsn=dsn,
        url=f"{dsn.base_url.rstrip('/')}/",
        host=urlsplit(dsn.base_url).netloc,
        templates=templates.parse(name, dsn.extra, PLACEHOLDER, "content"),
        sign_name=text(name, dsn.extra, "sign_name"),
        token=token,
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to Alibaba Cloud SMS. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(
    settings: Settings,
    submission: Submission,
    clock: Callable[[], float] = time.time,
    nonce: Callable[[], object] = uuid.uuid4,
) -> HttpRequest:
    sign_name = settings.sign_name or submission.sender
    template, values = settings.templates.choose(submission.text.removeprefix(f"【{sign_name}】"))
    fields = {
        "OutId": submission.message_id,
        "PhoneNumbers": digits(submission.to),
        "SignName": sign_name,
        "TemplateCode": template,
        "TemplateParam": msgspec.json.encode(dict(values)).decode(),
    }
    query = canonical_query(fields)
    headers = {
        "host": settings.host,
        "x-acs-action": "SendSms",
        "x-acs-content-sha256": NOTHING,
        "x-acs-date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock())),
        "x-acs-signature-nonce": str(nonce()),
        "x-acs-version": "2017-05-25",
    }
    headers["Authorization"] = authorization((settings.dsn.username, settings.dsn.password), query, headers)
    headers["Accept"] = "application/json"
    return HttpRequest("POST", f"{settings.url}?{query}", headers)


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """`OK` with a BizId is acceptance; other codes are looked up; without a code the status decides."""
    answer = decoded(body, _Answer)
    if answer is None:
        return by_status(status, headers)
    if status >= 500 or not answer.code:
        return by_status(status, headers, answer.code)
    if answer.code == "OK":
        accepted = status == 200 and answer.id
        return Accepted(answer.id) if accepted else Unknown("bad_answer", "no BizId")
    if answer.code in DOUBTFUL:
        return Unknown("server_error", answer.code)
    if answer.code in RETRIES:
        return Retry(RETRIES[answer.code], answer.code)
    if answer.code in REJECTIONS or status == 200:
        return Rejected(REJECTIONS.get(answer.code, "rejected"), answer.code)
    return by_status(status, headers, answer.code)


def receive(
    settings: Settings, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> list[Receipt | Inbound]:
    """Reports or inbound texts, several in one call. Raises BadSignature, BadCallback."""
    check_token(settings.token, url)
    events = called_with(body, list[_Event], "reports or inbound texts")
    return [_read(event) for event in events]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200, {"Content-Type": "application/json"}, b'{"code":0,"msg":"OK"}')


def canonical_query(fields: Mapping[str, str]) -> str:
    """The sorted fields, percent-encoded by RFC 3986."""
    return "&".join(f"{_quoted(name)}={_quoted(fields[name])}" for name in sorted(fields))


def authorization(credentials: tuple[str, str], query: str, headers: Mapping[str, str]) -> str:
    """ACS3-HMAC-SHA256 of a POST without body; every header that is given (in lower case) is signed."""
    names = sorted(headers)
    listed, lines = ";".join(names), "".join(f"{name}:{headers[name]}\n" for name in names)
    canonical = f"POST\n/\n{query}\n{lines}\n{listed}\n{headers['x-acs-content-sha256']}"
    signed = f"ACS3-HMAC-SHA256\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key, secret = credentials
    signature = hmac.digest(secret.encode(), signed.encode(), hashlib.sha256).hex()
    return f"ACS3-HMAC-SHA256 Credential={key},SignedHeaders={listed},Signature={signature}"


def _quoted(value: str) -> str:
    return quote(value, safe="-_.~")


def _read(event: _Event) -> Receipt | Inbound:
    mainland = len(event.number) == 11 and event.number.startswith("1")  # written without 86
    if event.success is None:
        if event.content is None:
            raise BadCallback("neither success nor content")
        sender = f"+86{event.number}" if mainland else f"+{digits(event.number)}"
        return Inbound(sender, event.number_of_ours, event.content, str(event.sequence))
    if not event.id:
        raise BadCallback("biz_id is missing")
    state: Literal["delivered", "undelivered"] = "delivered" if event.success else "undelivered"
    return Receipt(
        gateway_message_id=event.id,
        state=state,
        raw="success" if event.success else "failure",
        error="" if event.success else event.code,
        # A North American number has 11 digits and a 1, too: then the id alone must do.
        to="" if mainland else digits(event.number),
        submitted_at=_unix_s(event.sent),
        done_at=_unix_s(event.reported),
    )


def _unix_s(value: str) -> float | None:
    """`2017-01-01 00:00:00`, Chinese time."""
    try:
        return datetime.strptime(value, "%Y-%m-%d %H:%M:%S").replace(tzinfo=CHINA).timestamp()
    except ValueError:
        return None
