"""Phone numbers: from what people write to E.164, validated against the world's numbering plans.

Guarantees, held against the `phonenumbers` library by `tests/domain/test_phone.py`:

* `parse` accepts a number exactly when `phonenumbers.is_valid_number` does, and names the
  country that `phonenumbers.region_code_for_number` names. Stricter in one point: E.164
  allows 15 digits, calling code included, and so do we, always.
* The result is canonical: a national prefix left behind the calling code, as in
  "+44 (0)7911 123456", is dropped, so that two spellings of one number are one suppression.
* An error's detail never repeats the number.

What is accepted around the digits: a leading "+" or "00" (full-width too), spaces, hyphens,
dots, parentheses and the invisible marks that phones add on copying. Decimal digits of
every script are read by their value (Japanese and Arabic keyboards write them). Letters,
extensions and numbers without their calling code are refused: guessing the country of a
national number would text a stranger in another one.

How it is fast. Whether a number is valid is mostly decided by its first digits and its
length. On the first number of a prefix, the country's patterns are walked as automata; when
every continuation of that length ends in the same verdict, the verdict is cached for the
prefix. The rest goes through compiled regular expressions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Final, Literal

import msgspec
from phonenumbers.phonemetadata import PhoneMetadata, PhoneNumberDesc
from phonenumbers.phonenumberutil import COUNTRY_CODE_TO_REGION_CODE

from app.domain.digits import Automaton

Kind = Literal[
    "mobile", "fixed_line", "fixed_line_or_mobile", "toll_free", "premium_rate", "shared_cost",
    "voip", "personal_number", "pager", "uan", "voicemail",
]  # fmt: skip

MAX_RAW_CHARS: Final = 64  # as written, with separators; longer is refused unread
MAX_DIGITS: Final = 15  # ITU-T E.164, section 6: calling code included
MIN_NATIONAL_DIGITS: Final = 2
PREFIX_CACHE_LIMIT: Final = 65_536  # verdicts kept, about 200 bytes each

# Characters of the number as the caches cut them: "+" and then five or eight digits.
_SHORT_PREFIX: Final = 6
_LONG_PREFIX: Final = 9

# The plan's own order (ITU and phonenumbers): a number that fits several kinds is the first.
_SPECIAL_KINDS: Final[tuple[Kind, ...]] = (
    "premium_rate", "toll_free", "shared_cost", "voip", "personal_number", "pager", "uan", "voicemail",
)  # fmt: skip

_HYPHENS: Final = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d\u30fc"
_DOTS: Final = ".\uff0e\u00b7"
_PARENTHESES: Final = "()\uff08\uff09"
_SEPARATORS: Final = frozenset(_HYPHENS + _DOTS + _PARENTHESES + "\t")
_WITHOUT_SEPARATORS: Final = str.maketrans("", "", " \t-.()")  # the ASCII ones, at C speed
_PLUS: Final = frozenset("+\uff0b")


_CALLING_CODES: Final = frozenset(map(str, COUNTRY_CODE_TO_REGION_CODE))
_COUNTRIES: Final = frozenset(code for codes in COUNTRY_CODE_TO_REGION_CODE.values() for code in codes) - {
    "001"
}


class Number(msgspec.Struct, frozen=True, gc=False):
    """A valid number. `e164` with its plus sign; `country` ISO 3166-1 alpha-2, or "001" for a
    calling code that belongs to no country (satellite phones, +800 and the like)."""

    e164: str
    country: str
    kind: Kind


class InvalidNumber(ValueError):
    """Not a number that could be texted.

    `code` is stable: `not_a_number`, `missing_country_code`, `unknown_country_code`,
    `too_short`, `too_long`, `extension_not_allowed`, `invalid_for_country`.
    `detail` is for people and never holds the number.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def parse(raw: str) -> Number:
    """The number that `raw` writes, or `InvalidNumber`."""
    size = len(raw)
    if size <= MAX_DIGITS + 1 and raw.isascii() and raw[1:].isdigit():
        found = _verdict(raw[:_SHORT_PREFIX], size) or _verdict(raw[:_LONG_PREFIX], size)
        if found:  # the verdict has seen the plus sign
            return Number(raw, found[0], found[1])
    return _parse_written(raw)


