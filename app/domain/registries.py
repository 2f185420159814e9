"""Do-not-call registers' files, row by row, behind one interface: a row's fields to the number that they name.

Each register gives its subscribers files in a form of its own. Those whose form is published stand in `FORMS`, with the
page; all others are read as `numbers`: one column of national or international numbers, by its name or the first, and,
if wanted, only the rows with a value in another ("No Text": "Y"). That takes what comes as an answer to a check
(Singapore, Australia), from a portal (Viet Nam 5656, Hong Kong) or an operator (India NCPR, Nigeria 2442), as CSV.
Nobody at this project has a licence: none was tried on a register's own file. See docs/registries.md.

Pure: the fields come in as data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from app.domain.phone import InvalidNumber, Number, calling_code_of, parse

Format = Literal["numbers", "us_national", "ca_national", "uk_tps"]


class Form(msgspec.Struct, frozen=True):
    """A register's published form. `country`: whose register it is; `fields`: how many a row may have, all one number;
    `digits`: how many that number has, 0: as the country's numbers have."""

    country: str
    fields: int
    digits: int
    source: str


FORMS: Final[Mapping[str, Form]] = {
    # area code and seven digits apart, or ten digits: the full list's flat file, not the change list's
    "us_national": Form("US", 2, 10, "FTC, Telemarketer Access Information: flat text file of the full list"),
    "ca_national": Form("CA", 2, 10, "CRTC, National DNCL, File Formats: flat text file"),
    # dialling code with its 0 and the rest, with or without a space between, filled up with spaces to 12
    "uk_tps": Form("GB", 1, 0, "Telephone Preference Service, Technical Specifications for File Formats"),
}


class UnknownColumn(ValueError):
    """The header has no such column."""


class Reader:
    """A file's rows. `header` takes the first row and says whether it was one."""

    def __init__(
        self, country: str, format_: Format, column: str | None = None, where: tuple[str, str] | None = None
    ) -> None:
        """`column`: the header's name for the number; without one, the first column, with or without a header.

        Raises ValueError: the form is another country's; KeyError: the country has no numbers.
        """
        self._form = FORMS.get(format_)
        self._country = country
        self._code = calling_code_of(country)
        if self._form is not None and self._form.country != country:
            raise ValueError(f"{format_} is a form of {self._form.country}'s register")
        self._column = column
        self._where = where
        self._place = 0
        self._where_place = -1

    def header(self, fields: Sequence[str]) -> bool:
        """Whether the first row is a header. Raises UnknownColumn."""
        names = [field.strip().casefold() for field in fields]
        if self._form is not None:
            return not any(char.isdigit() for field in fields for char in field)
        for wanted in (self._column, self._where[0] if self._where else None):
            if wanted is not None and wanted.casefold() not in names:
                raise UnknownColumn(wanted)
        if self._column is not None:
            self._place = names.index(self._column.casefold())
        if self._where is not None:
            self._where_place = names.index(self._where[0].casefold())
        if self._column is not None or self._where is not None:
            return True
        return not any(char.isdigit() for char in fields[0])

    def number(self, fields: Sequence[str]) -> str | None:
        """The number (E.164) that a row puts on the list; None: the row says that it is not. Raises InvalidNumber."""
        if self._form is not None:
            return self._in_form(self._form, fields)
        if self._where is not None:
            found = fields[self._where_place] if self._where_place < len(fields) else ""
            if found.strip().casefold() != self._where[1].casefold():
                return None
        raw = fields[self._place].strip() if self._place < len(fields) else ""
        return self._of_country(raw).e164

    def _in_form(self, form: Form, fields: Sequence[str]) -> str:
        digits = "".join("".join(fields).split())
        if (
            len(fields) > form.fields
            or not digits.isdecimal()
            or (form.digits and len(digits) != form.digits)
        ):
            raise InvalidNumber("not_a_number", "it is not a row of that form")
        return self._of_country(digits).e164

    def _of_country(self, raw: str) -> Number:
        """A number as people of the country write it, or an international one."""
        if raw.startswith("+"):
            return self._checked(parse(raw))
        digits = "".join(char for char in raw if char.isdigit())
        try:
            return self._checked(parse(f"+{self._code}{digits}"))
        except InvalidNumber:
            if not digits.startswith(self._code):
                raise
        return self._checked(parse(f"+{digits}"))

    def _checked(self, number: Number) -> Number:
        if number.country != self._country:
            raise InvalidNumber("other_country", f"it is not a number of {self._country}")
        return number
