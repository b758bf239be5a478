"""Starts commands with `starting`, and reports how they ended."""

from __future__ import annotations

import json
from pathlib import Path

from tests.chaos.faults.starter import Server


class Starter(Server):
    """Starts commands and tells how they ended."""

    def __init__(self) -> None:
        super().__init__("tests.chaos.download.starting")

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
        return int(self._ask(json.dumps(order)))
