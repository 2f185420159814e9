"""How well a gateway does, and whether it may be used: counts over a sliding window, and a circuit breaker.

Guarantees: pure, times are arguments (Unix seconds). A gateway that refuses or loses what it is given takes nothing
more until a few texts have shown that it works again (`failing`). One that is slow, throttles or sends no receipts
goes on working for those who have no other, and is the last choice of all others (`worse`). A breaker that opens
again at once stays open twice as long, up to REST_LIMIT_S.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from app.domain.routing import Health

BUCKET_S = 2
WINDOW_S = 30  # over which answers are judged
RECEIPTS_S = 300  # over which receipts are judged
LEAST = 20  # fewer texts say nothing about shares
RUN = 10  # so many failures without one acceptance between them say enough
PROBES = 5  # texts that go to a gateway to see whether it works again
PROBE_S = 30.0  # without an answer by then the probe has failed
REST_S = 2.0
REST_LIMIT_S = 60.0

Cause = Literal["failing", "slow", "throttled", "no_receipts"]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From when on a gateway is not well. A share of 0 (of receipts) or 1 (of the others) never is."""

    failed_share: float = 0.5  # of the answers
    throttled_share: float = 0.5
    slow_share: float = 0.5
    slow_ms: int = 1_000  # an answer later than that is slow
    receipt_share: float = 0.1  # of the accepted texts have one after `receipt_after_s`
    receipt_after_s: int = 120


def limits_of(values: Mapping[str, Any]) -> Limits:
    """Limits from a table of settings. Raises ValueError that names the key."""
    try:
        found = msgspec.convert(dict(values), Limits)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace(" - at `$.", ": `")) from None
    for name in ("failed_share", "throttled_share", "slow_share", "receipt_share"):
        if not 0 <= getattr(found, name) <= 1:
            raise ValueError(f"{name}: a share between 0 and 1")
    if not 1 <= found.slow_ms <= 600_000:
        raise ValueError("slow_ms: 1 to 600,000")
    if not 1 <= found.receipt_after_s <= 3_600:
        raise ValueError("receipt_after_s: 1 to 3,600")
    return found


class Counts(msgspec.Struct, gc=False):
    """What a gateway did, for one region. `answer_ms` and `slow` weigh the answers of one read alike.

    `failed` was refused without fault of the text, or is of unknown fate; `refused` are faults of the text.
    `texts` are accepted messages, and `receipts` and `delivered` what came for them, both by the moment of the answer.
    """

    accepted: int = 0
    failed: int = 0
    throttled: int = 0
    refused: int = 0
    slow: int = 0
    answer_ms: int = 0
    texts: int = 0
    receipts: int = 0
    delivered: int = 0
    receipt_ms: int = 0
    cut: int = 0  # of `failed`: the connection was cut under them

    @property
    def answers(self) -> int:
        return self.accepted + self.failed + self.throttled + self.refused

    def add(self, other: Counts) -> None:
        for name in FIELDS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


FIELDS = Counts.__struct_fields__


def total(counts: Iterable[Counts]) -> Counts:
    """Their sum."""
    out = Counts()
    for one in counts:
        out.add(one)
    return out


def fault(counts: Counts, waited: Counts, limits: Limits) -> Cause | None:
    """What is wrong by these counts: `counts` of the last WINDOW_S, `waited` of texts that should have receipts."""
    judged = counts.accepted + counts.failed + counts.refused
    if judged >= LEAST and counts.failed > limits.failed_share * judged:
        return "failing"
    if counts.answers >= LEAST and counts.throttled > limits.throttled_share * counts.answers:
        return "throttled"
    if counts.answers >= LEAST and counts.slow > limits.slow_share * counts.answers:
        return "slow"
    if waited.texts >= LEAST and waited.receipts < limits.receipt_share * waited.texts:
        return "no_receipts"
    return None


