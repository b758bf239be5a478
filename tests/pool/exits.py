"""A task that runs longer than the program's last line."""

from __future__ import annotations

import time
from pathlib import Path


def touch_late(path: str) -> None:
    """Sleep long enough for the program to end first."""
    time.sleep(0.1)
    Path(path).touch()
