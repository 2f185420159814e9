"""Every fault of the sandbox at once, and what has to hold all the same."""

from __future__ import annotations

from collections import Counter

import pytest

from gateways.base import Accepted, Retry, Unknown
from gateways.sandbox import Behaviour, Sandbox, Settings

STORMS = {
    "cut": {"cut_every": 37},
    "drop": {"drop_answers": 0.1},
    "jitter": {"answer_jitter_s": 0.05, "shuffle_answers": True},
    "throttle": {"rate": 300},
    "early and doubled": {"early": 0.5, "doubled": 0.5},
    "everything": {
        "cut_every": 97,
        "drop_answers": 0.03,
        "answer_jitter_s": 0.02,
        "error": 0.05,
        "early": 0.2,
        "doubled": 0.2,
        "lost": 0.1,
        "id_form": "uuid",
    },
}


@pytest.mark.parametrize("storm", STORMS.values(), ids=STORMS)
async def test_each_segment_ends_once_and_is_handed_over_at_most_once(storm, recorder, submission, opened):
    behaviour = Behaviour(receipt_delay_s=0.01, redeliver_s=0.01, **storm)
    users = {"volley": "hunter2"}
    sandbox = Sandbox(Settings(port=0, control_port=None, users=users, behaviour=behaviour, seed=11))
    await sandbox.start()
    gateway = await opened(sandbox.port, sessions=3, window=20, response_timeout_s=0.4)
    total, sent = 600, 0

    def done():
        nonlocal sent
        granted = gateway.take(min(50, total - sent))
        if granted:
            batch = [submission(f"m-{sent + i}", text=f"text {sent + i}") for i in range(granted)]
            sent += granted
            gateway.submit(batch)
        return len(recorder.ended) >= total

    await recorder.until(done, 20)
    assert len(recorder.ended) == total
    outcomes = {}
    for index in range(total):
        (outcomes[f"text {index}"],) = recorder.outcome_of(f"m-{index}")

    arrived = Counter(entry["text"] for entry in sandbox.smsc.ledger.since(0))
    assert max(arrived.values()) == 1, "nothing was handed over twice"
    for text, outcome in outcomes.items():
        if isinstance(outcome, Accepted):
            assert arrived[text] == 1
        if isinstance(outcome, Retry) and not outcome.sent:
            assert arrived[text] == 0
    lost = [text for text in arrived if isinstance(outcomes[text], Unknown)]
    assert bool(lost) == any(fault in storm for fault in ("cut_every", "drop_answers"))

    # Receipts of what was accepted come, whatever was cut meanwhile, until each is acknowledged.
    accepted = {outcome.gateway_message_id for outcome in outcomes.values() if isinstance(outcome, Accepted)}
    if not behaviour.lost:
        await recorder.until(lambda: accepted <= {r.gateway_message_id for r in recorder.receipts_seen}, 20)
    assert {receipt.state for receipt in recorder.receipts_seen} == {"delivered"}
    await recorder.until(lambda: all(bind.in_flight == 0 for bind in gateway.binds()))
    await sandbox.stop()
