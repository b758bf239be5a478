"""How unfinished calls end when the program ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from nearfar import Executor, Pool
from tests.pool.tasks import wait_for
from tests.pool.exits import touch_late

if __name__ == "__main__":
    {make}
    for path in sys.argv[2:]:
        {submit}
    print("the program ends", flush=True)
"""


def run(tmp_path: Path, make: str, submit: str) -> tuple[str, list[bool]]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(make=make, submit=submit), encoding="utf-8")
    marks = [tmp_path / name for name in "abcd"]
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", program, tmp_path / "gate", *marks],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout, [mark.exists() for mark in marks]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_executors_work_is_done_first(tmp_path: Path, processes: int) -> None:
    made, submit = f"executor = Executor({processes})", "executor.submit(touch_late, path)"
    assert run(tmp_path, made, submit) == ("the program ends\n", [True] * 4)


def test_a_pools_work_is_dropped(tmp_path: Path) -> None:
    made, submit = "pool = Pool(2)", "pool.apply_async(wait_for, (path,))"
    assert run(tmp_path, made, submit) == ("the program ends\n", [False] * 4)


LATE = """
import atexit
from tests.pool.tasks import square

def try_it() -> None:
    for call in (lambda: executor.submit(square, 2), lambda: executor.map(square, [2])):
        try:
            call()
        except RuntimeError as error:
            print(error, flush=True)

if __name__ == "__main__":
    atexit.register(try_it)  # before nearfar: called after all that it has registered
    from nearfar import Executor

    executor = Executor(1)
    atexit.register(try_it)
    print(executor.submit(square, 2).result(), flush=True)
"""


def test_once_the_program_ends_an_executor_accepts_no_calls(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(LATE, encoding="utf-8")
    root = str(Path(__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=30, env={"PYTHONPATH": root}
    )
    refusal = "cannot schedule new futures after interpreter shutdown\n"
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "4\n" + 4 * refusal)


@pytest.mark.parametrize("shutdown", ["", "executor.shutdown(wait=False)"])
def test_calls_submitted_last_are_done_without_being_waited_for(tmp_path: Path, shutdown: str) -> None:
    made, submit = "executor = Executor(3)", f"executor.submit(touch_late, path)\n    {shutdown}"
    assert run(tmp_path, made, submit) == ("the program ends\n", [True] * 4)
