"""Queues in Redis side by side: redis-py's own commands, which are 1, nearfar, and a host of nearfar.

redis-py appends to a stream, reads with a group and acknowledges, one by one or in pipelines of 100: no
bound, nothing is redelivered. The server is this program's own, in memory; once with `appendfsync always`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.queue_ends import FORK, Ends, Ours, far
from nearfar import Queue

RAW = "redis-py"
NOTE = "More is better. A put of nearfar in Redis is confirmed, as XADD is; a put to a host is not."
BATCH = 100
SIZE = 100
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class Raw:
    """Commands of redis-py."""

    def __init__(self, port: int) -> None:
        import redis

        self._server = redis.Redis(port=port)
        self._server.xgroup_create("raw", "g", "0", mkstream=True)

    def put(self, item: Any) -> None:
        self._server.xadd("raw", {"b": item})

    def get(self) -> Any:
        return self.get_many(1)[0]

    def put_many(self, items: list[Any]) -> None:
        pipeline = self._server.pipeline(transaction=False)
        for item in items:
            pipeline.xadd("raw", {"b": item})
        pipeline.execute()

    def get_many(self, most: int) -> list[Any]:
        reply: Any = self._server.xreadgroup("g", "me", {"raw": ">"}, count=most, block=10_000)
        entries = next(iter(reply.values()))[0] if isinstance(reply, dict) else reply[0][1]
        self._server.xack("raw", "g", *(number for number, _ in entries))
        return [fields[b"b"] for _, fields in entries]

    def leave(self) -> None:
        self._server.close()


@contextmanager
def server(*options: str) -> Iterator[int]:
    """The port of a server on loopback that ends with this."""
    folder = tempfile.mkdtemp(prefix="nf-")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        yield port
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


@contextmanager
def raw(_maxsize: int = 0) -> Iterator[Ends]:
    with server() as port:
        yield Raw(port)


@contextmanager
def ours(*options: str, maxsize: int = 0) -> Iterator[Ends]:
    with server(*options) as port:
        yield Ours(Queue(maxsize, f"redis://127.0.0.1:{port}/0/q"))


CONTESTANTS: dict[str, Callable[[], Any]] = {
    RAW: raw,
    "redis": ours,
    "redis, fsync always": partial(ours, *DURABLE),
    "redis, bound of 1,000": partial(ours, maxsize=1000),
    "far, tcp, own host": partial(far("tcp", apart=True), 0),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A rate: of puts, of gets, or of both at once, by `batch` items."""

    name: str
    what: str
    batch: int
    count: int
    unit: str = "items/s"
    rate: bool = True

    def measure(self, opening: Callable[[], Any], share: float) -> float:
        number = max(2 * BATCH, int(self.count * share)) // BATCH * BATCH
        noise = os.urandom(number * SIZE)
        items = [noise[at : at + SIZE] for at in range(0, len(noise), SIZE)]
        with opening() as queue:
            if self.what == "both":
                producer = FORK.Process(target=_put, args=(queue, items, self.batch, True))
                started = time.perf_counter()
                producer.start()
                _get(queue, number, self.batch)
                took = time.perf_counter() - started
                producer.join()
            else:
                took = self._alone(queue, items)
            queue.leave()
        return number / took

    def _alone(self, queue: Ends, items: list[bytes]) -> float:
        took, chunk = 0.0, 5 * BATCH  # so that a bound of 1,000 is not met
        for at in range(0, len(items), chunk):
            some = items[at : at + chunk]
            started = time.perf_counter()
            _put(queue, some, self.batch, False)
            between = time.perf_counter()
            _get(queue, len(some), self.batch)
            took += between - started if self.what == "put" else time.perf_counter() - between
        return took


def _put(queue: Ends, items: list[bytes], batch: int, leave: bool) -> None:
    for at in range(0, len(items), batch):
        if batch == 1:
            queue.put(items[at])
        else:
            queue.put_many(items[at : at + batch])
    if leave:
        queue.leave()


def _get(queue: Ends, number: int, batch: int) -> None:
    found = 0
    while found < number:
        found += 1 if batch == 1 and queue.get() is not None else len(queue.get_many(batch))


FIGURES = [
    Figure("100 B, put", "put", 1, 10_000),
    Figure("100 B, get", "get", 1, 10_000),
    Figure("100 B, put and get at once", "both", 1, 10_000),
    Figure("100 B, put_many of 100", "put", BATCH, 100_000),
    Figure("100 B, get_many of 100", "get", BATCH, 100_000),
    Figure("100 B, put_many and get_many of 100 at once", "both", BATCH, 100_000),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown table, and write both forms."""
    options = make_parser().parse_args(argv)
    if not shutil.which("redis-server"):
        print("benchmarks.redis: no redis-server is installed: nothing is measured", file=sys.stderr)
        return 0
    figures = [figure for figure in FIGURES if options.only in figure.name]
    share, rounds = (0.1, min(options.rounds, 3)) if options.quick else (1.0, options.rounds)
    rows = [tables.row(figure, share, CONTESTANTS, rounds, RAW) for figure in figures]
    made = tables.result(rows, list(CONTESTANTS), RAW, rounds)
    tables.publish(made, Path(options.output), "redis", NOTE)
    return 0


def make_parser() -> argparse.ArgumentParser:
    return tables.make_parser("benchmarks.redis", __doc__, figures=True)


if __name__ == "__main__":
    sys.exit(main())
