"""The codec, against smpplib and smpp34, byte for byte."""

from __future__ import annotations

import contextlib

import pytest
import smpp34
from hypothesis import assume, given
from hypothesis import strategies as st
from smpplib import consts, smpp

from gateways.smpp import pdu

octet = st.integers(0, 255)
sequence_number = st.integers(1, pdu.LAST_SEQUENCE)
digits = st.text("0123456789", min_size=0, max_size=20)
short_message = st.binary(max_size=254)
tlv_values = {
    "user_message_reference": st.integers(0, 0xFFFF),
    "sar_msg_ref_num": st.integers(0, 0xFFFF),
    "sar_total_segments": octet,
    "sar_segment_seqnum": octet,
}
TLV_SIZES = {
    "user_message_reference": 2,
    "sar_msg_ref_num": 2,
    "sar_total_segments": 1,
    "sar_segment_seqnum": 1,
}


@st.composite
def messages(draw):
    return {
        "service_type": draw(st.text("ABCMV", max_size=5)),
        "source_addr_ton": draw(octet),
        "source_addr_npi": draw(octet),
        "source_addr": draw(digits),
        "dest_addr_ton": draw(octet),
        "dest_addr_npi": draw(octet),
        "destination_addr": draw(digits),
        "esm_class": draw(octet),
        "protocol_id": draw(octet),
        "priority_flag": draw(octet),
        "schedule_delivery_time": draw(st.sampled_from(["", "000000000030000R"])),
        "replace_if_present_flag": draw(octet),
        "validity_period": draw(st.sampled_from(["", "000001020304000R"])),
        "registered_delivery": draw(octet),
        "data_coding": draw(octet),
        "short_message": draw(short_message),
    }


@st.composite
def optional(draw):
    names = draw(st.lists(st.sampled_from(list(tlv_values)), unique=True))
    # smpplib writes them in the order of its table.
    return {name: draw(tlv_values[name]) for name in tlv_values if name in names}


def by_smpplib(command, sequence, **fields):
    unit = smpp.make_pdu(command, sequence=sequence, **fields)
    unit.sequence = sequence
    return unit.generate()


def ours(command, sequence, fields, tlvs=b""):
    body = pdu.submit_sm_body(
        pdu.address(fields["source_addr_ton"], fields["source_addr_npi"], fields["source_addr"].encode()),
        pdu.address(fields["dest_addr_ton"], fields["dest_addr_npi"], fields["destination_addr"].encode()),
        fields["data_coding"],
        fields["short_message"],
        fields["esm_class"],
        fields["validity_period"].encode() + b"\x00",
        fields["registered_delivery"],
        fields["service_type"].encode() + b"\x00",
        tlvs,
        handling=pdu.handling(
            fields["protocol_id"],
            fields["priority_flag"],
            fields["schedule_delivery_time"].encode() + b"\x00",
        ),
        replace_if_present=fields["replace_if_present_flag"],
    )
    return pdu.frame(command, sequence, body)


@given(sequence_number, messages(), optional())
def test_submit_sm_is_what_smpplib_writes(sequence, fields, tlvs):
    written = b"".join(
        pdu.tlv(consts.OPTIONAL_PARAMS[name], value.to_bytes(TLV_SIZES[name], "big"))
        for name, value in tlvs.items()
    )
    unit = ours(pdu.SUBMIT_SM, sequence, fields, written)
    assert unit == by_smpplib("submit_sm", sequence, **fields, **tlvs)


@given(sequence_number, messages())
def test_deliver_sm_is_what_smpplib_writes(sequence, fields):
    assert ours(pdu.DELIVER_SM, sequence, fields) == by_smpplib("deliver_sm", sequence, **fields)


@given(sequence_number, messages(), optional())
def test_reading_agrees_with_smpplib(sequence, fields, tlvs):
    unit = by_smpplib("deliver_sm", sequence, **fields, **tlvs)
    theirs = smpp.parse_pdu(unit, allow_unknown_opt_params=True, sequence=1)
    message = pdu.read_message(unit, 16, len(unit))
    assert message.source == theirs.source_addr
    assert message.destination == theirs.destination_addr
    assert (message.source_ton, message.source_npi) == (theirs.source_addr_ton, theirs.source_addr_npi)
    assert (message.dest_ton, message.dest_npi) == (theirs.dest_addr_ton, theirs.dest_addr_npi)
    assert message.esm_class == theirs.esm_class
    assert message.validity_period == theirs.validity_period
    assert message.registered_delivery == theirs.registered_delivery
    assert message.data_coding == theirs.data_coding
    assert message.payload == (theirs.short_message or b"")  # smpplib leaves it None
    assert message.service_type == theirs.service_type
    for name, value in tlvs.items():
        assert int.from_bytes(message.tlvs[consts.OPTIONAL_PARAMS[name]], "big") == value


