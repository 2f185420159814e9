"""Africa's Talking's SMS API.

    africastalking://USERNAME:API_KEY@api.africastalking.com?token=…

The sandbox is `africastalking://sandbox:API_KEY@api.sandbox.africastalking.com`. Option, beside those of
every HTTP gateway: `token`, needed when callbacks are used. Africa's Talking signs nothing, so this
secret stands in the query of the callbacks' URL (keep it out of access logs). They can't be asked for
with a message: set the account's delivery report and incoming message callbacks to
`{callback_url}/v1/callbacks/{gateway}?token=…` yourself. Its opt-out callback is another format,
and not read. A sender that is empty leaves the choice to Africa's Talking.

Guarantees: pure; a callback is read only after its token was checked. No reference of ours, no
idempotency key and no validity can be given. One id stands for all segments of a text.

Never run against Africa's Talking's service. The request is field for field that of its own library
(africastalking 2.0.3, compared over loopback); answers, reports and inbound texts follow documentation alone.
Sources: https://developers.africastalking.com/docs/sms/sending/bulk,
https://developers.africastalking.com/docs/sms/notifications,
https://help.africastalking.com/en/collections/1279-sms (status codes).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import msgspec

from gateways.base import (
    Accepted,
    Gateway,
    Inbound,
    Outcome,
    Receipt,
    Rejected,
    Sink,
    State,
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
    callers_token,
    check_token,
    decoded,
    digits,
    form_encode,
    form_fields,
    international,
    parse_dsn,
    wrong,
)

# `statusCode` of the recipient in the answer.
ACCEPTED = frozenset({100, 101, 102})  # processed, sent, queued
REJECTIONS: dict[int, str] = {
    402: "invalid_sender",
    403: "invalid_number",
    404: "invalid_number",  # unsupported type of number
    405: "no_credit",
    406: "opted_out",  # the user is on the sender's blacklist
    407: "no_route",
    409: "blocked",  # do not disturb: a promotional sender in Nigeria out of its hours
    502: "rejected",  # by the carrier
}
# 401 is held back for a look by a person, 500 and 501 are errors behind the API: all may go out yet.
DOUBTFUL: dict[int, str] = {401: "held", 500: "server_error", 501: "server_error"}
# `Message` when no recipient is listed at all, and nothing was sent.
MESSAGES: dict[str, str] = {"InvalidSenderId": "invalid_sender"}

# `status` of a delivery report.
STATES: dict[str, State] = {
    "Submitted": "enroute",
    "Sent": "enroute",
    "Buffered": "enroute",
    "Success": "delivered",
    "Failed": "undelivered",
    "AbsentSubscriber": "undelivered",
    "Rejected": "rejected",
    "Expired": "expired",
}
OPTED_OUT = "userinblacklist"  # `failureReason`, of which the documentation knows two spellings


class Settings(ProviderSettings, frozen=True):
    url: str
    token: str


class _Recipient(msgspec.Struct):
    code: int = msgspec.field(name="statusCode")
    id: str = msgspec.field(default="", name="messageId")


class _Data(msgspec.Struct):
    recipients: list[_Recipient] = msgspec.field(name="Recipients")
    message: str = msgspec.field(default="", name="Message")


class _Answer(msgspec.Struct):
    data: _Data = msgspec.field(name="SMSMessageData")


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    dsn = parse_dsn(name, url, settings, extra=("token",))
    if not dsn.username or not dsn.password:
        raise wrong(name, "url", "needs USERNAME:API_KEY before the host")
    token = callers_token(name, dsn)
    return Settings(dsn, f"{dsn.base_url.rstrip('/')}/version1/messaging", token)


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to Africa's Talking. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(settings: Settings, submission: Submission) -> HttpRequest:
    fields = [
        ("username", settings.dsn.username),
        ("to", submission.to),
        ("message", submission.text),
        ("bulkSMSMode", "1"),  # the account pays: what bulk texts must say
        ("enqueue", "1"),  # answer once it is queued, not once the carrier took it
    ]
    if submission.sender:
        fields.append(("from", submission.sender))
    return HttpRequest(
        "POST",
        settings.url,
        {
            "apiKey": settings.dsn.password,
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        },
        form_encode(fields).encode(),
    )


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """201 with a code for the recipient; all else goes by its HTTP status."""
    if status not in (200, 201):
        return by_status(status, headers)
    answer = decoded(body, _Answer)
    if answer is None:
        return by_status(status, headers)
    data = answer.data
    if len(data.recipients) != 1:
        if not data.recipients and data.message in MESSAGES:
            return Rejected(MESSAGES[data.message], data.message)
        return Unknown("bad_answer", "not one recipient")
    recipient = data.recipients[0]
    raw = str(recipient.code)
    if recipient.code in ACCEPTED:
        known = recipient.id not in ("", "None")
        return Accepted(recipient.id) if known else Unknown("bad_answer", "no messageId")
    if recipient.code in DOUBTFUL:
        return Unknown(DOUBTFUL[recipient.code], raw)
    return Rejected(REJECTIONS.get(recipient.code, "rejected"), raw)


def receive(
    settings: Settings, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> list[Receipt | Inbound]:
    """One delivery report or one inbound text. Raises BadSignature, BadCallback."""
    check_token(settings.token, url)
    values = dict(form_fields(body))
    if not values.get("id"):
        raise BadCallback("id is missing")
    if "status" in values:
        return [
            Receipt(
                gateway_message_id=values["id"],
                state=STATES.get(values["status"], "unknown"),
                raw=values["status"],
                error=values.get("failureReason", ""),
                to=digits(values.get("phoneNumber", "")),
                opted_out=values.get("failureReason", "").casefold() == OPTED_OUT,
            )
        ]
    if "text" not in values:
        raise BadCallback("neither status nor text")
    sender = international(digits(values.get("from", "")))
    return [Inbound(sender, digits(values.get("to", "")), values["text"], values["id"])]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200)
