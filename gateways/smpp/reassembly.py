"""Inbound texts (MO) put together from their parts, by user data header or sar parameters.

Guarantees:

* a text whose parts come close together is given out once, with its parts in order, whichever order they came in and
  however often one was repeated;
* parts whose company does not come here (`release`, `flush`) are given out as they are, for whoever keeps them: it may
  come by another bind;
* a text that could not be stored (`take_back`) is put together anew when its parts come again;
* memory is bounded: past `MAX_INCOMPLETE` texts the parts of the oldest are given out.

Pure: monotonic seconds come in as an argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from app.domain.text import decode, join, unpack
from gateways.base import Inbound, Part, port_of
from gateways.numbers import phone
from gateways.smpp import pdu

MAX_INCOMPLETE = 10_000
MAX_REFERENCE = 0xFFFF

_UDHI = 0x40  # esm_class bit 6 (5.2.12)

# data_coding, 5.2.19; what is not listed follows 3GPP TS 23.038 section 4 or is binary.
_CODECS = {
    0x01: "ascii",
    0x03: "latin-1",
    0x05: "shift_jis",
    0x06: "iso8859-5",
    0x07: "iso8859-8",
    0x08: "ucs2",
    0x09: "latin-1",  # pictograms: no public table
    0x0A: "iso2022_jp",
    0x0D: "euc_jis_2004",
    0x0E: "euc_kr",
}


class Concatenation(msgspec.Struct, frozen=True, gc=False):
    """Which part of which text: `index` is from 1, as on the wire."""

    reference: int
    total: int
    index: int


_Key = tuple[bytes, bytes, int, int]


class Complete(msgspec.Struct, frozen=True, gc=False):
    """A text or a part, and the deliveries that it was made of: whatever `add` was given with each. Without `inbound`
    they repeat parts of a text that was given out. `key` is for `take_back`."""

    inbound: Inbound | None
    deliveries: list[Any]
    key: _Key | None = None


class _Incomplete(msgspec.Struct, gc=False):
    first: pdu.Message
    parts: dict[int, tuple[bytes, str]]  # octets and their encoding
    ports: dict[int, int]  # of the parts that name one
    deliveries: dict[int, list[Any]]
    total: int
    since: float


def codec(data_coding: int, default: str) -> str:
    """The encoding of a data_coding; `default` is the carrier's own alphabet, for data_coding 0."""
    if data_coding == 0:
        return default
    known = _CODECS.get(data_coding)
    if known:
        return known
    # Groups 00xx, 01xx and 1111 of TS 23.038: the alphabet stands in bits 3 and 2 (or bit 2).
    alphabet = data_coding >> 2 & (1 if data_coding >= 0xF0 else 3)
    if data_coding >= 0x10 and (data_coding < 0x80 or data_coding >= 0xF0):
        return (default if default.startswith("gsm7") else "gsm7", "latin-1", "ucs2", "latin-1")[alphabet]
    return "latin-1"


def split_header(payload: bytes) -> tuple[bytes, Concatenation | None]:
    """(text, concatenation) of a payload with a user data header (3GPP TS 23.040, 9.2.3.24).

    Other elements are dropped (`read_port` and `shift_tables` read theirs); a header that makes no sense is text.
    """
    if not payload or 1 + payload[0] > len(payload):
        return payload, None
    found = None
    for element, value in _elements(payload):
        if element == 0x00 and len(value) == 3:
            found = Concatenation(value[0], value[1], value[2])
        elif element == 0x08 and len(value) == 4:
            found = Concatenation(value[0] << 8 | value[1], value[2], value[3])
    return payload[1 + payload[0] :], found if found and 1 <= found.index <= found.total else None


