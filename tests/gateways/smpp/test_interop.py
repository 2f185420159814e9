"""With SMPP implementations that are not ours: smpp34 (Rust) on either side, smpplib's client."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest
import smpp34
import smpplib.client
import smpplib.consts

from gateways.base import Accepted, Retry
from gateways.sandbox import Behaviour, Sandbox, Settings


@pytest.fixture
async def sandbox():
    behaviour = Behaviour(receipt_delay_s=0.05)
    sandbox = Sandbox(Settings(port=0, control_port=None, behaviour=behaviour))
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


def free_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


async def test_our_gateway_with_the_server_of_smpp34(opened, recorder, submission):
    port = free_port()
    server = smpp34.Server("127.0.0.1", port, system_id="other")
    await server.start()
    gateway = await opened(port)
    async with asyncio.timeout(10):
        esme = await server.next()
        assert isinstance(esme, smpp34.Esme)
        assert esme.system_id == "volley"
        await recorder.until(lambda: gateway.take(4) == 4)
        long = submission("long", text="Xin chào ạ " * 15, reference=9)
        gateway.submit([submission("short", text="{hi} @"), long, submission("full")])
        seen = {}
        for number in range(5):  # smpp34 hands them over in an order of its own
            event = await server.next()
            assert isinstance(event, smpp34.SubmitSmEvent)
            seen[event.short_message] = f"id-{number}"
            assert (event.destination_addr, event.source_addr) == ("12025550101", "12025550199")
            assert (event.registered_delivery, event.dest_addr_ton) == (1, 1)
            if event.short_message == b"hello":
                event.reject(smpp34.ESME_RTHROTTLED)
            else:
                event.accept(f"id-{number}")
    await recorder.until(lambda: len(recorder.ended) == 5)
    short = seen[b"\x1b(hi\x1b) \x00"]
    parts = sorted(
        (octets for octets in seen if octets.startswith(b"\x05\x00\x03\x09\x03")),
        key=lambda octets: octets[5],
    )
    assert b"".join(octets[6:] for octets in parts).decode("utf-16-be") == long.text
    assert recorder.outcome_of("short") == [Accepted(short)]
    assert recorder.outcome_of("long") == [Accepted(seen[octets]) for octets in parts]
    assert recorder.outcome_of("full") == [Retry("throttled", "ESME_RTHROTTLED")]

    text = b"id:%b sub:001 dlvrd:001 submit date:2611220035 done date:2611220036 stat:DELIVRD err:000 text:"
    answer = await esme.deliver_sm(
        destination_addr="12025550199",
        source_addr="12025550101",
        esm_class=4,
        short_message=text % short.encode(),
    )
    assert answer.is_success
    answer = await esme.deliver_sm(destination_addr="12345", source_addr="12025550101", short_message=b"STOP")
    assert answer.is_success
    assert [(r.gateway_message_id, r.state) for r in recorder.receipts_seen] == [(short, "delivered")]
    assert [inbound.text for inbound in recorder.inbound_seen] == ["STOP"]

    recorder.fail = 1
    answer = await esme.deliver_sm(destination_addr="12345", source_addr="12025550101", short_message=b"STOP")
    assert answer.command_status == 0x64
    await gateway.close(2)
    assert gateway.binds()[0].error != "unbind timed out"  # smpp34 answers by closing the connection
    await server.stop()


async def test_our_sandbox_with_the_client_of_smpp34(sandbox):
    client = smpp34.Client("127.0.0.1", sandbox.port, "volley", "secret", bind_type="TRX")
    smsc = await client.connect()
    async with asyncio.timeout(10):
        answers = await asyncio.gather(
            *(
                smsc.submit_sm(f"1202555{n:04}", b"hello", source_addr="12345", registered_delivery=1)
                for n in range(1000, 1020)
            )
        )
        assert all(answer.is_success for answer in answers)
        wanted = {answer.message_id for answer in answers}
        while wanted:
            event = await smsc.next()
            assert isinstance(event, smpp34.DeliverSmEvent)
            assert event.esm_class == 4
            wanted.remove(event.short_message.split()[0].removeprefix(b"id:").decode())
        refused = await smsc.submit_sm("12025550190", b"hello", source_addr="12345")
        assert refused.command_status == smpp34.ESME_RINVDSTADR
        sandbox.inbound("+12025550101", "12345", "STOP")
        event = await smsc.next()
        assert (event.source_addr, event.short_message) == ("12025550101", b"STOP")
        await smsc.unbind()
    assert sandbox.smsc.counters.receipts_acknowledged == 20


async def test_a_wrong_password_is_refused_to_smpp34(sandbox):
    client = smpp34.Client("127.0.0.1", sandbox.port, "volley", "wrong", bind_type="TRX")
    connecting = asyncio.ensure_future(client.connect())
    async with asyncio.timeout(10):
        while not sandbox.smsc.counters.binds_refused:
            await asyncio.sleep(0.01)
    connecting.cancel()
    with contextlib.suppress(asyncio.CancelledError, smpp34.SmppError, OSError):
        await connecting
    await client.stop()
    assert not sandbox.smsc.accounts


def converse(port):
    """A session of smpplib's blocking client: send, receive the receipt, leave."""
    answers, deliveries = [], []
    client = smpplib.client.Client("127.0.0.1", port, timeout=5, allow_unknown_opt_params=True)
    client.set_message_sent_handler(lambda pdu, **_: answers.append((pdu.status, pdu.message_id)))
    client.set_message_received_handler(lambda pdu, **_: deliveries.append(pdu) and None)
    client.set_error_pdu_handler(lambda pdu: answers.append((pdu.status, None)))
    client.connect()
    client.bind_transceiver(system_id="volley", password="secret")
    for to in ("12025551000", "12025550190"):
        client.send_message(
            source_addr_ton=3,
            source_addr="12345",
            dest_addr_ton=1,
            dest_addr_npi=1,
            destination_addr=to,
            short_message=b"hello",
            registered_delivery=True,
        )
    deadline = time.monotonic() + 10
    while (len(answers) < 2 or not deliveries) and time.monotonic() < deadline:
        client.read_once()
    client.unbind()
    client.disconnect()
    return answers, deliveries


async def test_our_sandbox_with_the_client_of_smpplib(sandbox):
    sandbox.change({"receipt_form": "both"})
    answers, deliveries = await asyncio.to_thread(converse, sandbox.port)
    assert [status for status, _ in answers[:1]] == [0]
    assert (smpplib.consts.SMPP_ESME_RINVDSTADR, None) in answers
    (receipt,) = deliveries
    number = answers[0][1]
    assert receipt.receipted_message_id == number
    assert receipt.message_state == smpplib.consts.SMPP_MESSAGE_STATE_DELIVERED
    assert receipt.short_message.startswith(b"id:" + number + b" ")
    assert (receipt.source_addr, receipt.destination_addr) == (b"12025551000", b"12345")
    assert sandbox.smsc.counters.receipts_acknowledged == 1
