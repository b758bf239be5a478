"""Behaviour of every queue between processes."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

import pytest

from tests.queues.contract import (
    LIMIT,
    children,
    echo,
    outcome,
    put_all,
    put_nowait_until_full,
    report,
    take,
    told,
    work_off,
)

Maker = Callable[..., Any]


def test_a_queue_passes_to_a_process(make_queue: Maker, every_context: BaseContext) -> None:
    there, back = make_queue(5, context=every_context), make_queue(context=every_context)
    with children(every_context, (echo, there, back)):
        put_all(there, list(range(20)))
        assert take(back, 20) == list(range(20))
        there.shutdown()


def test_a_joinable_queue_passes_to_a_process(make_queue: Maker, every_context: BaseContext) -> None:
    queue = make_queue(joinable=True, context=every_context)
    here, there = every_context.Pipe()
    with here, there, children(every_context, (work_off, queue, there, 2)):
        put_all(queue, ["a", "b"])
        assert told(here) == "taken"
        here.send("go on")
        queue.join()


def test_a_producer_may_end_before_its_consumer_starts(make_queue: Maker, context: BaseContext) -> None:
    there, back = make_queue(), make_queue()
    with children(context, (put_all, there, list(range(200)))):
        pass
    assert there.qsize() == 200
    there.shutdown()
    with children(context, (echo, there, back)):
        assert take(back, 200) == list(range(200))


def test_a_child_that_ends_normally_loses_nothing_it_put(
    make_queue: Maker, every_context: BaseContext
) -> None:
    """Given more data than any pipe holds, I expect all of it."""
    queue = make_queue(context=every_context)
    items = [bytes([n]) * 50_000 for n in range(40)]
    with children(every_context, (put_all, queue, items)):
        assert take(queue, 40) == items


def test_an_item_that_crosses_processes_may_be_large(make_queue: Maker, context: BaseContext) -> None:
    there, back = make_queue(2), make_queue(2)
    item = bytes(range(256)) * 40_000
    with children(context, (echo, there, back)):
        there.put(item)
        assert back.get(timeout=LIMIT) == item
        there.shutdown()


def test_the_bound_is_exact_over_several_producers(make_queue: Maker, context: BaseContext) -> None:
    queue = make_queue(6)
    ends = [context.Pipe() for _ in range(3)]
    with children(context, *[(report, there, put_nowait_until_full, queue) for _, there in ends]):
        counts = [(told(here), told(here))[1] for here, _ in ends]
    assert sum(counts) == 6
    assert (queue.qsize(), queue.full(), outcome(queue.put_nowait, 7)) == (6, True, "Full")
    for end in sum(ends, ()):
        end.close()


@pytest.mark.parametrize("maxsize", [0, 3])
def test_each_producers_items_stay_in_order(make_queue: Maker, context: BaseContext, maxsize: int) -> None:
    queue = make_queue(maxsize)
    with children(context, *[(put_all, queue, [(name, n) for n in range(100)]) for name in "abc"]):
        got = take(queue, 300)
    for name in "abc":
        assert [n for who, n in got if who == name] == list(range(100))


def test_each_item_reaches_one_of_several_consumers(make_queue: Maker, context: BaseContext) -> None:
    queue, back = make_queue(10), make_queue()
    with children(context, *[(echo, queue, back)] * 3):
        put_all(queue, list(range(300)))
        queue.shutdown()
        assert sorted(take(back, 300)) == list(range(300))
    assert back.empty()


def test_counts_are_the_same_in_every_process(make_queue: Maker, context: BaseContext) -> None:
    queue = make_queue(4)
    here, there = context.Pipe()
    put_all(queue, [1, 2, 3])
    with here, there, children(context, (report, there, queue.qsize)):
        assert [told(here), told(here)] == ["begins", 3]


def test_join_waits_for_consumers_in_other_processes(make_queue: Maker, context: BaseContext) -> None:
    queue = make_queue(joinable=True)
    ends = [context.Pipe() for _ in range(2)]
    joined, there = context.Pipe()
    put_all(queue, list(range(6)))
    calls = [(work_off, queue, end, 3) for _, end in ends] + [(report, there, queue.join)]
    with children(context, *calls):
        assert {told(here) for here, _ in ends} == {"taken"}
        assert told(joined) == "begins"
        ends[0][0].send("go on")
        assert not joined.poll(0.1)  # three are still open: nothing can come
        ends[1][0].send("go on")
        assert told(joined) is None
    for end in [*sum(ends, ()), joined, there]:
        end.close()
