"""What the sandbox received, for the tests that have to prove it.

A bounded ring of every submit, and the peak in any sliding second. Holds whole numbers and
texts, in memory only: this is test equipment.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from app.domain.text import decode
from gateways.smpp.pdu import Message
from gateways.smpp.reassembly import read_text

DEFAULT_LIMIT = 200_000  # entries; about 1 kB each


class Entry(msgspec.Struct, gc=False):
    """One submit_sm as it came. `at` is Unix seconds, `number` counts from 1 and never repeats."""

    number: int
    at: float
    system_id: str
    connection: int
    sequence: int
    status: int
    message_id: str
    message: Message


class Ledger:
    """The last `limit` submits; a limit of 0 keeps none."""

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self.next_number = 1
        self._entries: deque[Entry] = deque(maxlen=limit)

    def __len__(self) -> int:
        return len(self._entries)

    def add(
        self,
        at: float,
        system_id: str,
        connection: int,
        sequence: int,
        status: int,
        message_id: str,
        message: Message,
    ) -> None:
        """Keep one submit."""
        entry = Entry(self.next_number, at, system_id, connection, sequence, status, message_id, message)
        self._entries.append(entry)
        self.next_number += 1

    def clear(self) -> None:
        """Forget the entries; the numbers go on."""
        self._entries.clear()

    def since(self, number: int, limit: int = DEFAULT_LIMIT, prefix: str = "") -> list[dict[str, object]]:
        """Entries after `number` whose recipient begins with `prefix` (no plus sign), as JSON objects."""
        if not self._entries:
            return []
        skip = max(number + 1 - self._entries[0].number, 0)
        return [describe(entry) for entry in islice(_of(islice(self._entries, skip, None), prefix), limit)]

    def duplicates(self, prefix: str = "", limit: int = DEFAULT_LIMIT) -> list[dict[str, object]]:
        """What was taken more than once: same sender, recipient and payload, header of a part included.

        Refused submits don't count: their text may go again. Two texts that were meant to be equal look the same.
        """
        found: dict[tuple[bytes, bytes, bytes], list[Entry]] = {}
        for entry in _of(self._entries, prefix):
            if not entry.status:
                message = entry.message
                key = (message.source, message.destination, message.payload)
                found.setdefault(key, []).append(entry)
        several = [entries for entries in found.values() if len(entries) > 1]
        return [
            {
                "times": len(entries),
                "numbers": [entry.number for entry in entries],
                "at": [entry.at for entry in entries],
                **{name: describe(entries[0])[name] for name in ("source", "to", "text_sha256", "part")},
            }
            for entries in several[:limit]
        ]

    def lines(self, since: int = 0, prefix: str = "") -> Iterator[bytes]:
        """Entries after number `since` as lines of JSON. Over a copy: submits may come meanwhile."""
        for entry in _of(list(self._entries), prefix):
            if entry.number > since:
                yield msgspec.json.encode(describe(entry)) + b"\n"

    def peak(self, prefix: str = "", status: int | None = None) -> int:
        """The most submits in any sliding second, to that prefix and with that answer."""
        window: deque[float] = deque()
        peak = 0
        for entry in _of(self._entries, prefix):
            if status is None or entry.status == status:
                window.append(entry.at)
                while window[0] <= entry.at - 1.0:
                    window.popleft()
                peak = max(peak, len(window))
        return peak


def _of(entries: Iterable[Entry], prefix: str) -> Iterator[Entry]:
    wanted = prefix.lstrip("+").encode()
    return (entry for entry in entries if entry.message.destination.startswith(wanted))


def describe(entry: Entry) -> dict[str, object]:
    """An entry as JSON: the text decoded, with its SHA-256, and which part of how many it is."""
    message, part = entry.message, None
    octets, encoding, found = read_text(message, "gsm7")
    if found:
        part = {"reference": found.reference, "index": found.index, "total": found.total}
    text = decode(octets, encoding)
    return {
        "number": entry.number,
        "at": entry.at,
        "system_id": entry.system_id,
        "connection": entry.connection,
        "sequence": entry.sequence,
        "status": entry.status,
        "message_id": entry.message_id,
        "source": message.source.decode("latin-1"),
        "source_ton": message.source_ton,
        "to": message.destination.decode("latin-1"),
        "text": text,
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "data_coding": message.data_coding,
        "validity_period": message.validity_period.decode("latin-1"),
        "registered_delivery": message.registered_delivery,
        "part": part,
    }


class SlidingSecond:
    """How many in the last second, and the most there ever were in any. `admit` also holds a cap."""

    def __init__(self) -> None:
        self.peak = 0
        self._batches: deque[tuple[float, int]] = deque()
        self._sum = 0

    def current(self, now: float) -> int:
        """In the second that ends now."""
        while self._batches and self._batches[0][0] <= now - 1.0:
            self._sum -= self._batches.popleft()[1]
        return self._sum

    def add(self, count: int, now: float) -> None:
        """So many, now."""
        if count:
            self.current(now)
            self._batches.append((now, count))
            self._sum += count
            self.peak = max(self.peak, self._sum)

    def admit(self, wanted: int, cap: int, now: float) -> int:
        """How many of `wanted` stay under `cap` in this sliding second; those are added."""
        admitted = wanted if not cap else max(min(wanted, cap - self.current(now)), 0)
        self.add(admitted, now)
        return admitted
