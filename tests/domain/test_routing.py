"""Routes, prices, weights and pools: pure, and the same in every process."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import prices, routing
from app.domain.routing import Asked, Member, Route, Table, Tariff, drawn, ranked, sender_for


def person(n: int) -> bytes:
    return blake2b(n.to_bytes(8, "big"), digest_size=8).digest()


def route(number: int, to: str, *gateways: str, **more: object) -> Route:
    fields = {"category": None, "sender": None, "tenant_id": None, **more}
    return Route(id=number, position=number, to=to, gateways=gateways, **fields)  # type: ignore[arg-type]


ASKED = Asked(1, 2, "VOLLEY", "US-FL", "US")


def test_the_first_route_that_matches_holds() -> None:
    table = Table(
        [
            route(1, "+1305", "miami"),
            route(2, "US", "otp", category=1),
            route(3, "US-FL", "theirs", tenant_id=2),
            route(4, "US", "named", sender="OTHER"),
            route(5, "US", "us"),
            route(6, "US-FL", "never"),
            route(7, "*", "any"),
        ]
    )
    plan = table.plan(ASKED)
    assert plan.choice("+13055550101", b"x").gateways == ("miami",)
    assert plan.choice("+14075550101", b"x").gateways == ("us",)
    assert plan.choice("+14075550101", b"x").route == 5
    assert plan.usual() == ("us",)
    assert table.plan(Asked(1, 1, "V", "US-FL", "US")).choice("+14075550101", b"").gateways == ("otp",)
    assert table.plan(Asked(2, 2, "V", "US-FL", "US")).choice("+14075550101", b"").gateways == ("theirs",)
    assert table.plan(Asked(1, 2, "OTHER", "US", "US")).choice("+14075550101", b"").gateways == ("named",)
    assert table.plan(Asked(1, 2, "V", "VN", "VN")).uniform.gateways == ("any",)  # type: ignore[union-attr]
    assert table.plan(Asked(1, 2, "V", "VN", "VN", test=True)).choice("+84", b"").gateways == ("sandbox",)
    assert table.plan(Asked(1, 2, "V", "VN", "VN", gateway="x")).choice("+84", b"").gateways == ("x",)
    assert Table().plan(ASKED).choice("+1", b"").why == "no_route"


def test_weights_split_within_four_standard_deviations() -> None:
    names, weights, n = ("a", "b", "c"), (70, 25, 5), 20_000
    counts = Counter(drawn(names, weights, person(i))[0] for i in range(n))
    for name, weight in zip(names, weights, strict=True):
        share = weight / 100
        assert abs(counts[name] - n * share) < 4 * (n * share * (1 - share)) ** 0.5


@given(st.binary(min_size=8, max_size=8), st.permutations(["a", "b", "c", "d"]), st.data())
def test_a_recipient_keeps_its_gateway_whatever_else_changes(
    recipient: bytes, names: list[str], data: st.DataObject
) -> None:
    weights = {name: data.draw(st.integers(1, 100)) for name in names}
    order = drawn(names, [weights[n] for n in names], recipient)
    assert sorted(order) == sorted(names)
    gone = data.draw(st.sampled_from(order))
    left = [n for n in names if n != gone]
    assert drawn(left, [weights[n] for n in left], recipient) == [n for n in order if n != gone]


def test_a_weight_of_0_is_for_when_no_other_can() -> None:
    assert all(drawn(("a", "b"), (0, 1), person(i)) == ["b", "a"] for i in range(100))


def test_the_cheapest_comes_first_in_the_common_currency() -> None:
    tariffs = {
        "euro": Tariff("EUR", {"*": Decimal("0.05"), "+84": Decimal("0.020"), "+8490": Decimal("0.05")}),
        "dollar": Tariff("USD", {"*": Decimal("0.06"), "VN": Decimal("0.0217")}),
        "yen": Tariff("JPY", {"*": Decimal(1)}),  # no rate
    }
    names = ("none", "yen", "dollar", "euro")
    table = Table(
        [route(1, "*", *names, strategy="cost")], tariffs, {"EUR": Decimal("1.08"), "USD": Decimal(1)}
    )
    plan = table.plan(Asked(1, 2, "V", "VN", "VN"))
    assert plan.choice("+84811234567", b"").gateways == ("euro", "dollar", "none", "yen")
    assert plan.choice("+84901234567", b"").gateways == ("dollar", "euro", "none", "yen")
    found = table.price("euro", "+84901234567", "VN", "VN")
    assert found is not None
    assert (found.amount, found.per) == (Decimal("0.05"), "+8490")
    one = Table([route(1, "*", "a", "b", strategy="cost")], {
        "a": Tariff("JPY", {"*": Decimal(3)}), "b": Tariff("JPY", {"*": Decimal(2)})
    })  # fmt: skip
    assert one.plan(ASKED).uniform.gateways == ("b", "a")  # type: ignore[union-attr]


def test_those_that_are_well_come_first_and_those_that_fail_not_at_all() -> None:
    health: dict[str, routing.Health] = {"a": "failing", "b": "worse", "c": "well", "d": "probing"}
    assert ranked(("a", "b", "c", "d", "e"), health).usable == ("c", "d", "b")
    assert dict(ranked(("a", "b", "e"), health).passed_over) == {"a": "failing", "b": "worse", "e": "down"}
    well: dict[str, routing.Health] = dict.fromkeys("ab", "well")
    assert [ranked(("a", "b"), well, attempt).usable[0] for attempt in (1, 2, 3, 4)] == ["a", "a", "b", "a"]


def test_a_person_has_one_sender_of_their_country() -> None:
    pool = [
        Member("12025550100", ("US", "CA")),
        Member("12025550101", ("US",)),
        Member("84901234567", ("VN",)),
        Member("VOLLEY"),
    ]
    people = [person(i) for i in range(500)]
    assert {sender_for(pool, "VN", one) for one in people} == {"84901234567"}
    assert {sender_for(pool, "FR", one) for one in people} == {"VOLLEY"}
    assert {sender_for(pool[:3], "FR", one) for one in people} == {one.address for one in pool[:3]}
    before = {one: sender_for(pool, "US", one) for one in people}
    assert 200 < Counter(before.values())["12025550100"] < 300
    random.Random(1).shuffle(pool)
    assert before == {one: sender_for(pool, "US", one) for one in people}
    grown = [*pool, Member("12025550102", ("US",))]
    moved = [one for one in people if sender_for(grown, "US", one) != before[one]]
    assert {sender_for(grown, "US", one) for one in moved} == {"12025550102"}
    assert 100 < len(moved) < 230


@pytest.mark.parametrize("value", [0.05, True, "1e3", "-1", "0.1234567", "1000000", "", "NaN", "٣", None])
def test_an_amount_is_an_exact_decimal(value: object) -> None:
    with pytest.raises(prices.BadPrice):
        prices.amount(value)


def test_price_lists() -> None:
    assert prices.price_list({"*": "0.05", "84": "0.030", "US-FL": 1}) == {
        "*": "0.05",
        "+84": "0.030",
        "US-FL": "1",
    }
    assert prices.read_csv("\ufeffto,price\r\n*,0.05\r\n\r\n+84,0.03\r\n") == {"*": "0.05", "+84": "0.03"}
    for text, line in (
        ("", "line 1: the header is to,price"),
        ("to,price\n+84\n", "line 2: two columns are wanted"),
        ("to,price\n84,1\n+84,2\n", "line 3: +84 is priced twice"),
        ("to,price\n+84,x\n", "line 2.+84: an amount has digits and a point, 0.0075"),
        ("to,price\nvn,1\n", "line 2.vn: neither '*' nor a region nor a number prefix"),
    ):
        with pytest.raises(prices.BadPrice) as caught:
            prices.read_csv(text)
        assert str(caught.value) == line
