"""Tasks for remote workers, which are killed while they run."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from tests.pool.tasks import wait_for


def append(path: str, line: object) -> None:
    """Add a line, whole, though other processes do so, too."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def die_of_7(number: int) -> int:
    """Kill the worker itself if `number` is 7."""
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def note(path: str, number: int) -> int:
    """Record the run, and return the square."""
    append(path, number)
    return number * number


def note_then_wait(path: str, number: int, gate: str) -> int:
    """Record the run, and wait for the file `gate`."""
    append(path, f"{number} {os.getpid()}")
    wait_for(gate)
    return number * number


def die_once(mark: str) -> int:
    """Kill the worker the first time, and return the pid the second time."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def die_each_time(path: str) -> None:
    append(path, os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    """An initializer that fails."""
    raise ArithmeticError("not here")


def remember(path: str) -> None:
    """An initializer that records its run."""
    append(path, os.getpid())


def hold_the_interpreter(seconds: int) -> int:
    """Sleep without releasing the GIL: no other thread of this process runs meanwhile."""
    ctypes.PyDLL(None).sleep(seconds)
    return threading.active_count()


def reverse(array: Any) -> Any:
    return array[::-1]


def use_client(address: str, path: str, gate: str) -> None:
    """Not a task: a client that is killed."""
    from nearfar import Pool

    pool = Pool.connect(address)
    results = [pool.apply_async(note_then_wait, (path, number, gate)) for number in range(10)]
    for result in results:
        result.get()


if __name__ == "__main__":
    use_client(*sys.argv[1:])
