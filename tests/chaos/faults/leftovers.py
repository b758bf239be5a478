"""What a run may have left: processes, socket files, shared memory, temporary files."""

from __future__ import annotations

import stat
from pathlib import Path

from tests.chaos.faults.starter import Starter
from tests.support.waiting import eventually

GRACE = 5.0


def leftovers(folder: Path, starter: Starter) -> list[str]:
    """A phrase for each thing that is still there, once those that are just ending had time to."""
    found: list[str] = []

    def clean() -> bool:
        found[:] = [
            *(f"process {pid}" for pid in starter.alive()),
            *(f"socket {path}" for path in folder.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)),
            *(f"temporary file {path.name}" for path in (folder / "temporary").iterdir()),
            *(f"shared memory {name}" for name in starter.shared_memory()),
        ]
        return not found

    eventually(clean, GRACE)
    return found
