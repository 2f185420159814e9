"""Submissions as submit_sm."""

from __future__ import annotations

import pytest
from smpplib import smpp

from gateways.base import Rejected
from gateways.smpp import pdu
from gateways.smpp.config import Options
from gateways.smpp.encoder import Encoder, relative_time


def messages(submission, **options):
    bodies = Encoder(Options(**options)).bodies(submission)
    assert not isinstance(bodies, Rejected), bodies
    return {index: pdu.read_message(body, 0, len(body)) for index, body in bodies}


def only(submission, **options):
    found = messages(submission, **options)
    assert list(found) == [0]
    return found[0]


def test_a_short_text(submission):
    message = only(submission(text="hi @ {you}"))
    assert message.payload == b"hi \x00 \x1b(you\x1b)"
    assert (message.data_coding, message.esm_class, message.registered_delivery) == (0, 0, 1)
    assert (message.dest_ton, message.dest_npi, message.destination) == (1, 1, b"12025550101")
    assert message.validity_period == b""


def test_unicode(submission):
    message = only(submission(text="Xin chào ạ"))
    assert (message.payload, message.data_coding) == ("Xin chào ạ".encode("utf-16-be"), 8)


@pytest.mark.parametrize(
    ("sender", "options", "written"),
    [
        ("12025550199", {}, (1, 1, b"12025550199")),
        ("+12025550199", {}, (1, 1, b"12025550199")),
        ("12345", {}, (3, 0, b"12345")),
        ("12345678", {}, (3, 0, b"12345678")),
        ("123456789", {}, (1, 1, b"123456789")),
        ("+12345", {}, (1, 1, b"12345")),
        ("Volley", {}, (5, 0, b"Volley")),
        ("Caf\xe9 24", {}, (5, 0, b"Caf\xe9 24")),
        ("12345", {"short_code_ton": 0}, (0, 0, b"12345")),
        ("12345", {"short_code_npi": 9}, (3, 9, b"12345")),
        ("12345", {"short_code_max": 4}, (1, 1, b"12345")),
        ("Volley", {"source_ton": 0, "source_npi": 9}, (0, 9, b"Volley")),
        ("Volley", {"name_ton": 0, "name_npi": 1}, (0, 1, b"Volley")),
        ("12025550199", {"number_ton": 2, "number_npi": 8}, (2, 8, b"12025550199")),
        ("12345", {"number_ton": 2, "name_ton": 4}, (3, 0, b"12345")),
    ],
)
def test_senders(submission, sender, options, written):
    message = only(submission(sender=sender), **options)
    assert (message.source_ton, message.source_npi, message.source) == written


@pytest.mark.parametrize("sender", ["", "a\x00b", "x" * 21, "1" * 21, "Việt", "tab\t", "new\nline"])
def test_a_sender_that_cannot_be_written_is_rejected(submission, sender):
    assert Encoder(Options()).bodies(submission(sender=sender)) == Rejected("invalid_sender")


@pytest.mark.parametrize("to", ["", "+", "1202\x005550101", "+1202555O101", "+" + "1" * 21, "+١٢٣", "+²"])
def test_a_number_that_cannot_be_written_is_rejected(submission, to):
    assert Encoder(Options()).bodies(submission(to=to)) == Rejected("invalid_number")


def test_a_long_text_has_headers(submission):
    found = messages(submission(text="a" * 400, reference=0x1234))
    assert [found[i].payload[:6].hex() for i in range(3)] == ["050003340301", "050003340302", "050003340303"]
    assert {message.esm_class for message in found.values()} == {0x40}
    assert "".join(found[i].payload[6:].decode() for i in range(3)) == "a" * 400


def test_a_long_text_by_sar_parameters(submission):
    found = messages(submission(text="ạ" * 100, reference=0x1234), concat="sar")
    assert [dict(found[i].tlvs) for i in range(2)] == [
        {0x20C: b"\x12\x34", 0x20E: b"\x02", 0x20F: bytes([i + 1])} for i in range(2)
    ]
    assert {message.esm_class for message in found.values()} == {0}
    assert b"".join(found[i].payload for i in range(2)).decode("utf-16-be") == "ạ" * 100


def test_only_masked_parts(submission):
    assert list(messages(submission(text="a" * 400, mask=0b110))) == [1, 2]


