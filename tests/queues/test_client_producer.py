"""`ItemSender`: items are sent once a session, in order, within the room, until they are settled."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nearfar.queues.client import producer as module
from nearfar.queues.client.producer import Batch, ItemSender, PutRequest, Settled
from nearfar.queues.messages import QueueMessage, QueueMessageType
from nearfar.serialization import item_codec

pytestmark = pytest.mark.pure


def sender_with(*, maxsize: int = 0, maxbytes: int = 0) -> ItemSender:
    """A sender in its first session."""
    sender = ItemSender()
    sender.begin(0, maxsize=maxsize, maxbytes=maxbytes)
    return sender


def encoded(*sizes: int) -> deque[bytes]:
    """Items of so many bytes each."""
    items = deque(item_codec.encode(bytes(size - 2), trusted=False) for size in sizes)
    assert list(map(len, items)) == list(sizes)
    return items


def put(sender: ItemSender, *sizes: int, to: str | None = None) -> PutRequest:
    entry = PutRequest(encoded(*sizes), to)
    sender.put(entry)
    return entry


def numbers(sender: ItemSender) -> list[int]:
    """The numbers of the items that are sent now."""
    return [first + n for _, (first, count, _), _ in sender.messages() for n in range(count)]


# -- batches -------------------------------------------------------------------------------------------


def test_items_put_together_are_sent_as_one_batch() -> None:
    sender = sender_with()
    first, second = put(sender, 10, 20), put(sender, 30)
    assert (first.last, second.last) == (2, 3)
    assert list(sender.messages()) == [
        QueueMessage(QueueMessageType.PUT, (1, 3, None), b"".join(encoded(10, 20, 30)))
    ]
    assert list(sender.messages()) == []
    assert sender.idle


def test_a_batch_is_for_one_addressee() -> None:
    """Given items for a, b, b, anyone and b,

    I expect a message for each change of the addressee, with just its own items in it.
    """
    sender = sender_with()
    for size, to in ((10, "a"), (20, "b"), (30, "b"), (40, None), (50, "b")):
        put(sender, size, to=to)
    assert [(m.fields, m.body) for m in sender.messages()] == [
        ((1, 1, "a"), b"".join(encoded(10))),
        ((2, 2, "b"), b"".join(encoded(20, 30))),
        ((4, 1, None), b"".join(encoded(40))),
        ((5, 1, "b"), b"".join(encoded(50))),
    ]


def test_batches_are_bounded_in_items_and_bytes() -> None:
    sender = sender_with()
    put(sender, *[10] * (module.BATCH_ITEMS + 1))
    assert [m.fields[1] for m in sender.messages()] == [module.BATCH_ITEMS, 1]
    half = b"\xc6" + (module.BATCH_BYTES // 2 - 5).to_bytes(4, "big") + bytes(module.BATCH_BYTES // 2 - 5)
    sender.put(PutRequest(deque([half, half, half, b"\x01", half * 9, b"\x01"])))
    assert [m.fields[1] for m in sender.messages()] == [2, 2, 1, 1]


def test_bytes_in_flight_are_bounded_until_the_host_acks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a queue without a bound, and 25 bytes that may be in flight,

    If more is put, I expect the rest to wait, whether or not the first was sent, and to be sent when the host
    has acked it.
    """
    monkeypatch.setattr(module, "UNSTORED_BYTES", 25)
    sender = sender_with()
    entry = put(sender, 10, 10, 10, 90, 10)
    assert entry.admitted == 2
    for line_number, expected in enumerate([[1, 2], [3], [4], [5]], 1):
        assert numbers(sender) == expected
        sender.sent(
            line_number, sum(10 + 80 * (number == 4) for number in expected), expected[0], len(expected)
        )
        assert numbers(sender) == []
        sender.acked(line_number - 1)
        assert numbers(sender) == []
        sender.acked(line_number)
    assert (entry.items, entry.admitted, sender.idle) == (deque(), 5, True)


# -- room ----------------------------------------------------------------------------------------------


def test_an_unbounded_queue_needs_no_room() -> None:
    sender = sender_with()
    put(sender, 10)
    assert sender.need() is None


def test_credit_is_requested_as_a_total_and_used() -> None:
    sender = sender_with(maxsize=5)
    assert sender.need() is None
    entry = put(sender, *[10] * 6)
    assert sender.need() == (6, 0, 0)
    sender.gain(4, 0)
    sender.admit()
    assert numbers(sender) == [1, 2, 3, 4]
    assert sender.need() == (6, 0, 0)
    sender.gain(2, 0)
    sender.admit()
    assert numbers(sender) == [5, 6]
    assert sender.need() is None
    assert not entry.items


