"""Ctrl-C waits until the end of a shielded block, and is raised then, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearfar.net.interrupts import Shield


@pytest.fixture(autouse=True)
def handler() -> Iterator[Any]:
    """Restores the usual signal handler after the test."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_it_comes_at_the_end() -> None:
    shield, inside = Shield(), []
    with pytest.raises(KeyboardInterrupt):
        with shield:
            signal.raise_signal(signal.SIGINT)
            inside.append("whole")
        inside.append("never")
    assert inside == ["whole"]
    with shield:  # and not again
        pass


def test_a_handler_of_the_programs_own_is_called_once_with_the_frame_behind_the_shield() -> None:
    calls: list[tuple[int, Any]] = []
    before = signal.signal(signal.SIGINT, lambda *args: calls.append(args))
    try:
        with Shield():
            signal.raise_signal(signal.SIGINT)
            assert not calls
        assert [(number, frame.f_code.co_filename) for number, frame in calls] == [(signal.SIGINT, __file__)]
    finally:
        signal.signal(signal.SIGINT, before)


def test_local_variables_at_the_signal_are_not_kept_alive() -> None:
    class Body:
        """A possibly large local variable."""

    def interrupted() -> weakref.ref[Body]:
        body = Body()
        signal.raise_signal(signal.SIGINT)
        return weakref.ref(body)

    with pytest.raises(KeyboardInterrupt) as raised, Shield():
        body = interrupted()
    assert raised.tb is not None
    assert body() is None


def test_a_wakeup_descriptor_is_written_once() -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    before = signal.set_wakeup_fd(writing)
    try:
        with pytest.raises(KeyboardInterrupt), Shield():
            signal.raise_signal(signal.SIGINT)
        assert os.read(reading, 10) == bytes([signal.SIGINT])
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Shield():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_with_the_default_action_kills() -> None:
    program = """
import signal
from nearfar.net.interrupts import Shield
signal.signal(signal.SIGINT, signal.SIG_DFL)
with Shield():
    signal.raise_signal(signal.SIGINT)
    print("whole", flush=True)
print("never")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )
    assert (ended.stdout, ended.returncode) == ("whole\n", -signal.SIGINT)


def test_shields_can_be_nested(handler: Any) -> None:
    inside = []
    with pytest.raises(KeyboardInterrupt), Shield():
        with Shield():
            signal.raise_signal(signal.SIGINT)
        inside.append("whole")
    assert inside == ["whole"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_in_another_thread_it_does_nothing(handler: Any) -> None:
    found: list[Any] = []

    def look() -> None:
        with Shield():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [handler]


def test_a_child_forked_by_another_thread_meanwhile_can_be_interrupted(tmp_path: Path) -> None:
    program = """
import os, signal, sys, threading
from nearfar import Pool
from nearfar.pool.base_engine import _working

def fork():
    global child
    child = os.fork()
    if not child:
        os._exit(signal.getsignal(signal.SIGINT) is not signal.default_int_handler)

def meanwhile():
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()

if __name__ == "__main__":  # the default start method may read this program again
    with Pool(1):
        engine, = _working
        engine._alone(None, meanwhile)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    path = tmp_path / "program.py"
    path.write_text(program)
    quiet = [sys.executable, "-W", "ignore::DeprecationWarning", path]  # it forks, and has threads
    ended = subprocess.run(quiet, capture_output=True, text=True, timeout=90, check=False)
    assert (ended.stdout, ended.stderr) == ("0\n", "")
