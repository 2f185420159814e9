"""Numbers are read, validated and placed as the numbering plans say, and never repeated in errors."""

from __future__ import annotations

import itertools
import random
import re

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from app.domain import phone
from app.domain.digits import Automaton
from app.domain.phone import InvalidNumber, Number, parse

KINDS = {
    PhoneNumberType.FIXED_LINE: "fixed_line",
    PhoneNumberType.MOBILE: "mobile",
    PhoneNumberType.FIXED_LINE_OR_MOBILE: "fixed_line_or_mobile",
    PhoneNumberType.TOLL_FREE: "toll_free",
    PhoneNumberType.PREMIUM_RATE: "premium_rate",
    PhoneNumberType.SHARED_COST: "shared_cost",
    PhoneNumberType.VOIP: "voip",
    PhoneNumberType.PERSONAL_NUMBER: "personal_number",
    PhoneNumberType.PAGER: "pager",
    PhoneNumberType.UAN: "uan",
    PhoneNumberType.VOICEMAIL: "voicemail",
}
CODES = sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE)


def examples() -> list[str]:
    """Example numbers of every country and kind."""
    found = {
        phonenumbers.format_number(number, PhoneNumberFormat.E164)
        for region, kind in itertools.product(sorted(phonenumbers.SUPPORTED_REGIONS), KINDS)
        if (number := phonenumbers.example_number_for_type(region, kind))
    }
    for code in sorted(phonenumbers.COUNTRY_CODES_FOR_NON_GEO_REGIONS):
        number = phonenumbers.example_number_for_non_geo_entity(code)
        if number:
            found.add(phonenumbers.format_number(number, PhoneNumberFormat.E164))
    return sorted(found)


EXAMPLES = examples()


def reference(raw: str) -> Number | None:
    """What phonenumbers says, within the 15 digits of E.164."""
    try:
        number = phonenumbers.parse(raw)
    except phonenumbers.NumberParseException:
        return None
    e164 = phonenumbers.format_number(number, PhoneNumberFormat.E164)
    if not phonenumbers.is_valid_number(number) or len(e164) > 1 + phone.MAX_DIGITS:
        return None
    return Number(e164, phonenumbers.region_code_for_number(number), KINDS[phonenumbers.number_type(number)])


def ours(raw: str) -> Number | None:
    try:
        return parse(raw)
    except InvalidNumber:
        return None


def altered(number: str, rng: random.Random) -> str:
    """A number like `number`: some digits changed, added or lost."""
    digits = list(number[1:])
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        digits[rng.randrange(len(digits))] = rng.choice("0123456789")
    change = rng.random()
    if change < 0.1:
        digits.append(rng.choice("0123456789"))
    elif change < 0.2:
        digits.pop()
    elif change < 0.3:  # a national prefix, perhaps
        digits.insert(rng.choice((1, 2, 3)), rng.choice("0189"))
    return "+" + "".join(digits)


def test_example_numbers_of_every_country_and_kind() -> None:
    assert len(EXAMPLES) > 900
    assert {raw: ours(raw) for raw in EXAMPLES} == {raw: reference(raw) for raw in EXAMPLES}


@given(st.sampled_from(EXAMPLES), st.randoms(use_true_random=False))
def test_equals_phonenumbers_near_real_numbers(number: str, rng: random.Random) -> None:
    for _ in range(10):
        raw = altered(number, rng)
        assert ours(raw) == reference(raw), raw


@pytest.mark.parametrize(
    "raw",
    [
        "+3758103304131",  # valid as it stands, but the plan cuts its 8 as a national prefix
        "+37580012345",
        "+78005553535",  # here the 8 is not cut
        "+36061234567",
        "+54111512345678",  # 11 15 becomes 9 11
        "+5501511987654321",
        "+6218350412345678",
        "+3906123456",
        "+39012345",
    ],
)
def test_national_prefixes_are_cut_as_phonenumbers_does(raw: str) -> None:
    assert ours(raw) == reference(raw)


@given(st.sampled_from(CODES), st.text("0123456789", min_size=0, max_size=15))
def test_equals_phonenumbers_on_any_digits(code: int, national: str) -> None:
    raw = f"+{code}{national}"
    assert ours(raw) == reference(raw)


@pytest.mark.parametrize(
    ("number", "country", "kind"),
    [
        ("+12025550101", "US", "fixed_line_or_mobile"),
        ("+14165550101", "CA", "fixed_line_or_mobile"),
        ("+18765550101", "JM", "mobile"),
        ("+16842581234", "AS", "mobile"),
        ("+18005550199", "US", "toll_free"),
        ("+79121234567", "RU", "mobile"),
        ("+77011234567", "KZ", "mobile"),
        ("+447400123456", "GB", "mobile"),
        ("+447781123456", "GG", "mobile"),
        ("+447797712345", "JE", "mobile"),
        ("+447624123456", "IM", "mobile"),
        ("+262692123456", "RE", "mobile"),
        ("+262639012345", "YT", "mobile"),
        ("+590690001234", "GP", "mobile"),
        ("+594694201234", "GF", "mobile"),
        ("+596696201234", "MQ", "mobile"),
        ("+390612345678", "IT", "fixed_line"),
        ("+390669812345", "VA", "fixed_line"),
        ("+393123456789", "IT", "mobile"),
        ("+212612345678", "MA", "mobile"),
        ("+84912345678", "VN", "mobile"),
        ("+8613812345678", "CN", "mobile"),
        ("+5491123456789", "AR", "mobile"),
        ("+881612345678", "001", "mobile"),
    ],
)
def test_country_and_kind(number: str, country: str, kind: str) -> None:
    assert parse(number) == Number(number, country, kind)


