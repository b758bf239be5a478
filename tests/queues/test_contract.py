"""Behaviour of every queue within one process, near or far, like the standard library's."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pickle import PicklingError
from typing import Any

import pytest
from hypothesis import given, settings

from nearfar.errors import Empty, Full
from tests.queues.contract import (
    LIMIT,
    MOMENT,
    PLAIN,
    VALUES,
    Unpicklable,
    Unreadable,
    outcome,
    put_all,
    put_nowait_until_full,
    same,
    take,
    threads,
)  # fmt: skip

Maker = Callable[..., Any]


def test_items_come_out_in_the_order_they_went_in(make_any: Maker) -> None:
    queue = make_any()
    put_all(queue, list(range(1000)))
    assert take(queue, 1000) == list(range(1000))


def test_an_item_above_the_bound_is_refused(make_any: Maker) -> None:
    queue = make_any(6)
    assert put_nowait_until_full(queue) == 6
    with pytest.raises(Full):
        queue.put(6, block=False)
    with pytest.raises(Full):
        queue.put(6, timeout=MOMENT)
    assert take(queue, 6) == list(range(6))


def test_a_call_that_does_not_wait_gets_available_items(make_any: Maker) -> None:
    """Given repeated calls that do not wait, I expect them to get every item."""
    queue, found = make_any(3), []
    deadline = time.monotonic() + LIMIT
    for number in range(3):
        queue.put(number)
    with pytest.raises(Full) as full:
        queue.put(3, timeout=0)
    assert str(full.value) == ""
    while len(found) < 3:
        assert time.monotonic() < deadline
        with suppress(Empty):
            found.append(queue.get(timeout=0))
    with pytest.raises(Empty):
        queue.get(timeout=0)
    assert found == [0, 1, 2]


def test_a_taken_item_makes_room_for_exactly_one(make_any: Maker) -> None:
    queue = make_any(3)
    put_all(queue, [1, 2, 3])
    take(queue, 2)
    assert put_nowait_until_full(queue) == 2


def test_a_blocked_put_goes_on_when_there_is_room(make_any: Maker) -> None:
    queue = make_any(1)
    queue.put("first")
    with threads((queue.put, "second")):
        assert take(queue, 2) == ["first", "second"]


def test_a_blocked_get_goes_on_when_there_is_an_item(make_any: Maker) -> None:
    queue = make_any()
    got: list[Any] = []
    with threads((lambda: got.append(queue.get()),)):
        queue.put("item")
    assert got == ["item"]


def test_get_on_an_empty_queue_raises_empty_in_time(make_any: Maker) -> None:
    queue = make_any()
    ways: list[dict[str, Any]] = [{"block": False}, {"timeout": 0}, {"timeout": MOMENT}]
    for how in ways:
        begin = time.monotonic()
        with pytest.raises(Empty):
            queue.get(**how)
        assert how.get("timeout", 0) * 0.9 <= time.monotonic() - begin < LIMIT


@pytest.mark.parametrize("maxsize", [0, 3])
def test_counts_are_exact_when_quiet(make_any: Maker, maxsize: int) -> None:
    queue = make_any(maxsize)
    seen = [(queue.qsize(), queue.full())]
    for step in range(6):
        queue.put(step) if step < 3 else queue.get(timeout=LIMIT)
        seen.append((queue.qsize(), queue.full()))
    assert seen == [(n, n == maxsize > 0) for n in (0, 1, 2, 3, 2, 1, 0)]
    assert queue.empty()


def test_a_value_comes_out_equal_and_of_its_type(make_queue: Maker) -> None:
    queue = make_queue()
    for value in VALUES:
        queue.put(value)
        assert same(queue.get(timeout=LIMIT), value), repr(value)[:100]


def test_plain_objects_come_out_as_they_went_in(make_queue: Maker) -> None:
    queue = make_queue()

    @settings(max_examples=60)
    @given(values=PLAIN)
    def come_out(values: object) -> None:
        queue.put(values)
        assert same(queue.get(timeout=LIMIT), values)

    come_out()


def test_changes_after_put_are_not_sent(make_queue: Maker) -> None:
    queue, item = make_queue(), [1]
    queue.put(item)
    item.append(2)
    assert queue.get(timeout=LIMIT) == [1]


def test_an_item_that_cannot_be_serialized_raises_at_put_and_affects_nothing(make_queue: Maker) -> None:
    queue = make_queue(2, joinable=True)
    queue.put("before")
    for item in (Unpicklable(), [Unpicklable()], lambda: None):
        with pytest.raises((TypeError, AttributeError, PicklingError)):  # ItemError is a TypeError
            queue.put(item)
        assert queue.qsize() == 1
    queue.put("after")
    assert take(queue, 2) == ["before", "after"]
    queue.task_done()
    queue.task_done()
    queue.join()


def test_put_many_with_an_item_that_cannot_be_serialized_puts_none(make_queue: Maker) -> None:
    queue = make_queue()
    with pytest.raises(Exception, match="stays here"):
        queue.put_many([1, Unpicklable(), 3])
    assert queue.qsize() == 0


def test_an_unreadable_item_raises_once_and_affects_nothing(make_queue: Maker) -> None:
    queue = make_queue()
    queue.put_many(["before", Unreadable(), "after"])
    assert queue.get(timeout=LIMIT) == "before"
    with pytest.raises(ArithmeticError):
        queue.get(timeout=LIMIT)
    assert queue.get(timeout=LIMIT) == "after"
    assert queue.qsize() == 0


def test_many_go_in_and_come_out_in_order(make_queue: Maker) -> None:
    queue = make_queue()
    queue.put_many(range(100))
    got: list[int] = []
    while len(got) < 100:
        batch = queue.get_many(30, timeout=LIMIT)
        assert 1 <= len(batch) <= 30
        got += batch
    assert got == list(range(100))
    with pytest.raises(Empty):
        queue.get_many(1, timeout=MOMENT)
    queue.put_many([])
    assert queue.empty()


def test_put_many_reports_the_number_put(make_queue: Maker) -> None:
    queue = make_queue(5)
    queue.put("one")
    with pytest.raises(Full) as full:
        queue.put_many(range(10), timeout=MOMENT)
    assert full.value.args[0] == 4
    assert take(queue, 5) == ["one", 0, 1, 2, 3]


def test_get_many_of_none_is_refused(make_queue: Maker) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_queue().get_many(0)


def test_get_many_loses_nothing_to_an_item_that_cannot_be_read(make_queue: Maker) -> None:
    queue = make_queue()
    queue.put_many([1, 2, Unreadable(), 4])
    got: list[Any] = []
    errors = 0
    while len(got) < 3 or not errors:
        try:
            got += queue.get_many(10, timeout=LIMIT)
        except ArithmeticError:
            errors += 1
    assert (sorted(got), errors, queue.qsize()) == ([1, 2, 4], 1, 0)


def test_join_waits_for_every_item_to_be_done(make_any: Maker) -> None:
    queue = make_any(joinable=True)
    put_all(queue, [1, 2, 3])
    order: list[str] = []

    def joins() -> None:
        queue.join()
        order.append("joined")

    with threads((joins,)):
        for _ in range(3):
            queue.get(timeout=LIMIT)
            order.append("done")
            queue.task_done()
    assert order == ["done", "done", "done", "joined"]


def test_task_done_too_often_raises(make_any: Maker) -> None:
    queue = make_any(joinable=True)
    queue.put(1)
    queue.get(timeout=LIMIT)
    queue.task_done()
    with pytest.raises(ValueError, match="too many"):
        queue.task_done()


def test_many_threads_share_one_queue(make_any: Maker) -> None:
    queue, got = make_any(5), []
    with threads(
        *[(put_all, queue, [(name, n) for n in range(50)]) for name in "abcd"],
        *[(lambda: got.extend(take(queue, 100)),) for _ in range(2)],
    ):
        pass
    assert sorted(got) == [(name, n) for name in "abcd" for n in range(50)]
    assert queue.qsize() == 0


def test_put_and_get_after_close_raise(make_queue: Maker) -> None:
    queue = make_queue()
    queue.put(1)
    queue.close()
    queue.join_thread()
    calls = [(queue.put, 1), (queue.put_nowait, 1), (queue.put_many, [1])]
    calls += [(queue.get,), (queue.get_nowait,), (queue.get_many, 1), (queue.receive,)]
    assert {outcome(*call) for call in calls} == {"ValueError"}


def test_a_with_block_closes(make_queue: Maker) -> None:
    with make_queue() as queue:
        queue.put(1)
        assert queue.get(timeout=LIMIT) == 1
    with pytest.raises(ValueError, match="closed"):
        queue.put(2)


def test_a_queue_shows_its_counts(make_queue: Maker) -> None:
    queue = make_queue(5)
    queue.put_many("abc")
    assert re.search(r"3 of 5 items|connected to \w+://", repr(queue))


def test_a_queue_returns_its_promises(make_queue: Maker, transport: Any) -> None:
    promises = make_queue().promises()
    assert (promises.transport, promises.bounded, promises.fifo) == (transport.name, True, True)
