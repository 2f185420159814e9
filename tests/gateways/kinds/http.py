"""The HTTP gateways for the conformance suite: an aiohttp server that answers as each provider does."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from aiohttp import web

import gateways

GENERIC = {
    "request": {"body": {"to": "{to}", "text": "{text}"}},
    "response": {
        "accepted": {"id": "/id"},
        "rejected": {"status": [400], "code": "/code"},
        "throttled": {"status": [429], "code": "/code"},
    },
}


class HTTP:
    """`answers` gives status and body of: accepted (with an id), refused for good, refused for now."""

    per_segment = False
    receives = False

    def __init__(self, name: str, user: str, text: Any, answers: tuple[Any, Any, Any], settings: Any) -> None:
        self.name = name
        self._user = user
        self._text = text
        self._answers = answers
        self._settings = settings
        self._mode = 0  # an index into `answers`, or -1: silence
        self._texts: list[str] = []
        self._cut = asyncio.Event()
        self._transports: set[asyncio.Transport] = set()
        self._runner: web.ServerRunner | None = None

    async def start(self, recorder) -> None:
        self._recorder = recorder
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        await self._open(recorder, site._server.sockets[0].getsockname()[1])

    async def start_unreachable(self, recorder) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        await self._open(recorder, port)

    async def _open(self, recorder, port: int) -> None:
        url = f"{self.name}+http://{self._user}@127.0.0.1:{port}?allow_private=true&answer_s=1"
        self.gateway = gateways.make("carrier", url, self._settings, recorder)
        await self.gateway.open(1)

    async def stop(self) -> None:
        await self.gateway.close(0)
        if self._runner is not None:
            await self.cut()
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        self._transports.add(request.transport)
        form = await request.post() if "form" in request.content_type else await request.json()
        self._texts.append(self._text(form))
        self._recorder.ready()  # wakes whoever waits for `handed_over`
        if self._mode < 0:
            await self._cut.wait()
        answer = self._answers[self._mode]
        status, body = answer(len(self._texts)) if callable(answer) else answer
        return web.Response(status=status, body=json.dumps(body))

    def accept(self) -> None:
        self._mode = 0

    def refuse_for_good(self) -> None:
        self._mode = 1

    def refuse_for_now(self) -> None:
        self._mode = 2

    def be_silent(self) -> None:
        self._mode = -1

    def hold(self) -> None:
        self.be_silent()

    async def cut(self) -> None:
        for transport in self._transports:
            transport.abort()
        self._transports.clear()
        self._cut.set()

    def handed_over(self) -> list[str]:
        return self._texts


def twilio() -> HTTP:
    return HTTP(
        "twilio",
        f"AC{'0' * 32}:token",
        lambda form: form["Body"],
        (
            lambda i: (201, {"sid": f"SM{i:032}", "status": "queued"}),
            (400, {"code": 21211, "status": 400}),
            (429, {"code": 20429, "status": 429}),
        ),
        {},
    )


def vonage() -> HTTP:
    return HTTP(
        "vonage",
        "key:secret",
        lambda form: form["text"],
        (
            lambda i: (200, {"messages": [{"status": "0", "message-id": f"{i:016X}"}]}),
            (200, {"messages": [{"status": "6"}]}),
            (200, {"messages": [{"status": "1"}]}),
        ),
        {},
    )


def infobip() -> HTTP:
    def answer(group: int, name: str, i: int = 0) -> tuple[int, Any]:
        return 200, {"messages": [{"messageId": f"{i}", "status": {"groupId": group, "name": name}}]}

    return HTTP(
        "infobip",
        ":key",
        lambda form: form["messages"][0]["content"]["text"],
        (
            lambda i: answer(1, "PENDING_ACCEPTED", i),
            answer(5, "REJECTED_PREFIX_MISSING"),
            answer(5, "REJECTED_FLOODING_FILTER"),
        ),
        {},
    )


def generic() -> HTTP:
    return HTTP(
        "generic",
        "user:pass",
        lambda form: form["text"],
        (lambda i: (200, {"id": i}), (400, {"code": 13}), (429, {"code": 88})),
        GENERIC,
    )


KINDS = [twilio, vonage, infobip, generic]
