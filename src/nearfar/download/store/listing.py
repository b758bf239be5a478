"""Read-only access to a folder's manifest: nothing is created, changed or swept."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nearfar.download.model import Job, Reason, Saved, StoreError, disk
from nearfar.download.store import manifest
from nearfar.download.store.claims import fits
from nearfar.download.store.folders import Folders, digest, regular
from nearfar.download.store.manifest import (
    FILE,
    check_version,
    key_of,
    read_by_key,
    read_rows,
    refuse_strangers,
)
from nearfar.download.store.partials import PartialRow, read_partials


class Listing:
    """The manifest of one folder, open for reading; a context manager.

    Consumers may be at work in the folder: files saved so far are listed. Files that a killed consumer named
    but did not record are not; the next consumer's start records them.
    """

    def __init__(self, directory: Path) -> None:
        """Raises `StoreError`: also if there is no such folder, or nothing was ever saved in it."""
        if not directory.is_dir():
            raise StoreError(Reason.DISK, f"{directory}: there is no such folder")
        if not (directory / FILE).exists():
            detail = f"{directory}: nothing was saved in this folder, it has no manifest"
            raise StoreError(Reason.DISK, detail)
        refuse_strangers(directory)
        self._path = directory / FILE
        self._name = f"{directory}: {FILE}"
        with self._translated(), contextlib.ExitStack() as stack:
            self._folders = stack.enter_context(contextlib.closing(Folders(directory)))
            db = sqlite3.connect(_address(directory), uri=True, isolation_level=None)
            self._db = stack.enter_context(contextlib.closing(db))
            check_version(self._db)
            self._salt = str(self._db.execute("SELECT id FROM store").fetchone()[0])
            self._open = stack.pop_all()

    def rows(self) -> Iterator[Saved]:
        """Every file, in the order they were saved. Raises `StoreError`."""
        with self._translated():
            yield from read_rows(self._db)

    def partials(self) -> list[PartialRow]:
        """The partial files that another transfer may continue, or that are being received. Raises
        `StoreError`."""
        with self._translated():
            if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'partials'").fetchone():
                return []  # of an earlier nearfar
            return [row for row in read_partials(self._db) if self._is_there(row)]

    def _is_there(self, row: PartialRow) -> bool:
        parts, name = row.place
        try:
            return regular(name, self._folders.at(parts)) is not None
        except (OSError, StoreError):
            return False

    def export(self, form: manifest.Form, file: IO[str]) -> None:
        """Write every row to `file` as JSON Lines or CSV. Raises `StoreError`, or OSError of `file`."""
        manifest.write(self.rows(), form, file)

    def digest(self, saved: Saved) -> str | None:
        """The SHA-256 of the file as it is now, lower-case hex; None if no regular file has its name.

        Raises `StoreError`, and `OSError` if it cannot be read.
        """
        *above, name = saved.name.split("/")
        try:
            folder = self._folders.at(tuple(above))
            return None if regular(name, folder) is None else digest(name, folder, "sha256")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def key(self, url: str) -> bytes:
        """The manifest's key of `url`."""
        return key_of(url, self._salt)

    def find(self, job: Job) -> Saved | None:
        """The file of `job` that is saved and still there, as `Store.known` finds it. Raises `StoreError`."""
        with self._translated():
            entries = read_by_key(self._db, self.key(job.url))
            return next((entry.saved for entry in entries if fits(self._folders, entry, job)), None)

    def refuse_to_be(self, path: Path) -> None:
        """Raise `StoreError` where an output to `path` would replace the manifest."""
        with contextlib.suppress(FileNotFoundError):
            if path.samefile(self._path):
                raise StoreError(Reason.REJECTED, f"{path} is the manifest itself: name another file")

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise disk(error, self._name) from error


def _address(directory: Path) -> str:
    """The SQLite address that creates no file: without a log there is no writer, and nothing changes there.

    With mode=ro alone, SQLite would create and leave a log and its index.
    """
    how = "mode=ro" if (directory / f"{FILE}-wal").exists() else "immutable=1"
    return f"{(directory / FILE).absolute().as_uri()}?{how}"
