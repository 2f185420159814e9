"""Faults of rates, binds, receipts and texts, one by one; the first fault-free path is in `test_sandbox`."""

from __future__ import annotations

import asyncio

import pytest

from gateways.sandbox import Behaviour, Sandbox, Settings
from gateways.sandbox.behaviour import STATUS_BY_NAME
from gateways.sandbox.texts import Inbound
from gateways.smpp import pdu
from gateways.smpp.reassembly import Reassembler
from gateways.smpp.receipts import ReceiptReader

ANYONE = "12025551000"


@pytest.fixture
async def two_accounts():
    users = {"volley": "secret", "other": "secret"}
    sandbox = Sandbox(Settings(port=0, control_port=None, users=users, behaviour=Behaviour(lost=1), seed=1))
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


async def statuses(esme, count):
    """How many of each status so many submits in one write get."""
    esme.submit(*[ANYONE] * count)
    found = [status for status, _ in (await esme.answers(count)).values()]
    return {status: found.count(status) for status in set(found)}


# --- rates and binds ---------------------------------------------------------------------------------


async def test_a_full_queue_instead_of_a_throttle(sandbox, esme):
    sandbox.change({"rate": 3, "rate_status": "ESME_RMSGQFUL"})
    assert await statuses(esme, 5) == {0: 3, STATUS_BY_NAME["ESME_RMSGQFUL"]: 2}
    assert sandbox.smsc.counters.throttled == 2


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"rate": 4}, [4, 0, 0]),
        ({"rate": 4, "rate_per": "account"}, [4, 0, 4]),
        ({"rate": 4, "rate_per": "bind"}, [4, 4, 4]),
        ({"rates": {"other": 1}}, [6, 6, 1]),
        ({"rate": 2, "rates": {"other": 5}}, [2, 0, 5]),
        ({"rate": 2, "rates": {"volley": 0}}, [6, 6, 2]),
    ],
)
async def test_whom_a_rate_counts_together(two_accounts, connect, changes, taken):
    two_accounts.change(changes)
    binds = [await connect(two_accounts.port, user=user) for user in ("volley", "volley", "other")]
    assert [(await statuses(bind, 6)).get(0, 0) for bind in binds] == taken
    for bind in binds:
        bind.writer.close()


async def test_binds_refused_by_setting(sandbox, connect):
    sandbox.change({"refuse_binds": "ESME_RBINDFAIL"})
    assert (await connect(sandbox.port)).bind_status == STATUS_BY_NAME["ESME_RBINDFAIL"]
    wrong = await connect(sandbox.port, password="wrong")
    assert wrong.bind_status == STATUS_BY_NAME["ESME_RINVPASWD"], "wrong is wrong, whatever else"
    sandbox.change({"refuse_binds": ""})
    assert (await connect(sandbox.port)).bind_status == 0


async def test_more_binds_than_the_contract_has_are_refused(two_accounts, connect):
    two_accounts.change({"max_binds": 1})
    first = await connect(two_accounts.port)
    assert first.bind_status == 0
    assert (await connect(two_accounts.port)).bind_status == STATUS_BY_NAME["ESME_RBINDFAIL"]
    assert (await connect(two_accounts.port, user="other")).bind_status == 0
    first.write(pdu.unbind(2))
    assert (await first.pdu())[0] == pdu.UNBIND_RESP
    assert (await connect(two_accounts.port)).bind_status == 0


async def test_a_bind_that_is_never_answered(sandbox, connect):
    sandbox.change({"mute_binds": True})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.15):
            await connect(sandbox.port)


async def test_unbind_from_the_smsc(sandbox, esme):
    assert sandbox.unbind_all("nobody") == 0
    assert sandbox.unbind_all() == 1
    command, _, sequence, _ = await esme.pdu()
    assert command == pdu.UNBIND
    (submitted,) = esme.submit(ANYONE, registered=0)
    assert submitted in await esme.answers(1), "what comes before the answer to unbind is still taken"
    esme.write(pdu.frame(pdu.UNBIND_RESP, sequence))
    assert await esme.reader.read() == b""


