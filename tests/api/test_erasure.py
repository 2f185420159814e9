"""Erasure: every trace of a person that there is a way to make, and then no place that still has it."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
import redis.asyncio as redis

from app import erasure, rules
from app.domain import mentions
from app.domain.recipient import hash_of, to_check
from app.queue import lanes
from app.queue import rules as fast
from app.queue.connection import Queue
from app.store import epochs, inbox, parcels, receipts
from app.store.receipts import Slip
from dispatcher import inbound
from gateways.base import Inbound
from tests.api.conftest import SENDER

NUMBER, PATH = "+12025550144", "%2B12025550144"
DIGITS = b"2025550144"  # in every spelling, without what stands between
BOB = "+12025550145"
TEXT = "Dear Ann, your test is positive"
WORDS = (b"Ann", b"ann-1", b"192.0.2.77", b"positive")


OF_NOBODY = {
    # configuration, and what operators and tenants write about themselves
    "alembic_version", "api_keys", "country_packs", "currencies", "gateways", "keywords", "organisations", "probes",
    "regions", "registries", "routes", "sender_pools", "senders", "surveys", "templates", "tenants",
    "webhook_endpoints",
    # ids, hashes, states and counts; a rejection's words are ours, and never repeat what was sent
    "batch_rejections", "batch_states", "cap_events", "decisions", "erasures", "leases", "parcels", "probe_messages",
    "recalls", "redis_epoch", "registry_entries", "rollups", "survey_answers", "sweeps", "tallies", "timelines",
    "traces",
}  # fmt: skip


@pytest.fixture
async def queue(api: Any, redis_url: str) -> AsyncIterator[Queue]:
    """Redis' copy as a dispatcher builds it."""
    queue = Queue(redis_url)
    async with api.database.driver() as driver:
        queue.attach(await epochs.start(driver, await queue.run_id()))
        await queue.load()
        await rules.load_copy(driver, queue)
        await epochs.finish(driver, queue.epoch)
    yield queue
    await queue.close()


async def hash_key(api: Any) -> bytes:
    [(key,)] = await api.fetch("SELECT hash_key FROM tenants WHERE id = $1", api.tenant_id)
    return bytes(key)


async def leave_traces(api: Any, queue: Queue) -> dict[str, Any]:
    """What the API, carriers and the person bring in; gives the message and the batch."""
    await api.fetch(
        "INSERT INTO gateways (name, url) VALUES ('a', 'smpp://a:b@127.0.0.1:1') ON CONFLICT DO NOTHING"
    )
    await api.post("/v1/webhooks", {"url": "https://example.com/hook"})
    person = {
        "client_reference": "ann-1", "metadata": {"who": "Ann", "phone": "(202) 555-0144"},
        "callback_url": "https://example.com/done/2025550144?name=Ann",
    }  # fmt: skip
    message = await api.post(
        "/v1/messages", api.message(to=NUMBER, body=TEXT, **person), idempotency_key="for-12025550144"
    )
    assert message.status == 202, message.raw
    people = [{"to": NUMBER, "variables": {"name": "Ann"}}, {"to": BOB, "variables": {"name": "Bob"}}]
    batch = await api.post("/v1/batches", api.batch(people, name="with 202-555-0144"))
    assert batch.status == 202, batch.raw
    own = await api.post(
        "/v1/batches", api.batch([{"to": NUMBER}], body=TEXT, name="for Ann", metadata={"a": "Ann"})
    )
    assert own.status == 202, own.raw
    await api.post(f"{batch.json['url']}/pause", {"reason": "asked by +1 (202) 555-0144"})
    evidence = {"ip": "192.0.2.77", "name": "Ann"}
    await api.post("/v1/consents", {"to": NUMBER, "evidence": evidence}, idempotency_key="12025550144")
    pending = {"to": NUMBER, "status": "pending", "confirm": {"sender": SENDER}, "evidence": evidence}
    assert (await api.post("/v1/consents", pending)).status == 201
    await api.post("/v1/consents", {"to": NUMBER, "source": "erasure", "evidence": evidence})
    await api.post("/v1/suppressions", {"to": NUMBER, "sender": SENDER, "reason": "call of 2025550144"})
    headers = {"content-type": "text/csv"}
    await api.call(
        "POST", "/v1/registries/US/import?format=us_national", data=b"202,5550144\n", headers=headers
    )
    survey = {"name": "s", "question": "?", "sender": SENDER, "options": {"Yes": ["ja"]}, "reply": "Thanks"}
    assert (await api.post("/v1/surveys", survey)).status == 201
    [(gateway_id,)] = await api.fetch("SELECT min(id) FROM gateways")
    texts = [Inbound(NUMBER, SENDER, one, one) for one in ("I am Ann", "ja", "stop")]
    await inbound.take(api.database, queue, gateway_id, texts, time.time())
    await carrier_says(api, gateway_id, uuid.UUID(message.json["id"]))
    await count_a_contact(api, queue, uuid.UUID(message.json["id"]).bytes)
    return {"message": message.json, "batch": batch.json, "gateway": gateway_id}


