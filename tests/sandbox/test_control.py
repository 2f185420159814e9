"""The control API: ledger, export, duplicates, garbage; and who may ask."""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec
import pytest

import gateways
from gateways.base import Accepted, Submission
from gateways.sandbox import Behaviour, Sandbox, Settings
from gateways.sandbox.command import main
from gateways.sandbox.garbage import KINDS
from gateways.smpp import pdu

ANYONE = "12025551000"
CHANGES = ["/behaviour", "/mo", "/garbage", "/unbind", "/cut", "/reset"]
READS = ["/stats", "/ledger", "/ledger.ndjson", "/duplicates", "/peak", "/behaviour", "/garbage", "/metrics"]


async def answer(request):
    async with request as response:
        return response.status, await response.json()


# --- ledger ----------------------------------------------------------------------------------------------


async def test_the_ledger_as_lines(control, esme):
    esme.submit(ANYONE, "84901234567", ANYONE, text=b"hello")
    await esme.answers(3)
    async with control.get("/ledger.ndjson") as response:
        assert response.content_type == "application/x-ndjson"
        lines = [msgspec.json.decode(line) for line in (await response.read()).splitlines()]
    assert [(line["to"], line["text"], line["connection"]) for line in lines] == [
        (ANYONE, "hello", 1),
        ("84901234567", "hello", 1),
        (ANYONE, "hello", 1),
    ]
    async with control.get(f"/ledger.ndjson?to=84&since={lines[1]['number'] - 1}") as response:
        assert (await response.read()).count(b"\n") == 1


async def test_the_ledger_in_more_than_one_write(control, sandbox, esme):
    sandbox.change({"lost": 1})
    esme.submit(*[ANYONE] * 1200)
    await esme.answers(1200)
    async with control.get("/ledger.ndjson") as response:
        assert (await response.read()).count(b"\n") == 1200


async def test_duplicates_are_what_was_taken_twice(control, sandbox, esme):
    sandbox.change({"rate": 5})
    part = {"esm_class": 0x40}
    esme.submit(ANYONE, text=b"\x05\x00\x03\x07\x02\x01aa", **part)
    esme.submit(ANYONE, text=b"\x05\x00\x03\x07\x02\x02aa", **part)  # another part, not the same again
    esme.submit(ANYONE, "84901234567", ANYONE, text=b"hello")
    esme.submit(ANYONE, ANYONE, text=b"over the rate")  # refused twice: may come again
    await esme.answers(7)
    _, found = await answer(control.get("/duplicates"))
    (one,) = found["duplicates"]
    assert (one["times"], one["to"], one["source"], one["part"]) == (2, ANYONE, "12345", None)
    assert len(one["numbers"]) == len(one["at"]) == 2
    assert (await answer(control.get("/duplicates?to=84")))[1] == {"duplicates": []}


@pytest.mark.parametrize("number", ["x", "-1", "1e9", "9" * 5000, "²"])
async def test_numbers_that_are_none(control, number):
    for question in ("/ledger?since=", "/ledger?limit=", "/ledger.ndjson?since=", "/duplicates?limit="):
        status, body = await answer(control.get(question + number))
        assert (status, "must be a number" in body["error"]) == (400, True)


async def test_paths_and_methods_that_are_none(control):
    assert await answer(control.get("/stat")) == (404, {"error": "Not Found"})
    assert (await answer(control.get("/cut")))[0] == 405


# --- garbage -----------------------------------------------------------------------------------------------


async def test_garbage_goes_out_as_it_is(control, sandbox, esme):
    assert (await answer(control.post("/garbage", json={"kind": "length_15"})))[1] == {"connections": 1}
    assert await esme.reader.readexactly(16) == KINDS["length_15"]
    assert (await answer(control.post("/garbage", json={"hex": "00ff"})))[1] == {"connections": 1}
    assert await esme.reader.readexactly(2) == b"\x00\xff"
    nobody = {"kind": "noise", "system_id": "nobody"}
    assert (await answer(control.post("/garbage", json=nobody)))[1] == {"connections": 0}
    assert sandbox.smsc.counters.garbage_sent == 2
    assert (await answer(control.get("/garbage")))[1] == {"kinds": list(KINDS)}


@pytest.mark.parametrize(
    "body",
    [{}, {"kind": "x"}, {"hex": "zz"}, {"kind": "noise", "hex": "00"}, {"hex": 1}, {"knd": "noise"}, []],
)
async def test_garbage_that_is_none(control, body):
    status, problem = await answer(control.post("/garbage", json=body))
    assert (status, bool(problem["error"])) == (400, True)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_smpp_gateway_survives_each_kind(sandbox, kind, sink):
    """What was sent before and after ends once, on this connection or the next; nothing is handed over twice."""
    url = f"smpp://volley:secret@127.0.0.1:{sandbox.port}?window=10&response_timeout_s=1"
    quick = {"reconnect_min_s": 0.02, "enquire_link_s": 0.2, "enquire_link_timeout_s": 0.3}
    gateway = gateways.make("carrier", url, quick, sink)
    await gateway.open(1)
    try:
        await sink.send(gateway, "before")
        await sink.outcome("before")
        assert sandbox.garbage(KINDS[kind]) == 1
        for attempt in range(20):  # what meets a connection that is about to close may end as unknown
            await sink.send(gateway, f"after {attempt}")
            if isinstance(await sink.outcome(f"after {attempt}"), Accepted):
                break
        else:
            pytest.fail("never came back")
    finally:
        await gateway.close(0)
    assert sandbox.smsc.ledger.duplicates() == []


