"""What comes from outside, made such that any part of the service can keep it.

Guarantees: the results hold no NUL and no half of a surrogate pair, which neither PostgreSQL nor UTF-8 takes,
and no other control characters but a text's line ends and tabs; they are not longer than asked for; a string
that is in order already comes back as it is.
"""

from __future__ import annotations

import re

EARLIEST_S = 946_684_800.0  # 2000-01-01T00:00:00Z
LATEST_S = 4_102_444_800.0  # 2100-01-01T00:00:00Z

_IN_WORDS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_IN_TEXTS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def word(value: str, limit: int) -> str:
    """An id, address, code or reason: one line of at most `limit` characters."""
    if not value.isprintable():  # also false for what stays: some spaces, private characters
        value = _IN_WORDS.sub("", value)
    return value if len(value) <= limit else value[:limit]


def text(value: str, limit: int) -> str:
    """A text of at most `limit` characters; new lines, carriage returns and tabs stay."""
    if not value.isprintable():
        value = _IN_TEXTS.sub("", value)
    return value if len(value) <= limit else value[:limit]


def moment(instant_s: float | None) -> float | None:
    """Unix seconds within this century; None for what can't be a carrier's clock, NaN included."""
    return instant_s if instant_s is not None and EARLIEST_S <= instant_s < LATEST_S else None