def test_the_carriers_alphabet(submission):
    assert only(submission(text="£5 @ {x}"), alphabet="latin-1").payload == "£5 @ {x}".encode("latin-1")
    refused = Encoder(Options(alphabet="latin-1")).bodies(submission(text="5 €"))
    assert isinstance(refused, Rejected)
    assert only(submission(text="ạ"), alphabet="latin-1").data_coding == 8


def test_too_long_a_part_is_rejected(submission):
    for parts in ((b"a" * 255,), (b"a" * 250, b"a")):
        refused = Encoder(Options()).bodies(submission(parts=parts, mask=(1 << len(parts)) - 1))
        assert isinstance(refused, Rejected)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, b"000000000001000R\x00"),
        (300, b"000000000500000R\x00"),
        (86_400, b"000001000000000R\x00"),
        (3 * 86_400 + 3661, b"000003010101000R\x00"),
        (30 * 86_400, b"000100000000000R\x00"),
        (10**9, b"001129235959000R\x00"),
    ],
)
def test_validity(submission, seconds, written):
    assert relative_time(seconds) == written
    assert len(written) == 17
    assert only(submission(validity_s=seconds)).validity_period + b"\x00" == written


def test_what_else_a_carrier_asks_for(submission):
    """Read by smpplib: read_message leaves out what a deliver_sm has no use for."""
    options = Options(
        service_type="VMA",
        registered_delivery=17,
        protocol_id=65,
        priority=1,
        otp_priority=3,
        schedule_s=30,
        replace_if_present=True,
        dest_ton=2,
        dest_npi=8,
    )

    def read(made):
        ((_, body),) = Encoder(options).bodies(made)
        return smpp.parse_pdu(pdu.frame(pdu.SUBMIT_SM, 1, body), client=None, sequence=1)

    plain, otp = read(submission()), read(submission(category="otp"))
    for theirs in plain, otp:
        assert (theirs.service_type, theirs.registered_delivery, theirs.protocol_id) == (b"VMA", 17, 65)
        assert theirs.schedule_delivery_time == b"000000000030000R"
        assert theirs.replace_if_present_flag == 1
        assert (theirs.dest_addr_ton, theirs.dest_addr_npi) == (2, 8)
    assert (plain.priority_flag, otp.priority_flag) == (1, 3)


def test_a_segment_never_replaces_another_of_its_text(submission):
    bodies = Encoder(Options(replace_if_present=True)).bodies(submission(text="a" * 400))
    for _, body in bodies:
        theirs = smpp.parse_pdu(pdu.frame(pdu.SUBMIT_SM, 1, body), client=None, sequence=1)
        assert theirs.replace_if_present_flag == 0


def test_parameters_from_a_texts_metadata(submission):
    tlvs = {"0x1400": "text:1101", "0x1401": "text:{metadata.dlt}", "0x1402": "cstring:{metadata.header}"}
    for text in ("hi", "a" * 400):
        metadata = {"dlt": "1107", "header": 42, "order": "x"}
        for message in messages(submission(text=text, metadata=metadata), tlvs=tlvs).values():
            assert dict(message.tlvs) == {0x1400: b"1101", 0x1401: b"1107", 0x1402: b"42\x00"}
    for message in messages(submission(metadata=None), tlvs=tlvs).values():
        assert dict(message.tlvs) == {0x1400: b"1101"}, "the carrier says what it misses"
    for wrong in ("1" * 256, "ลาว"):
        body = Encoder(Options(tlvs=tlvs)).bodies(submission(metadata={"dlt": wrong}))
        assert body == Rejected("content_rejected", "metadata not writable")


def test_the_carriers_own_parameters(submission):
    tlvs = {"0x1400": "text:1101234", "5121": "cstring:1107", "0x1402": "hex:00ff"}
    for text in ("hi", "a" * 400):
        for message in messages(submission(text=text), tlvs=tlvs).values():
            assert dict(message.tlvs) == {0x1400: b"1101234", 0x1401: b"1107\x00", 0x1402: b"\x00\xff"}
    found = messages(submission(text="a" * 400), tlvs=tlvs, concat="sar")
    assert found[1].tlvs[0x1400] == b"1101234"
    assert found[1].tlvs[0x20F] == b"\x02"
