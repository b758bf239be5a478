"""Functions that the tests run in workers: at the top level, so that any process can find them by name."""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError
from pathlib import Path
from typing import Any

from tests.support.waiting import eventually


class Trouble(Exception):
    """A task's own error."""


def square(x: int, plus: int = 0) -> int:
    return x * x + plus


def add(a: int, b: int) -> int:
    return a + b


def add_one(x: int) -> int:
    return x + 1


def capture(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    return args, kwargs


def fail(x: Any = None) -> None:
    raise Trouble(x)


def fail_if_odd(x: int) -> int:
    if x % 2:
        raise Trouble(x)
    return x


def leave_by(name: str, at: int, x: int) -> int:
    """`x`; where it is `at`, raises the builtin exception of this name."""
    if x == at:
        raise getattr(builtins, name)(x)
    return x


def leave_by_named(words: str) -> int:
    """The number in ``name number``, but at 7 the exception of that name."""
    name, number = words.split()
    return leave_by(name, 7, int(number))


def fail_as_broken() -> None:
    raise BrokenExecutor("the task's own")


def fail_as_cancelled() -> None:
    raise CancelledError("the task's own")


def wait_for(path: str, value: Any = None) -> Any:
    """Return `value` once there is a file at `path`."""
    if not eventually(Path(path).exists, 20):
        raise TimeoutError(path)
    return value


def leave(mark: str) -> None:
    """Make a file at `mark`."""
    Path(mark).touch()


def leave_then_wait_for(mark: str, path: str) -> None:
    """Make a file at `mark`, so that the test knows that this runs, and wait for one at `path`."""
    Path(mark).touch()
    wait_for(path)


def say_pid_then_wait_for(mark: str, path: str) -> None:
    """Write this process's id atomically into a file at `mark`, and wait for a file at `path`."""
    Path(f"{mark}-").write_text(str(os.getpid()))
    Path(f"{mark}-").rename(mark)
    wait_for(path)


def die() -> None:
    os._exit(3)


def kind(chunk_item: Any) -> str:
    return type(chunk_item).__name__


def numbers_then_trouble(good: int) -> Iterator[int]:
    yield from range(good)
    raise Trouble("the input's own")


class Unpicklable:
    """A result that cannot be sent."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error("this cannot be sent")


class Unreadable:
    """A result that cannot be read."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return _raise, (self.error,)


def _raise(error: type[BaseException]) -> None:
    raise error("this cannot be read")
