"""Inbound texts from their parts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.text import Coding, segment, udh
from gateways.base import Part
from gateways.numbers import phone
from gateways.smpp import pdu, reassembly
from gateways.smpp.reassembly import Reassembler, codec, read_port, split_header


def part(payload, *, source=b"12025550101", header=b"", coding=0, tlvs=None):
    esm_class = 0x40 if header else 0
    return pdu.Message(
        b"", 1, 1, source, 3, 0, b"12345", esm_class, b"", 0, coding, header + payload, tlvs or {}
    )


def parts_of(text, reference=7, wide=False, **fields):
    cut = segment(text, coding=Coding(wide=wide))
    coding = 8 if cut.encoding == "ucs2" else 0
    total = len(cut.parts)
    return [
        part(octets, header=udh(reference, total, index, wide), coding=coding, **fields)
        for index, octets in enumerate(cut.parts)
    ]


def texts(completed):
    return [each.inbound.text for each in completed]


def indexes(completed):
    return [each.inbound.part.index for each in completed]


def test_a_short_text_is_whole_at_once():
    (whole,) = Reassembler("gsm7", 60).add(part(b"STOP"), "d", 0.0)
    assert whole.inbound.text == "STOP"
    assert (whole.inbound.sender, whole.inbound.to) == ("+12025550101", "12345")
    assert whole.deliveries == ["d"]


LONG = "STOP, and {brackets} [too] € " * 12


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("text", [LONG, "dừng lại 😀 " * 14])
def test_parts_in_any_order(text, wide):
    messages = parts_of(text, wide=wide)
    for order in itertools.permutations(range(len(messages))):
        reassembler = Reassembler("gsm7", 60)
        completed = []
        for index in order:
            completed += reassembler.add(messages[index], index, 0.0)
        assert texts(completed) == [text]
        assert sorted(completed[0].deliveries) == list(range(len(messages)))
        assert len(reassembler) == 0


def test_a_repeated_part_changes_nothing():
    first, second, third = parts_of(LONG)
    reassembler = Reassembler("gsm7", 60)
    assert reassembler.add(first, 1, 0.0) == []
    assert reassembler.add(first, 2, 0.0) == []
    reassembler.add(second, 3, 0.0)
    (whole,) = reassembler.add(third, 4, 0.0)
    assert whole.inbound.text == LONG
    assert whole.deliveries == [1, 2, 3, 4]


def test_a_reference_used_again_starts_another_text():
    old, new = parts_of("a" * 200), parts_of("b" * 200)
    reassembler = Reassembler("gsm7", 60)
    assert reassembler.add(old[0], 1, 0.0) == []
    (left,) = reassembler.add(new[0], 2, 10.0)
    assert (left.inbound.text, left.inbound.part.index, left.deliveries) == ("a" * 153, 1, [1])
    assert texts(reassembler.add(new[1], 3, 10.0)) == ["b" * 200]


def test_texts_of_two_people_do_not_mix():
    mine, yours = parts_of("a" * 200), parts_of("b" * 200, source=b"12025550102")
    reassembler = Reassembler("gsm7", 60)
    reassembler.add(mine[0], 1, 0.0)
    assert reassembler.add(yours[1], 2, 0.0) == []
    assert texts(reassembler.add(mine[1], 3, 0.0)) == ["a" * 200]


def test_parts_without_their_company_are_given_out_as_parts():
    messages = parts_of("a" * 153 + "b" * 153 + "STOP")
    reassembler = Reassembler("gsm7", 60)
    reassembler.add(messages[0], 1, 0.0)
    reassembler.add(messages[2], 2, 5.0)
    reassembler.add(messages[2], 3, 5.0)
    assert reassembler.release(0.0) == []
    parts = reassembler.release(0.1)
    assert [(one.inbound.text, one.deliveries) for one in parts] == [("a" * 153, [1]), ("STOP", [2, 3])]
    assert parts[1].inbound.part == Part(7, 3, 3, b"STOP", "gsm7", 60)
    assert len(reassembler) == 0
    assert reassembler.release(0.1) == []


def test_incomplete_texts_are_bounded(monkeypatch):
    monkeypatch.setattr(reassembly, "MAX_INCOMPLETE", 3)
    reassembler = Reassembler("gsm7", 60)
    given_out = []
    for number in range(5):
        given_out += reassembler.add(parts_of("a" * 200, source=b"%d" % number)[0], number, 0.0)
    assert len(reassembler) == 3
    assert [each.deliveries for each in given_out] == [[0], [1]]
    assert [each.deliveries for each in reassembler.flush()] == [[2], [3], [4]]
    assert indexes(given_out) == [1, 1]


def test_sar_parameters():
    def sar(octets, index):
        tlvs = {0x20C: b"\x01\x02", 0x20E: b"\x02", 0x20F: bytes([index])}
        return part(octets, tlvs=tlvs)

    reassembler = Reassembler("gsm7", 60)
    assert reassembler.add(sar(b"world", 2), 1, 0.0) == []
    assert texts(reassembler.add(sar(b"hello ", 1), 2, 0.0)) == ["hello world"]


def test_phones_that_cut_a_surrogate_pair():
    octets = "a😀b".encode("utf-16-be")
    reassembler = Reassembler("gsm7", 60)
    reassembler.add(part(octets[:4], header=udh(1, 2, 0), coding=8), 1, 0.0)
    assert texts(reassembler.add(part(octets[4:], header=udh(1, 2, 1), coding=8), 2, 0.0)) == ["a😀b"]


@pytest.mark.parametrize(
    ("payload", "text", "found"),
    [
        (b"\x05\x00\x03\x07\x02\x01hi", b"hi", (7, 2, 1)),
        (b"\x06\x08\x04\x01\x07\x02\x01hi", b"hi", (263, 2, 1)),
        (b"\x0b\x05\x04\x0b\x84\x23\xf0\x00\x03\x07\x02\x02hi", b"hi", (7, 2, 2)),  # ports before it
        (b"\x06\x05\x04\x0b\x84\x23\xf0hi", b"hi", None),  # only ports
        (b"\x05\x00\x03\x07\x02\x00hi", b"hi", None),  # part 0
        (b"\x05\x00\x03\x07\x02\x03hi", b"hi", None),  # part 3 of 2
        (b"\x05\x00\x09\x07\x02\x01hi", b"hi", None),  # longer than its header
        (b"\x40hi", b"\x40hi", None),  # header longer than the text
        (b"", b"", None),
    ],
)
def test_headers(payload, text, found):
    rest, concatenation = split_header(payload)
    assert rest == text
    got = concatenation and (concatenation.reference, concatenation.total, concatenation.index)
    assert got == found


@pytest.mark.parametrize(
    ("header", "tlv", "port"),
    [
        (b"\x06\x05\x04\x0b\x84\x23\xf0", None, 2948),  # 16 bit: the destination, then the originator
        (b"\x04\x04\x02\xf0\xf1", None, 240),  # 8 bit
        (b"\x0b\x05\x04\x3e\x80\0\0\x00\x03\x07\x02\x01", None, 16_000),
        (b"\x0b\x00\x03\x07\x02\x01\x05\x04\x3e\x80\0\0", None, 16_000),
        (b"\x0a\x05\x04\x3e\x80\0\0\x04\x02\xf0\xf1", None, 240),  # the last counts
        (b"\x06\x05\x04\xff\xff\0\0", b"\x0b\x84", 65_535),  # the phone's word before the carrier's
        (b"\x05\x00\x03\x07\x02\x01", b"\x0b\x84", 2948),
        (b"", b"\x0b\x84", 2948),
        (b"", b"\xf0", 240),
        (b"", b"\0\0", None),
        (b"", b"", None),
        (b"", b"\0\x01\0\0", None),  # no port is as long
        (b"", None, None),
        (b"\x06\x05\x04\0\0\x23\xf0", None, None),  # only the originator's
        (b"\x05\x05\x03\x0b\x84\x23", None, None),
        (b"\x04\x05\x04\x0b\x84", None, None),  # longer than its header
        (b"\x03\x04\x01\xf0", None, None),
        (b"\x40\x05\x04\x0b\x84\x23\xf0", None, None),  # longer than the text
    ],
)
def test_ports(header, tlv, port):
    message = part(b"hi", header=header, tlvs={} if tlv is None else {pdu.TLV_DESTINATION_PORT: tlv})
    assert read_port(message) == port


def test_a_port_needs_the_indicator_of_a_header():
    (whole,) = Reassembler("latin-1", 60).add(part(b"\x06\x05\x04\x0b\x84\x23\xf0hi"), 1, 0.0)
    assert whole.inbound.port is None


def test_the_port_tlv_as_it_comes():
    body = pdu.submit_sm_body(
        pdu.address(1, 1, b"1"), pdu.address(1, 1, b"2"), 0, b"hi", tlvs=pdu.tlv(0x020B, b"\x0b\x84")
    )
    message = pdu.read_message(body, 0, len(body))
    (whole,) = Reassembler("gsm7", 60).add(message, 1, 0.0)
    assert (whole.inbound.text, whole.inbound.port) == ("hi", 2948)


def test_a_long_text_has_the_port_of_its_first_part_that_names_one():
    def to_port(index, port):
        element = b"" if port is None else b"\x05\x04" + port.to_bytes(2, "big") + b"\0\0"
        return part(b"%d" % index, header=udh(9, 3, index, header=element))

    for ports, expected in (
        ((16_000, 16_001, 16_002), 16_000),
        ((None, 16_001, 16_002), 16_001),
        ((None, None, None), None),
    ):
        reassembler = Reassembler("gsm7", 60)
        for index in (2, 0):
            assert reassembler.add(to_port(index, ports[index]), index, 0.0) == []
        (whole,) = reassembler.add(to_port(1, ports[1]), 1, 0.0)
        assert (whole.inbound.text, whole.inbound.port) == ("012", expected)
    reassembler = Reassembler("gsm7", 60)
    reassembler.add(to_port(0, 16_000), 0, 1.0)
    reassembler.add(to_port(1, None), 1, 1.0)
    assert [each.inbound.port for each in reassembler.flush()] == [16_000, None]


@pytest.mark.parametrize(
    ("coding", "expected"),
    [(0, "gsm7"), (1, "ascii"), (3, "latin-1"), (8, "ucs2"), (0x10, "gsm7"), (0x18, "ucs2"), (0xF0, "gsm7"),
     (0xF4, "latin-1"), (0x04, "latin-1"), (0xC0, "latin-1")],
)  # fmt: skip
def test_codings(coding, expected):
    assert codec(coding, "gsm7") == expected


def test_the_carriers_own_alphabet():
    assert codec(0, "latin-1") == "latin-1"
    (whole,) = Reassembler("latin-1", 60).add(part("Grüße".encode("latin-1")), 1, 0.0)
    assert whole.inbound.text == "Grüße"


@pytest.mark.parametrize(
    ("ton", "digits", "written"),
    [
        (1, b"12025550101", "+12025550101"),
        (3, b"12345", "12345"),
        (5, b"Carrier", "Carrier"),
        (1, b"Odd", "Odd"),
    ],
)
def test_addresses(ton, digits, written):
    assert phone(ton, digits) == written


@pytest.mark.parametrize(
    ("country", "ton", "digits", "written"),
    [
        ("VN", 2, b"0912345678", "+84912345678"),
        ("VN", 2, b"912345678", "+84912345678"),
        ("VN", 0, b"0912345678", "+84912345678"),
        ("VN", 0, b"84912345678", "+84912345678"),
        ("VN", 0, b"0084912345678", "+84912345678"),
        ("VN", 1, b"0912345678", "+84912345678"),  # it says international, and is not
        ("VN", 0, b"12025550101", "+12025550101"),
        ("US", 0, b"2025550101", "+12025550101"),
        ("US", 0, b"12025550101", "+12025550101"),
        ("US", 2, b"6595551234", "+16595551234"),
        ("US", 1, b"6595551234", "+6595551234"),
        ("VN", 0, b"19001234", "19001234"),  # a service number, as it is dialled
        ("VN", 0, b"8199", "8199"),
        ("VN", 3, b"0912345678", "0912345678"),
        ("VN", 5, b"Carrier", "Carrier"),
        ("VN", 2, b"1" * 60, "1" * 60),
        ("VN", 2, "\u00b2".encode("latin-1") * 9, "\u00b2" * 9),
    ],
)
def test_national_numbers_of_the_carriers_country(country, ton, digits, written):
    assert phone(ton, digits, country) == written
    message = part(b"STOP")
    message.source_ton, message.source = ton, digits
    (whole,) = Reassembler("gsm7", 60, country=country).add(message, "d", 0.0)
    assert whole.inbound.sender == written


@given(st.lists(st.tuples(st.binary(max_size=20), st.integers(0, 255), st.booleans()), max_size=20))
def test_whatever_comes_each_delivery_is_given_out_once(arriving):
    reassembler = Reassembler("gsm7", 60)
    out = []
    for number, (payload, coding, has_header) in enumerate(arriving):
        header = udh(1, 3, coding % 3) if has_header else b""
        for whole in reassembler.add(part(payload, header=header, coding=coding), number, float(number)):
            out += whole.deliveries
            if whole.inbound is not None:
                assert "\x00" not in whole.inbound.text
                whole.inbound.text.encode("utf-8")
    for whole in reassembler.flush():
        out += whole.deliveries
    assert sorted(out) == list(range(len(arriving)))


def test_a_part_that_comes_again_after_its_text_is_no_text_of_its_own():
    reassembler, parts = Reassembler("gsm7", 60), parts_of("a" * 200 + " STOP")
    seen = [reassembler.add(one, place, 0.0) for place, one in enumerate([*parts, *parts])]
    assert [texts(each) for each in seen[:2]] == [[], ["a" * 200 + " STOP"]]
    assert [(each.inbound, each.deliveries) for each in (*seen[2], *seen[3])] == [(None, [2]), (None, [3])]
    reassembler.forget(59.0)
    assert not reassembler.idle
    reassembler.forget(61.0)
    assert reassembler.idle
    assert reassembler.add(parts[1], 4, 61.0) == [], "so late it is of another text"


def test_a_text_that_could_not_be_stored_is_whole_again_when_its_parts_come_again():
    reassembler, (first, last) = Reassembler("gsm7", 60), parts_of("b" * 200 + " STOP")
    reassembler.add(first, 1, 0.0)
    (whole,) = reassembler.add(last, 2, 1.0)
    reassembler.take_back(whole)
    assert reassembler.add(last, 3, 2.0) == []
    (again,) = reassembler.add(first, 4, 2.0)
    assert (texts([again]), sorted(again.deliveries)) == (texts([whole]), [3, 4])


def test_a_reference_of_too_many_octets_is_no_fault():
    tlvs = {0x20C: b"\x01" * 9, 0x20E: b"\x02", 0x20F: b"\x01"}
    reassembler = Reassembler("gsm7", 60)
    assert reassembler.add(part(b"half", tlvs=tlvs), 1, 0.0) == []
    assert reassembler.flush()[0].inbound.part.reference == 0x0101
