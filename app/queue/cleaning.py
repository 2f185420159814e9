"""The mark that an epoch was built whole on this server, and the removal of epochs that are over."""

from __future__ import annotations

from app.queue.connection import Queue

SCAN_COUNT = 1_000


async def mark(queue: Queue) -> None:
    """The epoch's copy is whole since now (ms, by the server); a flush takes the mark with the rest."""
    seconds, micros = await queue.client.time()
    await queue.client.set(queue.key("whole"), seconds * 1000 + micros // 1000)


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