def test_the_requested_credit_is_limited() -> None:
    sender = sender_with(maxsize=100_000)
    put(sender, *[10] * (module.MOST_ASKED + 1))
    assert sender.need() == (module.MOST_ASKED, 0, 0)


def test_bytes_are_requested_only_if_they_are_bounded() -> None:
    sender = sender_with(maxbytes=400)
    put(sender, 60, 30, 30)
    assert sender.need() == (3, 120, 60)
    sender.gain(2, 90)
    sender.admit()
    assert numbers(sender) == [1, 2]
    assert sender.need() == (3, 120, 120)


def test_as_many_items_of_a_run_are_admitted_as_fit() -> None:
    """Given five items of 30 bytes in one batch, and room for 100 bytes,

    I expect three of them to be sent, credit for the next to be requested, and the 10 bytes to be left.
    """
    sender = sender_with(maxbytes=400)
    entry = PutRequest(deque([Batch(5, b"".join(encoded(*[30] * 5)))]))
    sender.put(entry)
    assert sender.need() == (5, 150, 30)
    sender.gain(100, 100)
    sender.admit()
    assert (numbers(sender), entry.admitted, entry.last) == ([1, 2, 3], 3, 3)
    assert sender.need() == (5, 150, 120)
    assert sender.spare() == (97, 10)
    assert sender.need() == (5, 150, 120)
    sender.gain(60, 60)
    sender.admit()
    assert numbers(sender) == [4, 5]


def test_no_more_than_the_bound_is_requested() -> None:
    sender = sender_with(maxbytes=400)
    put(sender, *[200] * 5)
    assert sender.need() == (5, 400, 200)


def test_items_of_calls_that_do_not_wait_come_first() -> None:
    sender = sender_with(maxbytes=400)
    large = put(sender, 200)
    small = PutRequest(encoded(10), None)
    sender.put(small, first=True)
    assert sender.need() == (2, 210, 10)
    sender.gain(1, 10)
    sender.admit()
    assert (list(small.items), len(large.items), numbers(sender)) == ([], 1, [1])


def test_items_in_the_put_buffer_count_their_bytes() -> None:
    """Given room for 40 bytes, I expect the put buffer to take items of 10 until there is none left for
    another."""
    sender = sender_with(maxbytes=400)
    sender.barred = False
    sender.gain(45, 45)
    sender.admit()
    item = bytes(8)  # 10 with its head
    assert [sender.put_buffer.append_now(item) for _ in range(5)] == [1, 2, 3, 4, 0]
    assert sender.put_buffer.append_now(b"12") == 5  # it has 4, and there were 5
    assert numbers(sender) == [1, 2, 3, 4, 5]
    assert sender.spare() == (40, 1)


def test_unused_credit_is_returned_once() -> None:
    sender = sender_with(maxsize=5)
    entry = put(sender, 10, 10)
    sender.gain(2, 0)
    sender.withdraw(entry)
    sender.gain(1, 0)
    assert sender.spare() == (3, 0)
    assert sender.spare() == (0, 0)
    put(sender, 10)
    assert sender.need() == (1, 0, 0)


def test_a_put_that_gives_up_withdraws_items_not_admitted() -> None:
    sender = sender_with(maxsize=5)
    entry = put(sender, 10, 20, 30)
    sender.gain(1, 0)
    sender.admit()
    sender.withdraw(entry)
    assert (entry.admitted, sender.last) == (1, 1)
    assert numbers(sender) == [1]
    assert sender.idle
    sender.withdraw(entry)


def test_a_smaller_item_goes_when_a_larger_one_before_it_gives_up() -> None:
    """Given room for 50 bytes, and a put of 100 before one of 10,

    If the first gives up, I expect the second to be sent: it needs no more credit, so no other event would
    send it.
    """
    sender = sender_with(maxbytes=400)
    large = put(sender, 100)
    small = put(sender, 10)
    sender.gain(1, 50)
    sender.admit()
    assert numbers(sender) == []
    sender.withdraw(large)
    assert not small.items
    assert numbers(sender) == [1]


# -- the end of an item -----------------------------------------------------------------------------------


