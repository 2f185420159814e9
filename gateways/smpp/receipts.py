"""Delivery receipts in deliver_sm and data_sm: which message, what state, when.

Guarantees:

* the optional parameters receipted_message_id and message_state (5.3.2.12, 5.3.2.35) win over
  the text; the text form of Appendix B is read in the spellings seen in the wild: any case,
  any field missing, any order, `submit date` or `submit_date`, `stat` or `status`, years of two or four digits;
* ids are normalised as the gateway's settings say, so that the id of a submit_sm_resp equals
  that of its receipt, whatever base, case or leading zeros the carrier uses in each;
* a person's text is never taken for a receipt: only esm_class or receipted_message_id make one, unless the
  gateway's settings say that the carrier marks neither;
* an intermediate notification never ends a message, but for one that says `delivered`;
* what can't be read is None, never an exception; what is read can be stored: no NUL, and no
  field longer than `MAX_FIELD_CHARACTERS`, so that no receipt fails for ever at the database.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Literal, get_args

from app.domain.storable import moment
from gateways.base import Receipt
from gateways.numbers import phone
from gateways.smpp import pdu

State = Literal[
    "enroute", "accepted", "delivered", "undelivered", "expired", "rejected", "deleted", "unknown"
]
IdForm = Literal["asis", "fold", "dec", "hex"]
Addresses = Literal["swapped", "kept", "ignored"]
ID_FORMS = get_args(IdForm)

# esm_class of deliver_sm, bits 5 to 2 (5.2.12)
_MESSAGE_TYPE = 0x3C
_SMSC_RECEIPT = 0x04
_INTERMEDIATE_NOTIFICATION = 0x20

# message_state, 5.2.28; 0 and 9 are SMPP 5.0's
STATES_BY_NUMBER: Mapping[int, tuple[str, State]] = {
    0: ("SCHEDULED", "accepted"),
    1: ("ENROUTE", "enroute"),
    2: ("DELIVERED", "delivered"),
    3: ("EXPIRED", "expired"),
    4: ("DELETED", "deleted"),
    5: ("UNDELIVERABLE", "undelivered"),
    6: ("ACCEPTED", "accepted"),  # read by a person on the carrier's side: not yet delivered
    7: ("UNKNOWN", "unknown"),
    8: ("REJECTED", "rejected"),
    9: ("SKIPPED", "undelivered"),
}

# stat: of Appendix B, with the longer spellings that carriers use as well
STATES_BY_WORD: Mapping[str, State] = {
    "DELIVRD": "delivered",
    "DELIVERED": "delivered",
    "READ": "delivered",
    "EXPIRED": "expired",
    "EXPIRD": "expired",
    "DELETED": "deleted",
    "CANCELED": "deleted",
    "CANCELLED": "deleted",
    "UNDELIV": "undelivered",
    "UNDELIVERED": "undelivered",
    "UNDELIVERABLE": "undelivered",
    "UNDELIVRD": "undelivered",
    "FAILED": "undelivered",
    "SKIPPED": "undelivered",
    "PERMFAILED": "undelivered",
    "NOROUTES": "undelivered",
    "ACCEPTD": "accepted",
    "ACCEPTED": "accepted",
    "SCHEDULED": "accepted",
    "BUFFERED": "enroute",
    "BUFFRED": "enroute",
    "ENROUTE": "enroute",
    "UNKNOWN": "unknown",
    "REJECTD": "rejected",
    "REJECTED": "rejected",
    "REJCTD": "rejected",
    "SENT": "enroute",
    "SUBMITD": "enroute",
    "QUEUED": "enroute",
    "PENDING": "enroute",
}

# Most receipts come in exactly this order: one match instead of a search per field.
_USUAL = re.compile(
    rb"id:([^ \"']+) sub:[0-9]* dlvrd:[0-9]* submit date:([0-9]*) done date:([0-9]*) "
    rb"stat:([A-Za-z]+) err:([^ ]*)",
)
# text: ends the fields: what follows it is the message and may look like a field.
_TEXT = re.compile(rb"(?i)(?:^|\s)text\s*[:=]")
# An empty value is followed by the next field, which is not its value.
_FIELD = re.compile(
    rb"(?i)(?:^|(?<=[\s,;\x00]))"
    rb"((?:(?:msg|message)[ _]?)?id|submit(?:[ _]?date)?|done[ _]?date|stat(?:us|e)?|err(?:or)?)\s*[:=]\s*[\"']?"
    rb"((?!(?:sub|dlvrd|submit(?:[ _]?date)?|done[ _]?date|stat(?:us|e)?|err(?:or)?)\s*[:=])[^\s,;\"'\x00]*)",
)
# What makes a text a receipt where the carrier marks it in no other way.
_LOOKS_SO = re.compile(rb"(?i)^\s*id\s*:\s*[^\s]+\s.*\bstat(?:us|e)?\s*:\s*[A-Z]+", re.DOTALL)
_UCS2 = 0x08
# 7.1.1.1: tenths of a second, quarters of an hour from UTC, and their sign, after YYMMDDhhmmss
_ABSOLUTE = re.compile(r"([0-9]{12})[0-9]([0-9]{2})([+-])")
_DECIMAL = re.compile(r"[0-9]+")
_HEXADECIMAL = re.compile(r"(?:0[xX])?([0-9A-Fa-f]+)")

MAX_FIELD_CHARACTERS = 255
_DATES_KEPT = 4096  # a carrier's clock has a few hundred distinct minutes in a day's receipts


def _as_is(raw: str) -> str:
    return raw.strip()


def _fold(raw: str) -> str:
    folded = raw.strip().lower()
    return folded.lstrip("0") or folded[:1]


def _decimal(raw: str) -> str:
    match = _DECIMAL.fullmatch(raw.strip())
    return str(int(match[0])) if match and len(match[0]) <= 64 else _fold(raw)


def _hexadecimal(raw: str) -> str:
    match = _HEXADECIMAL.fullmatch(raw.strip())
    return str(int(match[1], 16)) if match and len(match[1]) <= 64 else _fold(raw)


_NORMALISERS: Mapping[str, Callable[[str], str]] = {
    "asis": _as_is,
    "fold": _fold,
    "dec": _decimal,
    "hex": _hexadecimal,
}


def id_normaliser(form: IdForm) -> Callable[[str], str]:
    """How ids written in `form` become ours.

    `asis`: unchanged but for white space; `fold`: lower case without leading zeros; `dec` and
    `hex`: a number in that base, kept as decimal, so that a hexadecimal id and a decimal receipt
    meet. What is no number in that base is folded.
    """
    return _NORMALISERS[form]


def is_receipt(message: pdu.Message, *, unmarked: bool = False) -> bool:
    """By message type, or by receipted_message_id where a carrier leaves the type 0; with `unmarked` also by its
    text, which a person could write just as well."""
    kind = message.esm_class & _MESSAGE_TYPE
    if kind:
        return kind in (_SMSC_RECEIPT, _INTERMEDIATE_NOTIFICATION)
    if pdu.TLV_RECEIPTED_MESSAGE_ID in message.tlvs:
        return True
    return unmarked and _LOOKS_SO.match(_octets(message)[:MAX_FIELD_CHARACTERS]) is not None


class ReceiptReader:
    """Reads the receipts of one gateway. `zone` is that of the carrier's dates, which name none; `whole`: it
    sends one for all segments of a text. `addresses` of a receipt: `swapped`, as those of a text from the recipient
    (4.6.1), `kept` as they were submitted, or `ignored`. `country`: see `numbers.phone`."""

    def __init__(
        self,
        id_form: IdForm = "asis",
        zone: tzinfo = UTC,
        *,
        whole: bool = False,
        addresses: Addresses = "swapped",
        country: str = "",
    ) -> None:
        self._whole = whole
        self._addresses = addresses
        self._country = country
        self._normalise = id_normaliser(id_form)
        self._zone = zone
        self._dates: dict[bytes, float | None] = {}

    def read(self, message: pdu.Message) -> Receipt | None:
        """The receipt in `message`; None when it names no message."""
        payload = _octets(message) if message.data_coding == _UCS2 else message.payload
        match = _USUAL.match(payload)
        if match:
            number, submitted, done, word, error = match.groups()
        else:
            number, submitted, done, word, error = _fields(payload)
        raw = _field(word)
        state = _state_of(raw)
        if message.tlvs:
            number, raw, state, error = _from_tlvs(message.tlvs, number, raw, state, error)
        if message.esm_class & _MESSAGE_TYPE == _INTERMEDIATE_NOTIFICATION and state != "delivered":
            state = "enroute"  # an attempt failed, and the carrier goes on trying
        if not number or len(number) > pdu.MAX_MESSAGE_ID_OCTETS:
            return None
        return Receipt(
            self._normalise(_field(number)),
            state,
            raw,
            _field(error),
            *self._people(message),
            self._unix(submitted),
            self._unix(done),
            self._whole,
        )

    def _people(self, message: pdu.Message) -> tuple[str, str]:
        """The recipient and the sender of the text that a receipt speaks of, as far as it is to be believed."""
        if self._addresses == "ignored":
            return "", ""
        to_ton, to, sender = message.source_ton, message.source, message.destination
        if self._addresses == "kept":
            to_ton, to, sender = message.dest_ton, sender, to
        number = phone(to_ton, to, self._country)[:MAX_FIELD_CHARACTERS].lstrip("+") if self._country else ""
        return number or _field(to.lstrip(b"+")), _field(sender.lstrip(b"+"))

    def of_query(self, queried: pdu.Queried, gateway_message_id: str) -> Receipt:
        """The answer to a query_sm, as a receipt."""
        raw, state = STATES_BY_NUMBER.get(queried.state, (str(queried.state), "unknown"))
        error = str(queried.error) if queried.error else ""
        return Receipt(gateway_message_id, state, raw, error, done_at=self._unix(queried.final_date))

    def _unix(self, written: bytes) -> float | None:
        """Unix seconds of YYMMDDhhmm[ss] or YYYYMMDDhhmm[ss]; None for what is no date."""
        if not written:
            return None
        try:
            return self._dates[written]
        except KeyError:
            if len(self._dates) >= _DATES_KEPT:
                self._dates.clear()
            instant_s = self._dates[written] = _parse_date(written, self._zone)
            return instant_s


def _state_of(word: str) -> State:
    """Of a word, or of a number as in message_state."""
    known = STATES_BY_WORD.get(word.upper()) or STATES_BY_WORD.get(word.upper().rstrip("."))
    if known is None and word.isascii() and word.isdigit() and len(word) == 1:
        return STATES_BY_NUMBER[int(word)][1]
    return known or "unknown"


def _octets(message: pdu.Message) -> bytes:
    """The payload; of a receipt in UCS-2 its characters, which are ASCII."""
    if message.data_coding == _UCS2 and b"\x00" in message.payload[:2]:
        return message.payload.decode("utf-16-be", "replace").encode("latin-1", "replace")
    return message.payload


def _field(octets: bytes) -> str:
    text = octets[:MAX_FIELD_CHARACTERS].decode("latin-1")
    return text.replace("\x00", "") if "\x00" in text else text


def _fields(payload: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """id, submit date, done date, stat and err of a receipt in an unusual spelling; of each the first."""
    text = _TEXT.search(payload)
    found: dict[bytes, bytes] = {}
    for match in _FIELD.finditer(payload, 0, text.start() if text else len(payload)):
        key = match[1].lower().replace(b" ", b"").replace(b"_", b"")
        found.setdefault(key, match[2])
    return (
        found.get(b"id", b"") or found.get(b"msgid", b"") or found.get(b"messageid", b""),
        found.get(b"submitdate", b"") or found.get(b"submit", b""),
        found.get(b"donedate", b""),
        found.get(b"stat", b"") or found.get(b"status", b"") or found.get(b"state", b""),
        found.get(b"err", b"") or found.get(b"error", b""),
    )


def _from_tlvs(
    tlvs: Mapping[int, bytes], number: bytes, raw: str, state: State, error: bytes
) -> tuple[bytes, str, State, bytes]:
    receipted = tlvs.get(pdu.TLV_RECEIPTED_MESSAGE_ID, b"").partition(b"\x00")[0]
    coded = tlvs.get(pdu.TLV_MESSAGE_STATE, b"")
    network = tlvs.get(pdu.TLV_NETWORK_ERROR_CODE, b"")
    if coded:
        spelled, state = STATES_BY_NUMBER.get(coded[-1], (str(coded[-1]), "unknown"))
        # The text's word says more than the number that it repeats.
        raw = raw if raw and STATES_BY_WORD.get(raw.upper()) == state else spelled
    if not error and len(network) == 3:  # 5.3.2.31: network type and a code of two octets
        error = str(int.from_bytes(network[1:], "big")).encode()
    return receipted or number, raw, state, error


def _parse_date(written: bytes, zone: tzinfo) -> float | None:
    digits = written.decode("latin-1")
    absolute = _ABSOLUTE.fullmatch(digits)
    if absolute:
        digits = absolute[1]
        quarters = int(absolute[2]) * (1 if absolute[3] == "+" else -1)
        zone = timezone(timedelta(minutes=15 * max(min(quarters, 48), -48)))
    if not digits.isascii() or not digits.isdigit() or len(digits) not in (10, 12, 14):
        return None
    # Twelve digits are YYMMDDhhmmss, or YYYYMMDDhhmm: a leading 20 is a century, for 2020 is past.
    if len(digits) == 14 or (len(digits) == 12 and digits.startswith("20")):
        year, rest = int(digits[:4]), digits[4:]
    else:
        year, rest = 2000 + int(digits[:2]), digits[2:]
    parts = [int(rest[i : i + 2]) for i in range(0, len(rest), 2)] + [0]
    try:
        local = datetime(year, parts[0], parts[1], parts[2], parts[3], parts[4], tzinfo=zone)
        return moment(float(calendar.timegm(local.utctimetuple())))
    except (ValueError, OverflowError):  # the year 0 or 1
        return None
