"""The hours that a decision is taken by: country, tenant, the contact's zone, the delay, what a law forbids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

import pytest

from app.countries import Packs
from app.countries.places import known_zones, zone
from app.countries.tenants import TenantTerms
from app.domain.message import Category, State
from app.domain.pack import Entry, Pack, Parcel
from app.policy import Decision, Desk
from app.queue.rules import Answer

PACKS = Packs.load()
PARIS, SYDNEY, NEW_YORK = "+33612345678", "+61412345678", "+12125550123"


def at(words: str, where: str = "Europe/Paris") -> float:
    return datetime.strptime(words, "%Y-%m-%d %H:%M").replace(tzinfo=zone(where)).timestamp()


def decide(
    desk: Desk,
    now_s: float,
    *people: str | tuple[str, str],
    country: str = "FR",
    letters: str = ".",
    hold_until: float | None = None,
    **more: Any,
) -> Decision:
    """Decide on marketing to these people, who have not opted out unless `letters` say so."""
    entries = []
    for index, person in enumerate(people):
        to, known_zone = person if isinstance(person, tuple) else (person, None)
        entries.append(Entry(index, to, bytes(8), 1, zone=known_zone))
    fields: dict[str, Any] = {"category": Category.marketing, "expires_at": None, **more}
    pack = Pack(
        7,
        None,
        country,
        country,
        fields["category"],
        "12",
        "Sale",
        None,
        fields["expires_at"],
        False,
        entries,
    )
    decision = desk.first(Parcel(bytes(16), bytes(16), 1, 1, 5, now_s, pack), now_s)
    if hold_until is not None:
        decision.hold_all(hold_until, "clocks_disagree")
    answers: Sequence[Answer] = [
        Answer(letters * len(question.recipients)) for question in desk.questions(decision)
    ]
    desk.second(decision, answers, now_s)
    return decision


def steps(decision: Decision, index: int = 0) -> list[tuple[str, str, str]]:
    (found,) = [trace for indexes, trace, _ in decision.traces if index in indexes]
    return [(check, rule, verdict) for check, rule, _, verdict in found]


def desk_with(lead_s: int = 0, **countries: Any) -> Desk:
    desk = Desk(PACKS)
    desk.set_hours(
        {7: TenantTerms(countries)} if countries else {}, {"FR": lead_s, "AU": lead_s, "US": lead_s}
    )
    return desk


def test_a_tenant_shuts_hours_that_the_country_leaves_open() -> None:
    desk = desk_with(FR={"windows": {"holidays": "open", "daily": [["10:00", "12:00"]]}})
    held = decide(desk, at("2027-02-17 09:00"), PARIS)
    (waits,) = held.waits
    assert (waits.until, waits.reason) == (at("2027-02-17 10:00"), "quiet_hours")
    assert ("quiet_hours", "tenant.FR.marketing", "hold") in steps(held)
    assert decide(desk_with(), at("2027-02-17 09:00"), PARIS).go
    going = decide(desk, at("2027-02-17 11:00"), PARIS)
    assert going.shuts == {0: at("2027-02-17 12:00")}
    assert ("tenant_hours", "tenant.FR", "pass") in steps(going)


def test_a_tenant_never_opens_what_the_country_shuts() -> None:
    """Whatever it sets: at every quarter of a week, what goes is open by the pack's widest hours."""
    desk = desk_with(
        **{"*": {"hours": "allowed", "windows": {"holidays": "open", "daily": [["00:00", "24:00"]]}}}
    )
    here = PACKS.jurisdiction(PARIS, "FR")
    for quarter in range(7 * 96):
        now = at("2027-02-15 00:00") + 900 * quarter
        wide = PACKS.hours(here, Category.marketing, now, widen=True)
        assert bool(decide(desk, now, PARIS).go) == wide.open


def test_a_tenant_may_widen_to_what_the_source_allows_and_the_trace_says_so() -> None:
    now = at("2027-02-17 20:30", "America/New_York")
    assert not decide(desk_with(), now, NEW_YORK, country="US").go
    widened = decide(desk_with(US={"hours": "allowed"}), now, NEW_YORK, country="US")
    assert widened.go
    assert steps(widened)[:2] == [
        ("quiet_hours", "US.marketing", "pass"),
        ("tenant_hours", "tenant.US", "widen"),
    ]
    versions = {
        version for _, trace, _ in widened.traces for check, _, version, _ in trace if check == "tenant_hours"
    }
    assert all(len(version) == 8 for version in versions)
    assert versions


def test_the_contacts_zone_goes_before_the_numbers() -> None:
    now = at("2027-02-17 12:00", "Australia/Perth")  # 15:00 in Sydney
    decision = decide(
        desk_with(), at("2027-02-17 18:00", "Australia/Perth"), (SYDNEY, "Australia/Perth"),
        (SYDNEY, "Australia/Sydney"), SYDNEY, country="AU",
    )  # fmt: skip
    assert [e.index for e in decision.go] == [0]
    assert now < decision.waits[0].until


