"""Many threads with one pool, unusual callbacks, and garbage collections meanwhile."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError
from multiprocessing import TimeoutError
from pathlib import Path
from typing import Any

import pytest

from nearfar import Executor, Pool, TaskTimeout
from nearfar.pool.base_engine import BaseEngine
from tests.pool import tasks

LONG = 60.0
"""Seconds that nothing here takes, unless a thread was not woken."""


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(1, context=multiprocessing.get_context("fork")) as pool:
        assert pool.apply(abs, (-1,)) == 1
        yield pool
    pool.join()


def at_once(count: int, do: Callable[[int], object]) -> None:
    """Run `do` in `count` threads; raises what one of them raises."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            do(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.fixture
def hurry() -> Iterator[None]:
    """Switch threads as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hurry")
def test_twenty_threads_apply(pool: Pool) -> None:
    def apply(number: int) -> None:
        for each in range(50):
            assert pool.apply_async(tasks.add, (number, each)).get(LONG) == number + each

    at_once(20, apply)


@pytest.mark.usefixtures("hurry")
def test_twenty_threads_behind_a_long_wait(pool: Pool, gate: Path) -> None:
    """The leader has no answer for long; submits, cancels and timeouts of others must not wait for it."""
    with Pool(3, context=multiprocessing.get_context("fork")) as pool:
        held = pool.apply_async(tasks.wait_for, (str(gate), "held"))
        leader = threading.Thread(target=held.wait)
        leader.start()

        def play(number: int) -> None:
            for each in range(30):
                result = pool.apply_async(tasks.add, (number, each), timeout=LONG if each % 3 else None)
                if each % 5 == 0:
                    result.cancel()
                elif each % 5 == 1:
                    result.wait(0.0001)
                try:
                    assert result.get(LONG) == number + each
                except CancelledError:
                    assert each % 5 == 0

        at_once(20, play)
        gate.touch()
        leader.join()
        assert held.get() == "held"


def test_a_wait_ends_when_another_thread_cancels_the_call(pool: Pool, gate: Path) -> None:
    held = pool.apply_async(tasks.wait_for, (str(gate),))
    waiting = [pool.apply_async(abs, (1,), timeout=LONG) for _ in range(3)]
    began = time.monotonic()
    threads = [threading.Thread(target=result.wait) for result in waiting]
    for thread in threads:
        thread.start()
    dropped = [result.cancel() for result in waiting]
    assert all(dropped)
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < LONG / 2
    gate.touch()
    held.get(LONG)


def test_a_limit_given_while_the_leader_sleeps(pool: Pool, gate: Path) -> None:
    with Pool(2, context=multiprocessing.get_context("fork")) as pool:
        held = pool.apply_async(tasks.wait_for, (str(gate),))
        leader = threading.Thread(target=held.wait)
        leader.start()
        with pytest.raises(TaskTimeout):
            pool.apply_async(signal.pause, timeout=0.1).get(5)
        gate.touch()
        leader.join()


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("how", ["terminate", "close"])
@pytest.mark.parametrize("attempt", range(5))
def test_threads_may_submit_while_another_ends_the_pool(how: str, attempt: int) -> None:
    pool = Executor(1, mp_context=multiprocessing.get_context("fork"))
    began = threading.Barrier(4)
    ends: list[Any] = []
    futures: list[Any] = []

    def submit(number: int) -> None:
        began.wait()
        for each in range(300 + attempt):
            try:
                future = pool.submit(tasks.add, number, each)
            except RuntimeError:
                return
            futures.append(future)
            future.add_done_callback(ends.append)
            try:
                assert future.result(LONG) == number + each
            except CancelledError:
                assert how == "terminate"
            except RuntimeError as error:
                assert str(error) == "cannot schedule new futures after shutdown"

    def end() -> None:
        began.wait()
        if how == "terminate":
            pool.engine.terminate()
        else:
            pool.shutdown()

    at_once(4, lambda number: submit(number) if number else end())
    pool.shutdown()
    assert set(ends) == set(futures)


@pytest.mark.parametrize("how", ["terminate", "close", "join"])
def test_a_callback_may_end_the_pool(how: str) -> None:
    pool = Pool(1, context=multiprocessing.get_context("fork"))

    def end(_: Any) -> None:
        pool.close()
        if how != "close":
            getattr(pool, how)()

    result = pool.apply_async(abs, (-1,), callback=end)
    assert result.get(LONG) == 1
    pool.join()


def test_a_callback_may_submit_wait_and_cancel(pool: Pool) -> None:
    found: list[Any] = []

    def play(value: int) -> None:
        if value < 5:
            dropped = pool.apply_async(abs, (-1,))
            dropped.cancel()
            found.append(pool.apply(tasks.add, (value, 100)))
            pool.apply_async(tasks.add, (value, 1), callback=play).wait(LONG)

    assert pool.apply_async(abs, (0,), callback=play).get(LONG) == 0
    assert found == [100, 101, 102, 103, 104]


@pytest.mark.filterwarnings("ignore:unclosed running")
@pytest.mark.parametrize("where", ["_step", "_deadline", "_cancel", "_count"])
def test_a_garbage_collected_pool_ends_in_the_middle_of_its_own_work(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any point of the engine's work, under its lock, the garbage collector may end the pool."""
    pool = Pool(1, context=multiprocessing.get_context("fork"))
    engine: Any = pool._engine
    assert isinstance(engine, BaseEngine)
    result = pool.apply_async(signal.pause)
    waiting = pool.apply_async(signal.pause, timeout=LONG)
    original = getattr(type(engine), where)

    def collected(*args: Any) -> Any:
        monkeypatch.setattr(engine, where, original.__get__(engine))
        pool.__del__()
        return original(engine, *args)

    monkeypatch.setattr(engine, where, collected)
    if where == "_cancel":
        waiting.cancel()
    elif where == "_count":
        repr(pool)
    with pytest.raises(CancelledError):
        result.get(LONG)
    assert engine.join(LONG)
    pool.terminate()


