"""Inbound texts on their way from the API's callbacks to the dispatcher, which takes them in.

Guarantee: a text is removed in the transaction that hands it out, which the caller commits after it was taken in.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from app.store.intake import at

PAGE = 200


async def park(driver: asyncpg.Connection, gateway_id: int, payloads: Sequence[bytes], now_s: float) -> None:
    """Keep encoded texts until the dispatcher takes them."""
    await driver.copy_records_to_table(
        "parked_inbound",
        records=[(gateway_id, payload, at(now_s)) for payload in payloads],
        columns=["gateway_id", "payload", "at"],
    )


async def unpark(driver: asyncpg.Connection) -> list[tuple[int, bytes]]:
    """The next texts, oldest first: (gateway, encoded). In the caller's transaction: rolled back, they stay."""
    rows = await driver.fetch(
        "DELETE FROM parked_inbound WHERE id IN (SELECT id FROM parked_inbound ORDER BY id LIMIT $1"
        " FOR UPDATE SKIP LOCKED) RETURNING id, gateway_id, payload",
        PAGE,
    )
    return [(r["gateway_id"], r["payload"]) for r in sorted(rows, key=lambda r: r["id"])]
