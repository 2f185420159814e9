"""eSMS.vn (ViHAT): texts to Vietnam by SendMultipleMessage_V4_post_json, one number at a time.

    esms://API_KEY:SECRET_KEY@rest.esms.vn?token=…

Options, beside those of every HTTP gateway: `sms_type`, `2` by default (customer care and OTP by a brand
name), `8` for a fixed number, which has no sender; advertising (`1`) takes 30 numbers a request at
least, so it can't go this way; `token`, needed when callbacks are used: eSMS signs nothing, so this
secret stands in the query of the callback's URL (keep it out of access logs). Reports are asked for with
each message. The message's sender is the registered brand name. Inbound texts aren't read: a brand name
gets none.

Guarantees: pure; a callback is read only after its token was checked. Our message id goes along as
`RequestId`, by which eSMS refuses duplicates for 24 hours: such a refusal (124) is `Unknown`, since
the first request may well have been taken. No validity can be given. One SMSID stands for all segments.

Written from documentation alone, never run against eSMS' service: everything here. The request's fields agree
with strangers' code; no official library is known to us.
Sources: https://developers.esms.vn/esms-api/ham-gui-tin/tin-nhan-sms-otp-cskh,
https://developers.esms.vn/esms-api/ham-gui-tin/tin-sms-co-dinh-gia-re,
https://developers.esms.vn/esms-api/bang-ma-loi, https://developers.esms.vn/esms-api/callback-url.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from urllib.parse import urlsplit

import msgspec

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
    BadCallback,
    BadSignature,
    HttpReply,
    HttpRequest,
    ProviderSettings,
    by_status,
    called_back_at,
    callers_token,
    decoded,
    digits,
    form_fields,
    json_post,
    parse_dsn,
    same,
    text,
    wrong,
)

SMS_TYPES = ("2", "8")
MAX_REQUEST_ID = 50  # characters

# `CodeResult` of the answer.
ACCEPTED = "100"
DUPLICATE = "124"  # a request with this RequestId came before
REJECTIONS: dict[str, str] = {
    "99": "blocked",  # the number is on eSMS' block list
    "102": "no_route",  # no price for it
    "103": "no_credit",
    "104": "invalid_sender",  # brand name doesn't exist
    "108": "invalid_number",
    "118": "invalid_request",  # kind of message not supported
    "146": "content_rejected",  # fits none of the brand name's templates
    "163": "invalid_request",  # more than one number
    "177": "no_route",  # brand name isn't registered with this network
    "201": "content_rejected",  # a forbidden word
    "300": "invalid_request",  # no kind of message
}
RETRIES: dict[str, str] = {
    "101": "gateway_error",  # wrong key or secret
    "140": "gateway_error",  # our address isn't on the list
    "143": "gateway_error",  # account not active, or locked
    "160": "throttled",
}

# `SendStatus` of a callback; DONE leaves it to SendSuccess and SendFailed, which count recipients.
DONE = "5"
STATES: dict[str, State] = {
    "1": "accepted",  # waits for approval
    "2": "accepted",  # waits to be sent
    "4": "rejected",
    "7": "enroute",  # at the network, which hasn't reported
}


class Settings(ProviderSettings, frozen=True):
    url: str
    sms_type: str
    token: str
    report_url: str


class _Answer(msgspec.Struct):
    code: str | int = msgspec.field(name="CodeResult")
    id: str | None = msgspec.field(default=None, name="SMSID")


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    dsn = parse_dsn(name, url, settings, extra=("sms_type", "token"))
    if not dsn.username or not dsn.password:
        raise wrong(name, "url", "needs API_KEY:SECRET_KEY before the host")
    sms_type = text(name, dsn.extra, "sms_type", "2")
    if sms_type not in SMS_TYPES:
        raise wrong(name, "sms_type", f"must be one of {', '.join(SMS_TYPES)}")
    token = callers_token(name, dsn)
    return Settings(
        dsn=dsn,
        url=f"{dsn.base_url.rstrip('/')}/MainService.svc/json/SendMultipleMessage_V4_post_json/",
        sms_type=sms_type,
        token=token,
        report_url=called_back_at(dsn, token),
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to eSMS. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(settings: Settings, submission: Submission) -> HttpRequest:
    to = digits(submission.to)
    body = {
        "ApiKey": settings.dsn.username,
        "SecretKey": settings.dsn.password,
        "Phone": f"0{to[2:]}" if to.startswith("84") else to,  # as numbers are written in Vietnam
        "Content": submission.text,
        "SmsType": settings.sms_type,
        "IsUnicode": "1" if submission.encoding == "ucs2" else "0",
        "RequestId": submission.message_id[:MAX_REQUEST_ID],
    }
    if settings.sms_type == "2":
        body["Brandname"] = submission.sender
    else:
        body["Unicode"] = body["IsUnicode"]  # the page about fixed numbers calls it so, the others don't
    if settings.report_url:
        body["CallbackUrl"] = settings.report_url
    return json_post(settings.url, {}, body)


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """200 with a CodeResult; all else goes by its HTTP status."""
    if status != 200:
        return by_status(status, headers)
    answer = decoded(body, _Answer)
    if answer is None:
        return by_status(status, headers)
    code = str(answer.code)
    if code == ACCEPTED:
        return Accepted(answer.id) if answer.id else Unknown("bad_answer", "no SMSID")
    if code == DUPLICATE:
        return Unknown("duplicate", code)
    if code in RETRIES:
        return Retry(RETRIES[code], code)
    return Rejected(REJECTIONS.get(code, "rejected"), code)


def receive(
    settings: Settings, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> list[Receipt | Inbound]:
    """One status of a message, by GET. Raises BadSignature, BadCallback."""
    # Whether eSMS puts its fields behind `?` or `&` when the URL has a query isn't said: both are read.
    values = dict(form_fields(urlsplit(url).query.replace("?", "&")))
    if not settings.token or not same(settings.token, values.get("token", "")):
        raise BadSignature
    message_id, status = values.get("SMSID", ""), values.get("SendStatus", "")
    if not message_id or not status:
        raise BadCallback("SMSID or SendStatus is missing")
    state = STATES.get(status, "unknown")
    if status == DONE and values.get("SendSuccess", "0") not in ("", "0"):
        state = "delivered"
    elif status == DONE and values.get("SendFailed", "0") not in ("", "0"):
        state = "undelivered"
    number = digits(values.get("phonenumber", ""))
    return [
        Receipt(
            gateway_message_id=message_id,
            state=state,
            raw=status,
            to=f"84{number[1:]}" if number.startswith("0") else number,
        )
    ]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200)
