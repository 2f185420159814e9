"""Telnyx' Messaging API, version 2.

    telnyx://:API_KEY@api.telnyx.com?public_key=BASE64&messaging_profile=UUID

The password is the API key. Options, beside those of every HTTP gateway: `public_key`, the account's
public key in base64 (percent-encoded in a URL; "Keys & Credentials" in the portal), needed when
callbacks are used; `messaging_profile`, sent along with each message and needed for alphanumeric
senders and number pools. A message without sender is left to the profile's number pool. Receipts are
asked for with each message; point the messaging profile's webhook URL, for inbound texts, at
`{callback_url}/v1/callbacks/{gateway}`.

Guarantees: pure but for the clock that `receive` is given; a callback is read only after its
Ed25519 signature was checked and while it is at most 5 minutes old. Our message id goes along as
`Idempotency-Key`: within 24 hours Telnyx answers the same request with its first acceptance again, and one that
differs with 422; so a 422 that says no more than that is `Unknown`. Telnyx takes no validity: a text whose
validity matters shouldn't go this way. One id stands for all segments of a text.

Never run against Telnyx' service. The request and the statuses are those of Telnyx' own library (telnyx 4.189.0, the
request compared over loopback), the signature is what it takes (tests); codes of errors follow documentation alone.
Sources: https://developers.telnyx.com/api-reference/messages/send-a-message,
https://developers.telnyx.com/docs/messaging/messages/receiving-webhooks,
https://developers.telnyx.com/docs/messaging/messages/error-codes,
https://developers.telnyx.com/docs/development/api-fundamentals/idempotency,
https://developers.telnyx.com/development/api-fundamentals/api-errors,
https://support.telnyx.com/en/articles/6505121-telnyx-messaging-error-codes.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

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
    called_with,
    decoded,
    digits,
    international,
    iso_unix_s,
    json_post,
    parse_dsn,
    retry_after_s,
    text,
    wrong,
)

CHANGED_REPETITION = 422  # this Idempotency-Key came before, with another body
MAX_AGE_S = 300  # of a webhook's telnyx-timestamp, in both directions

# `errors[0].code` of a refusal with a 4xx status. Codes of the answer and of webhooks share one
# numbering; 10xxx is what all of Telnyx' APIs have, 40xxx is messaging's own.
REJECTIONS: dict[str, str] = {
    "10001": "invalid_number",  # inactive phone number
    "10002": "invalid_number",  # invalid phone number
    "10004": "invalid_request",  # missing required parameter
    "10015": "invalid_request",  # bad request
    "10016": "invalid_number",  # phone number must be in +E.164 format
    "10039": "not_permitted",  # only verified destinations at this account level
    "20100": "no_credit",
    "40001": "no_route",  # landline, or not routable
    "40002": "content_rejected",  # blocked as spam, temporarily
    "40003": "content_rejected",  # blocked as spam, permanently
    "40008": "no_route",  # undeliverable
    "40009": "content_rejected",  # invalid message body
    "40010": "sender_unregistered",  # not 10DLC registered
    "40012": "invalid_number",  # invalid destination number
    "40013": "invalid_sender",  # invalid source number
    "40015": "content_rejected",  # Telnyx' own spam filter
    "40100": "invalid_sender",  # number is not enabled for messaging
    "40300": "opted_out",  # blocked due to a STOP message
    "40301": "no_route",  # unsupported message type for the 'to' address
    "40302": "content_rejected",  # too large
    "40304": "invalid_request",  # invalid combination of content arguments
    "40305": "invalid_sender",  # invalid 'from' address
    "40306": "invalid_sender",  # the profile has no alphanumeric sender
    "40307": "invalid_sender",  # not the profile's alphanumeric sender
    "40309": "region_blocked",  # the destination's region isn't on the profile's list
    "40310": "invalid_number",  # invalid 'to' address
    "40316": "content_rejected",  # no content
    "40319": "no_route",  # sender and recipient can't be combined
    "40322": "content_rejected",  # blocked due to content
    "40325": "invalid_sender",  # invalid alphanumeric sender
    "40328": "content_rejected",  # more segments than recommended
    "40329": "sender_unregistered",  # toll-free number isn't verified
    "40330": "sender_unregistered",  # toll-free number isn't provisioned yet
    "40331": "region_blocked",  # the profile's list of destinations is empty
}
RETRIES: dict[str, str] = {
    "10009": "gateway_error",  # authentication failed
    "10010": "gateway_error",  # authorization failed
    "10011": "throttled",  # too many requests
    "20012": "gateway_error",  # account inactive
    "20013": "gateway_error",  # account blocked
    "40011": "throttled",  # the carrier's rate limit
    "40016": "throttled",  # T-Mobile's 10DLC limit
    "40018": "throttled",  # AT&T's 10DLC limit
    "40311": "gateway_error",  # invalid messaging profile secret
    "40312": "gateway_error",  # messaging profile is disabled
    "40313": "gateway_error",  # missing messaging profile secret
    "40314": "gateway_error",  # messaging disabled on the account
    "40315": "gateway_error",  # unhealthy 'from' address
    "40318": "queue_full",
    "40320": "gateway_error",  # 'from' address temporarily unusable
    "40321": "gateway_error",  # no usable number on the profile
    "40333": "gateway_error",  # the profile's spend limit is reached
}

# `to[0].status` of message.sent and message.finalized.
STATES: dict[str, State] = {
    "queued": "accepted",
    "sending": "enroute",
    "sent": "enroute",
    "delivered": "delivered",
    "read": "delivered",
    "delivery_failed": "undelivered",
    "sending_failed": "rejected",  # it never left Telnyx
    "expired": "expired",
    "delivery_unconfirmed": "unknown",  # final: no report came
}


class Settings(ProviderSettings, frozen=True):
    url: str
    authorization: str
    public_key: Ed25519PublicKey | None
    messaging_profile: str


class _Error(msgspec.Struct):
    code: str | int = ""


class _Address(msgspec.Struct):
    phone_number: str = ""
    status: str = ""


class _Message(msgspec.Struct):
    """A message of ours or an inbound one: `to` is a list in both."""

    id: str = ""
    sender: _Address = msgspec.field(default_factory=_Address, name="from")
    to: list[_Address] = []
    text: str | None = None
    errors: list[_Error] | None = None
    sent_at: str | None = None
    completed_at: str | None = None


class _Answer(msgspec.Struct):
    data: _Message = msgspec.field(default_factory=_Message)
    errors: list[_Error] = []


class _Data(msgspec.Struct):
    event_type: str = ""
    payload: _Message = msgspec.field(default_factory=_Message)


class _Event(msgspec.Struct):
    data: _Data


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    dsn = parse_dsn(name, url, settings, extra=("public_key", "messaging_profile"))
    if not dsn.password:
        raise wrong(name, "url", "needs :API_KEY before the host")
    given = text(name, dsn.extra, "public_key")
    if dsn.callback_url and not given:
        raise wrong(name, "public_key", "is needed to check the signatures of callbacks")
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(given, validate=True)) if given else None
    except ValueError:
        raise wrong(name, "public_key", "must be an Ed25519 public key in base64") from None
    return Settings(
        dsn=dsn,
        url=f"{dsn.base_url.rstrip('/')}/v2/messages",
        authorization=f"Bearer {dsn.password}",
        public_key=key,
        messaging_profile=text(name, dsn.extra, "messaging_profile"),
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to Telnyx. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(settings: Settings, submission: Submission) -> HttpRequest:
    body: dict[str, object] = {
        "to": submission.to,
        "text": submission.text,
        "type": "SMS",
        "encoding": submission.encoding,  # "auto" could make other segments of it than we counted
    }
    if submission.sender:
        body["from"] = international(submission.sender)
    if settings.messaging_profile:
        body["messaging_profile_id"] = settings.messaging_profile
    if settings.dsn.callback_url:
        body["webhook_url"] = settings.dsn.callback_url
    return json_post(
        settings.url,
        {"Authorization": settings.authorization, "Idempotency-Key": submission.message_id},
        body,
    )


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """200 with an id is acceptance; 4xx with a code is looked up; all else goes by its status."""
    answer = decoded(body, _Answer)
    if answer is None:
        return by_status(status, headers)
    if status in (200, 201, 202):
        return Accepted(answer.data.id) if answer.data.id else Unknown("bad_answer", "no id")
    code = str(answer.errors[0].code) if answer.errors else ""
    if 400 <= status <= 499:
        if code in RETRIES:
            return Retry(RETRIES[code], code, retry_after_s(headers))
        if code in REJECTIONS:
            return Rejected(REJECTIONS[code], code)
    if status == CHANGED_REPETITION:
        return Unknown("duplicate", f"HTTP {status} {code}".rstrip())
    return by_status(status, headers, code)


def receive(
    settings: Settings,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    clock: Callable[[], float] = time.time,
) -> list[Receipt | Inbound]:
    """One event: a message's status or an inbound text. Raises BadSignature, BadCallback."""
    if not _is_signed(settings.public_key, headers, body, clock()):
        raise BadSignature
    data = called_with(body, _Event, "an event").data
    message = data.payload
    if data.event_type not in ("message.received", "message.sent", "message.finalized"):
        return []  # the profile's other events are none of ours, and to be had no more
    if not message.id or not message.to:
        raise BadCallback("id or to is missing")
    to = message.to[0]
    if data.event_type == "message.received":
        return [Inbound(message.sender.phone_number, digits(to.phone_number), message.text or "", message.id)]
    error = str(message.errors[0].code) if message.errors else ""
    return [
        Receipt(
            gateway_message_id=message.id,
            state=STATES.get(to.status, "unknown"),
            raw=to.status,
            error=error,
            to=digits(to.phone_number),
            sender=digits(message.sender.phone_number),
            submitted_at=iso_unix_s(message.sent_at),
            done_at=iso_unix_s(message.completed_at),
            opted_out=REJECTIONS.get(error) == "opted_out",
        )
    ]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200)


def _is_signed(key: Ed25519PublicKey | None, headers: Mapping[str, str], body: bytes, now_s: float) -> bool:
    """Base64 of a signature over `timestamp|body`, by a timestamp that is near enough."""
    stamp = headers.get("telnyx-timestamp", "")
    if key is None or re.fullmatch("[0-9]{1,12}", stamp) is None or abs(now_s - int(stamp)) > MAX_AGE_S:
        return False
    try:
        given = base64.b64decode(headers.get("telnyx-signature-ed25519", ""), validate=True)
    except ValueError:
        return False
    try:
        key.verify(given, f"{stamp}|".encode() + body)
    except InvalidSignature:
        return False
    return True