@pytest.mark.filterwarnings("ignore:unclosed running", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_pools_may_be_garbage_collected_anywhere() -> None:
    """Pools in reference cycles, while others work: the thread that collects them ends them."""
    threshold = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    try:
        with Pool(2, context=multiprocessing.get_context("fork")) as pool:

            def play(number: int) -> None:
                for each in range(5):
                    forgotten: Any = Pool(1, context=multiprocessing.get_context("fork"))
                    forgotten.apply_async(abs, (each,))
                    forgotten.circle = forgotten
                    del forgotten
                    assert pool.map_async(abs, range(20), 1).get(LONG) == list(range(20))

            at_once(4, play)
            gc.collect()
    finally:
        gc.set_threshold(*threshold)


def fails(*_: Any) -> None:
    raise ZeroDivisionError


def test_an_internal_error_ends_the_pool_and_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(1, context=multiprocessing.get_context("fork"))
    result = pool.apply_async(signal.pause)
    engine: Any = pool._engine
    monkeypatch.setattr(engine, "_step", fails)
    engine._driver.rouse()
    with pytest.raises(BrokenExecutor, match="the pool's own work failed: ZeroDivisionError"):
        result.get()
    with pytest.raises(BrokenExecutor, match="the pool's own work failed: ZeroDivisionError"):
        pool.apply(abs, (1,))
    assert engine.join(LONG)
    pool.terminate()


def test_sys_exit_in_a_signals_handler_ends_the_program(tmp_path: Path) -> None:
    program = """
import itertools, multiprocessing, signal, sys
from nearfar import Pool
signal.signal(signal.SIGALRM, lambda *_: sys.exit(7))
with Pool(1, context=multiprocessing.get_context("fork")) as pool:
    pool.apply(abs, (1,))
    engine = pool._engine
    step, signal_in = engine._step, itertools.count()
    def stopped(*args):
        step(*args)
        if next(signal_in) == 50:
            signal.raise_signal(signal.SIGALRM)
    engine._step = stopped
    while True:
        pool.apply(abs, (1,))
"""
    path = tmp_path / "program.py"
    path.write_text(program)
    ended = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode == 7, ended.stderr


def test_a_pool_raises_in_a_forked_child(pool: Pool) -> None:
    result = pool.apply_async(signal.pause)
    child = os.fork()
    if not child:
        try:
            result.get(5)
        except TimeoutError:
            os._exit(1)
        except RuntimeError:
            os._exit(0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
