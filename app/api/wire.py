"""What the hot routes read and answer, as it stands on the wire. Stored rows and domain types are others.

Guarantee: a decoded request has the right types and no unknown field; what a value means is checked in
`drafting.py`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from app.api import limits
from app.api.ground import Warned

CategoryName = Literal["otp", "transactional", "marketing"]
OpenState = Literal["queued", "deferred"]
Text = Annotated[
    str,
    Meta(
        max_length=limits.MAX_BODY_CHARS,
        description="The text. `{name}` is filled from the variables; `{{` and `}}` are literal braces.",
    ),
]
Sender = Annotated[
    str,
    Meta(
        max_length=69,
        description="A number with its calling code, a short code, up to 11 letters, digits and spaces, or `pool:` and "
        "the name of a sender pool.",
    ),
]
TemplateName = Annotated[
    str,
    Meta(max_length=limits.MAX_TEMPLATE_CHARS, description="A template's name, or `name@version`."),
]
Value = str | int | float
Variables = Annotated[
    dict[str, Value],
    Meta(
        max_length=limits.MAX_VARIABLES,
        description="Values by name. Numbers are written as JSON writes them; to keep a form such as 12.50, "
        "send a string.",
    ),
]
Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339, with its offset from UTC.")]
Priority = Annotated[int, Meta(ge=0, le=9, description="0 is first.")]
Reference = Annotated[str, Meta(min_length=1, max_length=limits.MAX_REFERENCE_CHARS)]
Name = Annotated[str, Meta(min_length=1, max_length=limits.MAX_NAME_CHARS)]
Metadata = Annotated[dict[str, str | int | float | bool | None], Meta(max_length=limits.MAX_METADATA_KEYS)]
Url = Annotated[str, Meta(min_length=1, max_length=limits.MAX_URL_CHARS)]
Zone = Annotated[
    str,
    Meta(
        max_length=64,
        description="The IANA time zone that the recipient is in (Europe/Paris), where you know it: hours are judged "
        "by it, and not by what the number tells.",
    ),
]
To = Annotated[str, Meta(description="A number with its calling code: +12025550101.")]


Smart = Annotated[
    bool,
    Meta(
        description="Replace typographic characters (curly quotes, dashes, odd spaces) where the whole text is then "
        "in GSM-7; the answer and the message show what was replaced. Left out: as the template says, else no."
    ),
]
ShiftTables = Annotated[
    bool,
    Meta(
        description="National shift tables are welcome where they save a segment. Gateways use them only if their "
        "settings allow it."
    ),
]
MaxSegments = Annotated[
    int,
    Meta(
        ge=1,
        le=limits.MAX_SEGMENTS,
        description="A text of more segments is rejected, never cut. Counted as GSM-7 or UCS-2.",
    ),
]


class PostMessage(msgspec.Struct, forbid_unknown_fields=True, gc=False, omit_defaults=True):
    """One message."""

    to: To
    category: CategoryName
    body: Text | None = None
    template: TemplateName | None = None
    variables: Variables | None = None
    timezone: Zone | None = None
    sender: Sender | None = None
    scheduled_at: Moment | None = None
    expires_at: Moment | None = None
    priority: Priority = limits.DEFAULT_PRIORITY
    client_reference: Reference | None = None
    metadata: Metadata | None = None
    callback_url: Url | None = None
    retry_unknown: bool = False
    campaign: Name | None = None
    smart_encoding: Smart | None = None
    shift_tables: ShiftTables = False
    max_segments: MaxSegments | None = None


class Recipient(msgspec.Struct, forbid_unknown_fields=True, gc=False, omit_defaults=True):
    """One recipient of a batch."""

    to: To
    variables: Variables | None = None
    client_reference: Reference | None = None
    timezone: Zone | None = None


class BatchTerms(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a batch's messages share."""

    category: CategoryName
    body: Text | None = None
    template: TemplateName | None = None
    sender: Sender | None = None
    scheduled_at: Moment | None = None
    expires_at: Moment | None = None
    priority: Priority = limits.DEFAULT_PRIORITY
    metadata: Metadata | None = None
    callback_url: Url | None = None
    retry_unknown: bool = False
    name: Name | None = None
    campaign: Name | None = None
    smart_encoding: Smart | None = None
    shift_tables: ShiftTables = False
    max_segments: MaxSegments | None = None


