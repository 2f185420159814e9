"""AWS End User Messaging SMS: SendTextMessage of the SMS and Voice API, version 2.

    aws://ACCESS_KEY_ID:SECRET_ACCESS_KEY@sms-voice.eu-west-1.amazonaws.com?configuration_set=…&token=…

The secret must be percent-encoded (it may hold `/` and `+`). Options, beside those of every HTTP gateway:
`configuration_set`, whose event destinations get the receipts; `session_token`, with temporary
credentials; `region`, where the host doesn't tell it. When callbacks are used, one of these, or both:

* `topics`, the ARNs of SNS topics, with commas between them. Subscribe `{callback_url}/v1/callbacks/{gateway}` to
  the topic of two-way texts, and to the one of the configuration set's events: the subscription is confirmed by
  itself. Leave raw delivery off: raw messages are not signed.
* `token`, for what isn't signed: receipts by an EventBridge rule (source `aws.sms-voice`) with an API destination at
  `{callback_url}/v1/callbacks/{gateway}?token=…`, or raw messages of a topic. It stands in the query of the URL: keep
  it out of access logs.

Guarantees: pure but for the clocks that `request` and `receive` are given; requests are signed by Signature
Version 4; a callback is read only after its signature (`gateways.sns`) or its token was checked. Whatever looks like
an SNS envelope needs the signature, token or not. Our message id goes along as `Context`,
which comes back with each event; AWS knows no key against duplicates here. A marketing text goes as
PROMOTIONAL, all else as TRANSACTIONAL. A message's own sender is a number of the account, a sender id,
or, put in full, the id or ARN of a pool or number. One id stands for all segments of a text.

Never run against AWS. The whole request is signed as botocore signs it (tests); the reasons of refusals and the types
of events are those of botocore's model of the API (1.44.8). What an event or inbound text holds follows
documentation alone.
Sources: https://docs.aws.amazon.com/pinpoint/latest/apireference_smsvoicev2/API_SendTextMessage.html,
https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html,
https://docs.aws.amazon.com/sms-voice/latest/userguide/configuration-sets-event-types.html,
https://docs.aws.amazon.com/sms-voice/latest/userguide/configuration-sets-event-format.html,
https://docs.aws.amazon.com/sms-voice/latest/userguide/monitor-event-bridge.html,
https://docs.aws.amazon.com/sms-voice/latest/userguide/two-way-sms-payload.html, and those of `gateways.sns`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import urlsplit

import msgspec

from gateways import sns
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
    callers_token,
    decoded,
    digits,
    has_token,
    international,
    parse_dsn,
    text,
    wrong,
)

SERVICE = "sms-voice"
TARGET = "PinpointSMSVoiceV2.SendTextMessage"
MIN_TTL_S, MAX_TTL_S = 5, 259_200  # "TimeToLive"

# `Reason` of a ValidationException or ConflictException.
REJECTIONS: dict[str, str] = {
    "CANNOT_PARSE": "invalid_request",
    "COUNTRY_CODE_MISMATCH": "invalid_sender",
    "COUNTRY_NOT_ENABLED": "region_blocked",
    "DESTINATION_COUNTRY_BLOCKED": "region_blocked",
    "DESTINATION_COUNTRY_BLOCKED_BY_PROTECT_CONFIGURATION": "region_blocked",
    "DESTINATION_PHONE_NUMBER_BLOCKED_BY_PROTECT_NUMBER_OVERRIDE": "blocked",
    "DESTINATION_PHONE_NUMBER_NOT_VERIFIED": "not_permitted",  # the account is in the sandbox
    "DESTINATION_PHONE_NUMBER_OPTED_OUT": "opted_out",
    "INTERNATIONAL_SENDING_NOT_SUPPORTED": "no_route",
    "INVALID_ARN": "invalid_sender",
    "INVALID_IDENTITY_FOR_DESTINATION_COUNTRY": "invalid_sender",
    "KEYWORD_MISMATCH": "invalid_sender",
    "MAXIMUM_SIZE_EXCEEDED": "content_rejected",
    "MESSAGE_TYPE_MISMATCH": "invalid_sender",  # e.g. a promotional text from a transactional number
    "NO_ORIGINATION_IDENTITIES_FOUND": "invalid_sender",
    "NUMBER_CAPABILITIES_MISMATCH": "invalid_sender",
    "PRICE_OVER_THRESHOLD": "price_exceeded",
    "SENDER_ID_NOT_REGISTERED": "sender_unregistered",
    "SENDER_ID_NOT_SUPPORTED": "invalid_sender",
    "SENDER_ID_REQUIRES_REGISTRATION": "sender_unregistered",
}
# `Fields[0].Name` of a ValidationException whose reason says no more than "invalid".
FIELDS: dict[str, str] = {
    "DestinationPhoneNumber": "invalid_number",
    "OriginationIdentity": "invalid_sender",
    "MessageBody": "content_rejected",
    "TimeToLive": "invalid_validity",
}
# Types of errors that pass, or that are ours and not the text's.
RETRIES: dict[str, str] = {
    "ThrottlingException": "throttled",
    "ServiceQuotaExceededException": "gateway_error",  # e.g. MONTHLY_SPEND_LIMIT_REACHED_FOR_TEXT
    "AccessDeniedException": "gateway_error",  # no permission, account disabled, reputation
    "ExpiredTokenException": "gateway_error",
    "IncompleteSignature": "gateway_error",
    "InvalidSignatureException": "gateway_error",  # also a clock that is 5 minutes off
    "MissingAuthenticationTokenException": "gateway_error",
    "NotAuthorized": "gateway_error",
    "OptInRequired": "gateway_error",
    "RequestExpired": "gateway_error",
    "UnknownOperationException": "gateway_error",
    "UnrecognizedClientException": "gateway_error",
}
# `ResourceType` of a ResourceNotFoundException that is about the sender; others are our settings.
SENDERS = frozenset({"phone-number", "sender-id", "pool"})

# `eventType` of an event. SUCCESSFUL is the carrier's acceptance, not the handset's word, even where
# the event calls itself final because that carrier reports no more.
STATES: dict[str, State] = {
    "TEXT_PENDING": "accepted",
    "TEXT_QUEUED": "accepted",
    "TEXT_SENT": "enroute",
    "TEXT_SUCCESSFUL": "enroute",
    "TEXT_DELIVERED": "delivered",
    "TEXT_BLOCKED": "rejected",
    "TEXT_PROTECT_BLOCKED": "rejected",  # by the account's own protect configuration
    "TEXT_INVALID": "rejected",  # the number isn't valid
    "TEXT_INVALID_MESSAGE": "rejected",
    "TEXT_CARRIER_BLOCKED": "undelivered",
    "TEXT_CARRIER_UNREACHABLE": "undelivered",
    "TEXT_SPAM": "undelivered",
    "TEXT_UNREACHABLE": "undelivered",
    "TEXT_TTL_EXPIRED": "expired",
    "TEXT_UNKNOWN": "unknown",
}

_REGION = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-[0-9]+)\.")  # in sms-voice.us-gov-west-1.amazonaws.com


class Settings(ProviderSettings, frozen=True):
    url: str
    host: str
    region: str
    configuration_set: str
    session_token: str
    token: str
    topics: frozenset[str]
    certificates: sns.Certificates


class _Field(msgspec.Struct):
    name: str = msgspec.field(default="", name="Name")


class _Answer(msgspec.Struct):
    """The answer, or an error."""

    id: str = msgspec.field(default="", name="MessageId")
    type: str = msgspec.field(default="", name="__type")
    reason: str | None = msgspec.field(default=None, name="Reason")
    resource: str | None = msgspec.field(default=None, name="ResourceType")
    fields: list[_Field] | None = msgspec.field(default=None, name="Fields")


class _Marks(msgspec.Struct):
    """By which an SNS envelope is told from what came by EventBridge or raw."""

    type: object = msgspec.field(default=None, name="Type")
    message: object = msgspec.field(default=None, name="Message")


class _Event(msgspec.Struct):
    """An event or an inbound text, alone or as EventBridge's `detail`."""

    detail: _Event | None = None
    type: str = msgspec.field(default="", name="eventType")
    id: str = msgspec.field(default="", name="messageId")
    status: str = msgspec.field(default="", name="messageStatus")
    at_ms: float = msgspec.field(default=0, name="eventTimestamp")
    requested_ms: float = msgspec.field(default=0, name="messageRequestTimestamp")
    sender: str = msgspec.field(default="", name="originationPhoneNumber")
    to: str = msgspec.field(default="", name="destinationPhoneNumber")
    inbound_id: str = msgspec.field(default="", name="inboundMessageId")
    person: str = msgspec.field(default="", name="originationNumber")
    number: str = msgspec.field(default="", name="destinationNumber")
    body: str | None = msgspec.field(default=None, name="messageBody")


