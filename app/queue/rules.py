"""The fast copy of suppressions, consents and cap history, one set of keys a tenant.

Guarantee: `check` answers only from a copy that was built whole (a sentinel member says so) in the current
epoch; otherwise it raises `EpochLost`. PostgreSQL stays the book of record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.queue.connection import EpochLost, Queue

SENTINEL = b"whole"
PASS, SUPPRESSED, NO_CONSENT, CAPPED = ".", "s", "n", "c"
CHUNK = 5_000


class Question:
    """One parcel's recipients. `cap_tokens` are the message ids; '' asks no cap for that one."""

    __slots__ = (
        "cap_max",
        "cap_tokens",
        "cap_window_ms",
        "need_consent",
        "recipients",
        "sender",
        "tenant_id",
    )

    def __init__(
        self,
        tenant_id: int,
        sender: str,
        recipients: Sequence[bytes],
        *,
        need_consent: bool,
        cap_max: int = 0,
        cap_window_ms: int = 0,
        cap_tokens: Sequence[bytes] | None = None,
    ) -> None:
        self.tenant_id = tenant_id
        self.sender = sender
        self.recipients = recipients
        self.need_consent = need_consent
        self.cap_max = cap_max
        self.cap_window_ms = cap_window_ms
        self.cap_tokens = cap_tokens


def _key(queue: Queue, tenant_id: int, part: str) -> str:
    return f"v{queue.epoch}:{{t{tenant_id}}}:{part}"


async def check(queue: Queue, questions: Sequence[Question]) -> list[str]:
    """A verdict letter for each recipient of each question, in order: one round trip."""
    pipe = queue.client.pipeline(transaction=False)
    for q in questions:
        args: list[object] = [SENTINEL, q.sender, "1" if q.need_consent else "0", q.cap_max, q.cap_window_ms]
        tokens = q.cap_tokens or [b""] * len(q.recipients)
        for recipient, token in zip(q.recipients, tokens, strict=True):
            args += (recipient, token)
        queue.queue_script(
            pipe,
            "check",
            [_key(queue, q.tenant_id, p) for p in ("suppressed", "consented", "cap:")],
            args,
        )
    answers = await queue.execute(pipe)
    if not all(answers):
        raise EpochLost("the copy of the suppressions is not whole")
    return [answer.decode() for answer in answers]


async def uncap(queue: Queue, tenant_id: int, items: Iterable[tuple[bytes, bytes]]) -> None:
    """Give back cap counts of (recipient, message id) that were not handed over after all."""
    pipe = queue.client.pipeline(transaction=False)
    for recipient, token in items:
        pipe.zrem(_key(queue, tenant_id, "cap:").encode() + recipient, token)
    await queue.execute(pipe)


def member(recipient: bytes, sender: str) -> bytes:
    """A suppression's member: of one sender, or ('') of every sender of the tenant."""
    return recipient + sender.encode()


async def suppress(queue: Queue, tenant_id: int, members: Sequence[bytes]) -> None:
    """Add to the copy; PostgreSQL has it already."""
    for start in range(0, len(members), CHUNK):
        await queue.client.sadd(_key(queue, tenant_id, "suppressed"), *members[start : start + CHUNK])


async def release(queue: Queue, tenant_id: int, members: Sequence[bytes]) -> None:
    """Take suppressions off the copy."""
    for start in range(0, len(members), CHUNK):
        await queue.client.srem(_key(queue, tenant_id, "suppressed"), *members[start : start + CHUNK])


async def grant(queue: Queue, tenant_id: int, recipients: Sequence[bytes]) -> None:
    """Marketing consents, into the copy."""
    for start in range(0, len(recipients), CHUNK):
        await queue.client.sadd(_key(queue, tenant_id, "consented"), *recipients[start : start + CHUNK])


async def withdraw(queue: Queue, tenant_id: int, recipients: Sequence[bytes]) -> None:
    """Marketing consents, off the copy."""
    for start in range(0, len(recipients), CHUNK):
        await queue.client.srem(_key(queue, tenant_id, "consented"), *recipients[start : start + CHUNK])


async def remember_caps(queue: Queue, items: Iterable[tuple[int, bytes, bytes, int]], window_ms: int) -> None:
    """Cap history (tenant, recipient, message id, at ms) while an epoch is built."""
    pipe = queue.client.pipeline(transaction=False)
    for tenant_id, recipient, token, at_ms in items:
        key = _key(queue, tenant_id, "cap:").encode() + recipient
        pipe.zadd(key, {token: at_ms})
        pipe.pexpire(key, window_ms)
    await queue.execute(pipe)


async def mark_whole(queue: Queue, tenant_ids: Iterable[int]) -> None:
    """The copy of these tenants is complete: from now on it may answer."""
    for tenant_id in tenant_ids:
        await queue.client.sadd(_key(queue, tenant_id, "suppressed"), SENTINEL)
