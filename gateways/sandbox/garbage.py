"""Bytes that break SMPP 3.4, to be sent to whoever is bound: what a peer must survive.

`KINDS` by name, each one write. `half` begins a PDU that never ends: whatever follows is taken for the rest of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateways.smpp import pdu

_SEQUENCE = 0x7ABCDEF1  # which no sandbox has given

_head = pdu.HEADER.pack
_addresses = pdu.address(1, 1, b"12025550101") + pdu.address(3, 0, b"12345")
_text = pdu.submit_sm_body(pdu.address(1, 1, b"12025550101"), pdu.address(3, 0, b"12345"), 0, b"garbage")
_before_length = len(_text) - len(b"garbage") - 1

KINDS: Mapping[str, bytes] = {
    # command_length (5.1.1)
    "length_0": _head(0, pdu.DELIVER_SM, 0, _SEQUENCE),
    "length_15": _head(15, pdu.ENQUIRE_LINK, 0, _SEQUENCE),
    "length_2_31": _head(1 << 31, pdu.DELIVER_SM, 0, _SEQUENCE) + _text,
    "length_max": _head(0xFFFFFFFF, pdu.DELIVER_SM, 0, _SEQUENCE) + _text,
    "half": _head(400, pdu.DELIVER_SM, 0, _SEQUENCE) + _text,
    # a body that is not what its command says
    "truncated": pdu.frame(pdu.DELIVER_SM, _SEQUENCE, _text[:9]),
    "empty_body": pdu.frame(pdu.DELIVER_SM, _SEQUENCE),
    "no_null": pdu.frame(pdu.DELIVER_SM, _SEQUENCE, b"\x00\x01\x01" + b"1" * 60),
    "sm_length": pdu.frame(pdu.DELIVER_SM, _SEQUENCE, _text[:_before_length] + b"\xffgarbage"),
    "tlv_cut": pdu.frame(pdu.DELIVER_SM, _SEQUENCE, _text + b"\x04\x27\x00"),
    "tlv_past_end": pdu.frame(pdu.DELIVER_SM, _SEQUENCE, _text + b"\x04\x27\xff\xff\x01"),
    "data_sm_truncated": pdu.frame(pdu.DATA_SM, _SEQUENCE, b"\x00" + _addresses[:12]),
    "receipt_without_id": pdu.frame(
        pdu.DELIVER_SM, _SEQUENCE, b"\x00" + _addresses + b"\x04" + b"\x00" * 8 + b"\x04stat"
    ),
    # commands and sequence numbers that nobody asked for
    "unknown_command": pdu.frame(0x0000BEEF, _SEQUENCE, b"\x00"),
    "unknown_answer": pdu.frame(0x8000BEEF, _SEQUENCE, b"\x00"),
    "answer_to_nothing": pdu.submit_sm_resp(_SEQUENCE, b"4711"),
    "answer_without_null": pdu.frame(pdu.SUBMIT_SM_RESP, _SEQUENCE, b"4711"),
    "nack_to_nothing": pdu.generic_nack(_SEQUENCE, pdu.ESME_RINVCMDID),
    "bind_answer_again": pdu.bind_resp("transceiver", _SEQUENCE, "volley-sandbox"),
    "submit_to_esme": pdu.frame(pdu.SUBMIT_SM, _SEQUENCE, _text),
    "sequence_0": pdu.frame(pdu.ENQUIRE_LINK, 0),
    "sequence_max": pdu.frame(pdu.ENQUIRE_LINK, 0xFFFFFFFF),
    # no SMPP at all
    "noise": bytes(range(255, 127, -1)),
    "http": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
}
