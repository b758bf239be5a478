"""The queue in Redis: its rounds, settings, time to live, lost replies, and a server that is away."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import Any

import pytest

from nearfar import Queue
from nearfar.errors import Empty, Full, QueueLost, ShutDown
from tests.queues.contract import LIMIT, MOMENT, outcome, threads
from tests.support import redis_server
from tests.support.processes import freeze
from tests.support.waiting import eventually

pytestmark = redis_server.needed
LEASE = 1.0


@pytest.fixture
def address() -> str:
    return redis_server.address()


def server_of(address: str) -> Any:
    import redis

    return redis.Redis(port=int(address.split(":")[2].partition("/")[0]))


def keys_of(address: str) -> list[str]:
    with closing(server_of(address)) as server:
        return sorted(key.decode() for key in server.keys(f"nearfar:{{{address.rpartition('/')[2]}}}*"))


def test_items_stay_for_the_next_program(address: str) -> None:
    with Queue(3, address, lease=LEASE) as queue:
        queue.put_many([1, 2, 3])
        assert outcome(queue.put_nowait, 4) == "Full"
    with Queue(4, address, lease=LEASE) as queue:  # with another bound
        queue.put_nowait(4)
        assert [queue.get(timeout=LIMIT) for _ in range(4)] == [1, 2, 3, 4]


def test_a_queue_that_was_shut_down_is_open_for_the_next_program(address: str) -> None:
    with Queue(0, address, lease=LEASE) as queue:
        queue.put("left")
        queue.shutdown()
        with Queue.connect(address) as other, pytest.raises(ShutDown):
            other.put("refused")
    with Queue(0, address, lease=LEASE) as queue:
        queue.put("new")
        assert queue.get_many(5) == ["left", "new"]


def test_the_end_is_counted_anew_by_the_next_program(address: str) -> None:
    for _ in range(2):
        with Queue(0, address, lease=LEASE) as queue:
            with Queue.connect(address) as producer:
                producer.put("item")
            assert list(queue) == ["item"]


def test_a_second_maker_joins_the_round_that_is_under_way(address: str) -> None:
    with Queue(0, address, lease=LEASE) as queue:
        with Queue.connect(address) as producer:
            producer.put("item")
        with Queue(0, address, lease=LEASE) as second:
            assert list(second) == ["item"]
        assert list(queue) == []


def test_what_a_consumer_had_taken_and_not_acked_goes_to_others_when_it_leaves(address: str) -> None:
    with Queue(0, address, lease=LEASE) as queue:
        queue.put_many([1, 2])
        with Queue.connect(address) as other:
            assert other.get(timeout=LIMIT) == 1  # done when it leaves
            assert other.receive(timeout=LIMIT).item == 2
        again = queue.receive(timeout=LIMIT)
        assert (again.item, again.attempt) == (2, 2)
        again.ack()
        queue.flush()
        assert queue.counts()["settled"] == 2


def test_an_abandoned_queue_is_deleted_after_its_time_to_live(address: str) -> None:
    with Queue(0, address, lease=0.2, ttl=0.5) as queue:
        queue.put("item")
        assert not eventually(lambda: not keys_of(address), within=1.0)  # in use
    assert eventually(lambda: not keys_of(address))


def test_a_queue_without_a_time_to_live_stays(address: str) -> None:
    with Queue(0, address, lease=0.2, ttl=0) as queue:
        queue.put("item")
    with closing(server_of(address)) as server:
        assert [server.ttl(key) for key in keys_of(address)] == [-1] * len(keys_of(address))


def test_delete_removes_all_that_it_kept(address: str) -> None:
    with Queue(1, address, lease=LEASE) as queue:
        queue.put("item")
        assert keys_of(address)
        queue.delete()  # type: ignore[attr-defined]
        assert keys_of(address) == []


def test_a_queue_that_nobody_made_is_waited_for_then_lost(address: str) -> None:
    with (
        closing(Queue.connect(address, wait=0.3)) as queue,
        pytest.raises(QueueLost, match=r"no queue '\w+', which Queue\(maxsize, address\) makes, at redis:"),
    ):
        queue.put(1)
    with closing(Queue.connect(address, wait=LIMIT)) as queue, threads((queue.put, 1)):
        time.sleep(MOMENT)  # it waits
        with Queue(0, address, lease=LEASE) as made:
            assert made.get(timeout=LIMIT) == 1
            queue.close()
            queue.join_thread()


def test_a_server_that_does_not_answer_is_lost_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"redis://127.0.0.1:{free.getsockname()[1]}/0/q"
    begun = time.monotonic()
    text = f"^no server has answered at {address} for 0.3 s$"
    with pytest.raises(QueueLost, match=text):
        Queue(1, address, wait=0.3)
    queue = Queue.connect(address, wait=0.3)
    for call in (queue.get, queue.qsize, queue.shutdown, lambda: queue.put(1)):
        with pytest.raises(QueueLost, match=text):
            call()
    queue.close()
    queue.join_thread()
    assert time.monotonic() - begun < LIMIT


def test_a_get_with_a_timeout_ends_in_time_though_the_server_is_away() -> None:
    with redis_server.running() as server, Queue(0, server.address(), lease=LEASE, wait=LIMIT) as queue:
        server.kill()
        begun = time.monotonic()
        with pytest.raises(Empty):
            queue.get(timeout=0.3)
        assert time.monotonic() - begun < LIMIT / 2
        server.start()


def test_ctrl_c_ends_a_wait_for_a_frozen_server() -> None:
    with redis_server.running() as server, Queue(0, server.address(), lease=LIMIT) as queue:
        assert server.process is not None
        freeze(server.process.pid)
        begun = time.monotonic()
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                queue.get()
        finally:
            server.process.send_signal(signal.SIGCONT)
            timer.join()
        assert time.monotonic() - begun < LIMIT / 2
        queue.put("item")
        assert queue.get(timeout=LIMIT) == "item"


def test_a_signal_handler_may_use_the_queue_while_a_call_waits_for_the_server(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a handler that takes and puts in the middle of a take: I expect each item once, and no mixed
    replies."""
    from nearfar.queues.redis import client

    got: list[Any] = []
    with Queue(0, address, lease=LIMIT) as queue:
        queue.put_many(range(4))

        def use(number: int, frame: object) -> None:
            got.append(queue.receive(timeout=LIMIT))
            queue.put("of the handler")

        real, struck = client._reply, []

        def slow(connection: Any, seconds: float) -> Any:
            if not struck and threading.current_thread().name != "nearfar-redis":
                struck.append(True)
                client._shield.let_through(signal.raise_signal, signal.SIGUSR1)
            return real(connection, seconds)

        previous = signal.signal(signal.SIGUSR1, use)
        monkeypatch.setattr(client, "_reply", slow)
        try:
            got.append(queue.receive(timeout=LIMIT))
        finally:
            monkeypatch.undo()
            signal.signal(signal.SIGUSR1, previous)
        assert struck
        got += [queue.receive(timeout=LIMIT) for _ in range(3)]
        assert sorted(str(each.item) for each in got) == ["0", "1", "2", "3", "of the handler"]
        for each in got:
            each.ack()
        queue.flush()
        counts = queue.counts()
        assert (counts["settled"], counts["late"], counts["unsettled"]) == (5, 0, 0)


