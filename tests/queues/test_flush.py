"""Items that survive the death of their producer: exactly those put before a flush."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import pytest

from nearfar.errors import Empty
from nearfar.queues.far import FarQueue
from tests.queues.contract import LIMIT, MOMENT, threads, told
from tests.queues.test_kills import address, host  # noqa: F401 - a fixture
from tests.support.processes import freeze
from tests.support.waiting import eventually

MANY = 1000


def put_flush_and_die(queue: Any, many: int, one_by_one: bool) -> None:
    if one_by_one:
        for number in range(many):
            queue.put(number)
    else:
        queue.put_many(range(many))
    queue.flush(LIMIT)
    os.kill(os.getpid(), signal.SIGKILL)


def put_slowly_and_die(queue: Any, many: int, pause: float) -> None:
    for number in range(many):
        until = time.perf_counter() + pause
        while time.perf_counter() < until:
            pass
        queue.put(number)
    os.kill(os.getpid(), signal.SIGKILL)


def drained(queue: Any, expected: int, process: Any) -> list[Any]:
    """The received items, until all expected ones were received, or no more can come."""
    found: list[Any] = []
    while len(found) < expected:
        alive = process.is_alive()
        with suppress(Empty):
            found.append(queue.get(timeout=0.2 if alive else 2))  # a busy machine may be late by 0.2 s
            continue
        if not alive:
            break
    return found


@pytest.mark.parametrize("one_by_one", [True, False], ids=["put", "put_many"])
def test_kill_9_right_after_a_flush_loses_nothing(
    make_queue: Callable[..., Any], context: BaseContext, one_by_one: bool
) -> None:
    queue = make_queue()
    process = context.Process(target=put_flush_and_die, args=(queue, MANY, one_by_one))
    process.start()
    assert drained(queue, MANY, process) == list(range(MANY))
    process.join(LIMIT)
    assert process.exitcode == -signal.SIGKILL


def test_kill_9_right_after_slow_puts_loses_only_a_few(context: BaseContext) -> None:
    """Given a near queue, and puts that leave it a moment each, as those of any program that computes what it
    puts. multiprocessing's own loses up to a few hundred of them, as its thread waits for the interpreter."""
    from nearfar.queues.near import NearQueue

    queue = NearQueue(ctx=context)
    process = context.Process(target=put_slowly_and_die, args=(queue, 300, 0.0001))
    process.start()
    found = drained(queue, 300, process)
    process.join(LIMIT)
    assert found == list(range(len(found)))
    assert len(found) >= 300 - 32
    queue.close()
    queue._reader.close()
    queue._writer.close()


def test_flush_of_nothing_returns_and_of_a_closed_queue_is_refused(make_queue: Callable[..., Any]) -> None:
    queue = make_queue()
    queue.flush()
    queue.put(1)
    queue.flush(LIMIT)
    queue.flush(LIMIT)
    assert queue.get(timeout=LIMIT) == 1
    queue.close()
    with pytest.raises(ValueError, match="closed"):
        queue.flush()


def test_every_thread_may_flush_what_it_put(make_queue: Callable[..., Any], context: BaseContext) -> None:
    queue = make_queue()

    def put(base: int) -> None:
        for number in range(base, base + 100):
            queue.put(number)
            if number % 10 == 0:
                queue.flush(LIMIT)
        queue.flush(LIMIT)

    with threads(*((put, base) for base in (0, 100, 200))):
        found = [queue.get(timeout=LIMIT) for _ in range(300)]
    assert sorted(found) == list(range(300))


def test_a_near_flush_without_readers_reports_the_number_of_remaining_items(
    make_queue: Callable[..., Any], transport: Any
) -> None:
    if transport.name != "near":
        pytest.skip("a far queue has no pipe that may be full")
    queue = make_queue()
    queue.put_many([b"x" * 1000] * 200)
    with pytest.raises(TimeoutError, match=r"^\d+ of the items put here are not in the pipe after 0.05 s"):
        queue.flush(MOMENT)
    assert [len(queue.get(timeout=LIMIT)) for _ in range(200)] == [1000] * 200
    queue.flush(LIMIT)


def test_a_far_flush_reports_what_a_silent_host_may_lack_and_can_be_continued(address: str) -> None:  # noqa: F811
    with host(address, lease=LIMIT) as process, FarQueue.connect(address, wait=LIMIT) as queue:
        queue.put("known")
        queue.flush(LIMIT)
        freeze(process.pid)
        queue.put_many(["unknown"] * 3)
        with pytest.raises(TimeoutError, match="may lack 3 of the items put here"):
            queue.flush(MOMENT)
        process.send_signal(signal.SIGCONT)
        queue.flush(LIMIT)
        assert queue.qsize() == 4


@pytest.mark.slow
def test_a_far_flush_survives_a_host_that_is_killed_and_started_again(address: str) -> None:  # noqa: F811
    with host(address) as process, FarQueue.connect(address, wait=LIMIT) as queue:
        queue.put("first")
        queue.flush(LIMIT)
        freeze(process.pid)
        queue.put("second")
        process.kill()
        process.wait()
        with host(address):
            queue.flush(LIMIT)
            assert queue.counts()["stored"] == 2


def test_a_far_flush_confirms_what_was_acked(make_queue: Callable[..., Any], transport: Any) -> None:
    if transport.name == "near":
        pytest.skip("near, an ack concerns nobody else")
    queue = make_queue()
    queue.put("item")
    queue.receive(timeout=LIMIT).ack()
    queue.flush(LIMIT)
    assert queue.counts()["settled"] == 1


def test_a_flush_of_a_bounded_far_queue_waits_only_for_admitted_items(make_queue: Callable[..., Any]) -> None:
    """Given one put that has returned, and one that waits for credit, I expect a flush not to wait for the
    latter."""
    queue = make_queue(1)
    queue.put(1)
    with threads((queue.put, 2)):
        assert eventually(queue.full)
        queue.flush(LIMIT)
        assert [queue.get(timeout=LIMIT), queue.get(timeout=LIMIT)] == [1, 2]


def produce(queue: Any, gate: Connection) -> None:
    queue.put("item")
    queue.flush(LIMIT)
    gate.send("flushed")
    gate.poll(LIMIT)


def test_a_far_flush_returns_only_when_the_host_has_it(
    make_queue: Callable[..., Any], context: BaseContext
) -> None:
    queue = make_queue()
    here, there = context.Pipe()
    process = context.Process(target=produce, args=(queue, there))
    process.start()
    with here, there:
        assert told(here) == "flushed"
        assert queue.qsize() == 1
        process.kill()
        process.join(LIMIT)
    assert queue.get(timeout=LIMIT) == "item"
