"""Whatever a stranger sends through a provider's callback, what comes out can be stored."""

from __future__ import annotations

import msgspec
import pytest

from gateways import cleaning, http
from gateways.base import Accepted, Inbound, Receipt, Rejected, Retry, Unknown


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Accepted("a\0b\ud800\x1f"), Accepted("ab")),
        (Accepted("x" * 5000), Accepted("x" * cleaning.MAX_ID_CHARACTERS)),
        (Rejected("rejected", "\0" + "é" * 999), Rejected("rejected", "é" * cleaning.MAX_RAW_CHARACTERS)),
        (Unknown("bad_answer\n", "no\r\nway"), Unknown("bad_answer", "noway")),
        (Retry("throttled", "\0", float("nan")), Retry("throttled", "", None)),
        (Retry("throttled", "", float("inf"), sent=False), Retry("throttled", "", 86_400.0, sent=False)),
        (Accepted("4f-7 \u00a0id"), Accepted("4f-7 \u00a0id")),
    ],
)
def test_outcomes(given, expected) -> None:
    assert cleaning.outcome(given) == expected


@pytest.mark.parametrize("wrong", [0.0, 946_684_799.0, 4_102_444_800.0, 1e18, float("nan"), float("-inf")])
def test_receipts(wrong: float) -> None:
    given = Receipt("i\0d", "delivered", "DEL\ud9abIVRD", "0\x0100", "1\x00555", "2\x9f", wrong, wrong)
    assert cleaning.receipt(given) == Receipt("id", "delivered", "DELIVRD", "000", "1555", "2")
    right = Receipt("id", "delivered", "DELIVRD", submitted_at=1_700_000_000.0, done_at=1_700_000_001.0)
    assert cleaning.receipt(right) == right


def test_texts_keep_their_lines() -> None:
    given = Inbound("+1202\0", "\x07600", "a\tb\r\nc\0\ud83d\x0c😀", "\0")
    assert cleaning.inbound(given) == Inbound("+1202", "600", "a\tb\r\nc😀", "")
    assert len(cleaning.inbound(Inbound("1", "2", "x" * 30_000)).text) == cleaning.MAX_TEXT_CHARACTERS


def test_a_callback_goes_through_it() -> None:
    """The shell cleans for every provider; Sinch's is one that passes strings on as they are."""
    read = http.receiver("s", "sinch://plan:token@us.sms.api.sinch.com", {"token": "s3cret"})
    document = {"type": "mo_text", "id": "\0id", "from": "12025550101\0", "to": "60\x00600", "body": "ST\0OP"}
    _, texts, _ = read("POST", "https://v.example/?token=s3cret", {}, msgspec.json.encode(document))
    assert [(one.sender, one.to, one.text, one.gateway_message_id) for one in texts] == [
        ("12025550101", "60600", "STOP", "id")
    ]