async def carrier_says(api: Any, gateway_id: int, message_id: uuid.UUID) -> None:
    """A carrier whose words repeat the number, about this message and about one that nobody finds."""
    words = f"unknown subscriber {NUMBER}"
    for statement in (
        "INSERT INTO outcomes (message_id, attempt, segment, segments, gateway_id, kind, to_check, raw, at)"
        " VALUES ($2, 1, 0, 1, $3, 1, 1, $1, now())",
        "INSERT INTO segment_states (message_id, segment, state, raw, at) VALUES ($2, $3, 12, $1, now())",
        "INSERT INTO receipts (gateway_id, gateway_message_id, message_id, segment, state, raw, error, at)"
        " VALUES ($3, 'x', $2, 0, 'enroute', $1, $1, now())",
    ):
        await api.fetch(statement, words, message_id, gateway_id)
    await api.fetch(
        "INSERT INTO finals (message_id, state, raw, at) SELECT max(message_id::text)::uuid, 13, $1, now()"
        " FROM lookups WHERE tenant_id = $2 AND recipient = $3",
        words, api.tenant_id, int.from_bytes(hash_of(await hash_key(api), NUMBER), "big", signed=True),
    )  # fmt: skip
    slip = Slip(gateway_id, "stray", "enroute", words, "2025550144", None, None, to_check(NUMBER), 0.0)
    async with api.database.driver() as driver:
        await receipts.park(driver, [slip], time.time())
        payloads = [msgspec.msgpack.encode(Inbound(NUMBER[1:], SENDER, one)) for one in ("Ann again", "Ann!")]
        await inbox.park(driver, gateway_id, payloads, time.time())
        [(row_id,)] = await driver.fetch("SELECT max(id) FROM parked_inbound")
        await inbox.set_aside(driver, row_id, time.time())
    await api.fetch(
        'INSERT INTO inbound_parts (gateway_id, sender, "to", reference, total, index, octets, encoding, until,'
        " given_out) VALUES ($1, $2, '1', 7, 2, 1, 'Ann is', 'latin-1', now(), true)",
        gateway_id, NUMBER[1:],
    )  # fmt: skip
    await api.fetch(
        'INSERT INTO inbound (id, tenant_id, gateway_id, sender, "to", text, at)'
        " VALUES ($1, NULL, $2, $3, '1', 'Ann to nobody', now())",
        uuid.uuid4(), gateway_id, NUMBER,
    )  # fmt: skip


