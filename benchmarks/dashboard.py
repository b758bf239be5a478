"""What a dashboard costs: throughput with one, and a page and a scraper that read it, beside that without.

Each round measures every way once, in turn; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.rounds import machine, spread, turns, write_json
from benchmarks.shipped import calls, puts
from nearfar import Pool

WAYS = ("without", "unwatched", "watched")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write it as JSON, if a file is named."""
    parser = argparse.ArgumentParser("benchmarks.dashboard", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--output", metavar="FILE", help="write the figures there, as JSON")
    options = parser.parse_args(argv)
    share = 0.1 if options.quick else 1.0
    figures: dict[str, Callable[[str], float]] = {
        "near pool, tiny tasks/s": lambda way: near_tasks(way, int(1_000_000 * share)),
        "coordinator, calls/s": lambda way: served(way, lambda words: calls(words, int(60_000 * share), ())),
        "queue, puts/s": lambda way: served(way, lambda words: puts(words, 1, int(600_000 * share))),
    }
    found: dict[str, dict[str, object]] = {}
    print(f"{'':26} {'without':>12} {'unwatched':>22} {'watched':>22}")
    for name, measure in figures.items():
        rates: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(-1, options.rounds):  # the first one warms up
            for way in turns(WAYS, number):
                rate = measure(way)
                if number >= 0:
                    rates[way].append(rate)
        ratios = {
            way: spread([a / b for a, b in zip(rates[way], rates["without"], strict=True)])
            for way in WAYS[1:]
        }
        print(
            f"{name:26} {spread(rates['without']).median:12,.0f}"
            + "".join(f" {ratio!s:>22}" for ratio in ratios.values()),
            flush=True,
        )
        found[name] = {"rates": rates, "ratios": {way: str(ratio) for way, ratio in ratios.items()}}
    if options.output:
        write_json(Path(options.output), {"machine": machine(), "figures": found})
    return 0


def near_tasks(way: str, count: int) -> float:
    """Tasks a second of a pool of this process."""
    with (
        Pool(2, dashboard=False if way == "without" else "127.0.0.1:*") as pool,
        watcher(pool.dashboard_url if way == "watched" else None),
    ):
        pool.map(abs, range(1000))
        began = time.perf_counter()
        for _ in pool.imap_unordered(abs, range(count)):
            pass
        return count / (time.perf_counter() - began)


def served(way: str, measure: Callable[[tuple[str, ...]], float]) -> float:
    """What `measure` measures of programs that are started with these options."""
    if way == "without":
        return measure(())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = f"127.0.0.1:{port}"
    with watcher(f"http://{place}/" if way == "watched" else None):
        return measure(("--dashboard", place))


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
