"""How many submits a second the sandbox SMSC takes, so that it is known not to be what a benchmark measures.

    python -m loadtests.bench_sandbox [--submits 200000] [--window 1000] [--binds 1] [--receipts] [--ledger 0]

The client does as little as possible: PDUs made beforehand, answers counted by their headers. The sandbox is a process
of its own; `sandbox_cpu_us` is its CPU time for one submit, which other work on the machine disturbs less than the
rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time

import uvloop

from gateways.smpp import pdu

TEXT = b"Your code is 483920. It is valid for ten minutes; never give it to anyone else."
WRITE_PDUS = 100  # in one write, as a gateway with batches does


class Client(asyncio.Protocol):
    """One bind, which keeps `window` submits unanswered and acknowledges what it is given."""

    def __init__(self, submits: int, window: int, receipts: bool) -> None:
        self.left, self.window, self.receipts_wanted = submits, window, submits if receipts else 0
        self.answered = self.refused = self.receipts = self.in_flight = 0
        self.bound, self.done = asyncio.Event(), asyncio.Event()
        self._body = pdu.submit_sm_body(
            pdu.address(1, 1, b"12025550199"),
            pdu.address(1, 1, b"12025550101"),
            0,
            TEXT,
            registered_delivery=int(receipts),
        )
        self._sequence = 1
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        self._write = transport.write  # type: ignore[attr-defined]
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._write(pdu.bind("transceiver", 1, "volley", "secret"))

    def data_received(self, data: bytes) -> None:
        buffer, position, acknowledgements = self._tail + data, 0, []
        unpack, end = pdu.HEADER.unpack_from, len(buffer)
        while end - position >= 16:
            length, command, status, sequence = unpack(buffer, position)
            if end - position < length:
                break
            position += length
            if command == pdu.SUBMIT_SM_RESP:
                self.answered += 1
                self.refused += status != 0
                self.in_flight -= 1
            elif command == pdu.DELIVER_SM:
                self.receipts += 1
                acknowledgements.append(pdu.deliver_sm_resp(sequence))
            elif command == pdu.BIND_TRANSCEIVER_RESP:
                self.bound.set()
        self._tail = buffer[position:]
        if acknowledgements:
            self._write(b"".join(acknowledgements))
        if self.bound.is_set():
            self.submit()
        if not self.left and not self.in_flight and self.receipts >= self.receipts_wanted:
            self.done.set()

    def submit(self) -> None:
        while self.left and self.window - self.in_flight >= WRITE_PDUS:
            count = min(WRITE_PDUS, self.left)
            first, self._sequence = self._sequence + 1, self._sequence + count
            frame, body = pdu.frame, self._body
            self._write(b"".join([frame(pdu.SUBMIT_SM, first + i, body) for i in range(count)]))
            self.left -= count
            self.in_flight += count


def _cpu_s(process_id: int) -> float:
    with open(f"/proc/{process_id}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _drive(port: int, process_id: int, given: argparse.Namespace) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    share = given.submits // given.binds
    clients = [Client(share, given.window, given.receipts) for _ in range(given.binds)]
    started_cpu_s, started = _cpu_s(process_id), time.perf_counter()
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
    async with asyncio.timeout(given.timeout_s):
        await asyncio.gather(*[client.done.wait() for client in clients])
    elapsed_s, cpu_s = time.perf_counter() - started, _cpu_s(process_id) - started_cpu_s
    answered = sum(client.answered for client in clients)
    return {
        "submits": answered,
        "refused": sum(client.refused for client in clients),
        "receipts": sum(client.receipts for client in clients),
        "seconds": round(elapsed_s, 2),
        "submits_per_second": round(answered / elapsed_s),
        "sandbox_cpu_us": round(cpu_s / answered * 1e6, 1),
        "submits_per_second_and_core": round(answered / cpu_s),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--submits", type=int, default=200_000)
    parser.add_argument("--window", type=int, default=1000, help="submits without an answer, a bind")
    parser.add_argument("--binds", type=int, default=1)
    parser.add_argument("--receipts", action="store_true", help="ask for a receipt of each, and wait for all")
    parser.add_argument("--ledger", type=int, default=200_000, help="submits that the sandbox keeps")
    parser.add_argument("--timeout-s", type=float, default=120)
    given = parser.parse_args()
    command = [sys.executable, "-m", "gateways.sandbox", "--port", "0", "--control-port", "-1"]
    command += ["--ledger", str(given.ledger), "--receipt-delay", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        port = int(words[words.index("port") + 1].rstrip(","))
        try:
            print(json.dumps(uvloop.run(_drive(port, process.pid, given))))
        finally:
            process.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
