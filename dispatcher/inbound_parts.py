"""Long inbound texts whose parts came apart: by several binds or dispatchers, or around a restart.

Guarantees: a part is stored before its carrier is told; its text is put together by whoever stores the last one; what
is missing after the time limit is shown as `…`, and the text is not lost. Each call is within `inbound.take`'s
transaction, under the gateway's lock.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import msgspec

from app.domain.text import decode, join
from app.store import inbound as book
from app.store import inbound_parts as store
from app.store.inbound_parts import Kept, Key
from gateways.base import Inbound, port_of

OVERDUE_LIMIT = 100  # texts of one gateway given up in one transaction


class Arrived(msgspec.Struct):
    """What to act on: a text, made of these parts (as each reads alone), if it is of several; or with `alone` a part
    whose text is not whole, to be looked at and not stored as a text."""

    inbound: Inbound
    pieces: tuple[str, ...] = ()
    alone: Key | None = None


async def put_together(
    driver: asyncpg.Connection, gateway_id: int, batch: Sequence[Inbound], now_s: float
) -> list[Arrived]:
    """The batch with texts in the place of the parts that complete them."""
    arrived: list[Arrived] = []
    for one in batch:
        arrived += [Arrived(one)] if one.part is None else await _add(driver, gateway_id, one, now_s)
    return arrived


async def _add(driver: asyncpg.Connection, gateway_id: int, one: Inbound, now_s: float) -> list[Arrived]:
    assert one.part is not None
    part, content = one.part, (one.part.octets, one.part.encoding)
    key = Key(one.sender, one.to, part.reference, part.total)
    kept = await store.kept(driver, gateway_id, key)
    before: list[Arrived] = []
    if kept.parts.get(part.index) == content:
        return []  # a repetition
    if kept.given_out or part.index in kept.parts:  # another text under the same reference
        if not kept.given_out:
            before = [_text(key, kept)]
        await store.drop(driver, gateway_id, key)
        kept.parts, kept.ports = {}, {}
    await store.keep(driver, gateway_id, key, part.index, content, now_s + part.wait_s, one.port)
    kept.parts[part.index] = content
    if one.port is not None:
        kept.ports[part.index] = one.port
    if len(kept.parts) < part.total:
        return [*before, Arrived(one, alone=key)]
    await store.give_out(driver, gateway_id, key)
    return [*before, _text(key, kept)]


async def overdue(driver: asyncpg.Connection, gateway_id: int, now_s: float) -> list[Arrived]:
    """Texts whose missing parts did not come in time, as they stand; what repeats parts of a text that came whole (by
    another bind, or before a restart) is none."""
    arrived = []
    for key in await store.overdue(driver, gateway_id, now_s, OVERDUE_LIMIT):
        kept = await store.kept(driver, gateway_id, key)
        await store.drop(driver, gateway_id, key)
        text = _text(key, kept)
        if not await book.contained(driver, gateway_id, key.sender, key.to, text.pieces, now_s):
            arrived.append(text)
    return arrived


def _text(key: Key, kept: Kept) -> Arrived:
    pieces = tuple(decode(*kept.parts[index]) for index in sorted(kept.parts))
    text = Inbound(key.sender, key.to, join(kept.parts, key.total), port=port_of(kept.ports))
    return Arrived(text, pieces)
