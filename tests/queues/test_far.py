"""Features of the far queue alone: its host, its address, and its counted end."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearfar import AddressError, Empty, Full, JoinableQueue, ProducerLost, Queue, QueueLost, ShutDown
from nearfar.net.addresses import Address
from nearfar.queues.client import io
from nearfar.queues.client.client import QueueClient
from nearfar.queues.far import FarJoinableQueue, FarQueue
from tests.support.waiting import eventually

FORK = multiprocessing.get_context("fork")
TOGETHER = {"wait": 20.0}


@pytest.fixture
def queue() -> Iterator[FarQueue]:
    with FarQueue(0, "tcp://127.0.0.1:*", **TOGETHER) as queue:
        yield queue


def put_and_leave(queue: Any, items: list[Any]) -> None:
    queue.put_many(items)


def collect(queue: Any, answer: Any) -> None:
    answer.send(list(queue))
    answer.close()


def run(target: Any, *args: Any) -> Any:
    process = FORK.Process(target=target, args=args, daemon=True)
    process.start()
    return process


def test_iteration_ends_when_every_producer_has_closed(queue: FarQueue) -> None:
    producers = [run(put_and_leave, queue, [(who, n) for n in range(50)]) for who in range(2)]
    for producer in producers:
        producer.join(20)
    assert sorted(queue) == [(who, n) for who in range(2) for n in range(50)]


def take_by_a_queue_of_its_own(address: str, count: int) -> None:
    queue = Queue.connect(address, wait=20.0)
    for _ in range(count):
        queue.get()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_program_that_ends_has_done_what_it_took(queue: FarQueue, method: str) -> None:
    """Given a process whose queue is a local variable, I expect the last item to be done, too."""
    queue.put_many(range(3))
    child = multiprocessing.get_context(method).Process(
        target=take_by_a_queue_of_its_own, args=(queue.address, 3)
    )
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert eventually(lambda: queue.counts()["settled"] == 3)
    assert queue.empty()


def put_into_a_queue_of_its_own(address: str) -> None:
    Queue.connect(address, wait=20.0).put_many(range(3))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_program_that_ends_loses_nothing_that_a_collected_queue_put(queue: FarQueue, method: str) -> None:
    child = multiprocessing.get_context(method).Process(
        target=put_into_a_queue_of_its_own, args=(queue.address,)
    )
    child.start()
    assert [queue.get(timeout=20) for _ in range(3)] == [0, 1, 2]
    child.join(20)
    assert child.exitcode == 0


def test_items_of_a_collected_queue_are_done_unless_its_items_need_task_done() -> None:
    with FarJoinableQueue(0, "tcp://127.0.0.1:*", **TOGETHER) as queue:
        queue.put_many(range(2))
        take_by_a_queue_of_its_own(queue.address, 1)
        assert eventually(lambda: queue.counts()["settled"] == 1)
        other = FarJoinableQueue.connect(queue.address, wait=20.0)
        assert other.get() == 1
        del other
        assert queue.get(timeout=20) == 1
        queue.task_done()


def test_iteration_waits_for_as_many_producers_as_are_expected() -> None:
    """Given two expected producers and one that came and left, I expect the consumer to go on waiting."""
    with FarQueue(0, "tcp://127.0.0.1:*", producers=2, **TOGETHER) as queue:
        here, there = FORK.Pipe()
        consumer = run(collect, queue, there)
        run(put_and_leave, queue, ["first"]).join(20)
        assert not here.poll(0.3)
        run(put_and_leave, queue, ["second"]).join(20)
        assert here.poll(20) and here.recv() == ["first", "second"]
        consumer.join(20)
        here.close()
        there.close()


def test_a_plain_get_does_not_end_with_the_producers(queue: FarQueue) -> None:
    """As with multiprocessing: a caller of `get` may expect a producer that has not connected yet."""
    run(put_and_leave, queue, ["item"]).join(20)
    assert queue.get(timeout=20) == "item"
    with pytest.raises(Empty):
        queue.get(timeout=0.05)
    queue.shutdown()
    with pytest.raises(ShutDown):
        queue.get(timeout=20)


def test_a_killed_producer_is_named_at_the_end(queue: FarQueue) -> None:
    def put_and_wait(said: Any) -> None:
        queue.put("item")
        queue.qsize()  # the host has it
        said.send("put")
        said.recv()

    here, there = FORK.Pipe()
    producer = run(put_and_wait, there)
    assert here.recv() == "put"
    producer.kill()
    producer.join(20)
    items = iter(queue)
    assert next(items) == "item"
    with pytest.raises(ProducerLost, match=str(producer.pid)):
        next(items)
    here.close()
    there.close()


def test_an_item_given_up_too_often_becomes_a_dead_letter() -> None:
    with FarQueue(0, "tcp://127.0.0.1:*", max_attempts=3, **TOGETHER) as queue:
        queue.put("poison")
        for attempt in (1, 2, 3):
            delivery = queue.receive(timeout=20)
            assert delivery.attempt == attempt
            delivery.nack()
        with pytest.raises(Empty):
            queue.receive(timeout=0.05)
        ((item, attempts, history),) = queue.dead_letters()
        assert (item, attempts, len(history)) == ("poison", 3, 3)
        assert queue.counts()["dead"] == 1


def test_bytes_can_be_bounded(queue: FarQueue) -> None:
    with FarQueue(0, "tcp://127.0.0.1:*", maxbytes=1000, **TOGETHER) as queue:
        queue.put_nowait(bytes(600))
        with pytest.raises(Full):
            queue.put_nowait(bytes(600))
        queue.put_nowait(bytes(300))
        with pytest.raises(ValueError, match="larger than the whole queue"):
            queue.put(bytes(1001))
        assert queue.qsize() == 2


def test_a_joinable_queue_redelivers_undone_items_of_a_leaving_consumer() -> None:
    with FarJoinableQueue(0, "tcp://127.0.0.1:*", **TOGETHER) as queue:
        queue.put("item")

        def take_and_leave() -> None:
            assert queue.get(timeout=20) == "item"

        run(take_and_leave).join(20)
        with queue.receive(timeout=20) as delivery:
            assert (delivery.item, delivery.attempt) == ("item", 2)
        queue.join()


def test_the_last_item_is_settled_at_the_normal_exit_of_a_process(queue: FarQueue) -> None:
    def take_and_leave() -> None:
        queue.get(timeout=20)

    queue.put("item")
    run(take_and_leave).join(20)
    assert queue.counts()["settled"] == 1


def test_other_processes_connect_by_address(queue: FarQueue) -> None:
    with Queue.connect(queue.address, wait=20) as other:
        other.put("over there")
        assert queue.get(timeout=20) == "over there"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("tcp://0.0.0.0:5555", "insecure=True"),
        ("udp://127.0.0.1:1", "its scheme is none of ipc, redis, rediss, tcp, valkey, valkeys"),
        ("tcp://127.0.0.1:99999", "at most 65535"),
        ("ipc:///no/such/folder/q", "no folder"),
    ],
)
def test_an_unusable_address_is_an_error_with_a_reason(address: str, why: str) -> None:
    with pytest.raises(AddressError, match=why):
        Queue(5, address)


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_an_address_in_use_is_refused(transport: str, tmp_path: Path) -> None:
    address = {"tcp": "tcp://127.0.0.1:*", "ipc": f"ipc://{tmp_path}/q"}[transport]
    with FarQueue(5, address, **TOGETHER) as queue, pytest.raises(AddressError, match="in use"):
        FarQueue(5, queue.address)


def test_a_host_may_come_back_at_its_address_at_once(tmp_path: Path) -> None:
    for _ in range(3):
        with FarQueue(5, f"ipc://{tmp_path}/q", **TOGETHER) as queue:
            queue.put(1)
            assert queue.get(timeout=20) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_host_is_reported_after_the_wait() -> None:
    queue = JoinableQueue.connect("tcp://127.0.0.1:9", wait=0.2)
    start = time.monotonic()
    with pytest.raises(QueueLost, match=r"no host has answered at tcp://127\.0\.0\.1:9 for 0\.2 s"):
        queue.put(1)
    queue.close()
    queue.join_thread()
    assert time.monotonic() - start < 10


def test_lanes_stay_within_the_ports_they_were_given() -> None:
    with (
        FarQueue(5, "tcp://127.0.0.1:*", lanes="28100-28103", **TOGETHER) as queue,
        FarQueue.connect(queue.address, **TOGETHER) as other,
    ):
        queue.put(1)
        assert other.get(timeout=20) == 1
        tables = [Path("/proc/net", name).read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table]
        listening = {int(row[1][-4:], 16) for row in rows if row[3] == "0A"}
        assert len(listening & set(range(28100, 28104))) == 2


def test_a_queue_shows_where_it_is(queue: FarQueue) -> None:
    assert repr(queue) == f"<FarQueue 0 items, hosted at {queue.address}>"
    with Queue.connect(queue.address) as other:
        assert repr(other) == f"<FarQueue connected to {queue.address}>"


@pytest.mark.parametrize("watched", [False, True])
def test_a_standing_queue_starts_a_new_count_for_the_next_clients(watched: bool) -> None:
    """Given a round that has ended, if a consumer of the next round connects first, I expect it to wait.

    A client that only requests the counts, as `nearfar queue` does, does not belong to the round.
    """
    with FarQueue(0, "tcp://127.0.0.1:*", standing=True, **TOGETHER) as queue:
        assert not watched or queue.counts()["settled"] == 0
        for item in ("first", "second"):
            here, there = FORK.Pipe()
            consumer = run(collect, queue, there)
            assert not here.poll(0.3)
            run(put_and_leave, queue, [item]).join(20)
            assert here.poll(20) and here.recv() == [item]
            consumer.join(20)
            here.close()
            there.close()


def test_a_client_reads_remaining_messages_by_itself(
    queue: FarQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a client that reads one message before it acts, and two messages, with no call waiting,

    I expect both to be read: the next event would be an ack, six seconds later.
    """
    monkeypatch.setattr(io, "DRAIN", 1)
    with FarQueue(8, "tcp://127.0.0.1:*", lease=600.0) as queue, FarQueue.connect(queue.address) as other:
        other.put_many(range(3))
        assert other._end is not None and other._end.driver is not None
        with other._end.driver.turns:
            assert [queue.get(), queue.get(), queue.get()] == [0, 1, 2]
            assert eventually(lambda: queue.counts()["settled"] == 2)
        sender = other._end.machine.sender
        assert eventually(lambda: sender.unsettled == 1)


