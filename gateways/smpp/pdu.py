"""SMPP 3.4 protocol data units as bytes and as values; sans-I/O.

Guarantees:

* the PDUs of the hot path (submit_sm, deliver_sm, their answers, enquire_link) are read and
  written here with `struct`, byte for byte as smpplib does wherever both can speak
  (`tests/gateways/smpp/test_pdu.py`);
* every other PDU is built and parsed by smpplib, behind the same strict checks, because
  smpplib by itself cuts long passwords and reads past truncated bodies;
* a malformed PDU raises `Malformed` with the command_status to answer, and nothing else.

Section numbers are those of the SMPP Protocol Specification v3.4, issue 1.2.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import msgspec
from smpplib import smpp
from smpplib.command import Param
from smpplib.exceptions import UnknownCommandError
from smpplib.pdu import extract_command

HEADER_OCTETS = 16
# message_payload can hold 65,535 octets (5.3.2.32); what is longer is not SMPP but a lost frame.
MAX_PDU_OCTETS = 72_000
MAX_SHORT_MESSAGE_OCTETS = 254  # 5.2.21
# 65 in 5.2.23 with the terminator; carriers exceed it, and what is much longer makes no sense.
MAX_MESSAGE_ID_OCTETS = 255
MAX_ADDRESS_CHARACTERS = 20  # 5.2.8: 21 octets with the terminator
LAST_SEQUENCE = 0x7FFFFFFF  # 5.1.4

# command_id, 5.1.2.1
GENERIC_NACK = 0x80000000
BIND_RECEIVER, BIND_RECEIVER_RESP = 0x00000001, 0x80000001
BIND_TRANSMITTER, BIND_TRANSMITTER_RESP = 0x00000002, 0x80000002
QUERY_SM, QUERY_SM_RESP = 0x00000003, 0x80000003
CANCEL_SM, CANCEL_SM_RESP = 0x00000008, 0x80000008
SUBMIT_SM, SUBMIT_SM_RESP = 0x00000004, 0x80000004
DELIVER_SM, DELIVER_SM_RESP = 0x00000005, 0x80000005
UNBIND, UNBIND_RESP = 0x00000006, 0x80000006
BIND_TRANSCEIVER, BIND_TRANSCEIVER_RESP = 0x00000009, 0x80000009
OUTBIND = 0x0000000B
ENQUIRE_LINK, ENQUIRE_LINK_RESP = 0x00000015, 0x80000015
ALERT_NOTIFICATION = 0x00000102
DATA_SM, DATA_SM_RESP = 0x00000103, 0x80000103

RESPONSE_BIT = 0x80000000

# command_status that this side gives, 5.1.3
ESME_ROK = 0x00
ESME_RINVMSGLEN = 0x01
ESME_RINVCMDLEN = 0x02
ESME_RINVCMDID = 0x03
ESME_RINVBNDSTS = 0x04
ESME_RX_T_APPN = 0x64
ESME_RINVOPTPARSTREAM = 0xC0

# optional parameters that are read here, 5.3.2
TLV_RECEIPTED_MESSAGE_ID = 0x001E
TLV_DESTINATION_PORT = 0x020B
TLV_SAR_MSG_REF_NUM = 0x020C
TLV_SAR_TOTAL_SEGMENTS = 0x020E
TLV_SAR_SEGMENT_SEQNUM = 0x020F
TLV_NETWORK_ERROR_CODE = 0x0423
TLV_MESSAGE_PAYLOAD = 0x0424
TLV_MESSAGE_STATE = 0x0427

HEADER = struct.Struct(">IIII")  # command_length, command_id, command_status, sequence_number
_TLV = struct.Struct(">HH")
_NO_TLVS: Mapping[int, bytes] = {}


class Malformed(ValueError):
    """A PDU that breaks section 4 or 5; `status` is the command_status that answers it."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Message(msgspec.Struct, gc=False):
    """The body of submit_sm (4.4.1), deliver_sm (4.6.1) or data_sm (4.7.1).

    `source` and `destination` are the addresses as written, without terminator;
    `payload` is short_message, or message_payload where short_message is empty.
    """

    service_type: bytes
    source_ton: int
    source_npi: int
    source: bytes
    dest_ton: int
    dest_npi: int
    destination: bytes
    esm_class: int
    validity_period: bytes
    registered_delivery: int
    data_coding: int
    payload: bytes
    tlvs: Mapping[int, bytes]


# --- hot path: build ---------------------------------------------------------------------------


