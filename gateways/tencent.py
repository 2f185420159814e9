"""Tencent Cloud SMS: the SendSms action of version 2021-01-11.

    tencent://SECRET_ID:SECRET_KEY@sms.tencentcloudapi.com?sdk_app_id=1400006666&token=…

Takes templates, not texts: see `gateways.templates` for `template`, `template_parameter` (of no meaning
here: values go by position) and `templates`, written with `{1}`, `{2}`, numbered in their order. Other
options, beside those of every HTTP gateway: `sdk_app_id`, the application's id; `sign_name`, the approved
signature (a text that begins with it in `【】` is sent without, since Tencent puts it there itself);
`region`, `ap-guangzhou` by default; `token`, needed when callbacks are used: Tencent signs none, so this
secret stands in the query of their URL (keep it out of access logs). The message's sender goes along
as SenderId, which only international texts have; leave it empty for mainland China. Set the application's
callbacks for sending status and replies in the console to `{callback_url}/v1/callbacks/{gateway}?token=…`.
Segments are counted as China's carriers bill them, 70 characters of whatever letters
(`ucs2_only=false` for texts abroad).

Guarantees: pure but for the clock that `request` is given; requests are signed by TC3-HMAC-SHA256; a
callback is read only after its token was checked. Our message id goes along as `SessionContext`, which
comes back in the answer but isn't used against duplicates. No validity can be given. One SerialNo stands
for all segments of a text.

Never run against Tencent's service. The request is that of Tencent's own library (tencentcloud-sdk-python-sms 3.1.153,
compared over loopback), the codes are among those that it lists, the signature is checked against it and the
example of Tencent's documentation (tests); reports and replies follow documentation alone.
Replies have no id: one that Tencent sends again comes in twice.
Sources: https://cloud.tencent.com/document/api/382/55981,
https://cloud.tencent.com/document/api/382/52072 (signature, version 3),
https://cloud.tencent.com/document/api/382/59177 and https://cloud.tencent.com/document/api/382/52075 (codes),
https://www.tencentcloud.com/document/product/382/43547 (status),
https://www.tencentcloud.com/document/product/382/43548 (replies).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from functools import partial
from urllib.parse import urlsplit

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
    State,
    Submission,
    Unknown,
)
from gateways.http import HttpGateway
from gateways.provider import (
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

PLACEHOLDER = re.compile(r"\{([0-9]+)\}")
CHINA = timezone(timedelta(hours=8))  # of the times in callbacks
CONTENT_TYPE = "application/json; charset=utf-8"

# `Code` of the recipient's status, or of the whole answer's error.
REJECTIONS: dict[str, str] = {
    "FailedOperation.ContainSensitiveWord": "content_rejected",
    "FailedOperation.InsufficientBalanceInSmsPackage": "no_credit",
    "FailedOperation.MissingSignature": "invalid_sender",
    "FailedOperation.PhoneNumberInBlacklist": "opted_out",  # unsubscribed, or on the carrier's list
    "FailedOperation.PhoneNumberParseFail": "invalid_number",
    "FailedOperation.SignatureIncorrectOrUnapproved": "invalid_sender",
    "FailedOperation.TemplateIncorrectOrUnapproved": "content_rejected",
    "FailedOperation.TemplateParamSetNotMatchApprovedTemplate": "content_rejected",
    "FailedOperation.TemplateUnapprovedOrNotExist": "content_rejected",
    "InvalidParameter.DirtyWordFound": "content_rejected",
    "InvalidParameterValue.ContentLengthLimit": "content_rejected",
    "InvalidParameterValue.IncorrectPhoneNumber": "invalid_number",
    "InvalidParameterValue.ProhibitedUseUrlInTemplateParameter": "content_rejected",
    "InvalidParameterValue.TemplateParameterFormatError": "content_rejected",
    "InvalidParameterValue.TemplateParameterLengthLimit": "content_rejected",
    "LimitExceeded.AppCountryOrRegionInBlacklist": "region_blocked",
    "UnsupportedOperation.ChineseMainlandTemplateToGlobalPhone": "no_route",
    "UnsupportedOperation.GlobalTemplateToChineseMainlandPhone": "no_route",
    "UnsupportedOperation.UnsupportedRegion": "region_blocked",
}
RETRIES: dict[str, str] = {
    "FailedOperation.MarketingSendTimeConstraint": "throttled",  # marketing between 8 and 22 h only
    "FailedOperation.NotEnterpriseCertification": "gateway_error",
    "FailedOperation.ProhibitSubAccountUse": "gateway_error",
    "InvalidParameterValue.SdkAppIdNotExist": "gateway_error",
}
# What stands before the point, where the whole code is in neither table. LimitExceeded are limits by
# number, application and day; the rest are of the account.
FAMILIES: dict[str, str] = {
    "AuthFailure": "gateway_error",
    "IpInBlacklist": "gateway_error",
    "IpNotInWhitelist": "gateway_error",
    "LimitExceeded": "throttled",
    "RequestLimitExceeded": "throttled",
    "UnauthorizedOperation": "gateway_error",
}
DOUBTFUL = "InternalError"  # a family, too: time-outs behind the API, and all that it can't explain

STATES: dict[str, State] = {"SUCCESS": "delivered", "FAIL": "undelivered"}  # `report_status`
# `errmsg` of a failure, where it is one of SMPP's words (section 5.2.28).
FAILURES: dict[str, State] = {"EXPIRED": "expired", "REJECTD": "rejected", "DELETED": "deleted"}


class Settings(ProviderSettings, frozen=True):
    url: str
    host: str
    templates: templates.Templates
    sdk_app_id: str
    sign_name: str
    region: str
    token: str


class _Status(msgspec.Struct):
    code: str = msgspec.field(default="", name="Code")
    id: str = msgspec.field(default="", name="SerialNo")


class _Response(msgspec.Struct):
    statuses: list[_Status] = msgspec.field(default_factory=list, name="SendStatusSet")
    error: _Status | None = msgspec.field(default=None, name="Error")


class _Answer(msgspec.Struct):
    response: _Response = msgspec.field(name="Response")


class _Report(msgspec.Struct):
    id: str = msgspec.field(name="sid")
    status: str = msgspec.field(name="report_status")
    country: str = msgspec.field(default="", name="nationcode")
    mobile: str = ""
    error: str = msgspec.field(default="", name="errmsg")
    received: str = msgspec.field(default="", name="user_receive_time")


class _Reply(msgspec.Struct):
    mobile: str
    content: str = msgspec.field(name="text")
    country: str = msgspec.field(default="", name="nationcode")
    extend: str = ""


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    keys = ("sdk_app_id", "sign_name", "region", "token", *templates.KEYS)
    dsn = parse_dsn(name, url, settings, extra=keys, ucs2_only=True)
    if not dsn.username or not dsn.password:
        raise wrong(name, "url", "needs SECRET_ID:SECRET_KEY before the host")
    app = text(name, dsn.extra, "sdk_app_id")
    if not app:
        raise wrong(name, "sdk_app_id", "is needed")
    token = callers_token(name, dsn)
    return Settings(
        dsn=dsn,
        url=f"{dsn.base_url.rstrip('/')}/",
        host=urlsplit(dsn.base_url).netloc,
        templates=templates.parse(name, dsn.extra, PLACEHOLDER, "1"),
        sdk_app_id=app,
        sign_name=text(name, dsn.extra, "sign_name"),
        region=text(name, dsn.extra, "region", "ap-guangzhou"),
        token=token,
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to Tencent Cloud SMS. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(
    settings: Settings, submission: Submission, clock: Callable[[], float] = time.time
) -> HttpRequest:
    signed = f"【{settings.sign_name}】"
    template, values = settings.templates.choose(submission.text.removeprefix(signed))
    content: dict[str, object] = {
        "PhoneNumberSet": [submission.to],
        "SmsSdkAppId": settings.sdk_app_id,
        "TemplateId": template,
        "TemplateParamSet": [value for _, value in values],
        "SessionContext": submission.message_id,
    }
    if settings.sign_name:
        content["SignName"] = settings.sign_name
    if submission.sender:
        content["SenderId"] = submission.sender
    body = msgspec.json.encode(content)
    at_s = int(clock())
    dsn = settings.dsn
    return HttpRequest(
        "POST",
        settings.url,
        {
            "Authorization": authorization((dsn.username, dsn.password), "sms", settings.host, body, at_s),
            "Content-Type": CONTENT_TYPE,
            "Host": settings.host,
            "X-TC-Action": "SendSms",
            "X-TC-Version": "2021-01-11",
            "X-TC-Timestamp": str(at_s),
            "X-TC-Region": settings.region,
        },
        body,
    )


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """200 with a code for the recipient, or one for all; all else goes by its HTTP status."""
    if status != 200:
        return by_status(status, headers)
    answer = decoded(body, _Answer)
    if answer is None:
        return by_status(status, headers)
    response = answer.response
    if response.error is not None:
        return _refusal(response.error.code)
    if len(response.statuses) != 1:
        return Unknown("bad_answer", "not one status")
    one = response.statuses[0]
    if one.code == "Ok":
        return Accepted(one.id) if one.id else Unknown("bad_answer", "no SerialNo")
    return _refusal(one.code)


def _refusal(code: str) -> Outcome:
    family = code.partition(".")[0]
    if family == DOUBTFUL or not code:
        return Unknown("server_error", code)
    if code in RETRIES:
        return Retry(RETRIES[code], code)
    if code in REJECTIONS:
        return Rejected(REJECTIONS[code], code)
    if family in FAMILIES:
        return Retry(FAMILIES[family], code)
    return Rejected("rejected", code)


def receive(
    settings: Settings, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> list[Receipt | Inbound]:
    """Reports, several in one call, or one reply. Raises BadSignature, BadCallback."""
    check_token(settings.token, url)
    if body.lstrip().startswith(b"{"):
        event = called_with(body, _Reply, "a reply")
        return [Inbound(f"+{_number(event.country, event.mobile)}", event.extend, event.content)]
    return [
        Receipt(
            gateway_message_id=report.id,
            state=_state(report),
            raw=report.status,
            error="" if report.status == "SUCCESS" else report.error,
            to=_number(report.country, report.mobile),
            done_at=_unix_s(report.received),
        )
        for report in called_with(body, list[_Report], "reports")
    ]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200, {"Content-Type": "application/json"}, b'{"result":0,"errmsg":"OK"}')


def canonical_request(host: str, body: bytes) -> str:
    """Of a POST of JSON to `/`, with the two headers that must be signed."""
    hashed = hashlib.sha256(body).hexdigest()
    return f"POST\n/\n\ncontent-type:{CONTENT_TYPE}\nhost:{host}\n\ncontent-type;host\n{hashed}"


def authorization(credentials: tuple[str, str], service: str, host: str, body: bytes, at_s: int) -> str:
    """`Authorization` by TC3-HMAC-SHA256."""
    secret_id, key = credentials[0], f"TC3{credentials[1]}".encode()
    date = time.strftime("%Y-%m-%d", time.gmtime(at_s))
    scope = f"{date}/{service}/tc3_request"
    hashed = hashlib.sha256(canonical_request(host, body).encode()).hexdigest()
    for part in (date, service, "tc3_request", f"TC3-HMAC-SHA256\n{at_s}\n{scope}\n{hashed}"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    return (
        f"TC3-HMAC-SHA256 Credential={secret_id}/{scope}, "
        f"SignedHeaders=content-type;host, Signature={key.hex()}"
    )


def _state(report: _Report) -> State:
    state = STATES.get(report.status, "unknown")
    return FAILURES.get(report.error, state) if state == "undelivered" else state


def _number(country: str, mobile: str) -> str:
    number = digits(mobile)
    return number if mobile.startswith("+") else digits(country) + number


def _unix_s(value: str) -> float | None:
    """`2015-10-17 08:03:04`, Chinese time."""
    try:
        return datetime.strptime(value, "%Y-%m-%d %H:%M:%S").replace(tzinfo=CHINA).timestamp()
    except ValueError:
        return None
