"""A worker is killed at once when its parent dies."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest

from nearfar.worker.lifetime import hang_on, lifeline


def child(life: Callable[[], object]) -> tuple[int, int]:
    """A process with a lifeline that then runs a function; returns its pid and the lifeline."""
    hold, line = lifeline()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(line)
            os.close(told)
            hang_on(hold)
            os.write(tell, b"!")
            life()
        finally:
            os._exit(3)
    os.close(hold)
    os.close(tell)
    assert os.read(told, 1) == b"!"
    os.close(told)
    return pid, line


def backtrack() -> None:
    """Holds the GIL for a very long time."""
    re.match(r"(a+)+$", "a" * 40 + "b")


@pytest.mark.parametrize("life", [signal.pause, backtrack])
def test_it_is_killed_when_the_lifeline_is_closed(life: Callable[[], object]) -> None:
    pid, line = child(life)
    os.close(line)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_lifeline_closed_before_is_noticed() -> None:
    hold, line = lifeline()
    os.close(line)
    pid = os.fork()
    if pid == 0:
        hang_on(hold)
        os._exit(3)
    os.close(hold)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_it_lives_while_any_process_holds_the_lifeline() -> None:
    pid, line = child(lambda: os._exit(5))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(line)
