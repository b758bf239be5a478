"""Batches until the end, over every transport: their sizes, their timing, and what they settle."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

import pytest

from nearfar.errors import Empty, ProducerLost
from tests.queues.contract import LIMIT, MOMENT, Unreadable, children, threads
from tests.queues.transports import Transport
from tests.support.waiting import eventually

Make = Callable[..., Any]


def put_and_leave(queue: Any, items: list[Any]) -> None:
    queue.put_many(items)
    queue.close()


def ended_after(queue: Any, items: list[Any]) -> Any:
    """`queue` with `items` in it, after its shutdown."""
    queue.put_many(items)
    queue.shutdown()
    return queue


def test_batches_end_with_the_queue(make_queue: Make) -> None:
    queue = ended_after(make_queue(), list(range(10)))
    batches = list(queue.batches(4))
    assert [item for batch in batches for item in batch] == list(range(10))
    assert all(1 <= len(batch) <= 4 for batch in batches)
    assert list(queue.batches(4)) == []
    assert list(queue.receive_batches(4)) == []


def test_far_batches_end_at_the_counted_end(
    make_queue: Make, transport: Transport, context: BaseContext
) -> None:
    if transport.name == "near":
        pytest.skip("near, nobody counts the end")
    queue = make_queue()
    with children(context, (put_and_leave, queue, list(range(100)))):
        found = [item for batch in queue.batches(64, timeout=LIMIT) for item in batch]
    assert found == list(range(100))
    assert queue.counts()["unsettled"] == 0


def test_far_batches_end_with_an_error_where_a_producer_died(
    make_queue: Make, transport: Transport, context: BaseContext
) -> None:
    if transport.name == "near":
        pytest.skip("near, nobody counts the end")
    queue = make_queue()
    process = context.Process(target=_put_and_wait, args=(queue,))
    process.start()
    batches = queue.batches(64, least=64)
    assert eventually(lambda: queue.qsize() == 3)
    process.kill()
    process.join(LIMIT)
    assert next(batches) == [1, 2, 3]
    with pytest.raises(ProducerLost):
        next(batches)


def _put_and_wait(queue: Any) -> None:
    queue.put_many([1, 2, 3])
    queue.flush()
    signal.pause()


def test_a_batch_waits_for_the_least_and_is_cut_at_the_most(make_queue: Make) -> None:
    queue = make_queue()
    queue.put_many(["a", "b"])
    batches = queue.batches(5, least=5)
    with threads((_put_when_taken, queue, list("cdefg"))):
        assert next(batches) == list("abcde")
    queue.shutdown()
    assert list(batches) == [["f", "g"]]


def _put_when_taken(queue: Any, items: list[str]) -> None:
    assert eventually(lambda: queue.qsize() == 0)
    queue.put_many(items)


def test_too_few_come_when_the_time_is_over_and_with_none_it_raises(make_queue: Make) -> None:
    queue = make_queue()
    queue.put(1)
    batches = queue.batches(5, least=3, timeout=0.3)
    begun = time.monotonic()
    assert next(batches) == [1]
    assert 0.2 < time.monotonic() - begun < LIMIT
    with pytest.raises(Empty):
        next(queue.batches(5, timeout=MOMENT))
    with pytest.raises(Empty):
        next(queue.receive_batches(5, least=2, timeout=MOMENT))


@pytest.mark.parametrize(("most", "least"), [(0, 1), (1, 0), (3, 4), (-1, -2)])
def test_sizes_that_cannot_be_are_refused_at_once(make_queue: Make, most: int, least: int) -> None:
    queue = make_queue()
    for batches in (queue.batches, queue.receive_batches):
        with pytest.raises(ValueError, match="cannot be"):
            batches(most, least)


def test_a_received_batch_is_given_back_where_its_block_raises(make_queue: Make) -> None:
    queue = make_queue()
    queue.put_many([1, 2, 3])
    with pytest.raises(ArithmeticError), next(queue.receive_batches(3, least=3)) as batch:
        assert (batch.item, batch.attempt, len(batch)) == ([1, 2, 3], 1, 3)
        batch.deliveries[1].ack()
        raise ArithmeticError
    queue.shutdown()
    again = list(queue.receive_batches(2, least=2))
    assert [(batch.item, batch.attempt) for batch in again] == [([1, 3], 2)]
    with again[0]:
        pass
    assert list(queue) == []


def test_of_a_joinable_queue_each_item_of_a_batch_is_done_by_itself(make_queue: Make) -> None:
    queue = make_queue(joinable=True)
    queue.put_many([1, 2, 3])
    with threads((queue.join,)):
        assert next(queue.batches(3, least=3)) == [1, 2, 3]
        for _ in range(3):
            queue.task_done()


def test_what_cannot_be_read_raises_by_itself_and_costs_no_other_item(make_queue: Make) -> None:
    queue = ended_after(make_queue(), [1, Unreadable(), 2])
    found: list[Any] = []
    errors = 0
    while True:
        try:
            for batch in queue.batches(3, least=3):
                found += batch
            break
        except ArithmeticError:
            errors += 1
    assert (found, errors) == ([1, 2], 1)


@pytest.mark.parametrize("way", ["batches", "receive_batches"])
def test_an_interrupted_wait_for_more_loses_nothing(
    make_queue: Make, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Given a batch that waits for more, if Ctrl-C ends it, I expect its items to be redelivered."""
    queue = make_queue()
    queue.put_many([1, 2])
    queue.flush(LIMIT)
    on, name = (queue, "_take_many") if hasattr(queue, "_take_many") else (queue._reached().takes, "take_now")
    take, calls = getattr(on, name), []

    def interrupted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return take(*args, **options)

    monkeypatch.setattr(on, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(getattr(queue, way)(3, least=3))
    monkeypatch.undo()
    assert sorted(queue.get(timeout=LIMIT) for _ in range(2)) == [1, 2]
