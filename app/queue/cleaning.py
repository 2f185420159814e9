"""The mark that an epoch was built whole on this server, and the removal of epochs that are over."""

from __future__ import annotations

from typing import Any

from app.queue.connection import Queue

SCAN_COUNT = 1_000
LAST = "volley:last"


async def mark(queue: Queue, timeline: str) -> None:
    """The epoch's copy is whole since now (ms, by the server), built from that timeline of PostgreSQL; a flush
    takes the mark with the rest."""
    seconds, micros = await queue.client.time()
    pipe = queue.client.pipeline()
    pipe.set(queue.key("whole"), seconds * 1000 + micros // 1000)
    pipe.set(LAST, f"{queue.epoch} {timeline}")
    await queue.execute(pipe)


async def last(queue: Queue) -> tuple[int, str] | None:
    """The newest epoch that was whole on this server, and the timeline it was built from."""
    raw: Any = await queue.client.get(LAST)
    if raw is None:
        return None
    epoch, _, timeline = raw.decode().partition(" ")
    return int(epoch), timeline


async def is_whole(queue: Queue) -> bool:
    """Whether the mark of the current epoch is there."""
    return bool(await queue.client.exists(queue.key("whole")))


async def drop_epoch(queue: Queue, epoch: int) -> None:
    """Remove every key of an older epoch, in pages."""
    if epoch == queue.epoch:
        return
    batch = []
    async for key in queue.client.scan_iter(match=f"v{epoch}:*", count=SCAN_COUNT):
        batch.append(key)
        if len(batch) >= SCAN_COUNT:
            await queue.client.unlink(*batch)
            batch.clear()
    if batch:
        await queue.client.unlink(*batch)
