"""The queues that are compared, behind one interface."""

from __future__ import annotations

import abc
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgpack
import zmq

from nearfar.contrast.processes import FORK
from nearfar.contrast.redis_server import RedisServer, redis_server, version
from nearfar.contrast.settings import FAR_IPC, FAR_TCP, LEASE, NEAR, QUEUE, RAW, REDIS
from nearfar.queues.factory import Queue
from nearfar.queues.far import FarQueue
from nearfar.queues.near import NearQueue

PATIENCE = 20.0
"""Seconds that a host may take to start, and that a client waits for one."""


class QueueEnd:
    """One end of a queue, in the process that uses it: puts or gets. As it is, of a nearfar queue."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def put(self, item: Any) -> None:
        """Put one item; wait while the queue is full."""
        self._queue.put(item)

    def get(self) -> Any:
        """Wait for the next item that `put` sent."""
        return self._queue.get()

    def put_many(self, items: list[Any]) -> None:
        """Put a batch, in the way that suits the transport."""
        self._queue.put_many(items)

    def get_many(self, most: int) -> list[Any]:
        """Wait for items that `put_many` sent: a part of a batch, or all of it."""
        items: list[Any] = self._queue.get_many(most)
        return items

    def finish(self) -> None:
        """Wait until everything that was put has left this process."""
        self._queue.close()
        self._queue.join_thread()


class ListEnd(QueueEnd):
    """An end of a queue without batches: a batch is put as one item, a list, as a careful user would."""

    def put_many(self, items: list[Any]) -> None:
        self.put(items)

    def get_many(self, most: int) -> list[Any]:
        items: list[Any] = self.get()
        return items


class SocketEnd(ListEnd):
    """A bare PUSH socket, which binds, or PULL socket, which connects. Items travel as msgpack."""

    def __init__(self, address: str, bound: int, *, push: bool) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH if push else zmq.PULL)
        self._socket.set_hwm(bound)
        (self._socket.bind if push else self._socket.connect)(address)

    def put(self, item: Any) -> None:
        self._socket.send(msgpack.packb(item))

    def get(self) -> Any:
        return msgpack.unpackb(self._socket.recv())

    def finish(self) -> None:
        self._socket.close()  # by default it lingers without a limit
        self._context.term()


class ContestedQueue(abc.ABC):
    """One queue, made before the processes that use it, which inherit it by fork."""

    @abc.abstractmethod
    def producer(self) -> QueueEnd:
        """Connect a producer, in the process that is going to use it."""

    @abc.abstractmethod
    def consumer(self) -> QueueEnd:
        """Connect a consumer, in the process that is going to use it."""

    def size(self) -> int | None:
        """How many items the queue itself counts as waiting; None if it does not count."""
        return None

    @property
    def host_pid(self) -> int | None:
        """The separate process that holds the items; None if there is none."""
        return None

    def kill_host(self) -> None:
        """Kill the host with SIGKILL."""
        raise NotImplementedError

    def start_host(self) -> None:
        """Start the host again at the same address."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class QueueContestant:
    """One way for items to travel."""

    name: str
    open: Callable[[Path, int], AbstractContextManager[ContestedQueue]]
    """Takes a folder for its files, and a bound in messages (0: unbounded)."""
    hosted: bool = False
    """A separate process holds the items."""


class InheritedQueue(ContestedQueue):
    """A queue that processes inherit. Its items are in a pipe and in the memory of the producer."""

    def __init__(self, queue: Any, end: type[QueueEnd]) -> None:
        self._queue = queue
        self._end = end

    def producer(self) -> QueueEnd:
        return self._end(self._queue)

    consumer = producer

    def size(self) -> int | None:
        return int(self._queue.qsize())


@contextlib.contextmanager
def open_standard(folder: Path, bound: int) -> Iterator[ContestedQueue]:
    """`multiprocessing.Queue`, the baseline."""
    with contextlib.closing(FORK.Queue(bound)) as queue:
        yield InheritedQueue(queue, ListEnd)


@contextlib.contextmanager
def open_near(folder: Path, bound: int) -> Iterator[ContestedQueue]:
    """The near queue of nearfar."""
    with contextlib.closing(NearQueue(bound, ctx=FORK)) as queue:
        yield InheritedQueue(queue, QueueEnd)


