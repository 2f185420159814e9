"""What every gateway takes and gives: one set of values for SMPP and HTTP alike.

A gateway turns submissions into bytes, and bytes into outcomes, receipts and inbound
texts. It knows no database, no Redis, no settings and no other gateway; it never
retries and never waits for room. Whether, when and how often a text may go is decided
by its caller.

Guarantees that every implementation keeps (`tests/gateways/test_conformance.py`):

* each segment of each submission ends in exactly one outcome, also when the link is
  cut, the gateway is closed or the submission comes while nothing is connected;
* `Unknown` whenever the first byte of a request may have left; `Retry` only after an
  explicit refusal or when no byte left; nothing is handed over twice;
* a submission whose `send_before` has passed is not handed over: `Retry(sent=False)`;
* a receipt or inbound text is acknowledged to the carrier only after the sink's
  coroutine has returned; if it raises, the carrier is told to deliver it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from app.domain.text import Coding, Encoding


class Submission(msgspec.Struct, gc=False):
    """One message, to be handed over now.

    `to` and `sender` are as the carrier shall see them: `to` in E.164 with its plus sign,
    `sender` a number without plus sign, a short code or an alphanumeric name.
    `parts` are the encoded segments without any header (GSM-7 unpacked, one septet a
    byte, UTF-16-BE, or Latin-1), as `app.domain.text.segment` made them by the gateway's
    `coding`; `header` are the information elements that each needs. `mask` says which of them
    to send (bit 0 is the first): a retry repeats only the refused ones. `reference` is
    the concatenation reference (0 to 65,535), the same for every attempt of one message.
    `send_before` is a `time.monotonic()` instant; `validity_s` how long the carrier may
    try (None: the carrier's default). `tag` is the caller's and comes back untouched.
    The gateway counts in `written` the segments whose bytes it gave to the socket, and sets
    `written_at` to the `time.monotonic()` instant right after the last of them.
    """

    tag: object
    message_id: str
    to: str
    sender: str
    text: str
    encoding: Encoding
    parts: tuple[bytes, ...]
    mask: int
    reference: int
    send_before: float
    validity_s: int | None = None
    category: str = "transactional"
    header: bytes = b""
    written: int = 0
    written_at: float = 0.0
    metadata: dict[str, object] | None = None  # the request's, for gateways that pass some of it on


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The carrier took the segment (an acknowledgement, not a delivery)."""

    gateway_message_id: str  # normalised: the form in which the receipt will name it, too


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """The carrier refused this segment for good; the same text again would be refused again."""

    # ours, stable: invalid_number, invalid_sender, content_rejected, opted_out, no_credit, rejected ...
    reason: str
    raw: str = ""  # the carrier's: "ESME_RINVDSTADR", "21211" ...


class Retry(msgspec.Struct, frozen=True, gc=False):
    """Not handed over: an explicit refusal that may pass (`sent`), or no byte left (`sent=False`)."""

    reason: str  # throttled, queue_full, not_connected, send_before_passed, gateway_error, closed ...
    raw: str = ""
    delay_s: float | None = None  # the carrier's Retry-After, where it gave one
    sent: bool = True


class Unknown(msgspec.Struct, frozen=True, gc=False):
    """It may have been handed over: time-out, cut, 5xx, an answer that makes no sense."""

    reason: str  # timeout, connection_lost, server_error, bad_answer ...
    raw: str = ""


Outcome = Accepted | Rejected | Retry | Unknown


# What a receipt can say, in our words: enroute and accepted are intermediate, the rest are final.
State = Literal[
    "enroute", "accepted", "delivered", "undelivered", "expired", "rejected", "deleted", "unknown"
]


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """The carrier's word on delivery of one segment."""

    gateway_message_id: str  # normalised as in Accepted
    state: State
    raw: str  # the carrier's status word or number
    error: str = ""  # the carrier's error code
    to: str = ""  # the recipient (MT) as the carrier names it, digits only
    sender: str = ""
    submitted_at: float | None = None  # Unix seconds, by the carrier's clock
    done_at: float | None = None
    whole: bool = False  # it speaks of all segments of the text, not of this one alone
    opted_out: bool = False  # not delivered, since the person had said stop to the carrier


class Part(msgspec.Struct, frozen=True, gc=False):
    """One part of a long text, whose other parts may come elsewhere, or never."""

    reference: int  # of the text, by its sender; used again soon
    total: int
    index: int  # from 1
    octets: bytes
    encoding: str  # as `app.domain.text.decode` knows it
    wait_s: float  # how long the others are to be waited for


class Inbound(msgspec.Struct, frozen=True, gc=False):
    """A text that came in (MO): whole, or a `part` of one that the gateway could not put together in a moment."""

    sender: str  # the person's number, E.164 with plus sign where it is a number
    to: str  # our number or short code
    text: str  # of a part: as it reads alone
    gateway_message_id: str = ""
    part: Part | None = None
    repeat_s: float = 0.0  # within which the carrier may deliver it again, without an id that says so
    port: int | None = None  # the application that it is addressed to, 1 to 65535; None: people read it


def port_of(ports: Mapping[int, int]) -> int | None:
    """The port of a text whose parts name these: that of the first which names one."""
    return ports[min(ports)] if ports else None


class Sink(Protocol):
    """Where a gateway reports. `outcomes` and `ready` are called from the event loop and return at once."""

    def outcomes(self, batch: Sequence[tuple[Submission, int, Outcome]]) -> None:
        """(submission, segment index from 0, outcome); as many as one read gave, in one call."""

    def ready(self) -> None:
        """Credit has become available, or a bind came up or went down."""

    async def receipts(self, gateway: str, batch: Sequence[Receipt]) -> None:
        """Returns when they are stored; only then are they acknowledged."""

    async def inbound(self, gateway: str, batch: Sequence[Inbound]) -> None:
        """Returns when they are stored; only then are they acknowledged."""


class BindStatus(msgspec.Struct, frozen=True):
    """One live connection, for the console and the metrics."""

    name: str  # "sandbox/0"
    state: Literal["connecting", "bound", "closing", "down"]
    window: int
    in_flight: int
    since: float  # Unix seconds
    error: str = ""  # why it is down, without secrets
    at_once: int | None = None  # the most that is granted at once; None: the window


class Gateway(Protocol):
    """A way out. Made from its settings, opened with the number of binds that it may hold."""

    name: str
    coding: Coding  # how texts are to be cut for it
    asked_coding: Coding  # the same for a text whose request allowed national shift tables

    async def open(self, binds: int) -> None:
        """Start connecting and keep reconnecting, with back-off, until `close`. Returns at once."""

    async def close(self, drain_s: float) -> None:
        """Take nothing more, wait up to `drain_s` for the answers in flight, unbind, end every
        outstanding segment with an outcome."""

    def take(self, segments: int) -> int:
        """Reserve credit for up to `segments` segments; gives the number granted (0 when nothing is free).

        Credit is the free window, and with a pace what goes within a fraction of a second: what may be
        handed over now and still meets its `send_before`. It comes back
        with each outcome, or by `give_back` for what was not submitted after all.
        """

    def give_back(self, segments: int) -> None:
        """Return credit that was taken and will not be used."""

    def submit(self, batch: Sequence[Submission]) -> None:
        """Hand over; never blocks, never raises. The caller holds credit for each masked segment."""

    def binds(self) -> list[BindStatus]:
        """The state of each connection."""


class TakesBack(Protocol):
    """What a gateway has, too, of which `gateways.takes_back` holds."""

    async def cancel(self, gateway_message_id: str, sender: str, to: str) -> bool | None:
        """Take a segment back. True: it will not be delivered; False: the carrier refused, so it may have been;
        None: nobody knows. Addresses as they were submitted."""


class Tells(Protocol):
    """What a gateway has, too, of which `gateways.query_after_s` is more than 0."""

    async def query(self, gateway_message_id: str, sender: str) -> Receipt | None:
        """What has become of a segment, as its receipt would say it; None: the carrier doesn't tell. `sender` as it was
        submitted."""
