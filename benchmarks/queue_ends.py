"""The queues that are compared: each is made here, and handed to a process that was forked."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import context
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Protocol

import zmq

from nearfar import Queue
from nearfar.net import auth
from nearfar.queues.base import BaseQueue

FORK: context.ForkContext = multiprocessing.get_context("fork")


class Ends(Protocol):
    """A queue, seen by its producer or by its consumer. Either process calls `leave` when it is done."""

    def put(self, item: Any) -> None: ...
    def get(self) -> Any: ...
    def put_many(self, items: list[Any]) -> None: ...
    def get_many(self, most: int) -> list[Any]: ...
    def get_and_ack(self) -> Any: ...
    def leave(self) -> None: ...


Opening = Callable[[int], Any]
"""Takes `maxsize`, gives a context manager of `Ends`."""


class Standard:
    """`multiprocessing.Queue`, which has no batches."""

    def __init__(self, maxsize: int) -> None:
        self._queue = FORK.Queue(maxsize)
        self.put = self._queue.put
        self.get = self.get_and_ack = self._queue.get

    def put_many(self, items: list[Any]) -> None:
        for item in items:
            self.put(item)

    def get_many(self, most: int) -> list[Any]:
        return [self.get()]

    def leave(self) -> None:
        self._queue.close()
        self._queue.join_thread()


class Raw:
    """Bare PUSH/PULL with pickle: no bound, no acks, nothing is redelivered."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes]

    def put(self, item: Any) -> None:
        self._open(zmq.PUSH).send(pickle.dumps(item, protocol=5))

    def get(self) -> Any:
        return pickle.loads(self._open(zmq.PULL).recv())

    def put_many(self, items: list[Any]) -> None:
        self._open(zmq.PUSH).send(pickle.dumps(items, protocol=5))

    def get_many(self, most: int) -> list[Any]:
        found: list[Any] = self.get()
        return found

    def get_and_ack(self) -> Any:
        return self.get()

    def leave(self) -> None:
        if self._context is not None:
            self._socket.close(linger=5000)
            self._context.term()

    def _open(self, kind: int) -> zmq.Socket[bytes]:
        if self._context is None:
            self._context = zmq.Context()
            self._socket = self._context.socket(kind)
            if kind == zmq.PULL:
                self._socket.bind(self._address)
            else:
                self._socket.connect(self._address)
        return self._socket


class Ours:
    """A queue of nearfar."""

    def __init__(self, queue: BaseQueue) -> None:
        self._queue = queue
        self.put = queue.put
        self.get = queue.get
        self.put_many = queue.put_many
        self.get_many = queue.get_many

    def get_and_ack(self) -> Any:
        delivery = self._queue.receive()
        delivery.ack()
        return delivery.item

    def leave(self) -> None:
        self._queue.close()
        self._queue.join_thread()


@contextmanager
def standard(maxsize: int = 0) -> Iterator[Ends]:
    yield Standard(maxsize)


@contextmanager
def near(maxsize: int = 0) -> Iterator[Ends]:
    yield Ours(Queue(maxsize))


@contextmanager
def raw(maxsize: int = 0) -> Iterator[Ends]:
    with _folder() as folder:
        yield Raw(f"ipc://{folder}/raw")


def far(transport: str, access: str = "", *, apart: bool = False) -> Opening:
    """A far queue; `access` is ``keys`` or ``insecure``; its host `apart` has a process of its own."""

    @contextmanager
    def opening(maxsize: int = 0) -> Iterator[Ends]:
        with _folder() as folder:
            address = f"ipc://{folder}/queue" if transport == "ipc" else "tcp://127.0.0.1:*"
            options: dict[str, Any] = {"insecure": True} if access == "insecure" else {}
            if access == "keys":
                auth.init(folder / "keys")
                options = {"keys": str(folder / "keys")}
            hosted = _hosted_apart if apart else _hosted_here
            with hosted(maxsize, address, options) as queue:
                yield Ours(queue)

    return opening


@contextmanager
def _hosted_here(maxsize: int, address: str, options: dict[str, Any]) -> Iterator[BaseQueue]:
    queue = Queue(maxsize, address, **options)
    try:
        yield queue
    finally:
        queue.stop_hosting()


@contextmanager
def _hosted_apart(maxsize: int, address: str, options: dict[str, Any]) -> Iterator[BaseQueue]:
    ours, theirs = FORK.Pipe()
    over = FORK.Event()
    host = FORK.Process(target=_host, args=(maxsize, address, options, theirs, over))
    host.start()
    try:
        yield Queue.connect(ours.recv(), **options)
    finally:
        over.set()
        host.join()


@contextmanager
def shipped(maxsize: int = 0) -> Iterator[Ends]:
    """A far queue hosted by the program, with its default options."""
    options = ["--maxsize", str(maxsize)] if maxsize else []
    with service("queue", "--bind", "tcp://127.0.0.1:*", *options) as address:
        yield Ours(Queue.connect(address))


@contextmanager
def service(*words: str) -> Iterator[str]:
    """A program of nearfar, and what stands last in the first line that it says: where it is."""
    command = [sys.executable, "-m", "nearfar", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()
            process.wait(20)


def _host(maxsize: int, address: str, options: dict[str, Any], pipe: Any, over: Event) -> None:
    with _hosted_here(maxsize, address, options) as queue:
        pipe.send(queue.address)  # type: ignore[attr-defined]
        over.wait()


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="nf-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
