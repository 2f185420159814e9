"""With implementations in other languages: the npm package `smpp` (as SMSC and as ESME) and Debian's libnet-smpp-perl.

Where Node or Perl's module is missing, the test says so and is skipped. The npm package is pinned with its
integrity in `foreign/package-lock.json`, and installed into a temporary folder.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from gateways.base import Accepted, Rejected
from gateways.sandbox import Behaviour, Sandbox, Settings

FOREIGN = Path(__file__).parent / "foreign"
INSTALL_S = 60
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def npm(tmp_path_factory):
    """The folder with the scripts and their package."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("npm")
    for path in FOREIGN.iterdir():
        shutil.copy(path, folder)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    try:
        done = subprocess.run(
            command, cwd=folder, timeout=INSTALL_S, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not install the package in time")
    if "EINTEGRITY" in done.stderr:
        pytest.fail(done.stderr)
    if done.returncode:
        pytest.skip(f"npm can't install the package: {done.stderr.strip().splitlines()[:1]}")
    return folder


class Script:
    """A peer as a process: what it says, line by line."""

    def __init__(self, *command, cwd=None):
        self._command, self._cwd = command, cwd

    async def __aenter__(self):
        self.process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=self._cwd,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return self

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def line(self):
        async with asyncio.timeout(PATIENCE_S):
            line = await self.process.stdout.readline()
        assert line, "the peer has ended"
        return line.decode().rstrip("\n")

    async def said(self):
        return json.loads(await self.line())

    def order(self, **what):
        self.process.stdin.write(json.dumps(what).encode() + b"\n")


async def test_our_gateway_with_the_smsc_of_npm(npm, opened, recorder, submission):
    async with Script("node", "smsc.js", cwd=npm) as smsc:
        gateway = await opened(
            (await smsc.said())["port"],
            system_type="VMA",
            submit_id="asis",
            query_sm=True,
            cancel_sm=True,
            service_type="CMT",
            protocol_id=65,
            priority=2,
        )
        bind = {"system_id": "volley", "interface_version": 0x34, "system_type": "VMA", "ok": True}
        assert await smsc.said() == {"heard": "bind_transceiver", **bind}
        await recorder.until(lambda: gateway.take(5) == 5)
        long = "Xin chào Nguyễn Văn Ạ. " * 5
        gateway.submit(
            [
                submission("short", text="{hi} @ €", sender="Volley", validity_s=300),
                submission("long", text=long, reference=9),
                submission("refused", to="+12025550190", sender="12345"),
            ]
        )
        heard = [await smsc.said() for _ in range(4)]
        await recorder.until(lambda: len(recorder.ended) == len(heard))
        short, refused = heard[0], heard[-1]
        parts = heard[1:-1]
        assert (short["text"], short["ton"], short["from"]) == ("{hi} @ €", [5, 1], "Volley")
        assert (short["registered_delivery"], short["service_type"]) == (1, "CMT")
        assert (short["protocol_id"], short["priority"], short["replace"]) == (65, 2, 0)
        assert short["validity_period"], "it reads our validity as a time of its own"
        assert "".join(part["text"] for part in parts) == long
        assert {part["data_coding"] for part in parts} == {8}
        assert [part["udh"] for part in parts] == [
            [f"000309{len(parts):02x}{index + 1:02x}"] for index in range(len(parts))
        ]
        assert recorder.outcome_of("short") == [Accepted(short["message_id"])]
        assert recorder.outcome_of("long") == [Accepted(part["message_id"]) for part in parts]
        assert recorder.outcome_of("refused") == [Rejected("invalid_number", "ESME_RINVDSTADR")]
        assert refused["ton"] == [3, 1]

        # A receipt by optional parameters alone, an ordinary one, a text with a header, a long one as payload
        person = {"source_addr": "12025550101", "source_addr_ton": 1, "destination_addr": "12345"}
        tlvs = {"receipted_message_id": short["message_id"], "message_state": 5}
        smsc.order(deliver_sm={**person, "esm_class": 4, "short_message": "", **tlvs})
        assert await smsc.said() == {"answered": "deliver_sm", "status": 0}
        written = f"id:{parts[0]['message_id']} sub:001 dlvrd:001 stat:DELIVRD err:000 text:x"
        smsc.order(deliver_sm={**person, "esm_class": 4, "short_message": written})
        assert await smsc.said() == {"answered": "deliver_sm", "status": 0}
        smsc.order(deliver_sm={**person, "short_message": "dừng lại 😀", "data_coding": 8})
        assert await smsc.said() == {"answered": "deliver_sm", "status": 0}
        smsc.order(deliver_sm={**person, "message_payload": "STOP " * 60})
        assert await smsc.said() == {"answered": "deliver_sm", "status": 0}
        assert [(r.gateway_message_id, r.state) for r in recorder.receipts_seen] == [
            (short["message_id"], "undelivered"),
            (parts[0]["message_id"], "delivered"),
        ]
        assert [text.text for text in recorder.inbound_seen] == ["dừng lại 😀", "STOP " * 60]
        smsc.order(enquire_link={})
        assert await smsc.said() == {"answered": "enquire_link", "status": 0}

        receipt = await gateway.query(short["message_id"], "Volley")
        assert (receipt.state, receipt.raw) == ("delivered", "DELIVERED")
        assert await smsc.said() == {
            "heard": "query_sm",
            "message_id": short["message_id"],
            "from": "Volley",
        }
        assert await gateway.cancel(short["message_id"], "Volley", "+12025550101") is True
        assert await smsc.said() == {
            "heard": "cancel_sm",
            "message_id": short["message_id"],
            "from": "Volley",
            "to": "12025550101",
            "service_type": "CMT",
        }
        await gateway.close(1)
        assert await smsc.said() == {"heard": "unbind"}


async def test_a_long_text_by_parameters_with_the_smsc_of_npm(npm, opened, recorder, submission):
    async with Script("node", "smsc.js", cwd=npm) as smsc:
        gateway = await opened(
            (await smsc.said())["port"], bind="transmitter", interface_version="5.0", concat="sar"
        )
        bind = await smsc.said()
        assert (bind["heard"], bind["interface_version"]) == ("bind_transmitter", 0x50)
        await recorder.until(lambda: gateway.take(3) == 3)
        gateway.submit([submission("long", text="abc" * 120, reference=0x1234)])
        parts = [await smsc.said() for _ in range(3)]
        assert [part["sar"] for part in parts] == [[0x1234, 3, 1], [0x1234, 3, 2], [0x1234, 3, 3]]
        assert "".join(part["text"] for part in parts) == "abc" * 120
        await recorder.until(lambda: len(recorder.ended) == 3)


async def test_our_sandbox_with_the_client_of_npm(npm):
    sandbox = Sandbox(
        Settings(port=0, control_port=None, behaviour=Behaviour(receipt_delay_s=0.05, receipt_form="both"))
    )
    await sandbox.start()
    async with Script("node", "esme.js", str(sandbox.port), cwd=npm) as esme:
        async with asyncio.timeout(PATIENCE_S):
            while sandbox.smsc.counters.receipts_acknowledged < 2:
                await asyncio.sleep(0.01)
        sandbox.inbound("+12025550101", "12345", "STOP")
        seen = await esme.said()
        assert await asyncio.wait_for(esme.process.wait(), PATIENCE_S) == 0
    assert (seen["bound"], seen["enquired"]) == (0, 0)
    answers = {to: (status, number) for to, status, number in seen["answers"]}
    assert answers["12025550190"][0] == 0x0B
    taken = {answers[to][1] for to in ("12025551000", "12025551001")}
    assert {receipt["receipted"] for receipt in seen["receipts"]} == taken
    assert {receipt["state"] for receipt in seen["receipts"]} == {2}
    assert {receipt["text"].split()[0] for receipt in seen["receipts"]} == {
        f"id:{number}" for number in taken
    }
    assert seen["texts"] == [{"from": "12025550101", "to": "12345", "text": "STOP"}]
    assert [entry["text"] for entry in sandbox.smsc.ledger.since(0)][:1] == ["Xin chào ạ"]
    await sandbox.stop()


@pytest.fixture(scope="module")
def perl():
    found = shutil.which("perl")
    if not found:
        pytest.skip("needs perl")
    if subprocess.run([found, "-MNet::SMPP", "-e", "1"], capture_output=True, check=False).returncode:
        pytest.skip("needs Perl's Net::SMPP (Debian: libnet-smpp-perl)")
    return found


async def test_our_gateway_with_the_smsc_of_perl(perl, opened, recorder, submission):
    async with Script(perl, str(FOREIGN / "smsc.pl")) as smsc:
        port = int((await smsc.line()).split()[1])
        gateway = await opened(port, query_sm=True, cancel_sm=True)
        assert await smsc.line() == "bind volley 52"
        await recorder.until(lambda: gateway.take(3) == 3)
        gateway.submit(
            [
                submission("short", text="hi @", sender="Volley"),
                submission("long", text="b" * 200, reference=7),
            ]
        )
        lines = []
        while sum(line.startswith("delivered") for line in lines) < 3:
            lines.append(await smsc.line())
        submits = [line.split() for line in lines if line.startswith("submit")]
        assert [line for line in lines if line.startswith("delivered")] == ["delivered 0"] * 3
        assert submits[0][2:] == ["Volley", "12025550101", "5", "0", "0", "1", "686920" + "00"]
        assert [(s[5], s[8][:12]) for s in submits[1:]] == [("64", "050003070201"), ("64", "050003070202")]
        assert b"".join(bytes.fromhex(s[8][12:]) for s in submits[1:]) == b"b" * 200
        assert [r.gateway_message_id for r in recorder.receipts_seen] == [s[1] for s in submits]
        assert {r.state for r in recorder.receipts_seen} == {"delivered"}
        receipt = await gateway.query(submits[0][1], "Volley")
        assert (receipt.state, receipt.error, receipt.done_at) == ("rejected", "7", 1795307707.0)
        assert await gateway.cancel(submits[0][1], "Volley", "+12025550101") is True
        assert await smsc.line() == f"query {submits[0][1]}"
        assert await smsc.line() == f"cancel {submits[0][1]} Volley 12025550101"
        await gateway.close(1)
        assert await smsc.line() == "unbind"