def parse(name: str, url: str, settings: Mapping[str, object]) -> Settings:
    """See the module's docstring. Raises ValueError."""
    keys = ("region", "configuration_set", "session_token", "token", "topics")
    dsn = parse_dsn(name, url, settings, extra=keys)
    if not dsn.username or not dsn.password:
        raise wrong(name, "url", "needs ACCESS_KEY_ID:SECRET_ACCESS_KEY before the host")
    found = _REGION.search(dsn.base_url)
    region = text(name, dsn.extra, "region") or (found[1] if found else "")
    if not region:
        raise wrong(name, "region", "is needed with a host that doesn't name it")
    topics = frozenset(one.strip() for one in text(name, dsn.extra, "topics").split(",") if one.strip())
    if not all(sns.TOPIC.fullmatch(topic) for topic in topics):
        raise wrong(name, "topics", "must be ARNs of SNS topics, with commas between them")
    token = text(name, dsn.extra, "token") if topics else callers_token(name, dsn)
    return Settings(
        dsn=dsn,
        url=f"{dsn.base_url.rstrip('/')}/",
        host=urlsplit(dsn.base_url).netloc,
        region=region,
        configuration_set=text(name, dsn.extra, "configuration_set"),
        session_token=text(name, dsn.extra, "session_token"),
        token=token,
        topics=topics,
        certificates=sns.Certificates(),
    )


