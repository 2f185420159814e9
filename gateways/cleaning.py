"""The one door between what carriers and providers say and what is stored.

Guarantee: what comes out can be stored, whatever a provider's module made of what a stranger sent
(`app.domain.storable`): one bad value never stands in the way of what comes with it. The same id is cleaned
the same way in an answer and in its receipt, so they still meet.
"""

from __future__ import annotations

import math

from app.domain.storable import moment, text, word
from gateways.base import Accepted, Inbound, Outcome, Receipt, Rejected, Retry, Unknown

MAX_ID_CHARACTERS = 255
MAX_ADDRESS_CHARACTERS = 255  # numbers are shorter, user ids of messengers need not be
MAX_RAW_CHARACTERS = 255
MAX_REASON_CHARACTERS = 64
MAX_TEXT_CHARACTERS = 20_000
MAX_DELAY_S = 86_400.0


def outcome(one: Outcome) -> Outcome:
    """What became of a hand-over."""
    if isinstance(one, Accepted):
        return Accepted(word(one.gateway_message_id, MAX_ID_CHARACTERS))
    reason, raw = word(one.reason, MAX_REASON_CHARACTERS), word(one.raw, MAX_RAW_CHARACTERS)
    if isinstance(one, Retry):
        return Retry(reason, raw, _delay(one.delay_s), one.sent)
    return Rejected(reason, raw) if isinstance(one, Rejected) else Unknown(reason, raw)


def receipt(one: Receipt) -> Receipt:
    """A carrier's word on delivery. A time outside this century is none."""
    return Receipt(
        word(one.gateway_message_id, MAX_ID_CHARACTERS),
        one.state,
        word(one.raw, MAX_RAW_CHARACTERS),
        word(one.error, MAX_RAW_CHARACTERS),
        word(one.to, MAX_ADDRESS_CHARACTERS),
        word(one.sender, MAX_ADDRESS_CHARACTERS),
        moment(one.submitted_at),
        moment(one.done_at),
        one.whole,
        one.opted_out,
    )


def inbound(one: Inbound) -> Inbound:
    """A text that came in."""
    return Inbound(
        word(one.sender, MAX_ADDRESS_CHARACTERS),
        word(one.to, MAX_ADDRESS_CHARACTERS),
        text(one.text, MAX_TEXT_CHARACTERS),
        word(one.gateway_message_id, MAX_ID_CHARACTERS),
        one.part,
        one.repeat_s,
        one.port,
    )


def _delay(delay_s: float | None) -> float | None:
    """Between nothing and a day; what is no number is none."""
    return None if delay_s is None or math.isnan(delay_s) else min(max(delay_s, 0.0), MAX_DELAY_S)
