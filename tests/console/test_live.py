"""What the page shows to whom, and what its buttons do."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from app.api.console.live import BATCHES, FRESH_S, REST, Recent, totals
from app.domain.message import Category, State
from app.queue import lanes, status
from app.queue.connection import Queue
from app.store import dispatch
from app.store.intake import at

if TYPE_CHECKING:
    from tests.console.conftest import Browser, Console

SUBMITTED, DELIVERED, UNKNOWN, QUEUED = (
    int(s) for s in (State.submitted, State.delivered, State.unknown, State.queued)
)
LATER = (datetime.now(UTC) + timedelta(days=2)).isoformat()


async def signed_in(console: Console, browser: Browser, *scopes: str) -> tuple[int, str]:
    tenant_id = await console.tenant(uuid.uuid4().hex)
    key = await console.key(tenant_id, "send", "read", *scopes)
    assert (await browser.sign_in(key)).status == 303
    return tenant_id, key


async def moved(
    console: Console, tenant_id: int, moves: dict[tuple[int | None, int], int], now_s: float | None = None
) -> None:
    """Deltas as the dispatcher writes them."""
    tallies = {(tenant_id, None, "US", 2, None, before, after): n for (before, after), n in moves.items()}
    async with console.database.driver() as driver, driver.transaction():
        await dispatch.write_tallies(driver, tallies, at(now_s or time.time()))


# -- figures


async def test_a_tenants_figures_are_the_sums_of_its_moves(console: Console, browser: Browser) -> None:
    tenant_id, _ = await signed_in(console, browser)
    other = await console.tenant(uuid.uuid4().hex)
    await moved(console, other, {(None, QUEUED): 7, (4, SUBMITTED): 7})
    await moved(
        console,
        tenant_id,
        {(None, QUEUED): 100, (4, SUBMITTED): 80, (4, UNKNOWN): 20, (SUBMITTED, DELIVERED): 60},
    )
    await moved(console, tenant_id, {(None, QUEUED): 9}, time.time() - 3 * 86400)
    figures = (await browser.get("/console/live")).json["totals"]
    assert figures == {
        "accepted": 100,
        "submitted": 80,
        "unknown": 20,
        "final": {"delivered": 60},
        "delivered": 60,
        "delivery_rate": 0.75,
        "unknown_share": 0.2,
    }


async def test_a_roll_up_changes_no_figure(console: Console, browser: Browser) -> None:
    from app.store import sweeps  # noqa: PLC0415

    tenant_id, _ = await signed_in(console, browser)
    await moved(console, tenant_id, {(None, QUEUED): 11, (4, SUBMITTED): 5})
    before = (await browser.get("/console/live")).json["totals"]
    async with console.database.driver() as driver:
        while await sweeps.roll_up(driver):
            pass
    console.app.state.console = None
    assert (await browser.get("/console/live")).json["totals"] == before


def test_without_hand_overs_there_is_no_rate() -> None:
    figures = totals({})
    assert (figures["delivery_rate"], figures["unknown_share"]) == (None, None)


# -- who sees what


async def test_a_tenant_sees_its_own_batches_alone(
    console: Console, browser: Browser, other_browser: Browser
) -> None:
    _, key = await signed_in(console, browser)
    await signed_in(console, other_browser)
    batch_id = await console.batch(key, "mine", 3)
    (shown,) = (await browser.get("/console/live")).json["batches"]
    assert (shown["id"], shown["name"], shown["total"], shown["state"]) == (batch_id, "mine", 3, "running")
    assert shown["counts"] == {"queued": 3}
    assert shown["difference"] == 0
    assert (await other_browser.get("/console/live")).json["batches"] == []


async def test_a_paused_batch_stays_in_sight_however_many_come_after_it(
    console: Console, browser: Browser
) -> None:
    _, key = await signed_in(console, browser, "operate")
    paused = await console.batch(key, "paused", 1)
    await browser.post(f"/console/batches/{paused}/pause", x_volley_token=await browser.token())
    await console.batch(key, "running, and older", 1)
    newer = [await console.batch(key, f"newer {i}", 1) for i in range(BATCHES)]
    shown = [one["id"] for one in (await browser.get("/console/live")).json["batches"]]
    assert shown == [*reversed(newer), paused]


async def test_no_text_and_no_number_is_shown(console: Console, browser: Browser) -> None:
    _, key = await signed_in(console, browser, "operate")
    await console.batch(key)
    body = (await browser.get("/console/live")).body
    assert "the secret text" not in body
    assert "1415867" not in body
    assert "12025550199" not in body


@pytest.mark.parametrize(("scope", "sees"), [("rules", False), ("operate", True), ("admin", True)])
async def test_only_operators_see_what_is_no_tenants(
    console: Console, browser: Browser, scope: str, sees: bool
) -> None:
    await signed_in(console, browser, scope)
    assert ("operations" in (await browser.get("/console/live")).json) == sees
    assert ('name="volley-operator" content="yes"' in (await browser.get("/")).body) == sees


async def test_operators_see_lanes_dispatchers_binds_and_the_books(
    console: Console, browser: Browser, redis_url: str
) -> None:
    _, key = await signed_in(console, browser, "operate")
    await console.batch(key, count=4)
    await console.batch(key, count=2, scheduled_at=LATER)
    queue = Queue(redis_url)
    async with console.database.driver() as driver:
        await driver.execute(
            "INSERT INTO gateways (name, url) VALUES ('sandbox', 'smpp://volley:hidden@10.0.0.9:2775?window=10')"
        )
        lease = await dispatch.open_lease(driver, "host:1")
    bind = status.Bind("sandbox", "0", "bound", 10, 3, 1.0)
    try:
        await status.show(queue, status.Status(lease, time.time(), True, 5, (bind,)))
        answer = await browser.get("/console/live")
    finally:
        await queue.close()
        async with console.database.driver() as driver:
            await dispatch.end_lease(driver, lease)
    seen = answer.json["operations"]
    assert "hidden" not in answer.body
    (gateway,) = seen["gateways"]
    assert (gateway["name"], gateway["kind"], gateway["host"]) == ("sandbox", "smpp", "10.0.0.9")
    assert gateway["binds"] == [
        {
            "lease": lease,
            "slot": "0",
            "state": "bound",
            "window": 10,
            "in_flight": 3,
            "since": 1.0,
            "error": "",
        }
    ]
    (dispatcher,) = seen["dispatchers"]
    assert (dispatcher["name"], dispatcher["attached"], dispatcher["parcels"]) == ("host:1", True, 5)
    lane = next(one for one in seen["lanes"] if one["region"] == "US")
    assert lane["category"] == Category.transactional.name
    assert lane["waiting"] >= 4
    assert lane["deferred"] >= 2
    assert datetime.fromisoformat(lane["next_at"]) == datetime.fromisoformat(LATER)
    books = seen["accounting"]
    assert books["accepted"] == books["final"] + books["open"]


async def test_a_dispatcher_that_says_nothing_is_shown_as_such(console: Console, browser: Browser) -> None:
    await signed_in(console, browser, "operate")
    async with console.database.driver() as driver:
        lease = await dispatch.open_lease(driver, "silent:1")
    try:
        (shown,) = (await browser.get("/console/live")).json["operations"]["dispatchers"]
    finally:
        async with console.database.driver() as driver:
            await dispatch.end_lease(driver, lease)
    assert (shown["attached"], shown["parcels"]) == (None, None)


async def test_a_status_of_another_version_is_overlooked(redis_url: str) -> None:
    queue = Queue(redis_url)
    try:
        await queue.client.set("volley:dispatcher:901", b"\x81\xa1x\x01")
        await status.show(queue, status.Status(902, 1.0, False, 0, ()))
        assert list(await status.shown(queue, [901, 902, 903])) == [902]
        assert 0 < await queue.client.pttl("volley:dispatcher:902") <= status.KEEP_S * 1000
        assert await lanes.lanes(queue) == []
    finally:
        await queue.close()


# -- what the buttons do


async def test_a_batch_is_paused_resumed_and_cancelled(console: Console, browser: Browser) -> None:
    tenant_id, key = await signed_in(console, browser, "operate")
    batch_id = await console.batch(key)
    token = await browser.token()
    for action, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        path, body = f"/console/batches/{batch_id}/{action}", b'{"reason":"console"}'
        answer = await browser.post(path, body, x_volley_token=token, content_type="application/json")
        assert (answer.status, answer.json["state"]) == (200, state), answer.body
    again = await browser.post(f"/console/batches/{batch_id}/resume", x_volley_token=token)
    assert (again.status, again.json["code"]) == (409, "batch_state")
    async with console.database.driver() as driver:
        audited = await driver.fetch(
            "SELECT action, actor, reason FROM audit_log WHERE tenant_id = $1 ORDER BY id", tenant_id
        )
    assert [(row["action"], row["reason"]) for row in audited] == [
        ("batch.paused", "console"),
        ("batch.running", "console"),
        ("batch.cancelled", "console"),
    ]
    assert all("a key" in row["actor"] for row in audited)


async def test_a_change_needs_the_pages_token_and_origin(
    console: Console, browser: Browser, other_browser: Browser
) -> None:
    _, key = await signed_in(console, browser, "operate")
    await signed_in(console, other_browser, "operate")
    path = f"/console/batches/{await console.batch(key)}/pause"
    token, theirs = await browser.token(), await other_browser.token()
    assert len(token) == 64
    refused = [
        await browser.post(path),
        await browser.post(path, x_volley_token=theirs),
        await browser.post(path, x_volley_token="é"),
        await browser.post(path, x_volley_token=token, origin="https://evil.example"),
        await browser.post(path, x_volley_token=token, sec_fetch_site="same-site"),
    ]
    assert [answer.status for answer in refused] == [403] * len(refused)
    assert (await browser.get("/console/live")).json["batches"][0]["state"] == "running"
    assert (await browser.post(path, x_volley_token=token, origin=console.url)).status == 200


async def test_a_change_needs_the_scope(console: Console, browser: Browser) -> None:
    _, key = await signed_in(console, browser)
    path = f"/console/batches/{await console.batch(key)}/pause"
    answer = await browser.post(path, x_volley_token=await browser.token())
    assert (answer.status, answer.json["code"]) == (403, "forbidden")


async def test_anothers_batch_is_not_there(
    console: Console, browser: Browser, other_browser: Browser
) -> None:
    _, key = await signed_in(console, other_browser)
    batch_id = await console.batch(key)
    await signed_in(console, browser, "admin")
    token = await browser.token()
    assert (await browser.post(f"/console/batches/{batch_id}/pause", x_volley_token=token)).status == 404
    assert (await browser.post(f"/console/batches/{batch_id}/erase", x_volley_token=token)).status == 404
    assert (await browser.post("/console/batches/nonsense/pause", x_volley_token=token)).status == 404


# -- how often it reads


async def test_a_reading_is_shared_while_it_is_fresh_and_a_slow_one_for_longer() -> None:
    now, readings, takes_s = 0.0, 0, 0.0

    async def read() -> int:
        nonlocal now, readings
        now += takes_s
        readings += 1
        return readings

    recent: Recent[int] = Recent(lambda: now)
    assert [await recent.get(read), await recent.get(read)] == [1, 1]
    now = FRESH_S + 0.01
    takes_s = 1.0
    assert await recent.get(read) == 2
    now += REST * takes_s - 0.01
    assert await recent.get(read) == 2
    now += 0.02
    assert await recent.get(read) == 3