@given(sequence_number, messages())
def test_smpp34_reads_what_we_write(sequence, fields):
    assume(fields["short_message"])
    theirs = smpp34.decode(ours(pdu.SUBMIT_SM, sequence, fields))
    assert theirs.sequence_number == sequence
    for name in fields:
        assert getattr(theirs, name) == fields[name], name


@given(digits, digits, short_message, st.binary(max_size=300))
def test_reading_what_smpp34_writes(source, destination, text, payload):
    tlvs = [smpp34.Tlv(smpp34.TLV_MESSAGE_PAYLOAD, payload)] if payload and not text else []
    unit = smpp34.DeliverSm(source, destination, text, esm_class=4, tlvs=tlvs, sequence_number=7).encode()
    message = pdu.read_message(unit, 16, len(unit))
    assert (message.source, message.destination) == (source.encode(), destination.encode())
    assert message.payload == (text or payload)


@given(sequence_number, st.text("0123456789abcdef-", min_size=1, max_size=64), st.integers(0, 0xFFFF))
def test_answers_are_what_smpplib_writes(sequence, message_id, status):
    unit = pdu.submit_sm_resp(sequence, message_id.encode())
    assert unit == by_smpplib("submit_sm_resp", sequence, message_id=message_id)
    assert pdu.message_id(unit, 16, len(unit)) == message_id.encode()
    assert pdu.deliver_sm_resp(sequence, status) == by_smpplib(
        "deliver_sm_resp", sequence, status=status, message_id=""
    )


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("enquire_link", pdu.ENQUIRE_LINK),
        ("enquire_link_resp", pdu.ENQUIRE_LINK_RESP),
        ("unbind", pdu.UNBIND),
        ("unbind_resp", pdu.UNBIND_RESP),
    ],
)
def test_bare_headers_are_what_smpplib_writes(name, command):
    assert pdu.frame(command, 77) == by_smpplib(name, 77)


@pytest.mark.parametrize("kind", ["transceiver", "transmitter", "receiver"])
def test_a_long_password_is_not_cut(kind):
    unit = pdu.bind(kind, 9, "volley", "longer than eight", system_type="VMA")
    assert b"\x00longer than eight\x00" in unit
    assert len(unit) == int.from_bytes(unit[:4], "big")
    assert int.from_bytes(unit[4:8], "big") == pdu.BIND_COMMANDS[kind]
    parsed, _ = pdu.parse(unit)
    assert (parsed.system_id, parsed.password) == (b"volley", b"longer than eight")
    assert parsed.interface_version == 0x34
    assert parsed.sequence == 9


bind_fields = {
    "system_id": st.text("abcXYZ_019", max_size=15),
    "password": st.text("abcXYZ_019", max_size=8),
    "system_type": st.text("VMA", max_size=12),
    "address_range": st.text("^0123456789*[]", max_size=40),
}


@given(
    st.sampled_from(list(pdu.BIND_COMMANDS)),
    sequence_number,
    st.fixed_dictionaries(bind_fields),
    octet,
    octet,
    st.sampled_from([0x33, 0x34, 0x50]),
)
def test_binds_are_what_smpplib_writes(kind, sequence, fields, ton, npi, version):
    theirs = smpp.make_pdu(f"bind_{kind}", sequence=sequence, addr_ton=ton, addr_npi=npi, **fields)
    theirs.sequence, theirs.interface_version = sequence, version
    assert pdu.bind(kind, sequence, **fields, ton=ton, npi=npi, version=version) == theirs.generate()


@pytest.mark.parametrize(
    "fields",
    [
        {"system_id": "s" * 16},
        {"password": "p" * 65},
        {"password": "pässword"},
        {"password": "pass\x00word"},
        {"system_type": "t" * 13},
    ],
)
def test_a_bind_that_does_not_fit_is_an_error_without_its_value(fields):
    given = {"system_id": "volley", "password": "secret", **fields}
    with pytest.raises(ValueError, match=next(iter(fields))) as error:
        pdu.bind("transceiver", 1, **given)
    assert given["password"] not in str(error.value)


