"""Keys, scopes and tenants."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.api import auth
from app.domain import ids
from app.store import keys
from app.store.engine import Database


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic dTpw", "Bearer vk_wrong", "Bearer " + "x" * 600, "vk_x"]
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/messages"), ("GET", "/v1/messages"), ("POST", "/v1/batches/upload")]
)
async def test_without_a_valid_key_nothing_is_served(api, header, method, path):
    headers = {} if header is None else {"Authorization": header}
    async with api.session.request(method, api.url + path, headers=headers, data=b"{}") as reply:
        assert reply.status == 401
        assert reply.headers["www-authenticate"].startswith("Bearer")
        assert (await reply.json(content_type=None))["code"] == "unauthenticated"


SCOPES = [
    ("POST", "/v1/messages", "send"),
    ("POST", "/v1/batches", "send"),
    ("POST", "/v1/batches/upload", "send"),
    ("GET", "/v1/messages", "read"),
    ("GET", "/v1/batches", "read"),
    ("POST", "/v1/batches/01a200e5-7c2b-75dc-800a-a5abf6469c01/pause", "operate"),
    ("POST", "/v1/messages/01a200e5-7c2b-75dc-800a-a5abf6469c01/cancel", "send"),
]


@pytest.mark.parametrize(("method", "path", "scope"), SCOPES)
async def test_a_route_asks_for_its_scope_and_no_other_opens_it(api, method, path, scope):
    others = tuple(one for one in keys.SCOPES if one not in (scope, "admin"))
    async with api.database.driver() as driver:
        without = await api.scoped(api.tenant_id, others, driver=driver)
        having = await api.scoped(api.tenant_id, (scope,), driver=driver)
    refused = await api.call(method, path, key=without, data=b"" if method == "POST" else None)
    assert (refused.status, refused.code) == (403, "forbidden")
    allowed = await api.call(method, path, key=having, data=b"" if method == "POST" else None)
    assert allowed.status not in (401, 403)


async def test_a_revoked_key_is_refused_within_two_seconds(api):
    key = await api.tenant("revoked")
    assert (await api.get("/v1/batches", key=key)).status == 200
    row = (await api.fetch("SELECT id, tenant_id FROM api_keys WHERE hash = $1", keys.hash_of(key)))[0]
    async with api.database.driver() as driver:
        assert await keys.revoke(driver, row["tenant_id"], row["id"].bytes)
    deadline = time.monotonic() + 2
    while (await api.get("/v1/batches", key=key)).status == 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_tenant_never_sees_anothers_data(api):
    mine = await api.tenant("mine")
    theirs = await api.tenant("theirs")
    message = (await api.post("/v1/messages", api.message(client_reference="same"), key=mine)).json
    batch = (await api.post("/v1/batches", api.batch([{"to": "+12025550101"}], body="x"), key=mine)).json
    for path in (message["url"], batch["url"], f"{batch['url']}/rejections"):
        assert (await api.get(path, key=mine)).status == 200
        assert (await api.get(path, key=theirs)).code == "not_found"
    for path in (
        f"{message['url']}/cancel",
        *(f"{batch['url']}/{what}" for what in ("pause", "resume", "cancel")),
    ):
        assert (await api.post(path, key=theirs)).code == "not_found"
    for query in ("", "?to=+12025550101", "?reference=same", f"?batch={batch['id']}"):
        assert (await api.get(f"/v1/messages{query}", key=theirs)).json["data"] == []
    assert (await api.get("/v1/batches", key=theirs)).json["data"] == []
    assert (await api.get(batch["url"], key=mine)).json["state"] == "running"


async def test_only_hashes_of_keys_are_stored(api):
    key = await api.tenant("hashed")
    rows = await api.fetch("SELECT api_keys::text AS row FROM api_keys")
    assert all(key not in row["row"] for row in rows)
    assert len(key) >= 40


async def test_the_first_key_is_made_once_and_a_wanted_one_is_added(postgres_url, api):
    async with api.database.driver() as driver:
        assert await keys.bootstrap(driver, secret=None, now_s=time.time()) is None
        wanted = "vk_wanted_" + "x" * 20
        assert await keys.bootstrap(driver, secret=wanted, now_s=time.time()) == wanted
        assert await keys.bootstrap(driver, secret=wanted, now_s=time.time()) is None
    assert (await api.get("/v1/batches", key=wanted)).status == 200


async def test_many_requests_with_a_new_key_ask_once(api, postgres_url):
    key = await api.tenant("once")
    asked = 0

    class Counting(Database):
        def driver(self):
            nonlocal asked
            asked += 1
            return super().driver()

    database = Counting(postgres_url, pool=2)
    authenticator = auth.Authenticator(database, lambda: 100.0)
    callers = await asyncio.gather(*(authenticator.authenticate(f"Bearer {key}".encode()) for _ in range(20)))
    assert asked == 1
    assert {caller.tenant_id for caller in callers} == {callers[0].tenant_id}
    assert "hash_key" not in repr(callers[0])
    await database.dispose()


async def test_listing_and_rotation(api):
    key = await api.tenant("rotation")
    tenant_id = (await api.fetch("SELECT tenant_id FROM api_keys WHERE hash = $1", keys.hash_of(key)))[0][0]
    async with api.database.driver() as driver:
        row, secret = await keys.create(
            driver,
            tenant_id=tenant_id,
            name="b",
            scopes=("read",),
            test=False,
            created_by="t",
            now_s=time.time(),
        )
        assert secret.startswith(row.prefix)
        assert {one.name for one in await keys.listed(driver, tenant_id)} == {"test", "b"}
        assert await keys.get(driver, tenant_id + 1, row.id.bytes) is None
        assert await keys.revoke(driver, tenant_id + 1, row.id.bytes) is None
        revoked = await keys.revoke(driver, tenant_id, row.id.bytes)
        assert revoked is not None
        assert revoked.revoked_at is not None
        assert [one.name for one in await keys.listed(driver, tenant_id)] == ["test"]
        assert len(await keys.listed(driver, tenant_id, revoked=True)) == 2
        assert await keys.get(driver, tenant_id, ids.new_id(0)) is None