def masked(e164: str) -> str:
    """A number as logs may show it: the first four characters and the last two digits."""
    return e164[:4] + "*" * max(0, len(e164) - 6) + e164[-2:] if len(e164) > 6 else "*" * len(e164)


def calling_code(e164: str) -> str:
    """The calling code of a number in E.164: "84" of "+84912345678"; "" when there is none such."""
    for end in (2, 3, 4):
        if e164[1:end] in _CALLING_CODES:
            return e164[1:end]
    return ""


# --- reading ---------------------------------------------------------------------------------


def is_country(code: str) -> bool:
    """Whether numbers may be of this country (ISO 3166-1 alpha-2)."""
    return code in _COUNTRIES


@cache  # one per country that has one
def calling_code_of(country: str) -> str:
    """The calling code of a country (ISO 3166-1 alpha-2). Raises KeyError for one that has none."""
    code = next(
        (code for code, countries in COUNTRY_CODE_TO_REGION_CODE.items() if country in countries), None
    )
    if code is None:
        raise KeyError(country)
    return str(code)


def _parse_written(raw: str) -> Number:
    """`parse` for numbers with separators and for those that no cached verdict covers."""
    if len(raw) > MAX_RAW_CHARS:
        raise InvalidNumber("too_long", f"longer than {MAX_RAW_CHARS} characters")
    plain = raw.translate(_WITHOUT_SEPARATORS)
    digits = plain[1:] if plain[:1] == "+" and plain.isascii() and plain[1:].isdigit() else _digits(raw)
    e164, size = "+" + digits, len(digits) + 1
    if size <= MAX_DIGITS + 1:
        found = _verdict(e164[:_SHORT_PREFIX], size) or _verdict(e164[:_LONG_PREFIX], size)
        if found:
            return Number(e164, found[0], found[1])
    return _resolve(digits)


def _digits(raw: str) -> str:
    """The digits of an international number, ASCII, calling code first; separators dropped."""
    plus, digits = False, []
    for char in raw:
        if char.isdecimal():
            digits.append(str(unicodedata.decimal(char)))
        elif char in _PLUS and not plus and not digits:
            plus = True
        elif char in _SEPARATORS or unicodedata.category(char) in ("Zs", "Cf"):
            continue
        else:
            raise _unreadable(char, bool(digits))
    text = "".join(digits)
    if not text:
        raise InvalidNumber("not_a_number", "no digits")
    if plus:
        return text
    if text.startswith("00"):
        return text[2:]
    raise InvalidNumber("missing_country_code", "write it in international form, with + and the calling code")


def _unreadable(char: str, after_digits: bool) -> InvalidNumber:
    if after_digits and char in "xX#;,~eE":  # "x12", "#12", ";ext=12", ",,12", "ext. 12"
        return InvalidNumber("extension_not_allowed", "an extension can't be texted")
    name = "a letter" if char.isalpha() else f"the character U+{ord(char):04X}"
    return InvalidNumber("not_a_number", f"{name} is not part of a number")


# --- deciding one number ---------------------------------------------------------------------


def _resolve(digits: str) -> Number:
    """Decide one number by regular expressions, as phonenumbers does, or say what is wrong."""
    plan = _plan_of(digits)
    if plan is None:
        raise InvalidNumber("unknown_country_code", "no country has this calling code")
    national = digits[len(plan.code) :]
    if len(national) < MIN_NATIONAL_DIGITS:
        raise InvalidNumber("too_short", f"too few digits after +{plan.code}")
    national = plan.without_national_prefix(national)
    if len(plan.code) + len(national) > MAX_DIGITS:
        raise InvalidNumber("too_long", f"more than {MAX_DIGITS} digits")
    found = plan.place(national)
    if found is None:
        raise plan.refusal(national)
    return Number(f"+{plan.code}{national}", found[0], found[1])


