"""Ctrl-C at any point inside a put or a get: nothing is lost, nothing comes twice, the queue stays usable."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from nearfar.queues.far import FarQueue

ITEMS = 3000


class Handler:
    """Raises `KeyboardInterrupt`, once each time it is armed: so never where nobody would catch it."""

    def __init__(self) -> None:
        self.armed = False

    def __call__(self, *_: object) -> None:
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt


def get_all(queue: FarQueue, count: int, most: int, handler: Handler) -> list[int]:
    """Get, again wherever that is interrupted. What is asked for is kept in the same step as it comes."""
    found: list[int] = []
    deadline = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count}"
        try:
            handler.armed = True
            while len(found) < count:
                found[len(found) :] = queue.get_many(most) if most > 1 else (queue.get(),)
            handler.armed = False
        except KeyboardInterrupt:
            continue
    return found


@pytest.mark.parametrize("most", [1, 50])
def test_an_interrupted_get_loses_nothing(most: int) -> None:
    with FarQueue(0, "tcp://127.0.0.1:*") as queue:
        queue.put_many(range(ITEMS))
        queue.put(-1)
        handler = Handler()
        before = signal.signal(signal.SIGINT, handler)
        over = threading.Event()
        thread = threading.Thread(target=interrupt_until, args=(over,))
        thread.start()
        try:
            found = get_all(queue, ITEMS + 1, most, handler)
        finally:
            stop(over, thread, before)
        assert sorted(found) == [-1, *range(ITEMS)]


def interrupt_until(over: threading.Event) -> None:
    while not over.wait(0.002):
        os.kill(os.getpid(), signal.SIGINT)


def stop(over: threading.Event, thread: threading.Thread, before: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    over.set()
    thread.join()
    signal.signal(signal.SIGINT, before)  # type: ignore[arg-type]