async def test_whoever_reads_no_answers_is_not_read_from(sandbox, connect):
    esme = await connect(sandbox.port)
    sandbox.change({"lost": 1})
    esme.writer.transport.pause_reading()
    body = pdu.submit_sm_body(pdu.address(3, 0, b"12345"), pdu.address(1, 1, b"1202"), 0, b"x" * 100)
    many = b"".join(pdu.frame(pdu.SUBMIT_SM, n, body) for n in range(1, 5001))
    (connection,) = sandbox.connections
    async with asyncio.timeout(60):
        while not connection._full:
            if not esme.writer.transport.get_write_buffer_size():
                esme.write(many)
            await asyncio.sleep(0.005)
    assert connection._transport.get_write_buffer_size() < 4_000_000
    esme.writer.transport.resume_reading()
    async with asyncio.timeout(60):
        while connection._full:
            assert await esme.reader.read(1 << 20)
    assert connection._transport.is_reading()


# --- data_sm -------------------------------------------------------------------------------------------


async def test_a_text_by_data_sm_is_a_submit(sandbox, esme):
    addresses = pdu.address(3, 0, b"12345") + pdu.address(1, 1, ANYONE.encode())
    body = b"\x00" + addresses + b"\x00\x01\x00" + pdu.tlv(pdu.TLV_MESSAGE_PAYLOAD, b"long " * 40)
    esme.write(pdu.frame(pdu.DATA_SM, 9, body))
    status, sequence, answer = await esme.next(pdu.DATA_SM_RESP)
    assert (status, sequence) == (0, 9)
    receipt = await esme.receipt()
    assert receipt["id"].encode() + b"\x00" == answer
    (entry,) = sandbox.smsc.ledger.since(0)
    assert entry["text"] == "long " * 40
    esme.write(pdu.frame(pdu.DATA_SM, 10, b"\x00\x01"))
    assert (await esme.next(pdu.DATA_SM_RESP))[:2] == (pdu.ESME_RINVCMDLEN, 10)


@pytest.mark.parametrize("form", ["text", "tlv", "both"])
async def test_receipts_by_data_sm(sandbox, esme, form):
    sandbox.change({"receipt_pdu": "data_sm", "receipt_form": form})
    esme.submit(ANYONE)
    ((_, number),) = (await esme.answers(1)).values()
    _, sequence, body = await esme.next(pdu.DATA_SM)
    esme.write(pdu.frame(pdu.DATA_SM_RESP, sequence, b"\x00"))
    receipt = read(pdu.read_data_sm(pdu.frame(pdu.DATA_SM, sequence, body)))
    assert (receipt.gateway_message_id, receipt.state, receipt.to) == (number, "delivered", ANYONE)


def read(message):
    """As the gateway reads it."""
    receipt = ReceiptReader().read(message)
    assert receipt is not None
    return receipt


# --- receipts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "answer", "receipt"),
    [
        ({"id_width": 24}, lambda s: len(s) == 24 and s.startswith("0") and s.isdigit(), lambda s: s),
        ({"id_form": "HEX", "id_width": 20}, lambda s: len(s) == 20 and int(s, 16), lambda s: s),
        ({"id_width": 20, "receipt_id_width": 0}, lambda s: len(s) == 20, lambda s: s.lstrip("0")),
        (
            {"id_form": "hex", "receipt_id_form": "dec", "receipt_id_width": 30},
            lambda s: int(s, 16),
            lambda s: f"{int(s, 16):030}",
        ),
    ],
)
async def test_ids_with_zeros_before_them(sandbox, esme, changes, answer, receipt):
    sandbox.change(changes)
    esme.submit(ANYONE)
    ((_, number),) = (await esme.answers(1)).values()
    assert answer(number)
    assert (await esme.receipt())["id"] == receipt(number)


async def test_an_intermediate_notification_before_the_receipt(sandbox, esme):
    sandbox.change({"intermediate": 1})
    esme.submit(ANYONE)
    first, second = await esme.receipt(), await esme.receipt()
    assert (first["stat"], first["message"].esm_class) == ("ENROUTE", 0x20)
    assert (second["stat"], second["message"].esm_class) == ("DELIVRD", 0x04)
    assert first["id"] == second["id"]


async def test_a_receipt_asked_for_on_failure_only(sandbox, esme):
    esme.submit(ANYONE, "12025550191", registered=2)
    await esme.answers(2)
    assert (await esme.receipt())["stat"] == "UNDELIV"
    await esme.silent()


