"""The first key, the seed, `volley apply` and what the dispatcher loads."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import asyncpg
import pytest

from app import config_file
from app.store import bootstrap, config
from app.store.engine import Database

FIRST = """
[[gateways]]
name = "sandbox"
url  = "smpp://volley:secret@127.0.0.1:2775?window=100"
[[gateways]]
name = "web"
url  = "https://user:hidden@gateway.example/send"
rate = 20
[gateways.headers]
Authorization = "Bearer hidden"
[[routes]]
to = "VN"
gateways = ["web", "sandbox"]
[[routes]]
to = "*"
gateways = ["sandbox"]
[regions.VN]
rate = 100
[regions.US-FL]
prefixes = ["1305"]
"""
SECOND = """
[[gateways]]
name = "sandbox"
url  = "smpp://volley:changed@127.0.0.1:2775?window=100"
[[routes]]
to = "+4420"
category = "otp"
gateways = ["sandbox"]
[[routes]]
to = "*"
gateways = ["sandbox"]
[regions.VN]
rate = 50
paused = true
"""


@pytest.fixture
def toml(tmp_path: Path):
    def write(content: str) -> Path:
        path = tmp_path / "volley.toml"
        path.write_text(content)
        return path

    return write


@pytest.fixture
async def database(postgres_url: str):
    database = Database(postgres_url, pool=2)
    async with database.driver() as driver:
        await driver.execute(
            "TRUNCATE api_keys, audit_log, gateways, routes, regions, senders, tenants "
            "RESTART IDENTITY CASCADE"
        )
    yield database
    await database.dispose()


async def loaded(database: Database) -> config.Config:
    async with database.driver() as driver:
        return await config.load(driver)


async def test_the_first_key_is_made_once(database: Database, postgres_url: str) -> None:
    made = await asyncio.gather(*(bootstrap.first_key_async(postgres_url, None) for _ in range(4)))
    [plain] = [key for key in made if key]
    assert plain.startswith("vk_")
    assert await bootstrap.first_key_async(postgres_url, None) is None
    async with database.driver() as driver:
        [row] = await driver.fetch("SELECT * FROM api_keys JOIN tenants t ON t.id = tenant_id")
    assert row["hash"] == hashlib.sha256(plain.encode()).digest()
    assert sorted(row["scopes"]) == ["admin", "operate", "read", "rules", "send"]
    assert "default" in row.values()


async def test_a_wanted_key_is_added_beside_the_others(database: Database, postgres_url: str) -> None:
    assert await bootstrap.first_key_async(postgres_url, "a-key-of-my-own-1") == "a-key-of-my-own-1"
    assert await bootstrap.first_key_async(postgres_url, "a-key-of-my-own-1") is None
    assert await bootstrap.first_key_async(postgres_url, None) is None
    assert await bootstrap.first_key_async(postgres_url, "a-key-of-my-own-2") == "a-key-of-my-own-2"
    async with database.driver() as driver:
        assert await driver.fetchval("SELECT count(*) FROM api_keys") == 2
        assert await driver.fetchval("SELECT count(*) FROM audit_log WHERE action = 'key.create'") == 2


async def test_only_an_empty_database_is_seeded(database: Database, postgres_url: str, toml) -> None:
    assert await bootstrap.seed_async(postgres_url, toml(FIRST)) is True
    assert await bootstrap.seed_async(postgres_url, toml(SECOND)) is False
    found = await loaded(database)
    assert [(g.name, g.rate, g.enabled, g.version) for g in found.gateways] == [
        ("sandbox", None, True, 1),
        ("web", 20, True, 1),
    ]
    assert found.gateways[1].settings == {"headers": {"Authorization": "Bearer hidden"}}
    assert [(r.to, r.gateways) for r in found.routes] == [("VN", ("web", "sandbox")), ("*", ("sandbox",))]
    assert {r.code: (r.rate, r.prefixes) for r in found.regions} == {
        "VN": (100, ()),
        "US-FL": (None, ("+1305",)),
    }


async def test_the_shipped_file_seeds_the_sandbox_at_its_port(
    database: Database, postgres_url: str, toml
) -> None:
    await bootstrap.seed_async(postgres_url, toml(config_file.shipped(4711)))
    [gateway] = (await loaded(database)).gateways
    assert ":4711" in gateway.url


async def test_apply_makes_what_plan_shows_and_then_nothing(
    database: Database, postgres_url: str, toml
) -> None:
    await bootstrap.seed_async(postgres_url, toml(FIRST))
    before = await loaded(database)
    path = toml(SECOND)
    planned = await bootstrap.plan_async(postgres_url, path)
    assert (await loaded(database)).version == before.version, "a plan changes nothing"
    applied = await bootstrap.apply_async(postgres_url, path, "ann", "new contract")
    assert applied == planned
    assert [(c.action, c.subject) for c in planned] == [
        ("change", "gateway/sandbox"),
        ("disable", "gateway/web"),
        ("change", "region/VN"),
        ("remove", "region/US-FL"),
        ("remove", "route/VN"),
        ("create", "route/+4420"),
    ]
    assert planned[2].fields == {"rate": (100, 50), "paused": (False, True)}
    after = await loaded(database)
    assert after.version > before.version
    assert [(r.to, r.category) for r in after.routes] == [("+4420", 1), ("*", None)]
    assert [(g.name, g.enabled, g.version) for g in after.gateways] == [
        ("sandbox", True, 2),
        ("web", False, 2),
    ]
    assert await bootstrap.plan_async(postgres_url, path) == []
    assert await bootstrap.apply_async(postgres_url, path, "ann", "again") == []


async def test_no_secret_reaches_plan_or_audit(database: Database, postgres_url: str, toml) -> None:
    await bootstrap.seed_async(postgres_url, toml(FIRST))
    shown = repr(await bootstrap.apply_async(postgres_url, toml(SECOND), "ann", "new password"))
    async with database.driver() as driver:
        log = repr([tuple(row.values()) for row in await driver.fetch("SELECT * FROM audit_log")])
    assert "new password" in log
    for secret in ("volley:secret", "changed@", "hidden"):
        assert secret not in shown
        assert secret not in log
    assert "volley:***@127.0.0.1" in shown


async def test_routes_of_one_tenant_are_left_alone(database: Database, postgres_url: str, toml) -> None:
    await bootstrap.first_key_async(postgres_url, None)
    await bootstrap.seed_async(postgres_url, toml(FIRST))
    async with database.begin() as connection:
        values = {"to": "*", "gateways": ["web"], "tenant_id": 1, "position": 1}
        await config.create(connection, config.ROUTE, values, config.By("ann", "test"))
    await bootstrap.apply_async(postgres_url, toml(SECOND), "ann", "x")
    assert [(r.to, r.tenant_id) for r in (await loaded(database)).routes] == [
        ("*", 1),
        ("+4420", None),
        ("*", None),
    ]


async def test_each_change_is_announced(database: Database, postgres_url: str, toml) -> None:
    await bootstrap.seed_async(postgres_url, toml(FIRST))
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(postgres_url)
    await listener.add_listener(config.CHANNEL, lambda *args: heard.put_nowait(args[3]))
    try:
        async with database.begin() as connection:
            await config.change(
                connection, config.REGION, {"code": "VN"}, {"rate": 7}, config.By("ann", "slow")
            )
        assert int(await asyncio.wait_for(heard.get(), 30)) == (await loaded(database)).version
    finally:
        await listener.close()


async def test_a_stale_version_changes_nothing(database: Database, postgres_url: str, toml) -> None:
    await bootstrap.seed_async(postgres_url, toml(FIRST))
    by = config.By("ann", "x")

    async def change(rate: int, version: int) -> None:
        async with database.begin() as connection:
            await config.change(
                connection, config.REGION, {"code": "VN"}, {"rate": rate}, by, version=version
            )

    done = await asyncio.gather(*(change(rate, 1) for rate in (7, 8)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in done) == ["NoneType", "StaleVersion"]
    [region] = [r for r in (await loaded(database)).regions if r.code == "VN"]
    assert region.version == 2


async def test_a_bad_file_or_gateway_changes_nothing(database: Database, postgres_url: str, toml) -> None:
    with pytest.raises(config_file.ConfigError):
        await bootstrap.seed_async(postgres_url, toml("[[gateways]]\nname = 'x'\n"))

    def refuse(name: str, url: str, settings: object) -> None:
        raise ValueError(f"gateway {name}: url: no")

    with pytest.raises(config_file.ConfigError, match=r"volley\.toml: gateway sandbox: url: no"):
        await bootstrap.seed_async(postgres_url, toml(FIRST), check=refuse)
    assert (await loaded(database)).gateways == ()


@pytest.mark.parametrize(
    ("gateway", "rest", "named"),
    [
        ("rate = 99999999999", "", "gateways.a.rate"),
        ("", "weights = [10001]", "routes entry 1.weights"),
        ("", "sender = 'a sender too long'", "routes entry 1.sender"),
        ("", "[regions.VN]\nrate = 99999999999", "regions.VN.rate"),
    ],
)
async def test_what_the_database_would_refuse_is_one_line(database, postgres_url, toml, gateway, rest, named):
    path = toml(
        f"[[gateways]]\nname = 'a'\nurl = 'smpp://u:p@h'\n{gateway}\n"
        f"[[routes]]\nto = '*'\ngateways = ['a']\n{rest}\n"
    )
    for work in (bootstrap.plan_async, bootstrap.seed_async):
        with pytest.raises(config_file.ConfigError) as caught:
            await work(postgres_url, path)
        assert str(caught.value).startswith(f"volley.toml: {named}: ")
        assert "\n" not in str(caught.value)
