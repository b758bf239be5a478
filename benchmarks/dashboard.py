"""What a dashboard costs: throughput, and CPU time of the process that has it, beside those without one.

*Unwatched*: nobody connects. *Watched*: a page reads the events, and a scraper the metrics every 5 seconds.
Each round measures every way once, in turn; ratios are taken within a round. The CPU time for a task or an
item shows small costs on a busy machine, too, where throughput varies by more than they are.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.rounds import machine, spread, turns, write_json
from nearfar import Pool, Queue

WAYS = ("without", "unwatched", "watched")
TICK = os.sysconf("SC_CLK_TCK")

WARM, LASTS = 2.5, 6.0
"""Seconds of a measurement: of warming up, and of measuring."""

Rate = tuple[float, float]
"""Tasks or items a second, and for each second of CPU time."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write it as JSON, if a file is named."""
    parser = argparse.ArgumentParser("benchmarks.dashboard", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--output", metavar="FILE", help="write the figures there, as JSON")
    options = parser.parse_args(argv)
    lasts = LASTS / 10 if options.quick else LASTS
    figures: dict[str, Callable[[str], Rate]] = {
        "near pool, tiny tasks": lambda way: near_tasks(way, lasts),
        "coordinator, calls": lambda way: calls(way, lasts),
        "queue, puts and gets": lambda way: items(way, lasts),
    }
    found: dict[str, dict[str, object]] = {}
    print("| a second; ratios to *without* | without | unwatched | for its CPU | watched | for its CPU |")
    print("|---|---|---|---|---|---|")
    for name, measure in figures.items():
        rates: dict[str, list[Rate]] = {way: [] for way in WAYS}
        for number in range(-1, options.rounds):  # the first one warms up
            for way in turns(WAYS, number):
                rate = measure(way)
                if number >= 0:
                    rates[way].append(rate)
        ratios = [
            str(
                spread(
                    [own[which] / base[which] for own, base in zip(rates[way], rates[WAYS[0]], strict=True)]
                )
            )
            for way in WAYS[1:]
            for which in (0, 1)
        ]
        median = spread([rate for rate, _ in rates["without"]]).median
        print(f"| {name} | {median:,.0f} | {' | '.join(ratios)} |", flush=True)
        found[name] = {"rates": rates, "ratios": ratios}
    if options.output:
        write_json(Path(options.output), {"machine": machine(), "figures": found})
    return 0


def timed(work: Callable[[], int], cpu: Callable[[], float], lasts: float) -> Rate:
    """Of `work`, which returns how much it did, called for so many seconds, and before that to warm up: a
    program that was just started imports, and has its first snapshots and requests."""
    until = time.perf_counter() + WARM
    while time.perf_counter() < until:
        work()
    done, began, cpu_before = 0, time.perf_counter(), cpu()
    while (elapsed := time.perf_counter() - began) < lasts:
        done += work()
    return done / elapsed, done / (cpu() - cpu_before)


def near_tasks(way: str, lasts: float) -> Rate:
    """Of a pool of this process."""
    with (
        Pool(2, dashboard=False if way == "without" else "127.0.0.1:*") as pool,
        watcher(pool.dashboard_url if way == "watched" else None),
    ):

        def work() -> int:
            return sum(1 for _ in pool.imap_unordered(abs, range(10_000)))

        return timed(work, time.process_time, lasts)


def calls(way: str, lasts: float) -> Rate:
    """Of a coordinator with two workers."""
    with (
        service(way, "coordinator") as (address, pid),
        service("without", "worker", "--connect", address, "--processes", "2"),
        Pool.connect(address) as pool,
    ):

        def work() -> int:
            for each in [pool.apply_async(len, (b"x" * 100,)) for _ in range(2000)]:
                each.get()
            return 2000

        return timed(work, lambda: cpu_of(pid), lasts)


def items(way: str, lasts: float) -> Rate:
    """Of a queue of a process of its own: batches of 20, put and got by this one."""
    with service(way, "queue") as (address, pid), Queue.connect(address) as queue:
        batch = [b"x" * 100] * 20

        def work() -> int:
            for _ in range(100):
                queue.put_many(batch)
            got = 0
            while got < 2000:
                got += len(queue.get_many(2000))
            return got

        return timed(work, lambda: cpu_of(pid), lasts)


def cpu_of(pid: int) -> float:
    """Seconds of CPU time of a process, to a hundredth."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


@contextlib.contextmanager
def service(way: str, *words: str) -> Iterator[tuple[str, int]]:
    """A program of nearfar, its address or name, and its pid."""
    if words[0] != "worker":
        words = (*words, "--bind", "tcp://127.0.0.1:*")
    url = None
    if way != "without":
        with socket.create_server(("127.0.0.1", 0)) as free:
            place = f"127.0.0.1:{free.getsockname()[1]}"
        words = (*words, "--dashboard", place)
        url = f"http://{place}/" if way == "watched" else None
    command = [sys.executable, "-m", "nearfar", *words]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process,
        watcher(url),
    ):
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1], process.pid
        finally:
            process.terminate()
            process.wait(20)


READ = """
import sys, time, urllib.request
url = sys.argv[1]
while True:
    try:
        events = urllib.request.urlopen(url + "events", timeout=10)
        scraped = 0.0
        for line in events:
            if time.monotonic() - scraped >= 5:
                scraped = time.monotonic()
                urllib.request.urlopen(url + "metrics", timeout=10).read()
    except OSError:
        time.sleep(0.2)
"""


@contextlib.contextmanager
def watcher(url: str | None) -> Iterator[None]:
    """Another process that reads the events, as a page does, and the metrics every 5 seconds."""
    if url is None:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", READ, url], stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