async def count_a_contact(api: Any, queue: Queue, message_id: bytes) -> None:
    """As a hand-over counts one, in Redis and in the book."""
    recipient = hash_of(await hash_key(api), NUMBER)
    asked = fast.Question(
        tenant_id=api.tenant_id, sender="other", recipients=[recipient], keep_ms=86_400_000, tokens=[message_id],
        contents=[b"12345"],
    )  # fmt: skip
    at_ms = int(time.time() * 1000)
    contact = fast.tenants_contact(api.tenant_id, recipient, message_id, at_ms)
    await fast.remember_contacts(queue, [contact])
    assert await fast.check(queue, [asked])
    await api.fetch(
        "INSERT INTO cap_events (tenant_id, recipient, message_id, at) VALUES ($1, $2, $3, now())",
        api.tenant_id, int.from_bytes(recipient, "big", signed=True), uuid.UUID(bytes=message_id),
    )  # fmt: skip


async def in_postgresql(api: Any) -> AsyncIterator[tuple[str, bytes]]:
    """(place, content) of each value of each row of each table that there is."""
    for (table,) in await api.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT relispartition"
    ):
        for row in await api.fetch(f'SELECT * FROM "{table}"'):
            for column, value in row.items():
                yield f"{table}.{column}", value if isinstance(value, bytes) else str(value).encode()


async def in_redis(url: str) -> AsyncIterator[tuple[str, bytes]]:
    """The same of each key, by its type."""
    client = redis.Redis.from_url(url)
    async for key in client.scan_iter():
        kind = (await client.type(key)).decode()
        reading = {
            "string": client.get,
            "hash": client.hgetall,
            "set": client.smembers,
            "zset": lambda key: client.zrange(key, 0, -1),
            "list": lambda key: client.lrange(key, 0, -1),
        }[kind]
        yield kind, key
        for value in values(await reading(key)):
            yield key.decode(errors="replace"), value
    await client.aclose()


async def with_words(api: Any) -> set[str]:
    """The tables that could have a word of somebody's."""
    rows = await api.fetch(
        "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema = 'public'"
        " AND data_type IN ('text', 'bytea', 'jsonb', 'json', 'ARRAY', 'character varying')"
        " AND table_name NOT IN (SELECT relname FROM pg_class WHERE relispartition)"
    )
    return {row["table_name"] for row in rows}


def values(found: Any) -> Iterator[bytes]:
    if isinstance(found, bytes):
        yield found
    elif isinstance(found, dict):
        yield from (part for item in found.items() for part in item)
    else:
        yield from found


def tells(content: bytes) -> bool:
    """Whether it has the person's number in any spelling, or their words."""
    return DIGITS in re.sub(rb"[^0-9A-Za-z]", b"", content) or any(word in content for word in WORDS)


async def told(api: Any) -> set[str]:
    """The places where something of the person is."""
    found = {place async for place, content in in_postgresql(api) if tells(content)}
    return found | {f"redis {place}" async for place, content in in_redis(api.redis_url) if tells(content)}


async def take_in(api: Any, queue: Queue) -> None:
    """What callbacks brought, as the sweeper takes it in."""
    async with api.database.driver() as driver, driver.transaction():
        while (parked := await inbox.unpark(driver)) is not None:
            text = msgspec.msgpack.decode(parked[2], type=Inbound)
            await inbound.take(api.database, queue, parked[1], [text], time.time())


async def test_nothing_of_a_person_stays_anywhere(api: Any, queue: Queue) -> None:
    made = await leave_traces(api, queue)
    async with api.database.driver() as driver:
        rows = await driver.fetch("SELECT id FROM parcels")
        await lanes.offer(queue, await parcels.open_by_id(driver, [row["id"].bytes for row in rows]))
    before = await told(api)
    assert before >= {
        "packs.payload", "lookups.reference", "batches.body", "batches.name", "inbound.sender", "receipts.raw",
        "parked_inbound.payload", "inbound_parts.octets", "parked_receipts.receipt", "outcomes.raw",
        "webhook_deliveries.payload", "audit_log.reason", "idempotency.response", "consents.address",
        "consent_requests.evidence", "rule_events.evidence", "suppressions.reason",
    }, before  # fmt: skip
    assert any(place.startswith("redis") for place in before)
    assert (
        await with_words(api) == {place.partition(".")[0] for place in before if "." in place} | OF_NOBODY
    ), "leave a trace in the new table here, or say that it is about nobody"
    asked = await api.post(
        "/v1/erasures", {"to": NUMBER, "reason": "ticket 7"}, idempotency_key="e-12025550144"
    )
    assert (asked.status, asked.json["done_at"]) == (201, None), "a text of theirs waits to be taken in"
    await take_in(api, queue)
    assert await erasure.advance(
        api.database, queue, api.tenant_id, uuid.UUID(asked.json["id"]).bytes, time.time()
    )
    assert await told(api) == set()
    await others_stay(api, queue, made)
    await it_can_be_proved(api, queue, asked.json)


