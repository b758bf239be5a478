"""Programs that a launcher runs, so that `__main__` is not the script: their classes return as their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import dataclasses, enum, multiprocessing, sys
from contextlib import contextmanager
from nearfar import Pool
import ready_list

UNSET = object()
class Point:
    def __init__(self, x): self.x = x
    def moved(self): return Point(self.x + 1)
class Outer:
    class Inner: pass
class Colour(enum.Enum): RED = 1
class Trouble(OSError):
    def __init__(self, code):
        super().__init__(code, "words")
        self.code = code
@dataclasses.dataclass(slots=True)
class Pair: a: int
class OnTheShelf: pass
ready_list.put(OnTheShelf)
def many(): return [Point(1), Outer.Inner(), Colour.RED, Pair(2), Point]
def same(x): return x
def fail(): raise Trouble(3)
def default(x=UNSET): return x is UNSET
def is_point(x): return type(x) is Point
count = 0
def bump():
    global count
    count += 1
    return count

@contextmanager
def opened(kind):
    from tests.pool.pools import coordinated, hosted
    if kind == "hosted":
        with hosted(1) as pool: yield pool
    elif kind == "far":
        with coordinated(1) as address, Pool.connect(address) as pool: yield pool
    else:
        with Pool(1, context=multiprocessing.get_context(kind)) as pool: yield pool

def check(kind):
    with opened(kind) as pool:
        for back in (pool.apply(many), pool.apply(same, (many(),)), pool.map(same, many())):
            assert [type(each) for each in back] == [Point, Outer.Inner, Colour, Pair, type], back
            assert back[2] is Colour.RED and back[4] is Point and back[3] == Pair(2)
        assert [type(each) for each in pool.map(Point, [1, 2])] == [Point, Point]
        assert pool.apply(Point(1).moved).x == 2
        assert type(pool.apply(lambda: Point(5))) is Point
        assert pool.apply(is_point, (Point(1),)) is True
        assert [pool.apply(default) for _ in range(3)] == [True] * 3
        assert [pool.apply(bump) for _ in range(3)] == [1, 2, 3] and count == 0
        try:
            pool.apply(fail)
        except Trouble as error:
            assert type(error) is Trouble and (error.errno, error.code) == (3, 3)
        if kind == "fork":  # the worker has it by itself: it never travelled
            assert type(pool.apply(ready_list.make)) is OnTheShelf

if __name__ == "__main__":
    check(sys.argv[1])
    print("ok")
"""

SHELF = """
kinds = []
def put(kind): kinds.append(kind)
def make(): return kinds[0]()
"""

RUNS = {
    "itself": ["script.py"],
    "runpy.run_path": ["launch_path.py"],
    "exec": ["launch_exec.py"],
    "an entry point": ["launch_import.py"],
    "cProfile": ["-m", "cProfile", "-o", os.devnull, "script.py"],
    "-m": ["-m", "script"],
}

LAUNCHERS = {
    "script.py": SCRIPT,
    "ready_list.py": SHELF,
    "launch_path.py": """
import runpy
if __name__ == "__main__":
    runpy.run_path("script.py", run_name="__main__")
""",
    "launch_exec.py": """
class Point: launcher = True
if __name__ == "__main__":
    space = {"__name__": "__main__", "__file__": "script.py"}
    exec(compile(open("script.py").read(), "script.py", "exec"), space)
""",
    "launch_import.py": """
import script, sys
if __name__ == "__main__":
    script.check(sys.argv[1])
    print("ok")
""",
}


@pytest.mark.parametrize("kind", ["fork", "spawn", "hosted", "far"])
@pytest.mark.parametrize(
    "launcher", [each if each == "exec" else pytest.param(each, marks=pytest.mark.slow) for each in RUNS]
)
def test_results_are_instances_of_the_scripts_classes(launcher: str, kind: str, tmp_path: Path) -> None:
    for name, source in LAUNCHERS.items():
        (tmp_path / name).write_text(source)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", *RUNS[launcher], kind],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.stdout, ended.returncode) == ("ok\n", 0), ended.stderr
