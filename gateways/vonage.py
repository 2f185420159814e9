"""Vonage's SMS API (formerly Nexmo).

    vonage://API_KEY:API_SECRET@rest.nexmo.com?signature_secret=…&signature=sha256

Options, beside those of every HTTP gateway: `signature_secret` (needed when callbacks are
used; signed webhooks are switched on by Vonage's support) and `signature` (`md5hash`, the
dashboard's default, `md5`, `sha1`, `sha256` or `sha512`). Point the account's inbound webhook
at `{callback_url}/v1/callbacks/{gateway}`; receipts are asked for with each message. Both
come by GET, form or JSON; the signature covers all three in the same way.

Guarantees: pure; a callback is read only after its `sig` was checked. Vonage names each part
of a long text, so each segment has its own outcome and id. Long inbound texts come in
parts (`concat`), each by a callback of its own, and are put together.

Never run against Vonage's service. The request is that of Vonage's own library (vonage-sms 1.2.0, compared over
loopback) but for the credentials, which it has in a header, signatures are checked against the vectors of Vonage's own
libraries (tests); statuses and callbacks follow documentation alone.
Sources: https://developer.vonage.com/en/api/sms,
https://developer.vonage.com/en/messaging/sms/guides/troubleshooting-sms,
https://developer.vonage.com/en/messaging/sms/guides/delivery-receipts,
https://developer.vonage.com/en/opt-out-assist/guides/messaging-opted-out-numbers,
https://developer.vonage.com/en/getting-started/concepts/signing-messages.
"""

from __future__ import annotations

import calendar
import hashlib
import hmac
import time
from collections.abc import Mapping
from functools import partial
from urllib.parse import urlsplit
from zlib import crc32

import msgspec

from gateways.base import (
    Accepted,
    Gateway,
    Inbound,
    Outcome,
    Part,
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
    decoded,
    digits,
    form_encode,
    form_fields,
    international,
    json_value,
    parse_dsn,
    same,
    text,
    wrong,
)

MIN_TTL_MS, MAX_TTL_MS = 20_000, 604_800_000
MAX_CALLBACK = 100  # characters
PARTS_WAIT_S = 300.0  # for the other parts of an inbound text

# `status` of each part in the answer: 0 is acceptance, 5 an error inside Vonage, after which
# the text may have left: Unknown.
REJECTIONS: dict[str, str] = {
    "2": "invalid_request",  # missing parameter
    "3": "invalid_request",  # invalid parameter
    "6": "no_route",  # the number's prefix isn't recognised
    "7": "blocked",  # the number is barred
    "9": "no_credit",
    "12": "content_rejected",  # too long
    "15": "invalid_sender",
    "22": "no_route",  # network code doesn't fit the number
    "23": "invalid_request",  # invalid callback URL
    "29": "not_permitted",  # number not on the list of a trial account
    "33": "blocked",  # number deactivated
}
RETRIES: dict[str, str] = {
    "1": "throttled",
    "4": "gateway_error",  # wrong credentials
    "8": "gateway_error",  # account suspended
    "10": "throttled",  # too many connections
    "11": "gateway_error",  # account not enabled for HTTP
    "14": "gateway_error",  # wrong signature
    "32": "gateway_error",  # signature and secret don't go together
}

# `status` of a delivery receipt.
STATES: dict[str, State] = {
    "accepted": "accepted",
    "buffered": "enroute",
    "delivered": "delivered",
    "expired": "expired",
    "failed": "undelivered",
    "rejected": "rejected",
    "unknown": "unknown",
}
OPTED_OUT = "9"  # `err-code`: the person asked not to get texts from that sender

DIGESTS = ("md5hash", "md5", "sha1", "sha256", "sha512")


class Settings(ProviderSettings, frozen=True):
    url: str
    signature_secret: str
    signature: str


class _Part(msgspec.Struct):
    status: str
    id: str = msgspec.field(default="", name="message-id")


