"""SpeedSMS.vn: texts to Vietnam by /sms/send, one number at a time.

    speedsms://ACCESS_TOKEN:x@api.speedsms.vn?sms_type=3&token=…

The user name is the account's access token. Options, beside those of every HTTP gateway: `sms_type`, `2` a
random number, `3` a brand name (the default), `4` the default brand name, `5` the account's own Android
phone; the message's sender goes along with 3 and 5. `token`, needed when callbacks are used: SpeedSMS
signs nothing, so this secret stands in the query of the webhook's URL (keep it out of access logs). Set
the webhook in the account to `{callback_url}/v1/callbacks/{gateway}?token=…`; it carries reports and
inbound texts, which name neither our number nor an id.

Guarantees: pure; a callback is read only after its token was checked. No reference of ours, no
idempotency key and no validity can be given. One tranId stands for all segments of a text.

Never run against SpeedSMS' service: everything here follows documentation alone. There is no official library
to compare with; request and webhook fields agree with a stranger's (alexzvn/speedsms-api, PHP). Which statuses
of a report are final is from an older edition of the documentation, and least sure.
Sources: https://speedsms.vn/sms-api/, https://en.speedsms.vn/sms-api-service-2 (error codes).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

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
    Submission,
    Unknown,
)
from gateways.http import HttpGateway
from gateways.provider import (
    BadCallback,
    HttpReply,
    HttpRequest,
    ProviderSettings,
    basic,
    by_status,
    called_with,
    callers_token,
    check_token,
    decoded,
    digits,
    international,
    json_post,
    parse_dsn,
    text,
    wrong,
)

SMS_TYPES = ("2", "3", "4", "5")
WITH_SENDER = ("3", "5")

# `code` of the answer; "00" is acceptance.
ACCEPTED = "00"
REJECTIONS: dict[str, str] = {
    "101": "invalid_request",
    "105": "invalid_number",
    "110": "content_rejected",  # encoding not supported
    "113": "content_rejected",  # too long
    "300": "no_credit",
}
RETRIES: dict[str, str] = {
    "007": "gateway_error",  # our address is locked
    "008": "gateway_error",  # account blocked
    "009": "gateway_error",  # account may not use the API
}
INTERNAL_ERROR = "500"

PERMANENT = 64  # `status` of a report: 0 delivered, below this a failure that may pass, from it on final


class Settings(ProviderSettings, frozen=True):
    url: str
    authorization: str
    sms_type: str
    token: str


class _Data(msgspec.Struct):
    id: int | str = msgspec.field(default="", name="tranId")
    invalid: list[str | int] = msgspec.field(default=[], name="invalidPhone")


class _Answer(msgspec.Struct):
    code: str | int
    data: _Data | None = None


class _Event(msgspec.Struct):
    type: str
    phone: str
    id: int | str = msgspec.field(default="", name="tranId")
    status: int | None = None
    content: str | None = None


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    dsn = parse_dsn(name, url, settings, extra=("sms_type", "token"))
    if not dsn.username:
        raise wrong(name, "url", "needs ACCESS_TOKEN:x before the host")
    sms_type = text(name, dsn.extra, "sms_type", "3")
    if sms_type not in SMS_TYPES:
        raise wrong(name, "sms_type", f"must be one of {', '.join(SMS_TYPES)}")
    token = callers_token(name, dsn)
    return Settings(
        dsn=dsn,
        url=f"{dsn.base_url.rstrip('/')}/index.php/sms/send",
        authorization=basic(dsn.username, dsn.password or "x"),
        sms_type=sms_type,
        token=token,
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to SpeedSMS. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(settings: Settings, submission: Submission) -> HttpRequest:
    body: dict[str, object] = {
        "to": [digits(submission.to)],
        "content": submission.text,
        "sms_type": int(settings.sms_type),
        "sender": submission.sender if settings.sms_type in WITH_SENDER else "",
    }
    return json_post(settings.url, {"Authorization": settings.authorization}, body)


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """200 with a code; all else goes by its HTTP status."""
    if status != 200:
        return by_status(status, headers)
    answer = decoded(body, _Answer)
    if answer is None:
        return by_status(status, headers)
    code = str(answer.code)
    if code == ACCEPTED:
        data = answer.data or _Data()
        if data.invalid:  # of the one number that was asked for
            return Rejected("invalid_number", "invalidPhone")
        return Accepted(str(data.id)) if data.id else Unknown("bad_answer", "no tranId")
    if code == INTERNAL_ERROR:
        return Unknown("server_error", code)
    if code in RETRIES:
        return Retry(RETRIES[code], code)
    return Rejected(REJECTIONS.get(code, "rejected"), code)


def receive(
    settings: Settings, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> list[Receipt | Inbound]:
    """One report or one inbound text. Raises BadSignature, BadCallback."""
    check_token(settings.token, url)
    event = called_with(body, _Event, "a report or an inbound text")
    number = digits(event.phone)
    number = f"84{number[1:]}" if number.startswith("0") else number
    if event.type == "sms" and event.content is not None:
        return [Inbound(international(number), "", event.content)]
    if event.type != "report" or event.status is None or not event.id:
        raise BadCallback("neither a report nor an inbound text")
    state: Literal["enroute", "delivered", "undelivered"] = "enroute"  # SpeedSMS tries again
    if event.status == 0:
        state = "delivered"
    elif event.status >= PERMANENT:
        state = "undelivered"
    error = str(event.status) if event.status else ""
    return [Receipt(str(event.id), state, str(event.status), error, to=number)]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200)
