"""Submissions as bodies of submit_sm.

Guarantees: what can't be written as a valid submit_sm is `Rejected` and never reaches the
wire; a number or name that could break out of its field (NUL, over-long) is among it.
"""

from __future__ import annotations

import re

from app.domain.text import decode_gsm7, pack, udh
from gateways.base import Rejected, Submission
from gateways.smpp import pdu
from gateways.smpp.config import Options, data_codings, vendor_tlvs

_CACHED = 4096  # distinct senders, and distinct validities, that are kept encoded

_UDHI = 0x40  # esm_class bit 6 (5.2.12)
ALL = -1  # the index of a body that carries all of a text's segments

_NUMBER = re.compile(r"\+?[0-9]{1,20}")
_NAME = re.compile(r"[\x20-\x7e\xa0-\xff]{1,20}")

_BAD_NUMBER = Rejected("invalid_number")
_BAD_SENDER = Rejected("invalid_sender")
_TOO_LONG = Rejected("content_rejected", "segment too long")
_NOT_IN_ALPHABET = Rejected("content_rejected", "not in the carrier's alphabet")
_BAD_METADATA = Rejected("content_rejected", "metadata not writable")
_ONLY_WHOLE = Rejected("partial_unsupported")

_MAX_VALIDITY_S = 360 * 86_400 - 1  # twelve months as counted below; the years stay 0


def relative_time(seconds: int) -> bytes:
    """validity_period as YYMMDDhhmmss000R (7.1.1.2), terminated: days, hours, minutes, seconds from now."""
    seconds = min(max(int(seconds), 1), _MAX_VALIDITY_S)
    days, rest = divmod(seconds, 86_400)
    # A month field's length is the carrier's guess, and some read more than 31 days as an
    # error: whole months of 30 days go into the month field.
    months, days = divmod(days, 30)
    hours, rest = divmod(rest, 3600)
    minutes, seconds = divmod(rest, 60)
    return b"00%02d%02d%02d%02d%02d000R\x00" % (months, days, hours, minutes, seconds)


