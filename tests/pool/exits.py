"""A task that outlives the program's last line."""

from __future__ import annotations

import time
from pathlib import Path


def touch_late(path: str) -> None:
    """Its moment is long enough for the program to end first."""
    time.sleep(0.1)
    Path(path).touch()
