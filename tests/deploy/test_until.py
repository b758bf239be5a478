"""``deploy/until`` stops a service's program once there is a file or a signal."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.shell import ROOT

POLITE = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready", flush=True)
signal.pause()
"""


def until(file: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([ROOT / "deploy" / "until", file, *words], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", ["file", "signal"])
def test_the_program_is_stopped_and_its_exit_code_returned(how: str, tmp_path: Path) -> None:
    with until(tmp_path / "over", sys.executable, "-c", POLITE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        if how == "file":
            (tmp_path / "over").touch()
        else:
            program.send_signal(signal.SIGTERM)
        assert program.wait(10) == 7


def test_a_program_that_ends_by_itself_ends_it(tmp_path: Path) -> None:
    with until(tmp_path / "over", "sh", "-c", "exit 3") as program:
        assert program.wait(10) == 3
