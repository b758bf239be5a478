"""The far queue, with real processes that are killed and frozen."""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from nearfar.errors import Empty, ProducerLost
from nearfar.net.addresses import Address
from nearfar.queues.client.client import QueueClient
from nearfar.queues.far import FarJoinableQueue, FarQueue
from tests.queues import process_roles
from tests.queues.contract import LIMIT, told
from tests.queues.transports import START_METHODS
from tests.support.ports import free_address
from tests.support.processes import freeze
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
LEASE = 1.0
FORK = multiprocessing.get_context("fork")
Maker = Callable[..., FarQueue]


@pytest.fixture(params=["tcp", "ipc"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address at which no process listens."""
    if request.param == "ipc":
        return f"ipc://{tmp_path}/queue"
    return free_address()


@pytest.fixture
def make(address: str) -> Iterator[Maker]:
    """Queues that this process hosts."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(FarQueue(0, address, **options))


@contextmanager
def mortal(target: Callable[..., None], queue: Any, *arguments: Any) -> Iterator[tuple[Any, Connection]]:
    """A child with `queue` and a pipe to it; killed in the end, if it lives."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=target, args=(queue, there, *arguments))
    process.start()
    with here, there:
        try:
            yield process, here
        finally:
            process.kill()
            process.join()
            process.close()


@contextmanager
def program(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``python -m MODULE``; killed in the end, if it lives."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def host(address: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that only hosts a queue."""
    with program("tests.support.hosting", address, json.dumps({"lease": LEASE, **options})) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{address}\n"
        yield process


def take(queue: FarQueue, count: int) -> list[tuple[Any, int]]:
    """Items and attempts, each acked."""
    taken = []
    for _ in range(count):
        with queue.receive(timeout=LIMIT) as delivery:
            taken.append((delivery.item, delivery.attempt))
    return taken


def take_until_all_is_settled(queue: FarQueue) -> list[Any]:
    """Items, some perhaps twice: those in a buffer when the host died are taken, and redelivered."""
    taken = []
    while queue.counts()["unsettled"]:
        with suppress(Empty), queue.receive(timeout=0.2) as delivery:
            taken.append(delivery.item)
    return taken


def test_what_a_killed_consumer_held_reaches_another_at_once(make: Maker) -> None:
    """Given a lease of ten minutes, I expect no call to wait for it."""
    queue = make(lease=600.0)
    queue.put_many(range(3))
    with mortal(process_roles.hold, queue, 3) as (process, gate):
        assert told(gate) == [0, 1, 2]
        process.kill()
        assert take(queue, 3) == [(0, 2), (1, 2), (2, 2)]


def test_items_of_a_frozen_consumer_are_redelivered_and_its_acks_are_late(make: Maker) -> None:
    queue = make(lease=LEASE)
    queue.put_many(range(3))
    with mortal(process_roles.hold, queue, 3) as (process, gate):
        assert told(gate) == [0, 1, 2]
        freeze(process.pid)
        assert take(queue, 3) == [(0, 2), (1, 2), (2, 2)]
        gate.send("go on")
        os.kill(process.pid, signal.SIGCONT)
        queue.put("more")
        assert told(gate) == "more"
        queue.put("and more")
        assert told(gate) == "and more"
        assert eventually(lambda: queue.counts()["late"] == 3), queue.counts()
        assert queue.counts()["settled"] >= 4


def test_a_killed_producer_is_named_at_the_end(make: Maker) -> None:
    queue = make(lease=600.0)
    items = []
    with mortal(process_roles.produce_and_wait, queue, ["a", "b"]) as (process, gate):
        assert told(gate) == "put"
        process.kill()
        with pytest.raises(ProducerLost) as caught:
            items += queue
        [name] = caught.value.names
        assert f"-{process.pid}-" in name
    assert items == ["a", "b"]


def test_a_killed_helper_is_not_counted_and_its_items_arrive(make: Maker) -> None:
    """Given a producer that has put nothing yet, and its helper that put two items,

    If the helper is killed, and the producer puts one more and leaves, I expect all three items, and a normal
    end.
    """
    queue = make(lease=600.0)
    producer = QueueClient(Address.parse(queue.address))
    producer.puts.attend()
    with mortal(process_roles.help_and_wait, queue, ["a", "b"]) as (process, gate):
        assert told(gate) == "put"
        assert (queue.counts()["producers"], queue.counts()["helpers"]) == (1, 1)
        process.kill()
        assert eventually(lambda: queue.counts()["helpers"] == 0)
    assert queue.counts()["lost producers"] == 0
    producer.puts.put(["c"], block=True, timeout=None)
    producer.close()
    producer.join()
    assert list(queue) == ["a", "b", "c"]


def test_a_producer_that_attends_and_puts_nothing_is_counted(make: Maker) -> None:
    queue = make()
    producer = QueueClient(Address.parse(queue.address))
    producer.puts.attend()
    producer.close()
    producer.join()
    assert list(queue) == []


def test_a_poison_item_becomes_a_dead_letter_and_affects_no_other(make: Maker) -> None:
    queue = make(lease=600.0, max_attempts=3)
    queue.put_many(["first", "poison", "second", "third"])
    came = []
    for _ in range(3):
        with mortal(process_roles.die_of_poison, queue) as (process, gate):
            process.join(LIMIT)
            assert process.exitcode == -signal.SIGKILL
            while gate.poll():
                came.append(gate.recv())
    assert eventually(lambda: bool(queue.dead_letters()))
    [(item, attempts, history)] = queue.dead_letters()
    assert (item, attempts) == ("poison", 3)
    assert all("ended" in what for what in history)
    rest = queue.qsize()
    assert {*came, *(item for item, _ in take(queue, rest))} == {"first", "second", "third"}


def test_items_of_live_producers_survive_the_host(address: str) -> None:
    with closing(FarQueue.connect(address)) as producer, closing(FarQueue.connect(address)) as consumer:
        with host(address) as first:
            producer.put_many(range(100))
            assert take(consumer, 40) == [(number, 1) for number in range(40)]
            assert eventually(lambda: producer.counts()["settled"] == 40)
            in_hand = consumer.receive(timeout=LIMIT)
            first.kill()
            producer.put_many(range(100, 200))
        with host(address):
            assert eventually(lambda: producer.counts()["stored"] == 160)
            again = take_until_all_is_settled(consumer)
            assert set(again) == set(range(40, 200))
            in_hand.ack()  # too late, and of no effect
            for queue in (producer, consumer):
                queue.close()
                queue.join_thread()


def test_task_done_of_a_resent_item_is_ignored(address: str) -> None:
    """Given an unacknowledged item while its host is replaced: `task_done` neither raises nor settles it."""
    with closing(FarJoinableQueue.connect(address)) as queue:
        with host(address) as first:
            queue.put("a")
            assert queue.get(timeout=LIMIT) == "a"
            first.kill()
        with host(address):
            assert eventually(lambda: queue.counts()["unsettled"] == 1)
            queue.task_done()
            assert queue.counts()["unsettled"] == 1
            assert queue.get(timeout=LIMIT) == "a"
            queue.task_done()
            queue.join()
            with pytest.raises(ValueError, match="too many"):
                queue.task_done()
            queue.close()
            queue.join_thread()


@pytest.mark.slow
@pytest.mark.parametrize("method", START_METHODS)
def test_children_do_not_outlive_the_host_that_was_their_parent(method: str) -> None:
    with program("tests.queues.process_roles", "parent", method) as parent:
        assert parent.stdout is not None
        children = [os.pidfd_open(int(parent.stdout.readline())) for _ in range(2)]
        parent.kill()
        began = time.monotonic()
        for child in children:
            assert select.select([child], [], [], LIMIT)[0]
            os.close(child)
        assert time.monotonic() - began < LEASE + 10.0
        assert parent.stdout.read() == "lost\nlost\n"


@pytest.mark.parametrize(("how", "code"), [("return", 0), ("sys.exit", 3), ("raise", 1)])
def test_a_program_that_ends_without_a_close_loses_nothing(make: Maker, how: str, code: int) -> None:
    queue = make()
    with program("tests.queues.process_roles", "put_and_end", queue.address, how) as process:
        assert process.wait(LIMIT) == code
    assert [item for item, _ in take(queue, 1000)] == list(range(1000))


@pytest.mark.slow
def test_a_program_exits_in_time_though_its_host_was_killed(address: str) -> None:
    with (
        host(address) as killed,
        program("tests.queues.process_roles", "put_and_end_later", address) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "put\n"
        killed.kill()
        began = time.monotonic()
        _, said = process.communicate(timeout=LIMIT)
        assert time.monotonic() - began < LEASE + 10.0
        assert "items may be lost" in said


def test_a_program_exits_in_time_without_a_host(address: str) -> None:
    with program("tests.queues.process_roles", "get_from_nobody", address) as process:
        _, said = process.communicate(timeout=LIMIT)
        assert (
            said.splitlines()[-1] == f"nearfar.errors.QueueLost: no host has answered at {address} for 0.5 s"
        )


def test_a_join_survives_its_host(address: str) -> None:
    """Given a full queue and a producer that waits for it to be done,

    If its host is killed and replaced by an empty one, I expect the producer to wait until its items were
    done there.
    """
    with host(address, maxsize=3) as first, closing(FarJoinableQueue.connect(address)) as queue:
        queue.put_many(range(3))
        queue.qsize()  # the answer comes after the items were stored
        joining = threading.Thread(target=queue.join)
        joining.start()
        first.kill()
        first.wait()
        with host(address, maxsize=3), closing(FarQueue.connect(address)) as other:
            deliveries = [other.receive(timeout=LIMIT) for _ in range(3)]
            for delivery in deliveries[:2]:
                delivery.ack()
            assert eventually(lambda: other.counts()["unsettled"] == 1)
            assert joining.is_alive()
            deliveries[2].ack()
            joining.join(LIMIT)
            assert not joining.is_alive()
            for each in (other, queue):
                each.close()
                each.join_thread()
