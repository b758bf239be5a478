"""A put that waits for room does not keep its queue from closing; who waits when it is closed hears of it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from nearfar.queues.far import FarJoinableQueue
from tests.support.waiting import eventually


@pytest.mark.parametrize(
    "wait",
    [lambda queue: queue.put(2), lambda queue: queue.join()],
    ids=["put", "join"],
)
def test_who_waits_in_a_queue_that_is_closed_hears_of_it(wait: Callable[[FarJoinableQueue], None]) -> None:
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
