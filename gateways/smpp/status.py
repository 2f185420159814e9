"""What each command_status of a refusal means to us.

One literal table of SMPP 3.4 section 5.1.3, and of what 5.0 adds. A code outside it, a carrier's own (0x400 to
0x4FF) among them, is `UNKNOWN_STATUS` unless the gateway's `status` setting names it.

An answer with a status is an explicit refusal, so none of these is `Unknown`: a segment that
may pass later is `Retry`, one that never will is `Rejected`.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateways.base import Rejected, Retry

Refusal = Rejected | Retry

# status: (name in the specification, what becomes of the segment, our reason)
STATUS: Mapping[int, tuple[str, type[Refusal], str]] = {
    0x01: ("ESME_RINVMSGLEN", Rejected, "content_rejected"),  # message length invalid
    0x02: ("ESME_RINVCMDLEN", Rejected, "protocol_error"),  # the SMSC can't read our PDU
    0x03: ("ESME_RINVCMDID", Rejected, "protocol_error"),  # no submit_sm on this bind
    0x04: ("ESME_RINVBNDSTS", Retry, "not_bound"),  # the SMSC thinks us unbound
    0x05: ("ESME_RALYBND", Retry, "gateway_error"),  # already bound: only for binds
    0x06: ("ESME_RINVPRTFLG", Rejected, "protocol_error"),  # priority flag
    0x07: ("ESME_RINVREGDLVFLG", Rejected, "protocol_error"),  # registered_delivery
    0x08: ("ESME_RSYSERR", Retry, "gateway_error"),  # system error; the message was not taken
    0x0A: ("ESME_RINVSRCADR", Rejected, "invalid_sender"),
    0x0B: ("ESME_RINVDSTADR", Rejected, "invalid_number"),
    0x0C: ("ESME_RINVMSGID", Rejected, "protocol_error"),  # only for query, cancel and replace
    0x0D: ("ESME_RBINDFAIL", Retry, "gateway_error"),  # only for binds
    0x0E: ("ESME_RINVPASWD", Retry, "gateway_error"),  # only for binds
    0x0F: ("ESME_RINVSYSID", Retry, "gateway_error"),  # only for binds
    0x11: ("ESME_RCANCELFAIL", Rejected, "rejected"),  # only for cancel_sm
    0x13: ("ESME_RREPLACEFAIL", Rejected, "rejected"),  # only for replace_sm
    0x14: ("ESME_RMSGQFUL", Retry, "queue_full"),  # slow down
    0x15: ("ESME_RINVSERTYP", Rejected, "protocol_error"),  # service_type: a wrong setting
    0x33: ("ESME_RINVNUMDESTS", Rejected, "protocol_error"),  # only for submit_multi
    0x34: ("ESME_RINVDLNAME", Rejected, "protocol_error"),  # only for submit_multi
    0x40: ("ESME_RINVDESTFLAG", Rejected, "protocol_error"),  # only for submit_multi
    0x42: ("ESME_RINVSUBREP", Rejected, "protocol_error"),  # replace_if_present
    0x43: ("ESME_RINVESMCLASS", Rejected, "protocol_error"),
    0x44: ("ESME_RCNTSUBDL", Rejected, "protocol_error"),  # distribution lists
    0x45: ("ESME_RSUBMITFAIL", Retry, "gateway_error"),  # submit_sm failed, no cause given
    0x48: ("ESME_RINVSRCTON", Rejected, "invalid_sender"),
    0x49: ("ESME_RINVSRCNPI", Rejected, "invalid_sender"),
    0x50: ("ESME_RINVDSTTON", Rejected, "invalid_number"),
    0x51: ("ESME_RINVDSTNPI", Rejected, "invalid_number"),
    0x53: ("ESME_RINVSYSTYP", Rejected, "protocol_error"),  # system_type: a wrong setting
    0x54: ("ESME_RINVREPFLAG", Rejected, "protocol_error"),
    0x55: ("ESME_RINVNUMMSGS", Rejected, "protocol_error"),
    0x58: ("ESME_RTHROTTLED", Retry, "throttled"),  # over our rate: slow down
    0x61: ("ESME_RINVSCHED", Rejected, "protocol_error"),  # schedule_delivery_time
    0x62: ("ESME_RINVEXPIRY", Rejected, "invalid_validity"),  # validity_period
    0x63: ("ESME_RINVDFTMSGID", Rejected, "protocol_error"),  # sm_default_msg_id
    0x64: ("ESME_RX_T_APPN", Retry, "gateway_error"),  # the receiver's temporary error
    0x65: ("ESME_RX_P_APPN", Rejected, "rejected"),  # the receiver's permanent error
    0x66: ("ESME_RX_R_APPN", Rejected, "rejected"),  # the receiver rejects the message
    0x67: ("ESME_RQUERYFAIL", Rejected, "rejected"),  # only for query_sm
    0xC0: ("ESME_RINVOPTPARSTREAM", Rejected, "protocol_error"),  # optional parameters
    0xC1: ("ESME_ROPTPARNOTALLWD", Rejected, "protocol_error"),
    0xC2: ("ESME_RINVPARLEN", Rejected, "protocol_error"),
    0xC3: ("ESME_RMISSINGOPTPARAM", Rejected, "protocol_error"),
    0xC4: ("ESME_RINVOPTPARAMVAL", Rejected, "protocol_error"),
    0xFE: ("ESME_RDELIVERYFAILURE", Rejected, "rejected"),  # only for data_sm
    0xFF: ("ESME_RUNKNOWNERR", Retry, "gateway_error"),  # refused, cause unknown
    # SMPP 5.0, 4.7.6; those of broadcasts are left out
    0x100: ("ESME_RSERTYPUNAUTH", Rejected, "protocol_error"),  # service_type: a wrong setting
    0x101: ("ESME_RPROHIBITED", Rejected, "rejected"),  # this ESME may not submit
    0x102: ("ESME_RSERTYPUNAVAIL", Retry, "gateway_error"),  # service_type unavailable
    0x103: ("ESME_RSERTYPDENIED", Rejected, "rejected"),  # service_type denied
    0x104: ("ESME_RINVDCS", Rejected, "content_rejected"),  # data_coding
    0x105: ("ESME_RINVSRCADDRSUBUNIT", Rejected, "invalid_sender"),
    0x106: ("ESME_RINVDSTADDRSUBUNIT", Rejected, "invalid_number"),
}

# Refused with a code that neither the specification nor the setting explains. Not retried: the
# cause may be the content, and a text refused over and over costs the whole lane.
UNKNOWN_STATUS = (Rejected, "unknown_status")

# Statuses that ask this side to slow down.
THROTTLING_REASONS = frozenset({"throttled", "queue_full"})


def name(status: int) -> str:
    """`ESME_RTHROTTLED`, or `0x00000488` for a code that the specification has not."""
    known = STATUS.get(status)
    return known[0] if known else f"0x{status:08X}"


def refusals(vendor: Mapping[str, str]) -> dict[int, Refusal]:
    """The outcome of each status, with a gateway's own additions over the table.

    `vendor` maps a code (`"0x488"` or `"1160"`) to `"rejected:<reason>"` or `"retry:<reason>"`.
    Raises ValueError naming the entry that makes no sense.
    """
    outcomes: dict[int, Refusal] = {
        status: kind(reason=reason, raw=spelled) for status, (spelled, kind, reason) in STATUS.items()
    }
    for code, meaning in vendor.items():
        verdict, _, reason = str(meaning).partition(":")
        kinds: dict[str, type[Refusal]] = {"rejected": Rejected, "retry": Retry}
        try:
            status = int(str(code), 0)
        except ValueError:
            raise ValueError(f"status: {code!r} is not a command_status") from None
        if not 0 < status <= 0xFFFFFFFF:
            raise ValueError(f"status: {code!r} is not a command_status of a refusal")
        if verdict not in kinds or not reason:
            raise ValueError(f"status {code}: write rejected:<reason> or retry:<reason>")
        outcomes[status] = kinds[verdict](reason=reason, raw=name(status))
    return outcomes


def refusal(outcomes: Mapping[int, Refusal], status: int) -> Refusal:
    """The outcome of a refused segment; `outcomes` come from `refusals`."""
    known = outcomes.get(status)
    if known is not None:
        return known
    kind, reason = UNKNOWN_STATUS
    return kind(reason=reason, raw=name(status))
