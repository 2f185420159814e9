"""Zalo Notification Service (ZNS): template messages to Zalo accounts by their phone numbers.

    zns://:ACCESS_TOKEN@business.openapi.zalo.me?app_id=…&oa_secret=…

The password is the official account's access token, which lives about 25 hours: whoever refreshes it
must apply the gateway's configuration anew, and until then texts are refused (-124) and wait. Takes
templates, not texts: see `gateways.templates` for `template`, `template_parameter` (`content` by default)
and `templates`, written with `<name>`. Other options, beside those of every HTTP gateway: `app_id` and
`oa_secret`, needed when callbacks are used, to check signatures. Point the application's webhook at
`{callback_url}/v1/callbacks/{gateway}` and subscribe it to receipts of ZNS; other events are answered and
dropped: what people write to the account comes from Zalo ids, not from numbers. A sender isn't sent.

Guarantees: pure; a callback is read only after its X-ZEvent-Signature was checked. Our message id goes
along as `tracking_id`, which comes back in receipts but isn't used against duplicates. A receipt says that
the device has it; there is none for failure. No validity can be given.

Written from documentation alone, never run against Zalo's service: everything here. Zalo's own library
(zalo-php-sdk) has no ZNS to compare with.
Sources: https://developers.zalo.me/docs/zalo-notification-service/gui-tin-zns/gui-zns,
https://zalo.cloud/zns/guidelines/handle-error-code,
https://developers.zalo.me/docs/zalo-notification-service/webhook/su-kien-nguoi-dung-nhan-thong-bao-zns,
https://developers.zalo.me/docs/official-account/webhook/xac-thuc-nguon-goc-su-kien.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import partial

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
    BadSignature,
    HttpReply,
    HttpRequest,
    ProviderSettings,
    by_status,
    decoded,
    digits,
    json_post,
    parse_dsn,
    same,
    text,
    wrong,
)

PLACEHOLDER = re.compile(r"<(\w+)>")
MAX_TRACKING_ID = 48  # characters
RECEIVED = "user_received_message"

# `error` of the answer; 0 is acceptance, -100 is an error that Zalo can't explain.
UNEXPLAINED = -100
REJECTIONS: dict[int, str] = {
    -107: "invalid_request",  # invalid message id
    -108: "invalid_number",
    -109: "content_rejected",  # invalid template id
    -110: "unreachable",  # the person's Zalo is too old
    -111: "content_rejected",  # no template data
    -112: "content_rejected",  # invalid template data
    -114: "unreachable",  # inactive, declined, or too old a Zalo
    -115: "no_credit",
    -116: "content_rejected",  # invalid text
    -118: "unreachable",  # no Zalo account by this number
    -119: "unreachable",  # the account can't receive ZNS
    -121: "content_rejected",  # no body
    -122: "content_rejected",  # invalid body
    -126: "no_credit",  # the wallet's, in development
    -127: "not_permitted",  # test templates go to administrators only
    -130: "content_rejected",  # too long
    -131: "content_rejected",  # template not approved
    -132: "content_rejected",  # invalid parameter
    -134: "opted_out",  # the person didn't agree
    -137: "no_credit",
    -139: "opted_out",  # from this kind of message
    -141: "opted_out",  # from this official account
    -145: "not_permitted",  # kind of content
    -146: "content_rejected",  # template switched off for its quality
}
RETRIES: dict[int, str] = {
    -101: "gateway_error",  # invalid application
    -102: "gateway_error",  # no such application
    -103: "gateway_error",  # application not active
    -104: "gateway_error",  # invalid application secret
    -105: "gateway_error",  # application without official account
    -106: "gateway_error",  # method not supported
    -117: "gateway_error",  # no permission for this template
    -120: "gateway_error",  # no permission for this function
    -124: "gateway_error",  # invalid access token: expired, most of the time
    -125: "gateway_error",  # invalid official account
    -133: "throttled",  # not at night, 22 to 6 h
    -135: "gateway_error",  # the official account may not send ZNS
    -136: "gateway_error",  # no Zalo Cloud Account
    -138: "gateway_error",  # the application may not
    -144: "throttled",  # the day's quota of the official account
    -147: "throttled",  # the day's quota of the template
}


class Settings(ProviderSettings, frozen=True):
    url: str
    templates: templates.Templates
    app_id: str
    oa_secret: str


class _Data(msgspec.Struct):
    id: str = msgspec.field(default="", name="msg_id")


class _Answer(msgspec.Struct):
    error: int
    data: _Data | None = None


class _Message(msgspec.Struct):
    id: str = msgspec.field(default="", name="msg_id")
    delivered_ms: str | int = msgspec.field(default="", name="delivery_time")


class _Event(msgspec.Struct):
    name: str = msgspec.field(default="", name="event_name")
    timestamp: str | int = ""
    message: _Message | None = None


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    dsn = parse_dsn(name, url, settings, extra=("app_id", "oa_secret", *templates.KEYS))
    if not dsn.password:
        raise wrong(name, "url", "needs :ACCESS_TOKEN before the host")
    app_id, secret = text(name, dsn.extra, "app_id"), text(name, dsn.extra, "oa_secret")
    if dsn.callback_url and not (app_id and secret):
        raise wrong(name, "oa_secret", "and app_id are needed to check the signatures of callbacks")
    return Settings(
        dsn=dsn,
        url=f"{dsn.base_url.rstrip('/')}/message/template",
        templates=templates.parse(name, dsn.extra, PLACEHOLDER, "content"),
        app_id=app_id,
        oa_secret=secret,
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to ZNS. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(settings: Settings, submission: Submission) -> HttpRequest:
    template, values = settings.templates.choose(submission.text)
    body = {
        "phone": digits(submission.to),
        "template_id": template,
        "template_data": dict(values),
        "tracking_id": submission.message_id[:MAX_TRACKING_ID],
    }
    return json_post(settings.url, {"access_token": settings.dsn.password}, body)


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """200 with an error number, 0 for none; all else goes by its HTTP status."""
    if status != 200:
        return by_status(status, headers)
    answer = decoded(body, _Answer)
    if answer is None:
        return by_status(status, headers)
    raw = str(answer.error)
    if answer.error == 0:
        message_id = answer.data.id if answer.data is not None else ""
        return Accepted(message_id) if message_id else Unknown("bad_answer", "no msg_id")
    if answer.error == UNEXPLAINED:
        return Unknown("server_error", raw)
    if answer.error in RETRIES:
        return Retry(RETRIES[answer.error], raw)
    return Rejected(REJECTIONS.get(answer.error, "rejected"), raw)


def receive(
    settings: Settings, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> list[Receipt | Inbound]:
    """One event; only receipts matter. Raises BadSignature, BadCallback."""
    try:
        event = msgspec.json.decode(body, type=_Event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        event = None  # without a timestamp there is no telling whose it is
    given = headers.get("x-zevent-signature", "").removeprefix("mac=").strip()
    if event is None or not settings.oa_secret:
        raise BadSignature
    if not same(signature(settings.app_id, settings.oa_secret, body, str(event.timestamp)), given):
        raise BadSignature
    if event.name != RECEIVED or event.message is None:
        return []
    if not event.message.id:
        raise BadCallback("msg_id is missing")
    return [
        Receipt(
            gateway_message_id=event.message.id,
            state="delivered",
            raw=event.name,
            done_at=_seconds(str(event.message.delivered_ms)),
        )
    ]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200)


def signature(app_id: str, oa_secret: str, body: bytes, timestamp: str) -> str:
    """Hex of SHA-256 over application id, body, the body's own timestamp, and the account's secret."""
    return hashlib.sha256(app_id.encode() + body + timestamp.encode() + oa_secret.encode()).hexdigest()


def _seconds(milliseconds: str) -> float | None:
    return int(milliseconds) / 1000 if re.fullmatch("[0-9]{1,15}", milliseconds) else None
