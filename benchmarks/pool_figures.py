"""What is measured of a pool: each figure takes a way to open one, and gives one value."""

from __future__ import annotations

import gc
import os
import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from statistics import median, quantiles
from typing import Any

from benchmarks.pool_runners import WORKERS, Opening, Runner
from benchmarks.pool_tasks import doubled, same, size, spin

Measure = Callable[[Opening, "Sizes"], float]
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    tasks: int
    items: int
    calls: int
    blocks: int
    """Of 1 MiB."""
    spins: int
    pending: int


FULL = Sizes(tasks=20_000, items=200_000, calls=1000, blocks=500, spins=200, pending=20_000)
QUICK = Sizes(tasks=2000, items=20_000, calls=200, blocks=100, spins=40, pending=2000)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `rate`: more is better, and a ratio above 1 too; else less."""

    name: str
    unit: str
    rate: bool
    measure: Measure


def rate(count: Callable[[Sizes], int], work: Callable[[Runner, int], object]) -> Measure:
    """`work` so many times a second, with a pool that has begun."""

    def measure(opening: Opening, sizes: Sizes) -> float:
        with warm(opening) as runner:
            number = count(sizes)
            random_blocks()
            started = time.perf_counter()
            work(runner, number)
            return number / (time.perf_counter() - started)

    return measure


@contextmanager
def warm(opening: Opening) -> Any:
    with opening("fork") as runner:
        for func, item in ((same, 1), (size, b"12"), (spin, 0.0)):
            runner.singly(func, [item] * 2 * WORKERS)
        yield runner


def calls(which: Callable[[Sequence[float]], float]) -> Measure:
    """Microseconds that blocking calls take."""

    def measure(opening: Opening, sizes: Sizes) -> float:
        with warm(opening) as runner:
            times = []
            for number in range(sizes.calls):
                started = time.perf_counter()
                runner.call(same, number)
                times.append(time.perf_counter() - started)
            return which(times) * 1e6

    return measure


def percentile99(times: Sequence[float]) -> float:
    return quantiles(times, n=100)[-1]


@cache
def random_blocks() -> list[bytes]:
    return [os.urandom(MIB) for _ in range(8)]


def bytes_in(runner: Runner, count: int) -> None:
    blocks = random_blocks()
    runner.singly(size, (blocks[number % len(blocks)] for number in range(count)))


def arrays(runner: Runner, count: int) -> None:
    import numpy

    blocks = [numpy.full(MIB // 8, float(number)) for number in range(8)]
    runner.singly(doubled, (blocks[number % len(blocks)] for number in range(count)))


def efficiency(opening: Opening, sizes: Sizes) -> float:
    """Of the workers' time, the part that tasks of 1 to 20 ms had."""
    dice = random.Random(1)
    times = [dice.uniform(0.001, 0.020) for _ in range(sizes.spins)]
    with warm(opening) as runner:
        started = time.perf_counter()
        runner.singly(spin, times)
        return sum(times) / WORKERS / (time.perf_counter() - started)


def memory(opening: Opening, sizes: Sizes) -> float:
    """Bytes of this process for each task that waits, what stands for its outcome included."""
    with warm(opening) as runner:
        busy = [runner.submit(time.sleep, 0.5) for _ in range(WORKERS)]
        gc.collect()
        tracemalloc.start()
        try:
            pending = [runner.submit(same, number) for number in range(sizes.pending)]
            gc.collect()
            used = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        for result in (*busy, *pending):
            result.get() if hasattr(result, "get") else result.result()
    return used / sizes.pending


def start(method: str) -> Measure:
    """Milliseconds from nothing to the first value."""

    def measure(opening: Opening, sizes: Sizes) -> float:
        started = time.perf_counter()
        with opening(method) as runner:
            runner.call(same, 1)
            return (time.perf_counter() - started) * 1e3

    return measure


FIGURES = [
    Figure(
        "no-op tasks submitted singly",
        "tasks/s",
        True,
        rate(lambda s: s.tasks, lambda r, n: r.singly(same, range(n))),
    ),
    Figure("blocking call, median", "us", False, calls(median)),
    Figure("blocking call, p99", "us", False, calls(percentile99)),
    Figure(
        "map of a list, default chunks",
        "items/s",
        True,
        rate(lambda s: s.items, lambda r, n: r.map(same, list(range(n)))),
    ),
    Figure(
        "map of a range, default chunks",
        "items/s",
        True,
        rate(lambda s: s.items, lambda r, n: r.map(same, range(n))),
    ),
    Figure(
        "imap_unordered, chunksize 1",
        "items/s",
        True,
        rate(lambda s: s.tasks, lambda r, n: list(r.unordered(same, range(n)))),
    ),
    Figure("1 MiB bytes in, length out", "calls/s", True, rate(lambda s: s.blocks, bytes_in)),
    Figure("1 MiB numpy both ways", "calls/s", True, rate(lambda s: s.blocks, arrays)),
    Figure("tasks of 1-20 ms, efficiency", "", True, efficiency),
    Figure("memory of a pending task", "bytes", False, memory),
    Figure("start to first result, fork", "ms", False, start("fork")),
    Figure("start to first result, spawn", "ms", False, start("spawn")),
]
if find_spec("numpy") is None:
    FIGURES = [figure for figure in FIGURES if "numpy" not in figure.name]
