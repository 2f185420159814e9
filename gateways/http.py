"""The asyncio shell of every HTTP gateway: aiohttp, one pooled session, exact outcomes.

Guarantees:

* No request leaves twice. A body can be written once in its life, whatever aiohttp decides:
  its silent second try on a reused connection, for example, finds nothing to send.
* No byte left: `Retry(sent=False)`. That is every failure of name, connection or TLS, a
  pooled connection found closed, and a `send_before` that passed; the last two are checked
  in the same step of the event loop as the write. Any failure from the write on is `Unknown`.
* Redirects are not followed (what they mean: `gateways.provider.by_status`), proxies and
  `.netrc` of the environment not looked at, cookies not kept, answers read up to
  `MAX_ANSWER_BYTES`.
* Loopback, private, link-local and other special addresses are refused, unless the gateway
  says `allow_private=true`. The check is made on the address whose socket is opened, so
  neither a second DNS answer nor an IPv4 address in IPv6 clothes gets around it.
* Never more requests at once than `concurrency`; no queue behind it.

A text of several segments is one request with the whole text: the provider splits it, and
each segment gets the same outcome, with the same gateway_message_id; where a provider names
its parts, it gives a list, in order (a short list's last outcome stands for the rest). A
mask that asks for some of the segments only can't be said over HTTP:
`Rejected("partial_unsupported")`, and nothing is sent. Credit is counted in segments; a text
with more of them than `concurrency` takes all the credit there is, and goes alone.

HTTP has no bind: `open` makes the session, and the one `BindStatus` says whether the last
connection could be made. After a failed one no credit is given for a while, longer each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import importlib
import ipaddress
import logging
import re
import select
import socket
import ssl
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, cast

import aiohttp
import aiohttp.abc
import msgspec
from yarl import URL

from gateways import cleaning, numbers
from gateways.base import (
    BindStatus,
    Inbound,
    Outcome,
    Receipt,
    Rejected,
    Retry,
    Sink,
    Submission,
    Unknown,
)
from gateways.provider import Ask, BadCallback, BadSignature, Dsn, HttpReply, HttpRequest

MAX_ANSWER_BYTES = 64 * 1024
FIRST_PAUSE_S = 0.2  # without credit after a connection that couldn't be made; doubles
LONGEST_PAUSE_S = 30.0
ASK_S = 5.0  # for what a callback's reader wants to know; the caller waits that long
MAX_ASKING = 20  # callbacks that wait for such an answer
MAX_QUESTIONS = 3  # for one callback

_E164 = re.compile(r"\+[1-9][0-9]{1,14}")  # ITU-T E.164: at most 15 digits

log = logging.getLogger("volley.gateways.http")


class _Phase(enum.Enum):
    """How far a request has come; each has its own time-out."""

    CONNECT = 1  # nothing has left
    SEND = 2  # the first byte may have left
    ANSWER = 3  # all of it has been handed to the kernel


class _Attempt:
    """One submission on its way. Only `_Body` moves the phase on."""

    __slots__ = ("deadline", "obstacle", "phase", "reused", "submission")

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        self.phase = _Phase.CONNECT
        self.deadline: asyncio.Timeout | None = None
        self.reused = False  # the connection has carried a request before
        self.obstacle: Literal["", "closed", "late"] = ""  # why the body was not written


class _NotWritten(Exception):
    """The body was asked for and refused; nothing has left on this connection."""


class _AnswerTooLong(Exception):
    pass


class _PrivateAddress(OSError):
    def __init__(self) -> None:
        super().__init__(errno.EACCES, "address is not public")


class _Body(aiohttp.BytesPayload):
    """The request's body, and the gate through which its first byte passes.

    aiohttp holds the head back until the body's first write and sends both together, so
    before `writer.write` below not one byte is out.
    """

    def __init__(self, attempt: _Attempt, dsn: Dsn, used: weakref.WeakSet[Any], value: bytes) -> None:
        super().__init__(value)
        self._attempt = attempt
        self._dsn = dsn
        self._used = used
        self.revoked = False

    async def write_with_length(
        self, writer: aiohttp.abc.AbstractStreamWriter, content_length: int | None
    ) -> None:
        attempt, dsn = self._attempt, self._dsn
        if self.revoked or attempt.phase is not _Phase.CONNECT:
            raise _NotWritten
        connection = cast(Any, writer).protocol
        attempt.reused = connection in self._used
        if _is_dead(connection, attempt.reused):
            attempt.obstacle = "closed"
            raise _NotWritten
        if time.monotonic() >= attempt.submission.send_before:
            attempt.obstacle = "late"
            raise _NotWritten
        assert attempt.deadline is not None
        now = asyncio.get_running_loop().time()
        self._used.add(connection)
        attempt.phase = _Phase.SEND
        attempt.deadline.reschedule(now + dsn.send_s)
        await writer.write(self._value)
        attempt.submission.written = attempt.submission.mask.bit_count()
        attempt.submission.written_at = time.monotonic()
        await writer.drain()
        attempt.phase = _Phase.ANSWER
        attempt.deadline.reschedule(asyncio.get_running_loop().time() + dsn.answer_s)


def _is_dead(connection: Any, reused: bool) -> bool:
    """Is the connection closed or, on one from the pool, is there something to read already?

    An idle connection has nothing to say: readable means a close, or an answer to a question
    that was never asked and that would be taken for ours.
    """
    transport = connection.transport
    if transport is None or transport.is_closing():
        return True
    if not reused:
        return False
    if connection.should_close:  # aiohttp has read it already
        return True
    sock = transport.get_extra_info("socket")
    if sock is None:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def is_public(address: str) -> bool:
    """May this address be called without `allow_private`? Looks through IPv4 inside IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
    if any(ip in network for network in _SPECIAL):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
