"""What the SMPP gateway costs, in microseconds a message.

    python -m loadtests.bench_smpp [--messages 100000] [--window 100] [--binds 1]
    python -m loadtests.bench_smpp --windows 10,100,300 [--answer-s 0.05] [--seconds 10]
    python -m loadtests.bench_smpp --permitted 500 [--seconds 30] [--binds 1]

The first prints the codec's own cost, then submit and answer over loopback against an SMSC that does
nothing but answer, then against the sandbox with receipts. The second tells how much of window / answer time
a bind reaches when answers take that long. The third offers twice what the sandbox lets through a second, and
tells how much of that goes through; what is throttled is offered again. The peers are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import time
import timeit
from collections.abc import Sequence

import uvloop

import gateways
from app.domain.text import count, segment
from gateways.base import Accepted, Inbound, Outcome, Receipt, Submission
from gateways.smpp import pdu
from gateways.smpp.config import Options
from gateways.smpp.encoder import Encoder
from gateways.smpp.receipts import ReceiptReader

TEXT = "Your code is 483920. It is valid for ten minutes; never give it to anyone else."


class Answerer(asyncio.Protocol):
    """An SMSC that binds whoever comes and takes every submit, with the least work possible, `after_s` later."""

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.tail = b""
        self.number = 1_000_000_000
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        buffer, position, out = self.tail + data, 0, []
        unpack, pack = pdu.HEADER.unpack_from, pdu.HEADER.pack
        while len(buffer) - position >= 16:
            length, command, _, sequence = unpack(buffer, position)
            if len(buffer) - position < length:
                break
            position += length
            self.number += 1
            body = b"%d\x00" % self.number
            out.append(pack(16 + len(body), command | pdu.RESPONSE_BIT, 0, sequence) + body)
        self.tail = buffer[position:]
        if self.after_s:
            asyncio.get_running_loop().call_later(self.after_s, self.transport.write, b"".join(out))
        else:
            self.transport.write(b"".join(out))


async def answer_for_ever(after_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answerer(after_s), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


class Caller:
    """Submits as long as there is credit, in batches, as a dispatcher does."""

    def __init__(self, messages: int) -> None:
        self.left = self.messages = messages
        self.ended = self.accepted = self.receipts_seen = 0
        self.done = asyncio.Event()
        self.gateway: gateways.Gateway
        cut = segment(TEXT)
        self.parts, self.encoding = cut.parts, cut.encoding

    def ready(self) -> None:
        wanted = min(self.left, 500)
        granted = self.gateway.take(wanted) if wanted else 0
        if granted:
            self.left -= granted
            before = time.monotonic() + 0.5
            self.gateway.submit(
                [
                    Submission(
                        None,
                        "m",
                        "+12025550101",
                        "12025550199",
                        TEXT,
                        self.encoding,
                        self.parts,
                        1,
                        7,
                        before,
                    )
                    for _ in range(granted)
                ]
            )

    def outcomes(self, batch: Sequence[tuple[Submission, int, Outcome]]) -> None:
        self.ended += len(batch)
        self.accepted += sum(type(outcome) is Accepted for _, _, outcome in batch)
        if self.ended == self.messages:
            self.done.set()

    async def receipts(self, gateway: str, batch: Sequence[Receipt]) -> None:
        self.receipts_seen += len(batch)

    async def inbound(self, gateway: str, batch: Sequence[Inbound]) -> None:
        """None are sent here."""


async def drive(port: int, messages: int, window: int, binds: int, receipts: bool) -> None:
    caller = Caller(messages)
    url = f"smpp://volley:secret@127.0.0.1:{port}?window={window}&binds={binds}"
    caller.gateway = gateways.make("bench", url, {}, caller)
    await caller.gateway.open(binds)
    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.wait_for(caller.done.wait(), 120)
    elapsed = time.perf_counter() - started
    if receipts:
        while caller.receipts_seen < caller.accepted and time.perf_counter() - started < 120:
            await asyncio.sleep(0.05)
        elapsed = time.perf_counter() - started
    cpu = time.process_time() - cpu
    await caller.gateway.close(1)
    print(
        f"{'sandbox, with receipts' if receipts else 'submit and answer':24} {messages / elapsed:9,.0f}/s"
        f" {elapsed / messages * 1e6:6.2f} µs, {cpu / messages * 1e6:5.2f} µs CPU here;"
        f" {caller.accepted} accepted, {caller.receipts_seen} receipts"
    )


class Flood(Caller):
    """Never done: counts what is taken. `offered_per_s` 0: as much as there is credit."""

    def __init__(self, offered_per_s: float = 0) -> None:
        super().__init__(0)
        self.offered_per_s = offered_per_s
        self.started = time.monotonic()
        self.submitted = self.taken = self.throttled = 0
        self.per_s = 0.0

    def ready(self) -> None:
        room = 500
        if self.offered_per_s:
            offered = int((time.monotonic() - self.started) * self.offered_per_s)
            room = min(offered + self.throttled - self.submitted, 500)
        granted = portion = 1
        while granted == portion and room > 0:  # in portions: the SMSC begins while the next one is made
            self.left = portion = min(room, 50)
            super().ready()
            granted = portion - self.left
            self.submitted += granted
            room -= granted

    def outcomes(self, batch: Sequence[tuple[Submission, int, Outcome]]) -> None:
        taken = sum(type(outcome) is Accepted for _, _, outcome in batch)
        self.taken += taken
        self.throttled += len(batch) - taken


async def flood(url: str, binds: int, seconds: float, settle_s: float, offered_per_s: float = 0) -> Flood:
    """Submit for so long; `taken` counts from `settle_s` on."""
    caller = Flood(offered_per_s)
    caller.gateway = gateways.make("bench", url, {}, caller)
    await caller.gateway.open(binds)
    while not all(bind.state == "bound" for bind in caller.gateway.binds()):
        await asyncio.sleep(0.01)
    caller.started = time.monotonic()
    settled_at, ends_at = caller.started + settle_s, caller.started + settle_s + seconds
    early = None
    while (now := time.monotonic()) < ends_at:
        if early is None and now >= settled_at:
            early, settled_at = caller.taken, now
        caller.ready()
        await asyncio.sleep(0.005)
    elapsed = time.monotonic() - settled_at
    caller.taken -= early or 0
    caller.per_s = caller.taken / elapsed
    await caller.gateway.close(1)
    return caller


def windows(sizes: Sequence[int], answer_s: float, seconds: float) -> None:
    process, port = peer([__file__, "--answer", "--answer-s", str(answer_s)], 0)
    try:
        for window in sizes:
            url = f"smpp://volley:secret@127.0.0.1:{port}?window={window}"
            caller = uvloop.run(flood(url, 1, seconds, 1.0))
            ideal = window / answer_s
            print(
                f"window {window:4}, answers after {answer_s * 1000:.0f} ms: {caller.per_s:8,.0f}/s,"
                f" {caller.per_s / ideal:.1%} of {ideal:,.0f}/s"
            )
    finally:
        process.terminate()
        process.wait()


def permitted(rate: int, binds: int, window: int, seconds: float) -> None:
    sandbox = ["-m", "gateways.sandbox", "--port", "0", "--control-port", "-1", "--ledger", "0"]
    process, port = peer([*sandbox, "--rate", str(rate)], -1)
    try:
        url = f"smpp://volley:secret@127.0.0.1:{port}?window={window}&binds={binds}"
        for settle_s in (0.0, 5.0):
            caller = uvloop.run(flood(url, binds, seconds, settle_s, 2.0 * rate))
            print(
                f"offered {2 * rate}/s of {rate}/s, {binds} bind(s), {seconds:.0f} s after {settle_s:.0f} s:"
                f" {caller.per_s:8,.1f}/s, {caller.per_s / rate:.1%}; {caller.throttled} throttled"
            )
    finally:
        process.terminate()
        process.wait()


def peer(arguments: list[str], port_word: int) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    return process, int(line.split()[port_word].rstrip(","))


def codec() -> None:
    cut = segment(TEXT)
    submission = Submission(
        None, "m", "+12025550101", "12025550199", TEXT, cut.encoding, cut.parts, 1, 7, 0.0
    )
    encoder, reader = Encoder(Options()), ReceiptReader()
    text = b"id:1000000001 sub:001 dlvrd:001 submit date:2611220035 done date:2611220036 stat:DELIVRD err:000 text:"
    source = pdu.address(1, 1, b"12025550199")
    delivery = pdu.frame(pdu.DELIVER_SM, 7, pdu.submit_sm_body(source, source, 0, text + b"Your code", 4))
    answer = pdu.submit_sm_resp(7, b"1000000001")
    steps = {
        "segment": lambda: segment(TEXT),
        "count": lambda: count(TEXT),
        "segment, Vietnamese": lambda: segment("Xin chào Nguyễn Văn A, đơn hàng của bạn đã được giao."),
        "submission to submit_sm": lambda: pdu.frame(4, 7, encoder.bodies(submission)[0][1]),
        "answer decode": lambda: (pdu.HEADER.unpack_from(answer, 0), pdu.message_id(answer, 16, 27)),
        "deliver_sm decode": lambda: pdu.read_message(delivery, 16, len(delivery)),
        "deliver_sm with receipt": lambda: reader.read(pdu.read_message(delivery, 16, len(delivery))),
    }
    for name, step in steps.items():
        print(f"{name:24} {min(timeit.repeat(step, number=20_000, repeat=3)) / 20_000 * 1e6:6.2f} µs")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--window", type=int, default=100)
    parser.add_argument("--binds", type=int, default=1)
    parser.add_argument("--windows", help="measure these windows, as 10,100,300")
    parser.add_argument("--answer-s", type=float, default=0.05, help="with --windows: how long answers take")
    parser.add_argument(
        "--permitted", type=int, help="measure against an SMSC that lets so many a second through"
    )
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.answer:
        uvloop.run(answer_for_ever(given.answer_s))
        return
    if given.windows:
        windows([int(size) for size in given.windows.split(",")], given.answer_s, given.seconds)
        return
    if given.permitted:
        permitted(given.permitted, given.binds, given.window, given.seconds)
        return
    codec()
    sandbox = ["-m", "gateways.sandbox", "--port", "0", "--control-port", "-1", "--ledger", "0"]
    for arguments, word, receipts in (
        ([__file__, "--answer", "--answer-s", "0"], 0, False),
        (sandbox, -1, True),
    ):
        process, port = peer(arguments, word)
        try:
            uvloop.run(drive(port, given.messages, given.window, given.binds, receipts))
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
