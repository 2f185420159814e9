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
        max_length=20,
        description="A number with its calling code, a short code, or up to 11 letters, digits and spaces.",
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
To = Annotated[str, Meta(description="A number with its calling code: +12025550101.")]


class PostMessage(msgspec.Struct, forbid_unknown_fields=True, gc=False, omit_defaults=True):
    """One message."""

    to: To
    category: CategoryName
    body: Text | None = None
    template: TemplateName | None = None
    variables: Variables | None = None
    sender: Sender | None = None
    scheduled_at: Moment | None = None
    expires_at: Moment | None = None
    priority: Priority = limits.DEFAULT_PRIORITY
    client_reference: Reference | None = None
    metadata: Metadata | None = None
    callback_url: Url | None = None
    retry_unknown: bool = False


class Recipient(msgspec.Struct, forbid_unknown_fields=True, gc=False, omit_defaults=True):
    """One recipient of a batch."""

    to: To
    variables: Variables | None = None
    client_reference: Reference | None = None


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


class PostBatch(BatchTerms, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One body or template for up to 10,000 recipients."""

    recipients: Annotated[list[Recipient], Meta(description=f"1 to {limits.MAX_RECIPIENTS:,} recipients.")]


class PostBatchRaw(BatchTerms, forbid_unknown_fields=True, kw_only=True):
    """The same with its recipients unread: the way round a recipient that can't be decoded."""

    recipients: list[msgspec.Raw]


class Posted(msgspec.Struct):
    """The answer to a message."""

    id: str
    state: OpenState
    segments: int
    url: str


class Rejection(msgspec.Struct, omit_defaults=True):
    """A recipient that was not accepted. `reason` is finer than the code: `too_short` of an `invalid_number`."""

    index: int
    pointer: str
    code: str
    detail: str
    reason: str | None = None


class PostedBatch(msgspec.Struct):
    """The answer to a batch. `rejected_count` counts all that were rejected; `rejected` lists them."""

    id: str
    state: Literal["running", "loading"]
    accepted: int
    rejected: list[Rejection]
    rejected_count: int
    url: str
    rejections_url: str


decode_message = msgspec.json.Decoder(PostMessage).decode
decode_batch = msgspec.json.Decoder(PostBatch).decode
decode_batch_raw = msgspec.json.Decoder(PostBatchRaw).decode
decode_recipient = msgspec.json.Decoder(Recipient).decode
encode = msgspec.json.Encoder().encode


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schemas of all of these, by name, for OpenAPI."""
    _, found = msgspec.json.schema_components(
        [PostMessage, PostBatch, Posted, PostedBatch], ref_template="#/components/schemas/{name}"
    )
    return found
