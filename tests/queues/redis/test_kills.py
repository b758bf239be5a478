"""The queue in Redis, with producers, consumers and the server killed and frozen."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from typing import Any

import pytest

from nearfar import JoinableQueue, Queue
from nearfar.errors import Empty, ProducerLost
from tests.queues.contract import LIMIT, threads, told
from tests.queues.process_roles import die_of_poison, hold, produce_and_wait
from tests.queues.test_kills import mortal
from tests.support import redis_server
from tests.support.processes import freeze
from tests.support.redis_server import DURABLE, Server
from tests.support.waiting import eventually

pytestmark = redis_server.needed
LEASE = 1.0
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def address() -> str:
    return redis_server.address()


@pytest.fixture
def durable() -> Iterator[Server]:
    """A server that writes each item to disk before it replies."""
    with redis_server.running(*DURABLE) as server:
        yield server


def put_and_die(queue: Any, gate: Connection, count: int) -> None:
    for number in range(count):
        queue.put(number)
    os.kill(os.getpid(), signal.SIGKILL)


def take(queue: Any, count: int) -> list[tuple[Any, int]]:
    taken = []
    for _ in range(count):
        with queue.receive(timeout=LIMIT) as delivery:
            taken.append((delivery.item, delivery.attempt))
    return taken


def test_acks_of_items_that_the_server_lost_concern_no_later_items() -> None:
    """A server that goes back, after a power cut or a failover, uses the numbers of lost items no more."""
    with redis_server.running(*DURABLE) as server, Queue(0, server.address("q"), lease=LIMIT) as queue:
        files, kept = server.folder / "appendonlydir", server.folder / "kept"
        queue.put_many(["a1", "a2"])
        for _ in range(2):
            queue.receive(timeout=LIMIT).ack()
        assert eventually(lambda: queue.counts()["unsettled"] == 0)
        shutil.copytree(files, kept)
        queue.put_many(["b1", "b2"])
        lost = [queue.receive(timeout=LIMIT) for _ in range(2)]
        server.kill()
        shutil.rmtree(files)
        kept.rename(files)
        server.start()
        queue.put_many(["c1", "c2"])
        for delivery in lost:
            delivery.ack()
        assert take(queue, 2) == [("c1", 1), ("c2", 1)]
        assert eventually(lambda: queue.counts()["unsettled"] == 0)


def test_what_a_killed_producer_put_is_there_without_a_flush(address: str) -> None:
    with Queue(0, address, lease=LEASE) as queue:
        with mortal(put_and_die, queue, 100) as (process, _):
            process.join(LIMIT)
            assert process.exitcode == -signal.SIGKILL
        assert queue.qsize() == 100
        assert [item for item, _ in take(queue, 100)] == list(range(100))


def test_what_a_killed_consumer_held_goes_to_another(address: str) -> None:
    with Queue(0, address, lease=LEASE) as queue:
        queue.put_many(range(4))
        with mortal(hold, queue, 3) as (process, gate):
            assert told(gate) == [0, 1, 2]
            process.kill()
            assert take(queue, 4) == [(3, 1), (0, 2), (1, 2), (2, 2)]
        assert queue.counts()["unsettled"] == 0


def test_late_acks_of_a_frozen_consumer_are_refused_and_counted(address: str) -> None:
    with Queue(0, address, lease=LEASE) as queue:
        queue.put_many(range(3))
        with mortal(hold, queue, 3) as (process, gate):
            assert told(gate) == [0, 1, 2]
            freeze(process.pid)
            assert take(queue, 3) == [(0, 2), (1, 2), (2, 2)]
            os.kill(process.pid, signal.SIGCONT)
            gate.send("go on")
            queue.put("more")
            assert told(gate) == "more"
            queue.put("and more")
            assert told(gate) == "and more"
            assert eventually(lambda: queue.counts()["settled"] == 5), queue.counts()
            assert queue.counts()["late"] == 3


def test_an_ack_of_another_consumers_item_is_refused_in_the_script(address: str) -> None:
    """Given a client that was declared dead, and calls under its old name: its acks change nothing."""
    with Queue(0, address, lease=LEASE) as queue, closing(Queue.connect(address)) as other:
        queue.put("item")
        held: Any = other.receive(timeout=LIMIT)
        client: Any = other._client  # type: ignore[attr-defined]
        with client._lock:  # its heartbeat stops
            former = client._name
            again = queue.receive(timeout=LIMIT)
            assert (again.item, again.attempt) == ("item", 2)
            before = queue.counts()
            from msgpack import packb

            packed = packb(([held._lent.number], [], [], [], []))
            assert client._exchange("settle", 7, packed, b"", name=former) == [b"stranger"]
            after = queue.counts()
        assert (after["settled"], after["late"]) == (before["settled"], before["late"] + 1)
        again.ack()
        queue.flush()
        assert queue.counts()["settled"] == 1


def test_a_poison_item_becomes_a_dead_letter(address: str) -> None:
    with Queue(0, address, lease=0.5, max_attempts=2) as queue:
        queue.put_many(["first", "poison", "second"])
        for _ in range(2):
            with mortal(die_of_poison, queue) as (process, _):
                process.join(LIMIT)
                assert process.exitcode == -signal.SIGKILL
        assert eventually(lambda: queue.counts()["dead"] == 1)
        [(item, attempts, history)] = queue.dead_letters()
        assert (item, attempts) == ("poison", 2)
        assert all("was silent for 0.5 s" in why for why in history)


def test_a_killed_producer_is_named_at_the_end(address: str) -> None:
    with Queue(0, address, lease=LEASE) as queue:
        items: list[Any] = []
        with mortal(produce_and_wait, queue, ["a", "b"]) as (process, gate):
            assert told(gate) == "put"
            process.kill()
            with pytest.raises(ProducerLost) as caught:
                items += queue
            [name] = caught.value.names
            assert f"-{process.pid}-" in name
        assert items == ["a", "b"]


def test_a_frozen_producer_that_is_back_is_not_lost(address: str) -> None:
    with Queue(0, address, lease=LEASE) as queue:
        with mortal(produce_and_wait, queue, ["a"]) as (process, gate):
            assert told(gate) == "put"
            freeze(process.pid)
            assert eventually(lambda: queue.counts()["lost producers"] == 1)
            os.kill(process.pid, signal.SIGCONT)
            assert eventually(lambda: queue.counts()["lost producers"] == 0)
            gate.send("leave")
            process.join(LIMIT)
        assert list(queue) == ["a"]


def test_items_outlive_their_programs_and_a_killed_server(durable: Server) -> None:
    """Given items put by programs that are gone, some of them taken and some acked,

    If the server is killed right after the last put, I expect every item that was not acked to come.
    """
    address = durable.address("pictures")
    with Queue(0, address, lease=LEASE) as queue:
        queue.put_many(range(1000))
        assert [item for item, _ in take(queue, 100)] == list(range(100))
        queue.flush()
    with Queue.connect(address) as queue:
        queue.put("last")
        durable.kill()
        durable.start()
    with Queue(0, address, lease=LEASE) as queue:
        assert queue.counts()["size"] == 901
        assert [item for item, _ in take(queue, 901)] == [*range(100, 1000), "last"]


def put_numbers(queue: Any, gate: Connection, who: int, count: int) -> None:
    done = 0
    while done < count:
        step = 1 if done % 7 else 10
        items = [(who, number) for number in range(done, min(done + step, count))]
        queue.put_many(items)
        done += len(items)
    queue.close()
    queue.join_thread()
    gate.send("put")


def echo_all(queue: Any, gate: Connection, name: str) -> None:
    """Append each item to a file before it is acked."""
    with open(name, "a") as file:  # noqa: PTH123
        for batch in queue.batches(20):
            file.write("".join(f"{item[0]} {item[1]}\n" for item in batch))
            file.flush()


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_while_the_server_is_killed_again_and_again(
    durable: Server, seed: int, tmp_path: Any
) -> None:
    """Given producers, consumers and a bound, a server that is killed and started again several times, and a
    consumer that is killed: I expect every item, and twice only those that the dead consumer held."""
    dice = random.Random(seed)
    names = [tmp_path / f"{number}" for number in range(3)]
    count = 600
    with (
        Queue(50, durable.address("q"), producers=2, lease=2.0) as queue,
        mortal(put_numbers, queue, 1, count) as (_, first),
        mortal(put_numbers, queue, 2, count) as (_, second),
        mortal(echo_all, queue, str(names[0])) as (victim, _),
        mortal(echo_all, queue, str(names[1])) as (left, _),
        mortal(echo_all, queue, str(names[2])) as (right, _),
    ):
        for kill in range(4):
            time.sleep(dice.uniform(0.05, 0.3))  # at any moment of their work
            durable.kill()
            if kill == 2:
                victim.kill()
            durable.start()
        for gate in (first, second):
            assert told(gate) == "put"
        for process in (left, right):
            process.join(LIMIT)
            assert process.exitcode == 0
        counts = queue.counts()
    assert (counts["stored"], counts["unsettled"], counts["dead"]) == (2 * count, 0, 0)
    got = Counter(line for name in names for line in name.read_text().splitlines())
    assert set(got) == {f"{who} {number}" for who in (1, 2) for number in range(count)}
    twice = sum(number - 1 for number in got.values())
    assert twice <= 20, "only what the killed consumer held may come twice"


def test_an_outage_longer_than_the_lease_is_nobodys_silence(durable: Server) -> None:
    with Queue(0, durable.address(), lease=0.5) as queue:
        queue.put("item")
        delivery = queue.receive(timeout=LIMIT)
        durable.kill()
        time.sleep(1.0)  # twice the lease
        durable.start()
        delivery.ack()
        queue.flush()
        counts = queue.counts()
        assert (counts["settled"], counts["late"], counts["lost producers"]) == (1, 0, 0)


def test_a_join_survives_the_server(durable: Server) -> None:
    with JoinableQueue(0, durable.address(), lease=LEASE) as queue:
        queue.put_many([1, 2])
        with threads((queue.join,)):
            assert queue.get(timeout=LIMIT) == 1
            durable.kill()
            queue.task_done()
            durable.start()
            assert queue.get(timeout=LIMIT) == 2
            queue.task_done()


def test_a_server_without_a_disk_that_is_started_again_waits_for_its_queue() -> None:
    """Given a server that forgets its queues: I expect calls to wait until the queue was made again."""
    with redis_server.running() as server:
        address = server.address("q")
        with Queue(0, address, lease=LEASE) as queue, Queue.connect(address) as other:
            queue.put("forgotten")
            assert other.qsize() == 1
            server.kill()
            server.start()
            with threads((other.put, "new")):
                with suppress(Empty):
                    queue.get(timeout=0.2)
                with Queue(0, address, lease=LEASE) as again:
                    assert again.get(timeout=LIMIT) == "new"
