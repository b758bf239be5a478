"""What is measured of a queue: a forked producer, and the consumer here; each figure gives one value."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from statistics import median, quantiles
from typing import Any

from benchmarks.queue_ends import FORK, Ends, Opening

KIB = 1 << 10
MIB = 1 << 20
TOGETHER = 1000
"""Items of a batched call, at most; and bytes of one: 1 MiB."""
BLOCKS = 16
"""Distinct items of 1 MiB, put in turn."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `rate`: more is better, and a ratio above 1 too; else less."""

    name: str
    unit: str
    rate: bool
    measure: Callable[[Opening, float], float]
    """Takes a way to open a queue, and which share of the work to do."""


def throughput(size: int, count: int, *, batched: bool = False, maxsize: int = 0) -> Callable[..., float]:
    """Items a second, from the first put to the last get.

    The consumer has a process of its own, too: what a queue sets in its process must not help the next one.
    """

    def apart(opening: Opening, share: float) -> float:
        ours, theirs = FORK.Pipe()
        consumer = FORK.Process(target=lambda: theirs.send(measure(opening, share)))
        consumer.start()
        theirs.close()
        try:
            return float(ours.recv())
        finally:
            consumer.join()

    def measure(opening: Opening, share: float) -> float:
        number = max(20, int(count * share))
        ready, go = FORK.Event(), FORK.Event()
        with opening(maxsize) as queue:
            producer = FORK.Process(target=_produce, args=(queue, size, number, batched, ready, go))
            producer.start()
            queue.get()
            ready.wait()
            started = time.perf_counter()
            go.set()
            _consume(queue, number, batched)
            took = time.perf_counter() - started
            queue.leave()
            producer.join()
        return number / took

    return apart


def round_trip(which: Callable[[Sequence[float]], float]) -> Callable[[Opening, float], float]:
    """Microseconds from a put until the answer to it was got."""

    def measure(opening: Opening, share: float) -> float:
        count = max(100, int(1500 * share))
        with opening(0) as there, opening(0) as back:
            echo = FORK.Process(target=_echo, args=(there, back))
            echo.start()
            times = []
            for number in range(count + 50):
                started = time.perf_counter()
                there.put(number)
                if back.get() != number:
                    raise RuntimeError("another answer than the one that was due")
                times.append(time.perf_counter() - started)
            there.put(None)
            there.leave()
            back.leave()
            echo.join()
        return which(times[50:]) * 1e6

    return measure


def percentile99(times: Sequence[float]) -> float:
    return quantiles(times, n=100)[-1]


def _produce(queue: Ends, size: int, number: int, batched: bool, ready: Event, go: Event) -> None:
    items = _items(size, number)
    queue.put(b"first")
    ready.set()
    go.wait()
    if batched:
        step = max(1, min(TOGETHER, MIB // size))
        for at in range(0, number, step):
            queue.put_many(items[at : at + step])
    else:
        put = queue.put
        for item in items:
            put(item)
    queue.leave()


def _items(size: int, number: int) -> list[bytes]:
    """Distinct objects."""
    distinct = number if size < MIB else min(number, BLOCKS)
    noise = os.urandom(distinct * size)
    items = [noise[at : at + size] for at in range(0, len(noise), size)]
    return (items * (number // distinct + 1))[:number]


def _consume(queue: Ends, number: int, batched: bool) -> None:
    if batched:
        found = 0
        while found < number:
            found += len(queue.get_many(TOGETHER))
    else:
        get = queue.get
        for _ in range(number):
            get()


def _echo(there: Ends, back: Ends) -> None:
    item: Any = 0
    while item is not None:
        item = there.get()
        back.put(item)
    there.leave()
    back.leave()


FIGURES = [
    Figure("100 B, put and get", "items/s", True, throughput(100, 200_000)),
    Figure("100 B, put_many and get_many", "items/s", True, throughput(100, 400_000, batched=True)),
    Figure("10 KiB, put and get", "items/s", True, throughput(10 * KIB, 10_000)),
    Figure("10 KiB, put_many and get_many", "items/s", True, throughput(10 * KIB, 10_000, batched=True)),
    Figure("1 MiB, put and get", "items/s", True, throughput(MIB, 300)),
    Figure("100 B, bound of 1000, put and get", "items/s", True, throughput(100, 50_000, maxsize=1000)),
    Figure("round trip, median", "us", False, round_trip(median)),
    Figure("round trip, p99", "us", False, round_trip(percentile99)),
]
