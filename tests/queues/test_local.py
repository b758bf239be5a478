"""A queue's client in the process that hosts it needs no sockets, and its callers take the host's turns."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nearfar.errors import QueueLost
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.broker.sessions import Action
from nearfar.queues.client.client import QueueClient
from nearfar.queues.far import FarQueue, finish
from tests.queues.contract import LIMIT
from tests.support.waiting import eventually

Make = Callable[[], FarQueue]
pytestmark = pytest.mark.timeout(method="thread")  # SIGALRM, the other method, is for the tests


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes queues that are hosted at one address, each after the hosting of the one before has ended."""
    made: list[FarQueue] = []

    def make() -> FarQueue:
        made.append(FarQueue(0, f"ipc://{tmp_path}/q", wait=LIMIT))
        return made[-1]

    yield make
    for queue in made:
        queue.close()
        queue.cancel_join_thread()
        queue.join_thread()
        queue.stop_hosting()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("nearfar-")]


def end_hosting(queue: FarQueue) -> None:
    assert queue._host is not None
    queue._host.close(0.0)


def test_it_has_no_thread_of_its_own(make: Make) -> None:
    queue = make()
    queue.put(1)
    assert queue.get(timeout=LIMIT) == 1
    assert len(threads()) == 1


def test_what_it_put_goes_to_the_next_host_if_the_hosting_ends(make: Make) -> None:
    """Given two items of which one was taken and is done, if the hosting ends and another begins,

    I expect the other item there, and the next put, too.
    """
    queue = make()
    queue.put_many(["done", "waits"])
    with FarQueue.connect(queue.address, wait=LIMIT) as other:
        assert other.get(timeout=LIMIT) == "done"
    assert eventually(lambda: queue.counts()["settled"] == 1)
    end_hosting(queue)
    second = make()
    assert second.get(timeout=LIMIT) == "waits"
    queue.put("later")
    assert second.get(timeout=LIMIT) == "later"


def test_a_call_that_waits_goes_on_at_the_next_host(make: Make) -> None:
    queue = make()
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.append(queue.get(timeout=LIMIT)))
    waiting.start()
    assert eventually(lambda: queue._end is not None and queue._end.waiting == 1)
    end_hosting(queue)
    second = make()
    second.put(1)
    waiting.join(LIMIT)
    assert found == [1]


def test_it_is_refused_as_any_other_if_it_asks_for_too_much(make: Make) -> None:
    queue = make()
    assert queue._host is not None
    client = QueueClient(queue._host.address, host=queue._host, tags=tuple(f"tag-{n}" for n in range(1001)))
    with pytest.raises(QueueLost, match="asks for too many tags"):
        client.takes.take(1, 0, block=True, timeout=LIMIT)
    client.close()
    client.join()
    queue.put(1)
    assert queue.get(timeout=LIMIT) == 1


def test_one_that_leaves_without_a_goodbye_gives_back_what_it_held_at_once(make: Make) -> None:
    queue = make()
    assert queue._host is not None
    queue.put(1)
    client = QueueClient(queue._host.address, host=queue._host)
    assert client.takes.take(1, 0, block=True, timeout=LIMIT)[0].item == 1
    client.abandon()
    assert queue.receive(timeout=LIMIT).attempt == 2


def test_a_signal_handler_that_takes_its_time_holds_up_no_other_client(make: Make) -> None:
    """Given a caller that waits in the host's process, in a handler, I expect the host to serve others."""
    queue = make()
    served = threading.Event()
    begun = threading.Event()
    seen: list[bool] = []

    def handle(*_: object) -> None:
        begun.set()
        seen.append(served.wait(LIMIT))

    def use() -> None:
        begun.wait(LIMIT)
        with FarQueue.connect(queue.address, wait=LIMIT) as other:
            other.put(1)
            assert other.qsize() >= 0
            served.set()

    using = threading.Thread(target=use)
    using.start()
    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert queue.get(timeout=2 * LIMIT) == 1
    finally:
        signal.signal(signal.SIGALRM, before)
    using.join(LIMIT)
    assert seen == [True]


@pytest.mark.parametrize("waited_for", [True, False])
def test_a_queue_that_is_collected_in_the_middle_of_a_turn_leaves_after_it(
    make: Make, monkeypatch: pytest.MonkeyPatch, waited_for: bool
) -> None:
    queue = make()
    queue.put(1)
    end, host = queue._end, queue._host
    assert end is not None
    assert host is not None
    end.waited_for = waited_for
    flush, collected = BrokerProtocol.flush, []

    def collecting(machine: BrokerProtocol, now: float) -> list[Action]:
        if not collected:
            collected.append(True)
            finish(end, lambda: None, True)  # type: ignore[arg-type]
        return flush(machine, now)

    monkeypatch.setattr(BrokerProtocol, "flush", collecting)
    host.driver.rouse()
    assert eventually(lambda: end.gone)
    assert host.failure is None
