"""Idempotency keys and the answers stored under them, by tenant and route.

Guarantees: of any number of requests with one key, however simultaneous, one holds the claim; a claim whose
holder died is free again when its lease ends; an answer written by `answer` or `claim_answered` is
committed with the caller's transaction or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg
import msgspec

KEPT_S = 48 * 3600  # what the sweeper leaves alone; at least 24 h are promised
PURGE_PAGE = 10_000


class Slot(NamedTuple):
    """Where an answer is stored: the key that the client chose, hashed (`slot_of`), in its tenant and route."""

    tenant_id: int
    route: str
    key: str


def slot_of(tenant_id: int, hash_key: bytes, route: str, key: str) -> Slot:
    """The place of a client's key: a hash by the tenant's own, since a key may name a person."""
    return Slot(tenant_id, route, hashlib.sha256(hash_key + key.encode()).hexdigest())


class StoredAnswer(msgspec.Struct, array_like=True):
    """An answer as it is stored: what a replay needs."""

    body: bytes
    headers: dict[str, str]


class Kept(msgspec.Struct, frozen=True):
    """What is stored under a key. `status` None: still under way, for at most `locked_for_s` more."""

    request_hash: bytes
    status: int | None
    response: bytes | None
    locked_for_s: float


class Answered(msgspec.Struct, frozen=True):
    """A key with the answer that its request will get, if it holds the key."""

    slot: Slot
    request_hash: bytes
    status: int
    response: bytes


encode_answer = msgspec.msgpack.Encoder().encode
decode_answer = msgspec.msgpack.Decoder(StoredAnswer).decode

# A row is taken over when its holder's lease is over and it left no answer.
_TAKE_OVER = """
ON CONFLICT (tenant_id, route, key) DO UPDATE
SET request_hash = excluded.request_hash, status = excluded.status, response = excluded.response,
    locked_until = excluded.locked_until, created_at = now()
WHERE idempotency.status IS NULL AND idempotency.locked_until <= now()
"""
_CLAIM_ANSWERED = (
    """
INSERT INTO idempotency (tenant_id, route, key, request_hash, status, response, locked_until)
SELECT t, r, k, h, s, a, now()
FROM unnest($1::int[], $2::text[], $3::text[], $4::bytea[], $5::smallint[], $6::bytea[])
     AS x (t, r, k, h, s, a)
ORDER BY t, r, k
"""
    + _TAKE_OVER
    + "RETURNING tenant_id, route, key"
)
_CLAIM = (
    """
INSERT INTO idempotency (tenant_id, route, key, request_hash, locked_until)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
"""
    + _TAKE_OVER
    + "RETURNING key"
)


async def claim_answered(driver: asyncpg.Connection, answers: Sequence[Answered]) -> set[Slot]:
    """Claim keys and store their answers at once; gives those that are ours. In the caller's transaction.

    The slots must be distinct. Waits for another transaction that is claiming one of them.
    """
    if not answers:
        return set()
    rows = await driver.fetch(
        _CLAIM_ANSWERED,
        [one.slot.tenant_id for one in answers],
        [one.slot.route for one in answers],
        [one.slot.key for one in answers],
        [one.request_hash for one in answers],
        [one.status for one in answers],
        [one.response for one in answers],
    )
    return {Slot(*row) for row in rows}


async def claim(driver: asyncpg.Connection, slot: Slot, request_hash: bytes, lease_s: float) -> bool:
    """Claim a key for `lease_s`; False: another request holds it, or has answered (`kept` says)."""
    return await driver.fetchval(_CLAIM, *slot, request_hash, lease_s) is not None


async def kept(driver: asyncpg.Connection, slot: Slot) -> Kept | None:
    """What is stored under the key."""
    row = await driver.fetchrow(
        "SELECT request_hash, status, response, "
        "greatest(0, extract(epoch FROM locked_until - now()))::float8 AS locked_for_s "
        "FROM idempotency WHERE tenant_id = $1 AND route = $2 AND key = $3",
        *slot,
    )
    if row is None:
        return None
    return Kept(row["request_hash"], row["status"], row["response"], row["locked_for_s"])


async def extend(driver: asyncpg.Connection, slot: Slot, lease_s: float) -> None:
    """Hold a claim for `lease_s` from now; 0 lets it go for the next one."""
    await driver.execute(
        "UPDATE idempotency SET locked_until = now() + make_interval(secs => $4) "
        "WHERE tenant_id = $1 AND route = $2 AND key = $3 AND status IS NULL",
        *slot,
        lease_s,
    )


async def answer(
    driver: asyncpg.Connection, slot: Slot, status: int, response: bytes, request_hash: bytes | None = None
) -> None:
    """Store the answer of a claim that the caller holds; `request_hash` if it was not known at the claim."""
    await driver.execute(
        "UPDATE idempotency SET status = $4, response = $5, request_hash = coalesce($6, request_hash)"
        " WHERE tenant_id = $1 AND route = $2 AND key = $3",
        *slot,
        status,
        response,
        request_hash,
    )


async def release(driver: asyncpg.Connection, slot: Slot) -> None:
    """Give up a claim that led to nothing: the next request with the key starts afresh."""
    await driver.execute(
        "DELETE FROM idempotency WHERE tenant_id = $1 AND route = $2 AND key = $3 AND status IS NULL",
        *slot,
    )


async def purge(driver: asyncpg.Connection, before: datetime) -> int:
    """Forget keys made before that time, a page a transaction; gives how many."""
    gone = 0
    while True:
        status = await driver.execute(
            "DELETE FROM idempotency WHERE (tenant_id, route, key) IN ("
            "SELECT tenant_id, route, key FROM idempotency "
            "WHERE created_at < $1 AND locked_until < now() LIMIT $2)",
            before,
            PURGE_PAGE,
        )
        count = int(status.split()[-1])
        gone += count
        if count < PURGE_PAGE:
            return gone
