"""Sinch's SMS REST API (XMS), batches of one recipient.

    sinch://SERVICE_PLAN_ID:API_TOKEN@us.sms.api.sinch.com?webhook_secret=…
    sinch://SERVICE_PLAN_ID:API_TOKEN@eu.sms.api.sinch.com?token=…

The host is the region's. Options, beside those of every HTTP gateway: `webhook_secret`, the HMAC
secret of a service plan whose callbacks are signed (Sinch switches that on), or else `token`, a
secret of ours in the query of the callback's URL; one of them is needed when callbacks are used.
Receipts are asked for with each message; point the service plan's own callback URL, which also
carries inbound texts, at `{callback_url}/v1/callbacks/{gateway}` (with `?token=…` where that is used;
keep it out of access logs then). Binary and MMS messages that come in are refused as unreadable.

Guarantees: pure but for the clock that `request` is given (an expiry is an instant there); a
callback is read only after signature or token was checked. Our message id goes along as
`client_reference`, which Sinch repeats in reports but doesn't use against duplicates. One batch id
stands for all segments of a text.

Never run against Sinch's service. The request and the statuses of reports are those of Sinch's own library (sinch
2.3.0, the request compared over loopback), the signature is checked against it (tests); codes of errors and the
fields of callbacks follow documentation alone.
Sources: https://developers.sinch.com/docs/sms/api-reference/sms/batches,
https://developers.sinch.com/docs/sms/api-reference/sms/tag/Delivery-reports/,
https://developers.sinch.com/docs/sms/api-reference/sms/webhooks,
https://developers.sinch.com/docs/sms/api-reference/status-codes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from urllib.parse import quote

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
    called_with,
    decoded,
    digits,
    has_token,
    international,
    iso_unix_s,
    json_post,
    parse_dsn,
    same,
    text,
    wrong,
)

MAX_VALIDITY_S = 3 * 86_400  # "expire_at": "default and max is 3 days after send_at"

# `code` of an error with a 4xx status; 401, 402 and 429 go by their status.
REJECTIONS: dict[str, str] = {
    "syntax_invalid_json": "invalid_request",
    "syntax_invalid_parameter_format": "invalid_request",
    "syntax_constraint_violation": "invalid_request",  # a number, sender or body out of bounds
    "unknown_group": "invalid_number",  # `to` was taken for a group's name
}
RETRIES: dict[str, str] = {
    "missing_callback_url": "gateway_error",  # reports asked for, and no URL anywhere
    "unknown_campaign": "gateway_error",
    "unauthorized": "gateway_error",
}

# `status` of a delivery report, in capitals; the documentation writes them in both ways.
STATES: dict[str, State] = {
    "QUEUED": "accepted",
    "DISPATCHED": "enroute",
    "ABORTED": "rejected",  # before it reached the SMSC
    "REJECTED": "rejected",  # by the SMSC
    "CANCELLED": "deleted",
    "DELETED": "deleted",
    "DELIVERED": "delivered",
    "FAILED": "undelivered",
    "EXPIRED": "expired",
    "UNKNOWN": "unknown",
}


class Settings(ProviderSettings, frozen=True):
    url: str
    authorization: str
    webhook_secret: str
    token: str
    report_url: str


class _Answer(msgspec.Struct):
    """A batch, or an error."""

    id: str = ""
    code: str = ""


class _Status(msgspec.Struct):
    """Of a report on a whole batch, which has one recipient with us."""

    code: int
    status: str
    recipients: list[str] = []


class _Event(msgspec.Struct):
    type: str = ""
    batch_id: str = ""
    status: str = ""
    code: int = 0
    recipient: str = ""
    at: str = ""
    operator_status_at: str | None = None
    statuses: list[_Status] = []
    id: str = ""
    sender: str = msgspec.field(default="", name="from")
    to: str = ""
    body: str | None = None


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    dsn = parse_dsn(name, url, settings, extra=("webhook_secret", "token"))
    if not dsn.username or not dsn.password:
        raise wrong(name, "url", "needs SERVICE_PLAN_ID:API_TOKEN before the host")
    secret, token = text(name, dsn.extra, "webhook_secret"), text(name, dsn.extra, "token")
    if dsn.callback_url and not secret and not token:
        raise wrong(name, "webhook_secret", "or token is needed to know who calls back")
    return Settings(
        dsn=dsn,
        url=f"{dsn.base_url.rstrip('/')}/xms/v1/{quote(dsn.username, safe='')}/batches",
        authorization=f"Bearer {dsn.password}",
        webhook_secret=secret,
        token=token,
        report_url=called_back_at(dsn, token),
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to Sinch. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(
    settings: Settings, submission: Submission, clock: Callable[[], float] = time.time
) -> HttpRequest:
    body: dict[str, object] = {
        "type": "mt_text",
        "from": submission.sender,
        "to": [digits(submission.to)],
        "body": submission.text,
        "client_reference": submission.message_id,
    }
    if submission.validity_s is not None:
        until = clock() + min(max(submission.validity_s, 1), MAX_VALIDITY_S)
        at = datetime.fromtimestamp(until, UTC).isoformat(timespec="milliseconds")
        body["expire_at"] = at.replace("+00:00", "Z")
    if settings.report_url:
        body |= {"delivery_report": "per_recipient_final", "callback_url": settings.report_url}
    return json_post(settings.url, {"Authorization": settings.authorization}, body)


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """201 with an id is acceptance; 4xx with a code is looked up; all else goes by its status."""
    answer = decoded(body, _Answer)
    if answer is None:
        return by_status(status, headers)
    if status in (200, 201):
        return Accepted(answer.id) if answer.id else Unknown("bad_answer", "no id")
    if status in (400, 403):
        if answer.code in RETRIES:
            return Retry(RETRIES[answer.code], answer.code)
        if answer.code in REJECTIONS:
            return Rejected(REJECTIONS[answer.code], answer.code)
    return by_status(status, headers, answer.code)


def receive(
    settings: Settings, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> list[Receipt | Inbound]:
    """One report or one inbound text. Raises BadSignature, BadCallback."""
    if not _is_authentic(settings, url, headers, body):
        raise BadSignature
    event = called_with(body, _Event, "a report or an inbound text")
    if event.type == "mo_text" and event.id and event.body is not None:
        return [Inbound(international(digits(event.sender)), digits(event.to), event.body, event.id)]
    if not event.batch_id:
        raise BadCallback("neither batch_id nor an inbound text")
    if event.status:
        done = iso_unix_s(event.operator_status_at or event.at)
        return [_receipt(event.batch_id, event.status, event.code, event.recipient, done)]
    return [
        _receipt(event.batch_id, one.status, one.code, one.recipients[0] if one.recipients else "", None)
        for one in event.statuses
    ]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200)


def signature(secret: str, body: bytes, nonce: str, timestamp: str) -> str:
    """Base64 of HMAC-SHA256 over `body.nonce.timestamp`."""
    signed = body + f".{nonce}.{timestamp}".encode()
    return base64.b64encode(hmac.digest(secret.encode(), signed, hashlib.sha256)).decode()


def _is_authentic(settings: Settings, url: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Where a secret is set, only its signature counts; the token in a URL is the weaker proof."""
    if settings.webhook_secret:
        header = "x-sinch-webhook-signature"
        expected = signature(
            settings.webhook_secret,
            body,
            headers.get(f"{header}-nonce", ""),
            headers.get(f"{header}-timestamp", ""),
        )
        return same(expected, headers.get(header, ""))
    return has_token(settings.token, url)


def _receipt(batch_id: str, status: str, code: int, recipient: str, done_at: float | None) -> Receipt:
    return Receipt(
        gateway_message_id=batch_id,
        state=STATES.get(status.upper(), "unknown"),
        raw=status,
        error=str(code) if code else "",
        to=digits(recipient),
        done_at=done_at,
    )