def _elements(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """(identifier, value) of a payload's header, up to the first that does not fit in it; none of no header."""
    stop, position = 1 + payload[0] if payload else 0, 1
    if stop > len(payload):
        return
    while position + 2 <= stop:
        start = position + 2
        position = start + payload[position + 1]
        if position > stop:
            return
        yield payload[start - 2], payload[start:position]


def read_port(message: pdu.Message) -> int | None:
    """The port of the application that a message is addressed to; 0 is none.

    That of the header (3GPP TS 23.040, 9.2.3.24.3 and .4: the destination stands before the originator; of several
    the last counts), else destination_port (5.3.2.21).
    """
    port = 0
    if message.esm_class & _UDHI:
        for element, value in _elements(message.payload):
            if (element, len(value)) in ((0x04, 2), (0x05, 4)):
                port = int.from_bytes(value[: len(value) // 2], "big")
    named = message.tlvs.get(pdu.TLV_DESTINATION_PORT, b"") if message.tlvs else b""
    return port or (int.from_bytes(named, "big") if len(named) <= 2 else 0) or None


def shift_tables(payload: bytes) -> tuple[int, int]:
    """(locking, single): the languages that the header of a payload names (3GPP TS 23.040, 9.2.3.24.15 and .16)."""
    found = {0x24: 0, 0x25: 0}
    for element, value in _elements(payload):
        if element in found and len(value) == 1:
            found[element] = value[0]
    return found[0x25], found[0x24]


def read_text(message: pdu.Message, alphabet: str) -> tuple[bytes, str, Concatenation | None]:
    """A message's octets, their encoding as `app.domain.text.decode` knows it, and which part of what they are."""
    payload, encoding, found = message.payload, codec(message.data_coding, alphabet), None
    shifts, header_octets = (0, 0), 0
    if message.esm_class & _UDHI:
        payload, found = split_header(payload)
        header_octets = len(message.payload) - len(payload)
        if header_octets and encoding.startswith("gsm7"):
            shifts = shift_tables(message.payload)
    if found is None and message.tlvs:
        found = _of_sar(message)
    if encoding == "gsm7-packed":
        payload, encoding = unpack(payload, header_octets), "gsm7"
    if shifts != (0, 0):
        encoding = f"gsm7/{shifts[0]}/{shifts[1]}"
    return payload, encoding, found


def _of_sar(message: pdu.Message) -> Concatenation | None:
    """sar_msg_ref_num and its company (5.3.2.22 to .24)."""
    reference = message.tlvs.get(pdu.TLV_SAR_MSG_REF_NUM, b"")
    total = message.tlvs.get(pdu.TLV_SAR_TOTAL_SEGMENTS, b"")
    index = message.tlvs.get(pdu.TLV_SAR_SEGMENT_SEQNUM, b"")
    if not (reference and total and index) or not 1 <= index[-1] <= total[-1]:
        return None
    return Concatenation(int.from_bytes(reference, "big") & MAX_REFERENCE, total[-1], index[-1])


class Reassembler:
    """The incomplete texts of one gateway. `alphabet` is the carrier's for data_coding 0; the parts of a text are
    waited for `limit_s` in all, here and elsewhere; what is given out may be repeated within `repeat_s`. `country`: see
    `numbers.phone`."""

    def __init__(self, alphabet: str, limit_s: float, repeat_s: float = 0.0, *, country: str = "") -> None:
        self._country = country
        self._alphabet = alphabet
        self._limit_s = limit_s
        self._repeat_s = repeat_s
        # In the order in which their first parts came.
        self._incomplete: dict[_Key, _Incomplete] = {}
        # Whole texts that were given out, oldest first: what repeats one of their parts is no text of its own.
        self._given_out: dict[_Key, _Incomplete] = {}

    def __len__(self) -> int:
        return len(self._incomplete)

    @property
    def idle(self) -> bool:
        """Nothing waits for a moment to come."""
        return not self._incomplete and not self._given_out

    def add(self, message: pdu.Message, delivery: Any, now: float) -> list[Complete]:
        """The text that this part completes, and parts that it pushes out; mostly one or none."""
        payload, encoding, found = read_text(message, self._alphabet)
        part, port = (payload, encoding), read_port(message)
        if found is None or found.total == 1:
            return [Complete(self._inbound(message, decode(*part), port), [delivery])]
        key = (message.source, message.destination, found.reference, found.total)
        completed = []
        waiting = self._incomplete.get(key)
        known = self._given_out.get(key)
        if waiting is None and known is not None and known.parts.get(found.index) == part:
            return [Complete(None, [delivery])]
        if waiting is not None and waiting.parts.get(found.index, part) != part:
            # Another text under the same reference: phones count only to 255.
            completed += self._take_parts(key)
            waiting = None
        if waiting is None:
            waiting = self._incomplete[key] = _Incomplete(message, {}, {}, {}, found.total, now)
        waiting.parts[found.index] = part
        if port is not None:
            waiting.ports[found.index] = port
        waiting.deliveries.setdefault(found.index, []).append(delivery)
        if len(waiting.parts) == waiting.total:
            self._given_out.pop(key, None)
            self._given_out[key] = waiting
            waiting.since = now
            if len(self._given_out) > MAX_INCOMPLETE:
                del self._given_out[next(iter(self._given_out))]
            completed.append(self._take(key))
        elif len(self._incomplete) > MAX_INCOMPLETE:
            completed += self._take_parts(next(iter(self._incomplete)))
        return completed

    def release(self, older_than: float) -> list[Complete]:
        """The parts of texts that are incomplete since before `older_than`.

        An SMSC with a window of one sends no second part before the first is acknowledged; and the second one may
        come by another bind.
        """
        old = []
        for key, waiting in self._incomplete.items():
            if waiting.since >= older_than:
                break
            old.append(key)
        return [part for key in old for part in self._take_parts(key)]

    def forget(self, now: float) -> None:
        """Drop what was given out so long ago that nothing repeats it."""
        while self._given_out:
            key, given_out = next(iter(self._given_out.items()))
            if now - given_out.since < self._limit_s:
                break
            del self._given_out[key]

    def flush(self) -> list[Complete]:
        """All parts: the gateway is closing."""
        return [part for key in list(self._incomplete) for part in self._take_parts(key)]

    def take_back(self, text: Complete) -> None:
        """It could not be stored: none of its parts is acknowledged, so all come again."""
        if text.key is not None:
            self._given_out.pop(text.key, None)

    def _take(self, key: _Key) -> Complete:
        waiting = self._incomplete.pop(key)
        deliveries = [one for its in waiting.deliveries.values() for one in its]
        waiting.deliveries = {}
        text, port = join(waiting.parts, waiting.total), port_of(waiting.ports)
        return Complete(self._inbound(waiting.first, text, port), deliveries, key)

    def _take_parts(self, key: _Key) -> list[Complete]:
        waiting = self._incomplete.pop(key)
        return [
            Complete(
                self._inbound(
                    waiting.first,
                    decode(octets, encoding),
                    waiting.ports.get(index),
                    Part(key[2], waiting.total, index, octets, encoding, self._limit_s),
                ),
                waiting.deliveries[index],
            )
            for index, (octets, encoding) in waiting.parts.items()
        ]

    def _inbound(
        self, message: pdu.Message, text: str, port: int | None, part: Part | None = None
    ) -> Inbound:
        return Inbound(
            sender=phone(message.source_ton, message.source, self._country),
            to=phone(message.dest_ton, message.destination, self._country),
            text=text,
            part=part,
            repeat_s=self._repeat_s,
            port=port,
        )
