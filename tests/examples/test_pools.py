"""The tutorial's pool programs print what they print with multiprocessing, however processes are started."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.pool.pools import coordinated

EXAMPLES = Path(__file__).parents[2] / "examples"
TASKS = ["听音乐", "吃饭", "洗衣服", "打游戏", "散步", "看孩子", "做饭"]
STARTED = "开始做任务啦 "
ENDED = re.compile(r"完成任务:(.*)用时([0-9.e-]+),进程id:([0-9]+)")


def run(program: Path, *arguments: str, at_once: bool = False) -> list[str]:
    """The lines that it prints. `at_once`: in the order of time, if one process prints at a time."""
    ended = subprocess.run(
        [sys.executable, "-X", "utf8", program, *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=90,
        check=False,
        # Unbuffered, lines of several processes would mix.
        env=os.environ | {"PYTHONUNBUFFERED": "1" if at_once else ""},
    )
    assert (ended.stderr, ended.returncode) == ("", 0)
    return ended.stdout.splitlines()


def variants(name: str, folder: Path) -> dict[str, Path]:
    """The example as it is, as the tutorial has it, and with each way to start a process."""
    source = (EXAMPLES / name).read_text(encoding="utf-8")
    main = 'if __name__ == "__main__":\n'
    assert source.count(main) == source.count("from nearfar import Pool\n") == 1
    texts = {
        "fork": source,
        "tutorial": source.replace("from nearfar", "from multiprocessing"),
    }
    for method in ("spawn", "forkserver"):
        chosen = f"{main}    import multiprocessing\n    multiprocessing.set_start_method({method!r})\n"
        texts[method] = source.replace(main, chosen)
    for each, text in texts.items():
        (folder / f"{each}.py").write_text(text, encoding="utf-8")
    return {each: folder / f"{each}.py" for each in texts}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[str]]:
    """The output of each program in each variant; all run at the same time, because they mostly sleep."""
    with ThreadPoolExecutor(8) as threads:
        runs = {
            (name, variant): threads.submit(run, path, at_once=name == "blocking_pool.py")
            for name in ("blocking_pool.py", "callback_pool.py")
            for variant, path in variants(name, tmp_path_factory.mktemp(name[:8])).items()
        }
        return {key: future.result() for key, future in runs.items()}


VARIANTS = ["tutorial", "fork", "spawn", "forkserver"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["blocking_pool.py", "callback_pool.py"])
def test_seven_tasks_in_five_processes(
    printed: dict[tuple[str, str], list[str]], name: str, variant: str
) -> None:
    lines = printed[name, variant]
    starts = [line.removeprefix(STARTED) for line in lines if line.startswith(STARTED)]
    ends = [found for line in lines if (found := ENDED.fullmatch(line))]
    assert Counter(starts) == Counter(found[1] for found in ends) == Counter(TASKS)
    assert all(0 <= float(found[2]) < 10 for found in ends)
    assert 1 <= len({found[3] for found in ends}) <= 5
    assert lines[-1] == "over!"
    assert len(lines) == 15


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_apply_runs_one_after_the_other(printed: dict[tuple[str, str], list[str]], variant: str) -> None:
    masked = [ENDED.sub(r"end \1", line) for line in printed["blocking_pool.py", variant]]
    assert masked == [line for task in TASKS for line in (STARTED + task, f"end {task}")] + ["over!"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_apply_async_runs_at_once_and_calls_back_at_the_end(
    printed: dict[tuple[str, str], list[str]], variant: str
) -> None:
    lines = printed["callback_pool.py", variant]
    assert all(line.startswith(STARTED) for line in lines[:7])
    assert all(ENDED.fullmatch(line) for line in lines[7:14])


@pytest.mark.parametrize("name", ["blocking_pool.py", "callback_pool.py"])
def test_only_the_import_differs_from_the_tutorial(name: str) -> None:
    lines = (EXAMPLES / name).read_text(encoding="utf-8").split('"""', 2)[2].splitlines()
    assert [line for line in lines if "nearfar" in line] == ["from nearfar import Pool"]


GLOBALS = re.compile(
    r"hello from worker (?P<a>\S+) \(slot \d+, pid \d+ on \S+\)\n"
    r"hello from worker (?P<b>\S+) \(slot \d+, pid \d+ on \S+\)\n"
    r"worker (?P<changed>\S+) changed m to 5\n"
    r"worker (?P=a) finds m = (?P<m_a>\d)\n"
    r"worker (?P=b) finds m = (?P<m_b>\d)\n"
    r"the parent finds m = 0 and 'nobody greets'; its current_worker\(\) is None"
)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_workers_globals_are_its_own(method: str, tmp_path: Path) -> None:
    source = (EXAMPLES / "globals.py").read_text(encoding="utf-8")
    main = 'if __name__ == "__main__":\n'
    chosen = f"{main}    import multiprocessing\n    multiprocessing.set_start_method({method!r})\n"
    program = tmp_path / "program.py"
    program.write_text(source.replace(main, chosen), encoding="utf-8")
    check_globals(run(program))


def test_a_workers_globals_are_its_own_far() -> None:
    with coordinated(2) as address:
        check_globals(run(EXAMPLES / "globals.py", address))


def check_globals(lines: list[str]) -> None:
    found = GLOBALS.fullmatch("\n".join(lines))
    assert found is not None, lines
    seen = {found["a"]: found["m_a"], found["b"]: found["m_b"]}
    assert seen.pop(found["changed"]) == "5"
    assert list(seen.values()) == ["0"]