async def others_stay(api: Any, queue: Queue, made: dict[str, Any]) -> None:
    assert BOB.encode() in (await api.get(f"/v1/messages?batch={made['batch']['id']}")).raw
    one = (await api.get(made["message"]["url"])).json
    assert (one["state"], one["reason"]) == ("cancelled", "erased")
    assert (await api.get(f"/v1/messages?to={PATH}")).json["data"] == []
    again = await api.post("/v1/messages", api.message(to=BOB, body="x"), idempotency_key="for-12025550144")
    assert again.status in (409, 422), "the key is still taken"


async def it_can_be_proved(api: Any, queue: Queue, made: dict[str, Any]) -> None:
    recipient = hash_of(await hash_key(api), NUMBER)
    standing = fast.Question(tenant_id=api.tenant_id, sender="any", recipients=[recipient])
    assert (await fast.check(queue, [standing]))[0].letters == "s", "and never again"
    assert (await api.call("DELETE", f"/v1/suppressions/{PATH}")).status == 404
    assert (await fast.check(queue, [standing]))[0].letters == "s", "whoever would lift it"
    stops = (await api.get(f"/v1/suppressions/{PATH}")).json["suppressed"]
    assert {(stop["to"], stop["reason"]) for stop in stops} >= {(None, "erased")}
    kept = [place async for place, content in in_redis(api.redis_url) if recipient in content]
    assert all(":suppressed" in place or ":listed" in place for place in kept), kept
    proof = f"/v1/erasures/{made['id']}"
    shown = (await api.get(f"{proof}?to={PATH}")).json
    assert shown["matches"] is True
    assert shown["done_at"] is not None
    assert shown["counts"]["messages"] == 6, "three of ours, a question, two answers"
    assert (await api.get(f"{proof}?to=%2B12025550101")).json["matches"] is False
    assert made["recipient"].encode() in (await api.get("/v1/audit?limit=200")).raw


async def test_a_reason_that_names_the_person_is_refused(api: Any) -> None:
    reply = await api.post("/v1/erasures", {"to": NUMBER, "reason": "Mr 202-555-0144 wrote"})
    assert (reply.status, reply.json["errors"][0]["pointer"]) == (422, "/reason")


@pytest.mark.parametrize(
    ("e164", "text", "rest"),
    [
        ("+12025550144", "call +1 (202) 555-0144 now", "call 0 now"),
        ("+12025550144", "0012025550144,2025550144", "0,0"),
        ("+84912345678", '{"to": "0912 345 678", "n": 84912345678}', '{"to": "0", "n": 0}'),
        ("+84912345678", "ref%2B84912345678", "ref%2B0"),
        ("+447911123456", "+44 (0)7911 123456", "0"),
        ("+12025550144", "order 920255501447", "order 920255501447"),
        ("+6591234567", "+6591234567 but not 12026591234567", "0 but not 12026591234567"),
    ],
)
async def test_a_number_is_found_as_people_write_it(api: Any, e164: str, text: str, rest: str) -> None:
    assert mentions.without(text, e164) == rest
    [(by_postgresql,)] = await api.fetch(
        "SELECT regexp_replace($1::text, $2, $3, 'g')", text, mentions.pattern(e164), mentions.REPLACEMENT
    )
    assert by_postgresql == rest, "PostgreSQL reads the pattern as Python does"