def address(ton: int, npi: int, digits: bytes) -> bytes:
    """TON, NPI and address as they stand in a PDU (5.2.5 to 5.2.9)."""
    return b"%c%c%b\x00" % (ton, npi, digits)


def handling(protocol_id: int, priority: int, schedule: bytes = b"\x00") -> bytes:
    """protocol_id, priority_flag and schedule_delivery_time (5.2.13 to 5.2.15), the last with its terminator."""
    return b"%c%c%b" % (protocol_id, priority, schedule)


def submit_sm_body(
    source: bytes,
    destination: bytes,
    data_coding: int,
    short_message: bytes,
    esm_class: int = 0,
    validity_period: bytes = b"\x00",
    registered_delivery: int = 1,
    service_type: bytes = b"\x00",
    tlvs: bytes = b"",
    *,
    handling: bytes = b"\x00\x00\x00",
    replace_if_present: int = 0,
) -> bytes:
    """Body of submit_sm and of deliver_sm, whose layouts agree (4.4.1, 4.6.1).

    `source` and `destination` come from `address`; `validity_period` and `service_type` carry
    their terminator; `handling` comes from the function of that name. `short_message` holds at
    most 254 octets, its user data header included.
    """
    return b"%b%b%b%c%b%b%c%c%c\x00%c%b%b" % (
        service_type,
        source,
        destination,
        esm_class,
        handling,
        validity_period,
        registered_delivery,
        replace_if_present,
        data_coding,
        len(short_message),
        short_message,
        tlvs,
    )


def frame(command: int, sequence: int, body: bytes = b"", status: int = 0) -> bytes:
    """A whole PDU: header (5.1) and body."""
    return HEADER.pack(16 + len(body), command, status, sequence) + body


def submit_sm_resp(sequence: int, message_id: bytes, status: int = 0) -> bytes:
    """4.4.2. A refusal has no body."""
    if status:
        return HEADER.pack(16, SUBMIT_SM_RESP, status, sequence)
    return b"%b%b\x00" % (HEADER.pack(17 + len(message_id), SUBMIT_SM_RESP, 0, sequence), message_id)


def deliver_sm_resp(sequence: int, status: int = 0) -> bytes:
    """4.6.2: message_id is unused and empty."""
    return HEADER.pack(17, DELIVER_SM_RESP, status, sequence) + b"\x00"


def tlv(tag: int, value: bytes) -> bytes:
    """One optional parameter (3.2.4.1)."""
    return _TLV.pack(tag, len(value)) + value


def read_outbind(unit: bytes) -> tuple[bytes, bytes]:
    """system_id and password of an outbind (4.1.7). Raises `Malformed`."""
    first = unit.find(0, HEADER_OCTETS)
    second = unit.find(0, first + 1) if first >= 0 else -1
    if second < 0:
        raise Malformed(ESME_RINVCMDLEN, "outbind cut short")
    return unit[HEADER_OCTETS:first], unit[first + 1 : second]


def outbind(sequence: int, system_id: bytes, password: bytes) -> bytes:
    """4.1.7, as the SMSC writes it."""
    return frame(OUTBIND, sequence, b"%b\x00%b\x00" % (system_id, password))


# --- questions about a message that was submitted ----------------------------------------------------


def query_sm_body(message_id: bytes, source: bytes) -> bytes:
    """4.8.1: `source` as it was submitted, from `address`."""
    return b"%b\x00%b" % (message_id, source)


def cancel_sm_body(service_type: bytes, message_id: bytes, source: bytes, destination: bytes) -> bytes:
    """4.9.1: addresses and service_type (with its terminator) as they were submitted."""
    return b"%b%b\x00%b%b" % (service_type, message_id, source, destination)


def read_query_sm(unit: bytes) -> tuple[bytes, bytes]:
    """The message_id and source_addr (4.8.1). Raises `Malformed`."""
    asked, _ = parse(unit)
    return asked.message_id, asked.source_addr


def read_cancel_sm(unit: bytes) -> tuple[bytes, bytes]:
    """The message_id and source_addr (4.9.1), which smpplib doesn't know. Raises `Malformed`."""
    position, found = HEADER_OCTETS, []
    for before in (0, 0, 2, 2):  # service_type, message_id, and TON and NPI before either address
        start = position + before
        stop = unit.find(0, start)
        if stop < 0:
            raise Malformed(ESME_RINVCMDLEN, "body of cancel_sm cut short")
        found.append(unit[start:stop])
        position = stop + 1
    return found[1], found[2]


