"""Through Kannel itself, where it is installed (Debian: `apt-get install kannel`), to the sandbox SMSC and back."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess

import pytest
from aiohttp import web

from app.domain.text import segment
from gateways import http, kannel
from gateways.base import Accepted
from gateways.sandbox import Behaviour, Sandbox, Settings

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not shutil.which("bearerbox"), reason="Kannel isn't installed"),
]

CONFIG = """
group = core
admin-port = {admin}
admin-password = x
admin-allow-ip = 127.0.0.1
smsbox-port = {box}
box-allow-ip = 127.0.0.1
dlr-storage = internal

group = smsc
smsc = smpp
smsc-id = sandbox
host = 127.0.0.1
port = {smsc}
transceiver-mode = true
smsc-username = volley
smsc-password = secret
system-type = ""

group = smsbox
bearerbox-host = 127.0.0.1
sendsms-port = {send}

group = sendsms-user
username = user
password = s3cret
concatenation = true
max-messages = 10

group = sms-service
keyword = default
get-url = "http://127.0.0.1:{callback}/v1/callbacks/k?token=t0ken&from=%p&to=%P&text=%b&charset=%C&in=%I"
max-messages = 0
omit-empty = true
"""
TEXTS = {
    "m-plain": "50% & more = [x] € @",
    "m-wide": "Xin chào 👋 ạ",
    "m-long": "long " * 60,
    "m-wide-long": "ạ" * 100,
}
FROM_PEOPLE = ["STOP", "STOP é@€ñ ~[", "STOP é & % ạ", "ü" * 75 + "ạ" * 5, "“quotes” – é ç"]


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture
async def smsc():
    sandbox = Sandbox(Settings(port=0, control_port=None, behaviour=Behaviour(receipt_delay_s=0.2)))
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


@pytest.fixture
async def link(smsc, sink, tmp_path):
    """URL and settings of a gateway to a running Kannel; what calls back is in `sink.stored`."""
    names = ("admin", "box", "send", "callback")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    url = f"kannel+http://user:s3cret@127.0.0.1:{ports['send']}?allow_private=true&token=t0ken"
    settings = {"callback_url": f"http://127.0.0.1:{ports['callback']}"}
    read = http.receiver("k", url, settings)

    async def called(request):
        receipts, texts, reply = read(
            request.method, str(request.url), dict(request.headers), await request.read()
        )
        await sink.receipts("k", receipts)
        await sink.inbound("k", texts)
        sink.ready()
        return web.Response(status=reply.status, body=reply.body)

    runner = web.ServerRunner(web.Server(called))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", ports["callback"]).start()
    config = tmp_path / "kannel.conf"
    config.write_text(CONFIG.format(smsc=smsc.port, **ports))
    boxes = []
    try:
        for box, port in (("bearerbox", ports["box"]), ("smsbox", ports["send"])):
            boxes.append(
                subprocess.Popen(
                    [box, "-v", "4", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
            await listening(port)
        yield url, settings
    finally:
        for box in reversed(boxes):
            box.kill()
            box.wait()
        await runner.cleanup()


async def listening(port):
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


async def test_texts_receipts_refusals_and_texts_from_people(smsc, sink, submission, link):
    async with asyncio.timeout(20):
        while not smsc.smsc.accounts:
            await asyncio.sleep(0.05)
    gateway = kannel.build("k", *link, sink)
    await gateway.open(1)
    wanted = {number: (text, "+12025550101") for number, text in TEXTS.items()}
    wanted |= {"m-refused": ("a", "+12025550190"), "m-undelivered": ("a", "+12025550191")}
    for number, (text, to) in wanted.items():
        cut = segment(text)
        one = submission(
            number, text=text, to=to, encoding=cut.encoding, parts=cut.parts, mask=(1 << len(cut.parts)) - 1
        )
        assert gateway.take(len(cut.parts)) == len(cut.parts)
        gateway.submit([one])
    await sink.until(lambda: len(sink.stored) >= len(wanted))
    assert {type(outcome) for _, _, outcome in sink.reported} == {Accepted}
    states = {receipt.gateway_message_id: receipt.state for receipt in sink.stored}
    assert states == dict.fromkeys(TEXTS, "delivered") | {
        "m-refused": "rejected",
        "m-undelivered": "undelivered",
    }
    sent = {}
    for entry in smsc.smsc.ledger.since(0):
        key = f"part {entry['part']['reference']}" if entry["part"] else entry["number"]
        sent[key] = sent.get(key, "") + entry["text"]
    assert sorted(sent.values()) == sorted(text for text, _ in wanted.values())
    sink.stored.clear()
    for text in FROM_PEOPLE:
        smsc.inbound("+12025550102", "12345", text)
    await sink.until(lambda: len(sink.stored) >= len(FROM_PEOPLE))
    assert sorted(one.text for one in sink.stored) == sorted(FROM_PEOPLE)
    await gateway.close(1)
