"""Measurements that hang are killed, failures are reported, and no process is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nearfar.contrast import machine
from nearfar.contrast.runner import MeasurementGroup, MeasurementOutcome, MeasurementRunner
from nearfar.contrast.settings import FAR_IPC, QUICK, Measurement
from tests.support.shell import alive
from tests.support.waiting import eventually

ENDLESS = replace(QUICK, trips=10**9, limit=50.0)
TRIPS = Measurement("queue", "latency", FAR_IPC, 0)
RUNNER = """
import sys, threading
from nearfar.contrast.runner import MeasurementRunner
from tests.contrast.test_runner import ENDLESS, TRIPS
runner = MeasurementRunner(ENDLESS, print)
sandbox = runner._start(TRIPS)
print(sandbox.process.pid, sandbox.folder, flush=True)
threading.Event().wait()
"""


def of_group(leader: int) -> list[int]:
    """Living processes of the group that `leader` leads."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == leader and fields[0] not in "ZX":
            found.append(int(folder.name))
    return found


def run(job: Measurement) -> MeasurementOutcome:
    with MeasurementRunner(ENDLESS, lambda outcome: None) as runner:
        [outcome] = runner.run(MeasurementGroup([job]))
    return outcome


def test_a_measurement_that_does_not_end_is_stuck_and_its_processes_are_killed() -> None:
    """Given endless round trips, with two hosts and two clients, I expect the time limit to end them all."""
    with MeasurementRunner(ENDLESS, lambda outcome: None) as runner:
        sandbox = runner._start(TRIPS)
        runner._running.append(sandbox)
        assert eventually(lambda: len(of_group(sandbox.process.pid)) == 5, 30.0)
        sandbox.until = 0.0  # its time is over
        [outcome] = runner.run(MeasurementGroup([]))
    assert outcome.trouble == "stuck for 50 s"
    assert eventually(lambda: not of_group(sandbox.process.pid))
    assert not sandbox.folder.exists()


def test_a_failed_measurement_has_a_reason() -> None:
    outcome = run(Measurement("queue", "latency", "carrier pigeon", 0))
    assert outcome.trouble == "failed: KeyError: 'carrier pigeon'"
    assert outcome.result is None


def test_leaving_early_kills_running_measurements() -> None:
    with MeasurementRunner(ENDLESS, print) as runner:
        sandbox = runner._start(TRIPS)
        runner._running.append(sandbox)
        assert eventually(lambda: len(of_group(sandbox.process.pid)) > 1, 30.0)
    assert eventually(lambda: not of_group(sandbox.process.pid))


def test_sandboxes_end_with_a_runner_that_is_killed() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", RUNNER], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    with program:
        assert program.stdout is not None
        number, folder = program.stdout.readline().split()
        leader = int(number)
        assert eventually(lambda: len(of_group(leader)) == 5, 30.0)
        members = of_group(leader)
        os.kill(program.pid, signal.SIGKILL)
    assert eventually(lambda: not any(map(alive, members)))
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("flags\t\t: fpu sse2 sha_ni avx2\n", "sha_ni; hashlib is "),
        ("Features\t: fp asimd aes sha1 sha2\n", "sha2; hashlib is "),
        ("flags\t\t: fpu sse2\n", "no SHA instructions known; hashlib is "),
    ],
)
def test_it_is_said_how_a_machine_computes_sha_256(
    flags: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", flags.splitlines)
    assert machine.sha256().startswith(said)