def build(name: str, url: str, settings: Mapping[str, object], sink: Sink) -> Gateway:
    """A gateway to AWS. Raises ValueError for wrong settings."""
    parsed = parse(name, url, settings)
    return HttpGateway(parsed.dsn, sink, partial(request, parsed), partial(outcome, parsed))


def request(
    settings: Settings, submission: Submission, clock: Callable[[], float] = time.time
) -> HttpRequest:
    content: dict[str, object] = {
        "DestinationPhoneNumber": submission.to,
        "MessageBody": submission.text,
        "MessageType": "PROMOTIONAL" if submission.category == "marketing" else "TRANSACTIONAL",
        "Context": {"message_id": submission.message_id},
    }
    if submission.sender:
        content["OriginationIdentity"] = international(submission.sender)
    if settings.configuration_set:
        content["ConfigurationSetName"] = settings.configuration_set
    if submission.validity_s is not None:
        content["TimeToLive"] = min(max(submission.validity_s, MIN_TTL_S), MAX_TTL_S)
    body = msgspec.json.encode(content)
    headers = {
        "Content-Type": "application/x-amz-json-1.0",
        "Host": settings.host,
        "X-Amz-Date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(clock())),
        "X-Amz-Target": TARGET,
    }
    if settings.session_token:
        headers["X-Amz-Security-Token"] = settings.session_token
    dsn = settings.dsn
    headers["Authorization"] = authorization(
        (dsn.username, dsn.password), settings.region, SERVICE, "POST", settings.url, headers, body
    )
    return HttpRequest("POST", settings.url, headers, body)


