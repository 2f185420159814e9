"""Receipts and message ids as the sandbox writes them: Appendix B, and the optional parameters of 5.3.2."""

from __future__ import annotations

import time

from gateways.sandbox.behaviour import RECEIPT_STATES, Behaviour
from gateways.smpp import pdu

SNIPPET_OCTETS = 20  # of the text, in a receipt (Appendix B)
RECEIPT, INTERMEDIATE = 0x04, 0x20  # esm_class (5.2.12)

_DELIVERED = 2


def spell(number: int, form: str, width: int) -> str:
    """A message id in one of the forms that carriers use."""
    if form == "dec":
        return f"{number:0{width}d}" if width else str(number)
    if form == "uuid":
        digits = f"{number:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    return f"{number:0{width}X}" if form == "HEX" else f"{number:0{width}x}"


class Writer:
    """Writes the body of a receipt; keeps the last date it wrote."""

    def __init__(self) -> None:
        self._dates: tuple[int, bytes] = (-1, b"")

    def body(
        self,
        behaviour: Behaviour,
        number: int,
        message: pdu.Message,
        state_name: str,
        esm_class: int,
        *,
        submitted: float,
        wall: float,
    ) -> bytes:
        """Of a deliver_sm (4.6.1), or of a data_sm (4.7.1) where that is set. Times are Unix seconds."""
        width = behaviour.id_width if behaviour.receipt_id_width is None else behaviour.receipt_id_width
        spelled = spell(number, behaviour.receipt_id_form or behaviour.id_form, width).encode()
        state, error = RECEIPT_STATES[state_name]
        text, tlvs = b"", b""
        if behaviour.receipt_form != "tlv":
            text = b"id:%b sub:001 dlvrd:%b submit date:%b done date:%b stat:%b err:%b text:%b" % (
                spelled,
                b"001" if state == _DELIVERED else b"000",
                self._date(submitted),
                self._date(wall),
                state_name.encode(),
                error,
                b"" if message.data_coding else message.payload[:SNIPPET_OCTETS],
            )
        if behaviour.receipt_form != "text":
            tlvs = pdu.tlv(pdu.TLV_RECEIPTED_MESSAGE_ID, spelled + b"\x00")
            tlvs += pdu.tlv(pdu.TLV_MESSAGE_STATE, bytes((state,)))
        if behaviour.receipt_pdu == "data_sm":
            return data_sm_body(_back(message), esm_class, 0, text, tlvs)
        return b"\x00%b%c\x00\x00\x00\x00\x00\x00\x00\x00%c%b%b" % (
            _back(message),
            esm_class,
            len(text),
            text,
            tlvs,
        )

    def _date(self, wall: float) -> bytes:
        """YYMMDDhhmm, UTC."""
        minute = int(wall // 60)
        if self._dates[0] != minute:
            self._dates = (minute, time.strftime("%y%m%d%H%M", time.gmtime(minute * 60)).encode())
        return self._dates[1]


def data_sm_body(addresses: bytes, esm_class: int, data_coding: int, text: bytes, tlvs: bytes) -> bytes:
    """4.7.1: the text is an optional parameter."""
    payload = pdu.tlv(pdu.TLV_MESSAGE_PAYLOAD, text) if text else b""
    return b"\x00%b%c\x00%c%b%b" % (addresses, esm_class, data_coding, payload, tlvs)


def _back(message: pdu.Message) -> bytes:
    """From the recipient to the sender."""
    return b"%c%c%b\x00%c%c%b\x00" % (
        message.dest_ton,
        message.dest_npi,
        message.destination,
        message.source_ton,
        message.source_npi,
        message.source,
    )
