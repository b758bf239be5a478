"""A million no-op tasks: how much memory each process has on the way."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import tables
from benchmarks.pool_runners import Opening, far_workers, near
from benchmarks.pool_tasks import same
from benchmarks.processes import family, resident
from nearfar.cli.options import positive

POINTS = (0.1, 0.5, 1.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown table, and write both forms."""
    parser = argparse.ArgumentParser("benchmarks.pool_million", description=__doc__)
    parser.add_argument("--tasks", type=positive, default=1_000_000, metavar="N", help="(%(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench-results"), metavar="DIR")
    options = parser.parse_args(argv)
    names = [f"at {point:.0%}" for point in POINTS]
    pools: dict[str, Mapping[str, list[float]]] = {"near": watch(near, options.tasks)}
    with far_workers() as far:
        pools["far"] = watch(far, options.tasks)
    rows = []
    for pool, processes in pools.items():
        for process, sizes in processes.items():
            values = {name: [size] for name, size in zip(names, sizes, strict=True)}
            rows.append(tables.figure(f"{pool}: {process}", "MiB", values, names[0], rate=False))
    made = tables.result(rows, names, names[0], 1)
    note = f"Resident memory while {options.tasks:,} no-op tasks go through imap_unordered, one by one."
    tables.publish(made, options.output, "pool-million", note)
    return 0


def watch(opening: Opening, tasks: int) -> Mapping[str, list[float]]:
    """MiB of each process at each of `POINTS`."""
    stops = {int(tasks * point) for point in POINTS}
    sizes: dict[str, list[float]] = {}
    with opening("fork") as runner:
        for count, _ in enumerate(runner.unordered(same, range(tasks)), 1):
            if count in stops:
                for name, size in looked_at():
                    sizes.setdefault(name, []).append(size)
    return {name: each for name, each in sizes.items() if len(each) == len(POINTS)}


def looked_at() -> Iterator[tuple[str, float]]:
    """This process and all below it, with MiB of each."""
    for pid in family(os.getpid()):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        program = next((word for word in words if word in ("coordinator", "worker")), "a worker process")
        if size := resident(pid):
            yield "the caller" if pid == os.getpid() else f"{program}, {pid}", size


if __name__ == "__main__":
    sys.exit(main())
