"""Twilio's Programmable Messaging over REST: the Messages resource of API 2010-04-01.

    twilio://ACCOUNT_SID:AUTH_TOKEN@api.twilio.com?concurrency=50
    twilio://API_KEY_SID:API_KEY_SECRET@api.twilio.com?account=AC…&auth_token=…

Options, beside those of every HTTP gateway: `account` (needed with an API key),
`auth_token` (needed with an API key when callbacks are used: Twilio signs with the
account's token, never with a key), `messaging_service` (MG…, sent along with the sender) and `webhook_key`, the
secret of a shared key (Twilio's Webhooks API), where callbacks are signed with one: then nothing else counts.
A `sender` that is itself an MG… SID is used as the messaging service. Point the numbers' or
the service's "a message comes in" webhook at `{callback_url}/v1/callbacks/{gateway}`;
receipts are asked for with each message.

Guarantees: pure; a callback is read only after its X-Twilio-Signature was checked; codes
that the table doesn't know are refusals (`rejected`) in an answer with a 4xx status, and
`unknown` as a receipt's status.

Never run against Twilio's service. The request is that of Twilio's own library (twilio 9.13.0, compared over loopback),
signatures are checked against that library (tests); codes, statuses and callbacks follow documentation alone.
Twilio's smart encoding is always off: it would change the text.
Sources: https://www.twilio.com/docs/messaging/api/message-resource,
https://www.twilio.com/docs/api/errors, https://www.twilio.com/docs/usage/security
(validating requests), https://www.twilio.com/docs/messaging/guides/webhook-request.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence
from functools import partial
from urllib.parse import SplitResult, urlsplit

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
    basic,
    by_status,
    decoded,
    digits,
    form_encode,
    form_fields,
    international,
    parse_dsn,
    retry_after_s,
    same,
    text,
    wrong,
)

MAX_VALIDITY_S = 36_000  # "ValidityPeriod": 1 to 36,000 s

# https://www.twilio.com/docs/api/errors: what each code says about the text. Codes of the REST
# answer and of the status callback share one numbering.
REJECTIONS: dict[int, str] = {
    10002: "gateway_trial",  # trial account doesn't support this feature
    21211: "invalid_number",  # invalid To
    21212: "invalid_sender",  # invalid From
    21214: "invalid_number",  # To can't be reached
    21217: "invalid_number",  # phone number doesn't appear to be valid
    21219: "not_permitted",  # To not verified (trial account)
    21265: "invalid_number",  # To can't be a short code
    21266: "invalid_number",  # To and From are the same
    21267: "invalid_sender",  # alphanumeric sender on a trial account
    21408: "region_blocked",  # no permission to send to the region of To
    21601: "invalid_sender",  # From can't send messages
    21602: "content_rejected",  # Body is required
    21603: "invalid_sender",  # From is required
    21604: "invalid_number",  # To is required
    21605: "content_rejected",  # Body too long
    21606: "invalid_sender",  # From is not a number of yours that can send to To
    21607: "invalid_sender",  # From must be a verified Twilio number (trial account)
    21608: "not_permitted",  # To not verified (trial account)
    21610: "opted_out",  # the recipient sent STOP to this sender
    21612: "no_route",  # To can't be reached from From
    21614: "invalid_number",  # To is not a mobile number
    21617: "content_rejected",  # Body longer than 1,600 characters
    21619: "content_rejected",  # neither body nor media
    21624: "invalid_validity",  # validity out of range
    21635: "invalid_number",  # To is a landline
    21658: "content_rejected",  # a parameter is too long
    21659: "invalid_sender",  # From is not a Twilio number, or the country doesn't match
    21660: "invalid_sender",  # From and account don't belong together
    21661: "invalid_sender",  # From can't send SMS
    21701: "invalid_sender",  # the messaging service doesn't exist
    21703: "invalid_sender",  # the messaging service has no sender
    21705: "invalid_sender",  # MessagingServiceSid is invalid
    21712: "invalid_sender",  # the sender is not in the messaging service's pool
    30002: "account_suspended",
    30003: "unreachable",  # handset off or out of reach
    30004: "blocked",  # by the recipient or the carrier
    30005: "invalid_number",  # unknown handset
    30006: "no_route",  # landline or carrier that can't be reached
    30007: "content_rejected",  # filtered
    30010: "price_exceeded",  # dearer than MaxPrice
    30032: "sender_unregistered",  # toll-free number not verified
    30034: "sender_unregistered",  # US long code without A2P 10DLC registration
    30035: "sender_unregistered",  # the long code is joining or leaving its A2P campaign
    90007: "invalid_validity",
}
# Refusals that may pass: the text may go again, later or by another gateway.
RETRIES: dict[int, str] = {
    14107: "throttled",  # message rate limit exceeded
    20003: "gateway_error",  # wrong credentials
    20005: "gateway_error",  # account is not active
    20403: "gateway_error",  # forbidden: an address or key restriction
    20404: "gateway_error",  # wrong account in the path
    20429: "throttled",  # too many requests
    21609: "gateway_error",  # StatusCallback is not a valid URL: our callback_url
    21611: "queue_full",  # the sender's queue is full
    30001: "queue_full",  # queue overflow
    30022: "throttled",  # US A2P 10DLC rate limit
    30023: "throttled",  # US A2P 10DLC daily cap
    63038: "throttled",  # the account's daily limit
}

# Values of `Status`; "failed" never left Twilio, "undelivered" came back from the carrier.
STATES: dict[str, State] = {
    "accepted": "accepted",
    "scheduled": "accepted",
    "queued": "accepted",
    "sending": "enroute",
    "sent": "enroute",
    "delivered": "delivered",
    "read": "delivered",
    "undelivered": "undelivered",
    "failed": "rejected",
    "canceled": "deleted",
}
VALIDITY_EXPIRED = "30036"  # a `failed` whose validity ran out in Twilio's queue
OPTED_OUT = "21610"  # the same in a callback

EMPTY_TWIML = b'<?xml version="1.0" encoding="UTF-8"?><Response/>'  # "do nothing", also for an inbound text


class Settings(ProviderSettings, frozen=True):
    messages_url: str
    authorization: str
    auth_token: str
    messaging_service: str
    webhook_key: str


class _Answer(msgspec.Struct):
    """The Message resource, or Twilio's error object; what isn't named here is skipped."""

    sid: str = ""
    code: int | None = None


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    dsn = parse_dsn(name, url, settings, extra=("account", "auth_token", "messaging_service", "webhook_key"))
    account = text(name, dsn.extra, "account") or dsn.username
    if not dsn.username or not dsn.password:
        raise wrong(name, "url", "needs ACCOUNT_SID:AUTH_TOKEN or API_KEY_SID:SECRET before the host")
    if not (account.startswith("AC") and account.isalnum()):
        raise wrong(name, "account", "must be an account SID (AC…); with an API key give account=AC…")
    token = text(name, dsn.extra, "auth_token") or (dsn.password if dsn.username == account else "")
    webhook_key = text(name, dsn.extra, "webhook_key")
    if dsn.callback_url and not token and not webhook_key:
        raise wrong(name, "auth_token", "or webhook_key is needed to check the signatures of callbacks")
    service = text(name, dsn.extra, "messaging_service")
    if service and not _is_service(service):
        raise wrong(name, "messaging_service", "must be a messaging service SID (MG…)")
    return Settings(
        dsn=dsn,
        messages_url=f"{dsn.base_url.rstrip('/')}/2010-04-01/Accounts/{account}/Messages.json",
        authorization=basic(dsn.username, dsn.password),
        auth_token=token,
        messaging_service=service,
        webhook_key=webhook_key,
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to Twilio. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(settings: Settings, submission: Submission) -> HttpRequest:
    fields = {"To": submission.to}
    sender = submission.sender
    if _is_service(sender):
        fields["MessagingServiceSid"] = sender
    else:
        if settings.messaging_service:
            fields["MessagingServiceSid"] = settings.messaging_service
        if sender:
            fields["From"] = international(sender)
    fields["Body"] = submission.text
    fields["SmartEncoded"] = "false"  # a messaging service does it by default, and changes the text
    if submission.validity_s is not None:
        fields["ValidityPeriod"] = str(min(max(submission.validity_s, 1), MAX_VALIDITY_S))
    if settings.dsn.callback_url:
        fields["StatusCallback"] = settings.dsn.callback_url
    return HttpRequest(
        "POST",
        settings.messages_url,
        {
            "Authorization": settings.authorization,
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        },
        form_encode(fields.items()).encode(),
    )


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """201 with a SID is acceptance; 4xx with a code is looked up; all else goes by its status."""
    answer = decoded(body, _Answer)
    if answer is None:
        return by_status(status, headers)
    if status in (200, 201):
        return Accepted(answer.sid) if answer.sid else Unknown("bad_answer", "no sid")
    if answer.code is None or not 400 <= status <= 499:
        return by_status(status, headers, str(answer.code or ""))
    raw = str(answer.code)
    if answer.code in RETRIES:
        return Retry(RETRIES[answer.code], raw, retry_after_s(headers))
    if answer.code in REJECTIONS:
        return Rejected(REJECTIONS[answer.code], raw)
    return by_status(status, headers, raw)


def receive(
    settings: Settings, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> list[Receipt | Inbound]:
    """One status callback or one inbound text. Raises BadSignature, BadCallback."""
    fields = form_fields(body) if method == "POST" else []
    if not _is_signed(settings, url, fields, headers.get("x-twilio-signature", "")):
        raise BadSignature
    values = dict(fields if method == "POST" else form_fields(urlsplit(url).query))
    sid = values.get("MessageSid") or values.get("SmsSid", "")
    if not sid:
        raise BadCallback("MessageSid is missing")
    status = values.get("MessageStatus") or values.get("SmsStatus", "")
    if status in ("received", "receiving") or ("Body" in values and "MessageStatus" not in values):
        return [
            Inbound(
                sender=values.get("From", ""),
                to=digits(values.get("To", "")),
                text=values.get("Body", ""),
                gateway_message_id=sid,
            )
        ]
    if not status:
        raise BadCallback("MessageStatus is missing")
    error = values.get("ErrorCode", "")
    return [
        Receipt(
            gateway_message_id=sid,
            state="expired" if error == VALIDITY_EXPIRED else STATES.get(status, "unknown"),
            raw=status,
            error=error,
            to=digits(values.get("To", "")),
            sender=digits(values.get("From", "")),
            opted_out=error == OPTED_OUT,
        )
    ]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200, {"Content-Type": "text/xml"}, EMPTY_TWIML)


def signature(secret: str, url: str, fields: Sequence[tuple[str, str]], digest: str = "sha1") -> str:
    """Base64 of the HMAC over the URL and each distinct (name, value), sorted, without separators.

    By the account's token with SHA-1, by a shared key with SHA-256.
    """
    signed = url + "".join(name + value for name, value in sorted(set(fields)))
    return base64.b64encode(hmac.digest(secret.encode(), signed.encode(), digest)).decode()


def _is_signed(settings: Settings, url: str, fields: Sequence[tuple[str, str]], given: str) -> bool:
    """Twilio signs the URL as configured; a proxy may show us another host, and ports come and go."""
    secret, digest = (
        (settings.webhook_key, "sha256") if settings.webhook_key else (settings.auth_token, "sha1")
    )
    if not secret or not given:
        return False
    seen = urlsplit(url)
    candidates = _port_variants(seen)
    if settings.dsn.callback_url:
        public = urlsplit(settings.dsn.callback_url)._replace(query=seen.query)
        candidates |= _port_variants(public)
    matches = [same(signature(secret, candidate, fields, digest), given) for candidate in candidates]
    return any(matches)


def _port_variants(url: SplitResult) -> set[str]:
    host = url.netloc.rpartition("@")[2]
    name = host.rpartition(":")[0] if url.port is not None else host
    default = 443 if url.scheme == "https" else 80
    return {
        url.geturl(),
        url._replace(netloc=name).geturl(),
        url._replace(netloc=f"{name}:{url.port or default}").geturl(),
    }


def _is_service(sender: str) -> bool:
    return len(sender) == 34 and sender.startswith("MG") and sender.isalnum()
