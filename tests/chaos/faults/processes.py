"""The roles of one run, by name: started, killed, frozen, and started again."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.faults.failpoints import MARK, SPEC, Failpoint
from tests.chaos.faults.journal import Journal
from tests.chaos.faults.starter import Starter


@dataclass
class Part:
    """A role: its function, the arguments, and the network of its process."""

    role: str
    arguments: list[str]
    network: str = ""
    failpoint: Failpoint | None = None
    """For its first life only."""


@dataclass
class Ended:
    """A role that ended by itself, or by a failpoint."""

    name: str
    code: int
    struck: bool


@dataclass
class RunProcesses:
    """The roles' output is in `folder`, their temporary files in `temporary`."""

    starter: Starter
    folder: Path
    temporary: Path
    journal: Journal
    parts: dict[str, Part] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    """Process ids."""
    starts: int = 0

    def start(self, name: str) -> None:
        part = self.parts[name]
        self.starts += 1
        environment = {"TMPDIR": str(self.temporary), SPEC: ""}
        if part.failpoint is not None:
            environment |= {SPEC: str(part.failpoint), MARK: str(self._mark(name))}
            part.failpoint = None
        said = self.folder / f"{self.starts} {name}"
        pid = self.starter.start(part.role, part.arguments, said, environment, part.network)
        self.running[name] = pid
        self.journal.note("started", role=name, pid=pid)

    def signal(self, name: str, signum: int, pid: int = 0) -> None:
        """Send a role a signal; or, with its id, a process below it."""
        self.journal.note("signal", role=name, signal=signal.Signals(signum).name, pid=pid)
        with suppress(ProcessLookupError):
            os.kill(pid or self.running[name], signum)

    def below(self, name: str) -> list[int]:
        """The processes below a role."""
        return self.starter.below(self.running[name])

    def ended(self) -> list[Ended]:
        """The roles that have ended since the last call."""
        names = {pid: name for name, pid in self.running.items()}
        found = []
        for pid, code in self.starter.ends().items():
            if pid in names:
                name = names[pid]
                del self.running[name]
                struck = code == -signal.SIGKILL
                self.journal.note("ended", role=name, code=code)
                found.append(Ended(name, code, struck))
        return found

    def struck(self) -> dict[str, int]:
        """The ids of processes that failpoints have stopped or killed, by role."""
        marks = self.folder.glob("struck *")
        return {mark.name.removeprefix("struck "): int(text) for mark in marks if (text := mark.read_text())}

    def said(self) -> str:
        """The error output of the roles."""
        paths = sorted(self.folder.glob("*.err"), key=lambda path: int(path.name.split()[0]))
        return "".join(f"--- {path.stem}\n{text[-3000:]}" for path in paths if (text := path.read_text()))

    def _mark(self, name: str) -> Path:
        return self.folder / f"struck {name}"
