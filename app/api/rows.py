"""The rows of an upload, from bytes as they come: NDJSON and CSV. No I/O.

Guarantees: memory is bounded by one chunk of input and one record of MAX_RECORD_BYTES; a row that can't be read is
one fault with its line and doesn't stop the others; the same bytes give the same rows, however they are cut.

CSV as in RFC 4180, with UTF-8 (a byte order mark is skipped), comma, semicolon or tab (the header decides),
and quoted line breaks. A header is needed: `to` or `phone`, `client_reference` and `timezone` if wanted;
the other columns are variables.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Collection
from typing import NamedTuple

from app.api import wire
from app.api.decoding import decode, refuse_doubles
from app.api.limits import MAX_RECORD_BYTES, MAX_REFERENCE_CHARS
from app.api.problems import FieldError, Problem

NDJSON = frozenset(
    (b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines")
)
CSV = frozenset((b"text/csv", b"application/csv"))
BOM = b"\xef\xbb\xbf"

_QUOTED = re.compile(rb'"(?:[^"]|"")*"')
_DELIMITERS = (",", ";", "\t")
_ONCE = {b'"to"': 1, b'"variables"': 1, b'"client_reference"': 1}
_NUMBER_COLUMNS = ("to", "phone")
_REFERENCE_COLUMN = "client_reference"
_ZONE_COLUMN = "timezone"


class Record(NamedTuple):
    """One row's bytes without its line end; `line` counts from 1. Not `whole`: too long or unended, and
    `raw` is a digest of it."""

    line: int
    raw: bytes
    whole: bool


class Records:
    """Cuts bytes into records. `quoted`: a line break inside quotes belongs to the record (CSV)."""

    def __init__(self, *, quoted: bool) -> None:
        self._quoted = quoted
        self._rest = b""
        self._line = 0  # lines seen
        self._open = b""  # a record whose quotes are still open
        self._opened_at = 0
        self._dropped = hashlib.blake2b(digest_size=16)
        self._dropping = False

    def feed(self, data: bytes) -> list[Record]:
        """The records that `data` completes. Blank lines are none."""
        lines = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        rest = lines.pop()
        found: list[Record] = []
        for line in lines:
            self._take(line, found)
        if len(rest) > MAX_RECORD_BYTES:
            self._dropping = True
            self._dropped.update(rest)
            rest = b""
        self._rest = rest
        return found

    def finish(self) -> list[Record]:
        """What is left at the end."""
        found: list[Record] = []
        if self._rest or self._dropping:
            self._take(self._rest, found)
            self._rest = b""
        if self._open:
            found.append(Record(self._opened_at, _digest(self._open), whole=False))
            self._open = b""
        return found

    def _take(self, line: bytes, found: list[Record]) -> None:
        self._line += 1
        if self._line == 1 and line.startswith(BOM):
            line = line[len(BOM) :]
        if self._dropping or len(line) > MAX_RECORD_BYTES:
            self._dropped.update(line)
            found.append(Record(self._line, self._dropped.digest(), whole=False))
            self._dropped = hashlib.blake2b(digest_size=16)
            self._dropping = False
            return
        if line.endswith(b"\r"):
            line = line[:-1]
        if not self._quoted:
            if line and not line.isspace():
                found.append(Record(self._line, line, whole=True))
            return
        self._take_quoted(line, found)

    def _take_quoted(self, line: bytes, found: list[Record]) -> None:
        if self._open:
            line = self._open + b"\n" + line
        elif not line or line.isspace():
            return
        else:
            self._opened_at = self._line
        if b'"' in line and _is_open(line):
            if len(line) <= MAX_RECORD_BYTES:
                self._open = line
                return
            found.append(Record(self._opened_at, _digest(line), whole=False))
        else:
            found.append(Record(self._opened_at, line, whole=True))
        self._open = b""


def _digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=16).digest()


def _is_open(record: bytes) -> bool:
    """Whether a quoted field has no end yet. Quotes inside an unquoted field are plain characters."""
    at = 0
    while at < len(record):
        if record[at] == 0x22:
            quoted = _QUOTED.match(record, at)
            if quoted is None:
                return True
            at = quoted.end()
        following = [place for place in (record.find(d, at) for d in (b",", b";", b"\t")) if place >= 0]
        if not following:
            return False
        at = min(following) + 1
    return False


class NdjsonRows:
    """A JSON object a row: `{"to": …, "variables": {…}, "client_reference": …}`."""

    quoted = False
    has_header = False

    def recipient(self, raw: bytes) -> wire.Recipient | FieldError:
        """The row, or what is wrong with it."""
        try:
            found = decode(raw, wire.decode_recipient)
            refuse_doubles(raw, _ONCE)
        except Problem as problem:
            first = problem.errors[0] if problem.errors else None
            if isinstance(first, FieldError):
                return first
            detail = "the row is not a JSON object" if problem.code == "malformed_json" else problem.detail
            code = "malformed_row" if problem.code == "malformed_json" else problem.code
            return FieldError("", code, detail)
        return found


class CsvRows:
    """A record a row, under a header."""

    quoted = True
    has_header = True

    def __init__(self, wanted: Collection[str]) -> None:
        self._wanted = frozenset(wanted)  # the variables that the text names
        self._delimiter = ","
        self._columns = 0
        self._number = 0
        self._reference: int | None = None
        self._zone: int | None = None
        self._variables: list[tuple[str, int]] = []

    def header(self, raw: bytes) -> None:
        """Read the first record. Raises Problem (422)."""
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise _bad_header("the header is not UTF-8") from None
        self._delimiter = max(_DELIMITERS, key=text.count)
        names = [name.strip() for name in self._fields(text) or []]
        small = [name.lower() for name in names]
        number = next((small.index(name) for name in _NUMBER_COLUMNS if name in small), None)
        if number is None:
            raise _bad_header("the header has no column 'to' or 'phone'")
        if len(set(names)) < len(names):
            raise _bad_header("the header names a column twice")
        self._columns, self._number = len(names), number
        self._reference = small.index(_REFERENCE_COLUMN) if _REFERENCE_COLUMN in small else None
        self._zone = small.index(_ZONE_COLUMN) if _ZONE_COLUMN in small else None
        self._variables = [(name, place) for place, name in enumerate(names) if name in self._wanted]

    def _fields(self, text: str) -> list[str] | None:
        try:
            rows = list(csv.reader([text], delimiter=self._delimiter, strict=True))
        except csv.Error:
            return None
        return rows[0] if len(rows) == 1 else None

    def recipient(self, raw: bytes) -> wire.Recipient | FieldError:
        """The row, or what is wrong with it."""
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return FieldError("", "invalid_utf8", "the row is not UTF-8")
        if "\x00" in text:
            return FieldError("", "nul_character", "NUL can't be stored")
        fields = text.split(self._delimiter) if '"' not in text else self._fields(text)
        if fields is None or len(fields) != self._columns:
            count = "" if fields is None else f": {len(fields)} fields, and the header has {self._columns}"
            return FieldError("", "malformed_row", f"the row can't be read{count}")
        reference = None
        if self._reference is not None:
            reference = fields[self._reference] or None
            if reference is not None and len(reference) > MAX_REFERENCE_CHARS:
                return FieldError(
                    "/client_reference", "too_long", f"more than {MAX_REFERENCE_CHARS} characters"
                )
        variables: dict[str, wire.Value] | None = None
        if self._variables:
            variables = {name: fields[place] for name, place in self._variables}
        zone = fields[self._zone].strip() or None if self._zone is not None else None
        return wire.Recipient(fields[self._number], variables, reference, zone)


def _bad_header(detail: str) -> Problem:
    return Problem(422, "malformed_row", detail, [FieldError("/header", "malformed_row", detail)])
