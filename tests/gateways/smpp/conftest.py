"""A hand-played SMSC: the test says every word of it."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

import gateways
from gateways.smpp import pdu

PATIENCE_S = 10.0


class Peer:
    """One connection, from the SMSC's side."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer

    async def pdu(self):
        """(command, status, sequence, body) of the next PDU."""
        async with asyncio.timeout(PATIENCE_S):
            header = await self._reader.readexactly(16)
            length, command, status, sequence = struct.unpack(">IIII", header)
            return command, status, sequence, await self._reader.readexactly(length - 16)

    async def expect(self, command):
        """The next PDU, which has to be of that command: (sequence, body)."""
        got, _, sequence, body = await self.pdu()
        assert got == command, hex(got)
        return sequence, body

    async def bound(self):
        """Take the bind; gives its kind."""
        command, _, sequence, _ = await self.pdu()
        kind = {v: k for k, v in pdu.BIND_COMMANDS.items()}[command]
        self.write(pdu.bind_resp(kind, sequence, "smsc"))
        return kind

    async def closed(self):
        """Wait for the end of the connection; gives what came before it."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.read()

    def write(self, *units):
        self._writer.write(b"".join(units))

    def abort(self):
        self._writer.transport.abort()


class Wire:
    """Listens; `peer` gives the next connection."""

    def __init__(self):
        self._peers = asyncio.Queue()
        self._writers = []

    async def start(self, **tls):
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, **tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self):
        self._server.close()
        self.abort()

    def abort(self):
        for writer in self._writers:
            writer.transport.abort()

    async def _connected(self, reader, writer):
        self._writers.append(writer)
        self._peers.put_nowait(Peer(reader, writer))

    async def peer(self):
        async with asyncio.timeout(PATIENCE_S):
            return await self._peers.get()


@pytest.fixture
async def wire():
    wire = Wire()
    await wire.start()
    yield wire
    await wire.stop()


@pytest.fixture
async def opened(recorder, wire):
    """Opens gateways and closes them again."""
    gateways_open = []

    async def open_(port, sessions=1, scheme="smpp", **settings):
        settings = {"reconnect_min_s": 0.02, **settings}
        url = f"{scheme}://volley:hunter2@127.0.0.1:{port}"
        gateway = gateways.make("carrier", url, settings, recorder)
        await gateway.open(sessions)
        gateways_open.append(gateway)
        return gateway

    yield open_
    wire.abort()  # nobody would answer an unbind
    for gateway in gateways_open:
        await gateway.close(0)


@pytest.fixture
async def awaited(opened):
    """A gateway that waits for its SMSC at a free port; gives both, and connects."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    gateway = await opened(
        2775,
        bind="outbind",
        outbind_listen=f"127.0.0.1:{port}",
        outbind_password="agreed",
        bind_timeout_s=0.5,
        reconnect_max_s=0.1,
    )
    writers = []

    async def connect(source="127.0.0.1"):
        async with asyncio.timeout(10):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writers.append(writer)
                    return Peer(reader, writer)

    yield gateway, connect
    for writer in writers:
        writer.transport.abort()