def test_repeated_outcomes_count_once() -> None:
    """Given a host whose news may not have arrived before the session broke,

    If it sends the same news again, I expect the outcome to be reported once.
    """
    sender = sender_with()
    put(sender, 10, 10, 10)
    numbers(sender)
    rows = [(1, 1, 1, b"answer"), (2, 2, 0, None)]
    sender.settle(rows)
    sender.settle(rows)
    assert list(sender.outcomes) == [Settled(1, 1, 1, b"answer")]
    assert (sender.settled, sender.unsettled) == (3, 0)


def test_outcomes_of_unknown_items_are_ignored() -> None:
    sender = sender_with()
    put(sender, 10)
    numbers(sender)
    sender.settle([(5, 3, 2, None), (2, 1 << 62, 0, None)])
    assert (list(sender.outcomes), sender.unsettled) == ([], 1)


def test_only_unsettled_items_of_a_batch_are_sent_again() -> None:
    sender = sender_with()
    put(sender, 10, 20, 30, 40, 50)
    numbers(sender)
    sender.settle([(2, 1, 0, None), (4, 1, 0, None)])
    sender.begin(0, maxsize=0, maxbytes=0)
    sender.admit()
    assert [(m.fields[:2], m.body) for m in sender.messages()] == [
        ((1, 1), encoded(10)[0]),
        ((3, 1), encoded(30)[0]),
        ((5, 1), encoded(50)[0]),
    ]


def test_stored_items_are_not_sent_again() -> None:
    sender = sender_with()
    put(sender, 10)
    numbers(sender)
    put(sender, 20)
    numbers(sender)
    put(sender, 30)
    sender.begin(1, maxsize=0, maxbytes=0)
    sender.admit()
    assert numbers(sender) == [2, 3]
    sender.settle([(1, 3, 0, None)])
    assert sender.unsettled == 0


def test_resent_items_come_before_new_ones_and_need_credit_too() -> None:
    sender = sender_with(maxsize=3)
    put(sender, 10, 10)
    sender.gain(2, 0)
    sender.admit()
    numbers(sender)
    put(sender, 10)
    sender.begin(0, maxsize=3, maxbytes=0)
    sender.admit()
    assert numbers(sender) == []
    assert not sender.idle
    assert sender.need() == (3, 0, 0)
    sender.gain(1, 0)
    sender.admit()
    assert numbers(sender) == [1]
    sender.gain(2, 0)
    sender.admit()
    assert numbers(sender) == [2, 3]


def test_a_new_session_begins_without_credit_and_without_messages_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "UNSTORED_BYTES", 25)
    sender = sender_with(maxsize=5)
    put(sender, 20)
    sender.gain(3, 0)
    sender.admit()
    assert numbers(sender) == [1]
    sender.sent(1, 20, 1, 1)
    sender.begin(0, maxsize=5, maxbytes=0)
    sender.admit()
    assert numbers(sender) == []
    sender.gain(1, 0)
    sender.admit()
    assert numbers(sender) == [1]


def test_a_small_new_item_does_not_overtake_a_large_resent_one() -> None:
    sender = sender_with(maxbytes=400)
    put(sender, 100)
    sender.gain(1, 100)
    sender.admit()
    numbers(sender)
    sender.begin(0, maxsize=0, maxbytes=400)
    sender.gain(1, 50)
    put(sender, 10)
    assert numbers(sender) == []
    sender.gain(1, 60)
    sender.admit()
    assert numbers(sender) == [1, 2]


# -- histories ------------------------------------------------------------------------------------------


@dataclass
class Session:
    """A host's view of one session."""

    stored_before: int
    granted: tuple[int, int] = (0, 0)
    sent: list[int] = field(default_factory=list)
    sent_bytes: int = 0


