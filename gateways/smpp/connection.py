"""One connection of an SMPP gateway: the asyncio shell around a `Session`.

Guarantees:

* every segment given to `send` ends in exactly one outcome: by its answer, by its time-out,
  or when the connection is lost: `Unknown` if it was written, `Retry(sent=False)` if not;
* `send_before` is looked at in the moment of the write, also for what waited for the pace or the socket;
* a batch is one write. While the socket takes no more there is no room, and nothing is
  written, so that what waits here can still be given back unsent;
* what waits for the pace is no more than goes within `pacing.AHEAD_S`; the segments of one
  text go together.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import random
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from math import inf
from typing import Protocol, cast

from gateways.base import Accepted, Outcome, Retry, Submission, Unknown
from gateways.smpp import pdu, status
from gateways.smpp.config import Config
from gateways.smpp.encoder import ALL
from gateways.smpp.intake import MAX_UNANSWERED, Intake
from gateways.smpp.pacing import Pacer
from gateways.smpp.session import (
    Answered,
    Bound,
    Closed,
    Counters,
    Delivered,
    Event,
    Lost,
    Outbound,
    Replied,
    Session,
    State,
)

# A pace gives single segments; those of a few ms go in one write.
_LEAST_WAIT_S = 0.003
# Above this many octets in user space the socket is full: about 300 submits.
WRITE_HIGH_WATER = 64 * 1024

_log = logging.getLogger(__name__)

Token = tuple[Submission, int]
Ended = tuple[Submission, int, Outcome]

_BAD_ANSWER = Unknown("bad_answer")
_TIMEOUT = Unknown("timeout")
_CONNECTION_LOST = Unknown("connection_lost")
NOT_CONNECTED = Retry("not_connected", sent=False)
TOO_LATE = Retry("send_before_passed", sent=False)


class Owner(Protocol):
    """What a connection tells its gateway."""

    intake: Intake
    counters: Counters

    @property
    def refusals(self) -> Mapping[int, status.Refusal]:
        """The outcome of each command_status."""

    def normalise(self, message_id: str) -> str:
        """The id of a submit_sm_resp in the form in which receipts name it."""

    def ended(self, batch: Sequence[Ended]) -> None:
        """Outcomes, from the event loop."""

    def changed(self) -> None:
        """There may be room again."""


def billed(segments: Sequence[tuple[Token, bytes]]) -> int:
    """How many segments PDUs are: those that carry a whole text are several."""
    return sum(len(submission.parts) if index == ALL else 1 for (submission, index), _ in segments)


class Connection(asyncio.Protocol):
    """From connecting to closed, once. `closed` is set when nothing more will come of it."""

    def __init__(
        self,
        kind: str,
        config: Config,
        owner: Owner,
        pacer: Pacer,
        clock: Callable[[], float],
        *,
        allowed: frozenset[str] | None = None,
    ) -> None:
        """`allowed` are the addresses of an SMSC that connects to us (kind "outbind"); else we connect."""
        receives = "receiver" if kind == "outbind" else kind
        self.session = Session(receives, config.timers, clock(), owner.counters, outbound=allowed is not None)
        self._allowed = allowed
        self.settled = asyncio.Event()  # bound or closed
        self.closed = asyncio.Event()
        self.error = ""
        self.useful = False  # some submit was answered: worth reconnecting at once
        self.unanswered = 0
        self._bound_at = clock()
        self._retired_at = 0.0
        # The binds of a gateway, opened together, need not leave together.
        self._age_factor = random.uniform(0.8, 1.0)  # noqa: S311 - not a secret
        self._config = config
        self._whole = config.options.concat == "payload"
        self._owner = owner
        self._pacer = pacer
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._reading = True
        # for the pace or the socket; bounded by `room`
        self._waiting: deque[tuple[Token, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    # --- for the gateway -------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """What was written and not answered, and what waits for the pace or the socket."""
        return len(self.session.pending) + len(self._waiting) + len(self.session.asked)

    @property
    def can_send(self) -> bool:
        """Bound, of a kind that submits, and not about to leave."""
        return self.session.state is State.BOUND and self.session.kind != "receiver" and not self._retired_at

    def window_room(self) -> int:
        """Free places in the window."""
        return self._config.options.window - self.in_flight if self.can_send else 0

    def room(self, now: float) -> int:
        """Segments that may be given to `send`: free places in the window, as pace and socket allow."""
        room = self.window_room()
        if room <= 0 or not self._writable:
            return 0
        ahead = self._pacer.ahead(now)
        return room if ahead == inf else max(min(room, int(ahead - self._billed(self._waiting))), 0)

    @property
    def paced(self) -> bool:
        """Whether more than window and socket hold it back."""
        return self._pacer.rate != inf

    def worth_s(self, now: float, reserved: float) -> float:
        """Until there is room for a quarter of what the pace gives ahead, as far as is known."""
        missing = max(self._pacer.most // 4, 1) + reserved + self._billed(self._waiting)
        return (missing - self._pacer.ahead(now)) / self._pacer.rate

    def send(self, segments: Sequence[tuple[Token, bytes]], now: float) -> None:
        """Write submits as the pace allows; the caller has looked at their `send_before` and at the room."""
        if self._waiting or not self._writable or self._pacer.available(now) < self._billed(segments):
            self._waiting.extend(segments)
            self._go(now)
        else:
            self._pacer.spend(self._billed(segments), now)
            self._write(segments, now)

    def ask(self, command: int, body: bytes) -> asyncio.Future[Replied]:
        """A query_sm or cancel_sm; the caller has looked at the window."""
        reply: asyncio.Future[Replied] = asyncio.get_running_loop().create_future()
        self.session.ask(reply, command, body, self._clock())
        self._flush()
        return reply

    def acknowledge(self, deliveries: Sequence[tuple[int, int]], status: int) -> None:
        """Answer deliveries (`intake.Source`)."""
        if self.session.state is not State.CLOSED:
            self.session.acknowledge(deliveries, status)
            self._flush()
        if not self._reading and self.unanswered <= MAX_UNANSWERED // 2 and self._transport:
            self._reading = True
            with contextlib.suppress(RuntimeError):  # closing
                self._transport.resume_reading()

    def unbind(self) -> None:
        """Take leave (4.2); `closed` is set when the SMSC has answered, or shortly after."""
        self.session.unbind(self._clock())
        self._flush()

    def abort(self, reason: str) -> None:
        """Drop the connection; everything outstanding ends."""
        self._handle(self.session.disconnected(reason))
        self._lose_transport()

    def tick(self, now: float) -> None:
        """Timers; several times a second."""
        if self._waiting:
            self._expire(now)
        self._handle(self.session.tick(now))
        if self.session.state is State.BOUND:
            self._grow_old(now)
        self._flush()

    # --- asyncio.Protocol --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected, TLS included: bind."""
        transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # Nagle against delayed ACKs costs 40 ms a window.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                timeout_ms = int(self._config.options.tcp_timeout_s * 1000)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        if self._allowed is None:
            self._bind()
        elif transport.get_extra_info("peername")[0] not in self._allowed:
            self._owner.counters.outbinds_refused += 1
            self.abort("an outbind from elsewhere")

    def data_received(self, data: bytes) -> None:
        """Bytes: everything that one read gave is handled in one go."""
        self._handle(self.session.receive(data, self._clock()))
        self._flush()

    def pause_writing(self) -> None:
        """The socket takes no more."""
        self._writable = False

    def resume_writing(self) -> None:
        """It does again: first what waited here."""
        self._writable = True
        self._go(self._clock())
        self._owner.changed()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, for whatever reason."""
        reason = f"connection lost: {type(exc).__name__}" if exc else "closed by the SMSC"
        self._handle(self.session.disconnected(reason))
        self._transport = None
        self._over()

    # --- inside -------------------------------------------------------------------------------------

    def _billed(self, segments: Sequence[tuple[Token, bytes]]) -> int:
        return billed(segments) if self._whole else len(segments)

    def _go(self, now: float) -> None:
        """Write what waits, as far as pace and socket allow, and come again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._expire(now)
        if not self._waiting or not self._writable or self.session.state is not State.BOUND:
            return
        ready = 0
        for _, text in groupby(self._waiting, lambda entry: id(entry[0][0])):
            together = list(text)
            billed = self._billed(together)
            if not self._pacer.may(billed, now):
                delay_s = max(self._pacer.next_at(billed) - now, _LEAST_WAIT_S)
                self._timer = asyncio.get_running_loop().call_later(delay_s, self._came)
                break
            self._pacer.spend(billed, now)
            ready += len(together)
        if ready:
            self._write([self._waiting.popleft() for _ in range(ready)], now)

    def _came(self) -> None:
        self._timer = None
        self._go(self._clock())

    def _write(self, segments: Sequence[tuple[Token, bytes]], now: float) -> None:
        self.session.submit(segments, now)
        self._flush()
        written_at = self._clock()
        self._pacer.wrote(self._billed(segments), written_at)
        for (submission, index), _ in segments:
            submission.written += len(submission.parts) if index == ALL else 1
            submission.written_at = written_at

    def _bind(self) -> None:
        self.session.bind(self._config.system_id, self._config.password, **self._config.bind_fields)
        self._flush()

    def _on_outbind(self, password: bytes) -> None:
        """Our own password goes only to whom has the one that was agreed on."""
        if hmac.compare_digest(password, self._config.options.outbind_password.encode()):
            self._bind()
        else:
            self._owner.counters.outbinds_refused += 1
            self.abort("an outbind with a wrong password")

    def _flush(self) -> None:
        data = self.session.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _lose_transport(self) -> None:
        if self._transport is not None:
            self._transport.close() if self._writable else self._transport.abort()
        else:
            self._over()

    def _over(self) -> None:
        self.settled.set()
        self.closed.set()

    def _handle(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Answered(answers):
                    self._on_answers(answers)
                case Delivered(messages):
                    self._on_deliveries(messages)
                case Lost(tokens, reason):
                    outcome = _TIMEOUT if reason == "timeout" else _CONNECTION_LOST
                    self._owner.ended([(submission, index, outcome) for submission, index in tokens])
                case Replied(reply):
                    if not reply.done():
                        reply.set_result(event)
                case Bound():
                    self._bound_at = self.session.busy_at = self._clock()
                    self.settled.set()
                case Outbound(_, password):
                    self._on_outbind(password)
                case Closed():
                    self._on_closed(event)

    def _on_answers(self, answers: Sequence[tuple[Token, int, bytes | None]]) -> None:
        self.useful = True
        owner = self._owner
        normalise, refusals = owner.normalise, owner.refusals
        batch: list[Ended] = []
        accepted, throttled = 0, False
        for (submission, index), code, message_id in answers:
            outcome: Outcome
            if message_id is None:
                outcome = _BAD_ANSWER
            elif code == 0:
                outcome = Accepted(normalise(message_id.decode("latin-1")))
                accepted += len(submission.parts) if index == ALL else 1
            else:
                outcome = status.refusal(refusals, code)
                throttled = throttled or outcome.reason in status.THROTTLING_REASONS
            batch.append((submission, index, outcome))
        now = self._clock()
        self._pacer.accepted(accepted, now)
        if throttled:
            self._pacer.throttled(now)
        if self._pacer.counts:
            self._pacer.answered(self._written(answers), now)
        owner.ended(batch)
        if self._waiting:
            self._go(now)

    def _written(self, answers: Sequence[tuple[Token, int, bytes | None]]) -> list[float]:
        """When each segment of these was written."""
        return [
            submission.written_at
            for (submission, index), _, _ in answers
            for _ in range(len(submission.parts) if index == ALL else 1)
        ]

    def _on_deliveries(self, messages: Sequence[tuple[int, int, pdu.Message]]) -> None:
        self._owner.intake.add(self, messages, self._clock())
        if self._reading and self.unanswered >= MAX_UNANSWERED and self._transport:
            self._reading = False
            self._transport.pause_reading()

    def _on_closed(self, event: Closed) -> None:
        self.error = status.name(event.refused_status) if event.refused_status else event.reason
        if self._timer is not None:
            self._timer.cancel()
        waiting = [(submission, index, NOT_CONNECTED) for (submission, index), _ in self._waiting]
        self._waiting.clear()
        if waiting:
            self._owner.ended(waiting)
        self._flush()  # the answer to an unbind, the nack of what could not be read
        self._lose_transport()

    def _grow_old(self, now: float) -> None:
        """Leave a session that is too old, or idle for too long (7.2): take nothing more, wait for what is in
        the window, unbind. Its link binds again."""
        options = self._config.options
        if not self._retired_at:
            too_old = options.session_s and now - self._bound_at > options.session_s * self._age_factor
            idle = options.inactivity_s and now - self.session.busy_at > options.inactivity_s
            if too_old or idle:
                self._retired_at = now
        if self._retired_at:
            empty = not self.in_flight and not self.unanswered
            if empty or now - self._retired_at > options.response_timeout_s:
                self.session.unbind(now)

    def _expire(self, now: float) -> None:
        """Give back what waited past its `send_before`."""
        late = [token for token, _ in self._waiting if token[0].send_before < now]
        if late:
            self._waiting = deque(entry for entry in self._waiting if entry[0][0].send_before >= now)
            self._owner.ended([(submission, index, TOO_LATE) for submission, index in late])
