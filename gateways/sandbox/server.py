"""The sandbox on real sockets: SMPP on one port, the control API on another."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
import time
from collections.abc import Sequence
from typing import Any, cast

import msgspec
from aiohttp import web

from gateways.sandbox import control
from gateways.sandbox.behaviour import STATUS_BY_NAME, Behaviour
from gateways.sandbox.ledger import DEFAULT_LIMIT, SlidingSecond
from gateways.sandbox.smsc import Account, Delivery, Smsc
from gateways.sandbox.texts import Inbound
from gateways.smpp import pdu

_CHECK_S = 0.5  # how often unanswered deliveries are looked at
_BIND_KINDS = {
    pdu.BIND_TRANSMITTER: "transmitter",
    pdu.BIND_RECEIVER: "receiver",
    pdu.BIND_TRANSCEIVER: "transceiver",
}
_NOT_BOUND = pdu.ESME_RINVBNDSTS
_UNBOUND_S = 60.0  # a connection that has not bound by then is dropped


class Settings(msgspec.Struct, frozen=True):
    """How to start a sandbox. Port 0 takes a free one; control_port None starts no control API."""

    host: str = "127.0.0.1"
    port: int = 2775
    control_host: str = "127.0.0.1"
    control_port: int | None = 2776
    control_token: str = ""  # asked for as Authorization: Bearer; needed where control_host isn't loopback
    users: dict[str, str] = msgspec.field(default_factory=lambda: {"volley": "secret"})
    ledger_limit: int = DEFAULT_LIMIT
    behaviour: Behaviour = Behaviour()
    enquire_link_s: float = 30.0
    seed: int | None = None


class Sandbox:
    """A sandbox SMSC; `port` and `control_port` are known after `start`."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.smsc = Smsc(self.settings.behaviour, self.settings.ledger_limit, self.settings.seed)
        self.port = self.settings.port
        self.control_port = self.settings.control_port
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._runner: web.AppRunner | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._checker: asyncio.Task[None] | None = None
        self._reference = 0
        self._connections_made = 0

    @property
    def listening(self) -> bool:
        """Whether SMPP connections are taken."""
        return self._server is not None and self._server.is_serving()

    async def start(self) -> None:
        """Listen. Raises OSError when a port is taken, ValueError for a control API open to everyone."""
        loop = asyncio.get_running_loop()
        settings = self.settings
        if settings.control_port is not None and not control.is_open_to(settings):
            raise ValueError("a control API that isn't on loopback needs a token")
        self._server = await loop.create_server(lambda: Connection(self), settings.host, settings.port)
        self.port = self._server.sockets[0].getsockname()[1]
        if settings.control_port is not None:
            self._runner = web.AppRunner(control.application(self), access_log=None)
            await self._runner.setup()
            site = web.TCPSite(self._runner, settings.control_host, settings.control_port)
            await site.start()
            self.control_port = self._runner.addresses[0][1]
        self._checker = asyncio.create_task(self._check())

    async def stop(self) -> None:
        """Close everything at once; what is under way is forgotten."""
        if self._checker is not None:
            self._checker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._checker
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self.connections):
            connection.cut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        if self._runner is not None:
            await self._runner.cleanup()

    def change(self, changes: dict[str, Any]) -> None:
        """Change the behaviour. Raises ValueError."""
        self.smsc.change(changes)
        for connection in self.connections:
            connection.stall(self.smsc.behaviour.stalled)
        for account in self.smsc.accounts.values():
            self.smsc.pump(account, time.monotonic())
        self.reschedule()

    def reset(self) -> None:
        """As at the start, but for the binds (`Smsc.reset`)."""
        self.smsc.reset()
        for connection in self.connections:
            connection.stall(self.smsc.behaviour.stalled)

    def inbound(self, sender: str, to: str, text: str, system_id: str = "") -> int:
        """Send a text from a person; gives the number of its PDUs. Raises ValueError."""
        return self.deliver(Inbound(sender=sender, to=to, text=text, system_id=system_id))

    def deliver(self, text: Inbound) -> int:
        """`inbound`, with everything that can be said about it."""
        users = self.settings.users
        name = text.system_id or next(iter(self.smsc.accounts), next(iter(users)))
        if name not in users:
            raise ValueError("system_id: no such account")
        reference = text.reference
        if reference is None:
            reference = self._reference = (self._reference + 1) % 256
        return self.smsc.inbound(name, text, reference=reference, now=time.monotonic())

    def garbage(self, data: bytes, system_id: str = "") -> int:
        """Send bytes as they are to every bind (of that account); gives how many there were."""
        peers = self._bound(system_id)
        for peer in peers:
            peer.send(data)
        self.smsc.counters.garbage_sent += len(peers)
        return len(peers)

    def unbind_all(self, system_id: str = "") -> int:
        """Send unbind to every bind (of that account), as before maintenance; gives how many there were."""
        peers = self._bound(system_id)
        for peer in peers:
            peer.unbind()
        return len(peers)

    def _bound(self, system_id: str) -> list[Connection]:
        return [
            connection
            for connection in self.connections
            if connection.account is not None and system_id in ("", connection.account.system_id)
        ]

    def number_connection(self) -> int:
        """The next connection's number, from 1."""
        self._connections_made += 1
        return self._connections_made

    def cut_all(self, system_id: str = "") -> int:
        """Drop every connection (of that account); gives how many there were."""
        connections = self._bound(system_id) if system_id else list(self.connections)
        for connection in connections:
            connection.cut()
        return len(connections)

    def reschedule(self) -> None:
        """Wake when the next thing is due."""
        due = self.smsc.later.next_due()
        if due is None:
            return
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        # Monotonic time of asyncio and uvloop is that of time.monotonic, up to a millisecond.
        self._timer_at = due
        delay_s = max(due - time.monotonic(), 0)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._run_due)

    def _run_due(self) -> None:
        self._timer = None
        self.smsc.run_due(time.monotonic(), time.time())
        self.reschedule()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_S)
            now = time.monotonic()
            for account in self.smsc.accounts.values():
                self.smsc.time_out(account, now)
            for connection in list(self.connections):
                connection.tick(now)


