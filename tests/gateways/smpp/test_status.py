"""Every command_status has a meaning."""

from __future__ import annotations

import pytest
from smpplib import consts

from gateways.base import Rejected, Retry
from gateways.smpp import status


def test_the_table_has_every_code_of_the_specification():
    of_3_4 = {code: row for code, row in status.STATUS.items() if code < 0x100}
    assert set(of_3_4) == set(consts.DESCRIPTIONS) - {consts.SMPP_ESME_ROK}
    names = {
        value: name.removeprefix("SMPP_")
        for name, value in vars(consts).items()
        if name.startswith("SMPP_ESME")
    }
    for code, (name, _, _) in of_3_4.items():
        assert names[code] == name


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (0x58, Retry("throttled", "ESME_RTHROTTLED")),
        (0x14, Retry("queue_full", "ESME_RMSGQFUL")),
        (0x08, Retry("gateway_error", "ESME_RSYSERR")),
        (0x0B, Rejected("invalid_number", "ESME_RINVDSTADR")),
        (0x0A, Rejected("invalid_sender", "ESME_RINVSRCADR")),
        (0x104, Rejected("content_rejected", "ESME_RINVDCS")),
        (0x102, Retry("gateway_error", "ESME_RSERTYPUNAVAIL")),
        (0x488, Rejected("unknown_status", "0x00000488")),
    ],
)
def test_outcomes(code, outcome):
    assert status.refusal(status.refusals({}), code) == outcome


def test_a_carriers_own_codes():
    outcomes = status.refusals({"0x488": "retry:throttled", "11": "rejected:opted_out"})
    assert status.refusal(outcomes, 0x488) == Retry("throttled", "0x00000488")
    assert status.refusal(outcomes, 0x0B) == Rejected("opted_out", "ESME_RINVDSTADR")


@pytest.mark.parametrize(
    "vendor",
    [{"x": "retry:a"}, {"0": "retry:a"}, {"0x488": "accepted:a"}, {"0x488": "retry"}, {"-1": "retry:a"}],
)
def test_a_wrong_entry_is_named(vendor):
    with pytest.raises(ValueError, match="status"):
        status.refusals(vendor)
