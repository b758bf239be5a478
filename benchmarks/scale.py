"""How far one coordinator and one queue's host go: real programs on machines that are network namespaces.

Everything is encrypted with keys. The services run on one machine, workers and the queue's ends on four
others. All share this machine's cores, so rates are those of everything together. What the service alone
spends is read from its process: CPU for a task or an item, CPU a second when nothing happens, memory,
descriptors. Beyond 200 processes `pool_machines` and `ledger` simulate the peers. Needs root, for the
namespaces; runs in a clone only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks import tables
from benchmarks.pool_runners import keys
from benchmarks.processes import resident
from benchmarks.rounds import machine, write_json
from nearfar import Executor, Pool, Queue
from tests.chaos.faults.hosts import Hosts, missing
from tests.chaos.faults.starting import enter_network

OTHERS = ("b", "c", "d", "e")
"""The machines of workers and of a queue's ends; the services and this program are on machine "a"."""
TICK = os.sysconf("SC_CLK_TCK")
POOLS = ((10, 5), (50, 10), (100, 25), (200, 50), (100, 1))
"""Workers in all, and worker processes of each agent."""
ENDS = (10, 50, 100, 200)
"""Processes with a queue, half of them producers."""
PAUSE = 5.0
"""Seconds over which an idle service is watched."""

Figures = dict[str, float]


class Program:
    """A program of ours on one of the machines."""

    def __init__(self, hosts: Hosts, host: str, *words: str) -> None:
        self._command = ["ip", "netns", "exec", hosts.network(host), sys.executable, "-m", *words]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        """The next line that it prints, without spaces around it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def killed_and_restarted(self) -> None:
        self.process.kill()
        self._reap()
        self.process = self._start()
        self.line()

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def idle(self) -> float:
        """Milliseconds of CPU a second while nothing happens."""
        before = self.cpu()
        time.sleep(PAUSE)
        return (self.cpu() - before) / PAUSE * 1000

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.process.kill()
        self._reap()

    def _reap(self) -> None:
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print Markdown tables, and write them as JSON, too."""
    parser = tables.make_parser("benchmarks.scale", __doc__)
    parser.add_argument("--quick", action="store_true", help="only the smallest and the largest of each")
    options = parser.parse_args(argv)
    if reason := missing():
        print(f"benchmarks.scale: {reason}", file=sys.stderr)
        return 0
    found: dict[str, list[Figures]] = {}
    with Hosts(["a", *OTHERS]) as hosts, keys() as folder:
        os.environ["NEARFAR_KEYS"] = str(folder)
        enter_network(hosts.network("a"))
        pools = (POOLS[0], POOLS[-2]) if options.quick else POOLS
        ends = (ENDS[0], ENDS[-1]) if options.quick else ENDS
        found["pool"] = [measured_pool(hosts, *each) for each in pools]
        print(markdown(found["pool"]), flush=True)
        found["queue"] = [measured_queue(hosts, each) for each in ends]
        print(markdown(found["queue"]), flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "scale.json", {"machine": machine(), **found})
    return 0


