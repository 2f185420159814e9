"""A session and whatever an SMSC may say to it, in any order: no crash, no leak, no hang, no token lost.

Hypothesis plays the SMSC and the caller at once; what has to hold is looked at after each step.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateways.smpp import pdu
from gateways.smpp.session import Answered, Bound, Closed, Delivered, Lost, Replied, Session, State, Timers

TIMERS = Timers(bind_s=10, response_s=30, enquire_link_s=15, enquire_link_response_s=10, unbind_s=2)
BODY = pdu.submit_sm_body(pdu.address(1, 1, b"12025550199"), pdu.address(1, 1, b"12025550101"), 0, b"hello")
REQUESTS = (pdu.DELIVER_SM, pdu.DATA_SM, pdu.ENQUIRE_LINK, pdu.SUBMIT_SM, pdu.QUERY_SM, pdu.CANCEL_SM, 0x777)

commands = st.sampled_from(
    [
        *REQUESTS,
        pdu.OUTBIND,
        pdu.ALERT_NOTIFICATION,
        *(command | pdu.RESPONSE_BIT for command in REQUESTS),
        pdu.GENERIC_NACK,
        *pdu.BIND_COMMANDS.values(),
    ]
)
statuses = st.sampled_from([0, 0, 0x58, 0x14, 0x0B, 0xFFFFFFFF])
sequences = st.integers(0, 12) | st.integers(0, 0xFFFFFFFF)


class Conversation(RuleBasedStateMachine):
    """`out` is what the session has written, `open` are the tokens that have not come back."""

    @initialize(kind=st.sampled_from(["transceiver", "transmitter", "receiver"]), accepted=st.booleans())
    def connect(self, kind, accepted):
        self.now, self.tokens = 0.0, 0
        self.open, self.replies_open = set(), set()
        self.deliveries, self.unacknowledged = 0, []
        self.closed = 0
        self.session = Session(kind, TIMERS, self.now)
        self.session.bind("volley", "secret")
        self.written()
        if accepted:
            self.take(self.session.receive(pdu.bind_resp(kind, 1, "smsc"), self.now))
            assert self.session.state is State.BOUND

    # --- what the caller does

    @precondition(lambda self: self.session.state is State.BOUND)
    @rule(count=st.integers(1, 5))
    def submit(self, count):
        tokens = range(self.tokens, self.tokens + count)
        self.tokens += count
        self.open |= set(tokens)
        self.session.submit([(token, BODY) for token in tokens], self.now)

    @precondition(lambda self: self.session.state is State.BOUND)
    @rule(command=st.sampled_from([pdu.QUERY_SM, pdu.CANCEL_SM]))
    def ask(self, command):
        self.tokens += 1
        self.replies_open.add(self.tokens)
        self.session.ask(self.tokens, command, b"1\x00\x01\x01\x00", self.now)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 16.0, 31.0]))
    def wait(self, seconds):
        self.now += seconds
        self.take(self.session.tick(self.now))

    @precondition(lambda self: self.session.state in (State.BOUND, State.CLOSING))
    @rule(status=st.sampled_from([0, pdu.ESME_RX_T_APPN]))
    def acknowledge(self, status):
        self.session.acknowledge(self.unacknowledged, status)
        answered = {sequence for command, _, sequence, _ in self.written() if command & pdu.RESPONSE_BIT}
        assert {sequence for sequence, _ in self.unacknowledged} <= answered
        self.unacknowledged = []

    @rule()
    def unbind(self):
        self.session.unbind(self.now)

    # --- what the SMSC says

    @precondition(lambda self: self.session.pending)
    @rule(status=statuses, text=st.sampled_from([b"77\x00", b"\x00", b"", b"no end", b"7" * 300 + b"\x00"]))
    def answer(self, status, text):
        sequence = next(iter(self.session.pending))
        before = len(self.open)
        self.hear(pdu.frame(pdu.SUBMIT_SM_RESP, sequence, b"" if status else text, status))
        assert len(self.open) == before - 1

    @precondition(lambda self: self.session.asked)
    @rule(status=statuses, kind=st.sampled_from([pdu.QUERY_SM_RESP, pdu.CANCEL_SM_RESP, pdu.GENERIC_NACK]))
    def reply(self, status, kind):
        before = len(self.replies_open)
        self.hear(pdu.frame(kind, next(iter(self.session.asked)), b"", status))
        assert len(self.replies_open) == before - 1

    @rule(command=commands, status=statuses, sequence=sequences, body=st.binary(max_size=80) | st.just(BODY))
    def anything(self, command, status, sequence, body):
        self.hear(pdu.frame(command, sequence, body, status))

    @rule(end=st.integers(16, 15 + len(BODY)), sequence=sequences)
    def truncated(self, end, sequence):
        """A deliver_sm whose body stops anywhere, with a command_length that agrees."""
        self.hear(pdu.frame(pdu.DELIVER_SM, sequence, BODY[: end - 16]))

    @rule(sequence=st.integers(1, 0x7FFFFFFF))
    def ping(self, sequence):
        state = self.session.state
        self.session.data_to_send()
        self.hear(pdu.frame(pdu.ENQUIRE_LINK, sequence))
        if state is not State.CLOSED:
            assert (pdu.ENQUIRE_LINK_RESP, 0, sequence, b"") in self.written()

    @rule(cut=st.integers(1, 40), command=commands, sequence=sequences)
    def in_pieces(self, cut, command, sequence):
        unit = pdu.frame(command, sequence, BODY)
        self.take(self.session.receive(unit[:cut], self.now))
        self.hear(unit[cut:])

    @rule(length=st.sampled_from([0, 1, 15, 2**31, 2**32 - 1, pdu.MAX_PDU_OCTETS + 1]))
    def senseless_length(self, length):
        state = self.session.state
        self.hear(struct.pack(">IIII", length, pdu.DELIVER_SM, 0, 1))
        assert self.session.state is State.CLOSED
        if state is not State.CLOSED:
            assert self.written()[-1][:2] == (pdu.GENERIC_NACK, pdu.ESME_RINVCMDLEN)

    @rule(octets=st.binary(min_size=16, max_size=16))
    def noise(self, octets):
        """May end the session, or leave it waiting for the rest of a long PDU: then it is cut."""
        self.hear(octets)
        if self.session._tail:
            self.take(self.session.disconnected())

    @rule()
    def cut(self):
        self.take(self.session.disconnected())

    # --- what has to hold

    def hear(self, data):
        self.take(self.session.receive(data, self.now))

    def take(self, events):
        for event in events:
            match event:
                case Answered(answers):
                    for token, _, _ in answers:
                        self.open.remove(token)  # a KeyError: it came back before
                case Lost(tokens):
                    for token in tokens:
                        self.open.remove(token)
                case Replied(token):
                    self.replies_open.remove(token)
                case Delivered(messages):
                    self.unacknowledged += [(sequence, command) for sequence, command, _ in messages]
                case Closed():
                    self.closed += 1
                case Bound():
                    assert self.session.state is not State.OPEN

    def written(self):
        """(command, status, sequence, body) of each PDU that is on its way: all of them whole."""
        data, found = self.session.data_to_send(), []
        while data:
            length, command, status, sequence = struct.unpack_from(">IIII", data)
            assert 16 <= length <= len(data)
            found.append((command, status, sequence, data[16:length]))
            data = data[length:]
        return found

    @invariant()
    def each_token_is_here_or_came_back_once(self):
        if not hasattr(self, "session"):
            return
        assert {token for token, _ in self.session.pending.values()} == self.open
        assert {token for token, _ in self.session.asked.values()} == self.replies_open

    @invariant()
    def nothing_piles_up(self):
        if not hasattr(self, "session"):
            return
        assert len(self.session._tail) < pdu.MAX_PDU_OCTETS
        if self.session.state is State.CLOSED:
            assert self.closed == 1
            assert not self.session._tail
            assert not self.open
            assert not self.replies_open
        else:
            assert self.closed == 0

    def teardown(self):
        if hasattr(self, "session"):
            self.take(self.session.disconnected())
            assert not self.open
            assert not self.replies_open
            assert self.closed == 1


def test_any_conversation():
    run_state_machine_as_test(
        Conversation, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
    )


@pytest.mark.soak
def test_many_long_conversations():
    run_state_machine_as_test(
        Conversation, settings=settings(max_examples=3_000, stateful_step_count=80, deadline=None)
    )