# What `ipaddress` takes for global, in one Python or another.
_SPECIAL = (
    ipaddress.ip_network("192.0.0.0/24"),  # RFC 6890; 192.0.0.192 was a cloud's metadata service
    ipaddress.ip_network("192.88.99.0/24"),  # 6to4 relays, given up by RFC 7526
    ipaddress.ip_network("64:ff9b:1::/48"),  # RFC 8215: NAT64 inside a network
    ipaddress.ip_network("2001::/23"),  # RFC 2928: protocols, Teredo among them
    ipaddress.ip_network("fec0::/10"),  # site-local, given up by RFC 3879
    ipaddress.ip_network("3fff::/20"),  # RFC 9637: documentation
)


def _public_socket(info: Any) -> socket.socket:
    """Makes each socket of a gateway that may call public addresses only."""
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        raise _PrivateAddress
    return socket.socket(family, kind, protocol)


class HttpGateway:
    """`gateways.base.Gateway` for one provider, whose two functions it is given."""

    def __init__(
        self,
        dsn: Dsn,
        sink: Sink,
        request: Callable[[Submission], HttpRequest],
        outcome: Callable[[int, Mapping[str, str], bytes], Outcome | list[Outcome]],
        *,
        resolver: aiohttp.abc.AbstractResolver | None = None,
    ) -> None:
        self.name = dsn.name
        self.coding = self.asked_coding = dsn.coding
        self._dsn = dsn
        self._sink = sink
        self._request = request
        self._outcome = outcome
        self._resolver = resolver
        self._ssl = ssl.create_default_context(cafile=dsn.ca_file) if dsn.ca_file else True
        self._session: aiohttp.ClientSession | None = None
        self._used: weakref.WeakSet[Any] = weakref.WeakSet()  # connections that carried a request
        self._closing = False
        self._reserved = 0  # segments of credit given and not submitted yet
        self._in_flight = 0  # segments submitted and without outcome
        self._tasks: dict[asyncio.Task[Outcome | list[Outcome]], _Attempt] = {}
        self._unreported: list[tuple[Submission, int, Outcome]] = []
        self._pause: asyncio.TimerHandle | None = None
        self._pause_s = FIRST_PAUSE_S
        self._error = ""
        self._since = time.time()

    def __repr__(self) -> str:
        return f"HttpGateway({self.name})"

    # -- gateways.base.Gateway

    async def open(self, binds: int) -> None:
        """Make the session. One bind is all there is, whatever `binds` says; with 0 it stays closed."""
        if self._session is not None or binds <= 0:
            return
        self._closing = False
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._dsn.concurrency,
                keepalive_timeout=self._dsn.keepalive_s,
                ssl=self._ssl,
                resolver=self._resolver,
                socket_factory=None if self._dsn.allow_private else _public_socket,
            ),
            headers={"User-Agent": "Volley", "Accept-Encoding": "identity"},
            skip_auto_headers=("Content-Type",),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # ours: `_Attempt.deadline`
            auto_decompress=False,
            trust_env=False,
        )
        self._since = time.time()
        self._sink.ready()

    async def close(self, drain_s: float) -> None:
        self._closing = True
        self._reserved = 0
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=drain_s)
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        self._flush()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            self._since = time.time()
            self._sink.ready()

    def take(self, segments: int) -> int:
        if self._session is None or self._closing or self._pause is not None:
            return 0
        granted = min(segments, self._dsn.concurrency - self._reserved - self._in_flight)
        self._reserved += granted
        return granted

    def give_back(self, segments: int) -> None:
        self._reserved = max(0, self._reserved - segments)

    def submit(self, batch: Sequence[Submission]) -> None:
        for submission in batch:
            credit = self._credit(submission)
            refusal = self._refusal(submission, credit)
            self._reserved -= min(credit, self._reserved)
            if refusal is not None:
                self._report(submission, refusal)
                continue
            self._in_flight += credit
            attempt = _Attempt(submission)
            task = asyncio.get_running_loop().create_task(self._send(attempt))
            self._tasks[task] = attempt
            task.add_done_callback(self._finished)

    def binds(self) -> list[BindStatus]:
        state: Literal["connecting", "bound", "closing", "down"] = "bound"
        if self._session is None:
            state = "down"
        elif self._closing:
            state = "closing"
        elif self._error:
            state = "connecting"
        return [
            BindStatus(
                name=f"{self.name}/0",
                state=state,
                window=self._dsn.concurrency,
                in_flight=self._in_flight,
                since=self._since,
                error=self._error,
            )
        ]

    # -- one submission

    def _credit(self, submission: Submission) -> int:
        """What of the credit a submission holds: its segments, and never more than there is in all."""
        return min(submission.mask.bit_count(), self._dsn.concurrency)

    def _refusal(self, submission: Submission, credit: int) -> Outcome | None:
        """Why a submission isn't even begun; None when it may go."""
        refusal: Outcome | None = None
        if self._closing:
            refusal = Retry("closed", sent=False)
        elif self._session is None:
            refusal = Retry("not_connected", sent=False)
        elif credit > self._reserved:  # without credit: more requests than `concurrency`
            refusal = Retry("queue_full", "no credit", sent=False)
        elif _E164.fullmatch(submission.to) is None:
            refusal = Rejected("invalid_number", "not E.164")
        elif submission.mask != (1 << len(submission.parts)) - 1:
            refusal = Rejected("partial_unsupported")
        elif time.monotonic() >= submission.send_before:
            refusal = Retry("send_before_passed", sent=False)
        return refusal

    async def _send(self, attempt: _Attempt) -> Outcome | list[Outcome]:
        try:
            request = self._request(attempt.submission)
            async with asyncio.timeout(self._dsn.connect_s) as attempt.deadline:
                answer = None
                while answer is None:
                    answer = await self._exchange(attempt, request)
        except UnicodeEncodeError:  # half a surrogate pair, which nothing can carry
            return Rejected("content_rejected", "not Unicode")
        except TimeoutError:
            return _failed(attempt, "timeout")
        except _AnswerTooLong:
            return Unknown("bad_answer", f"more than {MAX_ANSWER_BYTES} bytes")
        except (aiohttp.ClientConnectionError, OSError) as exc:
            return _failed(attempt, "connection_lost", _describe(exc))
        except aiohttp.ClientError as exc:  # an answer that isn't HTTP, or not all of it
            lost = isinstance(exc, aiohttp.ClientPayloadError)
            return _failed(attempt, "connection_lost" if lost else "bad_answer", _describe(exc))
        return self._outcome(*answer)

    async def _exchange(
        self, attempt: _Attempt, request: HttpRequest
    ) -> tuple[int, Mapping[str, str], bytes] | None:
        """One request and its answer. None: the pooled connection was dead and nothing left; ask again.

        That ends, since each such connection has left the pool.
        """
        assert self._session is not None
        attempt.reused, attempt.obstacle = False, ""
        body = _Body(attempt, self._dsn, self._used, request.body)
        try:
            async with self._session.request(
                request.method,
                URL(request.url, encoded=True),
                data=body,
                headers=request.headers,
                allow_redirects=False,
            ) as response:
                if attempt.phase is _Phase.CONNECT:  # the answer to nothing: it lay in the connection
                    response.close()
                    return None
                return response.status, response.headers, await _read(response)
        except aiohttp.ClientError:
            if attempt.obstacle == "closed" and attempt.reused:
                return None
            raise
        finally:
            body.revoked = True  # whatever still runs in aiohttp: from here on nothing leaves

    def _finished(self, task: asyncio.Task[Outcome | list[Outcome]]) -> None:
        """The one place where a request's outcome is reported: also for a task that never began."""
        attempt = self._tasks.pop(task)
        outcome: Outcome | list[Outcome]
        if task.cancelled():
            outcome = _failed(attempt, "connection_lost", "closed")
        elif (exc := task.exception()) is not None:
            # A bug, here or in the provider's module. Its message could hold a number or a text.
            where = exc.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            line = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else "?"
            log.error("gateway %s: %s at %s", self.name, type(exc).__name__, line)
            outcome = _failed(attempt, "bad_answer", type(exc).__name__)
        else:
            outcome = task.result()
        self._in_flight -= self._credit(attempt.submission)
        self._note_health(attempt, outcome)
        self._report(attempt.submission, outcome)

    def _note_health(self, attempt: _Attempt, outcome: Outcome | list[Outcome]) -> None:
        """No credit for a while after a connection that couldn't be made; what has begun goes on."""
        if attempt.phase is not _Phase.CONNECT:
            if self._error:
                self._error, self._since = "", time.time()
            self._pause_s = FIRST_PAUSE_S
        elif isinstance(outcome, Retry) and outcome.reason == "not_connected" and self._pause is None:
            if not self._error:
                self._since = time.time()
            self._error = outcome.raw
            if not self._closing:
                loop = asyncio.get_running_loop()
                self._pause = loop.call_later(self._pause_s, self._end_pause)
                self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    def _end_pause(self) -> None:
        self._pause = None
        self._sink.ready()

    def _report(self, submission: Submission, outcome: Outcome | list[Outcome]) -> None:
        """Collect what one turn of the event loop gives, so that the sink is called once for it."""
        if not self._unreported:
            asyncio.get_running_loop().call_soon(self._flush)
        mask = submission.mask
        outcomes = [cleaning.outcome(one) for one in (outcome if isinstance(outcome, list) else [outcome])]
        last = len(outcomes) - 1
        self._unreported += [
            (submission, i, outcomes[min(i, last)]) for i in range(mask.bit_length()) if mask >> i & 1
        ]

    def _flush(self) -> None:
        batch, self._unreported = self._unreported, []
        if batch:
            self._sink.outcomes(batch)
            self._sink.ready()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    while chunk := await response.content.read(MAX_ANSWER_BYTES + 1 - len(body)):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise _AnswerTooLong
    return body


