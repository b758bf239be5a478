"""Leftovers of a run: processes, socket files, shared memory, temporary files."""

from __future__ import annotations

import stat
from contextlib import suppress
from pathlib import Path

from tests.chaos.faults.stage import Stage
from tests.support.waiting import eventually

GRACE = 5.0
PROBE = b"blat"
"""What Python writes into a temporary folder to see whether it can."""


def leftovers(stage: Stage) -> list[str]:
    """A text for each leftover, after some time for those that are just ending."""
    found: list[str] = []
    starter = stage.processes.starter

    def clean() -> bool:
        found[:] = [
            *(f"process {pid}" for pid in starter.alive()),
            *(f"shared memory {name}" for name in starter.shared_memory()),
            *(f"socket {path}" for path in stage.folder.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)),
            *(
                f"temporary {path}"
                for path in stage.temporary.iterdir()
                if not (stage.killed and _pythons(path))
            ),
        ]
        return not found

    eventually(clean, GRACE)
    return found


def _pythons(path: Path) -> bool:
    """Whether it belongs to Python, which removes it only at a program's normal exit."""
    with suppress(OSError):
        return path.name.startswith("pymp-") or path.read_bytes() == PROBE
    return False
