"""A worker's globals are its own: the parent does not see them, nor does another worker or another pool."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nearfar import Pool, current_worker
from tests.pool import state
from tests.pool.state import everyone

METHODS = ["fork", "forkserver", "spawn"]

Opener = Callable[..., Pool]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_pool(method: str) -> Iterator[Opener]:
    """Opens pools with workers of each start method."""
    with ExitStack() as stack:

        def opened(*arguments: Any, **options: Any) -> Pool:
            pool = Pool(*arguments, context=multiprocessing.get_context(method), **options)
            stack.callback(pool.join)
            stack.callback(pool.terminate)
            return pool

        yield opened


def test_changes_of_a_task_are_visible_only_in_its_worker(open_pool: Opener, tmp_path: Path) -> None:
    pool = open_pool(2)
    assert set(everyone(pool, 2, tmp_path / "before").values()) == {"untouched"}
    changed = pool.apply(state.put, ("changed",)).name
    after = everyone(pool, 2, tmp_path / "after")
    assert after.pop(changed) == "changed"
    assert list(after.values()) == ["untouched"]
    assert state.value == "untouched"


def test_an_initializer_fills_every_worker_before_its_first_task(open_pool: Opener, tmp_path: Path) -> None:
    pool = open_pool(2, state.put, ("filled",))
    assert pool.apply(state.look) == "filled"
    assert set(pool.map(state.look, range(50))) == {"filled"}
    assert set(pool.imap_unordered(state.look, range(50))) == {"filled"}
    assert set(everyone(pool, 2, tmp_path / "all").values()) == {"filled"}
    assert state.value == "untouched"


def test_two_pools_do_not_see_each_other(open_pool: Opener, tmp_path: Path) -> None:
    first, second, plain = open_pool(2, state.put, (1,)), open_pool(2, state.put, (2,)), open_pool(1)
    assert set(everyone(first, 2, tmp_path / "first").values()) == {1}
    assert set(everyone(second, 2, tmp_path / "second").values()) == {2}
    first.apply(state.put, ("changed",))
    assert set(everyone(second, 2, tmp_path / "again").values()) == {2}
    assert plain.apply(state.look) == "untouched"


def test_a_fresh_worker_has_a_fresh_state(open_pool: Opener) -> None:
    pool = open_pool(1, state.put, ("fresh",), maxtasksperchild=2)
    workers = []
    for _ in range(3):
        assert pool.apply(state.look) == "fresh"
        workers.append(pool.apply(state.put, ("stale",)))
    assert len({worker.name for worker in workers}) == len({worker.pid for worker in workers}) == 3
    assert {worker.slot for worker in workers} == {0}


def test_a_replacement_has_a_fresh_state_its_slot_and_a_new_name(open_pool: Opener, tmp_path: Path) -> None:
    pool = open_pool(2, state.put, ("fresh",))
    everyone(pool, 2, tmp_path / "first")
    changed = pool.apply(state.put, ("stale",))
    os.kill(changed.pid, signal.SIGKILL)
    found = everyone(pool, 2, tmp_path / "second", state.here)
    assert changed.name not in found
    assert {worker.slot for worker in found.values()} == {0, 1}
    assert set(everyone(pool, 2, tmp_path / "third").values()) == {"fresh"}


def test_workers_have_different_names(open_pool: Opener, tmp_path: Path) -> None:
    assert current_worker() is None
    pool = open_pool(3)
    found = everyone(pool, 3, tmp_path / "all", state.here)
    assert sorted(worker.slot for worker in found.values()) == [0, 1, 2]
    assert len({worker.pid for worker in found.values()} | {os.getpid()}) == 4
    assert {worker.host for worker in found.values()} == {os.uname().nodename}
    assert all(worker.name == name for name, worker in found.items())
    assert current_worker() is None


def test_an_initializer_may_get_arguments_that_only_a_child_can_receive(
    open_pool: Opener, method: str
) -> None:
    context = multiprocessing.get_context(method)
    lock, queue = context.Lock(), context.SimpleQueue()
    pool = open_pool(2, state.put, ((lock, queue),))
    with lock:
        assert pool.apply(try_lock) is False
    assert pool.apply(try_lock) is True
    pool.map(pass_on, range(20), 1)
    assert sorted(queue.get() for _ in range(20)) == list(range(20))
    queue.close()


def try_lock() -> bool:
    lock = state.value[0]
    return bool(lock.acquire(timeout=0.01)) and (lock.release() is None)


def pass_on(number: int) -> None:
    state.value[1].put(number)


# -- the globals of a program ------------------------------------------------------------------------

PROGRAM = """
import enum, functools, multiprocessing, os, sys, time
from nearfar import Pool, current_worker

