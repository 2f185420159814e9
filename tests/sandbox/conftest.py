"""A hand-played ESME, and a sandbox for it."""

from __future__ import annotations

import asyncio
import struct

import aiohttp
import pytest

from gateways.sandbox import Behaviour, Sandbox, Settings
from gateways.smpp import pdu

PATIENCE_S = 10.0


class Esme:
    """A hand-played ESME."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.sequence = 0

    @classmethod
    async def connect(cls, port, kind="transceiver", password="secret", user="volley"):
        self = cls(*await asyncio.open_connection("127.0.0.1", port))
        self.write(pdu.bind(kind, 1, user, password))
        _, self.bind_status, _, _ = await self.pdu()
        self.sequence = 1
        return self

    def write(self, *units):
        self.writer.write(b"".join(units))

    async def pdu(self, patience_s=PATIENCE_S):
        async with asyncio.timeout(patience_s):
            length, command, status, sequence = struct.unpack(">IIII", await self.reader.readexactly(16))
            return command, status, sequence, await self.reader.readexactly(length - 16)

    async def next(self, command):
        """The next PDU of that command; others before it are dropped."""
        while True:
            got, status, sequence, body = await self.pdu()
            if got == command:
                return status, sequence, body

    def submit(self, *numbers, text=b"hello", registered=1, **fields):
        """Send one submit to each number; gives the sequences."""
        first = self.sequence + 1
        for to in numbers:
            self.sequence += 1
            body = pdu.submit_sm_body(
                pdu.address(3, 0, b"12345"),
                pdu.address(1, 1, to.encode()),
                0,
                text,
                registered_delivery=registered,
                **fields,
            )
            self.write(pdu.frame(pdu.SUBMIT_SM, self.sequence, body))
        return list(range(first, self.sequence + 1))

    async def answers(self, count):
        """(status, id) by sequence, and the order in which they came."""
        found = {}
        for _ in range(count):
            status, sequence, body = await self.next(pdu.SUBMIT_SM_RESP)
            found[sequence] = (status, body.rstrip(b"\x00").decode())
        return found

    async def receipt(self, status=0):
        """The words of the next receipt, which is acknowledged."""
        _, sequence, body = await self.next(pdu.DELIVER_SM)
        self.write(pdu.deliver_sm_resp(sequence, status))
        message = pdu.read_message(body, 0, len(body))
        words = dict(word.split(b":", 1) for word in message.payload.split() if b":" in word)
        return {key.decode(): value.decode() for key, value in words.items()} | {"message": message}

    async def silent(self, for_s=0.15):
        """Nothing comes."""
        with pytest.raises(TimeoutError):
            await self.pdu(for_s)


@pytest.fixture
async def sandbox():
    sandbox = Sandbox(
        Settings(port=0, control_port=0, behaviour=Behaviour(receipt_delay_s=0.02, redeliver_s=0.02), seed=1)
    )
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


@pytest.fixture
async def esme(sandbox):
    esme = await Esme.connect(sandbox.port)
    assert esme.bind_status == 0
    yield esme
    esme.writer.close()


@pytest.fixture
def connect():
    """`await connect(port, kind, password, user)` binds; `bind_status` is the answer."""
    return Esme.connect


@pytest.fixture
async def control(sandbox):
    async with aiohttp.ClientSession(f"http://127.0.0.1:{sandbox.control_port}") as session:
        yield session


@pytest.fixture
def counted(sandbox):
    """Waits until a counter has a value."""

    async def wait(name, value):
        async with asyncio.timeout(PATIENCE_S):
            while getattr(sandbox.smsc.counters, name) != value:
                await asyncio.sleep(0.005)

    return wait