class _Answer(msgspec.Struct):
    messages: list[_Part]


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    dsn = parse_dsn(name, url, settings, extra=("signature_secret", "signature"))
    if not dsn.username or not dsn.password:
        raise wrong(name, "url", "needs API_KEY:API_SECRET before the host")
    secret = text(name, dsn.extra, "signature_secret")
    if dsn.callback_url and not secret:
        raise wrong(name, "signature_secret", "is needed to check the signatures of callbacks")
    if len(dsn.callback_url) > MAX_CALLBACK:
        raise wrong(name, "callback_url", f"makes an address of more than {MAX_CALLBACK} characters")
    digest = text(name, dsn.extra, "signature", "md5hash")
    if digest not in DIGESTS:
        raise wrong(name, "signature", f"must be one of {', '.join(DIGESTS)}")
    return Settings(dsn, f"{dsn.base_url.rstrip('/')}/sms/json", secret, digest)


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to Vonage. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(settings: Settings, submission: Submission) -> HttpRequest:
    dsn = settings.dsn
    fields = [
        ("api_key", dsn.username),
        ("api_secret", dsn.password),
        ("to", digits(submission.to)),
        ("from", submission.sender),
        ("text", submission.text),
        ("type", "unicode" if submission.encoding == "ucs2" else "text"),
        ("client-ref", submission.message_id[:100]),
    ]
    if submission.validity_s is not None:
        fields.append(("ttl", str(min(max(submission.validity_s * 1000, MIN_TTL_MS), MAX_TTL_MS))))
    if dsn.callback_url:
        fields += [("status-report-req", "1"), ("callback", dsn.callback_url)]
    return HttpRequest(
        "POST",
        settings.url,
        {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
        form_encode(fields).encode(),
    )


def outcome(
    settings: Settings, status: int, headers: Mapping[str, str], body: bytes
) -> Outcome | list[Outcome]:
    """200 with a status for each part; all else goes by its HTTP status."""
    if status != 200:
        return by_status(status, headers)
    answer = decoded(body, _Answer)
    if answer is None:
        return by_status(status, headers)
    parts = answer.messages
    return [_part_outcome(part) for part in parts] or Unknown("bad_answer", "no parts")


def _part_outcome(part: _Part) -> Outcome:
    if part.status == "0":
        return Accepted(part.id) if part.id else Unknown("bad_answer", "no message-id")
    if part.status in RETRIES:
        return Retry(RETRIES[part.status], part.status)
    if part.status == "5":
        return Unknown("server_error", "5")
    return Rejected(REJECTIONS.get(part.status, "rejected"), part.status)


def receive(
    settings: Settings, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> list[Receipt | Inbound]:
    """One receipt or one inbound text (or a part of one). Raises BadSignature, BadCallback."""
    values = _values(method, url, headers, body)
    given = values.pop("sig", "")
    if not settings.signature_secret or not given:
        raise BadSignature
    if not same(signature(settings.signature_secret, settings.signature, values), given.lower()):
        raise BadSignature
    if not values.get("messageId"):
        raise BadCallback("messageId is missing")
    if "status" in values:
        return [_receipt(values)]
    if "text" in values:
        return [
            Inbound(
                sender=international(values.get("msisdn", "")),
                to=values.get("to", ""),
                text=values["text"],
                gateway_message_id=values["messageId"],
                part=_inbound_part(values),
            )
        ]
    raise BadCallback("neither status nor text")


def _inbound_part(values: Mapping[str, str]) -> Part | None:
    """Which part of a long text it is; None: it is whole, or does not say it rightly."""
    numbers = [values.get(name, "") for name in ("concat-total", "concat-part")]
    if values.get("concat", "").lower() not in ("true", "1") or not all(
        number.isascii() and number.isdigit() and len(number) <= 3 for number in numbers
    ):
        return None
    total, index = map(int, numbers)
    if not 1 <= index <= total <= 255:
        return None
    reference = crc32(values.get("concat-ref", "").encode()) & 0x7FFFFFFF
    return Part(reference, total, index, values["text"].encode("utf-16-be", "replace"), "ucs2", PARTS_WAIT_S)


def reply(settings: Settings) -> HttpReply:
    return HttpReply(204)


def signature(secret: str, digest: str, values: Mapping[str, str]) -> str:
    """Lower-case hex over `&name=value` of each field but `sig`, sorted; `&` and `=` in values become `_`."""
    signed = "".join(f"&{name}={values[name].replace('&', '_').replace('=', '_')}" for name in sorted(values))
    if digest == "md5hash":
        return hashlib.md5((signed + secret).encode()).hexdigest()  # noqa: S324  Vonage's default
    return hmac.new(secret.encode(), signed.encode(), digest).hexdigest()


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
    if not isinstance(value, dict) or not all(isinstance(v, str | int) for v in value.values()):
        raise BadCallback("not an object of plain values")
    return {name: v if isinstance(v, str) else str(v) for name, v in value.items()}


def _receipt(values: Mapping[str, str]) -> Receipt:
    error = values.get("err-code", "")
    return Receipt(
        gateway_message_id=values["messageId"],
        state=STATES.get(values["status"].lower(), "unknown"),
        raw=values["status"],
        error="" if error == "0" else error,
        to=digits(values.get("msisdn", "")),
        sender=values.get("to", ""),
        done_at=_scts(values.get("scts", "")),
        opted_out=error == OPTED_OUT,
    )


def _scts(value: str) -> float | None:
    """`YYMMDDHHMM` in UTC: when the receipt came from the carrier."""
    try:
        return float(calendar.timegm(time.strptime(value, "%y%m%d%H%M")))
    except ValueError:
        return None
