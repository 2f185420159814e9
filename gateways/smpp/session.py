"""One SMPP 3.4 session seen from the ESME, as a pure state machine: bytes in, events out.

Guarantees:

* no I/O and no clock: the caller feeds `receive`, `tick` and `disconnected` with monotonic
  seconds and writes what `data_to_send` gives;
* every token given to `submit` comes back in exactly one event, `Answered` or `Lost`, and every one given to
  `ask` in one `Replied`;
  an answer to nothing, or one that comes too late, is counted and otherwise ignored;
* malformed bytes never raise: they are counted, answered as section 4.3 asks, and, where the
  framing itself is lost, end the session;
* all state changes stand in `_TRANSITIONS`, and what each state understands in `_HANDLERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import msgspec

from gateways.smpp import pdu


class State(Enum):
    """Where a session stands (2.2), from our side."""

    OPEN = "open"  # connected, our bind is on its way
    BOUND = "bound"
    CLOSING = "closing"  # our unbind is on its way: nothing new is submitted
    CLOSED = "closed"


class Signal(Enum):
    """What can change the state."""

    BIND_ACCEPTED = "bind_accepted"
    BIND_REFUSED = "bind_refused"
    UNBIND_SENT = "unbind_sent"
    UNBOUND = "unbound"  # by either side, answered
    FAILED = "failed"  # framing lost, time-out, disconnected


_TRANSITIONS: dict[tuple[State, Signal], State] = {
    (State.OPEN, Signal.BIND_ACCEPTED): State.BOUND,
    (State.OPEN, Signal.BIND_REFUSED): State.CLOSED,
    (State.OPEN, Signal.UNBOUND): State.CLOSED,
    (State.OPEN, Signal.FAILED): State.CLOSED,
    (State.BOUND, Signal.UNBIND_SENT): State.CLOSING,
    (State.BOUND, Signal.UNBOUND): State.CLOSED,
    (State.BOUND, Signal.FAILED): State.CLOSED,
    (State.CLOSING, Signal.UNBOUND): State.CLOSED,
    (State.CLOSING, Signal.FAILED): State.CLOSED,
}


class Bound(msgspec.Struct, frozen=True):
    """The SMSC accepted our bind."""


class Outbound(msgspec.Struct, frozen=True):
    """The SMSC came to us and asks us to bind (2.7.3): `bind`, or `disconnected`."""

    system_id: bytes
    password: bytes

    def __repr__(self) -> str:
        return "Outbound()"


class Closed(msgspec.Struct, frozen=True):
    """The session is over; the connection is to be closed. `reason` holds no secrets.

    `refused_status` is the command_status of a refused bind, else 0.
    """

    reason: str
    refused_status: int = 0


class Answered(msgspec.Struct, frozen=True, gc=False):
    """The answers of one read, in their order: (token, command_status, message_id).

    message_id is None where the answer makes no sense.
    """

    answers: list[tuple[Any, int, bytes | None]]


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """The deliver_sm and data_sm of one read: (sequence, command, message). Each awaits `acknowledge`."""

    messages: list[tuple[int, int, pdu.Message]]


class Lost(msgspec.Struct, frozen=True, gc=False):
    """Segments that were handed over and will not be answered here. `reason`: timeout, connection_lost ..."""

    tokens: list[Any]
    reason: str


class Replied(msgspec.Struct, frozen=True, gc=False):
    """What became of a question (`Session.ask`): the whole PDU, or None where it will not be answered."""

    token: Any
    status: int
    unit: bytes | None


Event = Bound | Closed | Answered | Delivered | Lost | Replied | Outbound


class _Reading(msgspec.Struct, gc=False):
    """What one read gives, before it becomes events."""

    answers: list[tuple[Any, int, bytes | None]]
    messages: list[tuple[int, int, pdu.Message]]
    events: list[Event]

    def in_order(self) -> list[Event]:
        """Answers before receipts, which may speak of them; what ends the session comes last."""
        ordered: list[Event] = []
        if self.events and isinstance(self.events[0], Bound):
            ordered.append(self.events.pop(0))
        if self.answers:
            ordered.append(Answered(self.answers))
        if self.messages:
            ordered.append(Delivered(self.messages))
        return ordered + self.events


class Counters(msgspec.Struct):
    """What went by, for the metrics; plain ints. The sessions of one gateway share them."""

    stray_answers: int = 0  # answers to nothing: late ones after a time-out, mostly
    malformed: int = 0
    unknown_commands: int = 0
    nacks: int = 0
    enquire_links: int = 0
    outbinds_refused: int = 0


class Timers(msgspec.Struct, frozen=True):
    """SMPP 3.4 section 7.2, in seconds."""

    bind_s: float = 10.0
    response_s: float = 30.0
    enquire_link_s: float = 15.0
    enquire_link_response_s: float = 10.0
    unbind_s: float = 2.0


class Session:
    """See the head of this file. `kind` is transceiver, transmitter or receiver."""

    def __init__(
        self,
        kind: str,
        timers: Timers,
        now: float,
        counters: Counters | None = None,
        *,
        outbound: bool = False,
    ) -> None:
        """`outbound`: the SMSC connected, and its outbind comes before our bind."""
        self.kind = kind
        self._awaits_outbind = outbound
        self.state = State.OPEN
        self.counters = counters or Counters()
        # Answers come back in about the order of their submits, and all have the same time-out:
        # the first entry is always the next to time out.
        self.pending: dict[int, tuple[Any, float]] = {}
        self.asked: dict[int, tuple[Any, float]] = {}  # query_sm and cancel_sm
        self.busy_at = now  # the last submit, answer or delivery
        self._timers = timers
        self._sequence = 0
        self._tail = b""
        self._out: list[bytes] = []
        self._opened = now
        self._heard = now
        self._enquired: float | None = None
        self._unbind_sent: float | None = None

    # --- what the caller does ---------------------------------------------------------------

    def bind(self, system_id: str, password: str, **fields: Any) -> None:
        """Queue the bind PDU (4.1); `fields` are those of `pdu.bind`."""
        self._out.append(pdu.bind(self.kind, self._next_sequence(), system_id, password, **fields))

    def submit(self, segments: Iterable[tuple[Any, bytes]], now: float) -> None:
        """Queue a submit_sm for each (token, body); the body comes from `pdu.submit_sm_body`."""
        pack, out, pending = pdu.HEADER.pack, self._out, self.pending
        sequence = self._sequence
        for token, body in segments:
            sequence = sequence + 1 if sequence < pdu.LAST_SEQUENCE else 1
            out.append(pack(16 + len(body), pdu.SUBMIT_SM, 0, sequence))
            out.append(body)
            pending[sequence] = (token, now)
        self._sequence = sequence
        self.busy_at = now

    def ask(self, token: Any, command: int, body: bytes, now: float) -> None:
        """Queue a query_sm or cancel_sm; `token` comes back in exactly one `Replied`."""
        sequence = self._next_sequence()
        self._out.append(pdu.frame(command, sequence, body))
        self.asked[sequence] = (token, now)

    def acknowledge(self, deliveries: Iterable[tuple[int, int]], status: int) -> None:
        """Queue the answers to deliveries, given as (sequence, command)."""
        for sequence, command in deliveries:
            self._out.append(pdu.frame(command | pdu.RESPONSE_BIT, sequence, b"\x00", status))

    def unbind(self, now: float) -> None:
        """Queue an unbind; answers to what is in the window are still taken until it is answered."""
        if self.state is State.BOUND:
            self._out.append(pdu.unbind(self._next_sequence()))
            self._unbind_sent = now
            self._change(Signal.UNBIND_SENT)

    def data_to_send(self) -> bytes:
        """Everything queued since the last call, to be written at once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    # --- what happens to the session ----------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Bytes from the socket."""
        if self.state is State.CLOSED:
            return []
        buffer = self._tail + data if self._tail else data
        self._heard, self._enquired = now, None
        reading = _Reading([], [], [])
        answers, messages = reading.answers, reading.messages
        position, end = 0, len(buffer)
        unpack, pop = pdu.HEADER.unpack_from, self.pending.pop
        while end - position >= 16 and self.state is not State.CLOSED:
            length, command, status, sequence = unpack(buffer, position)
            if not 16 <= length <= pdu.MAX_PDU_OCTETS:
                self._lose_framing(reading.events)
                break
            stop = position + length
            if stop > end:
                break
            if command == pdu.SUBMIT_SM_RESP:
                entry = pop(sequence, None)
                if entry is None:
                    self.counters.stray_answers += 1
                elif status:
                    answers.append((entry[0], status, b""))
                else:
                    answers.append((entry[0], 0, self._message_id(buffer, position + 16, stop)))
            elif command == pdu.DELIVER_SM and self.state in _TAKES_DELIVERIES:
                try:
                    message = pdu.read_message(buffer, position + 16, stop)
                except pdu.Malformed as error:
                    self._refuse_delivery(command, sequence, error.status)
                else:
                    messages.append((sequence, command, message))
            else:
                self._dispatch(command, status, sequence, buffer[position:stop], reading)
            position = stop
        self._tail = buffer[position:] if self.state is not State.CLOSED else b""
        if answers or messages:
            self.busy_at = now
        return reading.in_order()

    def tick(self, now: float) -> list[Event]:
        """Timers; to be called several times a second. O(1) but for what has timed out."""
        if self.state is State.CLOSED:
            return []
        if self.state is State.OPEN:
            if now - self._opened > self._timers.bind_s:
                return self._fail("bind timed out", "connection_lost")
            return []
        if self._unbind_sent is not None and now - self._unbind_sent > self._timers.unbind_s:
            return self._fail("unbind timed out", "connection_lost")
        if self._enquired is not None:
            if now - self._enquired > self._timers.enquire_link_response_s:
                return self._fail("enquire_link timed out", "connection_lost")
        elif now - self._heard > self._timers.enquire_link_s:
            self._out.append(pdu.frame(pdu.ENQUIRE_LINK, self._next_sequence()))
            self._enquired = now
            self.counters.enquire_links += 1
        return self._timed_out(now)

    def disconnected(self, reason: str = "connection lost") -> list[Event]:
        """The connection is gone, or its owner gives it up."""
        if self.state is State.CLOSED:
            return []
        return self._fail(reason, "connection_lost")

    # --- inside -------------------------------------------------------------------------------

    def _next_sequence(self) -> int:
        self._sequence = self._sequence + 1 if self._sequence < pdu.LAST_SEQUENCE else 1
        return self._sequence

    def _change(self, signal: Signal) -> None:
        self.state = _TRANSITIONS[self.state, signal]

    def _message_id(self, buffer: bytes, start: int, stop: int) -> bytes | None:
        try:
            return pdu.message_id(buffer, start, stop) or None
        except pdu.Malformed:
            self.counters.malformed += 1
            return None

    def _lose_framing(self, events: list[Event]) -> None:
        """command_length makes no sense: what follows can't be read (4.3)."""
        self.counters.malformed += 1
        self._out.append(pdu.generic_nack(0, pdu.ESME_RINVCMDLEN))
        events += self._fail("command_length makes no sense", "connection_lost")

    def _fail(self, reason: str, lost: str) -> list[Event]:
        self._change(Signal.FAILED)
        return self._give_up(Closed(reason), lost)

    def _give_up(self, closed: Closed, lost: str) -> list[Event]:
        tokens = [token for token, _ in self.pending.values()]
        self.pending.clear()
        events: list[Event] = [Replied(token, 0, None) for token, _ in self.asked.values()]
        self.asked.clear()
        if tokens:
            events.append(Lost(tokens, lost))
        return [*events, closed]

    def _timed_out(self, now: float) -> list[Event]:
        late: list[Any] = []
        horizon = now - self._timers.response_s
        pending = self.pending
        while pending:
            sequence = next(iter(pending))
            token, sent = pending[sequence]
            if sent > horizon:
                break
            del pending[sequence]
            late.append(token)
        events: list[Event] = [Lost(late, "timeout")] if late else []
        for sequence in [number for number, (_, sent) in self.asked.items() if sent <= horizon]:
            events.append(Replied(self.asked.pop(sequence)[0], 0, None))
        return events

    def _refuse_delivery(self, command: int, sequence: int, status: int) -> None:
        self.counters.malformed += 1
        self._out.append(pdu.frame(command | pdu.RESPONSE_BIT, sequence, b"\x00", status))

    def _dispatch(self, command: int, status: int, sequence: int, unit: bytes, reading: _Reading) -> None:
        """Everything but submit_sm_resp and deliver_sm."""
        handler = _HANDLERS[self.state].get(command)
        if handler is not None:
            handler(self, status, sequence, unit, reading)
        elif command & pdu.RESPONSE_BIT:
            self.counters.stray_answers += 1
        elif command in _KNOWN_REQUESTS:
            refusal = pdu.frame(command | pdu.RESPONSE_BIT, sequence, b"", pdu.ESME_RINVBNDSTS)
            self._out.append(refusal)
        else:
            self.counters.unknown_commands += 1
            self._out.append(pdu.generic_nack(sequence, pdu.ESME_RINVCMDID))

    # Handlers are called with (command_status, sequence_number, whole PDU, what this read gave so far).

    def _on_bind_resp(self, status: int, _sequence: int, _unit: bytes, reading: _Reading) -> None:
        if status:
            self._change(Signal.BIND_REFUSED)
            reading.events += self._give_up(Closed("bind refused", status), "connection_lost")
        else:
            self._change(Signal.BIND_ACCEPTED)
            reading.events.append(Bound())

    def _on_nack_of_bind(self, status: int, _sequence: int, _unit: bytes, reading: _Reading) -> None:
        self.counters.nacks += 1
        self._change(Signal.BIND_REFUSED)
        reading.events += self._give_up(Closed("bind refused", status), "connection_lost")

    def _on_outbind(self, _status: int, sequence: int, unit: bytes, reading: _Reading) -> None:
        """4.1.7. It has no answer but our bind; where we await none, it is nacked."""
        if self._awaits_outbind:
            try:
                reading.events.append(Outbound(*pdu.read_outbind(unit)))
            except pdu.Malformed as error:
                self.counters.malformed += 1
                self._out.append(pdu.generic_nack(sequence, error.status))
            self._awaits_outbind = False
        else:
            self.counters.outbinds_refused += 1
            self._out.append(pdu.generic_nack(sequence, pdu.ESME_RINVBNDSTS))

    def _on_enquire_link(self, _status: int, sequence: int, _unit: bytes, _reading: _Reading) -> None:
        self._out.append(pdu.frame(pdu.ENQUIRE_LINK_RESP, sequence))

    def _on_enquire_link_resp(self, _status: int, _sequence: int, _unit: bytes, _reading: _Reading) -> None:
        """Any byte heard is an answer: see `receive`."""

    def _on_unbind(self, _status: int, sequence: int, _unit: bytes, reading: _Reading) -> None:
        self._out.append(pdu.frame(pdu.UNBIND_RESP, sequence))
        self._change(Signal.UNBOUND)
        reading.events += self._give_up(Closed("unbound by the SMSC"), "connection_lost")

    def _on_unbind_resp(self, _status: int, _sequence: int, _unit: bytes, reading: _Reading) -> None:
        self._change(Signal.UNBOUND)
        reading.events += self._give_up(Closed("unbound"), "connection_lost")

    def _on_generic_nack(self, status: int, sequence: int, _unit: bytes, reading: _Reading) -> None:
        """4.3: refuses the PDU of that sequence. Without a status it says nothing of its fate."""
        self.counters.nacks += 1
        entry = self.pending.pop(sequence, None)
        if entry is not None:
            reading.answers.append((entry[0], status, b"" if status else None))
        elif sequence in self.asked:
            reading.events.append(Replied(self.asked.pop(sequence)[0], status, None))

    def _on_reply(self, status: int, sequence: int, unit: bytes, reading: _Reading) -> None:
        """query_sm_resp (4.8.2) or cancel_sm_resp (4.9.2)."""
        entry = self.asked.pop(sequence, None)
        if entry is None:
            self.counters.stray_answers += 1
        else:
            reading.events.append(Replied(entry[0], status, unit))

    def _on_data_sm(self, _status: int, sequence: int, unit: bytes, reading: _Reading) -> None:
        try:
            message = pdu.read_data_sm(unit)
        except pdu.Malformed as error:
            self._refuse_delivery(pdu.DATA_SM, sequence, error.status)
        else:
            reading.messages.append((sequence, pdu.DATA_SM, message))

    def _on_alert_notification(self, _status: int, sequence: int, unit: bytes, _reading: _Reading) -> None:
        """4.12: has no answer; we asked for none, so it is only checked."""
        try:
            pdu.parse(unit)
        except pdu.Malformed as error:
            self.counters.malformed += 1
            self._out.append(pdu.generic_nack(sequence, error.status))


