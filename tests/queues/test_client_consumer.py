"""`ItemReceiver`: every item is taken once and reported once; few items wait untaken."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from decimal import Decimal
from math import inf
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nearfar.errors import ItemError, NearfarError
from nearfar.queues import messages
from nearfar.queues.client import consumer as module
from nearfar.queues.client.consumer import MOST_AHEAD, PAUSE, WINDOW_BYTES, ItemReceiver
from nearfar.queues.client.deliveries import DeliveredItem
from nearfar.queues.messages import LONGEST_ANSWER, MOST_RANGES
from nearfar.serialization import item_codec

pytestmark = pytest.mark.pure

UNREADABLE = item_codec.encode(Decimal(1), trusted=True)
"""A pickle, which a client without trust does not read."""


def held(receiver: ItemReceiver) -> dict[int, int]:
    """The positions that the program holds, and the holder of each."""
    found: dict[int, int] = {}
    for first, last, holder in receiver.hands._rows:
        found |= dict.fromkeys(range(first, last + 1), holder)
    return found


def lend(receiver: ItemReceiver, *items: Any, attempt: int = 1) -> None:
    """Lend a batch; `UNREADABLE` stands for itself."""
    body = b"".join(item if item is UNREADABLE else item_codec.encode(item, trusted=False) for item in items)
    receiver.lend(receiver._last + 1, len(items), attempt, body)


def take(receiver: ItemReceiver, now: float = 0.0) -> Any:
    taken = receiver.take(1, now)
    return None if taken is None else taken.item


def report(receiver: ItemReceiver, now: float = 0.0, ask: int = 0) -> dict[str, Any]:
    """The fields of a report, by name; empty if there is none."""
    message = receiver.report(now, ask)
    if message is None:
        return {}
    packed = messages.pack(1, 0, message)
    assert messages.pack(1, 0, messages.unpack(packed).message) == packed
    window, size, asked, taken, *lists = message.fields
    assert (size, asked) == (WINDOW_BYTES, ask)
    names = ("done", "failed", "unreadable", "returned", "answers")
    return {"window": window, "taken": taken} | {
        n: rows for n, rows in zip(names, lists, strict=True) if rows
    }


# -- taking -------------------------------------------------------------------------------------------


def test_items_are_taken_in_order_with_their_positions_and_attempts() -> None:
    receiver = ItemReceiver()
    lend(receiver, "a", ("b", 2))
    lend(receiver, "c", attempt=3)
    assert receiver.buffered == 3
    assert receiver.take(7, 0.0) == DeliveredItem(1, "a", 1)
    assert receiver.take(8, 0.0) == DeliveredItem(2, ("b", 2), 1)
    assert receiver.take(7, 0.0) == DeliveredItem(3, "c", 3)
    assert receiver.take(7, 0.0) is None
    assert held(receiver) == {1: 7, 2: 8, 3: 7}
    assert (receiver.buffered, receiver.taken) == (0, 3)


def test_an_unreadable_item_raises_once_and_affects_no_other() -> None:
    """Given a batch with an item that cannot be read between two that can,

    I expect the two to be taken, and the other to raise once.
    """
    receiver = ItemReceiver(trusted=False)
    lend(receiver, "a", UNREADABLE, "c")
    assert take(receiver) == "a"
    with pytest.raises(NearfarError):
        take(receiver)
    assert take(receiver) == "c"
    assert take(receiver) is None
    assert list(held(receiver)) == [1, 3]
    assert receiver.taken == 3


@pytest.mark.parametrize(
    "body", [b"", b"\x01", b"\x01\xc1\x02\x03\x04", b"\x01\xc5\xff\xff\x00", b"\x01\xc6"]
)
def test_a_batch_with_missing_items_raises_for_each_of_them(body: bytes) -> None:
    receiver = ItemReceiver()
    receiver.lend(1, 4, 1, body)
    lend(receiver, "next")
    readable = min(1, len(body))
    for _ in range(readable):
        assert take(receiver) == 1
    for _ in range(4 - readable):
        with pytest.raises(NearfarError):
            take(receiver)
    assert take(receiver) == "next"


def test_a_batch_with_surplus_items_is_read_up_to_its_announced_count() -> None:
    receiver = ItemReceiver()
    receiver.lend(1, 2, 1, b"\x01\x02\x03")
    lend(receiver, "next")
    assert [take(receiver) for _ in range(4)] == [1, 2, "next", None]


def hand_out(receiver: ItemReceiver, most: int, *, settles: bool = True, whole: bool = False) -> deque[Any]:
    """The items that thread 7 may take without the lock."""
    receiver.hand_out(7, 7, most, settles=settles, whole=whole)
    return (receiver.hand.receiving if whole else receiver.hand.getting)[1]


def test_items_of_several_batches_are_handed_out_up_to_an_unreadable_one() -> None:
    receiver = ItemReceiver(trusted=False)
    lend(receiver, *"abc")
    lend(receiver, *"de")
    lend(receiver, "f", UNREADABLE)
    assert list(hand_out(receiver, 4)) == ["a", "b", "c", "d"]
    items = hand_out(receiver, 9)
    assert list(items) == ["a", "b", "c", "d", "e"]
    while items:
        items.popleft()
    receiver.count()
    assert (receiver.taken, receiver.buffered, held(receiver)) == (5, 2, {5: 7})


def test_taking_the_next_item_settles_the_one_before() -> None:
    receiver = ItemReceiver()
    lend(receiver, *"abcd")
    assert receiver.take(7, 0.0) == DeliveredItem(1, "a", 1)
    items = hand_out(receiver, 5)
    assert [items.popleft(), items.popleft()] == ["b", "c"]
    receiver.count()
    assert (held(receiver), receiver.taken, receiver.buffered) == ({3: 7}, 3, 1)
    assert report(receiver)["done"] == [[1, 2]]
    items.popleft()
    receiver.count()
    assert (held(receiver), receiver.buffered) == ({4: 7}, 0)


def test_items_handed_out_and_not_taken_can_be_taken_by_another_thread() -> None:
    receiver = ItemReceiver()
    lend(receiver, *"abcd")
    receiver.take(7, 0.0)
    items = hand_out(receiver, 5)
    items.popleft()
    assert receiver.take(8, 0.0) == DeliveredItem(3, "c", 1)
    assert (list(items), receiver.hand.getting[0], held(receiver)) == ([], 0, {2: 7, 3: 8})
    assert take(receiver) == "d"


def test_items_handed_out_and_not_taken_can_be_returned() -> None:
    receiver = ItemReceiver()
    lend(receiver, *"abcd")
    receiver.take(7, 0.0)
    hand_out(receiver, 2).popleft()
    receiver.give_back()
    told = report(receiver)
    assert (told["taken"], told["done"], told["returned"]) == (2, [[1, 1]], [[3, 4]])


def test_without_settling_all_items_stay_unacknowledged() -> None:
    receiver = ItemReceiver()
    lend(receiver, *"abc")
    receiver.take(7, 0.0)
    items = hand_out(receiver, 5, settles=False)
    assert [items.popleft(), items.popleft()] == ["b", "c"]
    receiver.count()
    assert held(receiver) == {1: 7, 2: 7, 3: 7}


def test_deliveries_are_handed_out_with_their_attempts_and_acked_together() -> None:
    receiver = ItemReceiver(session=3)
    lend(receiver, *"abc", attempt=2)
    receiver.take(7, 0.0)
    items = hand_out(receiver, 5, settles=False, whole=True)
    assert list(items) == [DeliveredItem(2, "b", 2, 3), DeliveredItem(3, "c", 2, 3)]
    receiver.hand.acks += [items.popleft(), items.popleft(), DeliveredItem(1, "of another session", 1, 2)]
    receiver.count()
    assert (held(receiver), receiver.hand.acks, report(receiver)["done"]) == ({1: 7}, [], [[2, 3]])


def test_an_item_that_never_reached_its_caller_is_returned() -> None:
    """Whether it was taken is computed from the number of items before."""
    receiver = ItemReceiver()
    lend(receiver, *"abc")
    receiver.take(7, 0.0)
    items = hand_out(receiver, 5)
    chunk = receiver.hand.getting[2]
    assert receiver.taken_from(chunk, 2) == 0
    items.popleft()
    receiver.collect()
    for _ in range(2):
        receiver.let_go(receiver.taken_from(chunk, 2))
    assert receiver.taken_from(chunk, 1) == 0
    told = report(receiver)
    assert (told["done"], told["returned"], held(receiver)) == ([[1, 1]], [[2, 2]], {})


def test_an_item_is_either_taken_by_its_thread_or_withdrawn() -> None:
    """Given a thread that takes while another withdraws, I expect each item at exactly one of them."""
    for _ in range(50):
        receiver = ItemReceiver()
        lend(receiver, *range(300))
        receiver.take(7, 0.0)
        items, start = hand_out(receiver, 300), threading.Barrier(2)
        found = []

        def get(
            items: deque[Any] = items, start: threading.Barrier = start, found: list[Any] = found
        ) -> None:
            start.wait()
            with suppress(IndexError):
                while True:
                    found.append(items.popleft())

        thread = threading.Thread(target=get)
        thread.start()
        start.wait()
        receiver.collect()
        thread.join()
        assert found == list(range(1, 1 + len(found)))
        assert receiver.taken == 1 + len(found)
        assert receiver.buffered == 299 - len(found)


def test_a_run_ends_with_its_batch_and_is_not_taken_with_an_unreadable_item() -> None:
    receiver = ItemReceiver(trusted=False)
    assert receiver.take_run(5, 7, 0.0) == (0, [])
    lend(receiver, *"abc")
    lend(receiver, "d", UNREADABLE)
    assert receiver.take_run(2, 7, 0.0) == (1, ["a", "b"])
    assert receiver.take_run(5, 7, 0.0) == (3, ["c"])
    assert receiver.take_run(5, 7, 0.0) == (0, [])
    assert (receiver.buffered, receiver.taken, take(receiver)) == (2, 3, "d")


# -- telling --------------------------------------------------------------------------------------------


def test_a_report_contains_only_news() -> None:
    receiver = ItemReceiver(waiters=1)
    assert report(receiver) == {"window": 1, "taken": 0}
    assert report(receiver) == {}
    lend(receiver, *"abcdef")
    for _ in range(5):
        take(receiver, 1.0)
    receiver.done(1)
    receiver.done(2)
    receiver.done(4, b"answer")
    receiver.fail(3)
    receiver.give_back()
    told = report(receiver, 1.0)
    assert told == told | {"taken": 5, "done": [[1, 2]], "failed": [[3, 3]], "answers": [[4, b"answer"]]}
    assert told["returned"] == [[6, 6]]
    assert report(receiver, 1.0) == {}
    assert list(held(receiver)) == [5]


def test_a_question_is_sent_even_without_news() -> None:
    receiver = ItemReceiver()
    assert report(receiver) == {}
    assert report(receiver, ask=7) == {"window": 0, "taken": 0}


def test_an_item_is_settled_once() -> None:
    receiver = ItemReceiver()
    lend(receiver, "a")
    take(receiver)
    receiver.done(1)
    receiver.done(1, b"again")
    receiver.fail(1)
    receiver.done(5)
    receiver.fail(5)
    told = report(receiver)
    assert told["done"] == [[1, 1]]
    assert told.keys() == {"window", "taken", "done"}


def test_an_answer_too_long_for_a_frame_is_refused_and_the_item_stays_unacknowledged() -> None:
    receiver = ItemReceiver()
    lend(receiver, "a")
    take(receiver)
    with pytest.raises(ItemError, match="too long"):
        receiver.done(1, bytes(LONGEST_ANSWER + 1))
    assert list(held(receiver)) == [1]
    receiver.done(1, bytes(LONGEST_ANSWER))
    assert [len(answer) for _, answer in report(receiver)["answers"]] == [LONGEST_ANSWER]


def test_news_for_more_than_one_frame_is_sent_in_several() -> None:
    receiver = ItemReceiver()
    count = 2 * MOST_RANGES + 2
    lend(receiver, *range(count))
    for _ in range(count):
        take(receiver)
    for position in range(1, count, 2):
        receiver.done(position)
        receiver.done(position + 1, b"")
    first, second = report(receiver), report(receiver)
    assert (len(first["done"]), len(first["answers"])) == (MOST_RANGES, MOST_RANGES)
    assert (second["done"], second["answers"]) == ([[count - 1, count - 1]], [[count, b""]])
    assert report(receiver) == {}


def test_buffered_items_are_all_returned() -> None:
    receiver = ItemReceiver()
    lend(receiver, "a", "b")
    lend(receiver, "c")
    take(receiver)
    receiver.give_back()
    receiver.give_back()
    assert (receiver.buffered, take(receiver)) == (0, None)
    assert report(receiver)["returned"] == [[2, 3]]
    lend(receiver, "d")
    assert receiver.take(1, 0.0) == DeliveredItem(4, "d", 1)


# -- how much may lie there -------------------------------------------------------------------------------


def test_the_window_is_zero_before_any_call_or_take() -> None:
    receiver = ItemReceiver()
    assert receiver.window(100.0) == 0
    receiver.waiters = 3
    assert receiver.window(100.0) == 3


def paced(seconds: float, takes: int = 80) -> tuple[ItemReceiver, float]:
    """A receiver whose program takes an item every so many seconds; and the time of the last take."""
    receiver, now = ItemReceiver(), 10.0
    for _ in range(takes):
        now += seconds
        lend(receiver, "x")
        take(receiver, now)
    return receiver, now


def test_a_fast_program_has_a_large_window_and_a_slow_one_a_small_one() -> None:
    windows = [receiver.window(now) for receiver, now in map(paced, (0.0, 0.0001, 0.001, 0.01, 0.04))]
    assert windows[0] == MOST_AHEAD
    assert 150 <= windows[1] <= 200
    assert 18 <= windows[2] <= 20
    assert windows[3:] == [1, 1]


def test_the_window_closes_when_the_program_pauses() -> None:
    """Given a fast program with items in its buffer,

    If it takes nothing for a while, I expect items that no call waits for to count as surplus from the
    deadline on.
    """
    receiver, now = paced(0.001)
    lend(receiver, *"abc")
    assert not receiver.paused(now)
    receiver.told_at = inf
    assert receiver.due_at(pauses=True) == now + PAUSE
    assert receiver.paused(now + 2 * PAUSE)
    assert receiver.window(now + 2 * PAUSE) == 0
    receiver.waiters = 3
    assert not receiver.paused(now + 2 * PAUSE)
    assert receiver.window(now + 2 * PAUSE) == 3


def test_a_reported_window_must_be_closed_even_if_the_buffer_is_empty() -> None:
    receiver, now = paced(0.001)
    assert report(receiver, now)["window"] > 1
    assert receiver.due_at(pauses=True) == now + PAUSE
    assert report(receiver, now + 2 * PAUSE)["window"] == 0
    assert receiver.due_at(pauses=True) == inf


# -- histories ------------------------------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    """A program and a broker with a receiver between them: in any order, each position is settled once."""

    @initialize()
    def start(self) -> None:
        self.receiver = ItemReceiver()
        self.now = 0.0
        self.items: list[Any] = []
        self.ends: dict[int, str] = {}
        self.hands: set[int] = set()
        self.expected: dict[int, str] = {}
        self.next = 1
        self.told_taken = 0

    @rule(items=st.lists(st.integers() | st.just(UNREADABLE), min_size=1, max_size=6))
    def lend(self, items: list[Any]) -> None:
        lend(self.receiver, *items)
        self.items += items

    @rule(passed=st.sampled_from([0.0, 0.001, 0.1]))
    def take(self, passed: float) -> None:
        self.now += passed
        position, self.next = self.next, min(self.next + 1, len(self.items) + 1)
        if position > len(self.items):
            assert self.receiver.take(1, self.now) is None
        elif self.items[position - 1] is UNREADABLE:
            with pytest.raises(NearfarError):
                self.receiver.take(1, self.now)
            self.expected[position] = "unreadable"
        else:
            assert self.receiver.take(1, self.now) == DeliveredItem(position, self.items[position - 1], 1)
            self.hands.add(position)

    @rule(most=st.integers(1, 5), takes=st.integers(0, 5))
    def take_from_what_is_handed_out(self, most: int, takes: int) -> None:
        items = hand_out(self.receiver, most, settles=False)
        for _ in range(min(takes, len(items))):
            assert items.popleft() == self.items[self.next - 1]
            self.hands.add(self.next)
            self.next += 1
        self.receiver.count()

    @precondition(lambda self: self.items)
    @rule(data=st.data(), how=st.sampled_from(["done", "failed", "answers"]))
    def finish(self, data: st.DataObject, how: str) -> None:
        position = data.draw(st.integers(1, len(self.items)))
        if position in self.hands:
            self.hands.remove(position)
            self.expected[position] = how
        match how:
            case "done":
                self.receiver.done(position)
            case "failed":
                self.receiver.fail(position)
            case "answers":
                self.receiver.done(position, b"x")

    @rule()
    def give_back(self) -> None:
        self.receiver.give_back()
        self.expected |= dict.fromkeys(range(self.next, len(self.items) + 1), "returned")
        self.next = len(self.items) + 1

    @rule(waiters=st.integers(0, 3))
    def wait(self, waiters: int) -> None:
        self.receiver.waiters = waiters

    @rule()
    def report(self) -> None:
        told = report(self.receiver, self.now)
        if told:
            assert told["taken"] >= self.told_taken
            self.told_taken = told["taken"]
        for name in ("done", "failed", "unreadable", "returned"):
            for first, last in told.get(name, ()):
                for position in range(first, last + 1):
                    assert position not in self.ends
                    self.ends[position] = name
        for position, answer in told.get("answers", ()):
            assert position not in self.ends
            assert answer == b"x"
            self.ends[position] = "answers"
        assert self.ends == self.expected
        assert self.told_taken == self.receiver.taken
        assert self.receiver.report(self.now) is None

    @invariant()
    def what_is_in_hand_and_in_the_buffer_is_known(self) -> None:
        assert set(held(self.receiver)) == self.hands
        assert self.receiver.buffered == len(self.items) + 1 - self.next
        assert self.receiver.waiters <= self.receiver.window(self.now) <= module.MOST_AHEAD


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