def query_sm_resp_body(message_id: bytes, final_date: bytes, state: int, error: int = 0) -> bytes:
    """4.8.2; `final_date` (7.1.1) is empty while there is none."""
    return b"%b\x00%b\x00%c%c" % (message_id, final_date, state, error)


class Queried(msgspec.Struct, frozen=True):
    """query_sm_resp (4.8.2): `final_date` is empty while there is none, `state` a message_state (5.2.28)."""

    message_id: bytes
    final_date: bytes
    state: int
    error: int


def read_query_sm_resp(unit: bytes) -> Queried:
    """A whole PDU without error status. Raises `Malformed`."""
    first = unit.find(0, HEADER_OCTETS)
    second = unit.find(0, first + 1) if first >= 0 else -1
    if second < 0 or len(unit) < second + 3:
        raise Malformed(ESME_RINVCMDLEN, "body of query_sm_resp cut short")
    return Queried(unit[HEADER_OCTETS:first], unit[first + 1 : second], unit[second + 1], unit[second + 2])


# --- hot path: read ----------------------------------------------------------------------------


def message_id(buffer: bytes, start: int, end: int) -> bytes:
    """The message_id of a submit_sm_resp (4.4.2) whose body is `buffer[start:end]`.

    Some SMSCs append optional parameters: what follows the terminator is left alone.
    """
    stop = buffer.find(0, start, end)
    if stop < 0:
        raise Malformed(ESME_RINVCMDLEN, "message_id without terminator")
    if stop - start > MAX_MESSAGE_ID_OCTETS:
        raise Malformed(ESME_RINVCMDLEN, "message_id far too long")
    return buffer[start:stop]


def read_message(buffer: bytes, start: int, end: int) -> Message:
    """The body `buffer[start:end]` of a submit_sm or deliver_sm. Raises `Malformed`."""
    try:
        i = buffer.index(0, start, end)
        service_type = buffer[start:i]
        j = buffer.index(0, i + 3, end)
        source_ton, source_npi, source = buffer[i + 1], buffer[i + 2], buffer[i + 3 : j]
        k = buffer.index(0, j + 3, end)
        dest_ton, dest_npi, destination = buffer[j + 1], buffer[j + 2], buffer[j + 3 : k]
        # esm_class, protocol_id and priority_flag, then schedule_delivery_time and validity_period
        i = buffer.index(0, k + 4, end)
        j = buffer.index(0, i + 1, end)
    except ValueError:
        raise Malformed(ESME_RINVCMDLEN, "body ends inside a C-octet string") from None
    body = j + 6
    if body > end:
        raise Malformed(ESME_RINVCMDLEN, "body ends before sm_length")
    stop = body + buffer[j + 5]
    if stop > end:
        raise Malformed(ESME_RINVMSGLEN, "sm_length goes past the end")
    payload, tlvs = buffer[body:stop], _NO_TLVS
    if stop < end:
        tlvs = read_tlvs(buffer, stop, end)
        if not payload:
            payload = tlvs.get(TLV_MESSAGE_PAYLOAD, b"")
    return Message(
        service_type,
        source_ton,
        source_npi,
        source,
        dest_ton,
        dest_npi,
        destination,
        buffer[k + 1],
        buffer[i + 1 : j],
        buffer[j + 1],
        buffer[j + 3],
        payload,
        tlvs,
    )


def read_tlvs(buffer: bytes, start: int, end: int) -> dict[int, bytes]:
    """Optional parameters (3.2.4) by tag; of a repeated tag the first. Raises `Malformed`."""
    tlvs: dict[int, bytes] = {}
    while start < end:
        if start + 4 > end:
            raise Malformed(ESME_RINVOPTPARSTREAM, "optional parameter cut short")
        tag, length = _TLV.unpack_from(buffer, start)
        start += 4
        if start + length > end:
            raise Malformed(ESME_RINVOPTPARSTREAM, "optional parameter goes past the end")
        tlvs.setdefault(tag, buffer[start : start + length])
        start += length
    return tlvs


# --- off the hot path: smpplib -------------------------------------------------------------------

# 5.2.2 allows passwords of 8 characters, and smpplib cuts longer ones in silence. Several
# carriers hand out longer ones, so the field is widened for this PDU only.
_MAX_PASSWORD_OCTETS = 65
_BINDS = {
    "transmitter": "bind_transmitter",
    "receiver": "bind_receiver",
    "transceiver": "bind_transceiver",
}
BIND_COMMANDS = {
    "transmitter": BIND_TRANSMITTER,
    "receiver": BIND_RECEIVER,
    "transceiver": BIND_TRANSCEIVER,
}
# Field sizes without terminator, 5.2.1 to 5.2.7.
BIND_LIMITS = {"system_id": 15, "password": _MAX_PASSWORD_OCTETS - 1, "system_type": 12, "address_range": 40}


