"""Plans the measurements, and runs each in a process group of its own with a time limit.

A measurement that hangs, as some of these queues do after a fault, is killed and reported as stuck. The
process of a measurement is ``python -m nearfar.contrast.runner ORDER``; see `run_measurement`.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nearfar.contrast.faults import FAULTS, measure_download, measure_fault
from nearfar.contrast.machine import processor, sha256
from nearfar.contrast.pools import OPENERS, WORKER_DEATHS, measure_death, measure_speed
from nearfar.contrast.redis_server import version
from nearfar.contrast.settings import LEASE, Measurement, Settings
from nearfar.contrast.transports import TRANSPORTS
from nearfar.contrast.workloads import WORKLOADS
from nearfar.net.interrupts import Shield
from nearfar.worker.lifetime import hang_on, lifeline

PARTS = ("queue", "faults", "download", "pool")
"""What ``--only`` may name."""
PARALLEL = 5
"""Measurements that run at the same time if they count and are not timed: they wait most of the time."""
RESULT = "result.json"
GRACE = 2.0
"""Seconds that a process has to end once it has written its result."""
POLL = 0.1

# -- the plan --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MeasurementGroup:
    """Measurements of which at most `parallel` run at the same time. What is timed runs alone."""

    measurements: Sequence[Measurement]
    parallel: int = 1


def plan(parts: Sequence[str], settings: Settings, queues: Sequence[str]) -> Iterator[MeasurementGroup]:
    """Everything to measure, in rounds of all contestants, each round begun by another one. `queues`: those
    that are compared."""
    if "queue" in parts:
        for work in ("throughput", "latency", "start-up"):
            yield MeasurementGroup(rounds_of("queue", work, queues, settings.rounds))
        yield MeasurementGroup(rounds_of("queue", "memory", queues, 1), PARALLEL)
    if "faults" in parts:
        for name, fault in FAULTS.items():
            able = [name for name in queues if TRANSPORTS[name].hosted or not fault.needs_host]
            yield MeasurementGroup(rounds_of("faults", name, able, settings.trials), PARALLEL)
    if "download" in parts:
        yield MeasurementGroup(rounds_of("download", "getfile", queues, settings.rounds))
        killed = rounds_of("download", "getfile killed", queues, settings.trials)
        yield MeasurementGroup(killed, PARALLEL)
    if "pool" in parts:
        yield MeasurementGroup(rounds_of("pool", "speed", list(OPENERS), settings.rounds))
        for name in WORKER_DEATHS:
            yield MeasurementGroup(rounds_of("pool", name, list(OPENERS), settings.trials), PARALLEL)


def rounds_of(part: str, work: str, contestants: Sequence[str], rounds: int) -> list[Measurement]:
    """So many rounds of all contestants."""
    measurements: list[Measurement] = []
    for turn in range(rounds):
        shift = turn % len(contestants)
        order = (*contestants[shift:], *contestants[:shift])
        measurements += [Measurement(part, work, contestant, turn) for contestant in order]
    return measurements


# -- in the process of a measurement ---------------------------------------------------------------


def run_measurement(order: str) -> None:
    """Do the ``measurement`` of the order (JSON) with its ``settings``, and write the result into its
    ``folder``.

    ``lifeline``: a descriptor whose other end the runner holds. When that is closed, the kernel kills this
    process and all that it started.
    """
    parsed = json.loads(order)
    hang_on(parsed["lifeline"])
    fcntl.fcntl(parsed["lifeline"], fcntl.F_SETOWN, -os.getpgrp())
    folder = Path(parsed["folder"])
    settings = Settings(**parsed["settings"] | {"sizes": tuple(parsed["settings"]["sizes"])})
    perform(Measurement(**parsed["measurement"]), settings, folder, partial(_write_result, folder))


def perform(measurement: Measurement, settings: Settings, folder: Path, tell: Callable[[Any], None]) -> None:
    """Measure, and call `tell` with the result, once."""
    name, work, turn = measurement.contestant, measurement.work, measurement.turn
    if measurement.part == "pool" and work == "speed":
        tell(measure_speed(name, settings, folder))
    elif measurement.part == "pool":
        measure_death(name, settings, folder, work, tell)
    elif measurement.part == "faults":
        tell(measure_fault(TRANSPORTS[name], settings, folder, work, turn))
    elif measurement.part == "download":
        kill = work == "getfile killed"
        tell(measure_download(TRANSPORTS[name], settings, folder, kill=kill, number=turn))
    else:
        tell(WORKLOADS[work](TRANSPORTS[name], settings, folder))


def _write_result(folder: Path, result: Any) -> None:
    """Write the result whole or not at all."""
    draft = folder / "draft.json"
    draft.write_text(json.dumps(result), encoding="utf-8")
    draft.replace(folder / RESULT)


# -- in the process of the program -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MeasurementOutcome:
    """How a measurement ended: with a `result`, or with `trouble`, which says what went wrong."""

    measurement: Measurement
    result: Any = None
    trouble: str = ""


@dataclass(slots=True)
class Sandbox:
    """A running measurement. Everything that it starts is in its process group."""

    measurement: Measurement
    folder: Path
    process: subprocess.Popen[bytes]
    ended: int
    """Readable when the process has ended."""
    lifeline: int
    until: float
    has_result: bool = field(default=False)

    def is_over(self, now: float) -> bool:
        """Whether it has ended, or its time is over."""
        if not self.has_result and (self.folder / RESULT).exists():
            self.has_result = True
            self.until = min(self.until, now + GRACE)
        return now >= self.until or bool(select.select([self.ended], [], [], 0)[0])

    def remove(self) -> None:
        """Kill all of its processes, and remove its files."""
        # Before its leader is waited for: after that, the number of the group may belong to another one.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.ended)
        os.close(self.lifeline)
        shutil.rmtree(self.folder, ignore_errors=True)

    def outcome(self, limit: float) -> MeasurementOutcome:
        """What it wrote, read before it is removed."""
        with suppress(FileNotFoundError):
            result = json.loads((self.folder / RESULT).read_text(encoding="utf-8"))
            return MeasurementOutcome(self.measurement, result)
        output = (self.folder / "output").read_text(encoding="utf-8", errors="replace").strip()
        last = f": {output.splitlines()[-1]}" if output else ""
        if select.select([self.ended], [], [], 0)[0]:
            return MeasurementOutcome(self.measurement, trouble=f"failed{last}")
        return MeasurementOutcome(self.measurement, trouble=f"stuck for {limit:g} s{last}")


class MeasurementRunner:
    """Use it as a context manager, in the main thread. Leaving it kills what is still running.

    If this process is killed, the kernel kills the measurements; their temporary folders stay.
    """

    def __init__(self, settings: Settings, report: Callable[[MeasurementOutcome], None]) -> None:
        """`report` is called with each outcome."""
        self._settings = settings
        self._report = report
        self._running: list[Sandbox] = []

    def run(self, group: MeasurementGroup) -> list[MeasurementOutcome]:
        """Run all measurements of the group."""
        waiting = deque(group.measurements)
        outcomes = []
        while waiting or self._running:
            while waiting and len(self._running) < group.parallel:
                with Shield():  # otherwise one could strike between the start and its registration
                    self._running.append(self._start(waiting.popleft()))
            select.select([sandbox.ended for sandbox in self._running], [], [], POLL)
            now = time.monotonic()
            for sandbox in [sandbox for sandbox in self._running if sandbox.is_over(now)]:
                outcomes.append(sandbox.outcome(self._settings.limit))
                with Shield():
                    self._running.remove(sandbox)
                    sandbox.remove()
                self._report(outcomes[-1])
        return outcomes

    def _start(self, measurement: Measurement) -> Sandbox:
        folder = Path(tempfile.mkdtemp(prefix="nearfar-contrast-"))
        theirs, ours = lifeline()
        order = {
            "measurement": asdict(measurement),
            "settings": asdict(self._settings),
            "folder": str(folder),
            "lifeline": theirs,
        }
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "nearfar.contrast.runner", json.dumps(order)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs],
                start_new_session=True,
            )
        os.close(theirs)
        until = time.monotonic() + self._settings.limit
        return Sandbox(measurement, folder, process, os.pidfd_open(process.pid), ours, until)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with Shield():
            while self._running:
                self._running.pop().remove()


# -- the document of a run -------------------------------------------------------------------------


def document(
    settings: Settings, outcomes: Sequence[MeasurementOutcome], *, planned: int, took: float, load: float
) -> dict[str, Any]:
    """What ``--json`` writes, and all that a report is made from.

    `planned`: the number of measurements planned; `took`: seconds; `load`: of the machine in the minute
    before.
    """
    return {
        "machine": machine() | {"load": round(load, 2)},
        "settings": asdict(settings) | {"lease": LEASE},
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "planned": planned,
        "took": round(took, 1),
        "outcomes": [
            asdict(outcome.measurement) | {"result": outcome.result, "trouble": outcome.trouble}
            for outcome in outcomes
        ],
    }


def machine() -> dict[str, Any]:
    """Where this runs, and the versions of what is measured; that of Redis is empty where it is left out."""
    import msgpack
    import zmq

    from nearfar import __version__

    return {
        "processor": processor(),
        "sha256": sha256(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(terse=True),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "nearfar": __version__,
        "pyzmq": zmq.pyzmq_version(),
        "libzmq": zmq.zmq_version(),
        "msgpack": ".".join(map(str, msgpack.version)),
        "redis": version(),
    }


if __name__ == "__main__":
    run_measurement(sys.argv[1])
