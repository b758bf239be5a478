"""Bodies from one process to another: whole through a ZeroMQ socket (ipc), which is 1, or in a shared ring.

Of a ring, only where each body lies goes through the socket, and how many were read comes back. Items a
second, from the first body to the last; the ring is made, and its pages are filled, before.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import zmq

from benchmarks import tables
from benchmarks.queue_ends import FORK
from nearfar.net.shared_ring import OwnRing, Place, ReadRing, Reference

KIB = 1 << 10
MIB = 1 << 20
TOLD = 32
"""Bodies after which their reader says that it has read them; and all that a quarter of the ring holds."""

Send = Callable[[str, list[bytes], int, Connection], None]
Receive = Callable[[str, int, Connection], float]


@dataclass(frozen=True, slots=True)
class Way:
    """How bodies travel; each function runs in a process of its own."""

    send: Send
    receive: Receive


def send_whole(address: str, bodies: list[bytes], number: int, pipe: Connection) -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(address)
        pipe.send(None)
        for index in range(number):
            socket.send(bodies[index % len(bodies)], copy=False)
        pipe.recv()


def receive_whole(address: str, number: int, pipe: Connection) -> float:
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.bind(address)
        pipe.recv()
        started = time.perf_counter()
        for _ in range(number):
            socket.recv()
        return time.perf_counter() - started


def in_ring(size: int) -> Way:
    """In a ring of `size` bytes."""

    def send(address: str, bodies: list[bytes], number: int, pipe: Connection) -> None:
        ring, held = OwnRing(size), list[Place]()
        with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
            socket.connect(address)
            pipe.send(tuple(ring.reference()))
            pipe.recv()
            given_back = read = 0
            for index in range(number):
                while (place := ring.place(bodies[index % len(bodies)])) is None:
                    read = int(socket.recv())
                    for each in held[given_back:read]:
                        ring.give_back(each)
                    given_back = read
                held.append(place)
                socket.send(place.encode())
            pipe.recv()
        ring.close()

    def receive(address: str, number: int, pipe: Connection) -> float:
        with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
            socket.bind(address)
            ring = ReadRing(Reference(*pipe.recv()))
            pipe.send(None)
            started, since = time.perf_counter(), 0
            for index in range(1, number + 1):
                place = Place.decode(socket.recv())
                ring.read(place)
                since += place.size
                if index % TOLD == 0 or since > size // 4:
                    socket.send(b"%d" % index)
                    since = 0
            took = time.perf_counter() - started
        ring.close()
        return took

    return Way(send, receive)


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    size: int
    count: int
    unit: str = "items/s"
    rate: bool = True

    def measure(self, way: Way, share: float) -> float:
        number = max(TOLD, int(self.count * share))
        folder = Path(tempfile.mkdtemp(prefix="nf-"))
        address = f"ipc://{folder}/bodies"
        ours, theirs = FORK.Pipe()
        bodies = [os.urandom(self.size) for _ in range(16)]
        sender = FORK.Process(target=way.send, args=(address, bodies, number, theirs))
        sender.start()
        try:
            took = way.receive(address, number, ours)
            ours.send(None)
            sender.join()
        finally:
            shutil.rmtree(folder)
        return number / took


WHOLE = "ZeroMQ, ipc"
WAYS = {WHOLE: Way(send_whole, receive_whole)} | {
    f"ring of {size} MiB": in_ring(size * MIB) for size in (4, 8, 16, 32)
}
FIGURES = [
    Figure("4 KiB", 4 * KIB, 50_000),
    Figure("10 KiB", 10 * KIB, 40_000),
    Figure("100 KiB", 100 * KIB, 8_000),
    Figure("1 MiB", MIB, 1_000),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown table, and write both forms."""
    options = make_parser().parse_args(argv)
    figures = [figure for figure in FIGURES if options.only in figure.name]
    share, rounds = (0.1, min(options.rounds, 3)) if options.quick else (1.0, options.rounds)
    rows = [tables.row(figure, share, WAYS, rounds, WHOLE) for figure in figures]
    note = "More is better."
    tables.publish(tables.result(rows, list(WAYS), WHOLE, rounds), options.output, "shared_ring", note)
    return 0


def make_parser() -> argparse.ArgumentParser:
    return tables.make_parser("benchmarks.shared_ring", __doc__, figures=True)


if __name__ == "__main__":
    sys.exit(main())
