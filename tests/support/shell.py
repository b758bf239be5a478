"""The programs, started as by a user in a terminal."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

from nearfar.cli.common import StopRequest
from tests.support import programs

ROOT = Path(__file__).parents[2]
ANYWHERE = "tcp://127.0.0.1:*"
LIMIT = 80.0
"""Seconds that a program may take to end."""

Program = subprocess.Popen[str]


class Shell:
    """Starts programs in `folder`, each in a process group of its own, as a terminal does; and ends them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Program] = []

    def start(self, *words: str, stdout: int = subprocess.PIPE) -> Program:
        """``python -m nearfar`` with these words."""
        return self._start(programs.Program, programs.COMMAND, words, subprocess.DEVNULL, stdout)

    def python(self, *words: str, stdin: str | None = None, stdout: int = subprocess.PIPE) -> Program:
        """Python with these words, and `stdin` as its input."""
        given = subprocess.DEVNULL if stdin is None else subprocess.PIPE
        process = self._start(subprocess.Popen, [sys.executable], words, given, stdout)
        if stdin is not None:
            assert process.stdin is not None
            process.stdin.write(stdin)
            process.stdin.close()
            process.stdin = None
        return process

    def _start(
        self, kind: type[Program], command: list[str], words: tuple[str, ...], stdin: int, stdout: int
    ) -> Program:
        process = kind(
            [*command, *words],
            cwd=self._folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self._running.append(process)
        return process

    def queue(self, address: str = ANYWHERE, *options: str) -> tuple[Program, str]:
        """A queue, and its address."""
        return self._place(self.start("queue", "--bind", address, *options), "hosting the queue at ")

    def coordinator(self, address: str = ANYWHERE, *options: str) -> tuple[Program, str]:
        """A coordinator, and its address."""
        return self._place(self.start("coordinator", "--bind", address, *options), "coordinating at ")

    def worker(self, address: str, processes: int = 2, *options: str) -> tuple[Program, str]:
        """An agent with so many processes, and its name."""
        process = self.start("worker", "--connect", address, "--processes", str(processes), *options)
        match = re.fullmatch(r"working for (\S+) as (\S+) with \d+ process(es)?\n", first_line(process))
        assert match is not None, process.communicate()
        return process, match[2]

    def _place(self, process: Program, said: str) -> tuple[Program, str]:
        line = first_line(process)
        assert line.startswith(said), process.communicate()
        return process, line.removeprefix(said).strip()

    def close(self) -> None:
        """Kill the running programs, without reading their pipes: a grandchild may hold these open."""
        for process in self._running:
            process.kill()
            process.send_signal(signal.SIGCONT)
        for process in self._running:
            process.communicate(timeout=LIMIT)


def first_line(process: Program) -> str:
    """The next line of a program's standard output."""
    assert process.stdout is not None
    return process.stdout.readline()


def ended(process: Program) -> tuple[int, str, str]:
    """Exit code, standard output and standard error, once it has ended."""
    out, err = process.communicate(timeout=LIMIT)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def interrupt(process: Program) -> None:
    """Ctrl-C: the signal for the whole process group."""
    os.killpg(process.pid, signal.SIGINT)


def outlast_echo() -> None:
    """Wait before a second signal: an earlier one would count as the first."""
    select.poll().poll(int(StopRequest.ECHO * 1000) + 50)


def insist(process: Program, signum: int = signal.SIGINT) -> None:
    """Signal the group again, after a moment."""
    outlast_echo()
    os.killpg(process.pid, signum)


def alive(pid: int) -> bool:
    """False for a process that has ended, though its parent may not have noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
