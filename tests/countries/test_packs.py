"""What packs answer, what a broken data file says, and where numbers are placed."""

from __future__ import annotations

import math
import re
from datetime import datetime
from importlib.resources import files

import pytest

from app.countries import BadPack, Cap, Jurisdiction, Packs
from app.countries.places import zone
from app.domain import phone
from app.domain.message import Category

PACKS = Packs.load()
RULES = files("app.countries").joinpath("rules")
DEFAULT = {"default.toml": RULES.joinpath("default.toml").read_bytes()}
FR = RULES.joinpath("FR.toml").read_text("utf-8")


def place(e164: str) -> Jurisdiction:
    return PACKS.jurisdiction(e164, phone.parse(e164).country)


def load(text: str, name: str = "FR.toml") -> Packs:
    return Packs.from_files({**DEFAULT, name: text.encode()})


# --- packs ---


def test_the_first_countries_have_packs_and_others_the_default() -> None:
    for country in ("VN", "CN", "US", "FR", "GB", "IN", "SG", "AU"):
        assert PACKS.pack(country).id == country
    assert PACKS.pack("EE").id == "default"
    assert PACKS.pack("001").id == "default"
    assert PACKS.pack("RE").id == "FR"
    assert PACKS.pack("PR").id == "US"


def test_versions_are_a_date_and_a_hash_that_follows_the_content() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d\.[0-9a-f]{8}", PACKS.version)
    before, after = load(FR), load(FR.replace('["08:30", "20:00"]', '["08:30", "19:00"]'))
    assert before.pack("FR").version != after.pack("FR").version
    assert before.version != after.version
    assert before.pack("EE").version == after.pack("EE").version


def test_rules_of_each_pack_are_cited_and_dated() -> None:
    for pack in PACKS.all():
        assert pack.data.sources
        assert pack.data.marketing.basis
        assert pack.data.reviewed.year >= 2026
        assert pack.data.opt_out.keywords


@pytest.mark.parametrize("category", [Category.otp, Category.transactional])
def test_other_categories_have_no_hours(category: Category) -> None:
    verdict = PACKS.hours(place("+84912345678"), category, 0.0)
    assert (verdict.open, verdict.until, verdict.rule) == (True, math.inf, f"VN.{category.name}")
    assert verdict.version == PACKS.pack("VN").version


def test_a_country_without_a_pack_says_so_in_its_trace() -> None:
    assert PACKS.hours(place("+3725012345"), Category.marketing, 0.0).rule == "default.marketing"


def test_a_category_may_get_hours_from_its_pack() -> None:
    packs = load(
        FR + '\n[otp]\nbasis = "test"\n[otp.safe]\ndaily = [["10:00", "11:00"]]\nholidays = "open"\n'
    )
    paris = Jurisdiction("FR", (), ("Europe/Paris",))
    now = datetime(2027, 2, 17, 9, tzinfo=zone("Europe/Paris")).timestamp()
    assert packs.hours(paris, Category.otp, now).until == now + 3600
    assert packs.hours(paris, Category.otp, now).rule == "FR.otp"


def test_lead_shuts_early() -> None:
    now = datetime(2027, 2, 17, 12, tzinfo=zone("Europe/Paris")).timestamp()
    verdicts = [PACKS.hours(place("+33612345678"), Category.marketing, now, lead_s=s).until for s in (0, 600)]
    assert verdicts[0] - verdicts[1] == 600


def test_widening_never_passes_what_is_allowed() -> None:
    """Every 90 minutes of eight days: safe is inside widened, and widened inside `allowed`."""
    start = datetime(2027, 2, 15, tzinfo=zone("UTC")).timestamp()
    for pack in PACKS.all():
        if pack.id == "default":
            continue
        own = Jurisdiction(pack.id, (), PACKS._places.country_zones(pack.id, "")[:1])
        for now in (start + 5400 * i for i in range(16 * 8)):
            safe = PACKS.hours(own, Category.marketing, now)
            wide = PACKS.hours(own, Category.marketing, now, widen=True)
            assert wide.open or not safe.open, (pack.id, now)
            local = datetime.fromtimestamp(now, zone(own.zones[0]))
            allowed = (pack.data.marketing.allowed or pack.data.marketing.safe).week()[local.weekday()]
            second = local.hour * 3600 + local.minute * 60
            assert not wide.open or any(a <= second < b for a, b in allowed), (pack.id, now)


def test_caps() -> None:
    us, ee = PACKS.pack("US").version, PACKS.pack("EE").version
    assert PACKS.caps(place("+84912345678")) == (Cap(3, 86_400, "VN.cap", PACKS.pack("VN").version),)
    assert PACKS.caps(place("+12125550123")) == ()  # New York
    assert PACKS.caps(place("+13055550123")) == (Cap(3, 86_400, "US-FL.cap", us),)
    assert len(PACKS.caps(place("+18005550199"))) == 1  # could be in a state that has one; they are alike
    assert PACKS.caps(place("+3725012345")) == (Cap(1, 86_400, "default.cap", ee),)


