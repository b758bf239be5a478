"""The pools that are compared, behind one interface: their speed, and what a killed worker costs.

Workers elsewhere import this module for its tasks, so it imports no pool before one is opened.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nearfar.contrast.processes import FORK, send_signal
from nearfar.contrast.settings import EXECUTOR, FAR_IPC, FAR_TCP, NEAR, POOL, Settings, percentiles

if TYPE_CHECKING:
    from concurrent.futures import Executor

WORKERS = 2
KILLS = 3
WARM_UP = 20
"""Calls that are not counted."""
Function = Callable[[Any], Any]
Answer = Callable[[float | None], Any]
"""Waits so many seconds (None: without a limit) for the value; raises the error of the call, or
`TimeoutError`."""
Tell = Callable[[Any], None]


# -- tasks -----------------------------------------------------------------------------------------


def same(value: int) -> int:
    """The cheapest task there is."""
    return value


def pid(value: int) -> int:
    """The process that runs the task; slow enough that every idle worker gets one."""
    time.sleep(0.02)
    return os.getpid()


def work_or_die(number: int) -> int:
    """Ten milliseconds of work; number 7 kills its worker halfway."""
    time.sleep(0.005)
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.005)
    return number


# -- pools -----------------------------------------------------------------------------------------


class ContestedPool(Protocol):
    """A pool that is open."""

    def submit(self, func: Function, item: Any) -> Answer:
        """Submit one call."""

    def map(self, func: Function, items: Sequence[Any]) -> list[Any]:
        """Map, in the chunks that a pool makes by default."""


class PoolContestant:
    """A pool with the API of `multiprocessing.Pool`."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def submit(self, func: Function, item: Any) -> Answer:
        answer: Answer = self._pool.apply_async(func, (item,)).get
        return answer

    def map(self, func: Function, items: Sequence[Any]) -> list[Any]:
        values: list[Any] = self._pool.map(func, items)
        return values


class ExecutorContestant:
    """A `concurrent.futures.Executor`, whose map makes chunks only if it is given a size."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, func: Function, item: Any) -> Answer:
        return self._executor.submit(func, item).result

    def map(self, func: Function, items: Sequence[Any]) -> list[Any]:
        chunksize = max(1, -(-len(items) // (4 * WORKERS)))
        return list(self._executor.map(func, items, chunksize=chunksize))


@contextlib.contextmanager
def open_standard(folder: Path) -> Iterator[ContestedPool]:
    """`multiprocessing.Pool`, the baseline."""
    with FORK.Pool(WORKERS) as pool:
        yield PoolContestant(pool)


@contextlib.contextmanager
def open_executor(folder: Path) -> Iterator[ContestedPool]:
    """`concurrent.futures.ProcessPoolExecutor`."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS, mp_context=FORK) as executor:
        yield ExecutorContestant(executor)


@contextlib.contextmanager
def open_near(folder: Path) -> Iterator[ContestedPool]:
    """The near pool of nearfar."""
    from nearfar import Pool

    with Pool(WORKERS, context=FORK) as pool:
        yield PoolContestant(pool)


@contextlib.contextmanager
def open_far(scheme: str, folder: Path) -> Iterator[ContestedPool]:
    """A coordinator in this process; all workers connect to its address, as from another machine."""
    from nearfar import Pool
    from nearfar.net import keyring

    # With keys, loopback stays TCP: otherwise, nearfar replaces it by a Unix socket of this user.
    keys = folder / "keys" if scheme == "tcp" else None
    if keys is not None:
        keyring.init(keys)
    asked = f"ipc://{folder}/pool" if keys is None else "tcp://127.0.0.1:*"
    with Pool(0, address=asked, keys=keys) as pool:
        assert pool.address is not None
        command = [sys.executable, "-m", "nearfar", "worker", "-q", "--processes", str(WORKERS)]
        command += [] if keys is None else ["--keys", str(keys)]
        agent = subprocess.Popen([*command, "--connect", pool.address], stdout=subprocess.DEVNULL)
        try:
            yield PoolContestant(pool)
        finally:
            agent.terminate()
            agent.wait()


OPENERS: dict[str, Callable[[Path], contextlib.AbstractContextManager[ContestedPool]]] = {
    POOL: open_standard,
    EXECUTOR: open_executor,
    NEAR: open_near,
    FAR_IPC: partial(open_far, "ipc"),
    FAR_TCP: partial(open_far, "tcp"),
}


