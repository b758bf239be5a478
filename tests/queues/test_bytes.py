"""The bound in bytes is exact, for any producers and any sizes of items."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing.context import BaseContext
from typing import Any

import pytest

from nearfar.errors import Empty, Full
from nearfar.queues.far import FarQueue
from tests.queues.contract import LIMIT, MOMENT, children, outcome, put_all, report, take, told, work_off
from tests.queues.transports import TRANSPORTS, Transport
from tests.support.waiting import eventually

Maker = Callable[..., FarQueue]
FAR = [transport for transport in TRANSPORTS if transport.name != "near"]


@pytest.fixture(params=FAR, ids=str)
def make(request: pytest.FixtureRequest, stack: ExitStack) -> Maker:
    """``make(maxbytes, maxsize=0, joinable=False)``: a far queue that this process hosts."""
    transport: Transport = request.param

    def made(maxbytes: int, maxsize: int = 0, *, joinable: bool = False) -> FarQueue:
        assert transport.make_far is not None
        queue = transport.make_far(maxsize, joinable, maxbytes)
        if hasattr(queue, "stop_hosting"):
            stack.callback(queue.stop_hosting)
        stack.callback(queue.join_thread)
        stack.callback(queue.cancel_join_thread)
        stack.callback(queue.close)
        return queue

    return made


def item(size: int, mark: int = 0) -> bytes | int:
    """An item of so many bytes."""
    if size == 1:
        return 1
    head = 2 if size - 2 < 1 << 8 else 3 if size - 3 < 1 << 16 else 5
    return bytes([mark]) * (size - head)


def put_until_full(queue: FarQueue, size: int) -> int:
    """How many items of `size` bytes went in."""
    count = 0
    try:
        while True:
            queue.put_nowait(item(size))
            count += 1
    except Full:
        return count


def put_sizes(queue: FarQueue, mark: int, sizes: list[int]) -> None:
    for size in sizes:
        queue.put(item(size, mark))


def how_full(queue: FarQueue) -> tuple[int, int]:
    """Items and bytes, including those of all clients."""
    return queue.qsize(), queue.counts()["bytes"]


def test_it_is_full_at_the_exact_byte(make: Maker) -> None:
    queue = make(100)
    assert put_until_full(queue, 10) == 10
    assert how_full(queue) == (10, 100)
    assert queue.full()
    assert outcome(queue.put_nowait, item(1)) == "Full"
    queue.get(timeout=LIMIT)
    assert not queue.full()
    queue.put_nowait(item(6))
    assert outcome(queue.put_nowait, item(5)) == "Full"
    queue.put_nowait(item(4))
    assert how_full(queue) == (11, 100)


def test_an_item_may_be_as_large_as_the_queue_and_no_larger(make: Maker) -> None:
    queue = make(5000)
    for put in (queue.put, queue.put_nowait):
        with pytest.raises(
            ValueError, match=r"an item of 5001 bytes is larger than the whole queue: .* 5000"
        ):
            put(item(5001))
    with pytest.raises(ValueError, match="5001 bytes"):
        queue.put_many([item(3), item(5001), item(3)])
    assert how_full(queue) == (0, 0)
    queue.put_nowait(item(5000))
    assert (how_full(queue), outcome(queue.put_nowait, item(1))) == ((1, 5000), "Full")
    assert take(queue, 1) == [item(5000)]


def test_of_many_items_those_that_fit_go_in(make: Maker) -> None:
    """Given room for 100 bytes, I expect the first ten of thirty items of 10; then, of items of several
    sizes, those before the first that does not fit."""
    queue = make(100)
    with pytest.raises(Full) as full:
        queue.put_many([item(10)] * 30, block=False)
    assert (full.value.args, how_full(queue)) == ((10,), (10, 100))
    take(queue, 10)
    with pytest.raises(Full) as full:
        queue.put_many([item(size) for size in (50, 3, 40, 8, 1)], block=False)
    assert (full.value.args, how_full(queue)) == ((3,), (3, 93))


@pytest.mark.parametrize("bounds", [(10_000_000, 0), (0, 100_000), (10_000_000, 100_000)], ids=str)
def test_as_many_items_go_in_at_once_as_fit(make: Maker, bounds: tuple[int, int]) -> None:
    """More than a client asks room for at a time."""
    queue = make(*bounds)
    queue.put_many(list(range(9000)), block=False)
    assert queue.qsize() == 9000


def test_both_bounds_hold(make: Maker) -> None:
    queue = make(100, 5)
    assert put_until_full(queue, 10) == 5
    take(queue, 5)
    assert put_until_full(queue, 30) == 3
    queue.put_nowait(item(10))
    assert outcome(queue.put_nowait, item(1)) == "Full"
    assert how_full(queue) == (4, 100)


def test_the_bound_is_exact_over_several_producers(make: Maker, context: BaseContext) -> None:
    """Given four producers that put until there is no room, each with unused credit at the end,

    I expect the queue to be full to the byte.
    """
    queue = make(4000)
    ends = [context.Pipe() for _ in range(4)]
    with children(context, *[(report, there, put_until_full, queue, 8) for _, there in ends]):
        counts = [(told(here), told(here))[1] for here, _ in ends]
    assert sum(counts) == 500
    assert (how_full(queue), outcome(queue.put_nowait, item(1))) == ((500, 4000), "Full")
    for end in sum(ends, ()):
        end.close()


def test_credit_of_an_idle_client_is_recalled(make: Maker, context: BaseContext) -> None:
    """Given another process that put one small item, and has unused credit,

    If an item is put that takes all the rest of the queue, or just so many small ones,
    I expect it to go in, whether the put waits or not.
    """
    queue = make(100_000)
    here, there = context.Pipe()
    with children(context, (_put_and_stay, there, queue)):
        assert told(here) == "put"
        queue.put_nowait(item(99_990))
        assert outcome(queue.put_nowait, item(1)) == "Full"
        here.send("again")
        assert told(here) == "Full"
        take(queue, 2)
        here.send("again")
        assert told(here) is None
        queue.put(item(99_990), timeout=LIMIT)
        here.send("end")
    assert how_full(queue) == (2, 100_000)
    here.close()
    there.close()


def _put_and_stay(connection: Any, queue: FarQueue) -> None:
    queue.put(item(10))
    connection.send("put")
    while connection.recv() == "again":
        connection.send(outcome(queue.put_nowait, item(10)))


def test_small_and_huge_items_of_many_producers_all_come_in_order(make: Maker, context: BaseContext) -> None:
    """Given producers of tiny, middling, huge, and all kinds of items, more together than fits,

    I expect each item once, in its producer's order, and never more in the queue than its bound.
    """
    bound = 300_000
    plans = {
        1: [2 + n % 5 for n in range(800)],
        2: [bound] * 3,
        3: [1000 * (1 + n % 7) for n in range(60)],
        4: [bound - 10, 3, bound // 2 + 1, 50, bound // 2 + 1, 7, bound // 3, 100_000, 9],
    }
    queue = make(bound)
    got: dict[int, list[int]] = {mark: [] for mark in plans}
    with children(context, *[(put_sizes, queue, mark, sizes) for mark, sizes in plans.items()]):
        for number in range(sum(map(len, plans.values()))):
            found = queue.get(timeout=LIMIT)
            got[found[0] if found else 1].append(len(found))
            if number % 50 == 0:
                assert queue.counts()["bytes"] <= bound
    assert got == {mark: [len(item(size)) for size in sizes] for mark, sizes in plans.items()}  # type: ignore[arg-type]
    assert how_full(queue) == (0, 0)


def test_a_small_item_goes_in_while_another_thread_waits_with_a_large_one(make: Maker) -> None:
    queue = make(100)
    queue.put(item(60))
    large = threading.Thread(target=queue.put, args=(item(50),), daemon=True)
    large.start()
    end = getattr(queue, "_end", None)  # a queue in Redis does not tell which calls wait
    assert end is None or eventually(lambda: end.waiting == 1)
    queue.put_nowait(item(40))
    assert outcome(queue.put_nowait, item(1)) == "Full"
    assert how_full(queue) == (2, 100)
    assert len(take(queue, 3)) == 3
    large.join(LIMIT)
    assert not large.is_alive()


def test_a_put_that_gave_up_keeps_no_credit(make: Maker, context: BaseContext) -> None:
    queue = make(100)
    queue.put(item(60))
    assert outcome(queue.put, item(50), True, MOMENT) == "Full"
    take(queue, 1)
    here, there = context.Pipe()
    with children(context, (report, there, queue.put, item(100))):
        assert [told(here), told(here)] == ["begins", None]
    assert how_full(queue) == (1, 100)
    here.close()
    there.close()


def test_taken_items_make_room_at_once_and_returned_ones_are_counted(make: Maker) -> None:
    queue = make(100)
    assert put_until_full(queue, 10) == 10
    delivery = queue.receive(timeout=LIMIT)
    queue.put_nowait(item(10))
    delivery.nack()
    assert eventually(lambda: how_full(queue) == (11, 110))
    assert outcome(queue.put_nowait, item(1)) == "Full"
    take(queue, 2)
    queue.put_nowait(item(10))


def test_joinable_queues_count_bytes_in_the_same_way(make: Maker, context: BaseContext) -> None:
    queue = make(30, joinable=True)
    here, there = context.Pipe()
    with children(context, (work_off, queue, there, 6)):
        put_all(queue, [item(10)] * 6)
        assert told(here) == "taken"
        assert how_full(queue) == (0, 0)
        here.send("go on")
        queue.join()  # type: ignore[attr-defined]
    here.close()
    there.close()


def test_a_consumer_that_acks_nothing_waits_and_others_continue(stack: ExitStack) -> None:
    """Given ten items of 100 bytes, and 1,000 bytes that may be unsettled,

    If one client receives as many as it can, and acks none, I expect it to get about half, another client to
    get the next; and the first to get more once it acks.
    """
    queue = FarQueue(max_unsettled=1000, wait=LIMIT)
    stack.callback(queue.stop_hosting)
    with queue, FarQueue.connect(queue.address, wait=LIMIT) as other:
        for number in range(10):
            queue.put(item(100, number))
        deliveries = []
        with suppress(Empty):
            while True:
                deliveries.append(queue.receive(timeout=MOMENT))
        assert 5 <= len(deliveries) <= 6
        assert other.get(timeout=LIMIT) == item(100, len(deliveries))
        for delivery in deliveries:
            delivery.ack()
        assert queue.receive(timeout=LIMIT).item == item(100, len(deliveries) + 1)