class Sink:
    """Remembers outcomes by message."""

    def __init__(self):
        self.ended = {}
        self._changed = asyncio.Event()

    def outcomes(self, batch):
        for submission, index, outcome in batch:
            assert (submission.message_id, index) not in self.ended, "ended twice"
            self.ended[submission.message_id, index] = outcome
        self._changed.set()

    def ready(self):
        self._changed.set()

    async def receipts(self, gateway, batch):
        """Not looked at."""

    async def inbound(self, gateway, batch):
        """Not looked at."""

    async def send(self, gateway, text):
        await self._until(lambda: gateway.take(1))
        loop = asyncio.get_running_loop()
        before = loop.time() + 20
        gateway.submit(
            [Submission(None, text, "+12025551000", "12345", text, "gsm7", (text.encode(),), 1, 1, before)]
        )

    async def outcome(self, text):
        await self._until(lambda: (text, 0) in self.ended)
        return self.ended[text, 0]

    async def _until(self, condition):
        async with asyncio.timeout(60):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def sink():
    return Sink()


# --- who may ask ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:2776", "10.0.0.1", "127.0.0.1.evil.example", ""]
)
async def test_a_name_that_was_bent_to_loopback_reads_nothing(control, path, host):
    assert (await answer(control.get(path, headers={"Host": host})))[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:2776", "[::1]:2776", "LOCALHOST", "127.0.0.2:1"])
async def test_loopback_by_any_name(control, host):
    assert (await answer(control.get("/stats", headers={"Host": host})))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_web_page_changes_nothing(control, sandbox, esme, headers):
    sandbox.change({"rate": 7})
    for path in CHANGES:
        assert (await answer(control.post(path, headers=headers)))[0] == 403
    assert sandbox.smsc.behaviour.rate == 7
    assert len(sandbox.connections) == 1


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_what_a_form_can_send_is_no_order(control, sandbox, esme, kind):
    """An old browser names no origin, but its forms can't say that they are JSON."""
    for path in CHANGES:
        request = control.post(path, data=b'{"rate": 1}', headers={"Content-Type": kind})
        assert (await answer(request))[0] == 415
    assert sandbox.smsc.behaviour.rate == 0


async def test_a_body_that_is_too_large(control):
    status, _ = await answer(control.post("/mo", json={"from": "+1", "to": "1", "text": "a" * 300_000}))
    assert status == 413


@pytest.fixture
async def with_token():
    sandbox = Sandbox(Settings(port=0, control_port=0, control_host="0.0.0.0", control_token="t0ken"))
    await sandbox.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{sandbox.control_port}") as session:
        yield session
    await sandbox.stop()


@pytest.mark.parametrize(
    ("given", "status"),
    [({}, 401), ({"Authorization": "Bearer wrong"}, 401), ({"Authorization": "Bearer té"}, 401),
     ({"Authorization": "Bearer t0ken"}, 200), ({"Authorization": "Bearer t0ken", "Host": "smsc:2776"}, 200),
     ({"Authorization": "Bearer t0ken", "Origin": "https://evil.example"}, 403)],
)  # fmt: skip
async def test_beyond_loopback_it_asks_for_its_token(with_token, given, status):
    assert (await answer(with_token.get("/stats", headers=given)))[0] == status


async def test_beyond_loopback_without_a_token_it_does_not_start(capsys, tmp_path):
    sandbox = Sandbox(Settings(port=0, control_port=0, control_host="0.0.0.0"))
    with pytest.raises(ValueError, match="token"):
        await sandbox.start()
    for arguments in (
        ["--control-host", "0.0.0.0"],
        ["--control-host", "0.0.0.0", "--control-token-file", str(tmp_path / "none")],
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "--control-token-file" in capsys.readouterr().err


async def test_by_default_nothing_listens_beyond_loopback():
    sandbox = Sandbox(Settings(port=0, control_port=0, behaviour=Behaviour()))
    await sandbox.start()
    try:
        assert sandbox._server.sockets[0].getsockname()[0] == "127.0.0.1"
        assert sandbox._runner.addresses[0][0] == "127.0.0.1"
    finally:
        await sandbox.stop()


async def test_unbind_by_the_control_api(control, esme):
    assert (await answer(control.post("/unbind", json={"system_id": "nobody"})))[1] == {"connections": 0}
    assert (await answer(control.post("/unbind")))[1] == {"connections": 1}
    assert (await esme.pdu())[0] == pdu.UNBIND
