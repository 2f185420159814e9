"""Texts without a final receipt, and when their carrier is asked about them (query_sm).

Guarantees: a text is asked about first at an age of `after_s`, then at twice that, and so on, by one dispatcher each
time; what is kept is one mark a gateway and time, and nothing of a text. A dispatcher that ends between claim and
answer leaves the text to the next time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import asyncpg
import msgspec

from app.domain import ids
from app.domain.pack import decode_pack
from app.store.intake import as_uuid, at
from app.store.recalls import Taken, taken_of
from app.store.receipts import HORIZON_S

SLICE_S = 60.0  # of handed-over texts that are looked through at once; after one without any, twice as much
MAX_SLICES = 30  # in one claim
_LAST_ID = b"\xff" * 16


class Question(msgspec.Struct, frozen=True):
    """A text to be asked about now. `sender` as it was submitted."""

    message_id: bytes
    sender: str
    taken: tuple[Taken, ...]


def ages_s(after_s: float) -> Iterator[float]:
    """How old a text is each time that it is asked about."""
    while after_s < HORIZON_S:
        yield after_s
        after_s *= 2


_MARK = """
INSERT INTO question_marks (gateway_id, step, at, message_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
"""
_DUE = """
SELECT a.at, a.message_id FROM attempts a
WHERE a.kind = 4 AND a.gateway_id = $1 AND a.at >= $2 AND (a.at, a.message_id) > ($2, $3) AND a.at <= $4
  AND NOT EXISTS (SELECT FROM finals f WHERE f.message_id = a.message_id)
ORDER BY a.at, a.message_id LIMIT $5
"""


async def claim(
    driver: asyncpg.Connection, gateway_id: int, after_s: float, now_s: float, limit: int
) -> list[Question]:
    """Up to `limit` texts of that gateway whose time it is; nobody else gets them this time."""
    found: dict[bytes, None] = {}
    for step, age_s in enumerate(ages_s(after_s)):
        if len(found) < limit:
            async with driver.transaction():
                due = await _page(driver, gateway_id, step, age_s, now_s, limit - len(found))
            found |= dict.fromkeys(due)
    return [one for message_id in found if (one := await _question(driver, gateway_id, message_id))]


async def _page(
    driver: asyncpg.Connection, gateway_id: int, step: int, age_s: float, now_s: float, limit: int
) -> list[bytes]:
    """The next ones at that age; the mark moves past them."""
    oldest, due = at(now_s - HORIZON_S), at(now_s - age_s)
    assert oldest is not None
    assert due is not None
    # what is older when the option is set is asked about once
    await driver.execute(_MARK, gateway_id, step, due if step else oldest, as_uuid(bytes(16)))
    mark = await driver.fetchrow(
        "SELECT at, message_id FROM question_marks WHERE gateway_id = $1 AND step = $2 FOR UPDATE SKIP LOCKED",
        gateway_id,
        step,
    )
    if mark is None:  # another dispatcher's turn
        return []
    place: tuple[datetime, bytes] = max((mark["at"], mark["message_id"].bytes), (oldest, bytes(16)))
    found: list[bytes] = []
    slice_s = SLICE_S
    for _ in range(MAX_SLICES):
        if place[0] >= due or len(found) >= limit:
            break
        end = min(place[0] + timedelta(seconds=slice_s), due)
        wanted = limit - len(found)
        rows = await driver.fetch(_DUE, gateway_id, place[0], as_uuid(place[1]), end, wanted)
        found += [row["message_id"].bytes for row in rows]
        slice_s = SLICE_S if rows else slice_s * 2
        place = (rows[-1]["at"], rows[-1]["message_id"].bytes) if len(rows) == wanted else (end, _LAST_ID)
    await driver.execute(
        "UPDATE question_marks SET at = $3, message_id = $4 WHERE gateway_id = $1 AND step = $2",
        gateway_id,
        step,
        place[0],
        as_uuid(place[1]),
    )
    return found


async def _question(driver: asyncpg.Connection, gateway_id: int, message_id: bytes) -> Question | None:
    """None: no segment of it has an id of that carrier's and no state."""
    taken = await taken_of(driver, message_id, gateway_id)
    if not taken:
        return None
    payload = await driver.fetchval(
        "SELECT payload FROM packs WHERE id = $1", as_uuid(ids.pack_of(message_id))
    )
    return Question(message_id, decode_pack(payload).sender, taken) if payload is not None else None