def _build(name: str, sequence: int, status: int = 0, **fields: Any) -> bytes:
    """smpplib's bytes for a PDU. smpplib ignores a sequence given as an argument: it is set after."""
    unit = smpp.make_pdu(name, sequence=sequence, status=status, **fields)
    unit.sequence = sequence
    return unit.generate()


def bind(
    kind: str,
    sequence: int,
    system_id: str,
    password: str,
    *,
    system_type: str = "",
    address_range: str = "",
    ton: int = 0,
    npi: int = 0,
    version: int = 0x34,
) -> bytes:
    """bind_transmitter, bind_receiver or bind_transceiver (4.1); `ton` and `npi` are those of address_range.

    Raises ValueError, which names the field and not its value, for one that is too long or
    not ASCII.
    """
    fields = {
        "system_id": system_id,
        "password": password,
        "system_type": system_type,
        "address_range": address_range,
    }
    for name, value in fields.items():
        if len(value) > BIND_LIMITS[name] or not value.isascii() or "\x00" in value:
            raise ValueError(f"{name}: at most {BIND_LIMITS[name]} ASCII characters")
    unit = smpp.make_pdu(_BINDS[kind], sequence=sequence, addr_ton=ton, addr_npi=npi, **fields)
    unit.interface_version = version
    unit.params = {**unit.params, "password": Param(type=str, max=_MAX_PASSWORD_OCTETS)}
    unit.sequence = sequence
    return unit.generate()


def bind_resp(kind: str, sequence: int, system_id: str, status: int = 0) -> bytes:
    """4.1.2; a refusal has no body, as smpplib and most SMSCs do it."""
    if status:
        return HEADER.pack(16, BIND_COMMANDS[kind] | RESPONSE_BIT, status, sequence)
    return _build(f"{_BINDS[kind]}_resp", sequence, system_id=system_id, sc_interface_version=0x34)


def unbind(sequence: int) -> bytes:
    """4.2.1."""
    return _build("unbind", sequence)


def generic_nack(sequence: int, status: int) -> bytes:
    """4.3.1."""
    return _build("generic_nack", sequence, status)


def parse(unit: bytes) -> tuple[Any, dict[int, bytes]]:
    """A PDU off the hot path: smpplib's command object, whose strings are bytes, and the optional parameters.

    smpplib is given the mandatory fields only, once they are known to be whole: it reads past
    the end of truncated bodies and logs every optional parameter that it does not know.
    Raises `Malformed`.
    """
    try:
        parsed = smpp.make_pdu(extract_command(unit), sequence=0)
    except UnknownCommandError:
        raise Malformed(ESME_RINVCMDID, "command_id unknown") from None
    if len(unit) == HEADER_OCTETS and parsed.is_response():
        end = HEADER_OCTETS  # a refusal has no body
    else:
        end = _end_of_mandatory_fields(parsed, unit)
    tlvs = read_tlvs(unit, end, len(unit))
    parsed.parse(unit[:end])
    return parsed, tlvs


def _end_of_mandatory_fields(parsed: Any, unit: bytes) -> int:
    position = HEADER_OCTETS
    for field in parsed.params_order:
        if parsed.field_is_optional(field):
            break
        param = parsed.params[field]
        if param.type is int:
            position += param.size
        elif param.type is str:
            position = unit.find(0, position) + 1
            if position == 0:
                raise Malformed(ESME_RINVCMDLEN, f"{field} without terminator")
        else:
            position += unit[position - 1] if position <= len(unit) else 0  # sm_length stands before it
    if position > len(unit):
        raise Malformed(ESME_RINVCMDLEN, "body cut short")
    return position


def read_data_sm(unit: bytes) -> Message:
    """data_sm (4.7.1), which some SMSCs use for receipts. Raises `Malformed`."""
    parsed, tlvs = parse(unit)
    return Message(
        parsed.service_type,
        parsed.source_addr_ton,
        parsed.source_addr_npi,
        parsed.source_addr,
        parsed.dest_addr_ton,
        parsed.dest_addr_npi,
        parsed.destination_addr,
        parsed.esm_class,
        b"",
        parsed.registered_delivery,
        parsed.data_coding,
        tlvs.get(TLV_MESSAGE_PAYLOAD, b""),
        tlvs,
    )
