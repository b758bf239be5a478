"""Clocks that jump: the programs depend only on elapsed time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nearfar import Pool
from nearfar.queues.far import FarJoinableQueue
from tests.pool.far_tasks import note
from tests.support.shell import ANYWHERE, ROOT
from tests.support.waiting import eventually

pytestmark = pytest.mark.chaos
LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
JUMPS = ("+1d", "-3d", "+10y", "+0")


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """The wall clock of programs that `bent` starts, as an offset in a file."""
    if LIBRARY is None:
        pytest.skip("there is no libfaketime here (apt-get install faketime)")
    path = tmp_path / "clock"
    path.write_text("+0")
    return path


@contextmanager
def bent(clock: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A nearfar program with the wall clock of `clock`, and the last word of its first line."""
    environment = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
    }
    program = [sys.executable, "-m", "nearfar", *words]
    with subprocess.Popen(program, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.kill()


def test_the_clock_of_those_programs_is_shifted(clock: Path) -> None:
    clock.write_text("+10y")
    environment = {"LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(clock)}
    said = [
        subprocess.run(
            ["date", "+%Y"], env=env, capture_output=True, text=True, check=True, timeout=10
        ).stdout
        for env in ({}, environment)
    ]
    assert int(said[1]) == int(said[0]) + 10


def test_a_queues_host_does_not_depend_on_its_wall_clock(clock: Path) -> None:
    """Given an unacknowledged item at each jump of the host's clock, I expect no client to count as dead."""
    with bent(clock, "queue", "--bind", ANYWHERE) as (_, address):
        with FarJoinableQueue.connect(address) as queue:
            queue.put_many(range(100))
            for number, jump in enumerate(JUMPS):
                with queue.receive() as delivery:
                    clock.write_text(jump)
                    assert (delivery.item, delivery.attempt) == (number, 1)
                    assert queue.qsize() == 99 - number
            assert eventually(lambda: queue.counts()["settled"] == len(JUMPS))
            assert queue.counts()["late"] == 0
        queue.join_thread()


def test_a_coordinator_and_its_workers_do_not_depend_on_their_wall_clock(clock: Path, tmp_path: Path) -> None:
    trace = str(tmp_path / "trace")
    with (
        bent(clock, "coordinator", "--bind", ANYWHERE, "--lease", "2") as (_, address),
        bent(clock, "worker", "--connect", address, "--processes", "1"),
        Pool.connect(address) as pool,
    ):
        for jump in JUMPS:
            results = [pool.apply_async(note, (trace, number), timeout=30) for number in range(20)]
            clock.write_text(jump)
            assert [result.get(30) for result in results] == [number**2 for number in range(20)]
        pool.close()
        pool.join()
    assert len(Path(trace).read_text().splitlines()) == 20 * len(JUMPS)