def test_figures_of_clients_are_added_up_until_they_leave(queue: FarQueue) -> None:
    """Given clients that report what they have under way, I expect the sum, without one that has left."""
    ends = [QueueClient(Address.parse(queue.address).seen_from_here(), helper=True) for _ in range(2)]
    watcher = QueueClient(Address.parse(queue.address).seen_from_here())
    try:
        watcher.mention("underway bytes", 5)  # not connected: neither waits nor raises
        assert watcher.glimpse_counts() == {}
        for end in (*ends, watcher):
            assert end.reach(20)

        def told(figure: int, value: int) -> bool:
            for end in ends:
                end.mention("underway bytes", value)
            return watcher.glimpse_counts().get("underway bytes") == figure

        assert eventually(lambda: told(2 * 10**9, 10**9), 20)
        assert eventually(lambda: told(0, 0), 20)
        assert eventually(lambda: told(6, 3), 20)
        ends[0].close()
        ends[0].join(10)
        assert eventually(lambda: watcher.glimpse_counts().get("underway bytes") == 3, 20)
    finally:
        for end in (*ends, watcher):
            end.close()
            end.join(10)


@pytest.mark.parametrize("lease", [0, -1, 1e-9, 1e9, float("nan"), float("inf")])
def test_an_invalid_lease_is_refused(lease: float) -> None:
    with pytest.raises(ValueError, match="a lease is"):
        FarQueue(0, "tcp://127.0.0.1:*", lease=lease)


def test_a_huge_bound_means_no_bound() -> None:
    with FarQueue(10**40, "tcp://127.0.0.1:*", maxbytes=10**40) as queue:
        queue.put(1)
        assert not queue.full()
        assert queue.get(timeout=20) == 1