async def test_late_receipts_come_after_the_others(sandbox, esme):
    sandbox.change({"late": 1, "late_s": 0.3})
    esme.submit(ANYONE)
    await esme.answers(1)
    await esme.silent(0.15)
    assert (await esme.receipt())["stat"] == "DELIVRD"


async def test_early_receipts_come_before_the_answer(sandbox, esme):
    sandbox.change({"early": 1})
    esme.submit(ANYONE)
    assert (await esme.pdu())[0] == pdu.DELIVER_SM
    assert (await esme.pdu())[0] == pdu.SUBMIT_SM_RESP


async def test_answers_of_one_read_in_random_order(sandbox, esme):
    sandbox.change({"shuffle_answers": True})
    sequences = esme.submit(*[ANYONE] * 30, registered=0)
    order = list(await esme.answers(30))
    assert order != sequences
    assert sorted(order) == sequences


# --- texts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", ["deliver_sm", "data_sm"])
@pytest.mark.parametrize("long", ["udh", "udh16", "sar", "payload"])
@pytest.mark.parametrize("text", ["STOP", "Xin chào, tạm biệt. " * 12, "[a]{b}€ " * 40])
async def test_a_text_of_each_kind_is_put_together_again(sandbox, esme, carrier, long, text):
    """By the gateway's own reassembly, with parts in the wrong order and each of them twice."""
    changes = {"sender": "+12025550101", "to": "12345", "text": text, "long": long, "pdu": carrier}
    count = sandbox.deliver(Inbound(**changes, reverse=True, double=True))
    found, reassembly = [], Reassembler("gsm7", 60)
    command = {"deliver_sm": pdu.DELIVER_SM, "data_sm": pdu.DATA_SM}[carrier]
    for _ in range(count):
        _, sequence, body = await esme.next(command)
        esme.write(pdu.frame(command | pdu.RESPONSE_BIT, sequence, b"\x00"))
        whole = pdu.frame(command, sequence, body)
        message = pdu.read_data_sm(whole) if carrier == "data_sm" else pdu.read_message(body, 0, len(body))
        found += [one.inbound.text for one in reassembly.add(message, None, 0.0) if one.inbound is not None]
    assert found[0] == text
    assert len(found) == (
        1 if count > 2 else 2
    )  # a text of one part can't be told from one that is sent twice


async def test_a_part_that_never_comes(sandbox, esme):
    text = Inbound(sender="+12025550101", to="12345", text="a" * 400, lose=[2])
    assert sandbox.deliver(text) == 2
    bodies = [(await esme.next(pdu.DELIVER_SM))[2] for _ in range(2)]
    parts = [pdu.read_message(body, 0, len(body)).payload[4:6] for body in bodies]
    assert parts == [b"\x03\x01", b"\x03\x03"]


@pytest.mark.parametrize(
    "fields",
    [
        {"sender": "+1" * 20, "to": "1", "text": "a"},
        {"sender": "+1", "to": "a\x00b", "text": "a"},
        {"sender": "+1", "to": "1", "text": "a" * 50_000},
        {"sender": "+1", "to": "1", "text": "a", "system_id": "nobody"},
    ],
)
async def test_texts_that_cannot_be_are_refused(sandbox, fields):
    with pytest.raises(ValueError, match=r".+"):
        sandbox.deliver(Inbound(**fields))
    assert not sandbox.smsc.counters.inbound_sent


# --- reset ----------------------------------------------------------------------------------------------


async def test_reset_forgets_what_was_still_to_come_but_no_bind(sandbox, esme, counted):
    sandbox.change({"receipt_delay_s": 0.3, "rate": 1, "rate_per": "bind", "stalled": True})
    sandbox.reset()
    sandbox.change({"receipt_delay_s": 0.3})
    esme.submit(ANYONE, ANYONE)
    assert [status for status, _ in (await esme.answers(2)).values()] == [0, 0], "it reads again"
    assert len(sandbox.smsc.later) == 2
    sandbox.reset()
    assert len(sandbox.smsc.later) == 0
    await esme.silent(0.4)
    esme.submit(ANYONE)
    assert (await esme.receipt())["stat"] == "DELIVRD"
    await counted("receipts_acknowledged", 1)