class HostedQueue(ContestedQueue):
    """The far queue of nearfar, hosted by a separate process."""

    def __init__(self, address: str, bound: int, *, insecure: bool) -> None:
        self._address = address
        self._insecure = insecure
        self._bound = bound
        self.start_host()

    def start_host(self) -> None:
        here, there = FORK.Pipe()
        self._host = FORK.Process(
            target=host_queue, args=(self._address, self._bound, self._insecure, there), daemon=True
        )
        self._host.start()
        there.close()
        with here:
            if not here.poll(PATIENCE):
                raise TimeoutError(f"the host at {self._address} did not start within {PATIENCE:g} s")
            self._address = here.recv()

    def kill_host(self) -> None:
        self._host.kill()
        self._host.join()

    @property
    def host_pid(self) -> int | None:
        return self._host.pid

    def _connect(self) -> FarQueue:
        return FarQueue.connect(self._address, insecure=self._insecure, wait=PATIENCE)

    def producer(self) -> QueueEnd:
        return QueueEnd(self._connect())

    consumer = producer

    def size(self) -> int | None:
        with self._connect() as queue:
            return queue.qsize()


def host_queue(address: str, bound: int, insecure: bool, pipe: Connection) -> None:
    """Host a queue at `address` until killed, and tell the resolved address through `pipe`."""
    queue = FarQueue(bound, address, insecure=insecure, lease=LEASE)
    pipe.send(queue.address)
    pipe.close()
    while True:
        signal.pause()


@contextlib.contextmanager
def open_far(scheme: str, folder: Path, bound: int) -> Iterator[ContestedQueue]:
    """The far queue over ipc, or over tcp."""
    # "insecure" keeps loopback on TCP: otherwise, nearfar replaces it by a Unix socket of this user.
    insecure = scheme == "tcp"
    queue = HostedQueue(
        "tcp://127.0.0.1:*" if insecure else f"ipc://{folder}/queue", bound, insecure=insecure
    )
    try:
        yield queue
    finally:
        queue.kill_host()


class ServedQueue(ContestedQueue):
    """The queue of nearfar in a Redis server, which takes the place of the host."""

    def __init__(self, server: RedisServer, bound: int) -> None:
        self._server = server
        # Made in a process of its own: this one forks the others, and must not have threads.
        maker = FORK.Process(target=make_queue, args=(server.address, bound), daemon=True)
        maker.start()
        maker.join()
        if maker.exitcode:
            raise RuntimeError(f"the queue at {server.address} could not be made")

    def start_host(self) -> None:
        self._server.start()

    def kill_host(self) -> None:
        self._server.kill()

    @property
    def host_pid(self) -> int | None:
        return self._server.pid

    def _connect(self) -> Any:
        return Queue.connect(self._server.address, insecure=True, wait=PATIENCE)

    def producer(self) -> QueueEnd:
        return QueueEnd(self._connect())

    consumer = producer

    def size(self) -> int | None:
        with self._connect() as queue:
            return int(queue.qsize())


def make_queue(address: str, bound: int) -> None:
    """Make the queue at `address`, which stays when this process ends."""
    Queue(bound, address, insecure=True, lease=LEASE, wait=PATIENCE).close()


@contextlib.contextmanager
def open_redis(folder: Path, bound: int) -> Iterator[ContestedQueue]:
    """The queue in Redis, over loopback, in a server of its own."""
    with redis_server(folder) as server:
        yield ServedQueue(server, bound)


class PushPull(ContestedQueue):
    """Bare PUSH/PULL: what ZeroMQ does by itself. The bound is the high-water mark of both ends.

    Nothing is counted, acknowledged or sent again: no code outside this comparison uses it so.
    """

    def __init__(self, address: str, bound: int) -> None:
        self._address = address
        self._bound = bound

    def producer(self) -> QueueEnd:
        return SocketEnd(self._address, self._bound, push=True)

    def consumer(self) -> QueueEnd:
        return SocketEnd(self._address, self._bound, push=False)


@contextlib.contextmanager
def open_push_pull(folder: Path, bound: int) -> Iterator[ContestedQueue]:
    """PUSH/PULL at a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    yield PushPull(f"tcp://127.0.0.1:{port}", bound)


TRANSPORTS = {
    each.name: each
    for each in (
        QueueContestant(QUEUE, open_standard),
        QueueContestant(RAW, open_push_pull),
        QueueContestant(NEAR, open_near),
        QueueContestant(FAR_IPC, partial(open_far, "ipc"), hosted=True),
        QueueContestant(FAR_TCP, partial(open_far, "tcp"), hosted=True),
        QueueContestant(REDIS, open_redis, hosted=True),
    )
}


def contestants() -> list[str]:
    """The names of the queues that can be measured on this machine: all, or all but the one in Redis."""
    return [name for name in TRANSPORTS if name != REDIS or version()]
