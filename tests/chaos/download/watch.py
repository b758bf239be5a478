"""Checks the output folder during a run: files with final names are complete, and get them once."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from tests.chaos.download.served_files import Ware

OWN = ".nearfar"


class Watch:
    """Each check compares new files with their expected content."""

    def __init__(self, folder: Path, wares: dict[str, Ware]) -> None:
        self._folder = folder
        self._wares = wares
        self._inodes: dict[str, int] = {}
        self._number = 0
        self._due = 0.0
        self.saved_at: dict[str, float] = {}
        """When a file's row was seen first, by its path on the server; of the monotonic clock."""
        self.looks = 0

    def look(self) -> None:
        """Raises `AssertionError` for a file with wrong content, or that was replaced."""
        self.looks += 1
        self._look_into(self._folder)
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + 0.1
            self._read_rows()

    def _look_into(self, folder: Path) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    self._look_into(Path(entry.path))
                elif not entry.name.startswith(OWN):
                    self._look_at(Path(entry.path), entry.inode())

    def _look_at(self, path: Path, inode: int) -> None:
        name = path.relative_to(self._folder).as_posix()
        if name in self._inodes:
            assert self._inodes[name] == inode, f"{name} was saved twice"
            return
        assert name in self._wares, f"{name} is nothing that was asked for"
        assert path.read_bytes() == self._wares[name].body, f"{name} is not whole"
        self._inodes[name] = inode

    def rows(self) -> dict[str, tuple[int, str]]:
        """The manifest's rows: size and SHA-256 by name."""
        with closing(self._open()) as manifest:
            return {
                name: (size, digest)
                for name, size, digest in manifest.execute("SELECT name, size, sha256 FROM files")
            }

    def intents(self) -> int:
        with closing(self._open()) as manifest:
            return int(manifest.execute("SELECT count(*) FROM intents").fetchone()[0])

    def _read_rows(self) -> None:
        try:
            with closing(self._open()) as manifest:
                rows = manifest.execute(
                    "SELECT number, name FROM files WHERE number > ? ORDER BY number", (self._number,)
                ).fetchall()
        except sqlite3.OperationalError:  # not there yet, or just being made
            return
        for number, name in rows:
            self._number = number
            self.saved_at.setdefault(self._wares[name].path, time.monotonic())

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self._folder}/{OWN}.sqlite?mode=ro", uri=True)