@lru_cache(maxsize=PREFIX_CACHE_LIMIT)
def _verdict(prefix: str, size: int) -> tuple[str, Kind] | None:
    """(country, kind) when every number of `size` characters that begins with `prefix` has it.

    None when some differ, when they are invalid, or when a national prefix may have to be cut.
    """
    plan = _plan_of(prefix[1:]) if prefix[:1] == "+" else None
    if plan is None:
        return None
    known = prefix[1 + len(plan.code) :]
    unknown = size - len(prefix)
    if len(known) + unknown < MIN_NATIONAL_DIGITS or plan.may_have_national_prefix(known):
        return None
    return plan.place_all(known, unknown)


def _plan_of(digits: str) -> Plan | None:
    code = calling_code("+" + digits)
    return _plan(int(code)) if code else None


@cache  # one per calling code: some 220
def _plan(code: int) -> Plan:
    return Plan(code)


# --- numbering plans -------------------------------------------------------------------------


class _Pattern:
    """One pattern of the metadata with its possible lengths."""

    __slots__ = ("_automaton", "_fullmatch", "_lengths", "_pattern")

    def __init__(self, desc: PhoneNumberDesc) -> None:
        self._pattern = str(desc.national_number_pattern)
        self._lengths = frozenset(desc.possible_length)  # empty: those of the general pattern
        self._fullmatch = re.compile(self._pattern).fullmatch
        self._automaton: Automaton | None = None

    def matches(self, national: str) -> bool:
        return (not self._lengths or len(national) in self._lengths) and self._fullmatch(national) is not None

    def matches_all(self, known: str, unknown: int) -> bool | None:
        """Whether `known` and any `unknown` further digits match; None when it depends on them."""
        if self._lengths and len(known) + unknown not in self._lengths:
            return False
        if self._automaton is None:
            self._automaton = Automaton(self._pattern)
        return self._automaton.matches_all(known, unknown)


class _Region:
    """One country's part of a plan."""

    def __init__(self, name: str, metadata: PhoneMetadata) -> None:
        self.name = name
        self._general = _pattern(metadata.general_desc)
        self._special = [(kind, p) for kind in _SPECIAL_KINDS if (p := _pattern(getattr(metadata, kind)))]
        self._fixed = _pattern(metadata.fixed_line)
        self._mobile = _pattern(metadata.mobile)
        self._leading = metadata.leading_digits
        self._leading_match = re.compile(metadata.leading_digits).match if metadata.leading_digits else None
        self._leading_automaton = Automaton(metadata.leading_digits) if metadata.leading_digits else None

    def kind(self, national: str) -> Kind | None:
        if self._general is None or not self._general.matches(national):
            return None
        for kind, pattern in self._special:
            if pattern.matches(national):
                return kind
        mobile = self._mobile is not None and self._mobile.matches(national)
        if self._fixed is not None and self._fixed.matches(national):
            return "fixed_line_or_mobile" if mobile else "fixed_line"
        return "mobile" if mobile else None

    def kind_of_all(self, known: str, unknown: int) -> Kind | Literal[False] | None:
        """The kind that all these numbers have; False: none of them has any; None: it differs."""
        general = self._general.matches_all(known, unknown) if self._general else False
        if not general:
            return general
        for kind, pattern in self._special:
            match = pattern.matches_all(known, unknown)
            if match is not False:
                return kind if match else None
        fixed = self._fixed.matches_all(known, unknown) if self._fixed else False
        mobile = self._mobile.matches_all(known, unknown) if self._mobile else False
        if fixed is None or mobile is None:
            return None
        if fixed:
            return "fixed_line_or_mobile" if mobile else "fixed_line"
        return "mobile" if mobile else False

    def claims(self, national: str) -> bool:
        """Whether a number of the shared plan is this country's."""
        if self._leading_match is not None:
            return self._leading_match(national) is not None
        return self.kind(national) is not None

    def claims_all(self, known: str, unknown: int) -> bool | None:
        if self._leading_automaton is not None:
            return self._leading_automaton.begins_all(known)
        kind = self.kind_of_all(known, unknown)
        return None if kind is None else kind is not False


