"""Do-not-call registers' files, row by row, behind one interface: a row's fields to the number that they name.

Each register gives its subscribers files in a form of its own. Those whose form is published stand in `Format`; all
others are read by the name or place of a column, and by a column that must have a value ("No Text": "Y"). A list that
comes as an answer to a check (Singapore), on a portal (Viet Nam 5656, Hong Kong) or by the operator (India NCPR,
Nigeria 2442) is exported as CSV there. Nobody at this project has a licence: none was tried on a register's own file.

Pure: the fields come in as data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from app.domain.phone import InvalidNumber, Number, calling_code_of, parse

Format = Literal["numbers", "us_national"]


class UnknownColumn(ValueError):
    """The header has no such column."""


class Reader:
    """A file's rows. `header` takes the first row and says whether it was one."""

    def __init__(
        self, country: str, format_: Format, column: str | None = None, where: tuple[str, str] | None = None
    ) -> None:
        """`column`: the header's name for the number; without one, the first column, with or without a header."""
        self._country = country
        self._code = calling_code_of(country)
        self._format = format_
        self._column = column
        self._where = where
        self._place = 0
        self._where_place = -1

    def header(self, fields: Sequence[str]) -> bool:
        """Whether the first row is a header. Raises UnknownColumn."""
        names = [field.strip().casefold() for field in fields]
        if self._format == "us_national":
            return not all(field.strip().isdigit() for field in fields[:2])
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
        if self._format == "us_national":
            return self._us(fields)
        if self._where is not None:
            found = fields[self._where_place] if self._where_place < len(fields) else ""
            if found.strip().casefold() != self._where[1].casefold():
                return None
        raw = fields[self._place].strip() if self._place < len(fields) else ""
        return self._of_country(raw).e164

    def _us(self, fields: Sequence[str]) -> str:
        """The US national list's flat files: area code and the seven digits behind it (FTC, "Q&A for
        Telemarketers"), also written as one number of ten."""
        digits = "".join(field.strip() for field in fields[:2])
        if len(digits) != 10 or not digits.isdigit():
            raise InvalidNumber("not_a_number", "not an area code and seven digits")
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