@pytest.mark.parametrize(
    "written",
    [
        "+84912345678",
        "+84 912 345 678",
        "+84-912.345.678",
        "(+84) 912 345 678",
        "+84 (0)912 345 678",  # the national prefix does not belong there, but is often written
        "0084 912345678",
        "  +84912345678 ",
        "+84\u00a0912\u2011345\u2011678",  # no-break space, no-break hyphen
        "\u202a+84912345678\u202c",  # as iOS copies it from the address book
        "＋８４９１２３４５６７８",
        "+٨٤ ٩١٢ ٣٤٥ ٦٧٨",
    ],
)
def test_ways_to_write_one_number(written: str) -> None:
    assert parse(written) == Number("+84912345678", "VN", "mobile")


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("", "not_a_number"),
        ("+", "not_a_number"),
        ("hello", "not_a_number"),
        ("+84912345678\n", "not_a_number"),
        ("+84 912 345 678 / 679", "not_a_number"),
        ("++84912345678", "not_a_number"),
        ("84+912345678", "not_a_number"),
        ("1-800-FLOWERS", "not_a_number"),
        ("+84912345678\x00", "not_a_number"),
        ("+8491234567\ud800", "not_a_number"),
        ("+²8491234567", "not_a_number"),  # superscript two is a digit, not a decimal
        ("0912345678", "missing_country_code"),
        ("84912345678", "missing_country_code"),
        ("+999123456789", "unknown_country_code"),
        ("+0123456789", "unknown_country_code"),
        ("00", "unknown_country_code"),
        ("+84", "too_short"),
        ("+8491", "too_short"),
        ("+849123456789012", "too_long"),
        ("+84912345678901234", "too_long"),
        ("+84" + " " * 100, "too_long"),
        ("+12025550101 x12", "extension_not_allowed"),
        ("+12025550101;ext=12", "extension_not_allowed"),
        ("+12025550101,,12", "extension_not_allowed"),
        ("+10000000000", "invalid_for_country"),
        ("+84212345678", "invalid_for_country"),
    ],
)
def test_refusals_name_a_stable_code_and_no_number(written: str, code: str) -> None:
    with pytest.raises(InvalidNumber) as refusal:
        parse(written)
    assert refusal.value.code == code
    assert not re.search(r"\d{5}", refusal.value.detail)


def test_many_numbers_share_few_cached_verdicts() -> None:
    before = phone._verdict.cache_info().currsize
    for tail in range(2_000):
        parse(f"+8491{tail:07d}")
    assert phone._verdict.cache_info().currsize - before <= 110  # 10 or so prefixes, not 2,000 numbers
    assert phone._verdict.cache_info().maxsize == phone.PREFIX_CACHE_LIMIT


@pytest.mark.parametrize(
    ("e164", "shown"),
    [("+84912345678", "+849******78"), ("+8491", "*****"), ("", ""), ("+849123", "+849*23")],
)
def test_masked_hides_all_but_the_ends(e164: str, shown: str) -> None:
    assert phone.masked(e164) == shown


@pytest.mark.parametrize(
    ("e164", "code"), [("+84912345678", "84"), ("+12025550101", "1"), ("+380", "380"), ("+999", ""), ("", "")]
)
def test_calling_code(e164: str, code: str) -> None:
    assert phone.calling_code(e164) == code


# --- the automata behind the cached verdicts ---

PATTERNS = [
    r"\d{3}",
    r"[0-26-9]\d{2}",
    r"1(?:2|3[45])?\d",
    r"(?:12|3)\d{1,3}",
    r"(?:[25]\d|90?){2}",
    r"8|80?\d",
    r"(?:1|2(?:3|4))?",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_automaton_equals_re_on_every_short_string(pattern: str) -> None:
    automaton, match = Automaton(pattern), re.compile(pattern).fullmatch
    for length in range(4):
        verdicts: dict[str, set[bool]] = {}
        for digits in itertools.product("0123456789", repeat=length):
            text = "".join(digits)
            for known_length in range(length + 1):
                verdicts.setdefault(text[:known_length], set()).add(match(text) is not None)
        for known, seen in verdicts.items():
            expected = seen.pop() if len(seen) == 1 else None
            assert automaton.matches_all(known, length - len(known)) is expected, (known, length)


@pytest.mark.parametrize("pattern", [r"\d+", r"(?!1)\d", r"[^1]", r"(?:12", r"a", r".", r"{3}"])
def test_automaton_refuses_what_it_does_not_know(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"subset|parenthesis|can't stand"):
        Automaton(pattern)
