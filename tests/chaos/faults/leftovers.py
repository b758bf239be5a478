"""What a run may have left: processes, socket files, shared memory, temporary files."""

from __future__ import annotations

import stat
from pathlib import Path

from tests.chaos.faults.starter import Starter
from tests.support.waiting import eventually

GRACE = 5.0


def leftovers(folder: Path, starter: Starter, *, killed: bool) -> list[str]:
    """A phrase for each thing that is still there, once those that are just ending had time to.

    Where somebody was `killed`, the folder in which multiprocessing's fork server listens stays: Python removes
    it at a program's normal end only.
    """
    found: list[str] = []

    def clean() -> bool:
        found[:] = [
            *(f"process {pid}" for pid in starter.alive()),
            *(f"socket {path}" for path in folder.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)),
            *(f"temporary file {path.name}" for path in (folder / "temporary").iterdir()),
        ]
        found[:] = [each for each in found if not (killed and "pymp-" in each)] + [
            *(f"shared memory {name}" for name in starter.shared_memory()),
        ]
        return not found

    eventually(clean, GRACE)
    return found
