"""When the carrier saw a segment, as far as its answer tells. Pure; monotonic seconds."""

from __future__ import annotations

LONGEST_S = 0.6  # without an answer a segment counts as seen so long after the write
LEARN = 20  # answers before the quickest of them is taken for the path's own length


class Path:
    """How long the way to a carrier and back takes at least.

    What the answer took longer than that, the segment may have been seen later than another that was written at the
    same moment: so much is added to the write. The length itself is the same for all, and moves none against another.
    """

    __slots__ = ("_answers", "_quickest_s")

    def __init__(self) -> None:
        self._answers = 0
        self._quickest_s = LONGEST_S

    def seen_s(self, written_s: float, now_s: float) -> float:
        """When a segment that is answered now, or is not yet, was seen at the latest: as if the path had no length."""
        length_s = self._quickest_s if self._answers >= LEARN else 0.0
        return written_s + max(0.0, min(now_s - written_s, LONGEST_S) - length_s)

    def answered(self, written_s: float, now_s: float) -> None:
        self._answers += 1
        self._quickest_s = min(self._quickest_s, max(0.0, now_s - written_s))
