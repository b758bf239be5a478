"""The commands of one run: their command lines, which of them run, and how each ended."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.download.plan import LEASE, WAIT, Plan
from tests.chaos.download.starter import Starter
from tests.support.ports import free_address

POOL_WAIT = 8.0


@dataclass(frozen=True)
class Running:
    """A running command, and the path of its output files without their suffix."""

    pid: int
    said: Path


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or the signal (negative) that killed it."""

    role: str
    code: int
    out: str
    err: str


def said(running: Running) -> tuple[str, str]:
    """Its standard output and error; empty if it was killed before it printed anything."""
    files = [Path(f"{running.said}.{stream}") for stream in ("out", "err")]
    out, err = (file.read_text() if file.exists() else "" for file in files)
    return out, err


class RunCommands:
    """Starts each command with the same line, repeatedly."""

    def __init__(self, plan: Plan, folder: Path, starter: Starter, environment: dict[str, str]) -> None:
        self._folder = folder
        self._starter = starter
        self._environment = environment
        self.running: dict[str, Running] = {}
        self.starts = 0
        self.commands = _commands(plan, folder)

    def start(self, role: str, environment: dict[str, str]) -> None:
        self.starts += 1
        said = self._folder / "said" / f"{self.starts:02} {role}"
        environment = {**self._environment, "NEARFAR_CHAOS_ROLE": role, **environment}
        pid = self._starter.start(self.commands[role], self._folder, said, environment)
        self.running[role] = Running(pid, said)

    def signal(self, role: str, signum: signal.Signals) -> None:
        if role in self.running:
            self.signal_one(self.running[role].pid, signum)

    @staticmethod
    def signal_one(pid: int, signum: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)

    def ended(self) -> list[Ended]:
        """The commands that have ended since the last call; none may have printed a traceback."""
        codes = self._starter.ends()
        found = []
        for role, running in list(self.running.items()):
            if running.pid not in codes:
                continue
            del self.running[role]
            out, err = said(running)
            assert "Traceback" not in err, f"{role} said\n{err}"
            found.append(Ended(role, codes[running.pid], out, err))
        return found


def _commands(plan: Plan, folder: Path) -> dict[str, list[str]]:
    address = f"ipc://{folder}/queue" if plan.transport == "ipc" else free_address()
    pool = free_address() if plan.pool == "far" else plan.pool
    meet, hosts = ["--wait", str(WAIT), "--queue", address], ["--wait", str(WAIT), "--bind", address]
    commands = {}
    for role, kind in plan.roles.items():
        place = hosts if role == plan.host else meet
        match kind:
            case "queue":
                line = [
                    "queue",
                    "--bind",
                    address,
                    "--lease",
                    str(LEASE),
                    "--expected-producers",
                    str(plan.producers),
                ]
            case "coordinator":
                line = ["coordinator", "--bind", pool, "--lease", str(LEASE), "--grace", "5"]
            case "agent":
                line = ["worker", "--connect", pool, "--processes", "1", "--wait", str(POOL_WAIT)]
            case "consumer":
                line = ["consumer", "-o", "saved", *place]
                line += ["--expected-producers", str(plan.producers)] if role == plan.host else []
            case _:
                line = ["producer", "-i", f"{role}.txt", "--failures", f"{role} failures.txt"]
                line += ["--stall-timeout", "1", "--retries", "6", "--jobs", "8"]
                if plan.near:
                    line += ["--queue", "local", "-o", "saved"]
                else:
                    line += place
                if kind == "near":
                    line += ["-P", str(plan.producers), "-C", str(plan.consumers)]
                line += ["--pool", pool] if kind == "pooled" else []
        commands[role] = line
    return commands
