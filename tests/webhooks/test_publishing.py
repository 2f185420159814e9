"""What is told of messages that changed: to whom, with what, and what it costs those whom nobody told of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from app.domain import ids
from app.domain.message import Category, State
from app.domain.pack import Entry, Pack
from app.store import partitions, webhook_endpoints
from app.store.engine import Database
from app.store.intake import Draft, accept, as_uuid
from app.store.webhooks import Change, Publisher

NOW = time.time()
BATCH = ids.new_id(NOW)


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    database = Database(postgres_url, pool=2)
    async with database.driver() as driver:
        await partitions.ensure(driver, NOW)
        await driver.execute(
            "TRUNCATE webhook_deliveries, webhook_endpoints, tenants, gateways, packs, lookups, parcels,"
            " tallies, outcomes RESTART IDENTITY CASCADE"
        )
        for name in ("one", "two"):
            await driver.execute("INSERT INTO tenants (name, hash_key) VALUES ($1, 'k')", name)
        await driver.execute("INSERT INTO gateways (name, url) VALUES ('g', 'smpp://h')")
    yield database
    await database.dispose()


async def sent(database: Database, tenant_id: int, *extras: dict | None) -> list[bytes]:
    """The ids of a pack's messages, one for each `extra`."""
    pack_id = ids.new_id(NOW)
    entries = [
        Entry(n, f"+1202555010{n}", b"12345678", 2, reference=f"r{n}", extra=extra)
        for n, extra in enumerate(extras)
    ]
    pack = Pack(
        tenant_id, BATCH, "US-FL", "US", Category.otp, "12025550199", "hi", None, None, False, entries
    )
    async with database.driver() as driver, driver.transaction():
        await accept(driver, [Draft(pack_id, pack, NOW, 5)], NOW)
    return ids.message_ids(pack_id, len(extras))


async def subscribe(database: Database, tenant_id: int, *events: str) -> None:
    async with database.driver() as driver:
        await webhook_endpoints.create(driver, tenant_id, "https://e.example/", events, NOW)


async def publish(database: Database, publisher: Publisher, *changes: Change) -> list[dict]:
    async with database.driver() as driver:
        async with driver.transaction():
            n = await publisher.publish(driver, changes, NOW)
        rows = await driver.fetch("DELETE FROM webhook_deliveries RETURNING *")
    assert len(rows) == n
    return [dict(row) for row in sorted(rows, key=lambda row: row["id"])]


async def test_an_event_has_the_message_as_it_stands(database: Database) -> None:
    await subscribe(database, 1, "message.delivered")
    [message] = await sent(database, 1, {"metadata": {"order": 7}})
    async with database.driver() as driver:
        await driver.execute(
            "INSERT INTO outcomes (message_id, attempt, segment, segments, gateway_id, kind, to_check,"
            " gateway_message_id, at) VALUES ($1, 1, 0, 3, 1, 1, 0, 'c-1', now())",
            as_uuid(message),
        )
    [row] = await publish(database, Publisher(), Change(1, message, State.delivered, None, 1))
    assert row["event"] == "message.delivered"
    told = msgspec.json.decode(row["payload"])
    at = told["timestamp"]
    assert told == {
        "type": "message.delivered",
        "timestamp": at,
        "data": {
            "id": ids.text(message),
            "batch_id": ids.text(BATCH),
            "client_reference": "r0",
            "to": "+12025550100",
            "sender": "12025550199",
            "category": "otp",
            "region": "US-FL",
            "state": "delivered",
            "reason": None,
            "segments": 3,  # as the gateway had cut it
            "gateway": "g",
            "gateway_message_id": "c-1",
            "metadata": {"order": 7},
            "at": at,
        },
    }


async def test_who_did_not_ask_is_not_told(database: Database) -> None:
    await subscribe(database, 1, "message.failed", "message.inbound")
    [mine] = await sent(database, 1, None)
    [others] = await sent(database, 2, None)
    publisher = Publisher()
    assert await publish(database, publisher, Change(1, mine, State.delivered)) == []
    assert await publish(database, publisher, Change(2, others, State.failed, "no_route")) == []
    [row] = await publish(database, publisher, Change(1, mine, State.failed, "no_route"))
    assert msgspec.json.decode(row["payload"])["data"]["reason"] == "no_route"
    assert await publish(database, publisher) == []


async def test_a_message_s_own_callback_needs_no_endpoint(database: Database) -> None:
    quiet, calling = await sent(database, 1, None, {"callback_url": "https://c.example:8443/x?y=1"})
    publisher = Publisher()
    rows = await publish(
        database, publisher, Change(1, quiet, State.delivered), Change(1, calling, State.delivered)
    )
    [row] = rows
    assert (row["url"], row["target"]) == ("https://c.example:8443/x?y=1", "https://c.example:8443")
    assert row["endpoint_id"] is None
    assert row["message_id"].bytes == calling
    await subscribe(database, 1, "*")
    rows = await publish(
        database, publisher, Change(1, quiet, State.delivered), Change(1, calling, State.delivered)
    )
    assert len(rows) == 3


async def test_many_cost_two_statements_and_then_one(database: Database) -> None:
    messages = [m for _ in range(10) for m in await sent(database, 2, *[None] * 10)]
    publisher = Publisher()
    statements: list[str] = []
    async with database.driver() as driver:
        await Publisher().publish(
            driver, [Change(2, messages[0], State.delivered)], NOW
        )  # types are known now
        with driver.query_logger(lambda record: statements.append(record.query)):
            await publisher.publish(driver, [Change(2, m, State.delivered) for m in messages], NOW)
            await asyncio.sleep(0)  # the driver logs a turn later
            assert len(statements) == 2
            await publisher.publish(driver, [Change(2, m, State.delivered) for m in messages], NOW)
            await asyncio.sleep(0)
            assert len(statements) == 3, "packs are looked at once"
    await subscribe(database, 2, "*")
    rows = await publish(database, publisher, *(Change(2, m, State.delivered) for m in messages))
    assert [row["message_id"].bytes for row in rows] == messages, "in the order of the changes"
