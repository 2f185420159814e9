"""The HTTP gateways for the conformance suite: an aiohttp server that answers as each provider does."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any
from urllib.parse import parse_qsl

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

    def __init__(
        self,
        scheme: str,
        user: str,
        text: Any,
        answers: tuple[Any, Any, Any],
        settings: Any = None,
        name: str = "",
    ) -> None:
        self.name = name or scheme
        self.scheme = scheme
        self._user = user
        self._text = text
        self._answers = answers
        self._settings = settings or {}
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
        url = f"{self.scheme}+http://{self._user}@127.0.0.1:{port}?allow_private=true&answer_s=1"
        self.gateway = gateways.make("carrier", url, self._settings, recorder)
        await self.gateway.open(1)

    async def stop(self) -> None:
        await self.gateway.close(0)
        if self._runner is not None:
            await self.cut()
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        self._transports.add(request.transport)
        self._texts.append(self._text(await _fields(request)))
        self._recorder.ready()  # wakes whoever waits for `handed_over`
        if self._mode < 0:
            await self._cut.wait()
        answer = self._answers[self._mode]
        status, body = answer(len(self._texts)) if callable(answer) else answer
        return web.Response(status=status, body=body if isinstance(body, str) else json.dumps(body))

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


async def _fields(request: web.BaseRequest) -> Any:
    """What the request says, wherever it says it."""
    body = await request.read()
    if not body:
        return request.query
    return dict(parse_qsl(body.decode())) if "form" in request.content_type else json.loads(body)


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


def plivo() -> HTTP:
    return HTTP(
        "plivo",
        "MA1:token",
        lambda form: form["text"],
        (
            lambda i: (202, {"message_uuid": [f"uuid-{i}"], "api_id": "a"}),
            (400, {"error": "src parameter not valid"}),
            (429, {"error": "too many requests"}),
        ),
    )


def sinch() -> HTTP:
    return HTTP(
        "sinch",
        "plan:token",
        lambda form: form["body"],
        (
            lambda i: (201, {"id": f"01F{i}", "canceled": False}),
            (400, {"code": "syntax_constraint_violation", "text": "t"}),
            (429, {"code": "too_many_requests"}),
        ),
    )


def telnyx() -> HTTP:
    return HTTP(
        "telnyx",
        ":key",
        lambda form: form["text"],
        (
            lambda i: (200, {"data": {"id": f"4031-{i}", "to": [{"status": "queued"}]}}),
            (400, {"errors": [{"code": "40310"}]}),
            (429, {"errors": [{"code": "10011"}]}),
        ),
    )


def bird() -> HTTP:
    return HTTP(
        "bird",
        ":key",
        lambda form: form["text"],
        (
            lambda i: (202, {"id": f"sms_{i}", "status": "accepted"}),
            (422, {"error": {"name": "SMSInvalidRecipient"}}),
            (429, {"error": {}}),
        ),
    )


def messagebird() -> HTTP:
    return HTTP(
        "messagebird",
        ":key",
        lambda form: form["body"],
        (
            lambda i: (201, {"id": f"e8{i}"}),
            (422, {"errors": [{"code": 9, "parameter": "recipient"}]}),
            (429, {"errors": []}),
        ),
    )


def aws() -> HTTP:
    return HTTP(
        "aws",
        "AKID:secret",
        lambda form: form["MessageBody"],
        (
            lambda i: (200, {"MessageId": f"m-{i}"}),
            (400, {"__type": "ValidationException", "Reason": "MESSAGE_TYPE_MISMATCH"}),
            (400, {"__type": "ThrottlingException"}),
        ),
        {"region": "eu-central-1"},
    )


def africastalking() -> HTTP:
    def answer(code: int, number: str) -> tuple[int, Any]:
        return 201, {"SMSMessageData": {"Recipients": [{"statusCode": code, "messageId": number}]}}

    return HTTP(
        "africastalking",
        "user:key",
        lambda form: form["message"],
        (lambda i: answer(101, f"ATXid_{i}"), answer(403, "None"), (429, {})),
    )


def alibaba() -> HTTP:
    return HTTP(
        "alibaba",
        "id:secret",
        lambda form: json.loads(form["TemplateParam"])["content"],
        (
            lambda i: (200, {"Code": "OK", "BizId": f"9006{i}^0"}),
            (200, {"Code": "isv.MOBILE_NUMBER_ILLEGAL"}),
            (200, {"Code": "isv.BUSINESS_LIMIT_CONTROL"}),
        ),
        {"template": "SMS_1"},
    )


def tencent() -> HTTP:
    def answer(code: str, number: str) -> tuple[int, Any]:
        return 200, {"Response": {"SendStatusSet": [{"SerialNo": number, "Code": code}]}}

    return HTTP(
        "tencent",
        "id:key",
        lambda form: form["TemplateParamSet"][0],
        (
            lambda i: answer("Ok", f"5000:{i}"),
            answer("InvalidParameterValue.IncorrectPhoneNumber", ""),
            answer("LimitExceeded.PhoneNumberDailyLimit", ""),
        ),
        {"template": "449739", "sdk_app_id": "1400006666"},
    )


def esms() -> HTTP:
    return HTTP(
        "esms",
        "key:secret",
        lambda form: form["Content"],
        (
            lambda i: (200, {"CodeResult": "100", "SMSID": f"s-{i}"}),
            (200, {"CodeResult": "104"}),
            (200, {"CodeResult": "160"}),
        ),
    )


def speedsms() -> HTTP:
    return HTTP(
        "speedsms",
        "token:x",
        lambda form: form["content"],
        (
            lambda i: (200, {"status": "success", "code": "00", "data": {"tranId": i}}),
            (200, {"status": "error", "code": "105"}),
            (200, {"status": "error", "code": "008"}),
        ),
    )


def zns() -> HTTP:
    return HTTP(
        "zns",
        ":token",
        lambda form: form["template_data"]["content"],
        (
            lambda i: (200, {"error": 0, "data": {"msg_id": f"z{i}"}}),
            (200, {"error": -108}),
            (200, {"error": -124}),
        ),
        {"template": "7895417a7d3f9461cd2e"},
    )


def line() -> HTTP:
    # LINE names no id: ours stands for it, and `hold` tells whole texts only.
    return HTTP(
        "line",
        ":token",
        lambda form: form["messages"][0]["text"],
        ((202, {}), (422, {"message": "m"}), (429, {"message": "m"})),
    )


def kannel() -> HTTP:
    return HTTP(
        "kannel",
        "user:secret",
        lambda query: query["text"],
        (
            (202, "0: Accepted for delivery"),
            (403, "Number(s) has/have been denied by white- and/or black-lists."),
            (403, "Authorization failed for sendsms"),
        ),
    )


def jasmin() -> HTTP:
    return HTTP(
        "kannel",
        "user:secret",
        lambda query: query["content"],
        (
            lambda i: (200, f'Success "{i:08}"'),
            (412, 'Error "No route found"'),
            (403, 'Error "User throughput exceeded"'),
        ),
        {"flavour": "jasmin"},
        name="kannel as jasmin",
    )


def generic() -> HTTP:
    return HTTP(
        "generic",
        "user:pass",
        lambda form: form["text"],
        (lambda i: (200, {"id": i}), (400, {"code": 13}), (429, {"code": 88})),
        GENERIC,
    )


KINDS = [
    twilio,
    vonage,
    infobip,
    plivo,
    sinch,
    telnyx,
    bird,
    messagebird,
    aws,
    africastalking,
    alibaba,
    tencent,
    esms,
    speedsms,
    zns,
    line,
    kannel,
    jasmin,
    generic,
]