class Breaker(msgspec.Struct, gc=False):
    """Of one gateway and region. closed → open → half open → closed, or open again."""

    state: Literal["closed", "open", "half_open"] = "closed"
    cause: Cause | None = None
    since: float = 0.0
    until: float = 0.0  # open: when it is probed; half open: when the probe has failed
    rest_s: float = 0.0
    left: int = 0  # probes that may still go
    good: int = 0  # probes that went well
    counted_from: float = 0.0  # what happened before does not count any more
    receipts: int = 0  # that came while half open
    wanted: bool = False  # open and rested, and somebody would go by it

    def health(self) -> Health:
        """For the order in which gateways are tried."""
        if self.state == "closed":
            return "well"
        if self.state == "half_open" and self.left > 0:
            return "probing"
        return "failing" if self.cause == "failing" else "worse"

    def trip(self, cause: Cause, now_s: float) -> None:
        """It is not well."""
        self.rest_s = min(REST_LIMIT_S, self.rest_s * 2 if self.rest_s else REST_S)
        self.state, self.cause, self.since, self.until = "open", cause, now_s, now_s + self.rest_s
        self.left = self.good = self.receipts = 0
        self.wanted = False

    def rested(self, now_s: float) -> bool:
        """Whether it is open and may be probed."""
        return self.state == "open" and now_s >= self.until

    def follow(self, other: Breaker) -> None:
        """Another dispatcher's breaker opened or closed after this one did: so does this one."""
        self.state, self.cause, self.since, self.until = other.state, other.cause, other.since, other.until
        self.rest_s, self.counted_from = other.rest_s, max(self.counted_from, other.counted_from)
        self.left = self.good = self.receipts = 0
        self.wanted = False

    def tick(self, now_s: float, limits: Limits, *, lead: bool = True) -> None:
        """Time has passed: an open one is probed, a probe without an answer has failed, an old rest is forgotten.

        `lead`: it is this dispatcher that probes, if it is time to.
        """
        if self.rested(now_s) and lead:
            self.state, self.since, self.left, self.good, self.receipts = "half_open", now_s, PROBES, 0, 0
            self.until = now_s + (limits.receipt_after_s if self.cause == "no_receipts" else PROBE_S)
        elif self.state == "half_open" and now_s >= self.until:
            if self.left == PROBES:
                self.until = now_s + PROBE_S  # there was nothing to probe with
            else:
                assert self.cause is not None
                self.trip(self.cause, now_s)
        elif self.state == "closed" and self.rest_s and now_s - self.since > 2 * REST_LIMIT_S:
            self.rest_s = 0.0

    def admit(self, texts: int) -> int:
        """How many of so many texts may go as probes."""
        given = min(texts, self.left)
        self.left -= given
        return given

    def back(self, texts: int) -> None:
        """Probes that did not go after all."""
        if self.state == "half_open":
            self.left = min(PROBES, self.left + texts)

    def answered(self, counts: Counts, now_s: float) -> None:
        """Answers that came in while it is half open."""
        if self.state != "half_open" or self.left == PROBES:
            return
        bad = counts.failed or (
            counts.throttled if self.cause == "throttled" else counts.slow if self.cause == "slow" else 0
        )
        if bad:
            assert self.cause is not None
            self.trip("failing" if counts.failed else self.cause, now_s)
            return
        self.good += counts.accepted + counts.refused
        self.receipts += counts.receipts
        if self.cause == "no_receipts":
            if self.receipts:
                self.close(now_s)
        elif self.good >= PROBES - self.left:
            self.close(now_s)

    def close(self, now_s: float) -> None:
        """It works again; what went before is no longer held against it."""
        self.state, self.cause, self.since, self.counted_from = "closed", None, now_s, now_s


def worst(healths: Iterable[Health]) -> Health:
    """The gravest."""
    return max(healths, key=GRAVITY.index, default="well")


GRAVITY: tuple[Health, ...] = ("well", "probing", "worse", "failing", "down")