m = 0
filled = None

def fill(words):
    global filled
    filled = words

def add(amount):
    global m
    m += amount
    return current_worker().name, m

def look(_):
    time.sleep(0.01)
    return current_worker().name, m, filled

class Point:
    made = 0

    def __init__(self, x):
        self.x = x

    def moved(self, by):
        return Point(self.x + by)

    @classmethod
    def origin(cls):
        return cls(0)

    @staticmethod
    def double(x):
        return 2 * x

    def __eq__(self, other):
        return type(other) is type(self) and other.x == self.x

    __hash__ = None

class Colour(enum.Enum):
    RED = 1

class Trouble(Exception):
    def __init__(self, x, y):
        super().__init__(x)
        self.y = y

def same(thing):
    return thing

def is_point(thing):
    return isinstance(thing, Point) and type(thing) is Point

def fail(x):
    raise Trouble(x, y=x + 1)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    with Pool(2, fill, ("words",)) as pool:
        name, value = pool.apply(add, (5,))
        assert value == 5, value
        found = set()
        while len(found) < 2:
            found.update(pool.map(look, range(8), 1))
        assert all(each[1] == (5 if each[0] == name else 0) for each in found), (name, found)
        assert {each[2] for each in found} == {"words"}, found
        assert (m, filled) == (0, None), (m, filled)
    with Pool(2) as pool:
        assert {each[1:] for each in pool.map(look, range(8), 1)} == {(0, None)}
    with Pool(2) as pool:
        def later(x):
            return same(x) + offset
        offset = 100

        class Late(Point):
            pass

        def adder(n):
            return lambda x: x + n

        point = Point(3)
        assert pool.map(later, [1, 2]) == [101, 102]
        offset = 200
        assert pool.apply(later, (1,)) == 201
        assert pool.map(lambda x: x * offset, [1, 2]) == [200, 400]
        assert pool.map(adder(7), [1, 2]) == [8, 9]
        assert pool.apply(adder, (7,))(1) == 8
        assert pool.apply(functools.partial(later, 5)) == 205
        assert pool.map(functools.partial(pow, 2), range(4)) == [1, 2, 4, 8]
        assert pool.map(point.moved, [1, 2]) == [Point(4), Point(5)]
        assert pool.apply(Point.origin) == Point(0)
        assert pool.apply(Point.double, (4,)) == 8
        assert pool.map(Point, [1, 2]) == [Point(1), Point(2)]
        assert type(pool.apply(same, (point,))) is Point
        assert pool.apply(is_point, (point,)) is True
        assert pool.apply(lambda thing: type(thing) is Point, (point,)) is True
        assert pool.apply(lambda: Point(1)) == Point(1)
        assert pool.apply(same, (Point,)) is Point
        assert pool.apply(same, (Late,)) is Late
        assert type(pool.apply(same, (Late(1),))) is Late
        assert pool.map(Late, [1]) == [Late(1)]
        assert pool.apply(is_point, (Late(1),)) is False
        assert pool.apply(lambda thing: isinstance(thing, Point), (Late(1),)) is True
        assert pool.apply(same, (Colour.RED,)) is Colour.RED
        assert pool.apply(lambda thing: thing is Colour.RED, (Colour.RED,)) is True
        assert list(pool.imap(lambda p: p.x, [Point(n) for n in range(5)])) == list(range(5))
        assert pool.starmap(lambda a, b: Point(a + b), [(1, 2)]) == [Point(3)]
        for failing in (fail, lambda x: fail(x)):
            try:
                pool.apply(failing, (1,))
            except Trouble as error:
                assert (error.args, error.y) == ((1,), 2), vars(error)
            else:
                raise AssertionError("nothing was raised")
        assert Point.made == 0
    print("ok")
"""


@pytest.mark.parametrize("typed_in", [False, True], ids=["file", "stdin"])
def test_a_programs_own_names(method: str, typed_in: bool, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    ended = subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-W",
            "ignore:This process:DeprecationWarning",
            "-" if typed_in else path,
            method,
        ],
        input=PROGRAM if typed_in else None,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("ok\n", "", 0)


def test_later_changes_in_the_parent_do_not_reach_a_running_worker(open_pool: Opener) -> None:
    pool = open_pool(1)
    assert pool.apply(state.look) == "untouched"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "value", "changed in the parent")
        assert pool.apply(state.look) == "untouched"
