"""A way out by SMPP 3.4: several binds, kept open, behind the interface of `gateways.base`.

Guarantees, beside those of that interface:

* credit is the sum of the free windows of the bound binds, less what is taken and not yet
  submitted; where a pace holds back, what goes within `pacing.AHEAD_S`. Nothing waits here
  longer, except for a socket that is full;
* a bind that is lost comes back by itself, with jittered back-off, until `close`;
* outcomes go to the sink in batches, never from within `submit`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal
from zoneinfo import ZoneInfo

from gateways.base import BindStatus, Outcome, Receipt, Rejected, Retry, Sink, Submission
from gateways.smpp import pdu, status
from gateways.smpp.config import Config, codings
from gateways.smpp.connection import NOT_CONNECTED, TOO_LATE, Connection, Ended, Token
from gateways.smpp.encoder import ALL, Encoder
from gateways.smpp.intake import Intake
from gateways.smpp.pacing import AHEAD_S, Pacer
from gateways.smpp.reassembly import Reassembler
from gateways.smpp.receipts import ReceiptReader, id_normaliser
from gateways.smpp.session import Counters, Replied, State

TICK_S = 0.1
SAY_DOWN_S = 60.0  # between two lines about a bind that stays down for one reason
# A bind that lived so long, or answered anything, is worth an immediate new try.
_STEADY_S = 10.0
_MIN_WAKE_S = 0.005

_CLOSED = Retry("closed", sent=False)
_WINDOW_FULL = Retry("window_full", sent=False)

_log = logging.getLogger(__name__)


class Link:
    """One bind over its lives: connects, and connects again."""

    def __init__(self, index: int, kind: str, gateway: SMPPGateway) -> None:
        self.name = f"{gateway.name}/{index}"
        self.kind = kind
        self.state: Literal["connecting", "bound", "closing", "down"] = "down"
        self.since = time.time()
        self.error = ""
        self.connection: Connection | None = None
        self._gateway = gateway
        self._config = gateway.config
        self.pacer = Pacer(self._config.options.rate, gateway.clock())
        self.task: asyncio.Task[None] | None = None
        self._said: str | None = None  # the reason that was logged last
        self._say_again_at = 0.0

    def set_state(self, state: Literal["connecting", "bound", "closing", "down"]) -> None:
        """For the console."""
        if state != self.state:
            self.state, self.since = state, time.time()

    async def run(self) -> None:
        """Until cancelled."""
        options = self._config.options
        delay_s = options.reconnect_min_s
        while True:
            try:
                steady = await self._live()
            except Exception as error:  # a bind that nobody brings back is worse than a wrong guess
                _log.exception("%s failed", self.name)
                steady, self.error = False, type(error).__name__
            self.set_state("down")
            self._gateway.changed()
            if self._gateway.closing:
                return
            delay_s = options.reconnect_min_s if steady else min(delay_s * 2, options.reconnect_max_s)
            self._say_down()
            # Jitter keeps the binds of many processes from coming back in one instant.
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret

    def _say_down(self) -> None:
        """Once a reason, and then once in a while: a carrier may be away for days."""
        now = self._gateway.clock()
        if self.error != self._said or now >= self._say_again_at:
            self._said, self._say_again_at = self.error, now + SAY_DOWN_S
            _log.warning("%s is down: %s", self.name, self.error)

    async def _live(self) -> bool:
        """One connection from start to end; whether it was a good one."""
        gateway = self._gateway
        self.set_state("connecting")
        try:
            connection = await (self._listen() if self.kind == "outbind" else self._connect())
        except (OSError, TimeoutError, UnicodeError) as error:  # UnicodeError: no host name
            self.error = f"can't connect: {type(error).__name__}"
            return False
        self.connection = connection
        try:
            await connection.settled.wait()
            bound_at = gateway.clock()
            was_bound = not connection.closed.is_set()
            if was_bound:
                self._on_bound()
            await connection.closed.wait()
        finally:
            self.connection = None
        self.error = connection.error
        return connection.useful or (was_bound and gateway.clock() - bound_at > _STEADY_S)

    async def _connect(self) -> Connection:
        config = self._config
        connection = Connection(self.kind, config, self._gateway, self.pacer, self._gateway.clock)
        async with asyncio.timeout(config.options.connect_timeout_s):
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                config.host,
                config.port,
                ssl=config.tls,
                server_hostname=(config.options.tls_name or config.host) if config.tls else None,
            )
        return connection

    async def _listen(self) -> Connection:
        """Await the SMSC: the first connection from one of its addresses that gets as far as our bind. Meanwhile
        others may come and be refused; afterwards nobody listens until that session is over."""
        config, loop = self._config, asyncio.get_running_loop()
        found = await loop.getaddrinfo(config.host, None)
        allowed = frozenset(str(address[0]) for *_, address in found)
        came: asyncio.Queue[Connection] = asyncio.Queue()

        def accept() -> Connection:
            connection = Connection(
                self.kind, config, self._gateway, self.pacer, self._gateway.clock, allowed=allowed
            )
            came.put_nowait(connection)
            return connection

        server = await loop.create_server(accept, *config.outbind_address)
        connection = None
        try:
            while True:
                connection = self.connection = await came.get()
                await connection.settled.wait()
                if not connection.closed.is_set():
                    return connection
                self.error = connection.error
        finally:
            self.connection = None
            server.close()
            while not came.empty():
                came.get_nowait().abort("another one came first")

    def _on_bound(self) -> None:
        self.set_state("bound")
        self.error, self._said = "", None
        _log.info("%s is bound as %s", self.name, self.kind)
        self._gateway.changed()


class SMPPGateway:
    """See the head of this file, and `gateways.base.Gateway` for the methods."""

    def __init__(
        self, name: str, config: Config, sink: Sink, clock: Callable[[], float] = time.monotonic
    ) -> None:
        options = config.options
        self.name = name
        self.config = config
        self.clock = clock
        self.counters = Counters()  # beside those of `intake`
        self.refusals: Mapping[int, status.Refusal] = status.refusals(options.status)
        self.normalise = id_normaliser(options.submit_id)
        self._reader = ReceiptReader(
            options.receipt_id,
            ZoneInfo(options.receipt_zone),
            whole=options.receipts_per == "message",
            addresses=options.receipt_addresses,
            country=options.country,
        )
        self.intake = Intake(
            name,
            sink,
            self._reader,
            Reassembler(
                options.alphabet, options.reassembly_s, options.redelivery_s, country=options.country
            ),
            unmarked_receipts=options.unmarked_receipts,
        )
        self._sink = sink
        self.coding, self.asked_coding = codings(options)
        self._encoder = Encoder(options)
        self._links: list[Link] = []
        self._reserved = 0
        self.closing = False
        self._unreported: list[Ended] = []
        self._drained = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._wake: asyncio.TimerHandle | None = None

    # --- gateways.base.Gateway ---------------------------------------------------------------------

    async def open(self, binds: int) -> None:
        """Start connecting. With `bind=transmitter+receiver` each bind is one of either: a process that holds one
        bind of the gateway's must be able to send and to hear."""
        if self._links or self.closing:
            raise RuntimeError(f"gateway {self.name} was opened before")
        kinds = self.config.kinds
        self._links = [Link(i, kind, self) for i, kind in enumerate(kinds * binds)]
        for link in self._links:
            link.task = asyncio.create_task(link.run(), name=f"smpp {link.name}")
        self._tick()

    async def close(self, drain_s: float) -> None:
        """Drain, unbind, end everything. Takes at most `drain_s` and the time-out of an unbind."""
        self.closing = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + drain_s
        for link in self._links:
            if link.connection is None and link.task:
                link.task.cancel()
            elif link.connection is not None:
                link.set_state("closing")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._answered()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(max(deadline, loop.time() + 0.1)):
                await self.intake.drained()
        connections = [link.connection for link in self._links if link.connection is not None]
        for connection in connections:
            connection.unbind()
            if connection.session.state is not State.CLOSING:
                connection.abort("closed")
        if connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.config.timers.unbind_s + 0.5):
                    for connection in connections:
                        await connection.closed.wait()
        await self._stop(connections)

    def take(self, segments: int) -> int:
        """See `gateways.base.Gateway`; O(binds)."""
        if self.closing:
            return 0
        now = self.clock()
        free = -self._reserved
        for link in self._links:
            if link.connection is not None:
                free += link.connection.room(now)
        granted = max(min(segments, free), 0)
        self._reserved += granted
        if granted < segments:
            self._wake_when_paced(now)
        return granted

    def give_back(self, segments: int) -> None:
        """See `gateways.base.Gateway`."""
        self._reserved = max(self._reserved - segments, 0)

    def submit(self, batch: Sequence[Submission]) -> None:
        """See `gateways.base.Gateway`. What can't go is reported in the loop's next turn."""
        now = self.clock()
        places = [
            _Place(connection, connection.room(now))
            for link in self._links
            if (connection := link.connection) is not None and connection.can_send
        ]
        places.sort(key=lambda place: -place.room)
        for submission in batch:
            self.give_back(submission.mask.bit_count())
            if self.closing:
                self._unsent(submission, _CLOSED)
            elif submission.send_before < now:
                self._unsent(submission, TOO_LATE)
            else:
                bodies = self._encoder.bodies(submission)
                if isinstance(bodies, Rejected):
                    self._unsent(submission, bodies)
                else:
                    self._place(submission, bodies, places)
        for place in places:
            if place.segments:
                place.connection.send(place.segments, now)

    def binds(self) -> list[BindStatus]:
        """See `gateways.base.Gateway`."""
        return [
            BindStatus(
                name=link.name,
                state=link.state,
                window=self.config.options.window,
                in_flight=link.connection.in_flight if link.connection else 0,
                since=link.since,
                error=link.error,
                at_once=min(link.pacer.most, self.config.options.window),
            )
            for link in self._links
        ]

    # --- beside that interface ------------------------------------------------------------------------

    async def query(self, gateway_message_id: str, sender: str) -> Receipt | None:
        """What has become of a segment (query_sm, 4.8), as its receipt would say it; None where the carrier
        doesn't tell, or has no query_sm. `sender` as it was submitted."""
        source = self._encoder.source(sender)
        if not self.config.options.query_sm or source is None:
            return None
        reply = await self._ask(pdu.QUERY_SM, pdu.query_sm_body(gateway_message_id.encode("latin-1"), source))
        if reply is None or reply.status or reply.unit is None:
            return None
        try:
            return self._reader.of_query(pdu.read_query_sm_resp(reply.unit), gateway_message_id)
        except pdu.Malformed:
            self.counters.malformed += 1
            return None

    async def cancel(self, gateway_message_id: str, sender: str, to: str) -> bool | None:
        """Take a segment back (cancel_sm, 4.9). True: it will not be delivered; False: the carrier refused, so it may
        have been; None: nobody knows, or the carrier has no cancel_sm. Addresses as they were submitted."""
        source, destination = self._encoder.source(sender), self._encoder.destination(to)
        if not self.config.options.cancel_sm or source is None or destination is None:
            return None
        service_type = self.config.options.service_type.encode() + b"\x00"
        message_id = gateway_message_id.encode("latin-1")
        reply = await self._ask(
            pdu.CANCEL_SM, pdu.cancel_sm_body(service_type, message_id, source, destination)
        )
        if reply is None or (reply.unit is None and not reply.status):
            return None
        return reply.status == 0

    async def _ask(self, command: int, body: bytes) -> Replied | None:
        """The carrier's answer; None where no bind has room for a question."""
        for link in self._links:
            if link.connection is not None and link.connection.window_room() > self._reserved:
                return await link.connection.ask(command, body)
        return None

    # --- connection.Owner ------------------------------------------------------------------------------

    def ended(self, batch: Sequence[Ended]) -> None:
        """Outcomes of one read."""
        if self.config.options.concat == "payload":
            batch = _each_segment(batch)
        try:
            self._sink.outcomes(batch)
        except Exception:  # a bug of the sink must not cost the connection and its window
            _log.exception("gateway %s: the sink failed to take %d outcomes", self.name, len(batch))
        self.changed()

    def changed(self) -> None:
        """There may be credit, or a bind came or went."""
        if self.closing:
            if not self._in_flight():
                self._drained.set()
            return
        try:
            self._sink.ready()
        except Exception:
            _log.exception("gateway %s: the sink failed at ready()", self.name)

    # --- inside ----------------------------------------------------------------------------------------

    def _in_flight(self) -> int:
        return sum(link.connection.in_flight for link in self._links if link.connection is not None)

    async def _answered(self) -> None:
        while self._in_flight():
            self._drained.clear()
            await self._drained.wait()

    async def _stop(self, connections: Sequence[Connection]) -> None:
        for connection in connections:
            if not connection.closed.is_set():
                connection.abort("closed")
        tasks = [link.task for link in self._links if link.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for timer in (self._timer, self._wake):
            if timer is not None:
                timer.cancel()
        for link in self._links:
            link.set_state("down")
        self._report()

    def _place(self, submission: Submission, bodies: list[tuple[int, bytes]], places: list[_Place]) -> None:
        """All segments by one bind where one has room; else each wherever there is room."""
        wanted = len(bodies)
        if len(places) > 1 and places[0].connection.paced:  # or one would wait while another is idle
            places.sort(key=lambda place: -place.room)
        for place in places:
            if place.room >= wanted:
                place.add(submission, bodies)
                return
        for segment in bodies:
            for place in places:
                # Since the credit was taken the pace may have been cut, or the socket have become
                # full: the connection keeps it, unsent, while it may; the window decides.
                if place.room > 0 or place.connection.window_room() > len(place.segments):
                    place.add(submission, [segment])
                    break
            else:
                self._defer(submission, segment[0], _WINDOW_FULL if places else NOT_CONNECTED)

    def _unsent(self, submission: Submission, outcome: Outcome) -> None:
        mask = submission.mask
        while mask:
            index = (mask & -mask).bit_length() - 1
            self._defer(submission, index, outcome)
            mask &= mask - 1

    def _defer(self, submission: Submission, index: int, outcome: Outcome) -> None:
        if not self._unreported:
            asyncio.get_running_loop().call_soon(self._report)
        self._unreported.append((submission, index, outcome))

    def _report(self) -> None:
        batch, self._unreported = self._unreported, []
        if batch:
            self.ended(batch)

    def _tick(self) -> None:
        now = self.clock()
        for link in self._links:
            if link.connection is not None:
                link.connection.tick(now)
        self.intake.tick(now)
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _wake_when_paced(self, now: float) -> None:
        """Credit that only the pace holds back comes with time: say so when it does."""
        if self._wake is not None:
            return
        paced = [
            link.connection
            for link in self._links
            if link.connection is not None and link.connection.paced and link.connection.window_room() > 0
        ]
        if paced:
            reserved = self._reserved / len(paced)
            delay_s = min(connection.worth_s(now, reserved) for connection in paced)
            delay_s = min(max(delay_s, _MIN_WAKE_S), AHEAD_S / 2)
            self._wake = asyncio.get_running_loop().call_later(delay_s, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self.changed()


def _each_segment(batch: Sequence[Ended]) -> list[Ended]:
    """One PDU can carry all segments of a text: each has the PDU's outcome."""
    found: list[Ended] = []
    for submission, index, outcome in batch:
        if index == ALL:
            found += [(submission, each, outcome) for each in range(len(submission.parts))]
        else:
            found.append((submission, index, outcome))
    return found


class _Place:
    """Room of one connection while a batch is being spread."""

    __slots__ = ("connection", "room", "segments")

    def __init__(self, connection: Connection, room: int) -> None:
        self.connection = connection
        self.room = room
        self.segments: list[tuple[Token, bytes]] = []

    def add(self, submission: Submission, bodies: Sequence[tuple[int, bytes]]) -> None:
        self.segments += [((submission, index), body) for index, body in bodies]
        self.room -= len(bodies)
