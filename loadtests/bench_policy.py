"""What the policy step costs: µs of CPU a message, in parcels of 100, without Redis.

    python -m loadtests.bench_policy [--parcels 200]

Marketing to numbers spread over countries and states, with and without a tenant's own hours; the answers of
Redis' copy are given (everybody passes).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from app.countries.packs import Packs
from app.countries.tenants import TenantTerms
from app.domain.message import Category
from app.domain.pack import PACK_SIZE, Entry, Pack, Parcel
from app.policy import Desk
from app.queue.rules import PASS, Answer

NOON_S = 1_802_887_200.0  # Wednesday 2027-02-17, 18:00 UTC
COUNTRIES: dict[str, Callable[[int], str]] = {
    "US": lambda i: f"+1{(212, 305, 415, 713, 206, 702, 312, 617)[i % 8]}555{i % 10_000:04}",
    "VN": lambda i: f"+8491{i % 10_000_000:07}",
    "AU": lambda i: f"+614{10_000_000 + i % 10_000_000}",
}


def parcel(country: str, start: int, category: Category) -> Parcel:
    """100 messages to different people."""
    number = COUNTRIES[country]
    entries = [Entry(i, number(start + i), (start + i).to_bytes(8, "big"), 1) for i in range(PACK_SIZE)]
    pack = Pack(1, None, country, country, category, "12025550100", "Sale", None, None, False, entries)
    return Parcel(bytes(16), start.to_bytes(16, "big"), 1, 1, 5, NOON_S, pack)


def measure(desk: Desk, parcels: list[Parcel]) -> float:
    """µs of CPU a message."""
    started = time.process_time()
    for one in parcels:
        decision = desk.first(one, NOON_S)
        questions = desk.questions(decision)
        desk.second(decision, [Answer(PASS * len(q.recipients)) for q in questions], NOON_S)
    return (time.process_time() - started) * 1e6 / (len(parcels) * PACK_SIZE)


def main() -> None:
    """Best of five, for each."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--parcels", type=int, default=200)
    wanted = arguments.parse_args()
    packs = Packs.load()
    terms: dict[str, Any] = {"*": {"windows": {"holidays": "open", "daily": [["06:00", "23:00"]]}}}
    for title, own in (("the packs alone", {}), ("with a tenant's own hours", {1: TenantTerms(terms)})):
        desk = Desk(packs)
        desk.set_hours(own, {})
        for country in COUNTRIES:
            for category in (Category.marketing, Category.otp):
                parcels = [parcel(country, n * PACK_SIZE, category) for n in range(wanted.parcels)]
                best = min(measure(desk, parcels) for _ in range(5))
                print(f"{title:28} {country} {category.name:14} {best:6.2f} µs a message")


if __name__ == "__main__":
    main()
