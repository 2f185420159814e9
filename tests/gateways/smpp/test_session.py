"""The state machine: what is said in which state, timers, and bytes that make no sense."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways.smpp import pdu
from gateways.smpp.session import Answered, Bound, Closed, Delivered, Lost, Replied, Session, State, Timers

TIMERS = Timers(bind_s=10, response_s=30, enquire_link_s=15, enquire_link_response_s=10, unbind_s=2)
BODY = pdu.submit_sm_body(pdu.address(1, 1, b"12025550199"), pdu.address(1, 1, b"12025550101"), 0, b"hello")


def units(data):
    """(command, status, sequence, body) of what was written."""
    found = []
    while data:
        length, command, status, sequence = struct.unpack_from(">IIII", data)
        found.append((command, status, sequence, data[16:length]))
        data = data[length:]
    return found


def opened(kind="transceiver"):
    session = Session(kind, TIMERS, now=0.0)
    session.bind("volley", "secret")
    return session


def bound(kind="transceiver"):
    session = opened(kind)
    ((_, _, sequence, _),) = units(session.data_to_send())
    events = session.receive(pdu.bind_resp(kind, sequence, "smsc"), 0.0)
    assert events == [Bound()]
    assert session.state is State.BOUND
    return session


def submitted(session, *tokens, now=0.0):
    session.submit([(token, BODY) for token in tokens], now)
    return [sequence for _, _, sequence, _ in units(session.data_to_send())]


def test_a_bind_that_is_refused_closes_with_its_status():
    session = opened()
    session.data_to_send()
    assert session.receive(pdu.bind_resp("transceiver", 1, "", 0x0E), 0.0) == [Closed("bind refused", 0x0E)]
    assert session.state is State.CLOSED


def test_a_nack_of_the_bind_closes_too():
    session = opened()
    assert session.receive(pdu.generic_nack(1, 3), 0.0) == [Closed("bind refused", 3)]


def test_a_bind_that_is_not_answered_times_out():
    session = opened()
    assert session.tick(10.0) == []
    assert session.tick(10.1) == [Closed("bind timed out")]


def test_submits_have_sequences_of_their_own_and_come_back_by_them():
    session = bound()
    first, second = submitted(session, "a", "b")
    assert first != second
    events = session.receive(pdu.submit_sm_resp(second, b"id-2") + pdu.submit_sm_resp(first, b"", 0x58), 1.0)
    assert events == [Answered([("b", 0, b"id-2"), ("a", 0x58, b"")])]
    assert session.pending == {}


def test_sequence_numbers_start_again_after_the_last():
    session = bound()
    session._sequence = pdu.LAST_SEQUENCE - 1
    assert submitted(session, "a", "b", "c") == [pdu.LAST_SEQUENCE, 1, 2]


def test_a_submit_without_answer_times_out_and_its_late_answer_is_ignored():
    session = bound()
    (sequence,) = submitted(session, "a", now=1.0)
    session.receive(pdu.frame(pdu.ENQUIRE_LINK, 9), 30.0)
    assert session.tick(30.9) == []
    assert session.tick(31.0) == [Lost(["a"], "timeout")]
    assert session.receive(pdu.submit_sm_resp(sequence, b"late"), 32.0) == []
    assert session.counters.stray_answers == 1


def test_an_answer_to_nothing_is_counted():
    session = bound()
    assert session.receive(pdu.submit_sm_resp(4711, b"x"), 0.0) == []
    assert session.receive(pdu.frame(pdu.RESPONSE_BIT | pdu.QUERY_SM, 1), 0.0) == []
    assert session.counters.stray_answers == 2
    assert session.state is State.BOUND


@pytest.mark.parametrize("body", [b"", b"\x00", b"no terminator", b"7" * 256 + b"\x00"])
def test_an_answer_without_an_id_makes_no_sense(body):
    session = bound()
    (sequence,) = submitted(session, "a")
    events = session.receive(pdu.frame(pdu.SUBMIT_SM_RESP, sequence, body), 0.0)
    assert events == [Answered([("a", 0, None)])]


@pytest.mark.parametrize("state", [0, 89, 99, 100, 255])
def test_an_answer_of_smpp_5_may_tell_of_congestion(state):
    """congestion_state, SMPP 5.0 4.8.4.18: read over, also in a refusal and next to a parameter that nobody knows."""
    session = bound()
    first, second = submitted(session, "a", "b")
    parameters = pdu.tlv(0x0428, bytes([state])) + pdu.tlv(0x1FFF, b"x")
    answers = pdu.frame(pdu.SUBMIT_SM_RESP, first, b"id7\x00" + parameters)
    answers += pdu.frame(pdu.SUBMIT_SM_RESP, second, b"\x00" + parameters, 0x58)
    assert session.receive(answers, 0.0) == [Answered([("a", 0, b"id7"), ("b", 0x58, b"")])]


def test_a_generic_nack_refuses_the_submit_it_names():
    session = bound()
    first, second = submitted(session, "a", "b")
    events = session.receive(pdu.generic_nack(first, 0x03) + pdu.generic_nack(second, 0), 0.0)
    assert events == [Answered([("a", 0x03, b""), ("b", 0, None)])]


def test_a_cut_loses_what_is_in_the_window():
    session = bound()
    submitted(session, "a", "b")
    assert session.disconnected() == [Lost(["a", "b"], "connection_lost"), Closed("connection lost")]
    assert session.disconnected() == []


def test_enquire_link_is_answered():
    session = bound()
    session.receive(pdu.frame(pdu.ENQUIRE_LINK, 55), 0.0)
    assert units(session.data_to_send()) == [(pdu.ENQUIRE_LINK_RESP, 0, 55, b"")]


def test_a_silent_peer_is_asked_and_given_up():
    session = bound()
    assert session.tick(15.0) == []
    assert session.data_to_send() == b""
    session.tick(15.1)
    ((command, _, _, _),) = units(session.data_to_send())
    assert command == pdu.ENQUIRE_LINK
    session.tick(20.0)
    assert session.data_to_send() == b"", "asked once"
    assert session.tick(25.2) == [Closed("enquire_link timed out")]


def test_any_byte_heard_is_a_sign_of_life():
    session = bound()
    session.tick(15.1)
    session.receive(b"\x00", 20.0)
    assert session.tick(25.2) == []
    assert session.state is State.BOUND


def test_deliveries_wait_for_their_acknowledgement():
    session = bound()
    events = session.receive(pdu.frame(pdu.DELIVER_SM, 8, BODY) + pdu.frame(pdu.DELIVER_SM, 9, BODY), 0.0)
    (event,) = events
    assert isinstance(event, Delivered)
    assert [(sequence, command) for sequence, command, _ in event.messages] == [(8, 5), (9, 5)]
    assert session.data_to_send() == b""
    session.acknowledge([(8, pdu.DELIVER_SM)], 0)
    session.acknowledge([(9, pdu.DELIVER_SM)], pdu.ESME_RX_T_APPN)
    assert units(session.data_to_send()) == [
        (pdu.DELIVER_SM_RESP, 0, 8, b"\x00"),
        (pdu.DELIVER_SM_RESP, 0x64, 9, b"\x00"),
    ]


def test_answers_come_before_the_receipts_of_the_same_read():
    session = bound()
    (sequence,) = submitted(session, "a")
    events = session.receive(pdu.frame(pdu.DELIVER_SM, 8, BODY) + pdu.submit_sm_resp(sequence, b"1"), 0.0)
    assert [type(event) for event in events] == [Answered, Delivered]


def test_unbind_of_the_peer_is_answered_and_ends_everything():
    session = bound()
    submitted(session, "a")
    events = session.receive(pdu.frame(pdu.UNBIND, 3), 0.0)
    assert events == [Lost(["a"], "connection_lost"), Closed("unbound by the SMSC")]
    assert units(session.data_to_send()) == [(pdu.UNBIND_RESP, 0, 3, b"")]


def test_our_unbind_still_takes_answers():
    session = bound()
    (sequence,) = submitted(session, "a")
    session.unbind(0.0)
    assert session.state is State.CLOSING
    ((command, _, unbind_sequence, _),) = units(session.data_to_send())
    assert command == pdu.UNBIND
    assert session.receive(pdu.submit_sm_resp(sequence, b"1"), 0.0) == [Answered([("a", 0, b"1")])]
    assert session.receive(pdu.frame(pdu.UNBIND_RESP, unbind_sequence), 0.0) == [Closed("unbound")]


def test_an_unbind_without_answer_times_out():
    session = bound()
    submitted(session, "a")
    session.unbind(5.0)
    assert session.tick(7.1) == [Lost(["a"], "connection_lost"), Closed("unbind timed out")]


@pytest.mark.parametrize("command", [pdu.SUBMIT_SM, pdu.QUERY_SM, pdu.DATA_SM, pdu.DELIVER_SM])
def test_requests_before_the_bind_are_refused(command):
    session = opened()
    session.data_to_send()
    assert session.receive(pdu.frame(command, 6, BODY), 0.0) == []
    assert units(session.data_to_send()) == [(command | pdu.RESPONSE_BIT, pdu.ESME_RINVBNDSTS, 6, b"")]


def test_an_unknown_command_is_nacked_and_counted():
    session = bound()
    assert session.receive(pdu.frame(0x0000_0999, 6), 0.0) == []
    assert units(session.data_to_send()) == [(pdu.GENERIC_NACK, pdu.ESME_RINVCMDID, 6, b"")]
    assert session.counters.unknown_commands == 1
    assert session.state is State.BOUND


@pytest.mark.parametrize("length", [0, 1, 15, pdu.MAX_PDU_OCTETS + 1, 2**31, 2**32 - 1])
def test_a_length_that_makes_no_sense_ends_the_session(length):
    session = bound()
    submitted(session, "a")
    events = session.receive(struct.pack(">IIII", length, pdu.DELIVER_SM, 0, 1) + b"x" * 40, 0.0)
    assert events == [Lost(["a"], "connection_lost"), Closed("command_length makes no sense")]
    assert units(session.data_to_send()) == [(pdu.GENERIC_NACK, pdu.ESME_RINVCMDLEN, 0, b"")]
    assert session.counters.malformed == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", pdu.ESME_RINVCMDLEN),
        (b"\x00\x01\x01no terminator", pdu.ESME_RINVCMDLEN),
        (BODY[:-1], pdu.ESME_RINVMSGLEN),
        (BODY + b"\x04\x24\x00\x09x", pdu.ESME_RINVOPTPARSTREAM),
        (BODY + b"\x04\x24", pdu.ESME_RINVOPTPARSTREAM),
    ],
)
@pytest.mark.parametrize("command", [pdu.DELIVER_SM])
def test_a_malformed_delivery_is_refused_and_counted(command, body, status):
    session = bound()
    assert session.receive(pdu.frame(command, 8, body), 0.0) == []
    assert units(session.data_to_send()) == [(command | pdu.RESPONSE_BIT, status, 8, b"\x00")]
    assert session.counters.malformed == 1
    assert session.state is State.BOUND


def test_a_malformed_data_sm_and_alert_are_refused():
    session = bound()
    session.receive(
        pdu.frame(pdu.DATA_SM, 8, b"\x00\x01") + pdu.frame(pdu.ALERT_NOTIFICATION, 9, b"\x01"), 0.0
    )
    written = units(session.data_to_send())
    assert [(command, sequence) for command, _, sequence, _ in written] == [
        (pdu.DATA_SM_RESP, 8),
        (pdu.GENERIC_NACK, 9),
    ]
    assert session.counters.malformed == 2


pieces = st.one_of(
    st.builds(pdu.submit_sm_resp, st.integers(1, 9), st.binary(max_size=20)),
    st.builds(pdu.submit_sm_resp, st.integers(1, 9), st.just(b""), st.integers(1, 0x500)),
    st.builds(pdu.generic_nack, st.integers(0, 9), st.integers(0, 255)),
    st.builds(
        pdu.frame,
        st.sampled_from(
            [pdu.DELIVER_SM, pdu.DATA_SM, pdu.ENQUIRE_LINK, pdu.ALERT_NOTIFICATION, 0x777, pdu.OUTBIND]
        ),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=60) | st.just(BODY),
    ),
    st.builds(pdu.frame, st.sampled_from([pdu.UNBIND, pdu.UNBIND_RESP]), st.integers(1, 9)),
    st.binary(max_size=40),
)


@given(st.lists(pieces, max_size=12), st.lists(st.integers(1, 60), max_size=12))
def test_whatever_comes_in_whatever_pieces_each_token_ends_once(units_in, cuts):
    stream = b"".join(units_in)
    session = bound()
    submitted(session, *"abcdefg")
    events, position = [], 0
    for step in [*cuts, len(stream)]:
        events += session.receive(stream[position : position + step], 1.0)
        position += step
    events += session.tick(100.0)
    events += session.disconnected()
    ended = [token for event in events if isinstance(event, Answered) for token, _, _ in event.answers]
    ended += [token for event in events if isinstance(event, Lost) for token in event.tokens]
    assert sorted(ended) == list("abcdefg")
    assert len([event for event in events if isinstance(event, Closed)]) == 1
    assert session.state is State.CLOSED


@given(st.lists(pieces, max_size=8), st.lists(st.integers(1, 40), max_size=20))
def test_how_the_bytes_are_cut_changes_nothing(units_in, cuts):
    stream = b"".join(units_in)

    def outcome(steps):
        session = bound()
        submitted(session, *"abc")
        answers, deliveries, position = [], [], 0
        for step in [*steps, len(stream)]:
            for event in session.receive(stream[position : position + step], 1.0):
                if isinstance(event, Answered):
                    answers += event.answers
                if isinstance(event, Delivered):
                    deliveries += [sequence for sequence, _, _ in event.messages]
            position += step
        return answers, deliveries, session.state, session.data_to_send()

    assert outcome(cuts) == outcome([])


def asked(session, token, now=0.0):
    session.ask(token, pdu.QUERY_SM, b"1\x00\x00\x00\x00", now)
    ((command, _, sequence, _),) = units(session.data_to_send())
    assert command == pdu.QUERY_SM
    return sequence


def test_a_question_is_replied_to_once():
    session = bound()
    sequence = asked(session, "q")
    unit = pdu.frame(pdu.QUERY_SM_RESP, sequence, b"1\x00\x00\x02\x00")
    assert session.receive(unit, 1.0) == [Replied("q", 0, unit)]
    assert session.receive(unit, 1.0) == []
    assert session.counters.stray_answers == 1


def test_a_refused_a_nacked_a_late_and_a_lost_question():
    session = bound()
    refusal = pdu.frame(pdu.CANCEL_SM_RESP, asked(session, "refused"), status=0x11)
    assert session.receive(refusal, 0.0) == [Replied("refused", 0x11, refusal)]
    nack = pdu.generic_nack(asked(session, "nacked"), 3)
    assert session.receive(nack, 0.0) == [Replied("nacked", 3, None)]
    asked(session, "late", now=1.0)
    session.receive(pdu.frame(pdu.ENQUIRE_LINK, 9), 30.0)
    session.data_to_send()
    assert session.tick(31.0) == [Replied("late", 0, None)]
    asked(session, "lost", now=31.0)
    assert session.disconnected() == [Replied("lost", 0, None), Closed("connection lost")]
    assert session.asked == {}


def test_an_answer_of_another_kind_is_no_reply():
    session = bound()
    sequence = asked(session, "q")
    assert session.receive(pdu.submit_sm_resp(sequence, b"1"), 0.0) == []
    (first,) = submitted(session, "a")
    assert session.receive(pdu.frame(pdu.QUERY_SM_RESP, first, b"1\x00\x00\x02\x00"), 0.0) == []
    assert list(session.asked) == [sequence]
    assert list(session.pending) == [first]