class Connection(asyncio.Protocol):
    """One connection of an ESME."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.outstanding: dict[int, Delivery] = {}
        self.admitted = SlidingSecond()
        self.number = sandbox.number_connection()
        self.kind = ""
        self.account: Account | None = None
        self._sandbox = sandbox
        self._smsc = sandbox.smsc
        self._transport: asyncio.Transport | None = None
        self._tail = b""
        self._sequence = 0
        self._made = self._heard = time.monotonic()
        self._full = False  # the peer reads too slowly: nothing is read from it meanwhile

    # --- smsc.Peer -----------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write, unless the connection is gone."""
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def deliver(self, deliveries: Sequence[Delivery], now: float) -> None:
        """Write them as deliver_sm or data_sm."""
        pack, sequence, out = pdu.HEADER.pack, self._sequence, []
        for delivery in deliveries:
            sequence = sequence + 1 if sequence < pdu.LAST_SEQUENCE else 1
            delivery.attempts += 1
            delivery.sent_at = now
            self.outstanding[sequence] = delivery
            out.append(pack(16 + len(delivery.body), delivery.command, 0, sequence))
            out.append(delivery.body)
        self._sequence = sequence
        self.send(b"".join(out))

    def cut(self) -> None:
        """Drop the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    def unbind(self) -> None:
        """Ask the ESME to go; what it still submits is answered."""
        self._sequence += 1
        self.send(pdu.frame(pdu.UNBIND, self._sequence))

    # --- the rest --------------------------------------------------------------------------------------

    def stall(self, stalled: bool) -> None:
        """Read nothing, or read again."""
        if self._transport is not None and not self._transport.is_closing():
            paused = stalled or self._full
            if paused and self._transport.is_reading():
                self._transport.pause_reading()
            elif not paused and not self._transport.is_reading():
                self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The peer doesn't read its answers: it gets no more of them, so memory stays bounded."""
        self._full = True
        self.stall(self._smsc.behaviour.stalled)

    def resume_writing(self) -> None:
        """It reads again."""
        self._full = False
        self.stall(self._smsc.behaviour.stalled)

    def tick(self, now: float) -> None:
        """enquire_link to a silent ESME; whoever never binds is dropped."""
        idle_s = self._sandbox.settings.enquire_link_s
        if self.account is None and now - self._made > _UNBOUND_S:
            self.cut()
        if self.account is not None and not self._smsc.behaviour.mute and now - self._heard > idle_s:
            self._heard = now
            self._sequence += 1
            self.send(pdu.frame(pdu.ENQUIRE_LINK, self._sequence))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Someone connected."""
        transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sandbox.connections.add(self)
        self.stall(self._smsc.behaviour.stalled)

    def connection_lost(self, exc: Exception | None) -> None:
        """The ESME is gone."""
        self._sandbox.connections.discard(self)
        self._leave()
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """One read: submits and answers are handled as batches."""
        buffer = self._tail + data if self._tail else data
        now = self._heard = time.monotonic()
        position, end = 0, len(buffer)
        submits: list[tuple[int, pdu.Message]] = []
        acknowledged = False
        while end - position >= 16:
            length, command, status, sequence = pdu.HEADER.unpack_from(buffer, position)
            if not 16 <= length <= pdu.MAX_PDU_OCTETS:
                self._malformed(0, pdu.ESME_RINVCMDLEN)
                self._close()
                return
            stop = position + length
            if stop > end:
                break
            if command == pdu.SUBMIT_SM and self.kind in ("transceiver", "transmitter"):
                try:
                    submits.append((sequence, pdu.read_message(buffer, position + 16, stop)))
                except pdu.Malformed as error:
                    self._smsc.counters.malformed += 1
                    self.send(pdu.submit_sm_resp(sequence, b"", error.status))
            elif command in (pdu.DELIVER_SM_RESP, pdu.DATA_SM_RESP):
                delivery = self.outstanding.pop(sequence, None)
                if delivery is not None and self.account is not None:
                    self._smsc.delivered(self.account, delivery, status, now)
                    acknowledged = True
            else:
                self._other(command, sequence, buffer[position:stop], now)
            position = stop
        self._tail = buffer[position:]
        if self.account is not None:
            if submits:
                self._smsc.submitted(self.account, self, submits, now, time.time())
            if acknowledged and self.account is not None:
                self._smsc.pump(self.account, now)
            self._sandbox.reschedule()

    def _other(self, command: int, sequence: int, unit: bytes, now: float) -> None:
        if self._smsc.behaviour.mute and self.account is not None:
            return
        if command in _BIND_KINDS:
            self._bind(_BIND_KINDS[command], sequence, unit, now)
        elif command == pdu.ENQUIRE_LINK:
            self.send(pdu.frame(pdu.ENQUIRE_LINK_RESP, sequence))
        elif command == pdu.DATA_SM and self.kind in ("transceiver", "transmitter"):
            self._data_sm(sequence, unit, now)
        elif command == pdu.UNBIND_RESP and self.account is not None:
            self._leave()
            self._close()
        elif command == pdu.UNBIND:
            self.send(pdu.frame(pdu.UNBIND_RESP, sequence))
            self._leave()
            self._close()
        elif command in (pdu.QUERY_SM, pdu.CANCEL_SM) and self.kind in ("transceiver", "transmitter"):
            self._question(command, sequence, unit, now)
        elif command in (pdu.SUBMIT_SM, pdu.DATA_SM, pdu.QUERY_SM, pdu.CANCEL_SM):
            self.send(pdu.frame(command | pdu.RESPONSE_BIT, sequence, b"", _NOT_BOUND))
        elif not command & pdu.RESPONSE_BIT:
            self._malformed(sequence, pdu.ESME_RINVCMDID)

    def _question(self, command: int, sequence: int, unit: bytes, now: float) -> None:
        """query_sm and cancel_sm (4.8, 4.9)."""
        assert self.account is not None
        body = b""
        try:
            if command == pdu.QUERY_SM:
                status, body = self._smsc.query(self.account, *pdu.read_query_sm(unit), time.time())
            else:
                status = self._smsc.cancel(self.account, *pdu.read_cancel_sm(unit), now)
        except pdu.Malformed as error:
            self._smsc.counters.malformed += 1
            status = error.status
        self.send(pdu.frame(command | pdu.RESPONSE_BIT, sequence, body, status))

    def _data_sm(self, sequence: int, unit: bytes, now: float) -> None:
        """A text by data_sm (4.7.1) is a submit like any other."""
        assert self.account is not None
        try:
            message = pdu.read_data_sm(unit)
        except pdu.Malformed as error:
            self._smsc.counters.malformed += 1
            self.send(pdu.frame(pdu.DATA_SM_RESP, sequence, b"", error.status))
            return
        self._smsc.submitted(self.account, self, [(sequence, message)], now, time.time(), _data_sm_resp)

    def _bind(self, kind: str, sequence: int, unit: bytes, now: float) -> None:
        try:
            wanted, _ = pdu.parse(unit)
            system_id = wanted.system_id.decode("latin-1")
            password = wanted.password.decode("latin-1")
        except pdu.Malformed:
            self._malformed(sequence, pdu.ESME_RINVCMDLEN)
            return
        if self._smsc.behaviour.mute_binds:
            return
        status = self._refusal(system_id, password)
        if status:
            self._smsc.counters.binds_refused += 1
            self.send(pdu.bind_resp(kind, sequence, "", status))
            return
        self.kind, self.account = kind, self._smsc.account(system_id)
        self.send(pdu.bind_resp(kind, sequence, "volley-sandbox"))
        self._smsc.joined(self.account, self, kind != "transmitter", now)
        self._sandbox.reschedule()

    def _refusal(self, system_id: str, password: str) -> int:
        if self.account is not None:
            return STATUS_BY_NAME["ESME_RALYBND"]
        expected = self._sandbox.settings.users.get(system_id)
        if expected is None:
            return STATUS_BY_NAME["ESME_RINVSYSID"]
        if not hmac.compare_digest(expected.encode(), password.encode()):
            return STATUS_BY_NAME["ESME_RINVPASWD"]
        behaviour = self._smsc.behaviour
        if behaviour.refuse_binds:
            return STATUS_BY_NAME[behaviour.refuse_binds]
        bound = len(self._smsc.account(system_id).peers)
        return STATUS_BY_NAME["ESME_RBINDFAIL"] if 0 < behaviour.max_binds <= bound else 0

    def _malformed(self, sequence: int, status: int) -> None:
        self._smsc.counters.malformed += 1
        self.send(pdu.generic_nack(sequence, status))

    def _leave(self) -> None:
        account, self.account, self.kind = self.account, None, ""
        if account is not None:
            self._smsc.left(account, self, time.monotonic())

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _data_sm_resp(sequence: int, message_id: bytes, status: int) -> bytes:
    """4.7.2. A refusal has no body."""
    return pdu.frame(pdu.DATA_SM_RESP, sequence, b"" if status else message_id + b"\x00", status)