def markdown(rows: Sequence[Figures]) -> str:
    lines = [f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
    lines += [f"| {' | '.join(f'{value:,.4g}' for value in row.values())} |" for row in rows]
    return "\n".join(lines) + "\n"


# -- pool ----------------------------------------------------------------------------------------------


def measured_pool(hosts: Hosts, workers: int, each: int) -> Figures:
    """One coordinator with `workers` worker processes, `each` of them of one agent."""
    address = f"tcp://{hosts.address('a')}:5556"
    with contextlib.ExitStack() as stack:
        coordinator = started(stack, hosts, "a", "nearfar", "coordinator", "--bind", address)
        coordinator.line()
        for number in range(workers // each):
            command = ("worker", "--connect", address, "--processes", str(each))
            started(stack, hosts, OTHERS[number % len(OTHERS)], "nearfar", *command)
        pool = stack.enter_context(Pool.connect(address, wait=120))
        executor = stack.enter_context(Executor.connect(address, wait=120))
        executor.submit(abs, 1).result()
        wait_for(lambda: executor.engine.counts()["workers"] == workers)
        list(pool.imap_unordered(abs, range(20 * workers)))
        figures = {"workers": float(workers), "agents": float(workers // each)}
        figures["idle, ms of CPU/s"] = coordinator.idle()
        figures["sleep(0.05), efficiency"] = efficiency(pool, workers)
        figures["calls/s in batches"], figures["CPU us of each"] = batched(pool, coordinator)
        figures["call alone, us"], figures["its CPU us"] = alone(pool, coordinator)
        figures["1 MiB results/s"] = large(pool)
        figures["MiB"] = resident(coordinator.process.pid)
        figures["descriptors"] = float(coordinator.descriptors())
        figures["after a kill, s to the first call"], figures["s to all workers"] = recovery(
            pool, executor, coordinator, workers
        )
    return figures


def started(stack: contextlib.ExitStack, hosts: Hosts, host: str, *words: str) -> Program:
    program = Program(hosts, host, *words)
    stack.callback(program.close)
    return program


def efficiency(pool: Pool, workers: int) -> float:
    tasks = 40 * workers
    began = time.perf_counter()
    for _ in pool.imap_unordered(time.sleep, [0.05] * tasks):
        pass
    return tasks * 0.05 / workers / (time.perf_counter() - began)


def batched(pool: Pool, coordinator: Program, tasks: int = 20_000) -> tuple[float, float]:
    cpu, began = coordinator.cpu(), time.perf_counter()
    for _ in pool.imap_unordered(abs, range(tasks)):
        pass
    took = time.perf_counter() - began
    return tasks / took, (coordinator.cpu() - cpu) / tasks * 1e6


def alone(pool: Pool, coordinator: Program, calls: int = 500) -> tuple[float, float]:
    taken, cpu = [], coordinator.cpu()
    for number in range(calls):
        began = time.perf_counter()
        pool.apply(abs, (number,))
        taken.append(time.perf_counter() - began)
    return median(taken) * 1e6, (coordinator.cpu() - cpu) / calls * 1e6


def large(pool: Pool, calls: int = 200) -> float:
    began = time.perf_counter()
    for _ in pool.imap_unordered(bytes, [1 << 20] * calls):
        pass
    return calls / (time.perf_counter() - began)


def recovery(pool: Pool, executor: Executor, coordinator: Program, workers: int) -> tuple[float, float]:
    """Seconds from the new process's first line until a call is answered, and until all workers are back."""
    coordinator.killed_and_restarted()
    began = time.perf_counter()
    pool.apply(abs, (-1,))
    first = time.perf_counter() - began
    wait_for(lambda: executor.engine.counts()["workers"] == workers)
    return first, time.perf_counter() - began


def wait_for(true: Callable[[], bool], within: float = 180.0) -> None:
    until = time.monotonic() + within
    while not true():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {within:g} s")
        time.sleep(0.01)


# -- queue ---------------------------------------------------------------------------------------------


def measured_queue(hosts: Hosts, ends: int) -> Figures:
    """One host of a queue with `ends` processes, half of them producers of 100 bytes an item."""
    figures = {"processes": float(ends)}
    for name, together, items in (("singly", 1, 60_000), ("by 100", 100, 300_000)):
        with queue_with_ends(hosts, ends, together, items) as (host, groups):
            if together == 1:
                figures["idle, ms of CPU/s"] = host.idle()
                figures["descriptors"] = float(host.descriptors())
            cpu, began = host.cpu(), time.perf_counter()
            for group in groups:
                group.say("go")
            came = sum(int(group.line()) for group in groups)
            took = time.perf_counter() - began
            figures[f"items/s, {name}"] = came / took
            figures[f"CPU us of each, {name}"] = (host.cpu() - cpu) / came * 1e6
            figures["MiB"] = resident(host.process.pid)
    return figures


@contextlib.contextmanager
def queue_with_ends(
    hosts: Hosts, ends: int, together: int, items: int
) -> Iterator[tuple[Program, list[Program]]]:
    address = f"tcp://{hosts.address('a')}:5555"
    with contextlib.ExitStack() as stack:
        host = started(stack, hosts, "a", "nearfar", "queue", "--bind", address, "--expected-producers", "1")
        host.line()
        share = [ends // len(OTHERS) + (number < ends % len(OTHERS)) for number in range(len(OTHERS))]
        groups = [
            started(
                stack,
                hosts,
                name,
                "benchmarks.scale_ends",
                address,
                *map(str, (count, together, items // ends)),
            )
            for name, count in zip(OTHERS, share, strict=True)
        ]
        for group in groups:
            if group.line() != "ready":
                raise RuntimeError("an end of the queue could not start")
        yield host, groups
        with Queue.connect(address) as queue:
            queue.shutdown(immediate=True)


if __name__ == "__main__":
    sys.exit(main())
