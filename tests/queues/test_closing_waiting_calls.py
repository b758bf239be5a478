"""A put that waits for room does not keep its queue from closing; calls that wait are then ended."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from nearfar import Queue
from nearfar.queues.far import FarJoinableQueue
from tests.support.waiting import eventually


@pytest.mark.parametrize(
    "wait",
    [lambda queue: queue.put(2), lambda queue: queue.join()],
    ids=["put", "join"],
)
def test_calls_that_wait_raise_when_their_queue_is_closed(wait: Callable[[FarJoinableQueue], None]) -> None:
    queue = FarJoinableQueue(1)
    queue.put(1)
    heard: list[str] = []

    def call() -> None:
        with pytest.raises(ValueError, match="closed"):
            wait(queue)
        heard.append("closed")

    thread = threading.Thread(target=call)
    thread.start()
    end = queue._reached()
    assert eventually(lambda: bool(end.waiting))
    queue.close()
    queue.join_thread()
    thread.join(10)
    assert heard == ["closed"]
    queue.stop_hosting()


@pytest.mark.parametrize("cancelled", [False, True])
def test_dropping_a_closed_client_of_a_dead_host_does_not_wait(cancelled: bool) -> None:
    program = (
        "from nearfar import Queue; q = Queue(0, 'tcp://127.0.0.1:*'); print(q.address, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdout is not None
        queue = Queue.connect(host.stdout.readline().strip())
        queue.put(1)
        assert queue.qsize() == 1
        host.kill()
    queue.close()
    if cancelled:
        queue.cancel_join_thread()
    end, before = queue._end, time.monotonic()
    assert end is not None
    del queue
    gc.collect()
    assert time.monotonic() - before < 10, "it does not wait for the host, which may take 60 s"
    assert eventually(lambda: end.gone)
