"""The tutorial's queue program prints what it printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "examples" / "near_queue.py"

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


def test_the_near_queue_program_prints_what_the_tutorial_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "utf8", PROGRAM],
        capture_output=True,
        encoding="utf-8",
        timeout=50,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == (PRINTED, "", 0)
