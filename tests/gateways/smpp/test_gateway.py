"""The gateway against a hand-played SMSC."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from pathlib import Path

import pytest
import uvloop

import gateways
from gateways.base import Accepted, Retry, Unknown
from gateways.sandbox import Behaviour, Sandbox, Settings
from gateways.sandbox.server import Connection
from gateways.smpp import connection as connection_module
from gateways.smpp import gateway as gateway_module
from gateways.smpp import intake as intake_module
from gateways.smpp import pdu

CERTIFICATE = Path(__file__).parent / "smsc_test.pem"  # for the name smsc.test only

USERS = {"volley": "hunter2"}


def receipt(sequence, number):
    text = (
        b"id:%b sub:001 dlvrd:001 submit date:2611220035 done date:2611220035 stat:DELIVRD err:000 text:"
        % number
    )
    body = pdu.submit_sm_body(pdu.address(1, 1, b"12025550101"), pdu.address(3, 0, b"12345"), 0, text, 4)
    return pdu.frame(pdu.DELIVER_SM, sequence, body)


async def test_the_bind_says_who_and_what(wire, opened):
    await opened(wire.port, system_type="VMA", address_range="123")
    peer = await wire.peer()
    _, body = await peer.expect(pdu.BIND_TRANSCEIVER)
    assert body == b"volley\x00hunter2\x00VMA\x00\x34\x00\x00123\x00"


@pytest.mark.parametrize(("version", "octet"), [("3.3", 0x33), ("5.0", 0x50)])
async def test_the_bind_says_its_version_and_its_kind_of_range(wire, opened, version, octet):
    await opened(wire.port, bind="receiver", interface_version=version, address_ton=1, address_npi=6)
    peer = await wire.peer()
    _, body = await peer.expect(pdu.BIND_RECEIVER)
    assert body == b"volley\x00hunter2\x00\x00%c\x01\x06\x00" % octet


async def test_transmitter_and_receiver_share_the_work(wire, opened, recorder, submission):
    gateway = await opened(wire.port, bind="transmitter+receiver")
    peers = {}
    for _ in range(2):
        peer = await wire.peer()
        peers[await peer.bound()] = peer
    await recorder.until(lambda: all(bind.state == "bound" for bind in gateway.binds()))
    assert gateway.take(1000) == 100, "the receiver has no window for submits"
    gateway.submit([submission()])
    sequence, _ = await peers["transmitter"].expect(pdu.SUBMIT_SM)
    peers["transmitter"].write(pdu.submit_sm_resp(sequence, b"77"))
    peers["receiver"].write(receipt(5, b"77"))
    await recorder.until(lambda: recorder.ended and recorder.receipts_seen)
    assert recorder.receipts_seen[0].gateway_message_id == "77"
    assert await peers["receiver"].expect(pdu.DELIVER_SM_RESP) == (5, b"\x00")


async def test_never_more_than_the_window(wire, opened, recorder, submission):
    gateway = await opened(wire.port, window=5)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.binds()[0].state == "bound")
    assert gateway.take(100) == 5
    gateway.submit([submission(f"m-{i}") for i in range(7)])  # two more than there is credit
    sequences = [(await peer.expect(pdu.SUBMIT_SM))[0] for _ in range(5)]
    await recorder.until(lambda: len(recorder.ended) == 2)
    assert {outcome for _, _, outcome in recorder.ended} == {Retry("window_full", sent=False)}
    assert gateway.take(1) == 0
    assert gateway.binds()[0].in_flight == 5
    peer.write(*(pdu.submit_sm_resp(sequence, b"%d" % sequence) for sequence in sequences[:3]))
    await recorder.until(lambda: len(recorder.ended) == 5)
    assert recorder.batches[-1] == 3, "one read, one call"
    assert gateway.take(100) == 3


async def test_outcomes_never_come_from_within_submit(wire, opened, recorder, submission):
    gateway = await opened(wire.port)
    gateway.submit([submission()])
    assert recorder.ended == []
    await recorder.until(lambda: recorder.ended)
    assert recorder.outcome_of("m-1") == [Retry("not_connected", sent=False)]


async def test_a_late_answer_is_ignored(wire, opened, recorder, submission):
    gateway = await opened(wire.port, response_timeout_s=0.15)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.take(1))
    gateway.submit([submission()])
    sequence, _ = await peer.expect(pdu.SUBMIT_SM)
    await recorder.until(lambda: recorder.ended)
    assert recorder.outcome_of("m-1") == [Unknown("timeout")]
    peer.write(pdu.submit_sm_resp(sequence, b"late"), pdu.frame(pdu.ENQUIRE_LINK, 3))
    assert await peer.expect(pdu.ENQUIRE_LINK_RESP) == (3, b"")
    assert len(recorder.ended) == 1
    assert gateway.take(1000) == 100


async def test_throttling_slows_this_bind_down_and_it_recovers(opened, recorder, submission):
    sandbox = Sandbox(Settings(port=0, control_port=None, users=USERS, behaviour=Behaviour(rate=50)))
    await sandbox.start()
    gateway = await opened(sandbox.port)
    await recorder.until(lambda: gateway.take(100) == 100)
    gateway.submit([submission(f"m-{i}") for i in range(100)])
    await recorder.until(lambda: len(recorder.ended) == 100)
    reasons = [outcome.reason for _, _, outcome in recorder.ended if isinstance(outcome, Retry)]
    assert reasons == ["throttled"] * 50
    assert all(outcome.sent for _, _, outcome in recorder.ended if isinstance(outcome, Retry))
    assert gateway.take(100) < 100
    sandbox.change({"rate": 0})
    before = recorder.readies
    await recorder.until(lambda: recorder.readies > before, 3)  # credit that comes with time is announced
    await sandbox.stop()


async def test_a_rate_is_kept(opened, recorder, submission):
    sandbox = Sandbox(Settings(port=0, control_port=None, users=USERS))
    await sandbox.start()
    gateway = await opened(sandbox.port, rate=40)
    sent = 0

    def send():
        nonlocal sent
        granted = gateway.take(60 - sent)
        if granted:
            gateway.submit([submission(f"m-{sent + i}") for i in range(granted)])
            sent += granted
        return len(recorder.ended) == 60

    await recorder.until(send)
    # Exact to the segment where it leaves (test_pacing.py); here the event loop stands between.
    assert sandbox.smsc.ledger.peak() <= 44
    assert all(isinstance(outcome, Accepted) for _, _, outcome in recorder.ended)
    await sandbox.stop()


async def test_a_refused_bind_is_tried_again_and_says_why(wire, opened, recorder, caplog):
    caplog.set_level(logging.DEBUG)
    gateway = await opened(wire.port)
    for _ in range(2):
        peer = await wire.peer()
        sequence, _ = await peer.expect(pdu.BIND_TRANSCEIVER)
        peer.write(pdu.bind_resp("transceiver", sequence, "", 0x0E))
        assert await peer.closed() == b""
    await recorder.until(lambda: gateway.binds()[0].error == "ESME_RINVPASWD")
    assert gateway.take(1) == 0
    assert "hunter2" not in caplog.text


async def test_unbound_by_the_smsc(wire, opened, recorder, submission):
    gateway = await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.take(1))
    gateway.submit([submission()])
    await peer.expect(pdu.SUBMIT_SM)
    peer.write(pdu.frame(pdu.UNBIND, 9))
    assert await peer.expect(pdu.UNBIND_RESP) == (9, b"")
    assert await peer.closed() == b""
    await recorder.until(lambda: recorder.ended)
    assert recorder.outcome_of("m-1") == [Unknown("connection_lost")]
    assert await (await wire.peer()).bound() == "transceiver", "it binds again"


async def test_closing_drains_the_window_and_unbinds(wire, opened, recorder, submission):
    gateway = await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.take(1))
    gateway.submit([submission()])
    sequence, _ = await peer.expect(pdu.SUBMIT_SM)
    closing = asyncio.create_task(gateway.close(drain_s=5))
    await recorder.until(lambda: gateway.binds()[0].state == "closing")
    peer.write(pdu.submit_sm_resp(sequence, b"1"))
    unbind, _ = await peer.expect(pdu.UNBIND)
    assert recorder.outcome_of("m-1") == [Accepted("1")], "drained before the unbind"
    peer.write(pdu.frame(pdu.UNBIND_RESP, unbind))
    await closing
    assert await peer.closed() == b""


async def test_a_silent_link_is_asked_and_then_given_up(wire, opened, recorder):
    gateway = await opened(wire.port, enquire_link_s=0.1, enquire_link_timeout_s=0.2)
    peer = await wire.peer()
    await peer.bound()
    sequence, _ = await peer.expect(pdu.ENQUIRE_LINK)
    peer.write(pdu.frame(pdu.ENQUIRE_LINK_RESP, sequence))
    await peer.expect(pdu.ENQUIRE_LINK)
    assert await peer.closed() == b""
    await (await wire.peer()).bound()
    await recorder.until(lambda: gateway.binds()[0].state == "bound")


@pytest.mark.parametrize("length", [0, 15, 2**31])
async def test_lost_framing_closes_and_comes_back(wire, opened, recorder, submission, length):
    gateway = await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.take(1))
    gateway.submit([submission()])
    await peer.expect(pdu.SUBMIT_SM)
    peer.write(length.to_bytes(4, "big") + b"\x00" * 40)
    command, status, _, _ = await peer.pdu()
    assert (command, status) == (pdu.GENERIC_NACK, pdu.ESME_RINVCMDLEN)
    assert await peer.closed() == b""
    await recorder.until(lambda: recorder.ended)
    assert recorder.outcome_of("m-1") == [Unknown("connection_lost")]
    await (await wire.peer()).bound()


async def test_a_full_socket_takes_credit_away_and_sends_nothing_stale(wire, opened, recorder, submission):
    gateway = await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.take(3) == 3)
    link = gateway._links[0].connection
    link.pause_writing()  # what the transport says when its buffer is over the mark
    assert gateway.take(1) == 0
    gateway.submit(
        [submission("stale", send_before=time.monotonic() + 0.15), submission("fresh"), submission("x")]
    )
    await recorder.until(lambda: recorder.outcome_of("stale"))
    assert recorder.outcome_of("stale") == [Retry("send_before_passed", sent=False)]
    link.resume_writing()
    await peer.expect(pdu.SUBMIT_SM)
    await peer.expect(pdu.SUBMIT_SM)
    assert gateway.take(1000) == 98


async def test_send_before_is_looked_at_in_the_moment_of_the_write(wire, opened, recorder, submission):
    gateway = await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.take(2) == 2)
    link = gateway._links[0].connection
    link.pause_writing()
    late, early = time.monotonic() + 600, time.monotonic() + 30
    gateway.submit(
        [submission("early", send_before=early), submission("late", send_before=late, text="late")]
    )
    link._clock = lambda: time.monotonic() + 60
    link.resume_writing()  # before any timer could have seen that it is too late
    assert recorder.outcome_of("early") == [Retry("send_before_passed", sent=False)]
    _, body = await peer.expect(pdu.SUBMIT_SM)
    assert body.endswith(b"late")


async def test_what_waits_for_a_full_socket_is_not_unknown_after_a_cut(wire, opened, recorder, submission):
    gateway = await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.take(2) == 2)
    gateway.submit([submission("written")])
    await peer.expect(pdu.SUBMIT_SM)
    gateway._links[0].connection.pause_writing()
    gateway.submit([submission("waiting")])
    peer.abort()
    await recorder.until(lambda: len(recorder.ended) == 2)
    assert recorder.outcome_of("written") == [Unknown("connection_lost")]
    assert recorder.outcome_of("waiting") == [Retry("not_connected", sent=False)]


async def test_receipts_of_one_read_are_one_batch(wire, opened, recorder):
    await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    peer.write(*(receipt(n, b"%d" % n) for n in range(1, 51)))
    await recorder.until(lambda: len(recorder.receipts_seen) == 50)
    assert len(recorder.receipt_batches) <= 2
    answered = [await peer.expect(pdu.DELIVER_SM_RESP) for _ in range(50)]
    assert [sequence for sequence, _ in answered] == list(range(1, 51))


async def test_receipts_that_were_not_stored_are_refused(wire, opened, recorder):
    await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    recorder.fail = 1
    peer.write(receipt(8, b"1"))
    assert (await peer.pdu())[:3] == (pdu.DELIVER_SM_RESP, pdu.ESME_RX_T_APPN, 8)
    peer.write(receipt(9, b"1"))
    assert (await peer.pdu())[:3] == (pdu.DELIVER_SM_RESP, 0, 9)


async def test_a_receipt_that_names_nothing_is_counted_and_not_sent_again(wire, opened, recorder):
    gateway = await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    body = pdu.submit_sm_body(pdu.address(1, 1, b"1"), pdu.address(1, 1, b"2"), 0, b"no id here", 4)
    peer.write(pdu.frame(pdu.DELIVER_SM, 8, body))
    assert (await peer.pdu())[:3] == (pdu.DELIVER_SM_RESP, 0, 8)
    assert gateway.intake.counters.unreadable_receipts == 1
    assert recorder.receipts_seen == []


async def test_unacknowledged_deliveries_are_bounded(wire, opened, recorder, monkeypatch):
    monkeypatch.setattr(connection_module, "MAX_UNANSWERED", 10)
    gateway = await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.binds()[0].state == "bound")
    recorder.hold.clear()
    link = gateway._links[0].connection
    peer.write(*(receipt(n, b"%d" % n) for n in range(1, 21)))
    await recorder.until(lambda: link.unanswered >= 10)
    assert not link._transport.is_reading()
    seen = link.unanswered
    peer.write(*(receipt(n, b"%d" % n) for n in range(21, 41)))
    recorder.hold.set()
    await recorder.until(lambda: len(recorder.receipts_seen) == 40)
    assert seen <= 20
    await recorder.until(lambda: link.unanswered == 0)
    assert link._transport.is_reading()


async def test_a_long_inbound_text_is_acknowledged_when_it_is_whole(wire, opened, recorder, monkeypatch):
    await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()

    def part(sequence, index, text):
        body = pdu.submit_sm_body(
            pdu.address(1, 1, b"12025550101"),
            pdu.address(3, 0, b"12345"),
            0,
            b"\x05\x00\x03\x07\x02" + bytes([index]) + text,
            0x40,
        )
        return pdu.frame(pdu.DELIVER_SM, sequence, body)

    peer.write(part(1, 1, b"please "), pdu.frame(pdu.ENQUIRE_LINK, 99))
    assert await peer.expect(pdu.ENQUIRE_LINK_RESP) == (99, b""), "the first part waits"
    peer.write(part(2, 2, b"STOP"))
    assert {(await peer.expect(pdu.DELIVER_SM_RESP))[0] for _ in range(2)} == {1, 2}
    assert [inbound.text for inbound in recorder.inbound_seen] == ["please STOP"]

    # An SMSC that sends the second part only after the first is acknowledged: it is, once the sink has it
    monkeypatch.setattr(intake_module, "HOLD_PART_S", 0.1)
    peer.write(part(3, 1, b"STOP "))
    assert await peer.expect(pdu.DELIVER_SM_RESP) == (3, b"\x00")
    first = recorder.inbound_seen[1]
    assert (first.text, first.part.index, first.part.total, first.part.reference) == ("STOP ", 1, 2, 7)
    peer.write(part(4, 2, b"now"))
    await recorder.until(lambda: len(recorder.inbound_seen) == 3)
    assert recorder.inbound_seen[2].part.index == 2


async def test_parts_that_miss_their_company_are_given_out_as_parts_at_the_end(wire, opened, recorder):
    gateway = await opened(wire.port, reassembly_s=20, redelivery_s=30)
    peer = await wire.peer()
    await peer.bound()
    body = pdu.submit_sm_body(
        pdu.address(1, 1, b"12025550101"),
        pdu.address(3, 0, b"12345"),
        0,
        b"\x05\x00\x03\x07\x02\x02STOP",
        0x40,
    )
    peer.write(pdu.frame(pdu.DELIVER_SM, 1, body))
    await recorder.until(lambda: len(gateway.intake._reassembler))
    await gateway.close(drain_s=1)
    (one,) = recorder.inbound_seen
    assert (one.text, one.part.wait_s, one.repeat_s) == ("STOP", 20, 30)


async def test_a_part_that_was_not_stored_is_asked_for_again(wire, opened, recorder, monkeypatch):
    monkeypatch.setattr(intake_module, "HOLD_PART_S", 0.05)
    await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    addresses = pdu.address(1, 1, b"12025550101"), pdu.address(3, 0, b"12345")
    body = pdu.submit_sm_body(*addresses, 0, b"\x05\x00\x03\x07\x02\x02STOP", 0x40)
    recorder.fail = 1
    peer.write(pdu.frame(pdu.DELIVER_SM, 1, body))
    assert (await peer.pdu())[:3] == (pdu.DELIVER_SM_RESP, pdu.ESME_RX_T_APPN, 1)
    peer.write(pdu.frame(pdu.DELIVER_SM, 2, body))
    assert (await peer.pdu())[:3] == (pdu.DELIVER_SM_RESP, 0, 2)


async def test_hexadecimal_answers_meet_decimal_receipts(wire, opened, recorder, submission):
    gateway = await opened(wire.port, submit_id="hex", receipt_id="dec")
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.take(1))
    gateway.submit([submission()])
    sequence, _ = await peer.expect(pdu.SUBMIT_SM)
    peer.write(pdu.submit_sm_resp(sequence, b"00FF"), receipt(1, b"0255"))
    await recorder.until(lambda: recorder.ended and recorder.receipts_seen)
    assert recorder.outcome_of("m-1") == [Accepted("255")]
    assert recorder.receipts_seen[0].gateway_message_id == "255"


async def test_a_connection_that_does_not_come_about_is_given_up(wire, opened, recorder):
    # TCP connects, TLS is never answered: both are part of it
    gateway = await opened(wire.port, scheme="smpps", connect_timeout_s=0.1, reconnect_min_s=30)
    await recorder.until(lambda: gateway.binds()[0].error)
    assert gateway.binds()[0].error == "can't connect: TimeoutError"


async def test_a_peer_that_acknowledges_nothing_is_given_up_by_the_kernel(wire, opened, recorder):
    gateway = await opened(wire.port, tcp_timeout_s=1.5)
    await (await wire.peer()).bound()
    await recorder.until(lambda: gateway.binds()[0].state == "bound")
    sock = gateway._links[0].connection._transport.get_extra_info("socket")
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500


async def test_small_writes_leave_at_once(wire, opened, recorder):
    gateway = await opened(wire.port)
    await (await wire.peer()).bound()
    await recorder.until(lambda: gateway.binds()[0].state == "bound")
    sock = gateway._links[0].connection._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000


async def test_a_sink_that_raises_costs_neither_link_nor_credit(
    wire, opened, recorder, submission, monkeypatch
):
    gateway = await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.take(1))
    monkeypatch.setattr(recorder, "outcomes", lambda batch: 1 / 0)
    gateway.submit([submission()])
    sequence, _ = await peer.expect(pdu.SUBMIT_SM)
    peer.write(pdu.submit_sm_resp(sequence, b"1"), pdu.frame(pdu.ENQUIRE_LINK, 3))
    assert await peer.expect(pdu.ENQUIRE_LINK_RESP) == (3, b"")
    assert gateway.take(1000) == 100


@pytest.mark.parametrize(("name", "binds"), [("smsc.test", True), ("elsewhere.test", False), ("", False)])
async def test_tls_verifies_the_name(opened, recorder, name, binds):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    sandbox = Sandbox(Settings(port=0, control_port=None, users=USERS))
    await sandbox.start()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(sandbox), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    gateway = await opened(port, scheme="smpps", tls_ca=str(CERTIFICATE), tls_name=name)
    if binds:
        await recorder.until(lambda: gateway.binds()[0].state == "bound")
    else:
        await recorder.until(lambda: "SSLCertVerificationError" in gateway.binds()[0].error)
    server.close()
    await sandbox.stop()


async def test_on_uvloop_too(submission):
    """uvloop's transports differ from asyncio's; the service runs on them."""

    class Sink:
        def __init__(self):
            self.accepted, self.receipts_seen = 0, 0
            self.changed = asyncio.Event()

        def ready(self):
            self.changed.set()

        def outcomes(self, batch):
            self.accepted += sum(isinstance(outcome, Accepted) for _, _, outcome in batch)
            self.changed.set()

        async def receipts(self, gateway, batch):
            self.receipts_seen += len(batch)
            self.changed.set()

        async def inbound(self, gateway, batch):
            """None come."""

    async def scenario():
        sandbox = Sandbox(Settings(port=0, control_port=0, behaviour=Behaviour(receipt_delay_s=0.01)))
        await sandbox.start()
        sink = Sink()
        gateway = gateways.make("carrier", f"smpp://volley:secret@127.0.0.1:{sandbox.port}", {}, sink)
        await gateway.open(2)
        async with asyncio.timeout(60):
            taken = 0
            while (taken := taken + gateway.take(150 - taken)) < 150:
                sink.changed.clear()
                await sink.changed.wait()
            gateway.submit([submission(f"m-{i}") for i in range(150)])
            while sink.accepted < 150 or sink.receipts_seen < 150:
                sink.changed.clear()
                await sink.changed.wait()
        await gateway.close(1)
        await sandbox.stop()
        return sink.accepted, sink.receipts_seen

    assert await asyncio.to_thread(uvloop.run, scenario()) == (150, 150)


async def test_a_bind_that_stays_down_is_logged_once_a_reason_and_then_now_and_again(
    opened, monkeypatch, caplog
):
    tries = asyncio.Semaphore(0)

    def hang_up(_, writer):
        tries.release()
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    def said():
        return [record.getMessage() for record in caplog.records if "is down" in record.getMessage()]

    async def tried(times):
        async with asyncio.timeout(60):
            for _ in range(times):
                await tries.acquire()

    await opened(port, reconnect_max_s=0.05)
    await tried(5)
    assert len(said()) == 1
    monkeypatch.setattr(gateway_module, "SAY_DOWN_S", 0.0)
    server.close()
    async with asyncio.timeout(60):
        while not any("can't connect" in line for line in said()):
            await asyncio.sleep(0.01)
    assert len(said()) == 2
    async with asyncio.timeout(60):  # that reason is repeated when its time is over
        while len(said()) < 4:
            await asyncio.sleep(0.01)


async def test_a_full_window_of_a_thousand_cut_at_a_pdu_has_a_thousand_explained_outcomes(
    opened, recorder, submission
):
    """Some are answered, the one that the SMSC cuts at and what came after it are not: each ends once, within five
    seconds, none goes out again by itself."""
    behaviour = Behaviour(cut_at=600, lost=1.0)
    sandbox = Sandbox(Settings(port=0, control_port=None, users=USERS, behaviour=behaviour))
    await sandbox.start()
    gateway = await opened(sandbox.port, window=1000)
    await recorder.until(lambda: gateway.take(1000) == 1000)
    gateway.submit([submission(f"m-{i}", text=f"text {i}") for i in range(1000)])
    await recorder.until(lambda: len(recorder.ended) == 1000, timeout_s=5)
    outcomes = {i: recorder.outcome_of(f"m-{i}") for i in range(1000)}
    assert all(len(found) == 1 for found in outcomes.values())
    unknown = [i for i, (outcome,) in outcomes.items() if outcome == Unknown("connection_lost")]
    accepted = [i for i, (outcome,) in outcomes.items() if isinstance(outcome, Accepted)]
    unsent = [i for i, (outcome,) in outcomes.items() if outcome == Retry("not_connected", sent=False)]
    assert len(unknown) + len(accepted) + len(unsent) == 1000
    assert unknown
    await recorder.until(lambda: gateway.binds()[0].state == "bound" and gateway.take(1))
    gateway.submit([submission("after", text="after")])
    await recorder.until(lambda: recorder.outcome_of("after"))
    arrived = [entry["text"] for entry in sandbox.smsc.ledger.since(0)]
    assert len(set(arrived)) == len(arrived), "nothing was repeated"
    assert arrived[-1] == "after"
    assert not {f"text {i}" for i in unsent} & set(arrived), "what is said to be unsent did not arrive"
    await sandbox.stop()


async def test_a_silent_cut_of_a_full_window_is_unknown_within_five_seconds(
    wire, opened, recorder, submission
):
    """The SMSC reads everything, answers nothing and drops the connection."""
    gateway = await opened(wire.port, window=1000)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.take(1000) == 1000)
    gateway.submit([submission(f"m-{i}") for i in range(1000)])
    for _ in range(1000):
        await peer.expect(pdu.SUBMIT_SM)
    peer.abort()
    await recorder.until(lambda: len(recorder.ended) == 1000, timeout_s=5)
    assert {outcome for _, _, outcome in recorder.ended} == {Unknown("connection_lost")}
    assert len({each.message_id for each, _, _ in recorder.ended}) == 1000
    again = await wire.peer()
    await again.bound()
    again.write(pdu.frame(pdu.ENQUIRE_LINK, 7))
    assert await again.expect(pdu.ENQUIRE_LINK_RESP) == (7, b""), "and nothing before it"


async def test_throttling_of_one_gateway_is_not_felt_by_another(opened, recorder, submission):
    slow = Sandbox(Settings(port=0, control_port=None, users=USERS, behaviour=Behaviour(rate=5)))
    quick = Sandbox(Settings(port=0, control_port=None, users=USERS))
    for sandbox in slow, quick:
        await sandbox.start()
    throttled, other = await opened(slow.port), await opened(quick.port)
    await recorder.until(lambda: throttled.take(100) == 100)
    throttled.submit([submission(f"m-{i}") for i in range(100)])
    await recorder.until(lambda: len(recorder.ended) == 100)
    assert throttled.take(100) < 100
    await recorder.until(lambda: other.binds()[0].state == "bound")
    assert other.take(100) == 100
    other.submit([submission(f"other-{i}") for i in range(100)])
    await recorder.until(lambda: len(recorder.ended) == 200)
    assert all(isinstance(outcome, Accepted) for _, _, outcome in recorder.ended[100:])
    for sandbox in slow, quick:
        await sandbox.stop()


async def test_an_idle_session_is_ended_in_good_order_and_bound_anew(wire, opened, recorder):
    gateway = await opened(wire.port, inactivity_s=0.3)
    peer = await wire.peer()
    await peer.bound()
    sequence, _ = await peer.expect(pdu.UNBIND)
    peer.write(pdu.frame(pdu.UNBIND_RESP, sequence))
    assert await peer.closed() == b""
    await (await wire.peer()).bound()
    await recorder.until(lambda: gateway.binds()[0].state == "bound")


async def test_an_old_session_first_drains_its_window(wire, opened, recorder, submission):
    gateway = await opened(wire.port, session_s=0.3)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.take(1))
    gateway.submit([submission()])
    sequence, _ = await peer.expect(pdu.SUBMIT_SM)
    await recorder.until(lambda: gateway.take(1) == 0 or gateway.give_back(1))
    assert gateway.binds()[0].in_flight == 1
    peer.write(pdu.submit_sm_resp(sequence, b"1"))
    unbind, _ = await peer.expect(pdu.UNBIND)
    assert recorder.outcome_of("m-1") == [Accepted("1")]
    peer.write(pdu.frame(pdu.UNBIND_RESP, unbind))
    assert await peer.closed() == b""
    await (await wire.peer()).bound()


async def test_a_message_can_be_asked_about(wire, opened, recorder):
    gateway = await opened(wire.port, query_sm=True)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.binds()[0].state == "bound")
    asking = asyncio.create_task(gateway.query("1a2b", "Volley"))
    sequence, body = await peer.expect(pdu.QUERY_SM)
    assert body == b"1a2b\x00\x05\x00Volley\x00"
    assert gateway.binds()[0].in_flight == 1, "a question takes a place in the window"
    peer.write(pdu.frame(pdu.QUERY_SM_RESP, sequence, b"1a2b\x00261122003507000+\x00\x05\x1b"))
    receipt = await asking
    assert (receipt.gateway_message_id, receipt.state, receipt.error) == ("1a2b", "undelivered", "27")
    assert receipt.done_at == 1795307707.0
    for answer in (
        lambda n: pdu.frame(pdu.QUERY_SM_RESP, n, status=0x67),
        lambda n: pdu.frame(pdu.QUERY_SM_RESP, n, b"no terminator"),
        lambda n: pdu.generic_nack(n, 3),
    ):
        asking = asyncio.create_task(gateway.query("1a2b", "Volley"))
        peer.write(answer((await peer.expect(pdu.QUERY_SM))[0]))
        assert await asking is None


async def test_a_message_can_be_taken_back(wire, opened, recorder):
    gateway = await opened(wire.port, cancel_sm=True, service_type="VMA", response_timeout_s=0.3)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.binds()[0].state == "bound")
    for status, outcome in ((0, True), (0x11, False), (None, None)):
        cancelling = asyncio.create_task(gateway.cancel("1a2b", "12345", "+12025550101"))
        sequence, body = await peer.expect(pdu.CANCEL_SM)
        assert body == b"VMA\x001a2b\x00\x03\x0012345\x00\x01\x0112025550101\x00"
        if status is not None:
            peer.write(pdu.frame(pdu.CANCEL_SM_RESP, sequence, status=status))
        assert await cancelling is outcome


async def test_a_carrier_without_them_is_not_asked(wire, opened, recorder):
    gateway = await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    await recorder.until(lambda: gateway.binds()[0].state == "bound")
    assert await gateway.query("1", "Volley") is None
    assert await gateway.cancel("1", "Volley", "+12025550101") is None
    peer.write(pdu.frame(pdu.ENQUIRE_LINK, 7))
    assert await peer.expect(pdu.ENQUIRE_LINK_RESP) == (7, b"")


async def test_receipts_and_texts_by_data_sm(wire, opened, recorder):
    gateway = await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    person, ours = pdu.address(1, 1, b"12025550101"), pdu.address(3, 0, b"12345")
    receipted = pdu.tlv(pdu.TLV_RECEIPTED_MESSAGE_ID, b"77\x00") + pdu.tlv(pdu.TLV_MESSAGE_STATE, b"\x02")
    payload = pdu.tlv(pdu.TLV_MESSAGE_PAYLOAD, b"STOP")
    # data_sm, 4.7.1: service_type, addresses, esm_class, registered_delivery, data_coding
    peer.write(
        pdu.frame(pdu.DATA_SM, 5, b"\x00" + person + ours + b"\x04\x00\x00" + receipted),
        pdu.frame(pdu.DATA_SM, 6, b"\x00" + person + ours + b"\x00\x00\x00" + payload),
        pdu.frame(pdu.DATA_SM, 7, b"\x00" + person + ours[:4]),
    )
    answers = {(await peer.pdu())[:3] for _ in range(3)}
    assert answers == {
        (pdu.DATA_SM_RESP, 0, 5),
        (pdu.DATA_SM_RESP, 0, 6),
        (pdu.DATA_SM_RESP, pdu.ESME_RINVCMDLEN, 7),
    }
    assert [(r.gateway_message_id, r.state) for r in recorder.receipts_seen] == [("77", "delivered")]
    assert [(t.sender, t.text) for t in recorder.inbound_seen] == [("+12025550101", "STOP")]
    assert gateway.counters.malformed == 1


async def test_an_outbind_is_answered_with_a_bind(awaited, recorder):
    gateway, connect = awaited
    for _ in range(2):  # and once more after it is over
        peer = await connect()
        peer.write(pdu.outbind(1, b"smsc", b"agreed"))
        assert await peer.bound() == "receiver"
        await recorder.until(lambda: gateway.binds()[0].state == "bound")
        peer.write(receipt(5, b"77"))
        assert await peer.expect(pdu.DELIVER_SM_RESP) == (5, b"\x00")
        assert gateway.take(1) == 0, "a receiver does not send"
        peer.abort()
        await recorder.until(lambda: gateway.binds()[0].state != "bound")
    assert len(recorder.receipts_seen) == 2


@pytest.mark.parametrize(
    "first",
    [
        pdu.outbind(1, b"smsc", b"guessed"),
        pdu.frame(pdu.OUTBIND, 1, b"no terminator"),
        pdu.frame(pdu.ENQUIRE_LINK, 1),
        receipt(1, b"77"),
        b"",
    ],
    ids=["wrong password", "malformed", "no outbind", "a receipt before any bind", "silence"],
)
async def test_nobody_else_is_told_our_password(awaited, recorder, first):
    _, connect = awaited
    stranger = await connect()
    stranger.write(first)
    assert b"hunter2" not in await stranger.closed()
    peer = await connect()
    peer.write(pdu.outbind(1, b"smsc", b"agreed"))
    assert await peer.bound() == "receiver", "and the SMSC still gets through"
    assert recorder.receipts_seen == []


async def test_an_outbind_from_another_address_is_refused_whatever_it_says(awaited):
    gateway, connect = awaited
    stranger = await connect(source="127.0.0.2")
    stranger.write(pdu.outbind(1, b"smsc", b"agreed"))
    with contextlib.suppress(ConnectionResetError):
        assert await stranger.closed() == b""
    assert gateway.counters.outbinds_refused == 1


async def test_an_outbind_on_a_session_of_ours_is_refused(wire, opened, recorder):
    gateway = await opened(wire.port)
    peer = await wire.peer()
    await peer.bound()
    peer.write(pdu.outbind(9, b"smsc", b"agreed"))
    assert (await peer.pdu())[:3] == (pdu.GENERIC_NACK, pdu.ESME_RINVBNDSTS, 9)
    assert gateway.counters.outbinds_refused == 1
    assert gateway.binds()[0].state == "bound"


@pytest.mark.parametrize("certified", [True, False])
async def test_a_client_certificate_is_shown_where_the_smsc_asks_for_one(opened, recorder, certified):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(CERTIFICATE))
    context.load_cert_chain(CERTIFICATE)
    context.verify_mode = ssl.CERT_REQUIRED
    sandbox = Sandbox(Settings(port=0, control_port=None, users=USERS))
    await sandbox.start()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(sandbox), "127.0.0.1", 0, ssl=context
    )
    own = {"tls_cert": str(CERTIFICATE), "tls_key": str(CERTIFICATE)} if certified else {}
    gateway = await opened(
        server.sockets[0].getsockname()[1],
        scheme="smpps",
        tls_ca=str(CERTIFICATE),
        tls_name="smsc.test",
        **own,
    )
    if certified:
        await recorder.until(lambda: gateway.binds()[0].state == "bound")
    else:
        await recorder.until(lambda: gateway.binds()[0].error)
        assert gateway.binds()[0].state != "bound"
    server.close()
    await sandbox.stop()
