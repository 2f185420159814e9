"""Things to be done later, by the hundred thousand: a list per instant instead of a timer each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Wheel(Generic[Item]):
    """Items by due time, rounded up to `width_s`. Pure: time comes in as an argument."""

    def __init__(self, width_s: float) -> None:
        self._width_s = width_s
        self._buckets: dict[int, list[Item]] = {}
        self._order: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, due: float, item: Item) -> bool:
        """Keep an item until `due`; whether it is now the next of all."""
        key = int(due / self._width_s) + 1
        bucket = self._buckets.get(key)
        self._count += 1
        if bucket is not None:
            bucket.append(item)
            return False
        self._buckets[key] = [item]
        heappush(self._order, key)
        return self._order[0] == key

    def next_due(self) -> float | None:
        """When something is due; None when nothing is kept."""
        return self._order[0] * self._width_s if self._order else None

    def due(self, now: float) -> list[Item]:
        """Everything due by now, in the order of due times."""
        items: list[Item] = []
        while self._order and self._order[0] * self._width_s <= now:
            items += self._buckets.pop(heappop(self._order))
        self._count -= len(items)
        return items

    def waiting(self) -> Iterator[Item]:
        """Everything that is kept."""
        return (item for bucket in self._buckets.values() for item in bucket)

    def keep(self, wanted: Callable[[Item], bool]) -> None:
        """Forget everything else."""
        kept = {key: [item for item in bucket if wanted(item)] for key, bucket in self._buckets.items()}
        self._buckets = {key: bucket for key, bucket in kept.items() if bucket}
        self._order = list(self._buckets)
        heapify(self._order)
        self._count = sum(map(len, self._buckets.values()))
