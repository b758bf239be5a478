"""The services as they are started without options: `nearfar queue`, and `nearfar coordinator` with a worker.

Puts of the queue beside those with ``--maxbytes 0``, which is 1: its bound in bytes is to cost little. Calls
of the pool beside those with ``--max-bytes 0``.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks.queue_ends import service
from benchmarks.rounds import machine, turns, write_json
from nearfar import Pool, Queue

SIZE = 100
"""Bytes of an item, and of an argument."""
WAYS: dict[str, dict[str, tuple[str, ...]]] = {
    "queue": {"--maxbytes 0": ("--maxbytes", "0"), "as shipped": ()},
    "pool": {"--max-bytes 0": ("--max-bytes", "0"), "as shipped": ()},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write it as JSON, if a file is named."""
    options = make_parser().parse_args(argv)
    share = 0.1 if options.quick else 1.0
    figures: dict[str, tuple[str, Callable[[tuple[str, ...]], float]]] = {
        "puts/s, one producer": ("queue", lambda way: puts(way, 1, int(100_000 * share))),
        "puts/s, four producers": ("queue", lambda way: puts(way, 4, int(100_000 * share))),
        "items/s in batches of 100": ("queue", lambda way: puts(way, 1, int(300_000 * share), together=100)),
        "calls/s, submitted singly": ("pool", lambda way: calls(way, int(10_000 * share))),
        "1 MiB results/s": ("pool", lambda way: results(way, int(300 * share))),
    }
    found: dict[str, dict[str, float]] = {}
    for name, (program, measure) in figures.items():
        ways = list(WAYS[program])
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(options.rounds):
            for way in turns(ways, number):
                rates[way].append(measure(WAYS[program][way]))
        found[name] = {way: round(median(each), 1) for way, each in rates.items()}
        free, shipped = found[name].values()
        print(f"{name:28} {free:12,.0f} {shipped:12,.0f}   {shipped / free:.2f}", flush=True)
    if options.output:
        write_json(Path(options.output), {"machine": machine(), "figures": found})
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.shipped", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--output", metavar="FILE", help="write the figures there, as JSON")
    return parser


def puts(options: tuple[str, ...], producers: int, count: int, together: int = 1) -> float:
    """Items a second from so many producers to one consumer."""
    fork = multiprocessing.get_context("fork")
    each = count // producers // together * together
    with service("queue", "--bind", "tcp://127.0.0.1:*", *options) as address:
        begin = fork.Event()
        made = [
            fork.Process(target=_produce, args=(address, each, together, begin)) for _ in range(producers)
        ]
        for process in made:
            process.start()
        with Queue.connect(address) as queue:
            queue.qsize()
            began = time.perf_counter()
            begin.set()
            for _ in range(each * producers):
                queue.get()
            seconds = time.perf_counter() - began
        for process in made:
            process.join()
    return each * producers / seconds


def _produce(address: str, count: int, together: int, begin: object) -> None:
    with Queue.connect(address) as queue:
        queue.qsize()
        begin.wait()  # type: ignore[attr-defined]
        items = [os.urandom(SIZE) for _ in range(max(together, 64))]
        if together > 1:
            for _ in range(count // together):
                queue.put_many(items[:together])
        else:
            for number in range(count):
                queue.put(items[number % 64])


@contextlib.contextmanager
def pool(options: tuple[str, ...]) -> Iterator[Pool]:
    """A coordinator with these options, and a pool over its two workers."""
    with (
        service("coordinator", "--bind", "tcp://127.0.0.1:*", *options) as address,
        service("worker", "--connect", address, "--processes", "2", *options),
        Pool.connect(address) as made,
    ):
        made.map(len, [b"warm"] * 100)
        yield made


def calls(options: tuple[str, ...], count: int) -> float:
    """Calls a second that do nothing, each with its argument."""
    with pool(options) as made:
        argument = os.urandom(SIZE)
        began = time.perf_counter()
        pending = [made.apply_async(len, (argument,)) for _ in range(count)]
        for each in pending:
            each.get()
        return count / (time.perf_counter() - began)


def results(options: tuple[str, ...], count: int) -> float:
    """Results of 1 MiB a second."""
    with pool(options) as made:
        began = time.perf_counter()
        pending = [made.apply_async(bytes, (1 << 20,)) for _ in range(count)]
        for each in pending:
            each.get()
        return count / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main())
