"""Round trips: an item of 100 bytes goes to another process through one queue, and comes back through a
second."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nearfar.contrast.cast import Cast
from nearfar.contrast.quantiles import percentiles
from nearfar.contrast.settings import Settings
from nearfar.contrast.transports.base import FORK, Link, Transport

WARM_UP = 20


def measure(transport: Transport, settings: Settings, folder: Path) -> dict[str, Any]:
    """Percentiles of the round trips, in microseconds."""
    here, there = FORK.Pipe()
    for name in ("there", "back"):
        (folder / name).mkdir()
    with (
        Cast() as cast,
        here,
        there,
        transport.open(folder / "there", 0) as out,
        transport.open(folder / "back", 0) as back,
    ):
        cast.start(echo, out, back)
        cast.start(ask, out, back, settings.trips, there)
        return {"microseconds": percentiles(here.recv())}


def echo(out: Link, back: Link) -> None:
    consumer, producer = out.consumer(), back.producer()
    while True:
        producer.put(consumer.get())


def ask(out: Link, back: Link, trips: int, told: Connection) -> None:
    producer, consumer = out.producer(), back.consumer()
    item = os.urandom(100)
    times = []
    for _ in range(WARM_UP + trips):
        begun = time.perf_counter()
        producer.put(item)
        consumer.get()
        times.append((time.perf_counter() - begun) * 1e6)
    told.send(times[WARM_UP:])
