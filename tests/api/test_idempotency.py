"""Idempotency keys: once, whatever comes at once."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest

from app.api.idempotency import request_hash
from app.api.reference import KEPT_S
from app.store import idempotency
from app.store.idempotency import Slot

BATCH = {"recipients": [{"to": "+12025550101", "variables": {"name": "A"}}]}


def bodies(api):
    return {
        "/v1/messages": (api.message(), api.message(body="other")),
        "/v1/batches": (api.batch(BATCH["recipients"]), api.batch(BATCH["recipients"], body="other")),
    }


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/batches"])
async def test_the_same_request_replays_and_another_is_refused(api, path):
    same, other = bodies(api)[path]
    key = uuid.uuid4().hex
    first = await api.post(path, same, idempotency_key=key)
    packs = await api.count("packs")
    again = await api.post(path, same, idempotency_key=key)
    assert (again.status, again.raw) == (first.status, first.raw) == (202, first.raw)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    reused = await api.post(path, other, idempotency_key=key)
    assert (reused.status, reused.code) == (422, "idempotency_key_reused")
    assert await api.count("packs") == packs
    elsewhere = await api.post(path, other, idempotency_key=key, key=await api.tenant(uuid.uuid4().hex))
    assert elsewhere.status == 202


async def test_what_was_accepted_replays_when_it_would_now_be_refused(api):
    name, key = f"t{uuid.uuid4().hex}", uuid.uuid4().hex
    assert (await api.post("/v1/templates", {"name": name, "body": "Hi", "variables": []})).status == 201
    text = {"category": "otp", "sender": "12025550199", "template": name}
    asked = {
        "/v1/messages": {"json": {**text, "to": "+12025550101"}},
        "/v1/batches": {"json": {**text, "recipients": [{"to": "+12025550101"}]}},
        f"/v1/batches/upload?{urlencode(text)}": {
            "data": b"to\n+12025550101\n",
            "headers": {"content-type": "text/csv"},
        },
    }
    first = {path: await api.post(path, idempotency_key=key, **what) for path, what in asked.items()}
    assert {one.status for one in first.values()} == {202}
    assert (await api.call("DELETE", f"/v1/templates/{name}")).status == 204
    await asyncio.sleep(KEPT_S + 0.1)
    packs = await api.count("packs")
    for path, what in asked.items():
        again = await api.post(path, idempotency_key=key, **what)
        assert (again.status, again.raw) == (202, first[path].raw)
        assert again.headers["idempotency-replayed"] == "true"
        refused = await api.post(path, idempotency_key=uuid.uuid4().hex, **what)
        assert (refused.status, refused.code) == (422, "unknown_template")
    other = await api.post("/v1/messages", {**text, "to": "+12025550102"}, idempotency_key=key)
    assert (other.status, other.code) == (422, "unknown_template")
    assert await api.count("packs") == packs


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/batches"])
async def test_of_many_at_the_same_moment_one_is_done(api, path):
    same, _ = bodies(api)[path]
    key = uuid.uuid4().hex
    packs = await api.count("packs")
    replies = await asyncio.gather(*(api.post(path, same, idempotency_key=key) for _ in range(30)))
    assert {reply.status for reply in replies} == {202}
    assert len({reply.raw for reply in replies}) == 1
    assert sum("idempotency-replayed" not in reply.headers for reply in replies) == 1
    assert await api.count("packs") == packs + 1
    message_or_batch = replies[0].json
    assert (await api.get(message_or_batch["url"])).status == 200


async def test_losers_of_a_group_leave_it_and_the_others_stay(api):
    taken = [uuid.uuid4().hex for _ in range(5)]
    for key in taken:
        await api.post("/v1/messages", api.message(), idempotency_key=key)
    before = (await api.fetch("SELECT coalesce(sum(n), 0)::int AS n FROM packs"))[0]["n"]
    tallied = (await api.fetch("SELECT coalesce(sum(n), 0)::int AS n FROM tallies WHERE from_state IS NULL"))[
        0
    ]["n"]
    fresh = [uuid.uuid4().hex for _ in range(20)]
    replies = await asyncio.gather(
        *(api.post("/v1/messages", api.message(), idempotency_key=key) for key in [*taken, *fresh])
    )
    assert {reply.status for reply in replies} == {202}
    assert len({reply.json["id"] for reply in replies}) == 25
    for reply in replies:
        assert (await api.get(reply.json["url"])).status == 200
    after = (await api.fetch("SELECT coalesce(sum(n), 0)::int AS n FROM packs"))[0]["n"]
    assert after - before == 20
    tallies = (await api.fetch("SELECT coalesce(sum(n), 0)::int AS n FROM tallies WHERE from_state IS NULL"))[
        0
    ]["n"]
    assert tallies - tallied == 20


async def test_a_refused_request_may_be_mended_and_sent_with_its_key(api):
    key = uuid.uuid4().hex
    assert (await api.post("/v1/messages", api.message(to="+1"), idempotency_key=key)).status == 422
    assert (await api.post("/v1/messages", api.message(), idempotency_key=key)).status == 202


@pytest.mark.parametrize("key", ["x" * 256, "é", ""])
async def test_a_key_that_is_none_is_refused(api, key):
    reply = await api.post("/v1/messages", api.message(), idempotency_key=key)
    assert (reply.status, reply.code) == (400, "invalid_idempotency_key")


async def test_the_framework_routes_replay_too(api):
    batch = (await api.post("/v1/batches", api.batch([{"to": "+12025550101"}], body="x"))).json
    key = uuid.uuid4().hex
    replies = await asyncio.gather(
        *(api.post(f"{batch['url']}/pause", {"reason": "r"}, idempotency_key=key) for _ in range(5))
    )
    done = [reply for reply in replies if reply.status == 200]
    waiting = [reply for reply in replies if reply.status == 409]
    assert len(done) + len(waiting) == 5
    assert done
    assert all(
        reply.code == "idempotency_in_progress" and "retry-after" in reply.headers for reply in waiting
    )
    again = await api.post(f"{batch['url']}/pause", {"reason": "r"}, idempotency_key=key)
    assert (again.status, again.headers["idempotency-replayed"]) == (200, "true")
    other = await api.post(f"{batch['url']}/pause", {"reason": "s"}, idempotency_key=key)
    assert (other.status, other.code) == (422, "idempotency_key_reused")
    logged = await api.fetch("SELECT count(*) FROM audit_log WHERE subject = $1", batch["id"])
    assert logged[0][0] == 1


async def test_a_claim_whose_holder_died_is_free_when_its_lease_ends(api):
    batch = (await api.post("/v1/batches", api.batch([{"to": "+12025550101"}], body="x"))).json
    path, key = f"{batch['url']}/pause", uuid.uuid4().hex
    slot = Slot(api.tenant_id, f"POST {path}", await api.kept_as(key))
    async with api.database.driver() as driver:
        assert await idempotency.claim(driver, slot, request_hash(b"", b""), 60)
        held = await api.post(path, idempotency_key=key)
        assert (held.status, held.code) == (409, "idempotency_in_progress")
        assert int(held.headers["retry-after"]) > 0
        await idempotency.extend(driver, slot, 0)
    assert (await api.post(path, idempotency_key=key)).status == 200


async def test_an_unscoped_key_gets_no_replay(api):
    batch = (await api.post("/v1/batches", api.batch([{"to": "+12025550101"}], body="x"))).json
    key = uuid.uuid4().hex
    assert (await api.post(f"{batch['url']}/pause", idempotency_key=key)).status == 200
    async with api.database.driver() as driver:
        reader = await api.scoped(api.tenant_id, ("read",), driver=driver)
    reply = await api.post(f"{batch['url']}/pause", idempotency_key=key, key=reader)
    assert reply.code == "forbidden"


async def test_purging_forgets_the_old_and_keeps_the_young(api):
    old, young = uuid.uuid4().hex, uuid.uuid4().hex
    for key in (old, young):
        await api.post("/v1/messages", api.message(), idempotency_key=key)
    old, young = [await api.kept_as(key) for key in (old, young)]
    await api.fetch("UPDATE idempotency SET created_at = now() - interval '3 days' WHERE key = $1", old)
    async with api.database.driver() as driver:
        before = datetime.now(UTC) - timedelta(seconds=idempotency.KEPT_S)
        assert await idempotency.purge(driver, before) == 1
    assert await api.fetch("SELECT 1 FROM idempotency WHERE key = $1", old) == []
    assert len(await api.fetch("SELECT 1 FROM idempotency WHERE key = $1", young)) == 1
