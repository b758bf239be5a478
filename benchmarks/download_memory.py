"""The memory of each process of a long download, while it goes on."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.download_contestants import Way
from benchmarks.processes import family, resident

EVERY = 0.1
"""Seconds between two looks."""
MOMENTS = (0.1, 0.5, 1.0)
"""Of a run's time: files of one size come evenly."""


def watched(folder: Path, name: str, way: Way, urls: int) -> dict[str, Any]:
    """Run it once, and tell resident MiB of each process at `MOMENTS`. Raises `RuntimeError` if it fails."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        begun = time.monotonic()
        roots = [subprocess.Popen(command, cwd=out, stdout=subprocess.DEVNULL) for command in way(Path(out))]
        seen: list[tuple[float, dict[int, float]]] = []
        while any(root.poll() is None for root in roots):
            now = {
                pid: memory
                for root in roots
                for pid in family(root.pid)
                if (memory := round(resident(pid), 1))
            }
            seen.append((time.monotonic() - begun, now))
            time.sleep(EVERY)
        if any(root.returncode for root in roots):
            raise RuntimeError(f"{name} failed: {[root.returncode for root in roots]}")
        saved = sum(1 for entry in os.scandir(out) if not entry.name.startswith("."))
    if saved < urls:
        raise RuntimeError(f"{name}: {saved} of {urls} files arrived")
    return {"name": name, "urls": urls, "seconds": seen[-1][0], "processes": _told(seen)}


def _told(seen: list[tuple[float, dict[int, float]]]) -> list[list[float]]:
    """For each process that was there in the middle, its memory at all of them; 0 where it was not there."""
    end = seen[-1][0]
    looks = [next(now for when, now in seen if when >= moment * end) for moment in MOMENTS]
    # The last look may meet some that are leaving.
    last = {pid: memory for _, now in seen for pid, memory in now.items()}
    return [[looks[0].get(pid, 0.0), looks[1][pid], last[pid]] for pid in sorted(looks[1])]