# -- speed -----------------------------------------------------------------------------------------


def measure_speed(name: str, settings: Settings, folder: Path) -> dict[str, Any]:
    """Milliseconds to the first answer, tasks per second submitted singly and mapped, microseconds of a
    call."""
    opened = time.perf_counter()
    with OPENERS[name](folder) as pool:
        pool.submit(same, 0)(None)
        start = (time.perf_counter() - opened) * 1e3
        for answer in [pool.submit(pid, 0) for _ in range(2 * WORKERS)]:
            answer(None)

        begun = time.perf_counter()
        answers = [pool.submit(same, number) for number in range(settings.tasks)]
        values = [answer(None) for answer in answers]
        singly = settings.tasks / (time.perf_counter() - begun)

        begun = time.perf_counter()
        mapped = pool.map(same, list(range(settings.ints)))
        map_rate = settings.ints / (time.perf_counter() - begun)

        calls = []
        for number in range(WARM_UP + settings.calls):
            begun = time.perf_counter()
            pool.submit(same, number)(None)
            calls.append((time.perf_counter() - begun) * 1e6)
    if values != list(range(settings.tasks)) or mapped != list(range(settings.ints)):
        raise ArithmeticError(f"{name} gave wrong answers")
    return {"start": start, "singly": singly, "map": map_rate, "microseconds": percentiles(calls[WARM_UP:])}


# -- killed workers --------------------------------------------------------------------------------


def kill_at_work(pool: ContestedPool, settings: Settings) -> list[Answer]:
    """Submit tasks of which one kills its worker."""
    return [submit(pool, work_or_die, number) for number in range(settings.doomed)]


def kill_idle(pool: ContestedPool, settings: Settings) -> list[Answer]:
    """Three times, kill a worker that waits for work, and then submit tasks."""
    answers: list[Answer] = []
    for _ in range(KILLS):
        asked = [submit(pool, pid, 0) for _ in range(2 * WORKERS)]
        answers += asked
        try:
            idle = asked[0](settings.patience)
        except Exception:
            return answers  # the pool hangs or is broken: `count_answers` reports it
        time.sleep(0.2)
        send_signal(idle, signal.SIGKILL)
        time.sleep(0.1)
        answers += [submit(pool, same, number) for number in range(settings.doomed // KILLS)]
    return answers


def submit(pool: ContestedPool, func: Function, item: int) -> Answer:
    """Submit one call; one that the pool refuses counts as failed."""
    try:
        return pool.submit(func, item)
    except Exception as error:
        return partial(_refuse, error)


def _refuse(error: Exception, timeout: float | None) -> Any:
    raise error


WORKER_DEATHS: dict[str, tuple[str, Callable[[ContestedPool, Settings], list[Answer]]]] = {
    "worker killed at work": ("The seventh task kills its worker.", kill_at_work),
    "idle worker killed": (f"{KILLS} times, an idle worker is killed; then tasks are submitted.", kill_idle),
}
"""What is shown of it, and what is done."""


def measure_death(name: str, settings: Settings, folder: Path, work: str, tell: Tell) -> None:
    """Tell the counts before the pool is closed, since closing may hang too."""
    with OPENERS[name](folder) as pool:
        for answer in [pool.submit(pid, 0) for _ in range(2 * WORKERS)]:
            answer(None)
        tell(count_answers(WORKER_DEATHS[work][1](pool, settings), settings.patience))


def count_answers(answers: Sequence[Answer], patience: float) -> dict[str, Any]:
    """How the calls ended, within `patience` seconds for all of them."""
    counts: dict[str, Any] = {"tasks": len(answers), "answered": 0, "failed": 0, "hung": 0, "error": ""}
    until = time.monotonic() + patience
    for answer in answers:
        try:
            answer(max(0.0, until - time.monotonic()))
            counts["answered"] += 1
        except Exception as error:
            if _is_timeout(error):
                counts["hung"] += 1
            else:
                counts["failed"] += 1
                counts["error"] = type(error).__name__
    return counts


def _is_timeout(error: Exception) -> bool:
    """`multiprocessing` raises a TimeoutError of its own."""
    return isinstance(error, TimeoutError) or type(error).__name__ == "TimeoutError"
