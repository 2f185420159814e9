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
    ("addresses", "country", "source", "destination", "named"),
    [
        ("swapped", "", b"+84912345678", b"12345", ("84912345678", "12345")),
        ("kept", "", b"12345", b"84912345678", ("84912345678", "12345")),
        ("ignored", "", b"849123xxxxx", b"12345", ("", "")),
        ("swapped", "VN", b"0912345678", b"12345", ("84912345678", "12345")),
        ("kept", "VN", b"12345", b"0912345678", ("84912345678", "12345")),
        ("swapped", "VN", b"+84912345678", b"12345", ("84912345678", "12345")),
        ("swapped", "VN", b"", b"12345", ("", "12345")),
        ("swapped", "", b"0912345678", b"12345", ("0912345678", "12345")),
    ],
)
def test_whom_a_receipt_names(addresses, country, source, destination, named):
    message = delivery(USUAL)
    message.source, message.destination, message.source_ton, message.dest_ton = source, destination, 0, 0
    receipt = ReceiptReader(addresses=addresses, country=country).read(message)
    assert (receipt.to, receipt.sender) == named


@pytest.mark.parametrize(
    ("text", "number", "state", "error"),
    [
        (b"id:1a2b sub:001 dlvrd:000 " + DATES + b" stat:UNDELIV err:27 text:", "1a2b", "undelivered", "27"),
        (b"ID:77 SUB:001 DLVRD:001 " + DATES.upper() + b" STAT:DELIVRD ERR:000 TEXT:x", "77", "delivered", "000"),
        (b"id:77 stat:EXPIRED", "77", "expired", ""),
        (b"id:77 status:DELIVRD error:007", "77", "delivered", "007"),
        (b"id:77 State: Expired err:", "77", "expired", ""),
        (b"id:\"77\", stat:\"UNDELIV\", err:\"12\"", "77", "undelivered", "12"),
        (b"id:77 stat: status: err:1 text:stat:DELIVRD", "77", "unknown", "1"),
        (b"id=77 stat=DELIVRD err=007", "77", "delivered", "007"),
        (b"id:77 stat:2 err:0", "77", "delivered", "0"),
        (b"id:77 stat:5", "77", "undelivered", ""),
        (b"id:77 stat:42", "77", "unknown", ""),
        (b"id:77 stat:DELIVERED.", "77", "delivered", ""),
        (b"\x00id:77 stat:PERMFAILED\x00", "77", "undelivered", ""),
        (b"msgid:77 stat:EXPIRED", "77", "expired", ""),
        (b"Message_ID: 77, Status: UNDELIV", "77", "undelivered", ""),
        (b'id:"77" sub:001 dlvrd:001 submit date:2611280800 done date:2611280801 stat:DELIVRD err:000',
         "77", "delivered", "000"),
        (b"stat:REJECTD id:77 err:0x45", "77", "rejected", "0x45"),
        (b"id:77 sub:1 submit_date:261122003501 stat:DELIVERED err:0 Text:x", "77", "delivered", "0"),
        (b"id: 77 sub: 001 dlvrd: 001 " + DATES + b" stat: ACCEPTD err: 000", "77", "accepted", "000"),
        (b"id:77,sub:001,dlvrd:001,submit date:2611220035,stat:ENROUTE,err:000,text:", "77", "enroute", "000"),
        (b"id:77 stat:DELETED err:000 text:id:99 stat:DELIVRD", "77", "deleted", "000"),
        (b"id:77 sub:001 dlvrd:001 stat:PUZZLED err:000", "77", "unknown", "000"),
        (b"id:77 sub:001 dlvrd:001 " + DATES + b" stat:UNKNOWN err:255 text:", "77", "unknown", "255"),
        (b"id:6f9619ff-8b86-d011-b42d stat:DELIVRD", "6f9619ff-8b86-d011-b42d", "delivered", ""),
        (b"\r\nid:77 stat:DELIVRD\r\n", "77", "delivered", ""),
        # Seen in the wild: jasmin#447 and #70, jsmpp#62 and #67, node-smpp#77, vumi#897, php-smpp#70, smppex#46
        (b"id:1216080510463401720 sub:001 dlvrd:001 submit date:1608051046 done date:0000000000 "
         b"stat:FAILED err:002 Text:",
         "1216080510463401720", "undelivered", "002"),
        (b"id:a29f6845555647139e5c8f3b817f2c9a sub:001 dlvrd:001 submit date:141023215253 done date:141023215259 "
         b"stat:DELIVRD err:000 text:", "a29f6845555647139e5c8f3b817f2c9a", "delivered", "000"),
        (b"id:0654354026 submit date:2302101454 done date:2302101454 stat:DELIVRD err:000",
         "0654354026", "delivered", "000"),
        (b"id:45013692 sub:0 dlvrd:28 submit date:1908121157 done date:1908121158 stat:UNDELIV err:21 Text:*100#",
         "45013692", "undelivered", "21"),
        (b"id:117062714244798261 sub:001 dlvrd:001 submit date:1706271624 done date:1706271624 stat:DELIVRD err:0000 "
         b"text:H\x1bello wo", "117062714244798261", "delivered", "0000"),
        (b"id:rdwjwxns18krxr sub:000 dlvrd:000 submit date:180711070003912+ done date:180711070000012+ "
         b"stat:UNDELIV err:000",
         "rdwjwxns18krxr", "undelivered", "000"),
        (b"id:2d4d4563-1cea-4646-a2c5-852dadc36c381997 sub:001 dlvrd:001 submit date:2407301056 done date:2407301056 "
         b"stat:DELIVRD err:000 text:[k]M\xc3\xa3 OTP 6792.",
         "2d4d4563-1cea-4646-a2c5-852dadc36c381997", "delivered", "000"),
        (b"id:7 sub:001 dlvrd:001 submit:2407301056 done date:2407301056 stat:rejctd err:000 Text:x",
         "7", "rejected", "000"),
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
        (b"261122033507912+", UTC_2026_11_22_00_35 + 7),
        (b"261121193507020-", UTC_2026_11_22_00_35 + 7),
        (b"261122003507900+", UTC_2026_11_22_00_35 + 7),
        (b"261122033507999+", UTC_2026_11_22_00_35 + 3 * 3600 + 7 - 12 * 3600),  # no zone is so far away
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


@pytest.mark.parametrize(
    ("word", "state"),
    [("ENROUTE", "enroute"), ("UNDELIV", "enroute"), ("EXPIRED", "enroute"), ("DELIVRD", "delivered")],
)
def test_an_intermediate_notification_ends_nothing_but_what_was_delivered(word, state):
    receipt = ReceiptReader().read(delivery(b"id:1 stat:" + word.encode(), esm_class=0x20))
    assert (receipt.state, receipt.raw) == (state, word)


def test_a_receipt_in_ucs2():
    message = delivery(USUAL.decode().encode("utf-16-be"))
    message.data_coding = 8
    receipt = ReceiptReader().read(message)
    assert (receipt.gateway_message_id, receipt.state) == ("0123456789", "delivered")


@pytest.mark.parametrize(
    ("text", "marked", "expected"),
    [(USUAL, False, True), (b"id:1 STAT:DELIVRD", False, True), (b"STOP id:1 stat:DELIVRD", False, False),
     (b"my id: 5", False, False), (b"id:", False, False), (USUAL, True, True)],
)  # fmt: skip
def test_where_the_setting_says_so_the_text_alone_makes_a_receipt(text, marked, expected):
    assert is_receipt(delivery(text, 4 if marked else 0), unmarked=True) is expected
    assert is_receipt(delivery(text, 4 if marked else 0)) is marked


def test_one_receipt_for_all_segments():
    assert not ReceiptReader().read(delivery(USUAL)).whole
    assert ReceiptReader(whole=True).read(delivery(USUAL)).whole


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
