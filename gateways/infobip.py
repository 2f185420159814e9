"""Infobip's SMS API, version 3.

    infobip://:API_KEY@xxxxx.api.infobip.com?token=…

The password is the API key; the host is the account's own base URL. Option, beside those of
every HTTP gateway: `token`, needed when callbacks are used. Infobip signs nothing by itself,
so this secret stands in the query of the callback's URL: receipts are asked for with it in
each message; point the numbers' inbound forwarding (format MO_JSON_2) at
`{callback_url}/v1/callbacks/{gateway}?token=…` yourself. Keep it out of the access log of
whatever stands in front.

Guarantees: pure; a callback is read only after its token was checked. Our message id goes along as
`callbackData`, which comes back in reports but isn't used against duplicates. `messageId` is left to Infobip: what
it does with one that it has seen before isn't said.

Never run against Infobip's service. The request, `messageId` left out, is that of Infobip's own library
(infobip-api-python-client 6.0.0, compared over loopback), and so are the groups of statuses and the names of fields
that come back; names of statuses and inbound texts follow documentation alone.
Sources: https://www.infobip.com/docs/api/channels/sms/outbound-sms/send-sms-messages,
https://www.infobip.com/docs/essentials/api-essentials/response-status-and-error-codes,
https://www.infobip.com/docs/api/channels/sms/inbound-sms/receive-inbound-sms-messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial

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
    HttpReply,
    HttpRequest,
    ProviderSettings,
    by_status,
    called_back_at,
    called_with,
    callers_token,
    check_token,
    decoded,
    digits,
    international,
    parse_dsn,
    wrong,
)

MAX_VALIDITY_MIN = 2880  # 48 hours

# Names of statuses in the group REJECTED, as they may stand in the answer to a message.
REJECTIONS: dict[str, str] = {
    "MISSING_TO": "invalid_number",
    "REJECTED_DESTINATION": "blocked",  # the destination is on the account's block list
    "REJECTED_DESTINATION_NOT_REGISTERED": "not_permitted",  # trial: only one's own number
    "REJECTED_DND": "opted_out",  # the country's do-not-disturb list
    "REJECTED_INVALID_DESTINATION": "invalid_number",
    "REJECTED_MESSAGE_TOO_LONG": "content_rejected",
    "REJECTED_NETWORK": "no_route",
    "REJECTED_NOT_ENOUGH_CREDITS": "no_credit",
    "REJECTED_PREFIX_MISSING": "invalid_number",
    "REJECTED_PREPAID_PACKAGE_EXPIRED": "no_credit",
    "REJECTED_ROUTE_NOT_AVAILABLE": "no_route",
    "REJECTED_SENDER": "invalid_sender",
    "REJECTED_SOURCE": "invalid_sender",
}
RETRIES: dict[str, str] = {
    "REJECTED_FLOODING_FILTER": "throttled",
    "REJECTED_SYSTEM_ERROR": "gateway_error",
}

ACCEPTED, PENDING, UNDELIVERABLE, DELIVERED, EXPIRED, REJECTED = 0, 1, 2, 3, 4, 5
STATES: dict[int, State] = {
    ACCEPTED: "accepted",
    PENDING: "enroute",
    UNDELIVERABLE: "undelivered",
    DELIVERED: "delivered",
    EXPIRED: "expired",
    REJECTED: "rejected",
}
TO_OPERATOR = "DELIVERED_TO_OPERATOR"  # in the group DELIVERED, and yet not the handset's word


class Settings(ProviderSettings, frozen=True):
    url: str
    authorization: str
    token: str
    report_url: str


class _Status(msgspec.Struct):
    group: int = msgspec.field(default=-1, name="groupId")
    name: str = ""


class _Error(msgspec.Struct):
    id: int = 0
    name: str = ""


class _Message(msgspec.Struct):
    id: str = msgspec.field(default="", name="messageId")
    status: _Status = msgspec.field(default_factory=_Status)


class _Answer(msgspec.Struct):
    messages: list[_Message]


class _Event(msgspec.Struct):
    """A delivery report (it has a status) or an inbound text (it has none)."""

    id: str = msgspec.field(default="", name="messageId")
    to: str = ""
    sender: str = ""
    sender_before_v3: str = msgspec.field(default="", name="from")
    text: str | None = None
    status: _Status | None = None
    error: _Error | None = None
    sent_at: str = msgspec.field(default="", name="sentAt")
    done_at: str = msgspec.field(default="", name="doneAt")


class _Events(msgspec.Struct):
    results: list[_Event]


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    dsn = parse_dsn(name, url, settings, extra=("token",))
    if not dsn.password:
        raise wrong(name, "url", "needs :API_KEY before the host")
    token = callers_token(name, dsn)
    return Settings(
        dsn=dsn,
        url=f"{dsn.base_url.rstrip('/')}/sms/3/messages",
        authorization=f"App {dsn.password}",
        token=token,
        report_url=called_back_at(dsn, token),
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to Infobip. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(settings: Settings, submission: Submission) -> HttpRequest:
    message: dict[str, object] = {
        "sender": submission.sender,
        "destinations": [{"to": digits(submission.to)}],
        "content": {"text": submission.text},
    }
    if submission.validity_s is not None:
        minutes = min(max(submission.validity_s // 60, 1), MAX_VALIDITY_MIN)
        message["options"] = {"validityPeriod": {"amount": minutes, "timeUnit": "MINUTES"}}
    if settings.report_url:
        message["webhooks"] = {
            "delivery": {"url": settings.report_url},
            "contentType": "application/json",
            "callbackData": submission.message_id,
        }
    return HttpRequest(
        "POST",
        settings.url,
        {
            "Authorization": settings.authorization,
            "Content-Type": "application/json",
            "Accept": "application/json",
        },
        msgspec.json.encode({"messages": [message]}),
    )


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """200 with the message's status; all else goes by its HTTP status."""
    if status != 200:
        return by_status(status, headers)
    answer = decoded(body, _Answer)
    if answer is None:
        return by_status(status, headers)
    messages = answer.messages
    return _message_outcome(messages[0]) if len(messages) == 1 else Unknown("bad_answer", "not one message")


