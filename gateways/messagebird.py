"""MessageBird's SMS API over REST, rest.messagebird.com, which Bird keeps for its older customers.

    messagebird://:ACCESS_KEY@rest.messagebird.com?signing_key=…
    messagebird://:ACCESS_KEY@rest.messagebird.com?token=…

The password is the access key. Options, beside those of every HTTP gateway: `signing_key`, the account's
key for signed webhooks ("Developer settings"), or else `token`, a secret of ours in the query of the
callback's URL (keep it out of access logs then); one of them is needed when callbacks are used.
Reports are asked for with each message, by `reportUrl` and `reference`, without which there are none;
point the numbers' "forward to URL" step at `{callback_url}/v1/callbacks/{gateway}` for inbound texts.
Keys of Bird's newer API (`bk_…`) are for `bird`.

Guarantees: pure but for the clock that `receive` is given; a callback is read only after its
MessageBird-Signature-JWT was checked (key, issuer, time, URL and body), or its token. The signature
covers the URL as Bird called it, so `callback_url` must be what stands in MessageBird's settings. Our message
id goes along as `reference`, which Bird repeats in reports but doesn't use against duplicates. One id
stands for all segments of a text.

Never run against MessageBird's service. The request is that of its own library (messagebird 2.2.0, compared over
loopback), the signature is checked against the vectors of MessageBird's own libraries (tests); answers and
callbacks follow documentation alone. The numbers of errors are those
of the API reference; which of them a message may meet isn't said there, so `parameter` decides, too.
Sources: https://developers.messagebird.com/api/sms-messaging/,
https://developers.messagebird.com/api/#api-errors,
https://developers.messagebird.com/docs/verify-http-requests,
https://support.messagebird.com/hc/en-us/articles/360001869258-I-am-missing-my-delivery-reports.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
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
    decoded,
    digits,
    form_fields,
    has_token,
    international,
    iso_unix_s,
    json_post,
    json_value,
    parse_dsn,
    same,
    text,
    wrong,
)

MAX_REFERENCE = 128  # characters
LEEWAY_S = 1  # of a token's times
DIGESTS = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}

# `errors[0].code` of a refusal with a 4xx status.
REJECTIONS: dict[int, str] = {
    9: "invalid_request",  # missing parameter
    10: "invalid_request",  # invalid parameter
    21: "invalid_request",  # bad request
    25: "no_credit",
}
RETRIES: dict[int, str] = {
    2: "gateway_error",  # request not allowed: wrong access key
    98: "gateway_error",  # the API couldn't be found: wrong host or path
}
# `errors[0].parameter`, where it says more than codes 9, 10 and 21 do.
PARAMETERS: dict[str, str] = {
    "recipient": "invalid_number",
    "recipients": "invalid_number",
    "originator": "invalid_sender",
    "body": "content_rejected",
    "validity": "invalid_validity",
}

# `status` of a report.
STATES: dict[str, State] = {
    "scheduled": "accepted",
    "sent": "enroute",
    "buffered": "enroute",
    "delivered": "delivered",
    "expired": "expired",
    "delivery_failed": "undelivered",
}


class Settings(ProviderSettings, frozen=True):
    url: str
    authorization: str
    signing_key: str
    token: str
    report_url: str


class _Error(msgspec.Struct):
    code: int = 0
    parameter: str | None = None


class _Answer(msgspec.Struct):
    """The message, or errors."""

    id: str = ""
    errors: list[_Error] = []


class _Header(msgspec.Struct):
    alg: str


class _Claims(msgspec.Struct):
    iss: str
    nbf: float
    exp: float
    url_hash: str
    payload_hash: str = ""


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    dsn = parse_dsn(name, url, settings, extra=("signing_key", "token"))
    if not dsn.password:
        raise wrong(name, "url", "needs :ACCESS_KEY before the host")
    key, token = text(name, dsn.extra, "signing_key"), text(name, dsn.extra, "token")
    if dsn.callback_url and not key and not token:
        raise wrong(name, "signing_key", "or token is needed to know who calls back")
    return Settings(
        dsn=dsn,
        url=f"{dsn.base_url.rstrip('/')}/messages",
        authorization=f"AccessKey {dsn.password}",
        signing_key=key,
        token=token,
        report_url=called_back_at(dsn, token),
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to MessageBird. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(settings: Settings, submission: Submission) -> HttpRequest:
    body: dict[str, object] = {
        "recipients": [digits(submission.to)],
        "originator": submission.sender,
        "body": submission.text,
        "datacoding": "unicode" if submission.encoding == "ucs2" else "plain",
        "reference": submission.message_id[:MAX_REFERENCE],
    }
    if submission.validity_s is not None:
        body["validity"] = max(submission.validity_s, 1)
    if settings.report_url:
        body["reportUrl"] = settings.report_url
    return json_post(settings.url, {"Authorization": settings.authorization}, body)


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """201 with an id is acceptance; 4xx with a code is looked up; all else goes by its status."""
    answer = decoded(body, _Answer)
    if answer is None:
        return by_status(status, headers)
    if status in (200, 201):
        return Accepted(answer.id) if answer.id else Unknown("bad_answer", "no id")
    error = answer.errors[0] if answer.errors else _Error()
    raw = str(error.code or "")
    if 400 <= status <= 499 and status != 429:
        if error.code in RETRIES:
            return Retry(RETRIES[error.code], raw)
        if error.code in REJECTIONS:
            return Rejected(PARAMETERS.get(error.parameter or "", REJECTIONS[error.code]), raw)
    return by_status(status, headers, raw)


def receive(
    settings: Settings,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    clock: Callable[[], float] = time.time,
) -> list[Receipt | Inbound]:
    """One report (GET) or one inbound text (form, JSON or GET). Raises BadSignature, BadCallback."""
    if not _is_authentic(settings, url, headers, body, clock()):
        raise BadSignature
    values = _values(method, url, headers, body)
    message_id = values.get("id") or values.get("mid", "")
    if not message_id:
        raise BadCallback("id is missing")
    if "status" in values:
        error = values.get("statusErrorCode", "")
        return [
            Receipt(
                gateway_message_id=message_id,
                state=STATES.get(values["status"], "unknown"),
                raw=values["status"],
                error="" if error == "0" else error,
                to=digits(values.get("recipient", "")),
                done_at=iso_unix_s(values.get("statusDatetime", "")),
            )
        ]
    content = values.get("body", values.get("message"))  # a short code's text is named otherwise
    if content is None:
        raise BadCallback("neither status nor body")
    to = values.get("recipient") or values.get("shortcode", "")
    return [Inbound(international(digits(values.get("originator", ""))), digits(to), content, message_id)]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200, {"Content-Type": "text/plain"}, b"OK")


def is_signed(key: str, token: str, url: str, body: bytes, now_s: float) -> bool:
    """Is this JWT (RFC 7519) by MessageBird, valid now, and for this URL and body?"""
    signed, _, given = token.rpartition(".")
    head, _, payload = signed.partition(".")
    try:
        header = msgspec.json.decode(_from_base64url(head), type=_Header)
        claims = msgspec.json.decode(_from_base64url(payload), type=_Claims)
        signature = _from_base64url(given)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return False
    if header.alg not in DIGESTS:
        return False
    if not same(hmac.digest(key.encode(), signed.encode(), DIGESTS[header.alg]), signature):
        return False
    return (
        claims.iss == "MessageBird"
        and claims.nbf - LEEWAY_S <= now_s <= claims.exp + LEEWAY_S
        and same(hashlib.sha256(url.encode()).hexdigest(), claims.url_hash)
        and same(hashlib.sha256(body).hexdigest() if body else "", claims.payload_hash)
    )


def _is_authentic(
    settings: Settings, url: str, headers: Mapping[str, str], body: bytes, now_s: float
) -> bool:
    """Where a key is set, only its signature counts; the token in a URL is the weaker proof."""
    if settings.signing_key:
        jwt = headers.get("messagebird-signature-jwt", "")
        return is_signed(settings.signing_key, jwt, url, body, now_s)
    return has_token(settings.token, url)


def _from_base64url(value: str) -> bytes:
    """RFC 7515 section 2: without padding. Raises ValueError."""
    return base64.b64decode(value + "=" * (-len(value) % 4), altchars="-_", validate=True)


def _values(method: str, url: str, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
    """The callback's fields, however it came. Raises BadCallback."""
    if method == "GET":
        return dict(form_fields(urlsplit(url).query))
    if not headers.get("content-type", "").startswith("application/json"):
        return dict(form_fields(body))
    try:
        value = json_value(body)
    except ValueError:
        raise BadCallback("not JSON") from None
    if not isinstance(value, dict):
        raise BadCallback("not an object")
    return {name: str(v) for name, v in value.items() if isinstance(v, str | int)}
