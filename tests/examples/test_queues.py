"""The tutorial's queue program prints what it prints with multiprocessing: near, over tcp, and over ipc."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

PRINTED = """\
正在下载: girl.jpg
正在下载: boy.jpg
正在下载: man.jpg
girl.jpg保存成功
boy.jpg保存成功
man.jpg保存成功
全部保存完毕!
over!
"""


def run(program: Path, *arguments: str) -> tuple[str, str, int]:
    done = subprocess.run(
        [sys.executable, "-X", "utf8", program, *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=90,
        check=False,
    )
    return done.stdout, done.stderr, done.returncode


@pytest.mark.slow
def test_it_prints_what_it_printed(tmp_path: Path) -> None:
    near, far = EXAMPLES / "near_queue.py", EXAMPLES / "far_queue.py"
    tutorial = tmp_path / "tutorial.py"
    source = near.read_text(encoding="utf-8")
    tutorial.write_text(source.replace("from nearfar", "from multiprocessing"), encoding="utf-8")
    with tempfile.TemporaryDirectory() as short, ThreadPoolExecutor() as threads:
        runs = {
            "tutorial": threads.submit(run, tutorial),
            "near": threads.submit(run, near),
            "tcp": threads.submit(run, far),
            "ipc": threads.submit(run, far, f"ipc://{short}/queue"),
        }
        done = {name: future.result() for name, future in runs.items()}
    assert done == dict.fromkeys(runs, (PRINTED, "", 0))


def test_the_far_program_differs_only_by_the_address() -> None:
    near, far = (body(EXAMPLES / name) for name in ("near_queue.py", "far_queue.py"))
    assert [line for line in near if line not in far] == ["    q = Queue(5)"]
    assert [line for line in far if line not in near] == [
        "import sys",
        '    address = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:*"',
        "    q = Queue(5, address)",
    ]


def body(program: Path) -> list[str]:
    """The lines below the docstring."""
    return program.read_text(encoding="utf-8").split('"""', 2)[2].splitlines()
