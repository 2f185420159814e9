"""Plivo's Message API.

    plivo://AUTH_ID:AUTH_TOKEN@api.plivo.com?powerpack=UUID

Option, beside those of every HTTP gateway: `powerpack`, the UUID of a Powerpack that chooses the
number; the message's own sender isn't sent then, since Plivo takes one or the other. Receipts are
asked for with each message; point the message URL of the application that holds your numbers at
`{callback_url}/v1/callbacks/{gateway}`. A long text is one message with one id: Plivo counts its
units and reports on all of them together.

Guarantees: pure; a callback is read only after its signature was checked: X-Plivo-Signature-V3,
which covers URL and fields, or the older X-Plivo-Signature-V2 or -Ma-V2 (signed with the main
account's token), which cover the URL alone, so that a stranger who overheard one could reuse it
with other fields: keep callbacks on https. Plivo takes no reference of ours and no idempotency key.

Never run against Plivo's service. The request is that of Plivo's own library (plivo 4.63.0, compared over loopback),
signatures are checked against it (tests): V3 by its validator, V2 by its vector. Answers, statuses and codes follow
documentation alone.
Sources: https://www.plivo.com/docs/messaging/api/message/send-a-message,
https://www.plivo.com/docs/messaging/api/message/message-status-callbacks,
https://www.plivo.com/docs/messaging/api/response,
https://www.plivo.com/docs/messaging/troubleshooting/error-codes,
https://support.plivo.com/hc/en-us/articles/14814454609561-Message-Expiry,
https://support.plivo.com/support/solutions/articles/17000089602 (opted out),
https://www.plivo.com/docs/messaging/concepts/signature-validation.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from urllib.parse import urlsplit

import msgspec

from gateways.base import (
    Accepted,
    Gateway,
    Inbound,
    Outcome,
    Receipt,
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
    basic,
    by_status,
    decoded,
    digits,
    form_fields,
    international,
    json_post,
    parse_dsn,
    same,
    text,
    wrong,
)

# "message_expiry": 5 to 10,799 s; without it a text waits three hours in Plivo's queue, never longer.
MIN_EXPIRY_S, DEFAULT_EXPIRY_S = 5, 10_800

# `Status` of a callback; "failed" never left Plivo, "undelivered" came back from the carrier.
STATES: dict[str, State] = {
    "queued": "accepted",
    "sent": "enroute",
    "delivered": "delivered",
    "read": "delivered",
    "undelivered": "undelivered",
    "failed": "rejected",
    "rejected": "rejected",  # before 2020
}
OPTED_OUT = "200"  # ErrorCode of a message to a person who had said STOP to that number of ours
EXPIRED = "420"  # ErrorCode of a message that outlived its message_expiry in Plivo's queue

V3 = "x-plivo-signature-v3"
V2 = ("x-plivo-signature-v2", "x-plivo-signature-ma-v2")


class Settings(ProviderSettings, frozen=True):
    url: str
    authorization: str
    powerpack: str


class _Answer(msgspec.Struct):
    ids: list[str] = msgspec.field(default_factory=list, name="message_uuid")


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    dsn = parse_dsn(name, url, settings, extra=("powerpack",))
    if not dsn.username.isalnum() or not dsn.password:
        raise wrong(name, "url", "needs AUTH_ID:AUTH_TOKEN before the host")
    return Settings(
        dsn=dsn,
        url=f"{dsn.base_url.rstrip('/')}/v1/Account/{dsn.username}/Message/",
        authorization=basic(dsn.username, dsn.password),
        powerpack=text(name, dsn.extra, "powerpack"),
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to Plivo. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(settings: Settings, submission: Submission) -> HttpRequest:
    body: dict[str, object] = {"dst": digits(submission.to), "text": submission.text, "type": "sms"}
    if settings.powerpack:
        body["powerpack_uuid"] = settings.powerpack
    else:
        body["src"] = submission.sender
    if submission.validity_s is not None and submission.validity_s < DEFAULT_EXPIRY_S:
        body["message_expiry"] = max(submission.validity_s, MIN_EXPIRY_S)
    if settings.dsn.callback_url:
        body |= {"url": settings.dsn.callback_url, "method": "POST"}
    return json_post(settings.url, {"Authorization": settings.authorization}, body)


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """202 with one id is acceptance. Refusals come with a sentence, not a code: they go by HTTP status."""
    if status not in (200, 201, 202):
        return by_status(status, headers)
    answer = decoded(body, _Answer)
    if answer is None:
        return by_status(status, headers)
    ids = answer.ids
    return Accepted(ids[0]) if len(ids) == 1 and ids[0] else Unknown("bad_answer", "not one message_uuid")


def receive(
    settings: Settings, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> list[Receipt | Inbound]:
    """One status callback or one inbound text. Raises BadSignature, BadCallback."""
    fields = form_fields(body) if method == "POST" else []
    if not _is_signed(settings.dsn.password, url, headers, fields):
        raise BadSignature
    values = dict(fields if method == "POST" else form_fields(urlsplit(url).query))
    message_id = values.get("ParentMessageUUID") or values.get("MessageUUID", "")
    if not message_id:
        raise BadCallback("MessageUUID is missing")
    sender, to = digits(values.get("From", "")), digits(values.get("To", ""))
    status = values.get("Status", "")
    if not status:
        if "Text" not in values:
            raise BadCallback("neither Status nor Text")
        return [Inbound(international(sender), to, values["Text"], message_id)]
    error = values.get("ErrorCode", "")
    return [
        Receipt(
            gateway_message_id=message_id,
            state="expired" if error == EXPIRED else STATES.get(status, "unknown"),
            raw=status,
            error="" if error in ("000", "0") else error,
            to=to,
            sender=sender,
            opted_out=error == OPTED_OUT,
        )
    ]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200)


def signature_v2(token: str, url: str, nonce: str) -> str:
    """Base64 of HMAC-SHA256 over scheme, host and path, and the nonce."""
    return _hmac(token, urlsplit(url)._replace(query="", fragment="").geturl() + nonce)


def signature_v3(token: str, url: str, fields: Sequence[tuple[str, str]], nonce: str) -> str:
    """Base64 of HMAC-SHA256 over `path?sorted=query.sortedfields.nonce`; what is empty falls away.

    A form leaves its question mark and dot even when there is no query; fields have no separators.
    """
    parts = urlsplit(url)
    query = "&".join(f"{name}={value}" for name, value in sorted(form_fields(parts.query)))
    signed = parts._replace(query="", fragment="").geturl()
    if query or fields:
        signed += f"?{query}"
    if query and fields:
        signed += "."
    signed += _joined(fields)
    return _hmac(token, f"{signed}.{nonce}")


def _joined(fields: Iterable[tuple[str, str]]) -> str:
    return "".join(name + value for name, value in sorted(fields))


def _hmac(token: str, signed: str) -> str:
    return base64.b64encode(hmac.digest(token.encode(), signed.encode(), hashlib.sha256)).decode()


def _is_signed(token: str, url: str, headers: Mapping[str, str], fields: Sequence[tuple[str, str]]) -> bool:
    """By the strongest of the signatures that are there. Several may stand in one header."""
    if V3 in headers:
        expected = signature_v3(token, url, fields, headers.get(f"{V3}-nonce", ""))
        given = headers[V3].split(",")
    else:
        expected = signature_v2(token, url, headers.get(f"{V2[0]}-nonce", ""))
        given = [value for name in V2 for value in headers.get(name, "").split(",")]
    matches = [same(expected, value.strip()) for value in given]
    return any(matches)
