"""`receive`, `ack` and `nack` of every queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.queues.contract import LIMIT, Point, outcome, take

Maker = Callable[..., Any]


def received(queue: Any) -> Any:
    return queue.receive(timeout=LIMIT)


def test_the_first_attempt_is_number_one(make_queue: Maker) -> None:
    queue = make_queue(1)
    queue.put("item")
    delivery = received(queue)
    assert (delivery.item, delivery.attempt, queue.qsize()) == ("item", 1, 0)
    delivery.ack()
    assert queue.empty()
    assert outcome(queue.receive, False) == "Empty"


def test_a_nacked_item_is_redelivered_as_the_next_attempt(make_queue: Maker) -> None:
    queue = make_queue()
    queue.put(Point(1, (2, 3)))
    for attempt in (1, 2, 3):
        delivery = received(queue)
        assert (delivery.item, delivery.attempt) == (Point(1, (2, 3)), attempt)
        delivery.nack()
        assert queue.qsize() == 1
    assert queue.get(timeout=LIMIT) == Point(1, (2, 3))


def test_a_consumers_changes_to_an_item_are_not_redelivered(make_queue: Maker) -> None:
    queue = make_queue()
    queue.put([1])
    delivery = received(queue)
    delivery.item.append(lambda: "cannot even be pickled")
    delivery.nack()
    assert received(queue).item == [1]


def test_a_with_block_acks(make_queue: Maker) -> None:
    queue = make_queue(joinable=True)
    queue.put("item")
    with received(queue) as delivery:
        assert delivery.item == "item"
    queue.join()
    assert queue.empty()


def test_a_with_block_that_raises_gives_back(make_queue: Maker) -> None:
    queue = make_queue(joinable=True)
    queue.put("item")
    with pytest.raises(KeyError), received(queue):
        raise KeyError
    again = received(queue)
    assert (again.item, again.attempt) == ("item", 2)
    again.ack()
    queue.join()


def test_a_delivery_is_settled_once(make_queue: Maker) -> None:
    queue = make_queue(joinable=True)
    queue.put_many([1, 2])
    first, second = received(queue), received(queue)
    first.ack()
    first.ack()
    first.nack()
    second.nack()
    second.nack()
    second.ack()
    assert queue.qsize() == 1
    received(queue).ack()
    with pytest.raises(ValueError, match="too many"):
        queue.task_done()


def test_giving_back_to_a_full_queue_does_not_wait(make_queue: Maker) -> None:
    """Given a queue that filled up meanwhile, I expect it above its bound, and no put until it is below."""
    queue = make_queue(1)
    queue.put("first")
    delivery = received(queue)
    queue.put("second")
    delivery.nack()
    assert (queue.qsize(), queue.full(), outcome(queue.put_nowait, "third")) == (2, True, "Full")
    got = take(queue, 1)
    assert (queue.qsize(), outcome(queue.put_nowait, "third")) == (1, "Full")
    assert sorted(got + take(queue, 1)) == ["first", "second"]
    queue.put_nowait("third")
    assert outcome(queue.put_nowait, "fourth") == "Full"


def test_giving_back_after_shutdown_is_not_refused(make_queue: Maker) -> None:
    queue = make_queue(joinable=True)
    queue.put("item")
    delivery = received(queue)
    queue.shutdown()
    delivery.nack()
    assert list(queue) == ["item"]
    queue.task_done()
    queue.join()


def test_items_nacked_after_an_immediate_shutdown_are_dropped(make_queue: Maker) -> None:
    queue = make_queue(joinable=True)
    queue.put("item")
    delivery = received(queue)
    queue.shutdown(immediate=True)
    delivery.nack()
    assert (outcome(queue.get), queue.qsize()) == ("ShutDown", 0)
    queue.join()
