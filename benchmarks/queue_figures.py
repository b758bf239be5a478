"""What is measured of a queue: a forked producer, and the consumer here; each figure gives one value."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier, Event
from statistics import median, quantiles
from typing import Any

from benchmarks.queue_ends import FORK, Ends, Opening, Raw

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


def throughput(
    size: int, count: int, *, batched: bool = False, maxsize: int = 0, acks: bool = False
) -> Callable[..., float]:
    """Items a second, from the first put to the last get; with `acks`, each is received and acked, in queues
    that have this.

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
            _consume(queue, number, batched, acks)
            took = time.perf_counter() - started
            queue.leave()
            producer.join()
        return number / took

    return apart


def crowd(size: int, count: int, pairs: int, *, batched: bool = False) -> Callable[[Opening, float], float]:
    """Items a second of `pairs` producers and as many consumers, each a process, until the last item was got.

    The consumers end as those of `multiprocessing.Queue` do: each gets a None.
    """

    def measure(opening: Opening, share: float) -> float:
        each = max(20, int(count * share) // pairs)
        go = FORK.Event()
        with opening(0) as queue:
            if isinstance(queue, Raw):
                raise NotImplementedError("one process binds its address")
            ready, got = FORK.Barrier(2 * pairs + 1), FORK.SimpleQueue()
            arguments = (queue, size, each, batched, ready, go)
            producers = [FORK.Process(target=_produce, args=arguments) for _ in range(pairs)]
            consumers = [
                FORK.Process(target=_consume_until_none, args=(queue, batched, ready, got))
                for _ in range(pairs)
            ]
            for process in producers + consumers:
                process.start()
            ready.wait()
            started = time.perf_counter()
            go.set()
            for process in producers:
                process.join()
            for _ in consumers:
                queue.put(None)
            found = [got.get() for _ in consumers]
            for process in consumers:
                process.join()
            queue.leave()
        if sum(number for number, _ in found) != pairs * (each + 1):
            raise RuntimeError("items are missing, or came twice")
        return float(pairs * each / (max(when for _, when in found) - started))

    return measure


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


def _produce(queue: Ends, size: int, number: int, batched: bool, ready: Event | Barrier, go: Event) -> None:
    items = _items(size, number)
    queue.put(b"first")
    if isinstance(ready, Event):
        ready.set()
    else:
        ready.wait()
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


def _consume(queue: Ends, number: int, batched: bool, acks: bool) -> None:
    if batched:
        found = 0
        while found < number:
            found += len(queue.get_many(TOGETHER))
    else:
        get = queue.get_and_ack if acks else queue.get
        for _ in range(number):
            get()


def _consume_until_none(
    queue: Ends, batched: bool, ready: Barrier, got: SimpleQueue[tuple[int, float]]
) -> None:
    """Tell how many items came, and when the last one did."""
    number, when, over = 0, 0.0, False
    ready.wait()
    while not over:
        items = queue.get_many(TOGETHER) if batched else [queue.get()]
        over = None in items
        real = [item for item in items if item is not None]
        if real:
            number, when = number + len(real), time.perf_counter()
        for _ in range(len(items) - len(real) - over):  # those of other consumers
            queue.put(None)
    got.put((number, when))
    queue.leave()


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
    Figure("100 B, put, receive and ack", "items/s", True, throughput(100, 100_000, acks=True)),
    Figure("10 KiB, put and get", "items/s", True, throughput(10 * KIB, 10_000)),
    Figure("10 KiB, put_many and get_many", "items/s", True, throughput(10 * KIB, 10_000, batched=True)),
    Figure("1 MiB, put and get", "items/s", True, throughput(MIB, 300)),
    Figure("100 B, bound of 1000, put and get", "items/s", True, throughput(100, 50_000, maxsize=1000)),
    Figure("100 B, 50 producers and 50 consumers, put and get", "items/s", True, crowd(100, 100_000, 50)),
    Figure(
        "100 B, 50 producers and 50 consumers, put_many and get_many",
        "items/s",
        True,
        crowd(100, 200_000, 50, batched=True),
    ),
    Figure("round trip, median", "us", False, round_trip(median)),
    Figure("round trip, p99", "us", False, round_trip(percentile99)),
]
