"""The test's side of the start module."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.support.processes import below
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]


class Server:
    """A process that runs a start module, and the processes that it has started; `close` ends them all."""

    def __init__(self, module: str) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def ends(self) -> dict[int, int]:
        """The exit codes (negative: signals) of all that have ended since the last call, by process id."""
        return {int(pid): code for pid, code in json.loads(self._ask("ends")).items()}

    def alive(self) -> list[int]:
        """All live processes that it has started, and their descendants."""
        self.ends()
        return below(self._server.pid)

    def kill_all(self) -> None:
        """Kill all of them."""

        def killed() -> bool:
            for pid in (found := self.alive()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not found

        assert eventually(killed, 10)

    def close(self) -> None:
        self.kill_all()
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(10)

    def _ask(self, line: str) -> str:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(f"{line}\n".encode())
        self._server.stdin.flush()
        return self._server.stdout.readline().decode()


class Starter(Server):
    """Starts roles and reports how they ended."""

    def __init__(self) -> None:
        super().__init__("tests.chaos.faults.starting")
        self._own = self._ask("own shared memory") == "yes\n"
        """The roles have a /dev/shm of their own, where nobody else leaves anything."""

    def start(
        self, role: str, arguments: list[str], said: Path, environment: dict[str, str], network: str = ""
    ) -> int:
        """Start ``module:function``; its output goes to `said` with ``.out`` and ``.err`` added."""
        order = {
            "arguments": arguments,
            "said": str(said),
            "environment": environment | {"NEARFAR_CHAOS_ROLE": role},
            "network": network,
        }
        return int(self._ask(json.dumps(order)))

    def below(self, pid: int) -> list[int]:
        """All processes below one."""
        return below(pid)

    def shared_memory(self) -> list[str]:
        """Files that roles have left in their /dev/shm."""
        return (
            [path.name for path in Path(f"/proc/{self._server.pid}/root/dev/shm").iterdir()]
            if self._own
            else []
        )
