"""A service whose loop failed: its program ends, with an exit code for that."""

from __future__ import annotations

import signal

import pytest

from tests.support.shell import ANYWHERE, Shell, first_line

FAULTY = """
import signal
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.coordinator.scheduler import Scheduler
from nearfar.__main__ import run

def fail(machine, now):
    raise KeyError("a fault")

def spoil(*_):
    BrokerProtocol.tick = Scheduler.tick = fail

signal.signal(signal.SIGUSR1, spoil)
run()
"""


@pytest.mark.parametrize("program", ["queue", "coordinator", "consumer"])
def test_a_program_ends_with_its_service(shell: Shell, program: str) -> None:
    process = shell.python("-c", FAULTY, program, "--bind", ANYWHERE)
    said = first_line(process) if program != "consumer" else process.stderr.readline()
    assert " at tcp://" in said
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 1, err
    last = err.splitlines()[-1]
    assert last.startswith("nearfar: the ")
    assert "failed and has stopped: KeyError('a fault')" in last
