"""What hangs is ended, what fails is reported, and nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from nearfar.contrast import names
from nearfar.contrast.job import Job
from nearfar.contrast.jobs import Batch
from nearfar.contrast.runner import Outcome, Runner
from nearfar.contrast.settings import QUICK
from tests.support.shell import alive
from tests.support.waiting import eventually

ENDLESS = replace(QUICK, trips=10**9, limit=50.0)
TRIPS = Job("queue", "latency", names.FAR_IPC, 0)
RUNNER = """
import sys, threading
from nearfar.contrast.runner import Runner
from tests.contrast.test_runner import ENDLESS, TRIPS
runner = Runner(ENDLESS, print)
stage = runner._start(TRIPS)
print(stage.process.pid, stage.folder, flush=True)
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


def run(job: Job) -> Outcome:
    with Runner(ENDLESS, lambda outcome: None) as runner:
        [outcome] = runner.run(Batch([job]))
    return outcome


def test_what_does_not_end_is_stuck_and_none_of_its_processes_lives_on() -> None:
    """Given round trips without end, with two hosts and two ends, I expect the time limit to end them all."""
    with Runner(ENDLESS, lambda outcome: None) as runner:
        stage = runner._start(TRIPS)
        runner._running.append(stage)
        assert eventually(lambda: len(of_group(stage.process.pid)) == 5, 30.0)
        stage.until = 0.0  # its time is over
        [outcome] = runner.run(Batch([]))
    assert outcome.trouble == "stuck for 50 s"
    assert eventually(lambda: not of_group(stage.process.pid))
    assert not stage.folder.exists()


def test_what_fails_says_why() -> None:
    outcome = run(Job("queue", "latency", "carrier pigeon", 0))
    assert outcome.trouble == "failed: KeyError: 'carrier pigeon'"
    assert outcome.result is None


def test_leaving_early_kills_what_runs() -> None:
    with Runner(ENDLESS, print) as runner:
        stage = runner._start(TRIPS)
        runner._running.append(stage)
        assert eventually(lambda: len(of_group(stage.process.pid)) > 1, 30.0)
    assert eventually(lambda: not of_group(stage.process.pid))


def test_stages_end_with_a_runner_that_is_killed() -> None:
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
