"""Receipts in every spelling, ids in every base."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways.smpp import pdu
from gateways.smpp.receipts import STATES_BY_NUMBER, STATES_BY_WORD, ReceiptReader, id_normaliser, is_receipt

UTC_2026_11_22_00_35 = 1795307700.0


def delivery(text=b"", esm_class=4, tlvs=None):
    return pdu.Message(b"", 1, 1, b"12025550101", 3, 0, b"12345", esm_class, b"", 0, 0, text, tlvs or {})


DATES = b"submit date:2611220035 done date:2611220035"
USUAL = b"id:0123456789 sub:001 dlvrd:001 submit date:2611220035 done date:2611220036 stat:DELIVRD err:000 text:Hello"


def test_the_usual_form():
    receipt = ReceiptReader().read(delivery(USUAL))
    assert receipt.gateway_message_id == "0123456789"
    assert (receipt.state, receipt.raw, receipt.error) == ("delivered", "DELIVRD", "000")
    assert (receipt.to, receipt.sender) == ("12025550101", "12345")
    assert receipt.submitted_at == UTC_2026_11_22_00_35
    assert receipt.done_at == UTC_2026_11_22_00_35 + 60


@pytest.mark.parametrize(
    ("text", "number", "state", "error"),
    [
        (b"id:1a2b sub:001 dlvrd:000 " + DATES + b" stat:UNDELIV err:27 text:", "1a2b", "undelivered", "27"),
        (b"ID:77 SUB:001 DLVRD:001 " + DATES.upper() + b" STAT:DELIVRD ERR:000 TEXT:x", "77", "delivered", "000"),
        (b"id:77 stat:EXPIRED", "77", "expired", ""),
        (b"stat:REJECTD id:77 err:0x45", "77", "rejected", "0x45"),
        (b"id:77 sub:1 submit_date:261122003501 stat:DELIVERED err:0 Text:x", "77", "delivered", "0"),
        (b"id: 77 sub: 001 dlvrd: 001 " + DATES + b" stat: ACCEPTD err: 000", "77", "accepted", "000"),
        (b"id:77,sub:001,dlvrd:001,submit date:2611220035,stat:ENROUTE,err:000,text:", "77", "enroute", "000"),
        (b"id:77 stat:DELETED err:000 text:id:99 stat:DELIVRD", "77", "deleted", "000"),
        (b"id:77 sub:001 dlvrd:001 stat:PUZZLED err:000", "77", "unknown", "000"),
        (b"id:77 sub:001 dlvrd:001 " + DATES + b" stat:UNKNOWN err:255 text:", "77", "unknown", "255"),
        (b"id:6f9619ff-8b86-d011-b42d stat:DELIVRD", "6f9619ff-8b86-d011-b42d", "delivered", ""),
        (b"\r\nid:77 stat:DELIVRD\r\n", "77", "delivered", ""),
    ],
)  # fmt: skip
def test_spellings(text, number, state, error):
    receipt = ReceiptReader().read(delivery(text))
    assert (receipt.gateway_message_id, receipt.state, receipt.error) == (number, state, error)


@pytest.mark.parametrize("text", [b"", b"hello", b"stat:DELIVRD err:000", b"id: stat:DELIVRD", b"text:id:5"])
def test_what_names_no_message_is_none(text):
    assert ReceiptReader().read(delivery(text)) is None


@pytest.mark.parametrize(("number", "spelled", "state"), [(n, *rest) for n, rest in STATES_BY_NUMBER.items()])
def test_optional_parameters_speak_alone(number, spelled, state):
    tlvs = {pdu.TLV_RECEIPTED_MESSAGE_ID: b"abc\x00", pdu.TLV_MESSAGE_STATE: bytes([number])}
    receipt = ReceiptReader().read(delivery(tlvs=tlvs))
    assert (receipt.gateway_message_id, receipt.raw, receipt.state) == ("abc", spelled, state)


def test_optional_parameters_win_over_the_text():
    tlvs = {
        pdu.TLV_RECEIPTED_MESSAGE_ID: b"new\x00",
        pdu.TLV_MESSAGE_STATE: b"\x05",
        pdu.TLV_NETWORK_ERROR_CODE: b"\x03\x00\x1b",
    }
    receipt = ReceiptReader().read(delivery(b"id:old stat:DELIVRD", tlvs=tlvs))
    assert (receipt.gateway_message_id, receipt.state, receipt.raw) == ("new", "undelivered", "UNDELIVERABLE")
    assert receipt.error == "27"


def test_a_state_that_nobody_defined_is_unknown_and_kept():
    tlvs = {pdu.TLV_RECEIPTED_MESSAGE_ID: b"1", pdu.TLV_MESSAGE_STATE: b"\x63"}
    receipt = ReceiptReader().read(delivery(tlvs=tlvs))
    assert (receipt.state, receipt.raw) == ("unknown", "99")


@pytest.mark.parametrize(("word", "state"), STATES_BY_WORD.items())
def test_every_word(word, state):
    assert ReceiptReader().read(delivery(b"id:1 stat:" + word.encode())).state == state
    assert ReceiptReader().read(delivery(b"id:1 stat:" + word.lower().encode())).state == state


@pytest.mark.parametrize(
    ("form", "raw", "ours"),
    [
        ("asis", " 00ABC ", "00ABC"),
        ("fold", "00ABC", "abc"),
        ("fold", "000", "0"),
        ("dec", "00123", "123"),
        ("dec", "12AB", "12ab"),  # no decimal: folded
        ("hex", "7B", "123"),
        ("hex", "0x007b", "123"),
        ("hex", "xyz", "xyz"),
        ("hex", "1_0", "1_0"),
        ("dec", "١٢", "١٢"),
        ("dec", "", ""),
        ("dec", "9" * 65, "9" * 65),
    ],
)
def test_ids(form, raw, ours):
    assert id_normaliser(form)(raw) == ours


@given(st.integers(0, 2**64))
def test_a_hexadecimal_answer_meets_its_decimal_receipt(number):
    submit, receipt = id_normaliser("hex"), id_normaliser("dec")
    assert submit(f"{number:x}") == submit(f"{number:016X}") == receipt(f"{number:020d}") == str(number)


@pytest.mark.parametrize(
    ("written", "unix"),
    [
        (b"2611220035", UTC_2026_11_22_00_35),
        (b"261122003507", UTC_2026_11_22_00_35 + 7),
        (b"202611220035", UTC_2026_11_22_00_35),
        (b"20261122003507", UTC_2026_11_22_00_35 + 7),
        (b"0000000000", None),
        (b"2613220035", None),
        (b"26112200", None),
        (b"soon", None),
        (b"", None),
    ],
)
def test_dates(written, unix):
    text = b"id:1 submit date:" + written + b" done date:" + written + b" stat:DELIVRD"
    receipt = ReceiptReader().read(delivery(text))
    assert receipt.submitted_at == receipt.done_at == unix


def test_dates_are_in_the_carriers_zone():
    receipt = ReceiptReader(zone=ZoneInfo("Asia/Ho_Chi_Minh")).read(delivery(USUAL))
    assert receipt.submitted_at == UTC_2026_11_22_00_35 - 7 * 3600


@pytest.mark.parametrize(
    ("esm_class", "tlvs", "expected"),
    [
        (0x00, {}, False),
        (0x40, {}, False),
        (0x04, {}, True),
        (0x44, {}, True),
        (0x20, {}, True),
        (0x08, {}, False),  # an acknowledgement by the person's phone
        (0x10, {}, False),
        (0x00, {pdu.TLV_RECEIPTED_MESSAGE_ID: b"1"}, True),
    ],
)
def test_only_the_carrier_can_send_a_receipt(esm_class, tlvs, expected):
    assert is_receipt(delivery(USUAL, esm_class, tlvs)) is expected


def test_no_field_is_too_long_to_be_stored():
    assert ReceiptReader().read(delivery(b"id:" + b"7" * 256 + b" stat:DELIVRD")) is None
    receipt = ReceiptReader().read(delivery(b"id:77 stat:DELIVRD err:" + b"x" * 5000))
    assert len(receipt.error) == 255


@given(st.binary(max_size=200), st.dictionaries(st.sampled_from([0x1E, 0x423, 0x427]), st.binary(max_size=5)))
def test_nothing_raises(text, tlvs):
    for form in ("asis", "fold", "dec", "hex"):
        for payload in (text, b"id:" + text + b" stat:" + text + b" err:" + text):
            receipt = ReceiptReader(form).read(delivery(payload, tlvs=tlvs))
            if receipt is not None:
                stored = "".join((receipt.gateway_message_id, receipt.raw, receipt.error, receipt.to))
                assert "\x00" not in stored
