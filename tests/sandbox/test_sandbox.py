"""The sandbox over real TCP: each fault, and the control API."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys

import msgspec
import pytest

from gateways.sandbox import Behaviour
from gateways.sandbox.behaviour import MAGIC, changed
from gateways.sandbox.command import main
from gateways.smpp import pdu

PATIENCE_S = 10.0


@pytest.mark.parametrize(
    ("user", "password", "status"), [("volley", "wrong", 0x0E), ("nobody", "secret", 0x0F)]
)
async def test_strangers_are_refused(sandbox, connect, user, password, status):
    esme = await connect(sandbox.port, password=password, user=user)
    assert esme.bind_status == status
    esme.submit("12025551000")
    assert (await esme.pdu())[:2] == (pdu.SUBMIT_SM_RESP, pdu.ESME_RINVBNDSTS)
    assert sandbox.smsc.counters.binds_refused == 1


async def test_answer_and_receipt(esme):
    (sequence,) = esme.submit("12025551000")
    answers = await esme.answers(1)
    status, number = answers[sequence]
    assert status == 0
    receipt = await esme.receipt()
    assert (receipt["id"], receipt["stat"]) == (number, "DELIVRD")
    assert receipt["text"] == "hello"
    message = receipt["message"]
    assert (message.source, message.destination, message.esm_class) == (b"12025551000", b"12345", 4)


async def test_no_receipt_unless_it_was_asked_for(esme):
    esme.submit("12025551000", registered=0)
    await esme.answers(1)
    await esme.silent()


@pytest.mark.parametrize(
    ("form", "matches"),
    [
        ("dec", str.isdigit),
        ("hex", lambda s: s == s.lower()),
        ("HEX", lambda s: s == s.upper()),
        ("uuid", lambda s: s.count("-") == 4),
    ],
)
async def test_id_forms(sandbox, esme, form, matches):
    sandbox.change({"id_form": form})
    esme.submit("12025551000")
    ((_, number),) = (await esme.answers(1)).values()
    assert matches(number)
    assert (await esme.receipt())["id"] == number


async def test_receipts_may_spell_the_id_otherwise(sandbox, esme):
    sandbox.change({"id_form": "hex", "receipt_id_form": "dec"})
    esme.submit("12025551000")
    ((_, number),) = (await esme.answers(1)).values()
    assert int((await esme.receipt())["id"]) == int(number, 16)


@pytest.mark.parametrize("form", ["tlv", "both"])
async def test_receipts_by_optional_parameters(sandbox, esme, form):
    sandbox.change({"receipt_form": form})
    esme.submit("12025551000")
    ((_, number),) = (await esme.answers(1)).values()
    message = (await esme.receipt())["message"]
    assert message.tlvs[pdu.TLV_RECEIPTED_MESSAGE_ID] == number.encode() + b"\x00"
    assert message.tlvs[pdu.TLV_MESSAGE_STATE] == b"\x02"
    assert bool(message.payload) == (form == "both")


async def test_a_rate_cap_throttles_the_rest(sandbox, esme):
    sandbox.change({"rate": 5})
    esme.submit(*["12025551000"] * 12)
    statuses = sorted(status for status, _ in (await esme.answers(12)).values())
    assert statuses == [0] * 5 + [0x58] * 7
    assert sandbox.smsc.counters.throttled == 7


async def test_refusals_by_prefix(sandbox, esme):
    sandbox.change({"refuse": {"+8490": "ESME_RINVDSTADR", "49": "ESME_RMSGQFUL"}})
    sequences = esme.submit("84901234567", "84911234567", "4915112345678")
    answers = await esme.answers(3)
    assert [answers[sequence][0] for sequence in sequences] == [0x0B, 0, 0x14]


async def test_answers_dropped_delayed_and_shuffled(sandbox, esme):
    sandbox.change({"drop_answers": 1})
    esme.submit("12025551000", registered=0)
    await esme.silent()
    assert sandbox.smsc.counters.unanswered == 1
    sandbox.change({"drop_answers": 0, "answer_delay_s": 0.2})
    esme.submit("12025551000", registered=0)
    await esme.silent(0.1)
    await esme.answers(1)
    sandbox.change({"answer_delay_s": 0, "answer_jitter_s": 0.1})
    sequences = esme.submit(*["12025551000"] * 20, registered=0)
    order = list(await esme.answers(20))
    assert order != sequences
    assert sorted(order) == sequences


async def test_cut_at_the_nth_submit_which_is_taken(sandbox, esme, connect, counted):
    sandbox.change({"cut_at": 3})
    esme.submit(*["12025551000"] * 5)
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
        while True:
            await esme.pdu()
    await counted("cuts", 1)
    assert sandbox.smsc.counters.accepted == 3
    again = await connect(sandbox.port)
    assert {(await again.receipt())["stat"] for _ in range(3)} == {"DELIVRD"}
    again.submit(*["12025551000"] * 5, registered=0)
    assert len(await again.answers(5)) == 5, "only once"


def receipts_of(fate):
    return list(fate.states) or (["DELIVRD"] if fate.receipt and not fate.status else [])


@pytest.mark.parametrize(
    ("suffix", "status", "answered", "states"),
    [(number.decode(), fate.status, fate.answered, receipts_of(fate)) for number, fate in MAGIC.items()],
)
async def test_numbers_with_a_fixed_fate(esme, suffix, status, answered, states):
    (sequence,) = esme.submit("1202" + suffix)
    if suffix.endswith("98"):
        states = ["DELIVRD"] * 2
    if suffix.endswith("97"):
        assert (await esme.pdu())[0] == pdu.DELIVER_SM, "the receipt comes before the answer"
        assert (await esme.answers(1))[sequence][0] == 0
        return
    if answered:
        assert (await esme.answers(1))[sequence][0] == status
    for state in states:
        assert (await esme.receipt())["stat"] == state
    if not states:
        await esme.silent()


@pytest.mark.parametrize(("fault", "receipts"), [("lost", 0), ("doubled", 2)])
async def test_receipts_lost_and_doubled(sandbox, esme, fault, receipts):
    sandbox.change({fault: 1})
    esme.submit("12025551000")
    await esme.answers(1)
    for _ in range(receipts):
        await esme.receipt()
    await esme.silent()


async def test_the_mix_of_states(sandbox, esme):
    sandbox.change({"mix": {"DELIVRD": 1, "UNDELIV": 1}})
    esme.submit(*["12025551000"] * 40)
    states = [(await esme.receipt())["stat"] for _ in range(40)]
    assert set(states) == {"DELIVRD", "UNDELIV"}


async def test_one_receipt_for_a_whole_text(sandbox, esme):
    sandbox.change({"per": "message"})
    esme.submit("12025551000", text=b"\x05\x00\x03\x07\x02\x01aa", esm_class=0x40)
    esme.submit("12025551000", text=b"\x05\x00\x03\x07\x02\x02bb", esm_class=0x40)
    await esme.answers(2)
    await esme.receipt()
    await esme.silent()


async def test_a_receipt_that_is_refused_comes_again(sandbox, esme, counted):
    esme.submit("12025551000")
    await esme.answers(1)
    first = await esme.receipt(status=0x64)
    second = await esme.receipt()
    assert first["id"] == second["id"]
    await counted("receipts_acknowledged", 1)
    assert sandbox.smsc.counters.deliveries_refused == 1


async def test_a_receipt_without_any_answer_comes_again(sandbox, esme):
    sandbox.change({"deliver_timeout_s": 0.1})
    esme.submit("12025551000")
    await esme.next(pdu.DELIVER_SM)
    await esme.receipt()
    assert sandbox.smsc.counters.deliveries_timed_out == 1


async def test_receipts_wait_for_a_receiver(sandbox, connect):
    transmitter = await connect(sandbox.port, "transmitter")
    transmitter.submit("12025551000")
    await transmitter.answers(1)
    await transmitter.silent()
    receiver = await connect(sandbox.port, "receiver")
    assert (await receiver.receipt())["stat"] == "DELIVRD"


async def test_what_was_not_acknowledged_goes_to_the_next_bind(sandbox, esme, connect):
    esme.submit("12025551000")
    await esme.next(pdu.DELIVER_SM)
    esme.writer.transport.abort()
    again = await connect(sandbox.port)
    assert (await again.receipt())["stat"] == "DELIVRD"


async def test_the_window_of_deliveries_is_bounded(sandbox, esme):
    sandbox.change({"deliver_window": 3})
    esme.submit(*["12025551000"] * 5)
    await esme.answers(5)
    sequences = [(await esme.next(pdu.DELIVER_SM))[1] for _ in range(3)]
    await esme.silent()
    esme.write(pdu.deliver_sm_resp(sequences[0]))
    await esme.next(pdu.DELIVER_SM)


async def test_mute_answers_nothing(sandbox, esme):
    sandbox.change({"mute": True})
    esme.submit("12025551000")
    esme.write(pdu.frame(pdu.ENQUIRE_LINK, 9))
    await esme.silent()


async def test_malformed_bytes_are_refused_and_counted(sandbox, esme, counted):
    esme.write(pdu.frame(pdu.SUBMIT_SM, 5, b"\x00\x01"), pdu.frame(0x999, 6))
    assert (await esme.pdu())[:3] == (pdu.SUBMIT_SM_RESP, pdu.ESME_RINVCMDLEN, 5)
    assert (await esme.pdu())[:3] == (pdu.GENERIC_NACK, pdu.ESME_RINVCMDID, 6)
    esme.write(b"\x00\x00\x00\x03" + b"x" * 20)
    assert (await esme.pdu())[:2] == (pdu.GENERIC_NACK, pdu.ESME_RINVCMDLEN)
    assert await esme.reader.read() == b""
    assert sandbox.smsc.counters.malformed == 3


async def test_a_long_text_from_a_person_has_parts(sandbox, esme):
    assert sandbox.inbound("+12025550101", "12345", "a" * 200) == 2
    bodies = [(await esme.next(pdu.DELIVER_SM))[2] for _ in range(2)]
    messages = [pdu.read_message(body, 0, len(body)) for body in bodies]
    assert [message.payload[:6].hex() for message in messages] == ["050003010201", "050003010202"]


@pytest.mark.parametrize(
    "changes",
    [
        {"rte": 5},
        {"rate": -1},
        {"drop_answers": 2},
        {"refuse": {"1": "ESME_NONSENSE"}},
        {"mix": {"X": 1}},
        {"mix": {}},
    ],
)
def test_behaviour_that_makes_no_sense_is_refused(changes):
    with pytest.raises(ValueError, match=r".+"):
        changed(Behaviour(), changes)


# --- control API -----------------------------------------------------------------------------------


async def fetch(answer):
    async with answer as response:
        return response.status, await response.json()


async def test_stats_and_ledger(control, esme):
    esme.submit("12025551000", "84901234567", text=b"code \x11 1")
    await esme.answers(2)
    status, stats = await fetch(control.get("/stats"))
    assert status == 200
    assert (stats["submits"], stats["accepted"], stats["peak_per_second"]) == (2, 2, 2)
    assert stats["accounts"]["volley"]["binds"] == 1
    _, page = await fetch(control.get("/ledger?limit=1"))
    assert [entry["to"] for entry in page["entries"]] == ["12025551000"]
    assert page["entries"][0]["text"] == "code _ 1"
    _, page = await fetch(control.get(f"/ledger?since={page['next']}"))
    assert [entry["to"] for entry in page["entries"]] == ["84901234567"]
    assert (await fetch(control.get("/peak?to=84")))[1] == {"peak_per_second": 1}


async def test_health_readiness_and_metrics(control, sandbox, esme):
    esme.submit("84901234567")
    await esme.answers(1)
    async with control.get("/metrics") as reply:
        assert reply.status == 200
        assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = (await reply.text()).splitlines()
    assert "volley_sandbox_accepted_total 1.0" in lines
    assert 'volley_sandbox_binds{system_id="volley"} 1.0' in lines
    assert await fetch(control.get("/healthz")) == (200, {"status": "ok"})
    assert (await fetch(control.get("/readyz")))[0] == 200
    sandbox._server.close()  # the SMPP port alone
    assert await fetch(control.get("/readyz")) == (503, {"status": "unavailable", "checks": {"smpp": "down"}})


async def test_behaviour_mo_cut_and_reset(control, sandbox, esme, counted):
    status, behaviour = await fetch(control.post("/behaviour", json={"rate": 7}))
    assert (status, behaviour["rate"]) == (200, 7)
    assert (await fetch(control.get("/behaviour")))[1]["rate"] == 7
    assert (await fetch(control.post("/mo", json={"from": "+12025550101", "to": "12345", "text": "STOP"})))[
        1
    ] == {"parts": 1}
    _, sequence, body = await esme.next(pdu.DELIVER_SM)
    esme.write(pdu.deliver_sm_resp(sequence))
    assert pdu.read_message(body, 0, len(body)).payload == b"STOP"
    await counted("inbound_acknowledged", 1)
    assert (await fetch(control.post("/cut")))[1] == {"connections": 1}
    assert await esme.reader.read() == b""
    assert (await fetch(control.post("/reset")))[0] == 200
    assert sandbox.smsc.behaviour.rate == 0
    assert sandbox.smsc.counters.inbound_sent == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/behaviour", {"rte": 1}),
        ("/behaviour", {"error_status": "x"}),
        ("/behaviour", []),
        ("/mo", {"to": "1"}),
        ("/mo", {"from": "+1x²", "to": "1", "text": "a"}),
    ],
)
async def test_bad_requests_are_explained(control, path, body):
    status, answer = await fetch(control.post(path, json=body))
    assert status == 400
    assert answer["error"]


async def test_its_own_process(sandbox, connect):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateways.sandbox", "--port", "0", "--control-port", "0", "--mix", "UNDELIV=1",
        "--behaviour", "receipt_delay_s=0.01", "--user", "volley:secret",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        words = (await process.stdout.readline()).split()
        esme = await connect(int(words[words.index(b"port") + 1].rstrip(b",")))
        esme.submit("12025551000")
        assert (await esme.receipt())["stat"] == "UNDELIV"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


def test_as_a_role_it_says_where_it_listens_in_a_log_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "sandbox", "--port", str(port), "--control-port", "-1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        line = msgspec.json.decode(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
    assert (line["level"], line["role"]) == ("info", "sandbox")
    assert str(port) in line["message"]


def test_its_command_line_names_what_makes_no_sense(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--behaviour", "rte=5"])
    assert exit_.value.code == 2
    assert "rte" in capsys.readouterr().err


async def test_a_port_in_use_is_one_line(sandbox, capfd):
    status = await asyncio.to_thread(_main_status, ["--port", str(sandbox.port), "--control-port", "-1"])
    assert status == 1


def _main_status(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "gateways.sandbox", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    return done.returncode


async def test_a_text_can_be_asked_about_and_taken_back_until_its_receipt(sandbox, esme, connect):
    sandbox.change({"receipt_delay_s": 0.2})
    source = pdu.address(3, 0, b"12345")
    (sequence,) = esme.submit("12025551000")
    number = (await esme.answers(1))[sequence][1].encode()
    question = pdu.query_sm_body(number, source)
    taking_back = pdu.cancel_sm_body(b"\x00", number, source, pdu.address(1, 1, b"12025551000"))
    esme.write(pdu.frame(pdu.QUERY_SM, 50, question))
    status, _, body = await esme.next(pdu.QUERY_SM_RESP)
    assert (status, body) == (0, number + b"\x00\x00\x01\x00")
    stranger = pdu.cancel_sm_body(b"\x00", number, pdu.address(3, 0, b"999"), source)
    for unit, expected in ((stranger, 0x11), (taking_back, 0), (taking_back, 0x11)):
        esme.write(pdu.frame(pdu.CANCEL_SM, 51, unit))
        assert (await esme.next(pdu.CANCEL_SM_RESP))[:2] == (expected, 51)
    assert (await esme.receipt())["stat"] == "DELETED"
    esme.write(pdu.frame(pdu.QUERY_SM, 52, question), pdu.frame(pdu.CANCEL_SM, 53, b"no terminator"))
    assert (await esme.next(pdu.QUERY_SM_RESP))[0] == 0x67
    assert (await esme.next(pdu.CANCEL_SM_RESP))[0] == pdu.ESME_RINVCMDLEN
    await esme.silent()
    receiver = await connect(sandbox.port, kind="receiver")
    receiver.write(pdu.frame(pdu.CANCEL_SM, 2, taking_back))
    assert (await receiver.next(pdu.CANCEL_SM_RESP))[0] == pdu.ESME_RINVBNDSTS


async def test_what_became_of_a_text_without_a_receipt_can_be_asked(sandbox, esme):
    sandbox.change({"receipt_delay_s": 0.2, "lost": 1.0, "mix": {"UNDELIV": 1.0}})
    source = pdu.address(3, 0, b"12345")
    (sequence,) = esme.submit("12025551000")
    lost = (await esme.answers(1))[sequence][1].encode()
    (sequence,) = esme.submit("12025550194")
    never = (await esme.answers(1))[sequence][1].encode()

    async def told(number, state):
        while True:
            esme.write(pdu.frame(pdu.QUERY_SM, 50, pdu.query_sm_body(number, source)))
            status, _, body = await esme.next(pdu.QUERY_SM_RESP)
            assert status == 0
            answer = pdu.read_query_sm_resp(pdu.frame(pdu.QUERY_SM_RESP, 50, body))
            if answer.state != 1:
                assert (answer.state, len(answer.final_date)) == (state, 16)
                return
            await asyncio.sleep(0.05)

    async with asyncio.timeout(60):
        await told(lost, 5)
        await told(never, 2)
    await esme.silent()