@pytest.mark.parametrize(
    ("country", "florida", "expected"),
    [
        ((5, "24h"), (2, "1h"), ["US 5/86400", "US-FL 2/3600"]),
        ((2, "1h"), (5, "24h"), ["US-FL 5/86400", "US 2/3600"]),
        ((5, "24h"), (3, "24h"), ["US-FL 3/86400"]),
        ((3, "24h"), (5, "24h"), ["US 3/86400"]),
        ((3, "24h"), (3, "24h"), ["US-FL 3/86400", "US 3/86400"][1:]),
        ((1, "24h"), (2, "1h"), ["US 1/86400"]),  # who may get one a day never gets two in an hour
        ((10, "7d"), (10, "1h"), ["US 10/604800"]),
    ],
)
def test_a_country_s_and_a_state_s_caps_both_hold_but_for_idle_ones(
    country: tuple[int, str], florida: tuple[int, str], expected: list[str]
) -> None:
    caps = place_caps(country, florida)
    assert [f"{cap.rule.removesuffix('.cap')} {cap.max}/{cap.per_s}" for cap in caps] == expected


def place_caps(country: tuple[int, str], florida: tuple[int, str]) -> tuple[Cap, ...]:
    us = RULES.joinpath("US.toml").read_text("utf-8")
    head, rest = us.split("[subdivisions.FL]")
    rest = re.sub(r"cap = \{[^}]*\}", f'cap = {{ max = {florida[0]}, per = "{florida[1]}" }}', rest, count=1)
    own = f'[cap]\nmax = {country[0]}\nper = "{country[1]}"\n\n'
    packs = PACKS.replaced({"US.toml": f"{head}{own}[subdivisions.FL]{rest}".encode()})
    return packs.caps(packs.jurisdiction("+13055550123", "US"))


@pytest.mark.parametrize(
    ("country", "required", "type_"),
    [
        ("US", True, "written"),
        ("VN", True, "opt_in"),
        ("HK", False, "opt_out"),
        ("EE", True, "opt_in"),
        ("IN", True, "opt_in_registry"),
    ],
)
def test_consent(country: str, required: bool, type_: str) -> None:
    rule = PACKS.consent(country)
    assert (rule.required, rule.type) == (required, type_)
    assert rule.rule == f"{PACKS.pack(country).id}.consent"


# --- places ---


@pytest.mark.parametrize(
    ("e164", "zones"),
    [
        ("+84912345678", ["Asia/Ho_Chi_Minh"]),
        ("+8613812345678", ["Asia/Shanghai"]),  # Urumqi's own time is not in legal use
        ("+919876543210", ["Asia/Kolkata"]),
        ("+33612345678", ["Europe/Paris"]),
        ("+262692123456", ["Indian/Reunion"]),
        ("+212612345678", ["Africa/Casablanca"]),
        ("+12125550123", ["America/New_York"]),
        ("+18505550123", ["America/Chicago", "America/New_York"]),  # Florida's west
        ("+14485550123", ["America/Chicago", "America/New_York"]),  # its overlay
        ("+19285550123", ["America/Denver", "America/Phoenix"]),  # the Navajo Nation has summer time
        ("+19075550123", ["America/Adak", "America/Anchorage", "Pacific/Honolulu"]),
        ("+17875550123", ["America/Puerto_Rico"]),
        ("+14165550123", ["America/Toronto"]),
        ("+61293744000", ["Australia/Sydney"]),
        ("+5511987654321", ["America/Sao_Paulo"]),
        ("+525512345678", ["America/Mexico_City"]),
        ("+78121234567", ["Europe/Moscow"]),
        ("+34612345678", ["Atlantic/Canary", "Europe/Madrid"]),
        ("+6281212345678", ["Asia/Jakarta", "Asia/Jayapura", "Asia/Makassar"]),
        ("+38344123456", ["Europe/Belgrade"]),
    ],
)
def test_zones(e164: str, zones: list[str]) -> None:
    assert sorted(place(e164).zones) == zones


@pytest.mark.parametrize(("e164", "count"), [("+61412345678", 7), ("+79121234567", 11), ("+18005550199", 8)])
def test_a_number_that_tells_no_zone_has_every_zone_of_its_country(e164: str, count: int) -> None:
    assert len(place(e164).zones) == count


def test_satellite_phones_are_everywhere() -> None:
    world = place("+881612345678")
    assert len(world.zones) == 27
    assert PACKS.hours(world, Category.marketing, 0.0).until == math.inf


