"""The test's end of the start module."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.processes import below
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]


class Starter:
    """Starts commands and tells how they ended. Close it: then none of its processes is left."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.download.starting"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def start(
        self,
        arguments: list[str],
        folder: Path,
        said: Path,
        environment: dict[str, str],
        *,
        afresh: bool = False,
        limits: dict[str, int] | None = None,
    ) -> int:
        """Start ``nearfar ARGUMENTS`` in `folder`; what it says goes to `said` with ``.out`` and ``.err``.

        `afresh`: by an interpreter of its own, with `limits` (names of `resource`).
        """
        order = {
            "arguments": arguments,
            "folder": str(folder),
            "said": str(said),
            "environment": environment,
            "afresh": afresh,
            "limits": limits or {},
        }
        return int(self._ask(order))

    def ends(self) -> dict[int, int]:
        """The exit codes (negative: signals) of all that have ended since the last call, by process id."""
        found: dict[str, int] = json.loads(self._ask("ends"))
        return {int(pid): code for pid, code in found.items()}

    def alive(self) -> list[int]:
        """All processes that commands are or have left."""
        self.ends()
        return below(self._server.pid)

    def kill_all(self) -> None:
        """End whatever is there."""

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

    def _ask(self, order: Any) -> str:
        assert self._server.stdin is not None and self._server.stdout is not None
        line = "ends" if order == "ends" else json.dumps(order)
        self._server.stdin.write(f"{line}\n".encode())
        self._server.stdin.flush()
        return self._server.stdout.readline().decode()
