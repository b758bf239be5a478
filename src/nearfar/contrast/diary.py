"""What a process did and when, on a file: a record that is written is there, though its writer be killed."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

RECORD = struct.Struct("<id")
HELLO = -1
"""Written in place of an item's number: a first sign of life came through the queue."""
START = -2
"""Written by a producer: everybody is there, and the work begins."""


class Entry(NamedTuple):
    number: int
    time: float
    """Seconds, of the clock that all processes of a machine share."""


class Diary:
    """Appends; each process has its own."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, number: int) -> None:
        os.write(self._file, RECORD.pack(number, time.monotonic()))

    def close(self) -> None:
        os.close(self._file)


def read(path: Path) -> list[Entry]:
    """All entries so far; none if the diary was not begun."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = len(content) // RECORD.size * RECORD.size
    return [Entry(*fields) for fields in RECORD.iter_unpack(content[:whole])]


def length(path: Path) -> int:
    """How many entries there are."""
    try:
        return path.stat().st_size // RECORD.size
    except FileNotFoundError:
        return 0
