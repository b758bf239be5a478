"""Ctrl-C in the middle of a large file: the command ends soon, and the same command continues the file."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from nearfar.cli.exits import Exit
from tests.download.trade.large import LargeFiles
from tests.support import programs
from tests.support.programs import COMMAND, Program
from tests.support.waiting import eventually
from tests.support.web import Web

SIZE, RATE = 60_000_000, 1_000_000.0
"""A minute, if the command waited for the whole file."""
LIMIT = 30.0


def partial_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.part"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("processes", [[], ["-P", "1", "-C", "1"]])
def test_the_first_signal_keeps_a_large_file_and_the_same_command_continues_it(
    tmp_path: Path, processes: list[str]
) -> None:
    with Web() as web:
        files = LargeFiles(web, {"/large.bin": SIZE}, RATE)
        saved_in = tmp_path / "saved"
        command = [*COMMAND, "producer", "--queue", "local", "-o", str(saved_in)]
        command += [*processes, web.url("/large.bin")]
        with Program(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
            assert eventually(lambda: partial_bytes(saved_in) > 600_000, LIMIT)
            run.send_signal(signal.SIGINT)
            out, err = run.communicate(timeout=LIMIT)
        assert run.returncode == Exit.INTERRUPTED, err
        assert out.startswith(b"1 url: 0 saved, 0 already there, 0 failed, 1 left"), out
        assert b"large.bin: stopped, and kept to be continued" in err
        sent, kept = files.total, partial_bytes(saved_in)
        assert 600_000 < kept <= sent < SIZE
        files.rate = 1e9
        again = programs.run(*command[3:], cwd=tmp_path, timeout=LIMIT)
        assert again.returncode == Exit.OK, again.stderr
        assert (saved_in / "large.bin").read_bytes() == files.bodies["/large.bin"]
        asked = web.log[-1].fields.get("range")
        assert asked is not None and kept - 512 <= int(asked[6:-1]) <= kept, (asked, kept)
