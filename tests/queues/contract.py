"""Shared by the contract's tests: functions for child processes, values to send, and helpers that wait.

Children find these functions by this module's name, so that they can be started by spawn as well.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from hypothesis import strategies as st

from nearfar.errors import Empty, Full, ShutDown

LIMIT = 60.0
"""Seconds within which anything that a test waits for has long happened."""

MOMENT = 0.05
"""Seconds that a call is given which must time out."""

Child = Callable[..., Any]


@contextmanager
def children(context: BaseContext, *calls: tuple[Any, ...]) -> Iterator[list[Any]]:
    """Run each ``(function, *arguments)`` in a process of its own; they must end well within `LIMIT`."""
    processes = [context.Process(target=function, args=args) for function, *args in calls]
    for process in processes:
        process.start()
    try:
        yield processes
        for process in processes:
            process.join(LIMIT)
    finally:
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
            process.join()
            process.close()
    assert codes == [0] * len(codes)


@contextmanager
def threads(*calls: tuple[Any, ...]) -> Iterator[None]:
    """As `children`, in threads; pytest reports an error in one."""
    started = [threading.Thread(target=function, args=args, daemon=True) for function, *args in calls]
    for thread in started:
        thread.start()
    yield
    for thread in started:
        thread.join(LIMIT)
        assert not thread.is_alive()


def outcome(call: Child, *args: Any) -> Any:
    """What `call` returns, or the name of what it raises."""
    try:
        return call(*args)
    except (Empty, Full, ShutDown, ValueError) as error:
        return type(error).__name__


def report(connection: Connection, call: Child, *args: Any) -> None:
    """In a child: report its beginning, then the outcome."""
    connection.send("begins")
    connection.send(outcome(call, *args))


def told(connection: Connection) -> Any:
    assert connection.poll(LIMIT), "the child said nothing"
    return connection.recv()


def put_all(queue: Any, items: list[Any]) -> None:
    for item in items:
        queue.put(item)


def put_all_or_shut_down(queue: Any, items: list[Any]) -> list[Any]:
    """The items that went in before the queue was shut down."""
    done = []
    for item in items:
        try:
            queue.put(item)
        except ShutDown:
            break
        done.append(item)
    return done


def put_nowait_until_full(queue: Any) -> int:
    """The number of items put."""
    count = 0
    try:
        while True:
            queue.put_nowait(count)
            count += 1
    except Full:
        return count


def take(queue: Any, count: int) -> list[Any]:
    return [queue.get(timeout=LIMIT) for _ in range(count)]


def take_all(queue: Any) -> list[Any]:
    """Take items until the end."""
    return list(queue)


def echo(queue: Any, back: Any) -> None:
    for item in queue:
        back.put(item)


def work_off(queue: Any, gate: Connection, count: int) -> None:
    """Take `count` items, then mark each as done when told to continue."""
    for _ in range(count):
        queue.get(timeout=LIMIT)
    gate.send("taken")
    gate.recv()
    for _ in range(count):
        queue.task_done()


class Unpicklable:
    def __reduce__(self) -> str:
        raise TypeError("this one stays here")


class Unreadable:
    """Can be pickled, but raises `ArithmeticError` when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


def _refuse() -> None:
    raise ArithmeticError("this one cannot be read")


@dataclass
class Point:
    x: int
    y: tuple[int, ...] = ()


VALUES = [
    None, True, False, 0, -1, 2**64, -(2**200), 0.0, -0.0, 1e308, math.inf, -math.inf, math.nan, 1 - 2j,
    "", "家", "\ud800 alone", "a\0b", b"", b"\xff\0", bytearray(b"mutable"), (), (1,), [], [()], {}, set(),
    ([1, (2, {"three": [4, (5,)]})],), {"a": (1, [2])}, {(1, 2): {3}}, {1, 2, 3}, frozenset({1}), range(3),
    Point(1), Point(2, (3, 4)), [Point(5)], ValueError("bad"), int, "x" * 200_000,
]  # fmt: skip
"""One of each that a program may want to send."""

_leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(bytearray)
)
_keys = st.booleans() | st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text())
PLAIN = st.recursive(
    _leaves | st.sets(_keys) | st.frozensets(_keys),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_keys, inner, max_size=4)
    ),
    max_leaves=12,
)
"""Plain objects, nested."""


def same(left: Any, right: Any) -> bool:
    """Equal and of the same type at every level; nan equals nan, and -0.0 does not equal 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or left.hex() == right.hex()
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left), list(right)) and same(list(left.values()), list(right.values()))
    if isinstance(left, BaseException):
        return same(left.args, right.args)
    return bool(left == right)
