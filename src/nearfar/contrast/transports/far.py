"""nearfar's far queue, hosted by a process of its own, over ipc or tcp."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from nearfar.contrast.settings import LEASE
from nearfar.contrast.transports.base import FORK, Link
from nearfar.contrast.transports.ends import QueueEnd
from nearfar.queues.far import FarQueue

PATIENCE = 20.0
"""Seconds that a host may take to start, and that an end waits for one."""


class FarLink(Link):
    def __init__(self, address: str, bound: int, *, plain: bool) -> None:
        self._address = address
        self._plain = plain
        self._bound = bound
        self.start_host()

    def start_host(self) -> None:
        here, there = FORK.Pipe()
        self._host = FORK.Process(
            target=host, args=(self._address, self._bound, self._plain, there), daemon=True
        )
        self._host.start()
        there.close()
        with here:
            if not here.poll(PATIENCE):
                raise TimeoutError(f"no host at {self._address}")
            self._address = here.recv()

    def kill_host(self) -> None:
        self._host.kill()
        self._host.join()

    @property
    def host(self) -> int | None:
        return self._host.pid

    def producer(self) -> QueueEnd:
        return QueueEnd(FarQueue.connect(self._address, insecure=self._plain, wait=PATIENCE))

    def consumer(self) -> QueueEnd:
        return QueueEnd(FarQueue.connect(self._address, insecure=self._plain, wait=PATIENCE))

    def size(self) -> int | None:
        with FarQueue.connect(self._address, insecure=self._plain, wait=PATIENCE) as queue:
            return queue.qsize()


def host(address: str, bound: int, plain: bool, told: Connection) -> None:
    """Host a queue at `address` until killed."""
    queue = FarQueue(bound, address, insecure=plain, lease=LEASE)
    told.send(queue.address)
    told.close()
    while True:
        signal.pause()


@contextlib.contextmanager
def open_far(scheme: str, folder: Path, bound: int) -> Iterator[Link]:
    # Open to everyone, for as long as it lasts: without a word, loopback is no TCP (`nearfar.net.twins`).
    plain = scheme == "tcp"
    link = FarLink("tcp://127.0.0.1:*" if plain else f"ipc://{folder}/queue", bound, plain=plain)
    try:
        yield link
    finally:
        link.kill_host()


open_ipc = partial(open_far, "ipc")
open_tcp = partial(open_far, "tcp")
