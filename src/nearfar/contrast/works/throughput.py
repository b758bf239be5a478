"""Items a second by their size, put singly, in batches, and singly into a bounded queue: one producer, one
consumer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nearfar.contrast.cast import Cast
from nearfar.contrast.settings import KIB, Settings
from nearfar.contrast.transports.base import FORK, Link, Transport

FIRST, END = b"first", b""
MOST = 64
"""Items of a batch."""
LARGEST = 1024 * KIB
"""Bytes of a batch."""
BOUND = 1000
"""Items that a bounded queue takes, and at most `ROOM` bytes of them."""
ROOM = 8 * LARGEST
LONG = 10 * KIB
"""Bytes of an item, from which on a bound is not measured: a message's own cost hides what counting takes."""


@dataclass(frozen=True, slots=True)
class Way:
    """How items are put."""

    name: str
    size: int
    batch: int = 1
    bound: int = 0


def ways(sizes: tuple[int, ...]) -> list[Way]:
    """Every size in every way that makes sense for it."""
    singly = [Way("singly", size) for size in sizes]
    batched = [Way("batched", size, batch_of(size)) for size in sizes if batch_of(size) > 1]
    bounded = [Way("bounded", size, bound=min(BOUND, ROOM // size)) for size in sizes if size <= LONG]
    return [*singly, *batched, *bounded]


def batch_of(size: int) -> int:
    """How many items of `size` bytes travel together."""
    return min(MOST, LARGEST // size)


def measure(transport: Transport, settings: Settings, folder: Path) -> list[dict[str, Any]]:
    """A row for each size and way. The processes and the queue are new for each."""
    rows = []
    for way in ways(settings.sizes):
        place = folder / f"{way.name}-{way.size}"
        place.mkdir()
        rate, sent, received = flow(transport, settings, place, way)
        rows.append(
            {"way": way.name, "size": way.size, "batch": way.batch, "rate": rate}
            | {"sent": sent, "received": received}
        )
    return rows


def flow(transport: Transport, settings: Settings, folder: Path, way: Way) -> tuple[float, int, int]:
    """Items a second as the consumer saw them, and the counts of both ends."""
    here, there = FORK.Pipe()
    came, coming = FORK.Pipe()
    with Cast() as cast, here, there, came, coming, transport.open(folder, way.bound) as link:
        cast.start(consume, link, way.batch, there, coming)
        cast.start(produce, link, way, settings.traffic, settings.volume, there, came)
        said = dict(here.recv() for _ in range(2))
    received, taken = said["received"]
    return received / taken, said["sent"], received


def produce(link: Link, way: Way, seconds: float, volume: int, told: Connection, came: Connection) -> None:
    """Once a first item has come through, put for so many seconds, or so many bytes; then say the end."""
    producer = link.producer()
    items = endless(way.size)
    put = producer.put if way.batch == 1 else lambda item: producer.put_many([item])
    put(FIRST)
    came.recv()
    most = max(1, volume // way.size // way.batch)
    until = time.perf_counter() + seconds
    batches = 0
    if way.batch == 1:
        while batches < most and time.perf_counter() < until:
            producer.put(next(items))
            batches += 1
    else:
        while batches < most and time.perf_counter() < until:
            producer.put_many([next(items) for _ in range(way.batch)])
            batches += 1
    put(END)
    producer.finish()
    told.send(("sent", batches * way.batch))


def endless(size: int) -> Iterator[bytes]:
    """Random bytes, the items of a batch all different: a repeated object flatters what pickles them
    together."""
    return cycle([os.urandom(size) for _ in range(min(MOST, max(4, ROOM // size)))])


def consume(link: Link, batch: int, told: Connection, coming: Connection) -> None:
    """Get all; the time is that from the first sign of life to the end."""
    consumer = link.consumer()
    received = 0
    if batch == 1:
        consumer.get()
        coming.send("first")
        begun = time.perf_counter()
        while consumer.get() != END:
            received += 1
    else:
        consumer.get_many(batch)
        coming.send("first")
        begun = time.perf_counter()
        while (items := consumer.get_many(batch))[-1] != END:
            received += len(items)
        received += len(items) - 1
    told.send(("received", (received, time.perf_counter() - begun)))
