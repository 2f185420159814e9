"""The SMSC itself: accounts, submits, receipts and inbound texts, without sockets.

Guarantees: every submit that was taken and asked for a receipt has one, unless a fault says
otherwise; a delivery stays until some receiving bind of its account has acknowledged it.

`Peer` is a connection as this file sees it; `now` is monotonic, `wall` Unix seconds.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec

from gateways.sandbox.behaviour import (
    MAGIC,
    ORDINARY,
    RECEIPT_STATES,
    STATUS_BY_NAME,
    Behaviour,
    Fate,
    changed,
)
from gateways.sandbox.ledger import Ledger, SlidingSecond
from gateways.sandbox.receipts import INTERMEDIATE, RECEIPT, Writer, spell
from gateways.sandbox.texts import UDHI, Inbound
from gateways.sandbox.wheel import Wheel
from gateways.smpp import pdu
from gateways.smpp.reassembly import split_header

WHEEL_WIDTH_S = 0.01
MAX_SILENT = 10_000  # texts whose receipts don't come, and that can be asked about

_THROTTLED = STATUS_BY_NAME["ESME_RTHROTTLED"]
_WANTS_RECEIPT = 0x03  # registered_delivery, bits 1 and 0 (5.2.17)
_ALWAYS, _ON_FAILURE = 1, 2
_ENROUTE_AHEAD_S = 1.0
_ENROUTE = 1  # message_state (5.2.28)
_CANCEL_FAILED = STATUS_BY_NAME["ESME_RCANCELFAIL"]
_QUERY_FAILED = STATUS_BY_NAME["ESME_RQUERYFAIL"]


class Delivery(msgspec.Struct, gc=False):
    """A deliver_sm under way."""

    body: bytes
    receipt: bool
    command: int = pdu.DELIVER_SM
    attempts: int = 0
    sent_at: float = 0.0


class Peer(Protocol):
    """A bound connection."""

    outstanding: dict[int, Delivery]
    admitted: SlidingSecond
    number: int  # of the connection, from 1

    def send(self, data: bytes) -> None:
        """Write."""

    def deliver(self, deliveries: Sequence[Delivery], now: float) -> None:
        """Write them and keep them in `outstanding`."""

    def cut(self) -> None:
        """Drop the connection."""


class Account:
    """What belongs to one system_id."""

    def __init__(self, system_id: str) -> None:
        self.system_id = system_id
        self.peers: list[Peer] = []
        self.receivers: list[Peer] = []
        self.queue: deque[Delivery] = deque()
        self.admitted = SlidingSecond()


class Counters(msgspec.Struct):
    """Plain ints, since the start or the last reset."""

    submits: int = 0
    accepted: int = 0
    refused: int = 0
    throttled: int = 0
    unanswered: int = 0
    cuts: int = 0
    receipts_sent: int = 0
    receipts_acknowledged: int = 0
    inbound_sent: int = 0
    inbound_acknowledged: int = 0
    deliveries_refused: int = 0
    deliveries_timed_out: int = 0
    malformed: int = 0
    binds_refused: int = 0
    garbage_sent: int = 0
    questions: int = 0  # query_sm


class Receipt(msgspec.Struct, gc=False, frozen=True):
    """A receipt to be written when it is due: most of the work is left until then."""

    account: Account
    number: int
    message: pdu.Message
    state: str
    submitted: float
    esm_class: int = RECEIPT


class Answer(msgspec.Struct, gc=False, frozen=True):
    """Bytes for a peer, held back."""

    peer: Peer
    data: bytes


class Again(msgspec.Struct, gc=False, frozen=True):
    """A delivery to be tried again."""

    account: Account
    delivery: Delivery


class Smsc:
    """See the head of this file. `seed` makes the random faults repeatable."""

    def __init__(self, behaviour: Behaviour, ledger_limit: int, seed: int | None = None) -> None:
        self.behaviour = behaviour
        self.counters = Counters()
        self.ledger = Ledger(ledger_limit)
        self.accounts: dict[str, Account] = {}
        self.later: Wheel[Receipt | Answer | Again] = Wheel(WHEEL_WIDTH_S)
        self._silent: deque[Receipt] = deque(maxlen=MAX_SILENT)  # receipts that don't come
        self.speed = SlidingSecond()
        self._initial = behaviour
        self._random = random.Random(seed)  # noqa: S311 - faults, not secrets
        self._taken = SlidingSecond()  # under whichever rate
        self._admitted = SlidingSecond()  # under the rate of all
        # Unique over restarts, and of the width of real ids.
        self._number = int(time.time() * 1000) * 1000
        self._until_cut = behaviour.cut_at or behaviour.cut_every
        self._over_rate = Fate()
        self._delivery_command = pdu.DELIVER_SM
        self._writer = Writer()
        self._states: list[str] = []
        self._weights: list[float] = []
        self._sole_state = ""
        self._usual_receipts = False
        self.change({})

    # --- run-time control --------------------------------------------------------------------------

    def change(self, changes: dict[str, Any]) -> None:
        """Change some of the behaviour. Raises ValueError."""
        self.behaviour = changed(self.behaviour, changes)
        if "cut_at" in changes or "cut_every" in changes:
            self._until_cut = self.behaviour.cut_at or self.behaviour.cut_every
        self._states, self._weights = list(self.behaviour.mix), list(self.behaviour.mix.values())
        self._sole_state = self._states[0]
        self._over_rate = Fate(status=STATUS_BY_NAME[self.behaviour.rate_status])
        self._delivery_command = pdu.DATA_SM if self.behaviour.receipt_pdu == "data_sm" else pdu.DELIVER_SM
        faults = msgspec.structs.replace(
            self.behaviour,
            receipt_jitter_s=0,
            early=0,
            late=0,
            doubled=0,
            lost=0,
            intermediate=0,
            per="segment",
        )
        # No fault to be decided for each receipt: most runs, and the fast way through `_schedule`.
        self._usual_receipts = faults == self.behaviour and len(self._states) == 1

    def reset(self) -> None:
        """Counters, ledger and behaviour as at the start. Receipts and texts that were still to come don't come
        any more; binds stay, and so do answers that are held back."""
        self.counters = Counters()
        self.ledger.clear()
        self.speed, self._taken, self._admitted = SlidingSecond(), SlidingSecond(), SlidingSecond()
        self.behaviour = self._initial
        self.change({"cut_at": self._initial.cut_at})
        self.later.keep(lambda item: isinstance(item, Answer))
        self._silent.clear()
        for account in self.accounts.values():
            account.admitted = SlidingSecond()
            account.queue.clear()
            for peer in account.peers:
                peer.admitted = SlidingSecond()
                peer.outstanding.clear()

    def account(self, system_id: str) -> Account:
        """The account of that name, made when it is first seen."""
        account = self.accounts.get(system_id)
        if account is None:
            account = self.accounts[system_id] = Account(system_id)
        return account

    def inbound(self, system_id: str, text: Inbound, *, reference: int, now: float) -> int:
        """Queue a text from a person; gives the number of its PDUs. Raises ValueError."""
        command = pdu.DATA_SM if text.pdu == "data_sm" else pdu.DELIVER_SM
        deliveries = [Delivery(body, False, command) for body in text.bodies(reference)]
        account = self.account(system_id)
        account.queue.extend(deliveries)
        self.pump(account, now)
        return len(deliveries)

    # --- submits -------------------------------------------------------------------------------------

    def submitted(
        self,
        account: Account,
        peer: Peer,
        submits: Sequence[tuple[int, pdu.Message]],
        now: float,
        wall: float,
        answer: Callable[[int, bytes, int], bytes] = pdu.submit_sm_resp,
    ) -> None:
        """The submits of one read: refuse, or take, answer and schedule receipts."""
        behaviour, counters = self.behaviour, self.counters
        counters.submits += len(submits)
        self.speed.add(len(submits), now)
        admitted = self._admit(account, peer, len(submits), now)
        answers: list[bytes] = []
        cut = False
        for position, (sequence, message) in enumerate(submits):
            fate = self._fate(message) if position < admitted else self._over_rate
            cut = self._until_cut > 0 and self._cuts()
            answered = fate.answered and not cut and not (behaviour.drop_answers and self._drops())
            message_id = ""
            if fate.status:
                counters.refused += 1
                counters.throttled += fate is self._over_rate or fate.status == _THROTTLED
            else:
                counters.accepted += 1
                self._number = number = self._number + 1
                message_id = spell(number, behaviour.id_form, behaviour.id_width)
                if message.registered_delivery & _WANTS_RECEIPT:
                    if fate.receipt:
                        self._schedule(account, number, message, fate, now, wall)
                    else:
                        self._silent.append(Receipt(account, number, message, "DELIVRD", wall))
            if self.ledger.limit:
                self.ledger.add(
                    wall, account.system_id, peer.number, sequence, fate.status, message_id, message
                )
            if answered:
                answers.append(answer(sequence, message_id.encode(), fate.status))
            else:
                counters.unanswered += 1
            if cut:
                break
        if behaviour.mute:
            counters.unanswered += len(answers)
        else:
            self._answer(peer, answers, now)
        if cut:
            counters.cuts += 1
            peer.cut()

    def _admit(self, account: Account, peer: Peer, wanted: int, now: float) -> int:
        """How many of `wanted` stay under the rate that counts them."""
        behaviour, counted = self.behaviour, self._admitted
        cap = behaviour.rates.get(account.system_id)
        if cap is not None or behaviour.rate_per == "account":
            counted = account.admitted
        elif behaviour.rate_per == "bind":
            counted = peer.admitted
        admitted = counted.admit(wanted, behaviour.rate if cap is None else cap, now)
        self._taken.add(admitted, now)
        return admitted

    def _fate(self, message: pdu.Message) -> Fate:
        magic = MAGIC.get(message.destination[-7:])
        if magic is not None:
            return magic
        behaviour = self.behaviour
        if behaviour.refuse:
            to = message.destination.decode("latin-1").lstrip("+")
            for prefix, name in behaviour.refuse.items():
                if to.startswith(prefix.lstrip("+")):
                    return Fate(status=STATUS_BY_NAME[name])
        if behaviour.error and self._random.random() < behaviour.error:
            return Fate(status=STATUS_BY_NAME[behaviour.error_status])
        return ORDINARY

    def _cuts(self) -> bool:
        self._until_cut -= 1
        if self._until_cut:
            return False
        self._until_cut = self.behaviour.cut_every
        return True

    def _drops(self) -> bool:
        return self._random.random() < self.behaviour.drop_answers

    def _answer(self, peer: Peer, answers: list[bytes], now: float) -> None:
        behaviour = self.behaviour
        if behaviour.shuffle_answers:
            self._random.shuffle(answers)
        if behaviour.answer_jitter_s:
            for answer in answers:
                delay_s = behaviour.answer_delay_s + self._random.random() * behaviour.answer_jitter_s
                self.later.add(now + delay_s, Answer(peer, answer))
        elif behaviour.answer_delay_s:
            self.later.add(now + behaviour.answer_delay_s, Answer(peer, b"".join(answers)))
        elif answers:
            peer.send(b"".join(answers))

    # --- receipts --------------------------------------------------------------------------------------

    def _schedule(
        self, account: Account, number: int, message: pdu.Message, fate: Fate, now: float, wall: float
    ) -> None:
        behaviour, chance = self.behaviour, self._random.random
        wanted = message.registered_delivery & _WANTS_RECEIPT
        if self._usual_receipts and fate is ORDINARY and wanted == _ALWAYS:
            self.later.add(
                now + behaviour.receipt_delay_s, Receipt(account, number, message, self._sole_state, wall)
            )
            return
        if behaviour.per == "message" and not _is_last_part(message):
            return
        states = fate.states or (self._random.choices(self._states, self._weights)[0],)
        if behaviour.lost and chance() < behaviour.lost:
            self._silent.append(Receipt(account, number, message, states[-1], wall))
            return
        if wanted == _ON_FAILURE and states[-1] == "DELIVRD":
            return
        receipts = [Receipt(account, number, message, state, wall) for state in states]
        if behaviour.intermediate and chance() < behaviour.intermediate:
            receipts.insert(0, Receipt(account, number, message, "ENROUTE", wall, INTERMEDIATE))
        if fate.doubled or (behaviour.doubled and chance() < behaviour.doubled):
            receipts *= 2
        if fate.early or (behaviour.early and chance() < behaviour.early):
            account.queue.extend(self._delivery(receipt, wall) for receipt in receipts)
            self.pump(account, now)
            return
        due = now + behaviour.receipt_delay_s
        if behaviour.receipt_jitter_s:
            due += chance() * behaviour.receipt_jitter_s
        if behaviour.late and chance() < behaviour.late:
            due += behaviour.late_s
        for receipt in receipts:
            self.later.add(due, receipt)
            if receipt.state == "ENROUTE":
                due += _ENROUTE_AHEAD_S

    def _delivery(self, receipt: Receipt, wall: float) -> Delivery:
        body = self._writer.body(
            self.behaviour,
            receipt.number,
            receipt.message,
            receipt.state,
            receipt.esm_class,
            submitted=receipt.submitted,
            wall=wall,
        )
        return Delivery(body, True, self._delivery_command)

    # --- questions -----------------------------------------------------------------------------------

    def query(self, account: Account, message_id: bytes, source: bytes, wall: float) -> tuple[int, bytes]:
        """The command_status and body of a query_sm_resp (4.8.2): a text is on its way until its receipt is due.
        Nothing is known of it afterwards, but where its receipt was lost, or never to come: there it has its state."""
        self.counters.questions += 1
        if self._named(self.later.waiting(), account, message_id, source):
            return 0, pdu.query_sm_resp_body(message_id, b"", _ENROUTE)
        silent = self._named(self._silent, account, message_id, source)
        if not silent:
            return _QUERY_FAILED, b""
        done = silent[-1].submitted + self.behaviour.receipt_delay_s
        if wall < done:
            return 0, pdu.query_sm_resp_body(message_id, b"", _ENROUTE)
        state, _ = RECEIPT_STATES[silent[-1].state]
        written = time.strftime("%y%m%d%H%M%S000+", time.gmtime(done)).encode()
        return 0, pdu.query_sm_resp_body(message_id, written, state)

    def cancel(self, account: Account, message_id: bytes, source: bytes, now: float) -> int:
        """The command_status of a cancel_sm_resp (4.9.2). What waits for its receipt is taken back, and its receipt,
        `DELETED`, comes instead; looks through all that wait."""
        waits = self._named(self.later.waiting(), account, message_id, source)
        if not waits:
            return _CANCEL_FAILED
        last = waits[-1]
        self.later.keep(lambda item: not isinstance(item, Receipt) or item.number != last.number)
        deleted = msgspec.structs.replace(last, state="DELETED", esm_class=RECEIPT)
        self.later.add(now + self.behaviour.receipt_delay_s, deleted)
        return 0

    def _named(
        self, items: Iterable[object], account: Account, message_id: bytes, source: bytes
    ) -> list[Receipt]:
        """Those of the items that are the receipts of one text."""
        form, width = self.behaviour.id_form, self.behaviour.id_width
        return [
            item
            for item in items
            if isinstance(item, Receipt)
            and item.account is account
            and item.state != "DELETED"
            and item.message.source == source
            and spell(item.number, form, width).encode() == message_id
        ]

    # --- deliveries ------------------------------------------------------------------------------------

    def run_due(self, now: float, wall: float) -> None:
        """Everything whose time has come."""
        touched: dict[int, Account] = {}
        for item in self.later.due(now):
            if isinstance(item, Receipt):
                item.account.queue.append(self._delivery(item, wall))
                touched[id(item.account)] = item.account
            elif isinstance(item, Answer):
                item.peer.send(item.data)
            else:
                item.account.queue.append(item.delivery)
                touched[id(item.account)] = item.account
        for account in touched.values():
            self.pump(account, now)

    def pump(self, account: Account, now: float) -> None:
        """Deliver what the windows of the account's receiving binds allow."""
        queue = account.queue
        if not queue or self.behaviour.mute:
            return
        window = self.behaviour.deliver_window
        for peer in sorted(account.receivers, key=lambda receiver: len(receiver.outstanding)):
            # An even share for each, so that no bind gets everything.
            share = -(-len(queue) // len(account.receivers))
            room = min(window - len(peer.outstanding), max(share, window // 10))
            if room <= 0:
                continue
            batch = [queue.popleft() for _ in range(min(room, len(queue)))]
            receipts = sum(delivery.receipt for delivery in batch)
            self.counters.receipts_sent += receipts
            self.counters.inbound_sent += len(batch) - receipts
            peer.deliver(batch, now)
            if not queue:
                return

    def delivered(self, account: Account, delivery: Delivery, status: int, now: float) -> None:
        """The peer answered a deliver_sm; the caller pumps when it has handled its whole read."""
        if status:
            self.counters.deliveries_refused += 1
            self.later.add(now + self.behaviour.redeliver_s, Again(account, delivery))
        elif delivery.receipt:
            self.counters.receipts_acknowledged += 1
        else:
            self.counters.inbound_acknowledged += 1

    def time_out(self, account: Account, now: float) -> None:
        """Deliveries that were not answered in time go again, over whichever bind."""
        horizon = now - self.behaviour.deliver_timeout_s
        for peer in account.receivers:
            late = [sequence for sequence, delivery in peer.outstanding.items() if delivery.sent_at < horizon]
            for sequence in late:
                account.queue.append(peer.outstanding.pop(sequence))
            self.counters.deliveries_timed_out += len(late)
        self.pump(account, now)

    def joined(self, account: Account, peer: Peer, receives: bool, now: float) -> None:
        """A bind came up."""
        account.peers.append(peer)
        if receives:
            account.receivers.append(peer)
            self.pump(account, now)

    def left(self, account: Account, peer: Peer, now: float) -> None:
        """A bind went down: what it had not acknowledged is first in the queue again."""
        if peer in account.peers:
            account.peers.remove(peer)
        if peer in account.receivers:
            account.receivers.remove(peer)
        account.queue.extendleft(reversed(peer.outstanding.values()))
        peer.outstanding = {}
        self.pump(account, now)

    def stats(self, now: float) -> dict[str, object]:
        """For GET /stats."""
        accounts = {
            account.system_id: {
                "binds": len(account.peers),
                "receivers": len(account.receivers),
                "queued": len(account.queue),
                "outstanding": sum(len(peer.outstanding) for peer in account.receivers),
            }
            for account in self.accounts.values()
        }
        return {
            **msgspec.structs.asdict(self.counters),
            "per_second": self.speed.current(now),
            "peak_per_second": self.speed.peak,
            "accepted_peak_per_second": self._taken.peak,
            "scheduled": len(self.later),
            "ledger": {"next": self.ledger.next_number, "kept": len(self.ledger), "limit": self.ledger.limit},
            "accounts": accounts,
        }


def _is_last_part(message: pdu.Message) -> bool:
    if not message.esm_class & UDHI:
        return True
    _, part = split_header(message.payload)
    return part is None or part.index == part.total
