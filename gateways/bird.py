"""Bird's SMS API (2026), the one of `bk_…` keys.

    bird://:bk_us1_…@us1.platform.bird.com?signing_secret=whsec_…

The password is the API key, which names its region; the host is that region's. Option, beside those of every HTTP
gateway: `signing_secret`, of the webhook endpoint (percent-encoded in a URL), needed when callbacks are used.
They can't be asked for with a message: make a webhook endpoint for
`{callback_url}/v1/callbacks/{gateway}` with the events `sms.sent`, `sms.delivered`, `sms.undelivered`,
`sms.failed`, `sms.rejected`, `sms.expired` and `sms.received`; others are taken and not read. Keys of
MessageBird (rest.messagebird.com) are for `messagebird`; Bird's Channels API (api.bird.com, workspaces and
channels) is a third one, and not spoken here.

Guarantees: pure but for the clock that `receive` is given; a callback is read only after its signature
(Standard Webhooks) was checked and while it is at most 5 minutes off. Our message id goes along as
`Idempotency-Key`, and as metadata that comes back in events. A 422 that names neither an error that we know
nor a field may be about a key that came before with another body: `Unknown`. Our category goes along, Bird's
smart encoding never does. No validity is sent: it is a preview that other workspaces are refused for. One id
stands for all segments.

Never run against Bird's service. Requests, signatures, events and error documents are those of Bird's own library
(messagebird-sdk 0.106.0: compared over loopback, and vectors in tests); what the library leaves to the service, the
names of errors above all, follows its documentation strings alone, and how long a key is remembered isn't said.
Source: https://pypi.org/project/messagebird-sdk/ (generated from Bird's OpenAPI).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
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
    called_with,
    decoded,
    digits,
    international,
    iso_unix_s,
    json_post,
    parse_dsn,
    same,
    text,
    wrong,
)

MAX_AGE_S = 300  # of a callback, either way
INVALID = 422
MESSAGEBIRD = "rest.messagebird.com"

CATEGORIES = {"otp": "authentication", "transactional": "transactional", "marketing": "marketing"}

# `error.name` of a 422.
NAMES: dict[str, str] = {
    "SMSInvalidRecipient": "invalid_number",
    "SMSSenderNotConfigured": "invalid_sender",
    "SenderCategoryNotPermitted": "invalid_sender",  # the sender isn't registered for this category
    "SMSUnsupportedFeature": "invalid_request",
}
# The field of a 422, in `error.param` or `error.details`, where the name says nothing.
FIELDS: dict[str, str] = {
    "to": "invalid_number",
    "from": "invalid_sender",
    "text": "content_rejected",  # more than 12 segments
}
# `error.code` of a message that was refused or failed.
ERRORS: dict[str, str] = {
    "invalid_destination": "invalid_number",
    "landline_unreachable": "invalid_number",
    "blocked_by_carrier": "blocked",
    "blocked_by_fraud_protection": "blocked",
    "blocked_by_recipient": "blocked",
    "content_rejected": "content_rejected",
    "sender_unregistered": "invalid_sender",
    "recipient_opted_out": "opted_out",
    "insufficient_balance": "no_credit",
}
REFUSED = frozenset({"rejected", "failed"})  # `status` of a message, in the answer already

# `type` of an event.
STATES: dict[str, State] = {
    "sms.accepted": "accepted",
    "sms.sent": "enroute",
    "sms.delivered": "delivered",
    "sms.undelivered": "undelivered",
    "sms.failed": "undelivered",
    "sms.rejected": "rejected",  # before the carrier
    "sms.expired": "expired",
}
RECEIVED = "sms.received"


class Settings(ProviderSettings, frozen=True):
    url: str
    authorization: str
    signing_secret: bytes


class _Detail(msgspec.Struct):
    param: str = ""


class _Refusal(msgspec.Struct):
    name: str | None = None
    param: str | None = None
    details: list[_Detail] | None = None


class _Failure(msgspec.Struct):
    code: str = ""


class _Message(msgspec.Struct):
    id: str = ""
    status: str = ""
    error: _Failure | None = msgspec.field(default=None, name="last_error")


class _Refused(msgspec.Struct):
    error: _Refusal


class _Data(msgspec.Struct):
    id: str = msgspec.field(default="", name="sms_id")
    to: str = ""
    sender: str = msgspec.field(default="", name="from")
    text: str | None = None
    error: _Failure | None = None


class _Event(msgspec.Struct):
    type: str
    timestamp: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    dsn = parse_dsn(name, url, settings, extra=("signing_secret",))
    if not dsn.password:
        raise wrong(name, "url", "needs :API_KEY before the host")
    if urlsplit(dsn.base_url).hostname == MESSAGEBIRD:
        raise wrong(name, "url", "is MessageBird's API: write messagebird://")
    secret = text(name, dsn.extra, "signing_secret")
    if dsn.callback_url and not secret:
        raise wrong(name, "signing_secret", "is needed to know who calls back")
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        raise wrong(name, "signing_secret", "must be whsec_ and base64") from None
    return Settings(
        dsn=dsn,
        url=f"{dsn.base_url.rstrip('/')}/v1/sms/messages",
        authorization=f"Bearer {dsn.password}",
        signing_secret=key,
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to Bird. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(settings: Settings, submission: Submission) -> HttpRequest:
    body: dict[str, object] = {
        "to": submission.to,
        "text": submission.text,
        "category": CATEGORIES[submission.category],
        "metadata": {"message_id": submission.message_id},
        "options": {"smart_encoding": False},  # it could make other segments of it than we counted
    }
    if submission.sender:
        body["from"] = international(submission.sender)
    return json_post(
        settings.url,
        {"Authorization": settings.authorization, "Idempotency-Key": submission.message_id},
        body,
    )


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """202 with an id is acceptance; 422 is looked up by name, then by field; all else goes by its status."""
    if 200 <= status <= 299:
        message = decoded(body, _Message)
        if message is None or not message.id:
            return Unknown("bad_answer", f"HTTP {status}")
        if message.status in REFUSED:
            code = message.error.code if message.error is not None else ""
            return Rejected(ERRORS.get(code, "rejected"), code or message.status)
        return Accepted(message.id)
    refused = decoded(body, _Refused)
    error = refused.error if refused is not None else _Refusal()
    name = error.name or ""
    if status != INVALID:
        return by_status(status, headers, name)
    field = error.param or (error.details[0].param if error.details else "")
    if name in NAMES or field:
        return Rejected(NAMES.get(name) or FIELDS.get(field, "invalid_request"), name or field)
    return Unknown("duplicate", f"HTTP {status} {name}".rstrip())


def receive(
    settings: Settings,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    clock: Callable[[], float] = time.time,
) -> list[Receipt | Inbound]:
    """One event: a message's state or an inbound text. Raises BadSignature, BadCallback."""
    if not _is_signed(settings.signing_secret, headers, body, clock()):
        raise BadSignature
    event = called_with(body, _Event, "an event")
    if event.type not in STATES and event.type != RECEIVED:
        return []  # the workspace's other events are none of ours
    data = called_with(bytes(event.data), _Data, "an SMS event")
    if not data.id:
        raise BadCallback("sms_id is missing")
    if event.type == RECEIVED:
        return [Inbound(international(digits(data.sender)), digits(data.to), data.text or "", data.id)]
    code = data.error.code if data.error is not None else ""
    return [
        Receipt(
            gateway_message_id=data.id,
            state=STATES[event.type],
            raw=event.type,
            error=code,
            to=digits(data.to),
            sender=digits(data.sender),
            done_at=iso_unix_s(event.timestamp),
            opted_out=ERRORS.get(code) == "opted_out",
        )
    ]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200)


def signature(secret: bytes, message_id: str, stamp: str, body: bytes) -> str:
    """Base64 of HMAC-SHA256 over `id.timestamp.body`, as Standard Webhooks has it."""
    signed = f"{message_id}.{stamp}.".encode() + body
    return base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()


def _is_signed(secret: bytes, headers: Mapping[str, str], body: bytes, now_s: float) -> bool:
    """By one of the signatures in the header, with a timestamp that is near enough."""
    stamp = headers.get("webhook-timestamp", "")
    if not secret or re.fullmatch("[0-9]{1,12}", stamp) is None or abs(now_s - int(stamp)) > MAX_AGE_S:
        return False
    expected = signature(secret, headers.get("webhook-id", ""), stamp, body)
    given = [one.partition(",") for one in headers.get("webhook-signature", "").split()]
    matches = [version == "v1" and same(expected, value) for version, _, value in given]
    return any(matches)