def _message_outcome(message: _Message) -> Outcome:
    name = message.status.name
    if message.status.group in (ACCEPTED, PENDING, DELIVERED):
        return Accepted(message.id) if message.id else Unknown("bad_answer", "no messageId")
    if name in RETRIES:
        return Retry(RETRIES[name], name)
    if message.status.group in (UNDELIVERABLE, REJECTED):
        return Rejected(REJECTIONS.get(name, "rejected"), name)
    return Unknown("bad_answer", name or "no status")


def receive(
    settings: Settings, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> list[Receipt | Inbound]:
    """Delivery reports or inbound texts, several in one call. Raises BadSignature, BadCallback."""
    check_token(settings.token, url)
    results = called_with(body, _Events, "a report or an inbound text").results
    return [_read(event) for event in results]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200)


def _read(event: _Event) -> Receipt | Inbound:
    if not event.id:
        raise BadCallback("messageId is missing")
    sender = event.sender or event.sender_before_v3
    if event.status is None:
        if event.text is None:
            raise BadCallback("neither status nor text")
        return Inbound(international(digits(sender)), digits(event.to), event.text, event.id)
    name = event.status.name
    return Receipt(
        gateway_message_id=event.id,
        state="enroute" if name == TO_OPERATOR else STATES.get(event.status.group, "unknown"),
        raw=name,
        error=str(event.error.id) if event.error is not None and event.error.id else "",
        to=digits(event.to),
        sender=digits(sender),
        submitted_at=_unix_s(event.sent_at),
        done_at=_unix_s(event.done_at),
        opted_out=REJECTIONS.get(name) == "opted_out",
    )


def _unix_s(value: str) -> float | None:
    """`2015-02-12T09:51:43.123+0000`."""
    try:
        return datetime.strptime(value, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()
    except ValueError:
        return None
