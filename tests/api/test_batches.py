"""POST and GET /v1/batches; pause, resume, cancel."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from app.api import limits
from app.domain.pack import decode_pack
from app.offering import attach
from app.queue import lanes
from app.queue.connection import Queue
from app.store import epochs

NUMBERS = ["+12025550101", "+84912345678", "+447400123456", "+33612345678", "+919812345678", "+6591234567"]


def recipients(count: int) -> list[dict]:
    return [{"to": NUMBERS[n % len(NUMBERS)], "variables": {"name": f"N{n}"}} for n in range(count)]


async def test_the_valid_ones_are_accepted_and_the_others_listed(api):
    bad = [
        {"to": "+1202"},
        {"to": 5},
        {"to": "+12025550101"},
        {"to": "+12025550101", "variables": {"name": "x"}, "what": 1},
        {"variables": {"name": "x"}},
        "text",
        {"to": "+12025550101", "variables": {"name": "ы" * 1_500}},
    ]
    reply = await api.post("/v1/batches", api.batch([*recipients(3), *bad]))
    assert reply.status == 202
    answer = reply.json
    assert answer["accepted"] == 3
    assert [(one["index"], one["pointer"], one["code"]) for one in answer["rejected"]] == [
        (3, "/recipients/3/to", "invalid_number"),
        (4, "/recipients/4/to", "wrong_type"),
        (5, "/recipients/5/variables/name", "missing_variable"),
        (6, "/recipients/6/what", "unknown_field"),
        (7, "/recipients/7/to", "required"),
        (8, "/recipients/8", "wrong_type"),
        (9, "/recipients/9/variables", "body_too_long"),
    ]
    assert answer["rejected"][0]["reason"] == "too_short"
    batch = (await api.get(answer["url"])).json
    assert (batch["state"], batch["total"], batch["rejected"]) == ("running", 3, 7)
    assert batch["counts"]["queued"] == 3
    assert batch["regions"] == {"GB": {"queued": 1}, "US": {"queued": 1}, "VN": {"queued": 1}}
    assert batch["accounting"] == {"accepted": 3, "final": 0, "open": 3, "difference": 0}
    first = (await api.get(f"{answer['url']}/rejections?limit=4")).json
    rest = (await api.get(f"{answer['url']}/rejections?limit=4&cursor={first['next']}")).json
    assert [one["index"] for one in first["data"] + rest["data"]] == list(range(3, 10))
    assert (first["total"], rest["next"]) == (7, None)


async def test_a_batchs_metadata_and_limit_go_with_its_texts(api):
    body = {**api.batch(recipients(2)), "metadata": {"dlt_template_id": "1107"}, "max_segments": 3}
    assert (await api.post("/v1/batches", body)).status == 202
    rows = await api.fetch("SELECT payload FROM packs ORDER BY id DESC LIMIT 2")
    packs = [decode_pack(row["payload"]) for row in rows]
    assert {(pack.metadata["dlt_template_id"], pack.max_segments) for pack in packs} == {("1107", 3)}


async def test_what_waits_for_its_time_is_deferred_in_its_region_too(api):
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    reply = await api.post("/v1/batches", api.batch(recipients(3), scheduled_at=tomorrow.isoformat()))
    batch = (await api.get(reply.json["url"])).json
    assert batch["counts"]["deferred"] == 3
    assert batch["regions"] == {"GB": {"deferred": 1}, "US": {"deferred": 1}, "VN": {"deferred": 1}}


async def test_a_character_that_cannot_be_stored_refuses_its_recipient_alone(api):
    good = b'{"to":"+12025550101","variables":{"name":"x"}}'
    bad = [
        b'{"to":"+12025550101","variables":{"name":"a%s"}}' % one
        for one in (rb"\u0000", rb"\ud800", rb"\ud800 ")
    ]
    terms = b'{"category":"otp","sender":"12025550199","body":"{name}","recipients":['
    for one, code in zip(bad, ("nul_character", "lone_surrogate", "lone_surrogate"), strict=True):
        reply = await api.raw("/v1/batches", terms + b",".join((good, one, good)) + b"]}")
        assert (reply.status, reply.json["accepted"]) == (202, 2), reply.raw
        assert [(r["index"], r["pointer"], r["code"]) for r in reply.json["rejected"]] == [
            (1, "/recipients/1/variables/name", code)
        ]
    doubled = terms + b'{"to":"+12025550101","to":"+12025550102","variables":{"name":"x"}}]}'
    assert (await api.raw("/v1/batches", doubled)).code == "duplicate_key"


async def test_when_none_is_valid_there_is_no_batch(api):
    before = await api.count("batches")
    reply = await api.post("/v1/batches", api.batch([{"to": "+1"}, {"to": "x", "variables": {}}], body="x"))
    assert (reply.status, reply.code) == (422, "no_valid_recipients")
    assert [one["index"] for one in reply.json["errors"]] == [0, 1]
    assert await api.count("batches") == before


BAD = [
    ({"recipients": []}, "too_short", "/recipients"),
    ({"recipients": {}}, "wrong_type", "/recipients"),
    (
        {"recipients": [{"to": "+12025550101"}] * (limits.MAX_RECIPIENTS + 1)},
        "too_many_recipients",
        "/recipients",
    ),
    ({"category": None}, "wrong_type", "/category"),
    ({"body": "{x"}, "template_syntax", "/body"),
    ({"scheduled_at": "2020-01-01T00:00:00Z"}, "time_in_past", "/scheduled_at"),
    ({"name": ""}, "too_short", "/name"),
]


@pytest.mark.parametrize(("changes", "code", "pointer"), BAD, ids=lambda one: str(one)[:40])
async def test_terms_that_are_wrong_refuse_the_whole_batch(api, changes, code, pointer):
    reply = await api.post("/v1/batches", api.batch(recipients(1)) | changes)
    assert (reply.status, reply.code) == (422, code)
    assert reply.json["errors"][0]["pointer"] == pointer


async def test_ten_thousand_go_in_at_once_and_others_have_their_turn(api):
    made = api.batch(recipients(10_000))
    done = asyncio.create_task(api.post("/v1/batches", made))
    waits = []
    while not done.done():
        started = time.perf_counter()
        assert (await api.get("/healthz")).status == 200
        waits.append(time.perf_counter() - started)
        await asyncio.sleep(0)
    reply = await done
    assert (reply.status, reply.json["accepted"]) == (202, 10_000)
    waits.sort()
    assert waits[len(waits) // 2] < 0.1  # the test's client shares this loop
    batch = (await api.get(reply.json["url"])).json
    assert (batch["total"], batch["counts"]["queued"]) == (10_000, 10_000)
    packs = await api.fetch(
        "SELECT region, sum(n)::int AS n, count(*)::int AS packs FROM packs WHERE batch_id = $1 GROUP BY region",
        batch["id"],
    )
    assert sum(row["n"] for row in packs) == 10_000
    assert {row["region"] for row in packs} == {"US", "VN", "GB", "FR", "IN", "SG"}
    assert all(row["packs"] == -(-row["n"] // 100) for row in packs)


async def test_pause_resume_and_cancel_are_audited_and_idempotent(api):
    url = (await api.post("/v1/batches", api.batch(recipients(5)))).json["url"]
    steps = [
        ("pause", 200, "paused"),
        ("pause", 200, "paused"),
        ("resume", 200, "running"),
        ("pause", 200, "paused"),
        ("cancel", 200, "cancelled"),
        ("cancel", 200, "cancelled"),
        ("resume", 409, "batch_state"),
        ("pause", 409, "batch_state"),
    ]
    for what, status, state in steps:
        reply = await api.post(f"{url}/{what}", {"actor": "ann", "reason": f"because {what}"})
        assert reply.status == status
        assert (reply.json["state"] if status == 200 else reply.code) == state
    rows = await api.fetch(
        "SELECT actor, reason, action FROM audit_log WHERE subject = $1 ORDER BY id", url.rpartition("/")[2]
    )
    assert [row["action"] for row in rows] == [
        "batch.paused",
        "batch.running",
        "batch.paused",
        "batch.cancelled",
    ]
    assert {row["actor"] for row in rows} == {"ann"}
    assert rows[0]["reason"] == "because pause"
    assert (await api.post(f"{url}/pause", {"reasn": "x"})).code == "unknown_field"


@pytest.mark.parametrize("stood", ["running", "paused"])
async def test_a_completed_batch_stays_as_it_is(api, stood):
    url = (await api.post("/v1/batches", api.batch(recipients(2)))).json["url"]
    if stood == "paused":
        assert (await api.post(f"{url}/pause")).status == 200
    await api.fetch(
        "INSERT INTO tallies (tenant_id, batch_id, region, category, from_state, to_state, n, at) "
        "VALUES ($1, $2, 'US', 2, 2, 10, 2, now())",
        api.tenant_id,
        url.rpartition("/")[2],
    )
    for what in ("pause", "resume", "cancel"):
        reply = await api.post(f"{url}/{what}")
        assert (reply.status, reply.code) == (409, "too_late"), what
    assert (await api.get(url)).json["state"] == "completed"


async def test_counts_follow_the_tallies_and_the_roll_up(api):
    url = (await api.post("/v1/batches", api.batch(recipients(6)))).json["url"]
    batch_id = url.rpartition("/")[2]
    move = (
        "INSERT INTO tallies (tenant_id, batch_id, region, category, from_state, to_state, n, at) "
        "VALUES ($1, $2, 'US', 2, $3, $4, $5, now())"
    )
    await api.fetch(move, api.tenant_id, batch_id, 2, 4, 4)
    await api.fetch(move, api.tenant_id, batch_id, 4, 5, 4)
    await api.fetch("INSERT INTO batch_states VALUES ($1, 'US', 10, 3), ($1, 'US', 5, -3)", batch_id)
    batch = (await api.get(url)).json
    counts = {state: n for state, n in batch["counts"].items() if n}
    assert counts == {"queued": 2, "submitted": 1, "delivered": 3}
    assert batch["accounting"] == {"accepted": 6, "final": 3, "open": 3, "difference": 0}
    assert batch["progress"] == 0.5
    await api.fetch(move, api.tenant_id, batch_id, 5, 11, 1)
    await api.fetch(move, api.tenant_id, batch_id, 2, 14, 2)
    batch = (await api.get(url)).json
    assert (batch["state"], batch["progress"]) == ("completed", 1.0)
    lost = await api.fetch("DELETE FROM tallies WHERE batch_id = $1 AND to_state = 11 RETURNING n", batch_id)
    assert lost
    assert (await api.get(url)).json["accounting"]["difference"] == 0  # it is open again
    await api.fetch("DELETE FROM tallies WHERE batch_id = $1 AND to_state = 2", batch_id)
    assert (await api.get(url)).json["accounting"]["difference"] == 6


@pytest.mark.parametrize(
    ("moves", "difference", "state"),
    [
        ([(2, 10, 3)], 0, "completed"),
        ([(2, 10, 3), (4, 10, 1)], 1, "running"),  # one too many: a hole elsewhere hides it in the sum
        ([(2, 10, 3), (4, 5, 1)], 1, "running"),  # all are final, and yet one is open
        ([(2, 10, 2), (4, 5, 1)], 1, "running"),
        ([(None, 10, 3)], -3, "running"),  # more than were accepted
        ([(2, 10, 3), (10, 5, 2), (4, 5, 1)], 1, "running"),
    ],
)
async def test_the_accounting_can_fail(api, moves, difference, state):
    url = (await api.post("/v1/batches", api.batch(recipients(3)))).json["url"]
    for before, to, n in moves:
        await api.fetch(
            "INSERT INTO tallies (tenant_id, batch_id, region, category, from_state, to_state, n, at) "
            "VALUES ($1, $2, 'US', 2, $3, $4, $5, now())",
            api.tenant_id,
            url.rpartition("/")[2],
            before,
            to,
            n,
        )
    batch = (await api.get(url)).json
    assert (batch["accounting"]["difference"], batch["state"]) == (difference, state)


async def test_batches_are_listed_newest_first_by_pages(api):
    key = await api.tenant("pages")
    made = [
        (await api.post("/v1/batches", api.batch(recipients(1), name=f"b{n}"), key=key)).json["id"]
        for n in range(5)
    ]
    await api.post(f"/v1/batches/{made[1]}/pause", key=key)
    first = (await api.get("/v1/batches?limit=3", key=key)).json
    rest = (await api.get(f"/v1/batches?limit=3&cursor={first['next']}", key=key)).json
    assert [one["id"] for one in first["data"] + rest["data"]] == made[::-1]
    assert rest["next"] is None
    paused = (await api.get("/v1/batches?state=paused", key=key)).json["data"]
    assert [one["id"] for one in paused] == [made[1]]
    assert (await api.get("/v1/batches?state=completed", key=key)).json["data"] == []
    assert (await api.get("/v1/batches?stat=paused", key=key)).status == 422


async def test_what_is_accepted_is_offered_to_redis_once_it_is_built(api, postgres_url, redis_url):
    """The API attaches by itself, offers what is due soon, and what it couldn't offer before."""
    queue = Queue(redis_url)
    before = await api.post("/v1/messages", api.message(to="+6591234567"))
    async with api.database.driver() as driver:
        epoch = await epochs.start(driver, await queue.run_id())
        await epochs.finish(driver, epoch)
    assert await attach(api.database, queue)
    late = await api.post("/v1/messages", api.message(to="+6591234567", scheduled_at="2099-01-01T00:00:00Z"))
    assert late.code == "time_too_far"
    soon = await api.post("/v1/batches", api.batch(recipients(600)))
    assert (before.status, soon.status) == (202, 202)
    deadline = time.monotonic() + 10
    while True:
        depths = await lanes.depths(queue, await lanes.lanes(queue))
        if depths.get("SG:2", (0,))[0] >= 2 and len(depths) >= 6:
            break
        assert time.monotonic() < deadline, depths
        await asyncio.sleep(0.05)
    await queue.close()
