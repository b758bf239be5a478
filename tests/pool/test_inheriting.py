"""State that forked workers, including replacements, inherit from the thread that makes their pool."""

from __future__ import annotations

import contextvars
import decimal
import os
import signal
import subprocess
import sys
import threading
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nearfar.pool.pool import Pool

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")
BLOCKED = signal.SIGUSR2


def state() -> tuple[Any, ...]:
    """A worker's pid, and the state that it inherited from the thread that made the pool."""
    blocked = BLOCKED in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return os.getpid(), decimal.getcontext().prec, VARIABLE.get(), np.geterr()["divide"], blocked


def made_in_a_state_of_its_own() -> Pool:
    VARIABLE.set("of the maker")
    np.seterr(divide="raise")
    signal.pthread_sigmask(signal.SIG_BLOCK, {BLOCKED})
    with decimal.localcontext(decimal.Context(prec=7)) as context:
        pool = Pool(1, maxtasksperchild=1, context=get_context("fork"))
        context.prec = 9  # of no worker any more, though the object is the same
    return pool


def test_a_replacement_has_the_state_of_the_thread_that_made_the_pool() -> None:
    made: list[Pool] = []
    thread = threading.Thread(target=lambda: made.append(made_in_a_state_of_its_own()))
    thread.start()
    thread.join()
    with made.pop() as pool:
        found = [pool.apply(state) for _ in range(3)]
    assert len({pid for pid, *_ in found}) == 3
    assert {tuple(rest) for _, *rest in found} == {(7, "of the maker", "raise", True)}


def wakeup_descriptor() -> int:
    return signal.set_wakeup_fd(-1)


def test_no_worker_wakes_its_parents_event_loop_with_its_signals() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        with Pool(1, maxtasksperchild=1, context=get_context("fork")) as pool:
            assert [pool.apply(wakeup_descriptor) for _ in range(2)] == [-1, -1]
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def test_workers_that_are_forked_while_a_thread_prints_can_print_and_end() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "ignore", "-m", "tests.pool.inheriting"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=root)
    assert (ended.returncode, ended.stderr) == (0, "all workers have ended\n")
