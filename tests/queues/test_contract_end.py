"""The end of every queue: shutdown, `ShutDown`, iteration: as `queue.Queue` of 3.13, across processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

import pytest

from nearfar.errors import ShutDown
from tests.queues.contract import (
    LIMIT,
    children,
    outcome,
    put_all,
    put_all_or_shut_down,
    report,
    take,
    take_all,
    threads,
    told,
)

Maker = Callable[..., Any]


@pytest.mark.parametrize("maxsize", [0, 1])
def test_after_shutdown_gets_empty_the_queue_then_raise(make_ending: Maker, maxsize: int) -> None:
    queue = make_ending(maxsize)
    queue.put("last")
    queue.shutdown()
    assert (queue.qsize(), queue.full()) == (1, maxsize == 1)
    assert queue.get(timeout=LIMIT) == "last"
    for call in ((queue.get,), (queue.get_nowait,), (queue.get, True, 0.01)):
        assert outcome(*call) == "ShutDown"
    assert (queue.qsize(), queue.empty(), queue.full()) == (0, True, False)


def test_after_shutdown_puts_are_refused_even_at_the_bound(make_ending: Maker) -> None:
    queue = make_ending(1)
    queue.put(1)
    queue.shutdown()
    for call in ((queue.put, 2), (queue.put_nowait, 2), (queue.put, 2, True, 0.01)):
        assert outcome(*call) == "ShutDown"
    assert queue.qsize() == 1


def test_shutdown_twice_is_one_shutdown(make_ending: Maker) -> None:
    queue = make_ending()
    queue.put(1)
    queue.shutdown()
    queue.shutdown()
    assert queue.get(timeout=LIMIT) == 1
    queue.shutdown(immediate=True)
    queue.shutdown()
    assert outcome(queue.get) == "ShutDown"


def test_shutdown_wakes_blocked_threads(make_ending: Maker) -> None:
    full, empty, outcomes = make_ending(1), make_ending(), []
    full.put(1)
    calls = [(lambda: outcomes.append(outcome(full.put, 2)),)] * 2
    calls += [(lambda: outcomes.append(outcome(empty.get)),)] * 2
    with threads(*calls):
        full.shutdown()
        empty.shutdown()
    assert outcomes == ["ShutDown"] * 4


def test_immediate_shutdown_drops_the_items(make_ending: Maker) -> None:
    queue = make_ending(joinable=True)
    put_all(queue, list(range(100)))
    queue.shutdown(immediate=True)
    assert (outcome(queue.get), outcome(queue.get_nowait), queue.qsize()) == ("ShutDown", "ShutDown", 0)
    queue.join()
    with pytest.raises(ValueError, match="too many"):
        queue.task_done()


def test_immediate_shutdown_leaves_delivered_items_to_be_acked(make_ending: Maker) -> None:
    queue = make_ending(joinable=True)
    put_all(queue, [1, 2, 3])
    queue.get(timeout=LIMIT)
    queue.shutdown(immediate=True)
    queue.task_done()
    queue.join()


def test_iteration_ends_after_shutdown(make_queue: Maker) -> None:
    queue = make_queue()
    queue.put_many("abc")
    queue.shutdown()
    assert list(queue) == ["a", "b", "c"]
    assert list(queue) == []


def test_get_many_ends_too(make_queue: Maker) -> None:
    queue = make_queue()
    queue.put_many([1, 2, 3])
    queue.shutdown()
    got: list[int] = []
    with pytest.raises(ShutDown):
        while True:
            got += queue.get_many(2)
    assert got == [1, 2, 3]
    assert outcome(queue.put_many, [4]) == "ShutDown"
    assert outcome(queue.receive) == "ShutDown"


def test_close_without_shutdown_leaves_the_queue_to_others(make_queue: Maker, context: BaseContext) -> None:
    queue, (here, there) = make_queue(), context.Pipe()
    with here, there, children(context, (put_all, queue, [1, 2, 3]), (report, there, take, queue, 3)):
        queue.close()
        assert [told(here), told(here)] == ["begins", [1, 2, 3]]


def test_shutdown_ends_every_consumer(make_queue: Maker, context: BaseContext) -> None:
    """Given consumers that wait or are about to, I expect each item once, and each consumer to end."""
    queue = make_queue(5)
    ends = [context.Pipe() for _ in range(3)]
    with children(context, *[(report, there, take_all, queue) for _, there in ends]):
        assert {told(here) for here, _ in ends} == {"begins"}
        put_all(queue, list(range(50)))
        queue.shutdown()
        got = [item for here, _ in ends for item in told(here)]
    assert sorted(got) == list(range(50))
    for end in sum(ends, ()):
        end.close()


def test_shutdown_in_one_process_holds_in_all(make_queue: Maker, context: BaseContext) -> None:
    queue, (here, there) = make_queue(), context.Pipe()
    with children(context, (queue.shutdown,)):
        pass
    assert outcome(queue.put, 1) == "ShutDown"
    assert outcome(queue.get) == "ShutDown"
    with here, there, children(context, (report, there, queue.put, 1)):
        assert [told(here), told(here)] == ["begins", "ShutDown"]


def test_shutdown_wakes_a_put_that_waits_in_another_process(make_queue: Maker, context: BaseContext) -> None:
    queue, (here, there) = make_queue(1), context.Pipe()
    queue.put(1)
    with here, there, children(context, (report, there, queue.put, 2)):
        assert told(here) == "begins"
        queue.shutdown()
        assert told(here) == "ShutDown"
    assert list(queue) == [1]


@pytest.mark.parametrize("maxsize", [0, 4])
def test_every_put_that_returned_before_the_end_arrives(
    make_queue: Maker, context: BaseContext, maxsize: int
) -> None:
    """Given producers and consumers at full speed, if one shuts down meanwhile, I expect no item to be
    lost."""
    queue = make_queue(maxsize)
    ins, outs = ([context.Pipe() for _ in range(2)] for _ in range(2))
    calls: list[Any] = [
        (report, there, put_all_or_shut_down, queue, [(who, n) for n in range(100_000)])
        for who, (_, there) in enumerate(ins)
    ]
    calls += [(report, there, take_all, queue) for _, there in outs]
    with children(context, *calls):
        assert {told(here) for here, _ in ins + outs} == {"begins"}
        queue.get(timeout=LIMIT)
        queue.shutdown()
        put, got = ([item for here, _ in ends for item in told(here)] for ends in (ins, outs))
    assert len(put) < 200_000
    assert Counter(put).total() == Counter(got).total() + 1
    assert not Counter(got) - Counter(put)
    assert queue.qsize() == 0
    for end in sum(ins + outs, ()):
        end.close()


def test_immediate_shutdown_wakes_joins_in_other_processes(make_queue: Maker, context: BaseContext) -> None:
    queue, (here, there) = make_queue(joinable=True), context.Pipe()
    put_all(queue, [1, 2, 3])
    with here, there, children(context, (report, there, queue.join)):
        assert told(here) == "begins"
        queue.shutdown(immediate=True)
        assert told(here) is None


def test_immediate_shutdown_ends_consumers_and_producers(make_queue: Maker, context: BaseContext) -> None:
    """Given a producer with more unsent items than a pipe holds, I expect it to end, too."""
    queue = make_queue()
    ends = [context.Pipe() for _ in range(2)]
    calls = [(report, ends[0][1], put_all_or_shut_down, queue, [bytes(10_000)] * 100_000)]
    calls += [(report, ends[1][1], take_all, queue)]
    with children(context, *calls):
        assert {told(here) for here, _ in ends} == {"begins"}
        queue.get(timeout=LIMIT)
        queue.shutdown(immediate=True)
        assert outcome(queue.get) == "ShutDown"
        put, got = (len(told(here)) for here, _ in ends)
    assert got < put
    assert queue.qsize() == 0
    for end in sum(ends, ()):
        end.close()
