"""Bare PUSH/PULL: the cautionary baseline. It shows what ZeroMQ does by itself, and what the far queue adds.

The producer binds, consumers connect; items are msgpack. Nobody counts, acknowledges, or takes anything back.
The high-water mark is the bound, at both ends. No code outside the contrast should do this.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import zmq

from nearfar.contrast.transports.base import Consumer, Link, Producer


class RawProducer(Producer):
    def __init__(self, address: str, bound: int) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, bound)
        self._socket.bind(address)

    def put(self, item: Any) -> None:
        self._socket.send(msgpack.packb(item))

    def put_many(self, items: list[Any]) -> None:
        self._socket.send(msgpack.packb(items))

    def finish(self) -> None:
        self._socket.close()  # it lingers for ever by default
        self._context.term()


class RawConsumer(Consumer):
    def __init__(self, address: str, bound: int) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, bound)
        self._socket.connect(address)

    def get(self) -> Any:
        return msgpack.unpackb(self._socket.recv())

    def get_many(self, most: int) -> list[Any]:
        items: list[Any] = msgpack.unpackb(self._socket.recv())
        return items


class RawLink(Link):
    def __init__(self, address: str, bound: int) -> None:
        self._address = address
        self._bound = bound

    def producer(self) -> Producer:
        return RawProducer(self._address, self._bound)

    def consumer(self) -> Consumer:
        return RawConsumer(self._address, self._bound)


@contextlib.contextmanager
def open_raw(folder: Path, bound: int) -> Iterator[Link]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    yield RawLink(f"tcp://127.0.0.1:{port}", bound)
