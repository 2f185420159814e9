"""`gateways.http`: what each way a request can go wrong is reported as, and that none goes twice."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import time
from types import SimpleNamespace

import aiohttp
import pytest

import gateways
from app.domain.text import segment
from gateways import http
from gateways.base import Accepted, Rejected, Retry, Unknown
from gateways.http import HttpGateway, is_public
from gateways.provider import HttpRequest, by_status, parse_dsn

SECRET = "s3cr3t-t0ken"


def request(submission, method="POST"):
    return HttpRequest(method, request.url, {"Authorization": SECRET}, submission.message_id.encode())


def outcome(status, headers, body):
    if status == 200 and body.startswith(b"id="):
        return Accepted(body[3:].decode())
    return by_status(status, headers)


@pytest.fixture
async def gateway(sink):
    """Makes gateways to a port of this machine, opens them and closes them after the test."""
    made = []

    async def make(
        port, *, scheme="http", host="127.0.0.1", options="allow_private=true", method="POST", **functions
    ):
        url = f"t+{scheme}://user:{SECRET}@{host}:{port}/send?{options}"
        dsn = parse_dsn("t", url, {})
        resolver = functions.pop("resolver", None)
        functions.setdefault(
            "request",
            lambda s: HttpRequest(
                method,
                dsn.base_url,
                {"Authorization": SECRET},
                b"" if method == "GET" else s.message_id.encode(),
            ),
        )
        functions.setdefault("outcome", outcome)
        made.append(HttpGateway(dsn, sink, resolver=resolver, **functions))
        await made[-1].open(1)
        return made[-1]

    yield make
    for one in made:
        await one.close(0)


def send(gateway, *submissions):
    """Take the credit for them and submit them."""
    needed = sum(s.mask.bit_count() for s in submissions)
    assert gateway.take(needed) == needed
    gateway.submit(submissions)


async def accept(peer, seen):
    await peer.answer(200, b"id=" + seen.body)


# -- answers and their outcomes


def raw(data, then="close"):
    async def behave(peer, seen):
        await peer.send(data)
        if then == "close":
            peer.close()

    return behave


def status(code, *headers):
    async def behave(peer, seen):
        await peer.answer(code, b"{}", *headers)

    return behave


async def reset(peer, seen):
    peer.reset()


async def silence(peer, seen):
    pass


async def drip(peer, seen):
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + b"X-Slow: y\r\n" * 1000:
        await peer.send(bytes([byte]))
        await asyncio.sleep(0.02)


LOST = Unknown("connection_lost", "ServerDisconnectedError")
ANSWERS = {
    "accepted": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nid=7"), Accepted("7")),
    "informational answers before": (
        raw(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nid=7"),
        Accepted("7"),
    ),
    "body until close": (raw(b"HTTP/1.0 200 OK\r\n\r\nid=7"), Accepted("7")),
    "closed after the request": (raw(b""), LOST),
    "reset after the request": (reset, Unknown("connection_lost", "ECONNRESET")),
    "half a status line": (raw(b"HTTP/1.1 20"), LOST),
    "half a head": (raw(b"HTTP/1.1 200 OK\r\nContent-Le"), LOST),
    "half a body": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nid=7"),
        Unknown("connection_lost", "ClientPayloadError"),
    ),
    "not HTTP": (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), Unknown("bad_answer", "ClientResponseError")),
    "a head without end": (
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"),
        Unknown("bad_answer", "ClientResponseError"),
    ),
    "a body too long": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n" + b"x" * 65537, then="stay"),
        Unknown("bad_answer", "more than 65536 bytes"),
    ),
    "chunks without end": (
        raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"8000\r\n" + b"x" * 32768, then="stay"
        ),
        Unknown("timeout"),
    ),
    "compressed, though not asked for": (
        raw(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
            % len(gzip.compress(b"id=7"))
            + gzip.compress(b"id=7")
        ),
        Unknown("bad_answer", "HTTP 200"),
    ),
    "nonsense with 200": (status(200), Unknown("bad_answer", "HTTP 200")),
    "no content": (raw(b"HTTP/1.1 204 No Content\r\n\r\n"), Unknown("bad_answer", "HTTP 204")),
    "switching protocols": (
        raw(b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"),
        Unknown("bad_answer", "HTTP 101"),
    ),
    "never answered": (silence, Unknown("timeout")),
    "answered byte by byte": (drip, Unknown("timeout")),
    "server error": (status(500), Unknown("server_error", "HTTP 500")),
    "unavailable": (status(503, "Retry-After: 9"), Unknown("server_error", "HTTP 503")),
    "throttled": (status(429, "Retry-After: 7"), Retry("throttled", "HTTP 429", 7.0)),
    "throttled until": (
        status(429, "Date: Sun, 06 Nov 1994 08:49:37 GMT", "Retry-After: Sun, 06 Nov 1994 08:49:40 GMT"),
        Retry("throttled", "HTTP 429", 3.0),
    ),
    "throttled for a week": (status(429, "Retry-After: 604800"), Retry("throttled", "HTTP 429", 3600.0)),
    "throttled, no one knows how long": (status(429, "Retry-After: soon"), Retry("throttled", "HTTP 429")),
    "bad request": (status(400), Rejected("rejected", "HTTP 400")),
    "payment required": (status(402), Rejected("no_credit", "HTTP 402")),
    "wrong credentials": (status(401), Retry("gateway_error", "HTTP 401")),
    "wrong path": (status(404), Retry("gateway_error", "HTTP 404")),
    "request timeout": (status(408), Unknown("bad_answer", "HTTP 408")),
    "conflict": (status(409), Unknown("bad_answer", "HTTP 409")),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_outcome_of_an_answer(case, wire, gateway, sink, submission):
    behave, expected = ANSWERS[case]
    server = await wire(behave)
    link = await gateway(server.port, options="allow_private=true&answer_s=0.3")
    send(link, submission())
    assert await sink.outcomes_of(1) == [expected]
    assert len(server.requests) == 1
    assert link.take(100) == 20


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (301, Unknown("bad_answer", "HTTP 301")),
        (302, Unknown("bad_answer", "HTTP 302")),
        (303, Unknown("bad_answer", "HTTP 303")),
        (307, Retry("gateway_error", "HTTP 307")),
        (308, Retry("gateway_error", "HTTP 308")),
    ],
)
async def test_redirects_are_not_followed(code, expected, wire, gateway, sink, submission):
    elsewhere = await wire(accept)
    server = await wire(status(code, f"Location: http://127.0.0.1:{elsewhere.port}/"))
    send(await gateway(server.port), submission())
    assert await sink.outcomes_of(1) == [expected]
    assert elsewhere.connections == 0


# -- before the first byte


async def test_refused_connection_is_a_retry_with_nothing_sent(gateway, sink, submission):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    send(await gateway(port), submission())
    assert await sink.outcomes_of(1) == [Retry("not_connected", "ECONNREFUSED", sent=False)]


class Resolver(aiohttp.abc.AbstractResolver):
    """Answers with the addresses that it is given, or does what it is told before."""

    def __init__(self, *addresses, before=None):
        self.addresses, self.before = addresses, before

    async def resolve(self, host, port=0, family=socket.AF_INET):
        if self.before is not None:
            await self.before()
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in self.addresses
        ]

    async def close(self):
        pass


async def test_name_that_does_not_resolve(gateway, sink, submission):
    async def fail():
        raise OSError(None, "no such name")

    link = await gateway(80, host="sms.example.com", resolver=Resolver(before=fail))
    send(link, submission())
    assert await sink.outcomes_of(1) == [Retry("not_connected", "dns", sent=False)]


async def test_connecting_takes_too_long(gateway, sink, submission):
    link = await gateway(
        80,
        host="sms.example.com",
        options="connect_s=0.05",
        resolver=Resolver(before=asyncio.Event().wait),
    )
    send(link, submission())
    assert await sink.outcomes_of(1) == [Retry("not_connected", "timeout", sent=False)]


async def test_tls_that_fails(wire, gateway, sink, submission):
    server = await wire(accept, tls=True)  # its certificate is nobody's
    send(await gateway(server.port, scheme="https"), submission())
    assert await sink.outcomes_of(1) == [Retry("not_connected", "tls", sent=False)]
    assert server.requests == []


async def test_send_before_has_passed_already(wire, gateway, sink, submission):
    server = await wire(accept)
    send(await gateway(server.port), submission(send_before=time.monotonic()))
    assert await sink.outcomes_of(1) == [Retry("send_before_passed", sent=False)]
    assert server.connections == 0


async def test_send_before_passes_while_connecting(wire, gateway, sink, submission):
    server = await wire(accept)
    late = submission()

    async def pass_by():
        late.send_before = time.monotonic()

    resolver = Resolver("127.0.0.1", before=pass_by)
    send(await gateway(server.port, host="sms.example.com", resolver=resolver), late)
    assert await sink.outcomes_of(1) == [Retry("send_before_passed", sent=False)]
    assert server.requests == []


async def test_no_credit_for_a_while_after_a_failed_connection(wire, gateway, sink, submission):
    server = await wire(accept)
    refuse = True

    async def maybe():
        if refuse:
            raise OSError(None, "no such name")

    link = await gateway(server.port, host="sms.example.com", resolver=Resolver("127.0.0.1", before=maybe))
    send(link, submission("m-1"), submission("m-2"))
    await sink.outcomes_of(2)
    assert link.take(1) == 0
    assert (link.binds()[0].state, link.binds()[0].error) == ("connecting", "dns")
    readies = sink.readies
    refuse = False
    await sink.until(lambda: sink.readies > readies)
    send(link, submission("m-3"))
    assert (await sink.outcomes_of(3))[2] == Accepted("m-3")
    assert (link.binds()[0].state, link.binds()[0].error) == ("bound", "")


# -- after the first byte


async def test_a_server_that_does_not_read_is_unknown(gateway, sink, submission):
    deaf = socket.create_server(("127.0.0.1", 0))
    with deaf:
        port = deaf.getsockname()[1]
        link = await gateway(
            port,
            options="allow_private=true&send_s=0.1",
            request=lambda s: HttpRequest("POST", f"http://127.0.0.1:{port}/", {}, b"x" * 16_000_000),
        )
        send(link, submission())
        assert await sink.outcomes_of(1) == [Unknown("timeout")]


# -- never twice


async def test_post_on_a_connection_that_closes_under_it_is_not_repeated(wire, gateway, sink, submission):
    async def once(peer, seen):
        if seen.body == b"m-1":
            await accept(peer, seen)
        else:
            peer.close()

    server = await wire(once)
    link = await gateway(server.port)
    send(link, submission("m-1"))
    await sink.outcomes_of(1)
    send(link, submission("m-2"))
    assert await sink.outcomes_of(2) == [Accepted("m-1"), LOST]
    assert [(seen.body, seen.connection) for seen in server.requests] == [(b"m-1", 1), (b"m-2", 1)]


async def test_get_is_not_repeated_though_aiohttp_would(wire, gateway, sink, submission):
    async def first_only(peer, seen):
        if len(server.requests) == 1:
            await peer.answer(200, b"id=1")
        else:
            peer.close()

    server = await wire(first_only)
    async with aiohttp.ClientSession() as session:  # aiohttp alone: 2 requests become 3
        for _ in range(2):
            try:
                async with session.get(f"http://127.0.0.1:{server.port}/") as response:
                    await response.read()
            except aiohttp.ClientError:
                pass
    assert len(server.requests) == 3

    server.requests.clear()
    link = await gateway(server.port, method="GET")
    send(link, submission("m-1"))
    await sink.outcomes_of(1)
    send(link, submission("m-2"))
    first, second = await sink.outcomes_of(2)
    assert (first, type(second)) == (Accepted("1"), Unknown)
    assert [seen.method for seen in server.requests] == ["GET", "GET"]
    assert "content-type" not in server.requests[0].headers


async def test_a_pooled_connection_found_closed_is_replaced(wire, gateway, sink, submission):
    async def answer_and_close(peer, seen):
        await accept(peer, seen)
        peer.close()

    server = await wire(answer_and_close)
    link = await gateway(server.port)
    for i in range(20):
        send(link, submission(f"m-{i}"))
        await sink.outcomes_of(i + 1)
    assert [seen.body.decode() for seen in server.requests] == [f"m-{i}" for i in range(20)]
    assert [o for _, _, o in sink.reported] == [Accepted(f"m-{i}") for i in range(20)]


@pytest.mark.parametrize("noticed", [True, False], ids=["read already", "still in the kernel"])
async def test_an_answer_without_a_question_is_nobodys(noticed, wire, gateway, sink, submission):
    """A second answer on an idle connection must not be taken for the next text's."""
    server = await wire(accept)
    link = await gateway(server.port)
    send(link, submission("m-1"))
    await sink.outcomes_of(1)
    sock = server.peers[0].writer.get_extra_info("socket")
    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nid=bad"
    if noticed:
        await server.peers[0].send(forged)
        for _ in range(20):
            await asyncio.sleep(0)
    else:
        socket.socket(fileno=socket.dup(sock.fileno())).send(forged)
    send(link, submission("m-2"))
    assert (await sink.outcomes_of(2))[1] == Accepted("m-2")
    assert [(seen.body, seen.connection) for seen in server.requests] == [(b"m-1", 1), (b"m-2", 2)]


