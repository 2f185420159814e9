"""How many segments a dead dispatcher's text had: the receipts of that many end it."""

from __future__ import annotations

import pytest

from app.domain import ids
from app.domain.pack import Entry, Pack, Parcel, Rest
from app.store.settlement import Estate, _total

MESSAGE = ids.message_id(bytes(16), 3)


def parcel(attempt: int, rest: Rest | None) -> Parcel:
    entry = Entry(3, "+12025550101", bytes(8), 5)  # five segments, intake thought
    pack = Pack(1, None, "US", "US", 1, "1", "x", None, None, False, [entry])
    return Parcel(bytes(16), bytes(16), 1, attempt, 5, 0.0, pack, {} if rest is None else {3: rest})


@pytest.mark.parametrize(
    ("attempt", "rest", "mask", "totals", "total"),
    [
        (1, None, 0b11, {}, 2),  # shift tables: fewer
        (1, None, 0b1111111, {}, 7),  # Latin-1: more
        (1, None, 0, {}, 5),  # over 60
        (2, None, 0b111, {1: 2}, 3),  # refused whole by one that cut it otherwise
        (2, Rest(0b01, 9), 0b01, {1: 2}, 2),  # the rest of what the attempt before had cut
        (2, Rest(0b01, 9), 0b01, {1: 2, 2: 2}, 2),
        (3, Rest(0b0110, 9), 0b0110, {1: 2, 2: 4}, 4),
        (2, Rest(0b01, 9), 0b01, {}, 5),
    ],
)
def test_the_total_is_that_of_the_attempts_own_cut(attempt, rest, mask, totals, total):
    one = parcel(attempt, rest)
    estate = Estate({}, {}, {(MESSAGE, n): found for n, found in totals.items()}, set())
    assert _total(one, one.pack.entries[0], mask, (MESSAGE, attempt), estate) == total