@given(messages(), optional(), st.data())
def test_a_body_cut_anywhere_is_malformed_or_ends_before_a_tlv(fields, tlvs, data):
    written = b"".join(
        pdu.tlv(consts.OPTIONAL_PARAMS[name], value.to_bytes(TLV_SIZES[name], "big"))
        for name, value in tlvs.items()
    )
    whole = ours(pdu.DELIVER_SM, 1, fields, written)
    mandatory = len(whole) - len(written)
    end = data.draw(st.integers(16, len(whole) - 1))
    with contextlib.suppress(pdu.Malformed):
        message = pdu.read_message(whole, 16, end)
        assert end >= mandatory
        assert message.payload == fields["short_message"]


@given(st.binary(max_size=300))
def test_no_bytes_make_reading_raise_anything_else(body):
    unit = pdu.frame(pdu.DELIVER_SM, 1, body)
    for read in (lambda: pdu.read_message(unit, 16, len(unit)), lambda: pdu.message_id(unit, 16, len(unit))):
        with contextlib.suppress(pdu.Malformed):
            read()


@given(
    st.sampled_from([pdu.BIND_TRANSCEIVER, pdu.DATA_SM, pdu.ALERT_NOTIFICATION, pdu.QUERY_SM_RESP, 0x7777]),
    st.binary(max_size=200),
)
def test_no_bytes_make_parsing_raise_anything_else(command, body):
    unit = pdu.frame(command, 1, body)
    for read in (pdu.parse, pdu.read_data_sm if command == pdu.DATA_SM else pdu.parse):
        with contextlib.suppress(pdu.Malformed):
            read(unit)


def test_data_sm_reads_like_deliver_sm():
    unit = by_smpplib(
        "data_sm",
        5,
        service_type="",
        source_addr_ton=1,
        source_addr_npi=1,
        source_addr="12025550101",
        dest_addr_ton=3,
        dest_addr_npi=0,
        destination_addr="12345",
        esm_class=4,
        registered_delivery=0,
        data_coding=0,
        receipted_message_id="abc",
        message_state=2,
        message_payload=b"text",
    )
    message = pdu.read_data_sm(unit)
    assert (message.source, message.destination, message.esm_class) == (b"12025550101", b"12345", 4)
    assert message.payload == b"text"
    assert message.tlvs[pdu.TLV_RECEIPTED_MESSAGE_ID] == b"abc\x00"


def test_a_payload_parameter_stands_in_for_an_empty_short_message():
    text = b"x" * 300
    body = pdu.submit_sm_body(
        b"\x01\x01\x00", b"\x01\x01\x00", 0, b"", tlvs=pdu.tlv(pdu.TLV_MESSAGE_PAYLOAD, text)
    )
    assert pdu.read_message(body, 0, len(body)).payload == text


@given(sequence_number, st.text("0123456789abcdef-", min_size=1, max_size=64), octet, octet, digits)
def test_query_sm_is_what_smpplib_writes(sequence, message_id, ton, npi, source):
    body = pdu.query_sm_body(message_id.encode(), pdu.address(ton, npi, source.encode()))
    fields = {"source_addr_ton": ton, "source_addr_npi": npi, "source_addr": source}
    theirs = by_smpplib("query_sm", sequence, message_id=message_id, **fields)
    assert pdu.frame(pdu.QUERY_SM, sequence, body) == theirs


@given(
    sequence_number,
    st.text("0123456789abcdef-", max_size=64),
    st.sampled_from(["", "261122003507000+"]),
    octet,
    octet,
)
def test_the_answer_to_query_sm_reads_as_smpplib_writes_it(sequence, message_id, date, state, error):
    fields = {"message_id": message_id, "final_date": date, "message_state": state, "error_code": error}
    unit = by_smpplib("query_sm_resp", sequence, **fields)
    assert pdu.read_query_sm_resp(unit) == pdu.Queried(message_id.encode(), date.encode(), state, error)
    for end in range(16, len(unit)):
        with pytest.raises(pdu.Malformed):
            pdu.read_query_sm_resp(unit[:end])


def test_cancel_sm():
    """4.9.1, octet by octet: neither library writes it (the npm package does: test_interop_foreign.py)."""
    body = pdu.cancel_sm_body(
        b"VMA\x00", b"1a2b", pdu.address(5, 0, b"Volley"), pdu.address(1, 1, b"12025550101")
    )
    assert body == b"VMA\x001a2b\x00\x05\x00Volley\x00\x01\x0112025550101\x00"