class PostBatch(BatchTerms, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One body or template for up to 10,000 recipients."""

    recipients: Annotated[list[Recipient], Meta(description=f"1 to {limits.MAX_RECIPIENTS:,} recipients.")]


class PostBatchRaw(BatchTerms, forbid_unknown_fields=True, kw_only=True):
    """The same with its recipients unread: the way round a recipient that can't be decoded."""

    recipients: list[msgspec.Raw]


class ReplacedView(msgspec.Struct):
    """A character (or a letter with its marks) that smart encoding replaced, and how often."""

    character: str
    replacement: str
    times: int


class SmartView(msgspec.Struct):
    """What smart encoding made of a text: the text that goes, and what was replaced (nothing: it goes as it was)."""

    body: str
    replaced: list[ReplacedView]


class Posted(msgspec.Struct, omit_defaults=True):
    """The answer to a message. `warnings`: what may keep it from arriving as it is. `smart_encoding` is there when
    it was asked for."""

    id: str
    state: OpenState
    segments: int
    url: str
    warnings: list[Warned] = []
    smart_encoding: SmartView | None = None


class Rejection(msgspec.Struct, omit_defaults=True):
    """A recipient that was not accepted. `reason` is finer than the code: `too_short` of an `invalid_number`."""

    index: int
    pointer: str
    code: str
    detail: str
    reason: str | None = None


class SmartBatchView(msgspec.Struct):
    """What smart encoding made of a batch's body. Of a text with variables each message says what was replaced: its
    values count, too, and a value that GSM-7 can't carry leaves the text as it was."""

    body: str
    replaced: list[ReplacedView]


class PostedBatch(msgspec.Struct, omit_defaults=True):
    """The answer to a batch. `rejected_count` counts all that were rejected; `rejected` lists them."""

    id: str
    state: Literal["running"]
    accepted: int
    rejected: list[Rejection]
    rejected_count: int
    url: str
    rejections_url: str
    warnings: list[Warned] = []
    smart_encoding: SmartBatchView | None = None


StateName = Literal[
    "accepted", "queued", "deferred", "submitting", "submitted", "unknown", "delivered", "undelivered",
    "rejected", "suppressed", "cancelled", "expired", "failed", "unconfirmed",
]  # fmt: skip
BatchStateName = Literal["loading", "running", "paused", "cancelled", "completed"]


class MessageSummary(msgspec.Struct, kw_only=True):
    """A message in a list. `until`: a deferred one waits till then. `changed_at`: since when it stands so, where
    that is known. `carrier_status` is the carrier's own word."""

    id: str
    batch_id: str | None
    to: str
    sender: str
    category: CategoryName
    state: StateName
    reason: str | None
    carrier_status: str | None
    until: datetime | None
    segments: int
    gateway: str | None
    gateway_message_id: str | None
    region: str
    country: str
    client_reference: str | None
    template: str | None
    test: bool
    created_at: datetime
    changed_at: datetime | None
    expires_at: datetime | None


class TraceLine(msgspec.Struct):
    """One check of one decision. `until`: the decision held the message till then."""

    check: str
    rule: str
    version: str
    verdict: str
    at: datetime
    attempt: int
    until: datetime | None


class SegmentOutcome(msgspec.Struct):
    """What the gateway answered to one segment, counted from 1."""

    segment: int
    outcome: Literal["accepted", "rejected", "to_repeat", "unknown"]
    gateway_message_id: str | None
    reason: str | None
    carrier_status: str | None
    at: datetime


class AttemptView(msgspec.Struct):
    """A hand-over to a gateway, or what took its place (`cancelled`, `expired`, `suppressed` ...)."""

    attempt: int
    kind: str
    gateway: str | None
    at: datetime
    outcomes: list[SegmentOutcome]
    segments: int | None  # as this gateway cut the text, once it has answered


class SegmentView(msgspec.Struct):
    """A receipt's word on one segment of a text of several, counted from 1."""

    segment: int
    state: StateName
    carrier_status: str | None


class Message(MessageSummary, kw_only=True):
    """A message, its text as sent, and all that happened to it. `replaced`: by smart encoding. `recall`: what became
    of asking the carrier to take it back."""

    body: str
    replaced: list[ReplacedView]
    metadata: dict[str, str | int | float | bool | None] | None
    callback_url: str | None
    trace: list[TraceLine]
    attempts: list[AttemptView]
    segment_states: list[SegmentView]
    recall: Literal["asked", "taken_back", "refused", "unanswered", "too_late"] | None


class MessagePage(msgspec.Struct):
    """Newest first. `next` is the cursor of the next page; a page that filters by state may be short, or
    empty, and still have one."""

    data: list[MessageSummary]
    next: str | None


class Accounting(msgspec.Struct):
    """Accepted messages against those that are final and those that are open: `difference` is 0, or the
    roll-up is in between."""

    accepted: int
    final: int
    open: int
    difference: int


class StateCounts(msgspec.Struct, omit_defaults=False):
    """Messages by state."""

    accepted: int = 0
    queued: int = 0
    deferred: int = 0
    submitting: int = 0
    submitted: int = 0
    unknown: int = 0
    delivered: int = 0
    undelivered: int = 0
    rejected: int = 0
    suppressed: int = 0
    cancelled: int = 0
    expired: int = 0
    failed: int = 0
    unconfirmed: int = 0


class UploadProgress(msgspec.Struct):
    """A streamed upload: rows read, and whether it is whole."""

    rows: int
    complete: bool


class Forecast(msgspec.Struct):
    """When the queued rest of a batch is expected to have been handed over (null: never, or not while its region is
    paused), by the rates of its regions, gateways and sender, the segments queued before it, and the hours of its
    countries. `after_these_hours`: how many of the queued can't go before the hours end the next time."""

    finish: datetime | None
    queued: int
    after_these_hours: int


class Batch(msgspec.Struct, kw_only=True):
    """A batch. `total` are its accepted messages, `rejected` the recipients that weren't; `progress` is the
    part that is final, 0 to 1. `completed` means that every message is final."""

    id: str
    state: BatchStateName
    name: str | None
    campaign: str | None
    category: CategoryName
    sender: str
    body: str
    template: str | None
    priority: int
    total: int
    rejected: int
    counts: StateCounts
    accounting: Accounting
    progress: float
    scheduled_at: datetime | None
    expires_at: datetime | None
    metadata: dict[str, Any] | None
    callback_url: str | None
    retry_unknown: bool
    smart_encoding: SmartBatchView | None
    shift_tables: bool
    max_segments: int | None
    test: bool
    upload: UploadProgress | None
    created_at: datetime
    sealed_at: datetime | None
    rejections_url: str
    regions: dict[str, dict[str, int]] | None = None  # states by region; a list of batches leaves it out
    forecast: Forecast | None = None  # of one that runs; a list leaves it out


class BatchPage(msgspec.Struct):
    """Newest first."""

    data: list[Batch]
    next: str | None


class RejectionView(msgspec.Struct):
    """A recipient that was not accepted."""

    index: int
    pointer: str
    code: str
    detail: str


class RejectionPage(msgspec.Struct):
    """In the order of the request. `total` counts also those that were not kept."""

    data: list[RejectionView]
    total: int
    next: str | None


class ExplainedCheck(msgspec.Struct):
    """One check of the rules, and its verdict: `pass`, `exempt`, `hold`, `stop`."""

    check: str
    rule: str
    version: str
    verdict: str


class ExplainedRoute(msgspec.Struct):
    """The route that holds: the first that matches. `position` is among those that may hold for the tenant."""

    id: int
    position: int
    to: str
    category: CategoryName | None
    sender: str | None
    strategy: Literal["preference", "weight", "cost"]


class ExplainedPrice(msgspec.Struct):
    """What the message costs by a gateway: `per_segment` is its price list's entry `to`."""

    amount: str
    per_segment: str
    currency: str
    to: str


class ExplainedGateway(msgspec.Struct):
    """A gateway that the route names. `health`: `well`, `probing`, `worse` (last choice), `failing`, `down`."""

    name: str
    health: str
    price: ExplainedPrice | None


class ExplainedThrottle(msgspec.Struct):
    """A rate that the message is held to, in segments in any sliding second; `used` of it now."""

    of: str  # region, sender or gateway
    rate: int
    used: int


class Explanation(msgspec.Struct, kw_only=True):
    """What a message would get now. `verdict`: `send`, `hold` (till `until`, where that is known) or `stop`, with the
    reason. `gateway` is the one that it would go by; `gateways` are those of its route in the order in which they are
    tried. `text` is as it would be sent."""

    to: str
    region: str
    country: str
    verdict: Literal["send", "hold", "stop"]
    reason: str | None
    until: datetime | None
    sender: str
    gateway: str | None
    route: ExplainedRoute | None
    gateways: list[ExplainedGateway]
    encoding: str | None
    segments: int
    text: str
    price: ExplainedPrice | None
    checks: list[ExplainedCheck]
    throttles: list[ExplainedThrottle]


class Explanations(msgspec.Struct):
    """One for each recipient that would be accepted, in their order; `rejected` are the others."""

    data: list[Explanation]
    rejected: list[Rejection]
    warnings: list[Warned]


class Change(msgspec.Struct, forbid_unknown_fields=True):
    """Who asks for a change, and why; both go to the audit log. The key's name stands in for the actor."""

    actor: Annotated[str, Meta(min_length=1, max_length=limits.MAX_NAME_CHARS)] | None = None
    reason: Annotated[str, Meta(max_length=1000)] | None = None


class FieldErrorView(msgspec.Struct, omit_defaults=True):
    """One item of a problem's `errors`."""

    pointer: str
    code: str
    detail: str
    index: int | None = None
    reason: str | None = None


class ProblemView(msgspec.Struct, omit_defaults=True, rename={"kind": "type"}):
    """RFC 9457."""

    kind: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[FieldErrorView] = []


decode_change = msgspec.json.Decoder(Change).decode
decode_message = msgspec.json.Decoder(PostMessage).decode
decode_batch = msgspec.json.Decoder(PostBatch).decode
decode_batch_raw = msgspec.json.Decoder(PostBatchRaw).decode
decode_recipient = msgspec.json.Decoder(Recipient).decode
encode = msgspec.json.Encoder().encode


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schemas of all of these, by name, for OpenAPI."""
    _, found = msgspec.json.schema_components(
        (
            *(PostMessage, PostBatch, BatchTerms, Posted, PostedBatch, Recipient, Message, MessagePage),
            *(Batch, BatchPage, RejectionPage, Change, ProblemView, Explanations),
        ),
        ref_template="#/components/schemas/{name}",
    )
    return found