def _pattern(desc: PhoneNumberDesc | None) -> _Pattern | None:
    return None if desc is None or desc.national_number_pattern is None else _Pattern(desc)


class Plan:
    """The numbers behind one calling code, of one country or of several (+1, +7, +44, +262 ...)."""

    def __init__(self, code: int) -> None:
        self.code = str(code)
        names: Sequence[str] = COUNTRY_CODE_TO_REGION_CODE[code]
        metadata = [PhoneMetadata.metadata_for_region_or_calling_code(code, name) for name in names]
        self._regions = [_Region(name, m) for name, m in zip(names, metadata, strict=True) if m is not None]
        main = metadata[0]
        if main is None:
            raise LookupError(f"no metadata for calling code {code}")
        general = main.general_desc or PhoneNumberDesc()
        self._general = _pattern(general)
        self._lengths = frozenset(general.possible_length)
        self._local_lengths = frozenset(general.possible_length_local_only)
        prefix = main.national_prefix_for_parsing
        self._prefix = re.compile(prefix) if prefix else None
        self._prefix_automaton = Automaton(prefix) if prefix else None
        self._prefix_rule = main.national_prefix_transform_rule

    def place(self, national: str) -> tuple[str, Kind] | None:
        """(country, kind) of one number."""
        for region in self._regions:
            if len(self._regions) == 1 or region.claims(national):
                kind = region.kind(national)
                return (region.name, kind) if kind else None
        return None

    def place_all(self, known: str, unknown: int) -> tuple[str, Kind] | None:
        """(country, kind) of every number with this beginning and so many digits more, or None."""
        for region in self._regions:
            claimed = len(self._regions) == 1 or region.claims_all(known, unknown)
            if claimed is None:
                return None
            if claimed:
                kind = region.kind_of_all(known, unknown)
                return (region.name, kind) if kind else None
        return None

    def may_have_national_prefix(self, known: str) -> bool:
        return self._prefix_automaton is not None and self._prefix_automaton.may_begin(known)

    def without_national_prefix(self, national: str) -> str:
        """Cut (or, in some countries, rewrite) a national prefix, where that keeps the number possible."""
        match = self._prefix.match(national) if self._prefix else None
        if match is None or self._prefix is None:
            return national
        if self._prefix_rule and (match.lastindex or 0) == self._prefix.groups:
            short = match.expand(self._prefix_rule) + national[match.end() :]
        else:
            short = national[match.end() :]
        if self._general_matches(national) and not self._general_matches(short):
            return national
        possible = len(short) in self._lengths or len(short) > max(self._lengths, default=0)
        return short if possible and len(short) not in self._local_lengths else national

    def _general_matches(self, national: str) -> bool:
        return self._general is not None and self._general.matches(national)

    def refusal(self, national: str) -> InvalidNumber:
        country = self._regions[0].name if len(self._regions) == 1 else f"+{self.code}"
        digits = f"{len(national)} digits after +{self.code}"
        if self._lengths and len(national) < min(self._lengths):
            return InvalidNumber("too_short", f"{digits}; {country} has at least {min(self._lengths)}")
        if self._lengths and len(national) > max(self._lengths):
            return InvalidNumber("too_long", f"{digits}; {country} has at most {max(self._lengths)}")
        return InvalidNumber("invalid_for_country", f"{digits}, but no number of {country} looks like this")
