"""From acceptance to the last receipt: what leaves, what comes back, and the state that it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.message import State

if TYPE_CHECKING:
    from tests.dispatcher.conftest import MakeWorld, Smsc, World

LONG = "x" * 400  # three segments of 153, 153 and 94


async def test_accepted_texts_are_handed_over_once_and_end_delivered(world: World) -> None:
    await world.start()
    to = [f"+1415{2000000 + i}" for i in range(250)]
    await world.accept(to)
    await world.until_final()
    assert await world.states() == {State.delivered: 250}
    assert await world.smsc.taken() == dict.fromkeys(to, 1)
    await world.check_books()


# The sandbox's numbers of fixed fate, and what becomes of a marketing text to each.
FATES = [
    ("5550100", State.delivered, None, 1),
    ("5550189", State.delivered, None, 1),  # ENROUTE first: says nothing final
    ("5550190", State.rejected, "invalid_number", 0),
    ("5550191", State.undelivered, "undelivered", 1),
    ("5550192", State.undelivered, "carrier_expired", 1),
    ("5550193", State.rejected, "rejected", 1),
    ("5550197", State.delivered, None, 1),  # the receipt before the answer
    ("5550198", State.delivered, None, 1),  # the receipt twice
]


async def test_every_fate_at_the_carrier_has_its_state(make_world: MakeWorld, smsc: Smsc) -> None:
    world = await make_world(smsc, response_timeout_s=0.5)
    await world.start()
    ids = {end: (await world.accept([f"+1202{end}"]))[0] for end, *_ in FATES}
    silent = (await world.accept(["+12025550194"]))[0]  # never a receipt
    for end, state, reason, taken in FATES:
        standing = await world.until_state(ids[end], state)
        assert standing.reason == reason, end
        assert (await world.smsc.taken())[f"+1202{end}"] == taken, end
    await world.until_state(silent, State.submitted)
    await world.check_books()
