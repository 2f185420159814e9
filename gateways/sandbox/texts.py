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
    """Body of POST /mo. `long` says how a text of several parts is cut; `lose` names parts (from 1) that never come.

    `port`: the application's that it is addressed to, in each part's header (3GPP TS 23.040, 9.2.3.24.4).
    """

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
    port: Annotated[int, Meta(ge=1, le=65_535)] | None = None

    def bodies(self, reference: int) -> list[bytes]:
        """Bodies of deliver_sm or data_sm, in the order in which they shall go. Raises ValueError."""
        cut = segment(self.text, coding=Coding(wide=self.long == "udh16"))
        coding = _UCS2 if cut.encoding == "ucs2" else 0
        total = len(cut.parts)
        if self.long == "payload":
            # One PDU, without a header of parts, so the parts' septets or octets follow each other as they were.
            payload = pdu.tlv(pdu.TLV_MESSAGE_PAYLOAD, self._header() + b"".join(cut.parts))
            bodies = [self._body(coding, UDHI if self.port else 0, b"", payload)]
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
            return self._body(coding, UDHI if self.port else 0, self._header() + part, b"")
        if self.long == "sar":
            tlvs = pdu.tlv(pdu.TLV_SAR_MSG_REF_NUM, reference.to_bytes(2, "big"))
            tlvs += pdu.tlv(pdu.TLV_SAR_TOTAL_SEGMENTS, bytes((total,)))
            tlvs += pdu.tlv(pdu.TLV_SAR_SEGMENT_SEQNUM, bytes((index + 1,)))
            return self._body(coding, UDHI if self.port else 0, self._header() + part, tlvs)
        header = udh(reference, total, index, wide=self.long == "udh16", header=self._port())
        return self._body(coding, UDHI, header + part, b"")

    def _port(self) -> bytes:
        """Destination and originator, the latter 0."""
        return b"" if self.port is None else b"\x05\x04" + self.port.to_bytes(2, "big") + b"\0\0"

    def _header(self) -> bytes:
        """Of what needs none for its parts."""
        element = self._port()
        return bytes((len(element),)) + element if element else b""

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