def test_a_put_whose_reply_is_lost_is_stored_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from nearfar.queues.redis import client

    with Queue(0, address, lease=LEASE) as queue:
        queue.put("first")
        real, lost = client._reply, []

        def losing(connection: Any, seconds: float) -> Any:
            reply = real(connection, seconds)
            if len(lost) < 3:
                lost.append(reply)
                raise client.redis.ConnectionError("cut")
            return reply

        monkeypatch.setattr(client, "_reply", losing)
        queue.put_many(["second", "third"])
        monkeypatch.undo()
        assert len(lost) == 3
        assert queue.counts()["stored"] == 3
        assert queue.get_many(5) == ["first", "second", "third"]


def test_items_in_a_lost_reply_come_again_as_the_first_attempt(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nearfar.queues.redis import client

    with Queue(0, address, lease=LIMIT) as queue:
        queue.put_many(range(5))
        first = queue.receive(timeout=LIMIT)
        real, lost = client._reply, []

        def losing(connection: Any, seconds: float) -> Any:
            reply = real(connection, seconds)
            if not lost and type(reply) is list and reply[0] == b"ok" and len(reply) == 2:
                lost.append(reply)
                raise client.redis.ConnectionError("cut")
            return reply

        monkeypatch.setattr(client, "_reply", losing)
        second = queue.receive(timeout=LIMIT)
        monkeypatch.undo()
        assert len(lost) == 1
        assert (first.item, second.item, second.attempt) == (0, 1, 1)
        second.ack()
        first.ack()
        assert queue.get_many(9) == [2, 3, 4]
        counts = queue.counts()
        assert (counts["settled"], counts["late"]) == (2, 0)


def test_a_bound_counts_what_is_put_by_several_calls(address: str) -> None:
    with Queue(5, address, lease=LEASE) as queue:
        queue.put_many(range(3))
        with pytest.raises(Full) as full:
            queue.put_many(range(5), timeout=MOMENT)
        assert full.value.args == (2,)


PROGRAM = """
import sys
from nearfar import Queue
queue = Queue.connect(sys.argv[1], wait=5.0)
for item in range(3):
    queue.put(queue.get())
{end}
"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("sys.exit(3)", 3), ("del queue", 0)])
def test_what_a_program_got_is_done_when_it_ends_without_a_close(address: str, end: str, code: int) -> None:
    with Queue(0, address, lease=600.0) as queue:
        queue.put_many(range(3))
        command = [sys.executable, "-c", PROGRAM.format(end=end), address]
        run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=os.environ)
        assert (run.returncode, run.stderr) == (code, "")
        assert eventually(lambda: queue.counts()["clients"] == 1)
        counts = queue.counts()
        assert (counts["stored"], counts["settled"], counts["size"]) == (6, 3, 3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lease": 0.0}, "a lease is"),
        ({"ttl": 1.0}, "ttl is at least the lease"),
        ({"ttl": -5.0}, "ttl is at least the lease"),
    ],
)
def test_settings_that_cannot_be_are_refused(address: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Queue(0, address, **options)
