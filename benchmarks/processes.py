"""The processes of a run, and their memory, as the kernel tells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MIB = 1 << 20


def family(pid: int) -> Iterator[int]:
    """This process, and all below it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:  # it is gone meanwhile
            continue
        for child in found:
            yield from family(int(child))


def resident(pid: int) -> float:
    """MiB, what is shared with others included; 0 once it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB
