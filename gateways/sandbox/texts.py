"""Texts from people (MO), whole or in parts, in each of the ways that carriers deliver them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from app.domain.text import Coding, segment, udh
from gateways.sandbox.receipts import data_sm_body
from gateways.smpp import pdu

UDHI = 0x40  # esm_class bit 6 (5.2.12)
_UCS2 = 8

Long = Literal["udh", "udh16", "sar", "payload"]


class Inbound(msgspec.Struct, forbid_unknown_fields=True, rename={"sender": "from"}, kw_only=True):
    """Body of POST /mo. `long` says how a text of several parts is cut; `lose` names parts (from 1) that never come."""

    sender: str
    to: str
    text: str
    system_id: str = ""
    long: Long = "udh"
    reverse: bool = False  # the last part comes first
    double: bool = False  # every part comes twice
    lose: list[int] = []
    reference: Annotated[int, Meta(ge=0, le=255)] | None = None  # of its parts; None: the next one
    pdu: Literal["deliver_sm", "data_sm"] = "deliver_sm"

    def bodies(self, reference: int) -> list[bytes]:
        """Bodies of deliver_sm or data_sm, in the order in which they shall go. Raises ValueError."""
        cut = segment(self.text, coding=Coding(wide=self.long == "udh16"))
        coding = _UCS2 if cut.encoding == "ucs2" else 0
        total = len(cut.parts)
        if self.long == "payload":
            # One PDU, without any header, so the parts' septets or octets follow each other as they were.
            bodies = [self._body(coding, 0, b"", pdu.tlv(pdu.TLV_MESSAGE_PAYLOAD, b"".join(cut.parts)))]
        else:
            bodies = [
                self._part(coding, part, reference, total, index) for index, part in enumerate(cut.parts)
            ]
        bodies = [body for number, body in enumerate(bodies, 1) if number not in self.lose]
        if self.reverse:
            bodies.reverse()
        return [body for body in bodies for _ in range(1 + self.double)]

    def _part(self, coding: int, part: bytes, reference: int, total: int, index: int) -> bytes:
        if total == 1:
            return self._body(coding, 0, part, b"")
        if self.long == "sar":
            tlvs = pdu.tlv(pdu.TLV_SAR_MSG_REF_NUM, reference.to_bytes(2, "big"))
            tlvs += pdu.tlv(pdu.TLV_SAR_TOTAL_SEGMENTS, bytes((total,)))
            tlvs += pdu.tlv(pdu.TLV_SAR_SEGMENT_SEQNUM, bytes((index + 1,)))
            return self._body(coding, 0, part, tlvs)
        header = udh(reference, total, index, wide=self.long == "udh16")
        return self._body(coding, UDHI, header + part, b"")

    def _body(self, coding: int, esm_class: int, payload: bytes, tlvs: bytes) -> bytes:
        sender, to = _address(self.sender), _address(self.to)
        if self.pdu == "data_sm":
            return data_sm_body(sender + to, esm_class, coding, payload, tlvs)
        return pdu.submit_sm_body(sender, to, coding, payload, esm_class, registered_delivery=0, tlvs=tlvs)


def _address(written: str) -> bytes:
    """An address of an inbound text: international with a plus sign, else a short code or a name."""
    if len(written) > pdu.MAX_ADDRESS_CHARACTERS or "\x00" in written:
        raise ValueError(f"an address has at most {pdu.MAX_ADDRESS_CHARACTERS} characters")
    if written.startswith("+"):
        return pdu.address(1, 1, written[1:].encode("ascii"))
    return pdu.address(*((3, 0) if written.isdigit() else (5, 0)), written.encode("latin-1"))
