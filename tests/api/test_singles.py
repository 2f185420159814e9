"""The one-statement acceptance writes what the COPY writes."""

from __future__ import annotations

import time

from app.domain import ids
from app.domain.pack import Entry, Pack
from app.store import intake, singles
from app.store.intake import Draft

ROWS = {
    "packs": "tenant_id, batch_id, region, category, n, payload",
    "lookups": "tenant_id, recipient, reference, get_byte(uuid_send(message_id), 14) & 3 AS high, "
    "get_byte(uuid_send(message_id), 15) AS low",
    "parcels": "tenant_id, batch_id, lane, priority, members, n, in_flight, attempt, masks, due_at, expires_at, "
    "generation, lease_id, reason",
    "tallies": "tenant_id, batch_id, region, category, gateway_id, from_state, to_state, n, latency_ms, at",
}


def drafts(now_s: float) -> list[Draft]:
    """Two packs of one region and one of another, with everything that a row may have or lack."""
    made = []
    for region, expires_at, test in (("US", now_s + 600, False), ("US", None, True), ("US-DC", None, False)):
        entries = [
            Entry(0, "+12025550101", b"\xff" * 8, 1, {"a": "b"}, None, "ref"),
            Entry(2, "+12025550102", b"\x01" * 8, 3, None, "other", None, {"metadata": {"k": 1}}),
        ]
        pack = Pack(1, None, region, "US", 2, "Volley", "body", None, expires_at, False, entries, test)
        made.append(Draft(ids.new_id(now_s), pack, now_s + 5, 3))
    return made


async def test_both_ways_of_accepting_write_the_same_rows(api):
    now_s = time.time() // 1
    written = []
    for accept in (intake.accept, singles.accept):
        async with api.database.driver() as driver:
            for table in ROWS:
                await driver.execute(f"DELETE FROM {table}")
            async with driver.transaction():
                parcels = await accept(driver, drafts(now_s), now_s)
            rows = {
                table: sorted(map(repr, await driver.fetch(f"SELECT {columns} FROM {table}")))
                for table, columns in ROWS.items()
            }
            stored = {row["id"].bytes for row in await driver.fetch("SELECT id FROM parcels")}
        assert stored == {parcel.id for parcel in parcels}
        written.append(rows)
    assert written[0] == written[1]
    assert {table: len(rows) for table, rows in written[0].items()} == {
        "packs": 3,
        "lookups": 6,
        "parcels": 3,
        "tallies": 2,
    }
