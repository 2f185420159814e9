"""LINE: notification messages (flexible), pushed to whoever has a phone number.

    line://:CHANNEL_ACCESS_TOKEN@api.line.me?channel_secret=…

The password is the channel access token (long-lived), percent-encoded. An ordinary push message goes to a
LINE user id, which no text of ours has; LINE's notification messages go to a number, hashed. They are for
companies that LINE let in, in Japan, Thailand and Taiwan, for content that LINE approved, and never for
advertising: don't route marketing this way. Option, beside those of every HTTP gateway: `channel_secret`,
needed when callbacks are used, to check signatures. Point the channel's webhook at
`{callback_url}/v1/callbacks/{gateway}`; what people write to the account comes from user ids, not from
numbers, and is answered and dropped, like every event but `delivery`. A sender isn't sent.

Guarantees: pure but for `build`; a callback is read only after its X-Line-Signature was checked. LINE's
answer names no id, so our message id, which goes along as X-Line-Delivery-Tag (16 to 100 characters), is the
id: delivery events name it. There is none for failure, and none while the person hasn't agreed to such messages.
X-Line-Retry-Key, LINE's key against duplicates, is for other kinds of push, and refused here. No validity
can be given.

Never run against LINE's service. Request and signature are those of LINE's own library (line-bot-sdk 3.27.0, the
request compared over loopback), so is the event; what statuses of answers mean follows documentation alone.
Sources: https://developers.line.biz/en/reference/line-notification-messages/#send-line-notification-message-flexible,
https://developers.line.biz/en/docs/partner-docs/line-notification-messages/technical-specs/,
https://developers.line.biz/en/docs/partner-docs/line-notification-messages/message-sending-complete-webhook-event/,
https://developers.line.biz/en/docs/messaging-api/retrying-api-request/,
https://developers.line.biz/en/docs/messaging-api/verify-webhook-signature/.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from contextvars import ContextVar

import msgspec

from gateways.base import (
    Accepted,
    Gateway,
    Inbound,
    Outcome,
    Receipt,
    Rejected,
    Sink,
    Submission,
    Unknown,
)
from gateways.http import HttpGateway
from gateways.provider import (
    BadSignature,
    HttpReply,
    HttpRequest,
    ProviderSettings,
    by_status,
    called_with,
    parse_dsn,
    same,
    text,
    wrong,
)

# HTTP statuses that say more here than anywhere. LINE gives sentences, no codes.
REJECTIONS: dict[int, str] = {
    400: "invalid_request",
    413: "content_rejected",
    422: "unreachable",  # no account by this number, or one that can't get such messages
}


class Settings(ProviderSettings, frozen=True):
    url: str
    authorization: str
    channel_secret: str


class _Delivery(msgspec.Struct):
    data: str = ""


class _Event(msgspec.Struct):
    type: str
    timestamp: float = 0
    delivery: _Delivery = msgspec.field(default_factory=_Delivery)


class _Events(msgspec.Struct):
    events: list[_Event]


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    dsn = parse_dsn(name, url, settings, extra=("channel_secret",))
    if not dsn.password:
        raise wrong(name, "url", "needs :CHANNEL_ACCESS_TOKEN before the host")
    secret = text(name, dsn.extra, "channel_secret")
    if dsn.callback_url and not secret:
        raise wrong(name, "channel_secret", "is needed to check the signatures of callbacks")
    return Settings(
        dsn=dsn,
        url=f"{dsn.base_url.rstrip('/')}/bot/pnp/push",
        authorization=f"Bearer {dsn.password}",
        channel_secret=secret,
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to LINE. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    # `HttpGateway` asks and reads the answer in one task for each submission, so what is set there is
    # what is read there, however many are under way.
    current: ContextVar[str] = ContextVar("message_id")

    def ask(submission: Submission) -> HttpRequest:
        current.set(submission.message_id)
        return request(parsed, submission)

    def told(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        return outcome(parsed, status, headers, body, current.get())

    return HttpGateway(parsed.dsn, sink, ask, told)


def request(settings: Settings, submission: Submission) -> HttpRequest:
    body = {
        "to": hashlib.sha256(submission.to.encode()).hexdigest(),
        "messages": [{"type": "text", "text": submission.text}],
    }
    return HttpRequest(
        "POST",
        settings.url,
        {
            "Authorization": settings.authorization,
            "Content-Type": "application/json",
            "X-Line-Delivery-Tag": submission.message_id,
        },
        msgspec.json.encode(body),
    )


def outcome(
    settings: Settings, status: int, headers: Mapping[str, str], body: bytes, message_id: str = ""
) -> Outcome:
    """200 or 202 is acceptance, by our own id; some statuses are looked up, the rest mean what they always do."""
    if status in (200, 202):
        return Accepted(message_id) if message_id else Unknown("bad_answer", "no id")
    if status in REJECTIONS:
        return Rejected(REJECTIONS[status], f"HTTP {status}")
    return by_status(status, headers)


def receive(
    settings: Settings, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> list[Receipt | Inbound]:
    """Events, several in one call, or none when LINE tries the webhook. Raises BadSignature, BadCallback."""
    given = headers.get("x-line-signature", "")
    if not settings.channel_secret or not same(signature(settings.channel_secret, body), given):
        raise BadSignature
    events = called_with(body, _Events, "events").events
    return [
        Receipt(
            gateway_message_id=event.delivery.data,
            state="delivered",
            raw=event.type,
            done_at=event.timestamp / 1000 or None,
        )
        for event in events
        if event.type == "delivery" and event.delivery.data
    ]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200)


def signature(channel_secret: str, body: bytes) -> str:
    """Base64 of HMAC-SHA256 over the body."""
    return base64.b64encode(hmac.digest(channel_secret.encode(), body, hashlib.sha256)).decode()
