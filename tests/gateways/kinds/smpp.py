"""SMPP for the conformance suite: the sandbox SMSC is the wire."""

from __future__ import annotations

import asyncio
import socket

import gateways
from app.domain.text import decode_gsm7
from gateways.base import Submission
from gateways.sandbox import Behaviour, Sandbox, Settings
from gateways.smpp.reassembly import split_header


class SMPP:
    scheme = "smpp"
    per_segment = True
    receives = True

    def __init__(self, options: str = "", sessions: int = 1) -> None:
        self.name = f"smpp {options}".strip()
        self.sandbox: Sandbox | None = None
        self._options = options
        self._sessions = sessions

    async def start(self, recorder) -> None:
        quick = Behaviour(receipt_delay_s=0.0, redeliver_s=0.05, lost=1.0)
        self.sandbox = Sandbox(Settings(port=0, control_port=None, behaviour=quick))
        await self.sandbox.start()
        await self._open(recorder, self.sandbox.port)

    async def start_unreachable(self, recorder) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        await self._open(recorder, port)

    async def _open(self, recorder, port: int) -> None:
        self.recorder = recorder
        url = f"smpp://volley:secret@127.0.0.1:{port}?window=20&response_timeout_s=1{self._options}"
        settings = {"reconnect_min_s": 0.05}
        self.gateway = gateways.make("carrier", url, settings, recorder)
        await self.gateway.open(self._sessions)

    async def stop(self) -> None:
        await self.gateway.close(0)
        if self.sandbox is not None:
            await self.sandbox.stop()

    def accept(self) -> None:
        self.sandbox.change({"drop_answers": 0, "refuse": {}, "answer_delay_s": 0})

    def refuse_for_good(self) -> None:
        self.sandbox.change({"refuse": {"+": "ESME_RINVDSTADR"}})

    def refuse_for_now(self) -> None:
        self.sandbox.change({"refuse": {"+": "ESME_RSYSERR"}})

    def be_silent(self) -> None:
        self.sandbox.change({"drop_answers": 1})

    def hold(self) -> None:
        self.sandbox.change({"drop_answers": 1})

    async def cut(self) -> None:
        self.sandbox.cut_all()

    def handed_over(self) -> list[str]:
        entries = self.sandbox.smsc.ledger._entries
        return [
            decode_gsm7(
                split_header(e.message.payload)[0] if e.message.esm_class & 0x40 else e.message.payload
            )
            for e in entries
        ]

    async def receive_receipt(self) -> None:
        await self._bound()
        self.sandbox.change({"lost": 0})
        cut = (b"hello",)
        one = Submission(None, "r", "+12025550101", "12345", "hello", "gsm7", cut, 1, 1, float("inf"))
        assert self.gateway.take(1) == 1
        self.gateway.submit([one])
        await self._sent("receipts_sent")

    async def receive_text(self) -> None:
        await self._bound()
        self.sandbox.inbound("+12025550102", "12345", "hello")
        await self._sent("inbound_sent")

    async def _bound(self) -> None:
        await self.recorder.until(lambda: all(status.state == "bound" for status in self.gateway.binds()))

    async def _sent(self, counter: str) -> None:
        async with asyncio.timeout(5):
            while not getattr(self.sandbox.smsc.counters, counter):
                await asyncio.sleep(0.005)

    def acknowledged(self) -> int:
        counters = self.sandbox.smsc.counters
        return counters.receipts_acknowledged + counters.inbound_acknowledged

    def refused(self) -> int:
        return self.sandbox.smsc.counters.deliveries_refused


KINDS = [
    SMPP,
    lambda: SMPP("&binds=2", sessions=2),
    lambda: SMPP("&bind=transmitter%2Breceiver"),
]