def outcome(settings: Settings, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """200 with an id is acceptance; 4xx with a known type or reason is a refusal; all else by its status."""
    answer = decoded(body, _Answer)
    if answer is None:
        return by_status(status, headers)
    if status == 200:
        return Accepted(answer.id) if answer.id else Unknown("bad_answer", "no MessageId")
    kind = (answer.type or headers.get("x-amzn-errortype", "")).rpartition("#")[2].partition(":")[0]
    raw = f"{kind} {answer.reason or ''}".rstrip()
    if not 400 <= status <= 499 or not kind:
        return by_status(status, headers, raw)
    if kind in RETRIES:
        return Retry(RETRIES[kind], raw)
    if kind == "ResourceNotFoundException":
        about_sender = answer.resource in SENDERS
        return Rejected("invalid_sender", raw) if about_sender else Retry("gateway_error", raw)
    if kind not in ("ValidationException", "ConflictException"):
        return by_status(status, headers, raw)
    field = FIELDS.get(answer.fields[0].name, "rejected") if answer.fields else "rejected"
    return Rejected(REJECTIONS.get(answer.reason or "", field), raw)


def receive(
    settings: Settings,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    clock: Callable[[], float] = time.time,
) -> list[Receipt | Inbound]:
    """One event of a message, or one inbound text. Raises BadSignature, BadCallback, Ask."""
    marks = decoded(body, _Marks)
    if marks is not None and (marks.type is not None or marks.message is not None):
        message = sns.opened(body, settings.topics, settings.certificates, clock())
        if message is None:
            return []
        event = _decoded(message)
    elif has_token(settings.token, url):
        event = _decoded(body)
    else:
        raise BadSignature
    event = event.detail or event
    if event.inbound_id and event.body is not None:
        return [Inbound(event.person, digits(event.number), event.body, event.inbound_id)]
    if event.type and not event.type.startswith("TEXT_"):
        return []  # of registrations, voice or media messages: none of ours
    if not event.id or not event.type:
        raise BadCallback("messageId or eventType is missing")
    state = STATES.get(event.type, "unknown")
    return [
        Receipt(
            gateway_message_id=event.id,
            state=state,
            raw=event.type,
            error="" if state in ("accepted", "enroute", "delivered") else event.status,
            to=digits(event.to),
            sender=digits(event.sender),
            submitted_at=event.requested_ms / 1000 or None,
            done_at=event.at_ms / 1000 or None,
        )
    ]


def reply(settings: Settings) -> HttpReply:
    return HttpReply(200)


def authorization(
    credentials: tuple[str, str],
    region: str,
    service: str,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
) -> str:
    """`Authorization` by Signature Version 4, over all `headers` (with Host and X-Amz-Date) and the body."""
    key_id, secret = credentials
    parts = urlsplit(url)
    signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        [
            method,
            parts.path or "/",
            "&".join(sorted(parts.query.split("&"))),
            *[f"{name}:{signed[name]}" for name in sorted(signed)],
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    at = signed["x-amz-date"]
    scope = f"{at[:8]}/{region}/{service}/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = _hmac(signing_key(secret, at[:8], region, service), to_sign).hex()
    return f"AWS4-HMAC-SHA256 Credential={key_id}/{scope}, SignedHeaders={names}, Signature={signature}"


def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """The key of one day (`YYYYMMDD`), region and service."""
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, signed: str) -> bytes:
    return hmac.digest(key, signed.encode(), hashlib.sha256)


def _decoded(body: bytes | str) -> _Event:
    try:
        return msgspec.json.decode(body, type=_Event)
    except (msgspec.DecodeError, UnicodeDecodeError, UnicodeEncodeError, RecursionError):
        raise BadCallback("not the JSON of an event") from None
