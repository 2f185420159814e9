"""A country's and a state's frequency caps, both counted by a real Valkey from what a person has got."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from importlib.resources import files

import pytest

from app.countries import BadPack, Packs
from app.domain.message import Category
from app.domain.pack import Entry, Pack, Parcel
from app.policy import Decision, Desk
from app.queue import rules
from app.queue.connection import Queue

MIAMI, ANN = "+13055550123", b"\1" * 8
HOUR_S = 3_600
US = files("app.countries").joinpath("rules", "US.toml").read_text("utf-8")


def own(country: str, florida: str) -> Packs:
    """The shipped packs with those caps, "5/24h", and open at any hour."""
    (most, per), (most_there, per_there) = (cap.split("/") for cap in (country, florida))
    head, rest = US.split("[subdivisions.FL]")
    head = head.replace('daily = [["09:00", "20:00"]]', 'daily = [["00:00", "24:00"]]')
    head = head.replace('daily = [["08:00", "21:00"]]', 'daily = [["00:00", "24:00"]]')
    cap = f'[cap]\nmax = {most}\nper = "{per}"\n\n'
    there = '[subdivisions.FL]\nname = "Florida"\nconfidence = "low"\n'
    there += f'cap = {{ max = {most_there}, per = "{per_there}" }}\n\n'
    rest = rest[rest.index("[subdivisions.OK]") :]
    return Packs.load().replaced({"US.toml": f"{head}{cap}{there}{rest}".encode()})


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[Queue]:
    queue = Queue(redis_url)
    await queue.client.flushdb()
    queue.attach(1)
    await queue.load()
    await rules.mark_whole(queue, [1])
    month = {rules.of_tenant(1): 31 * 86_400_000}
    await rules.set_kept(queue, month)
    await rules.set_reach(queue, month)
    await rules.set_consents(queue, 1, {ANN: rules.word(rules.EXPRESS, time.time(), None)})
    yield queue
    await queue.close()


async def got(queue: Queue, *hours_ago: float) -> None:
    now = time.time()
    contacts = [
        rules.tenants_contact(1, ANN, bytes([n] * 16), int((now - ago * HOUR_S) * 1000))
        for n, ago in enumerate(sorted(hours_ago, reverse=True), 1)
    ]
    await rules.remember_contacts(queue, contacts)


async def decide(queue: Queue, desk: Desk, number: int = 99) -> Decision:
    now = time.time()
    entries = [Entry(0, MIAMI, ANN, 1)]
    pack = Pack(1, None, "US", "US", Category.marketing, "12", "Sale", None, None, False, entries)
    decision = desk.first(Parcel(bytes([number] * 16), bytes([number] * 16), 1, 1, 5, now, pack), now)
    answers = await rules.check(queue, desk.questions(decision))
    desk.second(decision, answers, now)
    return decision


def why(decision: Decision) -> tuple[str, float]:
    """The rule that holds, and in how many hours it lets go."""
    (waits,) = decision.waits
    (trace,) = [steps for _, steps, _ in decision.traces]
    (held,) = [rule for check, rule, _, verdict in trace if (check, verdict) == ("frequency_cap", "hold")]
    return held, (waits.until - time.time()) / HOUR_S


@pytest.mark.parametrize(
    ("hours_ago", "rule", "in_hours"),
    [
        ((0.2, 0.5), "US-FL.cap", 0.5),
        ((0.2, 0.5, 5), "US-FL.cap", 0.5),
        ((5, 6, 7, 8, 9), "US.cap", 15),
        ((5, 6, 7, 8, 9, 23), "US.cap", 15),
        ((0.2, 0.5, 7, 8, 9), "US.cap", 15),  # both: the later one
        (
            (0.2, 0.5, 7, 8, 23.9),
            "US.cap",
            0.5,
        ),  # both: the country's is free in 6 minutes, the state's in 30
    ],
)
async def test_both_caps_hold(queue: Queue, hours_ago: tuple[float, ...], rule: str, in_hours: float) -> None:
    desk = Desk(own("5/24h", "2/1h"))
    await got(queue, *hours_ago)
    held, hours = why(await decide(queue, desk))
    assert held == rule
    assert hours == pytest.approx(in_hours, abs=0.1)


@pytest.mark.parametrize(
    "hours_ago", [(), (0.5,), (0.5, 2, 3, 4), (1.1, 1.2, 1.3, 1.4), (25, 26, 27, 28, 29, 30)]
)
async def test_within_both_a_text_goes_and_the_trace_names_both(
    queue: Queue, hours_ago: tuple[float, ...]
) -> None:
    desk = Desk(own("5/24h", "2/1h"))
    await got(queue, *hours_ago)
    decision = await decide(queue, desk)
    assert len(decision.go) == 1
    (trace,) = [steps for _, steps, _ in decision.traces]
    assert {rule for check, rule, _, verdict in trace if (check, verdict) == ("frequency_cap", "pass")} == {
        "US.cap", "US-FL.cap",
    }  # fmt: skip


async def test_each_text_counts_for_both(queue: Queue) -> None:
    desk = Desk(own("5/24h", "2/1h"))
    for number in (1, 2):
        assert (await decide(queue, desk, number)).go
    assert why(await decide(queue, desk, 3))[0] == "US-FL.cap"
    await queue.client.flushdb()
    await rules.mark_whole(queue, [1])
    await rules.set_consents(queue, 1, {ANN: rules.word(rules.EXPRESS, time.time(), None)})
    await got(queue, 2, 3, 4)
    for number in (11, 12):
        assert (await decide(queue, desk, number)).go
    assert why(await decide(queue, desk, 13))[0] == "US.cap"


async def test_the_state_s_longer_span_counts_beside_the_country_s_higher_rate(queue: Queue) -> None:
    desk = Desk(own("1/1h", "3/7d"))
    await got(queue, 30, 60, 90)
    held, hours = why(await decide(queue, desk))
    assert (held, round(hours)) == ("US-FL.cap", 7 * 24 - 90)


def test_a_file_has_no_more_caps_than_can_be_told_apart() -> None:
    states = "".join(
        f'\n[subdivisions.{name}]\nname = "x"\nconfidence = "low"\ncap = {{ max = {n}, per = "{n}h" }}\n'
        for n, name in enumerate(("AK", "AZ", "AR", "CA", "CO", "DE", "GA", "HI", "ID"), 1)
    )
    head = US[: US.index("[subdivisions.FL]")]
    with pytest.raises(BadPack, match="more than 8 different caps"):
        Packs.load().replaced({"US.toml": (head + states).encode()})