@pytest.mark.parametrize(
    ("e164", "subdivisions"),
    [
        ("+13055550123", ("US-FL",)),
        ("+12125550123", ("US-NY",)),
        ("+14165550123", ()),
        ("+17875550123", ()),
        ("+84912345678", ()),
    ],
)
def test_subdivisions(e164: str, subdivisions: tuple[str, ...]) -> None:
    assert place(e164).subdivisions == subdivisions


def test_a_toll_free_number_may_be_in_any_state_with_rules() -> None:
    expected = {f"US-{state}" for state in PACKS.pack("US").data.subdivisions}
    assert set(place("+18005550199").subdivisions) == expected
    assert len(expected) == 12


def test_every_area_code_of_the_united_states_has_its_state() -> None:
    """Fails when a new release of phonenumbers knows an area code that nanp.toml lacks."""
    without = []
    for area in range(200, 1000):
        try:
            number = phone.parse(f"+1{area}2345678")
        except phone.InvalidNumber:
            continue
        if number.country == "US" and number.kind == "fixed_line_or_mobile":
            subdivisions = place(number.e164).subdivisions
            without += [area] if len(subdivisions) != 1 else []
    assert not without


def test_millions_of_numbers_are_few_jurisdictions() -> None:
    numbers = [f"+1{area}555{line:04d}" for area in (212, 305, 415) for line in range(300)]
    assert len({PACKS.jurisdiction(number, "US") for number in numbers}) == 3


def test_a_number_that_is_no_longer_valid_is_placed_all_the_same() -> None:
    assert len(PACKS.jurisdiction("+61000", "AU").zones) == 7


# --- broken files: one line that names file and key ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"08:30", "20:00"', '"8:30", "20:00"'), "'8:30' is no time from 00:00 to 24:00"),
        (('"08:30", "20:00"', '"08:30", "24:30"'), "no time from 00:00 to 24:00"),
        (('"08:30", "20:00"', '"07:00", "20:00"'), "safe reaches past allowed - at `$.marketing`"),
        (('[["08:30", "20:00"]]', '[["08:30", "12:00"], ["11:00", "20:00"]]'), "windows of mon overlap"),
        (('holidays = "closed"', 'holidays = "maybe"'), "Invalid enum value 'maybe' - at `$.marketing"),
        (('holidays = "closed"\n', ""), "missing required field `holidays`"),
        (('type = "opt_in"', 'type = "optin"'), "Invalid enum value 'optin' - at `$.consent.type`"),
        (("mon_sat =", "mon_sut ="), "unknown field `mon_sut` - at `$.marketing"),
        (("reviewed = 2026-11-22\n", ""), "missing required field `reviewed`"),
        (('country = "FR"', 'country = "DE"'), "unlike the file's name - at `$.country`"),
        (('"BL", ', '"Bl", '), "'Bl' is no ISO 3166-1 alpha-2 code"),
        (('name = "France"', 'name = "France'), "FR.toml: "),
        (("[marketing]", 'zones = ["Europe/Lutetia"]\n[marketing]'), "no time zone - at `$.zones`"),
        (("[consent]", '[cap]\nmax = 3\nper = "soon"\n\n[consent]'), "'soon' is no duration such as 30m"),
        (("[consent]", '[cap]\nmax = 0\nper = "24h"\n\n[consent]'), "at least 1 - at `$.cap`"),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_line_with_file_and_key(change: tuple[str, str], message: str) -> None:
    assert change[0] in FR
    with pytest.raises(BadPack) as error:
        load(FR.replace(*change))
    assert str(error.value).startswith("FR.toml: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_holidays_need_a_calendar() -> None:
    text = FR.replace('"FR"', '"AC"').replace(
        'covers = ["BL", "GF", "GP", "MF", "MQ", "PM", "RE", "YT"]\n', ""
    )
    with pytest.raises(BadPack, match=r"AC\.toml: no holiday calendar for AC .*at `\$\.marketing`"):
        load(text, "AC.toml")


def test_the_default_can_not_be_missing_and_territories_have_one_pack() -> None:
    with pytest.raises(BadPack, match="default"):
        Packs.from_files({"FR.toml": FR.encode()})
    other = FR.replace('country = "FR"', 'country = "DE"')
    with pytest.raises(BadPack, match=r"BL has a pack already - at `\$\.covers`"):
        Packs.from_files({**DEFAULT, "FR.toml": FR.encode(), "DE.toml": other.encode()})


def test_midnight_crossing_and_single_days_before_groups() -> None:
    text = FR.replace('mon_sat = [["08:30", "20:00"]]', 'daily = [["20:00", "02:00"]]\nsun = []')
    text = re.sub(r"\[marketing.allowed\][^\[]*mon_sat[^\n]*\n[^\n]*\n", "", text)
    week = load(text).pack("FR").data.marketing.safe.week()
    assert week[2] == ((0, 7200), (72_000, 86_400))
    assert week[6] == ((0, 7200),)  # what is left of Saturday night
    assert week[0] == ((72_000, 86_400),)