_TAKES_DELIVERIES = frozenset({State.BOUND, State.CLOSING})
_KNOWN_REQUESTS = frozenset(
    {pdu.SUBMIT_SM, pdu.DELIVER_SM, pdu.DATA_SM, pdu.QUERY_SM, pdu.CANCEL_SM, *pdu.BIND_COMMANDS.values()}
)

_Handler = Callable[..., None]
_ALWAYS: dict[int, _Handler] = {
    pdu.ENQUIRE_LINK: Session._on_enquire_link,
    pdu.ENQUIRE_LINK_RESP: Session._on_enquire_link_resp,
    pdu.UNBIND: Session._on_unbind,
    pdu.OUTBIND: Session._on_outbind,
}
_WHILE_BOUND: dict[int, _Handler] = _ALWAYS | {
    pdu.GENERIC_NACK: Session._on_generic_nack,
    pdu.QUERY_SM_RESP: Session._on_reply,
    pdu.CANCEL_SM_RESP: Session._on_reply,
    pdu.DATA_SM: Session._on_data_sm,
    pdu.ALERT_NOTIFICATION: Session._on_alert_notification,
}
# submit_sm_resp and deliver_sm, the hot two, are handled in `receive` itself.
_HANDLERS: dict[State, dict[int, _Handler]] = {
    State.OPEN: _ALWAYS
    | {
        pdu.BIND_TRANSMITTER_RESP: Session._on_bind_resp,
        pdu.BIND_RECEIVER_RESP: Session._on_bind_resp,
        pdu.BIND_TRANSCEIVER_RESP: Session._on_bind_resp,
        pdu.GENERIC_NACK: Session._on_nack_of_bind,
    },
    State.BOUND: _WHILE_BOUND,
    State.CLOSING: _WHILE_BOUND | {pdu.UNBIND_RESP: Session._on_unbind_resp},
    State.CLOSED: {},
}
