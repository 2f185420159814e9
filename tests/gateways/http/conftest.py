"""The wire that these tests fake: a TCP server that speaks exactly as much HTTP as a test wants."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from gateways.base import Inbound, Outcome, Receipt, Submission

CERTIFICATE = Path(__file__).with_name("localhost.pem")  # self-signed, with its key, for 100 years


class Seen:
    """One request as the server read it."""

    def __init__(self, head: bytes, body: bytes, connection: int) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = first.split(" ")
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
        self.body = body
        self.connection = connection

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True, strict_parsing=True))


class Peer:
    """The server's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader, self.writer, self.number = reader, writer, number

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, status: int, body: bytes = b"", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
        await self.send("\r\n".join(lines).encode() + body)

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def read(self) -> Seen:
        head = await self.reader.readuntil(b"\r\n\r\n")
        seen = Seen(head.removesuffix(b"\r\n\r\n"), b"", self.number)
        seen.body = await self.reader.readexactly(int(seen.headers.get("content-length", "0")))
        return seen


Behaviour = Callable[[Peer, Seen], Awaitable[None]]


class Wire:
    """Counts connections and keeps every request. `behave` is awaited for each of them. `tls`: with `localhost.pem`,
    or as the context says."""

    def __init__(
        self, behave: Behaviour, *, tls: bool | ssl.SSLContext = False, on_connect: Behaviour | None = None
    ) -> None:
        self.behave = behave
        self.tls = tls
        self.connections = 0
        self.requests: list[Seen] = []
        self.peers: list[Peer] = []
        self._server: asyncio.Server | None = None
        self._arrival = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_connect = on_connect
        self.port = 0

    async def start(self) -> None:
        context = self.tls or None
        if self.tls is True:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(CERTIFICATE)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for peer in self.peers:
            peer.writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def arrived(self, count: int) -> None:
        """Until so many requests have been read whole."""
        async with asyncio.timeout(5), self._arrival:
            await self._arrival.wait_for(lambda: len(self.requests) >= count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        peer = Peer(reader, writer, self.connections)
        self.peers.append(peer)
        try:
            while True:
                seen = await peer.read()
                self.requests.append(seen)
                async with self._arrival:
                    self._arrival.notify_all()
                await self.behave(peer, seen)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()
        finally:
            self._tasks.discard(task)


class Recorder:
    """A sink that remembers, and lets a test wait for so many outcomes."""

    def __init__(self) -> None:
        self.reported: list[tuple[Submission, int, Outcome]] = []
        self.calls = 0
        self.readies = 0
        self.stored: list[Receipt | Inbound] = []
        self._changed = asyncio.Event()

    def outcomes(self, batch: Sequence[tuple[Submission, int, Outcome]]) -> None:
        self.calls += 1
        self.reported += batch
        self._changed.set()

    def ready(self) -> None:
        self.readies += 1
        self._changed.set()

    async def receipts(self, gateway: str, batch: Sequence[Receipt]) -> None:
        self.stored += batch

    async def inbound(self, gateway: str, batch: Sequence[Inbound]) -> None:
        self.stored += batch

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def outcomes_of(self, count: int) -> list[Outcome]:
        await self.until(lambda: len(self.reported) >= count)
        return [outcome for _, _, outcome in self.reported]


def _submission(
    message_id: str = "m-1", *, text: str = "Hello", segments: int = 1, **fields: object
) -> Submission:
    values: dict[str, object] = {
        "tag": None,
        "message_id": message_id,
        "to": "+12025550101",
        "sender": "12025550199",
        "text": text,
        "encoding": "gsm7",
        "parts": tuple(b"x" for _ in range(segments)),
        "mask": (1 << segments) - 1,
        "reference": 7,
        "send_before": time.monotonic() + 60,
    }
    return Submission(**(values | fields))  # type: ignore[arg-type]


@pytest.fixture
def submission() -> Callable[..., Submission]:
    return _submission


@pytest.fixture
def sink() -> Recorder:
    return Recorder()


@pytest.fixture
async def wire() -> AsyncIterator[Callable[..., Awaitable[Wire]]]:
    started: list[Wire] = []

    async def start(behave: Behaviour, **options: object) -> Wire:
        server = Wire(behave, **options)  # type: ignore[arg-type]
        await server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        await server.stop()


@pytest.fixture
def certificate() -> str:
    return str(CERTIFICATE)