class Encoder:
    """Writes the submissions of one gateway."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._service_type = options.service_type.encode("ascii") + b"\x00"
        self._dest = bytes((options.dest_ton, options.dest_npi))
        schedule = relative_time(options.schedule_s) if options.schedule_s else b"\x00"
        urgent = options.priority if options.otp_priority is None else options.otp_priority
        self._handling = pdu.handling(options.protocol_id, options.priority, schedule)
        self._urgent = pdu.handling(options.protocol_id, urgent, schedule)
        self._replace = int(options.replace_if_present)
        self._tlvs, self._asked = vendor_tlvs(options.tlvs)
        self._data_codings = data_codings(options)
        self._wide = options.concat == "udh16"
        self._senders: dict[str, bytes] = {}
        self._validities: dict[int, bytes] = {}

    def bodies(self, submission: Submission) -> list[tuple[int, bytes]] | Rejected:
        """(index, body) of each masked segment; or, in one message_payload, (ALL, body)."""
        destination = self.destination(submission.to)
        if destination is None:
            return _BAD_NUMBER
        source = self._senders.get(submission.sender)
        if source is None:
            source = self._source(submission.sender)
            if source is None:
                return _BAD_SENDER
        validity = b"\x00" if submission.validity_s is None else self._validity(submission.validity_s)
        coding, parts, header = self._data_codings[submission.encoding], submission.parts, submission.header
        if submission.encoding == "gsm7" and self._options.alphabet != "gsm7":
            try:
                parts = self._in_alphabet(parts, header)
            except UnicodeEncodeError:
                return _NOT_IN_ALPHABET
        own = self._own_tlvs(submission) if self._asked else self._tlvs
        if own is None:
            return _BAD_METADATA
        registered, service = self._options.registered_delivery, self._service_type
        handling = self._urgent if submission.category == "otp" else self._handling
        if len(parts) == 1:
            part, esm_class = parts[0], 0
            if header:
                part, esm_class = bytes((len(header),)) + header + part, _UDHI
            if len(part) > pdu.MAX_SHORT_MESSAGE_OCTETS:
                return _TOO_LONG
            body = pdu.submit_sm_body(
                source,
                destination,
                coding,
                part,
                esm_class,
                validity,
                registered,
                service,
                own,
                handling=handling,
                replace_if_present=self._replace,
            )
            return [(0, body)]
        return self._long(
            submission,
            parts,
            source,
            destination,
            coding=coding,
            validity=validity,
            handling=handling,
            own=own,
        )

    def _long(
        self,
        submission: Submission,
        parts: tuple[bytes, ...],
        source: bytes,
        destination: bytes,
        *,
        coding: int,
        validity: bytes,
        handling: bytes,
        own: bytes,
    ) -> list[tuple[int, bytes]] | Rejected:
        total, mask, reference = len(parts), submission.mask, submission.reference
        if self._options.concat == "payload" and mask != (1 << total) - 1:
            return _ONLY_WHOLE
        bodies = []
        for index, part in enumerate(parts):
            if not mask >> index & 1:
                continue
            octets, esm_class, tlvs = part, 0, b""
            if self._options.concat == "payload":
                index, octets = ALL, b""  # noqa: PLW2901 - one PDU for all
                tlvs = pdu.tlv(pdu.TLV_MESSAGE_PAYLOAD, b"".join(parts))
            elif self._options.concat == "sar":
                tlvs = _sar(reference, total, index)
            else:
                octets = udh(reference, total, index, self._wide, submission.header) + part
                esm_class = _UDHI
            if len(octets) > pdu.MAX_SHORT_MESSAGE_OCTETS:
                return _TOO_LONG
            body = pdu.submit_sm_body(
                source,
                destination,
                coding,
                octets,
                esm_class,
                validity,
                self._options.registered_delivery,
                self._service_type,
                tlvs + own,
                handling=handling,
            )  # never replace_if_present: the second segment would replace the first
            bodies.append((index, body))
            if index == ALL:
                break
        return bodies

    def _own_tlvs(self, submission: Submission) -> bytes | None:
        """The carrier's own optional parameters of a text. None: one can't be written."""
        written = [asked.written(submission.metadata or {}) for asked in self._asked]
        return None if None in written else self._tlvs + b"".join(one for one in written if one)

    def _in_alphabet(self, parts: tuple[bytes, ...], header: bytes) -> tuple[bytes, ...]:
        """GSM-7 parts as the carrier's own alphabet is written. Raises UnicodeEncodeError."""
        options = self._options
        if options.alphabet != "gsm7-packed":
            return tuple(decode_gsm7(part).encode(options.alphabet) for part in parts)
        if len(parts) == 1:
            return (pack(parts[0], 1 + len(header) if header else 0),)
        if options.concat == "payload":
            return (pack(b"".join(parts)), *[b""] * (len(parts) - 1))
        by_header = (7 if self._wide else 6) + len(header)
        return tuple(pack(part, 0 if options.concat == "sar" else by_header) for part in parts)

    def destination(self, to: str) -> bytes | None:
        """The recipient as it stands in submit_sm, and so in cancel_sm; None: it can't be written."""
        digits = to[1:] if to[:1] == "+" else to
        if not (digits.isdigit() and digits.isascii() and len(digits) <= pdu.MAX_ADDRESS_CHARACTERS):
            return None
        return self._dest + digits.encode() + b"\x00"

    def source(self, sender: str) -> bytes | None:
        """The sender as it stands in submit_sm, and so in query_sm and cancel_sm; None: it can't be written."""
        return self._senders.get(sender) or self._source(sender)

    def _source(self, sender: str) -> bytes | None:
        """The sender as an address: alphanumeric 5/0, short code 3/0, else international 1/1, unless set."""
        options = self._options
        if _NUMBER.fullmatch(sender):
            digits = sender.lstrip("+")
            if len(digits) <= options.short_code_max and not sender.startswith("+"):
                ton, npi = options.short_code_ton, options.short_code_npi
            else:
                ton, npi = options.number_ton, options.number_npi
        elif _NAME.fullmatch(sender):
            digits, ton, npi = sender, options.name_ton, options.name_npi
        else:
            return None
        if not digits or len(digits) > pdu.MAX_ADDRESS_CHARACTERS:
            return None
        ton = ton if options.source_ton is None else options.source_ton
        npi = npi if options.source_npi is None else options.source_npi
        if len(self._senders) >= _CACHED:
            self._senders.clear()
        source = self._senders[sender] = pdu.address(ton, npi, digits.encode("latin-1"))
        return source

    def _validity(self, seconds: int) -> bytes:
        written = self._validities.get(seconds)
        if written is None:
            if len(self._validities) >= _CACHED:
                self._validities.clear()
            written = self._validities[seconds] = relative_time(seconds)
        return written


def _sar(reference: int, total: int, index: int) -> bytes:
    """5.3.2.22 to .24."""
    return (
        pdu.tlv(pdu.TLV_SAR_MSG_REF_NUM, (reference & 0xFFFF).to_bytes(2, "big"))
        + pdu.tlv(pdu.TLV_SAR_TOTAL_SEGMENTS, bytes((total,)))
        + pdu.tlv(pdu.TLV_SAR_SEGMENT_SEQNUM, bytes((index + 1,)))
    )