def _failed(attempt: _Attempt, reason: str, raw: str = "") -> Outcome:
    """The outcome of a request that got no answer: by what may have left, not by what went wrong."""
    if attempt.phase is not _Phase.CONNECT:
        return Unknown(reason, raw)
    if attempt.obstacle == "late":
        return Retry("send_before_passed", sent=False)
    if raw == "closed":
        return Retry("closed", sent=False)
    return Retry("not_connected" if reason != "bad_answer" else "gateway_error", raw or reason, sent=False)


def _describe(exc: BaseException) -> str:
    """An error in one word, without address, URL or text."""
    cause = getattr(exc, "os_error", exc)
    if isinstance(cause, _PrivateAddress):
        return "address_not_allowed"
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "dns"
    if isinstance(exc, aiohttp.ClientSSLError):
        return "tls"
    number = getattr(cause, "errno", None)
    return errno.errorcode.get(number, "") if number else type(exc).__name__


# -- callbacks


class Provider(Protocol):
    """The part of a provider's module that reads callbacks (`gateways.provider`)."""

    def parse(self, name: str, url: str, settings: Mapping[str, object]) -> Any: ...
    def receive(
        self, settings: Any, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> list[Receipt | Inbound]: ...
    def reply(self, settings: Any) -> HttpReply: ...


Received = tuple[list[Receipt], list[Inbound], HttpReply]
Receiver = Callable[[str, str, Mapping[str, str], bytes], Received]


def receiver(name: str, url: str, settings: Mapping[str, object]) -> Receiver:
    """The function that reads this gateway's callbacks; settings are parsed once, here.

    It takes method, full URL as the provider called it, headers (any case) and body, and
    gives receipts, inbound texts and the reply. The reply is to be sent only after both
    lists are stored; when storing fails, answer 503 instead, and the provider calls again.
    It never raises for what a stranger may send: a wrong signature gives 403, an unreadable
    body 400, and empty lists; only Ask is for the caller (`Asker.read`). What it gives can be
    stored (`gateways.cleaning`). Raises ValueError for wrong settings, LookupError for a scheme that
    has no HTTP gateway.
    """
    provider = _provider(url)
    parsed = provider.parse(name, url, settings)
    stored, country = provider.reply(parsed), parsed.dsn.country

    def receive_one(method: str, full_url: str, headers: Mapping[str, str], body: bytes) -> Received:
        lower = {key.lower(): value for key, value in headers.items()}
        try:
            events = provider.receive(parsed, method.upper(), full_url, lower, body)
        except BadSignature:
            return [], [], HttpReply(403)
        except BadCallback as exc:
            return [], [], HttpReply(400, {"Content-Type": "text/plain"}, str(exc).encode())
        if country:
            events = [_international(event, country) for event in events]
        receipts = [cleaning.receipt(event) for event in events if isinstance(event, Receipt)]
        texts = [cleaning.inbound(event) for event in events if isinstance(event, Inbound)]
        return receipts, texts, stored

    return receive_one


def _international(event: Receipt | Inbound, country: str) -> Receipt | Inbound:
    """With its numbers as they are called from abroad."""
    if isinstance(event, Receipt):
        return msgspec.structs.replace(event, to=numbers.written_in(country, event.to).removeprefix("+"))
    sender, to = (numbers.written_in(country, number) for number in (event.sender, event.to))
    return msgspec.structs.replace(event, sender=sender, to=to)


def called_back_at(name: str, url: str, settings: Mapping[str, object]) -> str:
    """The public address at which this gateway is called back; empty where none is set. Raises as `receiver` does."""
    address: str = _provider(url).parse(name, url, settings).dsn.callback_url
    return address


def receive(
    name: str,
    url: str,
    settings: Mapping[str, object],
    method: str,
    full_url: str,
    headers: Mapping[str, str],
    body: bytes,
) -> Received:
    """`receiver` for a single callback; whoever takes many keeps the receiver instead."""
    return receiver(name, url, settings)(method, full_url, headers, body)


class Asker:
    """Reads callbacks for which a provider must be asked something first. One a process.

    Only public addresses are called, over TLS with the system's authorities; no redirects, no proxy. Callers who need
    an answer wait for each other, so that the same is asked once; too many of them get 503, and the provider calls
    again.
    """

    def __init__(
        self,
        *,
        resolver: aiohttp.abc.AbstractResolver | None = None,
        authorities: ssl.SSLContext | None = None,
        allow_private: bool = False,
    ) -> None:
        self._resolver = resolver
        self._ssl = authorities or True
        self._socket_factory = None if allow_private else _public_socket
        self._one = asyncio.Lock()
        self._waiting = 0

    async def read(
        self, receive_one: Receiver, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Received:
        """As `receive_one` does. 503 where the provider did not answer, 403 where what it said does not fit."""
        try:
            return receive_one(method, url, headers, body)
        except Ask:
            if self._waiting >= MAX_ASKING:
                return [], [], HttpReply(503)
        self._waiting += 1
        try:
            async with self._one:
                return await self._ask_and_read(receive_one, method, url, headers, body)
        finally:
            self._waiting -= 1

    async def _ask_and_read(
        self, receive_one: Receiver, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Received:
        for _ in range(MAX_QUESTIONS):
            try:
                return receive_one(method, url, headers, body)  # perhaps somebody has asked meanwhile
            except Ask as ask:
                status, answer = await self._get(ask.url)
                if status != 200:
                    return [], [], HttpReply(403 if 400 <= status <= 499 and status != 429 else 503)
                if ask.learn is None:
                    return [], [], HttpReply(200)
                try:
                    ask.learn(answer)
                except BadSignature:
                    return [], [], HttpReply(403)
        return [], [], HttpReply(503)

    async def _get(self, url: str) -> tuple[int, bytes]:
        """Status and body; status 0 where there was no answer."""
        connector = aiohttp.TCPConnector(
            ssl=self._ssl, resolver=self._resolver, socket_factory=self._socket_factory
        )
        try:
            async with (
                asyncio.timeout(ASK_S),
                aiohttp.ClientSession(
                    connector=connector,
                    headers={"User-Agent": "Volley", "Accept-Encoding": "identity"},
                    auto_decompress=False,
                    trust_env=False,
                ) as session,
                session.get(URL(url, encoded=True), allow_redirects=False) as response,
            ):
                return response.status, await _read(response)
        except (TimeoutError, aiohttp.ClientError, OSError, _AnswerTooLong) as exc:
            log.warning("a callback waits for its provider's answer: %s", _describe(exc))
            return 0, b""


def _provider(url: str) -> Provider:
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme.isidentifier() and scheme.islower():
        with contextlib.suppress(ModuleNotFoundError):
            module = importlib.import_module(f"gateways.{scheme}")
            if hasattr(module, "receive") and hasattr(module, "parse"):
                return module  # type: ignore[return-value]
    raise LookupError(f"no HTTP gateway for {scheme!r}")