class Histories(RuleBasedStateMachine):
    """A sender, and a host that grants, acks, settles, loses messages and restarts, with or without its
    items."""

    @initialize(maxsize=st.sampled_from([0, 5]), maxbytes=st.sampled_from([0, 120]))
    def start(self, maxsize: int, maxbytes: int) -> None:
        self.bounds = {"maxsize": maxsize, "maxbytes": maxbytes}
        self.bounded = bool(maxsize or maxbytes)
        self.sender = sender_with(**self.bounds)
        self.session = Session(0)
        self.entries: list[tuple[PutRequest, list[bytes]]] = []
        self.items: dict[int, tuple[bytes, str | None]] = {}
        self.settled: set[int] = set()
        self.stored: set[int] = set()
        self.lines = 0

    def note_admitted(self) -> None:
        """Give their numbers to what was admitted: those of one call rise, and so do calls."""
        for entry, items in self.entries:
            while len(items) > len(entry.items):
                self.items[len(self.items) + 1] = (items.pop(0), entry.to)
            assert items == list(entry.items)

    @rule(sizes=st.lists(st.integers(2, 40), max_size=6), to=st.sampled_from([None, None, "a", "b"]))
    def put(self, sizes: list[int], to: str | None) -> None:
        entry = PutRequest(encoded(*sizes), to)
        self.entries.append((entry, list(entry.items)))
        self.sender.put(entry)
        self.note_admitted()

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        entry, items = data.draw(st.sampled_from(self.entries))
        del items[:]
        self.sender.withdraw(entry)
        self.note_admitted()

    @rule(share=st.integers(0, 100))
    def grant(self, share: int) -> None:
        """A host grants what is asked for, or some of the items; of bytes, all or nothing."""
        need = self.sender.need()
        if need is None:
            return
        assert self.bounded
        items, size = need.items - self.session.granted[0], need.size - self.session.granted[1]
        items = max(0, items)  # as hosts do: a put that gave up may have been granted some
        assert size >= 0
        if not self.bounds["maxbytes"]:
            assert size == 0
            items = items * share // 100
        self.session.granted = (self.session.granted[0] + items, self.session.granted[1] + size)
        self.sender.gain(items, size)
        self.sender.admit()
        self.note_admitted()

    @rule()
    def recall(self) -> None:
        items, size = self.sender.spare()
        assert items >= 0
        assert size >= 0
        self.session.granted = (self.session.granted[0] - items, self.session.granted[1] - size)

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        for message in self.sender.messages():
            first, count, to = message.fields
            assert message.body is not None
            for number, item in enumerate(item_codec.split(message.body), first):
                assert (item, to) == self.items[number]
                assert number not in self.settled
                self.session.sent.append(number)
            assert self.session.sent[-1] == first + count - 1
            self.session.sent_bytes += len(message.body)
            self.lines += 1
            self.sender.sent(self.lines, len(message.body), *message.fields[:2])

    @rule()
    def ack(self) -> None:
        """The host has all that was sent."""
        self.stored |= set(self.session.sent)
        self.sender.acked(self.lines)
        self.note_admitted()

    @precondition(lambda self: self.stored)
    @rule(data=st.data(), outcome=st.integers(0, 2), more=st.integers(0, 5))
    def settle(self, data: st.DataObject, outcome: int, more: int) -> None:
        first = data.draw(st.sampled_from(sorted(self.stored)))
        last = first
        while last + 1 in self.stored and last - first < more:
            last += 1
        new = set(range(first, last + 1)) - self.settled
        before = len(self.sender.outcomes)
        self.sender.settle([(first, last - first + 1, outcome, None)])
        self.settled |= new
        assert len(self.sender.outcomes) - before == bool(new and outcome)

    @rule(forgot=st.booleans(), arrived=st.booleans())
    def new_session(self, forgot: bool, arrived: bool) -> None:
        """The session breaks; messages in flight arrived or not; the host may be new and empty."""
        if arrived:
            self.stored |= set(self.session.sent)
        if forgot:
            self.stored = set()
        highest = max(self.stored, default=0)
        self.session = Session(highest)
        self.sender.begin(highest, **self.bounds)
        self.sender.admit()
        self.note_admitted()

    @invariant()
    def each_item_goes_once_a_session_and_in_order(self) -> None:
        sent = self.session.sent
        assert sent == sorted(set(sent))
        assert not sent or sent[0] > self.session.stored_before

    @invariant()
    def room_is_never_overdrawn(self) -> None:
        if self.bounded:
            assert len(self.session.sent) <= self.session.granted[0]
        if self.bounds["maxbytes"]:
            assert self.session.sent_bytes <= self.session.granted[1]

    @invariant()
    def the_counts_are_right(self) -> None:
        assert self.sender.last == len(self.items)
        assert self.sender.settled == len(self.settled)
        assert self.sender.unsettled == len(self.items) - len(self.settled)

    def teardown(self) -> None:
        """With credit and a live host, every item arrives: none waits, and none is missing."""
        if not hasattr(self, "session"):
            return
        for _ in range(300):
            self.grant(100)
            self.send(None)
            self.ack()
        assert self.sender.idle
        assert set(self.items) - self.stored <= self.settled
        self.sender.settle([(1, len(self.items) + 1, 0, None)])
        assert self.sender.unsettled == 0
        assert not self.sender._batches
        assert not self.sender._firsts


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
