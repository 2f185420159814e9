"""How the sandbox SMSC behaves: every fault it can make, changeable while it runs.

Beside the settings below, numbers with a fixed fate, whatever the settings say. They are the
last of the fictional numbers of the North American plan, `+1 <area> 555 01NN`:

| number ends in | fate |
|---|---|
| 5550189 | accepted, receipt: ENROUTE, then DELIVRD a second later |
| 5550190 | refused: ESME_RINVDSTADR |
| 5550191 | accepted, receipt: UNDELIV |
| 5550192 | accepted, receipt: EXPIRED |
| 5550193 | accepted, receipt: REJECTD |
| 5550194 | accepted, never a receipt |
| 5550195 | taken, never answered; the receipt comes |
| 5550196 | refused: ESME_RTHROTTLED |
| 5550197 | accepted, the receipt comes before the answer |
| 5550198 | accepted, the receipt comes twice |
| 5550199 | refused: ESME_RSYSERR |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateways.smpp.status import STATUS

_Share = Annotated[float, Meta(ge=0, le=1)]
_Seconds = Annotated[float, Meta(ge=0, le=86_400)]
_Count = Annotated[int, Meta(ge=0)]
_Width = Annotated[int, Meta(ge=0, le=64)]  # message_id has 64 characters (5.2.23)

IdForm = Literal["dec", "hex", "HEX", "uuid"]

# stat: of Appendix B, its message_state (5.2.28) and an err: to go with it
RECEIPT_STATES: Mapping[str, tuple[int, bytes]] = {
    "ENROUTE": (1, b"000"),
    "DELIVRD": (2, b"000"),
    "EXPIRED": (3, b"031"),
    "DELETED": (4, b"050"),
    "UNDELIV": (5, b"001"),
    "ACCEPTD": (6, b"000"),
    "UNKNOWN": (7, b"255"),
    "REJECTD": (8, b"069"),
}

STATUS_BY_NAME: Mapping[str, int] = {spelled: code for code, (spelled, _, _) in STATUS.items()}


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares are between 0 and 1; 0 and false mean that the fault does not happen."""

    # Answers to submit_sm and data_sm
    rate: _Count = 0  # submits taken in any sliding second; the others get `rate_status`
    rate_per: Literal["all", "account", "bind"] = "all"  # whose submits `rate` counts together
    rates: dict[str, _Count] = {}  # a system_id's own rate, instead of `rate`
    rate_status: str = "ESME_RTHROTTLED"  # or ESME_RMSGQFUL, say
    answer_delay_s: _Seconds = 0.0
    answer_jitter_s: _Seconds = 0.0  # added at random: answers overtake each other
    shuffle_answers: bool = False  # answers to what one read gave, in random order
    drop_answers: _Share = 0.0  # taken, never answered
    refuse: dict[str, str] = {}
    error: _Share = 0.0  # refused at random with `error_status`
    error_status: str = "ESME_RSYSERR"
    id_form: IdForm = "dec"
    id_width: _Width = 0  # zeros before the id, up to so many characters

    # Binds
    refuse_binds: str = ""  # every bind gets this command_status
    max_binds: _Count = 0  # of one system_id; the others get ESME_RBINDFAIL
    mute_binds: bool = False  # a bind is never answered

    # The connection
    cut_at: _Count = 0  # cut at the Nth submit from now: taken, not answered
    cut_every: _Count = 0  # and again at each Nth
    mute: bool = False  # reads, answers nothing, enquire_link neither
    stalled: bool = False  # reads nothing: the peer's writes fill up

    # Receipts
    receipt_delay_s: _Seconds = 1.0
    receipt_jitter_s: _Seconds = 0.0
    mix: dict[str, Annotated[float, Meta(ge=0)]] = msgspec.field(
        default_factory=lambda: {"DELIVRD": 1.0}
    )  # weights
    early: _Share = 0.0  # receipt before the answer
    late: _Share = 0.0  # receipt `late_s` later than the others
    late_s: _Seconds = 10.0
    doubled: _Share = 0.0
    lost: _Share = 0.0
    per: Literal["segment", "message"] = "segment"  # message: only the last part of a text has one
    intermediate: _Share = 0.0  # an intermediate notification (ENROUTE) a second before the receipt
    receipt_form: Literal["text", "tlv", "both"] = "text"
    receipt_pdu: Literal["deliver_sm", "data_sm"] = "deliver_sm"
    receipt_id_form: IdForm | None = None  # None: as in the answer
    receipt_id_width: _Width | None = None  # None: as in the answer
    deliver_window: Annotated[int, Meta(ge=1)] = 1000  # deliver_sm without an answer, a bind
    redeliver_s: _Seconds = 1.0  # after an answer with an error
    deliver_timeout_s: Annotated[float, Meta(gt=0)] = 10.0  # without any answer


def changed(behaviour: Behaviour, changes: Mapping[str, Any]) -> Behaviour:
    """A copy with some fields changed. Raises ValueError naming the field that makes no sense."""
    fields = {name: getattr(behaviour, name) for name in behaviour.__struct_fields__}
    try:
        wanted = msgspec.convert({**fields, **changes}, Behaviour)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    for name in (*wanted.refuse.values(), wanted.error_status, wanted.rate_status, wanted.refuse_binds):
        if name and name not in STATUS_BY_NAME:
            raise ValueError(f"{name!r} is not a command_status of SMPP 3.4")
    if "" in (wanted.error_status, wanted.rate_status, *wanted.refuse.values()):
        raise ValueError("a refusal needs the name of its command_status")
    for state in wanted.mix:
        if state not in RECEIPT_STATES:
            raise ValueError(f"{state!r} is not a state of a receipt")
    if not sum(wanted.mix.values()):
        raise ValueError("mix: at least one state needs a weight")
    return wanted


class Fate(msgspec.Struct, frozen=True):
    """What happens to one submit."""

    status: int = 0
    answered: bool = True
    states: tuple[str, ...] = ()  # of its receipts, in order; empty: as the mix says
    receipt: bool = True
    early: bool = False
    doubled: bool = False


MAGIC: Mapping[bytes, Fate] = {
    b"5550189": Fate(states=("ENROUTE", "DELIVRD")),
    b"5550190": Fate(status=STATUS_BY_NAME["ESME_RINVDSTADR"]),
    b"5550191": Fate(states=("UNDELIV",)),
    b"5550192": Fate(states=("EXPIRED",)),
    b"5550193": Fate(states=("REJECTD",)),
    b"5550194": Fate(receipt=False),
    b"5550195": Fate(answered=False),
    b"5550196": Fate(status=STATUS_BY_NAME["ESME_RTHROTTLED"]),
    b"5550197": Fate(early=True),
    b"5550198": Fate(doubled=True),
    b"5550199": Fate(status=STATUS_BY_NAME["ESME_RSYSERR"]),
}
ORDINARY = Fate()