@pytest.mark.parametrize("event", ["close", "data"])
async def test_a_pooled_connection_is_looked_at_in_the_kernel(event):
    """What came after the event loop's last look, and before the write, counts too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _, writer = await asyncio.open_connection(*listener.getsockname())
        peer, _ = listener.accept()
        connection = SimpleNamespace(transport=writer.transport, should_close=False)
        assert not http._is_dead(connection, reused=True)
        if event == "data":
            peer.send(b"H")
        peer.close()  # from here on no await: the loop knows nothing
        assert http._is_dead(connection, reused=True)
        assert not http._is_dead(connection, reused=False)  # a greeting on a new one is nobody's answer
        writer.close()
        assert http._is_dead(connection, reused=False)


async def test_a_server_that_closes_at_random_sees_nothing_twice(wire, gateway, sink, submission):
    """400 texts against a server that cuts keep-alive connections before, in and after its answers."""

    async def moody(peer, seen):
        turn = len(server.requests) % 7
        if turn == 0:
            peer.reset()
        elif turn == 1:
            peer.close()
        elif turn == 2:
            await peer.send(b"HTTP/1.1 200 OK\r\nConte")
            peer.reset()
        else:
            await accept(peer, seen)
            if turn == 3:
                peer.close()
            elif turn == 4:
                peer.reset()

    server = await wire(moody)
    link = await gateway(server.port)
    waiting = [submission(f"m-{i}") for i in range(400)]
    while waiting:
        await sink.until(lambda: link._in_flight < 20)
        granted = link.take(len(waiting))
        link.submit([waiting.pop() for _ in range(granted)])
    outcomes = await sink.outcomes_of(400)
    assert len(outcomes) == 400
    seen = [one.body.decode() for one in server.requests]
    assert len(seen) == len(set(seen))
    by_id = {submission.message_id: outcome for submission, _, outcome in sink.reported}
    for message_id, result in by_id.items():
        if isinstance(result, Accepted):
            assert result.gateway_message_id == message_id
            assert message_id in seen
        elif isinstance(result, Retry):
            assert not result.sent
            assert message_id not in seen
        else:
            assert isinstance(result, Unknown)
    assert sum(isinstance(o, Accepted) for o in outcomes) > 150


# -- connections


async def test_connections_are_reused_over_tls(wire, gateway, sink, submission, certificate):
    server = await wire(accept, tls=True)
    options = f"allow_private=true&ca_file={certificate}"
    link = await gateway(server.port, scheme="https", host="localhost", options=options)
    for i in range(5):
        send(link, submission(f"m-{i}"))
        assert (await sink.outcomes_of(i + 1))[i] == Accepted(f"m-{i}")
    assert server.connections == 1


async def test_never_more_requests_at_once_than_concurrency(wire, gateway, sink, submission):
    go = asyncio.Event()

    async def hold(peer, seen):
        await go.wait()
        await accept(peer, seen)

    server = await wire(hold)
    link = await gateway(server.port, options="allow_private=true&concurrency=3")
    assert link.take(100) == 3
    assert link.take(1) == 0
    link.submit([submission(f"m-{i}") for i in range(5)])
    await server.arrived(3)
    refused = await sink.outcomes_of(2)
    assert refused == [Retry("queue_full", "no credit", sent=False)] * 2
    assert link.binds()[0].in_flight == 3
    go.set()
    await sink.outcomes_of(5)
    assert len(server.requests) == server.connections == 3
    assert link.take(100) == 3
    link.give_back(2)
    assert link.take(100) == 2


async def test_a_text_of_more_segments_than_concurrency_goes_alone(wire, gateway, sink, submission):
    server = await wire(accept)
    link = await gateway(server.port, options="allow_private=true&concurrency=2")
    long = submission("m-0", text="x" * 400, parts=(b"a", b"b", b"c"), mask=0b111)
    assert link.take(3) == 2
    link.submit([long, submission("m-1")])
    outcomes = await sink.outcomes_of(4)
    assert outcomes.count(Accepted("m-0")) == 3
    assert outcomes.count(Retry("queue_full", "no credit", sent=False)) == 1
    assert len(server.requests) == 1
    assert link.take(100) == 2, "it gave back what it took, and no more"


async def test_proxies_of_the_environment_are_ignored(wire, gateway, sink, submission, monkeypatch):
    proxy = await wire(accept)
    server = await wire(accept)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    send(await gateway(server.port), submission())
    assert await sink.outcomes_of(1) == [Accepted("m-1")]
    assert proxy.connections == 0


# -- addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd12::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::7f00:1",
        "192.0.0.192",
        "192.88.99.1",
        "::ffff:192.0.0.192",
        "2001:0:7f00:1::",
        "fec0::1",
        "3fff::1",
    ],
)
def test_special_addresses_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "54.172.60.0", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::1]"])
async def test_own_machine_is_refused_without_allow_private(host, wire, gateway, sink, submission):
    server = await wire(accept)
    send(await gateway(server.port, host=host, options=""), submission())
    assert await sink.outcomes_of(1) == [Retry("not_connected", "address_not_allowed", sent=False)]
    assert server.connections == 0


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0x7f000001"])
async def test_numbers_in_disguise_are_refused(host, wire, gateway, sink, submission):
    server = await wire(accept)
    send(await gateway(server.port, host=host, options=""), submission())
    (result,) = await sink.outcomes_of(1)
    assert isinstance(result, Retry)
    assert not result.sent
    assert server.connections == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
async def test_a_name_that_leads_here_is_refused(address, wire, gateway, sink, submission):
    server = await wire(accept)
    resolver = Resolver(address, address)
    send(await gateway(server.port, host="sms.example.com", options="", resolver=resolver), submission())
    assert await sink.outcomes_of(1) == [Retry("not_connected", "address_not_allowed", sent=False)]
    assert server.connections == 0


async def test_a_name_that_moves_here_later_is_refused(wire, gateway, sink, submission, monkeypatch):
    """DNS rebinding: the first answer passes the check, the second names this machine."""
    server = await wire(accept)
    resolver = Resolver("127.0.0.1")
    options = "keepalive_s=0.01"
    with monkeypatch.context() as patched:
        patched.setattr(http, "is_public", lambda address: True)
        link = await gateway(server.port, host="sms.example.com", options=options, resolver=resolver)
        send(link, submission("m-1"))
        assert await sink.outcomes_of(1) == [Accepted("m-1")]
    server.peers[0].close()
    await asyncio.sleep(0.02)
    send(link, submission("m-2"))
    assert (await sink.outcomes_of(2))[1] == Retry("not_connected", "address_not_allowed", sent=False)


# -- segments


async def test_a_long_text_is_one_request_and_an_outcome_for_each_segment(wire, gateway, sink, submission):
    server = await wire(accept)
    text = submission("m-1", segments=3)
    send(await gateway(server.port), text)
    await sink.outcomes_of(3)
    assert sink.reported == [(text, i, Accepted("m-1")) for i in range(3)]
    assert sink.calls == 1
    assert len(server.requests) == 1


async def test_some_segments_only_cannot_be_sent(wire, gateway, sink, submission):
    server = await wire(accept)
    text = submission("m-1", segments=3, mask=0b101)
    link = await gateway(server.port)
    send(link, text)
    await sink.outcomes_of(2)
    assert sink.reported == [(text, i, Rejected("partial_unsupported")) for i in (0, 2)]
    assert server.connections == 0
    assert link.take(100) == 20


@pytest.mark.parametrize(
    "to", ["", "12025550101", "+", "+0202555", "+1202555\x00", "+1202555\n", "+1234567890123456"]
)
async def test_a_number_that_is_none_is_not_sent(to, wire, gateway, sink, submission):
    server = await wire(accept)
    send(await gateway(server.port), submission(to=to))
    assert await sink.outcomes_of(1) == [Rejected("invalid_number", "not E.164")]
    assert server.connections == 0


async def test_a_text_that_is_not_unicode_is_not_sent(wire, gateway, sink, submission):
    server = await wire(accept)
    url = f"http://127.0.0.1:{server.port}/"
    link = await gateway(server.port, request=lambda s: HttpRequest("POST", url, {}, s.text.encode()))
    send(link, submission(text="\ud83d"))
    assert await sink.outcomes_of(1) == [Rejected("content_rejected", "not Unicode")]
    assert server.connections == 0


# -- opening and closing


async def test_nothing_is_taken_before_open(sink, submission):
    dsn = parse_dsn("t", "t+http://127.0.0.1:1/", {})
    link = HttpGateway(dsn, sink, lambda s: None, outcome)
    await link.open(0)
    assert link.take(5) == 0
    assert link.binds()[0].state == "down"
    link.submit([submission()])
    assert await sink.outcomes_of(1) == [Retry("not_connected", sent=False)]


async def test_close_waits_for_answers(wire, gateway, sink, submission):
    go = asyncio.Event()

    async def hold(peer, seen):
        await go.wait()
        await accept(peer, seen)

    server = await wire(hold)
    link = await gateway(server.port)
    send(link, submission())
    await server.arrived(1)
    closing = asyncio.ensure_future(link.close(5))
    await asyncio.sleep(0)
    assert link.binds()[0].state == "closing"
    assert link.take(1) == 0
    go.set()
    await closing
    assert [o for _, _, o in sink.reported] == [Accepted("m-1")]


async def test_close_ends_what_is_not_answered(wire, gateway, sink, submission):
    """Sent: unknown. Still connecting, or not even begun: nothing left."""
    server = await wire(silence)
    blocked = asyncio.Event()
    calls = 0

    async def second_blocks():
        nonlocal calls
        calls += 1
        if calls == 2:
            await blocked.wait()

    resolver = Resolver("127.0.0.1", before=second_blocks)
    link = await gateway(server.port, host="sms.example.com", resolver=resolver)
    send(link, submission("sent"))
    await server.arrived(1)
    link._session.connector.clear_dns_cache()
    send(link, submission("connecting"))
    while calls < 2:
        await asyncio.sleep(0)
    send(link, submission("not begun"))
    await link.close(0)
    assert {s.message_id: o for s, _, o in sink.reported} == {
        "sent": Unknown("connection_lost", "closed"),
        "connecting": Retry("closed", sent=False),
        "not begun": Retry("closed", sent=False),
    }
    assert len(server.requests) == 1
    link.submit([submission("after")])
    assert (await sink.outcomes_of(4))[3] == Retry("closed", sent=False)


async def test_close_twice_and_open_again(wire, gateway, sink, submission):
    server = await wire(accept)
    link = await gateway(server.port)
    await link.close(0)
    await link.close(0)
    await link.open(1)
    send(link, submission())
    assert await sink.outcomes_of(1) == [Accepted("m-1")]


# -- bugs and secrets


async def test_a_provider_that_raises_costs_one_outcome_and_no_secret(
    wire, gateway, sink, submission, caplog
):
    def broken_request(one):
        raise RuntimeError(one.text)

    def broken_outcome(code, headers, body):
        raise RuntimeError(body)

    server = await wire(accept)
    with caplog.at_level(logging.DEBUG):
        send(await gateway(server.port, request=broken_request), submission(text="private"))
        assert await sink.outcomes_of(1) == [Retry("gateway_error", "RuntimeError", sent=False)]
        send(await gateway(server.port, outcome=broken_outcome), submission("private"))
        assert (await sink.outcomes_of(2))[1] == Unknown("bad_answer", "RuntimeError")
    assert "RuntimeError" in caplog.text
    assert "private" not in caplog.text
    assert SECRET not in caplog.text


async def test_a_header_that_cannot_be_sent_is_not_sent(wire, gateway, sink, submission):
    server = await wire(accept)
    link = await gateway(
        server.port,
        request=lambda s: HttpRequest("POST", f"http://127.0.0.1:{server.port}/", {"X": "a\r\nb"}, b""),
    )
    send(link, submission())
    assert await sink.outcomes_of(1) == [Retry("gateway_error", "ValueError", sent=False)]
    assert server.requests == []


async def test_secrets_stay_out_of_every_repr(wire, gateway, submission):
    server = await wire(accept)
    link = await gateway(server.port)
    shown = [repr(link), repr(link._dsn), repr(link._request(submission())), repr(link.binds())]
    assert not [text for text in shown if SECRET in text or "2025550101" in text]


@pytest.mark.parametrize(
    ("url", "segments"),
    [
        ("twilio://AC0:t@api.twilio.com", {"a" * 71: 1, "ạ" * 71: 2}),
        ("twilio://AC0:t@api.twilio.com?ucs2_only=true", {"a" * 71: 2, "ạ" * 71: 2}),
        ("alibaba://k:s@h.example?template=1", {"a" * 70: 1, "a" * 71: 2}),
        ("tencent://k:s@h.example?template=1&sdk_app_id=1&ucs2_only=false", {"a" * 71: 1}),
    ],
)
async def test_segments_are_counted_as_the_provider_writes_texts(url, segments, sink):
    gateway = gateways.make("g", url, {}, sink)
    assert gateways.codings(url) == (gateway.coding, gateway.asked_coding)
    assert {body: len(segment(body, coding=gateway.asked_coding).parts) for body in segments} == segments
    ucs2 = gateway.coding.order == ("ucs2",)
    assert segment("a", coding=gateway.coding).encoding == ("ucs2" if ucs2 else "gsm7")
