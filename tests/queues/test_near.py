"""Features of the near queue alone: its races, and what it inherits from the standard library."""

from __future__ import annotations

import gc
import multiprocessing
import threading
import weakref
from multiprocessing import resource_sharer
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import pytest

from nearfar.queues.base import Promises
from nearfar.queues.near import NearJoinableQueue, NearQueue
from tests.queues.contract import LIMIT, children, outcome, report, told


@pytest.fixture
def queue(context: BaseContext) -> Any:
    with NearJoinableQueue(ctx=context) as queue:
        yield queue
    for end in (queue._reader, queue._writer):  # the standard leaves them open if nothing was ever put
        end.close()


def test_it_promises_what_the_standard_library_does(queue: NearQueue) -> None:
    assert queue.promises() == Promises(transport="near", bounded=True, fifo=True)


def test_it_is_a_multiprocessing_queue(queue: NearQueue) -> None:
    assert isinstance(queue, multiprocessing.queues.JoinableQueue)


def test_it_shows_its_state(queue: NearQueue) -> None:
    queue.put(1)
    assert repr(queue) == "<NearJoinableQueue 1 items, 1 unfinished>"
    queue.shutdown()
    assert repr(queue) == "<NearJoinableQueue 1 items, 1 unfinished, shut down>"
    queue.close()
    assert repr(queue) == "<NearJoinableQueue 1 items, 1 unfinished, shut down, closed>"


def test_a_put_that_shutdown_overtakes_is_refused(queue: NearQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a put that found the queue open, if shutdown comes before its slot, I expect no item."""
    acquire = queue._sem.acquire

    def overtaken(*args: Any) -> bool:
        queue.shutdown()
        return acquire(*args)

    monkeypatch.setattr(queue._sem, "acquire", overtaken)
    assert outcome(queue.put, 1) == "ShutDown"
    assert queue.qsize() == 0


def test_gets_are_refused_while_an_immediate_shutdown_still_drops(
    queue: NearQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.put(1)
    seen = []
    monkeypatch.setattr(queue, "_drop_waiting", lambda: seen.append(outcome(queue.get)))
    queue.shutdown(immediate=True)
    assert seen == ["ShutDown"]


def test_shutdown_after_close_is_refused(queue: NearQueue) -> None:
    queue.close()
    with pytest.raises(ValueError, match="closed"):
        queue.shutdown()


def test_types_that_only_multiprocessing_pickles_can_be_sent(queue: NearQueue, context: BaseContext) -> None:
    """Given an open connection as the item, I expect the child to send through it."""
    here, there = context.Pipe()
    with here, there, children(context, (_speak, queue)):
        queue.put(there)
        assert told(here) == "hello"
    resource_sharer.stop(LIMIT)  # the thread by which multiprocessing hands out connections


def _speak(queue: NearQueue) -> None:
    connection: Connection[str, str] = queue.get(timeout=LIMIT)
    with connection:
        connection.send("hello")


def test_a_garbage_collected_queue_ends_its_feeder_thread() -> None:
    queue = NearQueue()
    queue.put(1)
    queue.get(timeout=LIMIT)
    [feeder] = [thread for thread in threading.enumerate() if thread.name == "QueueFeederThread"]
    gone = weakref.ref(queue)
    del queue
    gc.collect()
    feeder.join(LIMIT)
    assert not feeder.is_alive()
    assert gone() is None


def test_an_item_of_a_killed_consumer_is_lost_and_the_others_continue(
    queue: NearQueue, context: BaseContext
) -> None:
    """Given a consumer killed outside `get`: inside, it might have stalled the others (see the docstring)."""
    here, there = context.Pipe()
    queue.put("lost")
    consumer = context.Process(target=_hold, args=(there, queue))
    consumer.start()
    with here, there:
        assert told(here) == "lost"
        consumer.kill()
        consumer.join(LIMIT)
        assert consumer.exitcode == -9
        queue.put("kept")
        with children(context, (report, there, queue.get)):
            assert [told(here), told(here)] == ["begins", "kept"]
    assert queue.qsize() == 0


def _hold(connection: Connection[str, str], queue: NearQueue) -> None:
    with queue.receive() as delivery:
        connection.send(delivery.item)
        connection.poll(LIMIT)


@pytest.mark.parametrize("size", [4095, 4096, 40_000, 300_000])
def test_large_nacked_bytes_are_redelivered_unchanged(queue: NearQueue, size: int) -> None:
    item = bytes(range(256)) * (size // 256 + 1)
    item = item[:size]
    queue.put_many([item, b"small"])
    queue.receive(timeout=LIMIT).nack()
    assert queue.get(timeout=LIMIT) == b"small"
    again = queue.receive(timeout=LIMIT)
    assert (again.item == item, type(again.item), again.attempt) == (True, bytes, 2)
    again.ack()


def test_instances_of_a_subclass_of_bytes_keep_their_class(queue: NearQueue) -> None:
    queue.put(Named(b"x" * 5000))
    assert type(queue.get(timeout=LIMIT)) is Named


class Named(bytes):
    pass