@pytest.mark.parametrize("elsewhere", ["America/New_York", "Etc/GMT+12", "Factory", "Pacific/Kiritimati"])
def test_a_zone_that_the_country_does_not_have_opens_nothing(elsewhere: str) -> None:
    desk = desk_with()
    for hour in range(24):
        now = at(f"2027-02-17 {hour:02}:00", "Asia/Ho_Chi_Minh")
        alone = decide(desk, now, "+84912345678", country="VN")
        both = decide(desk, now, ("+84912345678", elsewhere), country="VN")
        assert not (both.go and alone.waits)
    assert decide(
        desk, at("2027-02-17 12:00", "Asia/Saigon"), ("+84912345678", "Asia/Saigon"), country="VN"
    ).go


def test_a_zone_that_tzdata_no_longer_has_is_as_good_as_none() -> None:
    now = at("2027-02-17 18:00", "Australia/Perth")
    assert not decide(desk_with(), now, (SYDNEY, "Australia/Atlantis"), country="AU").go
    assert "Australia/Perth" in known_zones()
    assert "../../etc/passwd" not in known_zones()


@pytest.mark.parametrize("lead_s", [0, 600, 3600])
def test_hours_end_early_by_the_delay_and_the_carriers_validity_with_the_window(lead_s: int) -> None:
    desk, shuts = desk_with(lead_s), at("2027-02-17 20:00")  # a Wednesday
    last = decide(desk, shuts - lead_s - 1, PARIS)
    assert last.shuts == {0: shuts}
    assert not decide(desk, shuts - lead_s, PARIS).go


def test_what_waits_for_an_hour_beyond_its_expiry_ends_now() -> None:
    decision = decide(desk_with(), at("2027-02-17 21:00"), PARIS, expires_at=at("2027-02-18 01:00"))
    assert [(state, reason) for _, state, reason in decision.stops] == [
        (State.expired, "quiet_hours_past_expiry")
    ]


def forbidding(*categories: str) -> Desk:
    content = (
        'country = "XK"\nname = "x"\nreviewed = 2026-11-22\nconfidence = "high"\nsources = ["t"]\ntests = ["t"]\n'
        '[marketing]\nbasis = "t"\n[marketing.safe]\ndaily = [["00:00", "24:00"]]\nholidays = "open"\n'
        '[consent]\ntype = "opt_in"\n[opt_out]\nkeywords = []\n'
        f'[forbidden]\ncategories = {list(categories)!r}\nbasis = "a law"\n'
    )
    return Desk(PACKS.replaced({"XK.toml": content.encode()}))


def test_what_a_law_forbids_is_stopped_after_the_opt_out_and_before_consent() -> None:
    desk = forbidding("marketing")
    for letters, reason in ((".", "legal_block"), ("s", "opted_out")):
        decision = decide(desk, 0.0, "+38344123456", country="XK", letters=letters)
        assert [(state, why) for _, state, why in decision.stops] == [(State.suppressed, reason)]
        assert not decision.go
        assert not decision.waits
    assert steps(decide(desk, 0.0, "+38344123456", country="XK")) == [
        ("suppression", "tenant.suppressions", "pass"),
        ("legal_block", "XK.forbidden", "stop"),
    ]
    assert decide(desk, 0.0, "+38344123456", country="XK", category=Category.otp).go


def test_what_is_held_before_the_questions_does_not_go_as_well() -> None:
    now = at("2026-11-25 10:00")
    assert [e.index for e in decide(desk_with(), now, PARIS).go] == [0]
    held = decide(desk_with(), now, PARIS, hold_until=now + 30)
    assert held.go == []
    assert [([e.index for e in w.entries], w.reason) for w in held.waits] == [([0], "clocks_disagree")]
    stopped = decide(desk_with(), now, PARIS, letters="s", hold_until=now + 30)
    assert [(e.index, reason) for e, _, reason in stopped.stops] == [(0, "opted_out")]
    assert stopped.go == stopped.waits == []


def test_a_newer_pack_holds_from_the_next_decision_on() -> None:
    desk = desk_with()
    now = at("2027-02-17 09:00")
    assert decide(desk, now, PARIS).go
    shut = FR.replace('["08:30", "20:00"]', '["12:00", "13:00"]')
    desk.replace(PACKS.replaced({"FR.toml": shut.encode()}))
    assert decide(desk, now, PARIS).waits[0].until == at("2027-02-17 12:00")


def test_a_country_that_never_opens_stops_what_waits_for_it() -> None:
    decision = decide(desk_with(), 0.0, ("+881612345678", "UTC"), "+881612345678", country="001")
    assert math.inf not in [waits.until for waits in decision.waits]


FR = files("app.countries").joinpath("rules", "FR.toml").read_text("utf-8")
