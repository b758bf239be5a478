"""Programs on simulated machines: each has its own network, process ids and temporary folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chaos.faults.hosts import Hosts
from tests.support.shell import ROOT
from tests.support.waiting import eventually

LIMIT = 60.0
"""Seconds that a program may take to say or do what is waited for."""
APART = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
"""A killed one takes its children along, as a machine that is switched off does."""


@dataclass(frozen=True, slots=True)
class Program:
    """A started program, and the file with its output."""

    process: subprocess.Popen[bytes]
    said: Path

    def says(self, words: str) -> None:
        """Wait until it has printed `words`."""
        assert eventually(lambda: words in self.text() or self.process.poll() is not None, LIMIT), self.text()
        assert words in self.text(), self.text()

    def text(self) -> str:
        return self.said.read_text()

    def ended(self) -> tuple[int, str]:
        """Exit code and output, once it has ended by itself."""
        code = self.process.wait(LIMIT)
        return code, self.text()

    def stop(self) -> tuple[int, str]:
        """Stop it as `docker stop` and systemd do, and wait for its end."""
        inner = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        os.kill(int(inner[0]), signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """Switch off its machine."""
        self.process.kill()
        self.process.wait(LIMIT)


class Fleet:
    """Machines by name, each with a folder below `folder`; at the end all their processes are killed."""

    def __init__(self, names: list[str], folder: Path) -> None:
        self._hosts = Hosts(names)
        self._folder = folder
        self._programs: list[Program] = []
        for name in names:
            (folder / name / "t").mkdir(parents=True)

    def __enter__(self) -> Self:
        self._hosts.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in self._programs:
            program.kill()
        self._hosts.close()

    def home(self, name: str) -> Path:
        """The folder in which a machine's programs are started."""
        return self._folder / name

    def address(self, name: str) -> str:
        return self._hosts.address(name)

    def start(self, name: str, *words: str) -> Program:
        """``nearfar`` with these words, on that machine."""
        return self.python(name, "-m", "nearfar", *words)

    def python(self, name: str, *words: str) -> Program:
        """Python with these words, on that machine, in its folder."""
        home = self.home(name)
        said = home / f"said-{len(self._programs)}.txt"
        command = ["ip", "netns", "exec", self._hosts.network(name), *APART, sys.executable, *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(home / "t")}  # short, for sockets
        with said.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        program = Program(process, said)
        self._programs.append(program)
        return program
