"""The manifest: an SQLite file beside the files, with a row for each saved file and each intent; its export.

An *intent* is written before a file gets its final name, and becomes a row of `files` afterwards. If its
owner died, the file itself shows whether that was before or after the rename.

Several processes may share the manifest. Each transaction is synced to the disk: if a power cut undid an
intent, its file would count as one that the store did not write. For groups of 250 files, the cost of
syncing was below the noise, on ext4.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Literal, NamedTuple

from nearfar.download.model import Reason, Saved, StoreError
from nearfar.download.redact import identity, written
from nearfar.download.store.names import OWN
from nearfar.download.urls import resource
from nearfar.readable import hidden, json_line

FILE = f"{OWN}.sqlite"
BUSY = 30.0
"""Seconds to wait for another process's transaction."""
RETRY = 0.01
"""Seconds between two tries of what SQLite does not wait for."""
AT_ONCE = 500
"""Values in one query."""
_VERSION = 1
_COLUMNS = """fold TEXT NOT NULL, key BLOB NOT NULL, name TEXT NOT NULL, url TEXT NOT NULL,
    final_url TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL, type TEXT, etag TEXT,
    time REAL NOT NULL, attempts INTEGER NOT NULL, modified TEXT"""
_SCHEMA = f"""
    CREATE TABLE IF NOT EXISTS store (id TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS files (number INTEGER PRIMARY KEY, {_COLUMNS}, UNIQUE (fold));
    CREATE INDEX IF NOT EXISTS files_by_key ON files (key);
    CREATE TABLE IF NOT EXISTS intents ({_COLUMNS}, owner TEXT NOT NULL, PRIMARY KEY (fold)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS replaced ({_COLUMNS}, replaced REAL NOT NULL);
    CREATE TABLE IF NOT EXISTS partials (file TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL,
        key BLOB NOT NULL, named INTEGER NOT NULL, name TEXT NOT NULL, url TEXT NOT NULL,
        final_url TEXT NOT NULL, type TEXT, etag TEXT, modified TEXT, length INTEGER, validator TEXT NOT NULL,
        source TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL, synced INTEGER NOT NULL,
        synced_sha256 TEXT NOT NULL, boot TEXT NOT NULL, time REAL NOT NULL,
        wanted INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS partials_by_key ON partials (key)
"""
"""A manifest of an earlier nearfar gets what it lacks when it is opened; an earlier one
ignores them, and removes the partial files."""


class ManifestEntry(NamedTuple):
    """A row about one file: two keys, then the fields of `Saved`, in its order.

    `key` is `Manifest.key` of its URL; `fold` its name through `names.fold`, unique in a directory.
    """

    fold: str
    key: bytes
    url: str
    final_url: str
    name: str
    size: int
    sha256: str
    type: str | None
    etag: str | None
    time: float
    attempts: int
    modified: str | None = None

    @property
    def saved(self) -> Saved:
        return Saved(*self[2:])

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.name.split("/"))


_FIELDS = ", ".join(ManifestEntry._fields)
_MARKS = ", ".join("?" * len(ManifestEntry._fields))


def readable(text: str) -> str:
    """`text` with ``?`` for invalid Unicode and terminal control characters: fields come from servers, are
    shown to people, and SQLite accepts no surrogates."""
    return text if text.isprintable() else "".join("?" if hidden(char) else char for char in text)


class Manifest:
    """One connection. Every method may raise `sqlite3.Error`; those that write require a `transaction`."""

    def __init__(self, directory: Path) -> None:
        """Open the manifest of `directory`, or create it. Raises `StoreError` or `sqlite3.Error`."""
        refuse_strangers(directory)
        self.db = sqlite3.connect(
            directory / FILE, timeout=BUSY, isolation_level=None, check_same_thread=False
        )
        try:
            _use_write_ahead_log(self.db)
            self.db.execute("PRAGMA synchronous = FULL")
            with self.transaction():
                self.id = self._prepare()
            # Computed when a job is offered, and again when its file arrives.
            self.key = lru_cache(maxsize=4096)(partial(key_of, salt=self.id))
        except BaseException:
            self.db.close()
            raise

    def _prepare(self) -> str:
        version = check_version(self.db)
        for statement in _SCHEMA.split(";"):
            self.db.execute(statement)
        for table in ("files", "intents"):
            if not _has_modified(self.db, table):
                self.db.execute(f"ALTER TABLE {table} ADD COLUMN modified TEXT")
        if version == 0:
            self.db.execute("INSERT INTO store VALUES (?)", (os.urandom(16).hex(),))
            self.db.execute(f"PRAGMA user_version = {_VERSION}")
        return str(self.db.execute("SELECT id FROM store").fetchone()[0])

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """One writer at a time, over all processes, each waiting up to 30 s. Synced to the disk at its
        end."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        finally:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")

    def by_key(self, keys: Iterable[bytes]) -> dict[bytes, list[ManifestEntry]]:
        """The files saved from each URL, oldest first: several, if the user chose several names."""
        found: dict[bytes, list[ManifestEntry]] = {}
        for entry in self._select("files", "key", list(keys), order="ORDER BY number"):
            found.setdefault(entry.key, []).append(entry)
        return found

    def by_fold(self, folds: Iterable[str]) -> dict[str, ManifestEntry]:
        """The saved files with these names."""
        return {entry.fold: entry for entry in self._select("files", "fold", list(folds))}

    def intents(self, folds: Iterable[str]) -> dict[str, ManifestEntry]:
        """The intents of any store on these names."""
        return {entry.fold: entry for entry in self._select("intents", "fold", list(folds))}

    def _select(
        self, table: str, column: str, values: Sequence[bytes | str], order: str = ""
    ) -> Iterator[ManifestEntry]:
        for start in range(0, len(values), AT_ONCE):
            part = values[start : start + AT_ONCE]
            marks = ", ".join("?" * len(part))
            yield from map(
                ManifestEntry._make,
                self.db.execute(
                    f"SELECT {_FIELDS} FROM {table} WHERE {column} IN ({marks}) {order}", tuple(part)
                ),
            )

    def intend(self, entries: Iterable[ManifestEntry], owner: str) -> None:
        """Record the intents `entries` of `owner`, taking over others' intents on the same names."""
        self.db.executemany(
            f"INSERT OR REPLACE INTO intents ({_FIELDS}, owner) VALUES ({_MARKS}, ?)",
            ((*entry, owner) for entry in entries),
        )

    def intents_of(self, owner: str) -> dict[str, ManifestEntry]:
        """The intents of `owner` that no other store took over, by fold."""
        found = self.db.execute(f"SELECT {_FIELDS} FROM intents WHERE owner = ?", (owner,))
        return {entry.fold: entry for entry in map(ManifestEntry._make, found)}

    def folds_of(self, owner: str) -> set[str]:
        """The names of `intents_of`."""
        return {fold for (fold,) in self.db.execute("SELECT fold FROM intents WHERE owner = ?", (owner,))}

    def owner_of(self, fold: str) -> str | None:
        """The owner of the intent on a name."""
        found = self.db.execute("SELECT owner FROM intents WHERE fold = ?", (fold,)).fetchone()
        return str(found[0]) if found else None

    def owners(self) -> list[str]:
        """All owners of intents."""
        return [str(owner) for (owner,) in self.db.execute("SELECT DISTINCT owner FROM intents")]

    def withdraw(self, folds: Iterable[str]) -> None:
        """Drop the intents on these names."""
        self.db.executemany("DELETE FROM intents WHERE fold = ?", ((fold,) for fold in folds))

    def promote(self, *, owner: str | None = None, fold: str | None = None) -> None:
        """Turn every intent of `owner`, or the one on the name `fold`, into a saved file, in place of any
        with the same name. The record of an earlier version of the same file is kept in the table
        ``replaced``."""
        where, value = ("owner", owner) if fold is None else ("fold", fold)
        fields = ", ".join(f"files.{name}" for name in ManifestEntry._fields)
        self.db.execute(
            f"INSERT INTO replaced ({_FIELDS}, replaced) SELECT {fields}, intents.time"
            f" FROM intents JOIN files USING (fold, key) WHERE {where} = ?",
            (value,),
        )
        self.db.execute(
            f"INSERT OR REPLACE INTO files ({_FIELDS}) SELECT {_FIELDS} FROM intents WHERE {where} = ?",
            (value,),
        )
        self.db.execute(f"DELETE FROM intents WHERE {where} = ?", (value,))

    def renew(self, entry: ManifestEntry) -> None:
        """Record new validators of a saved file."""
        self.db.execute(
            "UPDATE files SET etag = ?, modified = ? WHERE fold = ?", (entry.etag, entry.modified, entry.fold)
        )

    def forget(self, fold: str) -> None:
        """Drop the saved file with this name."""
        self.db.execute("DELETE FROM files WHERE fold = ?", (fold,))

    def saved_since(self, key: bytes, time: float) -> bool:
        """Whether a file was saved from a URL at `time` (seconds since the epoch) or later."""
        where = "WHERE key = ? AND time >= ?"
        found = self.db.execute(f"SELECT EXISTS (SELECT 1 FROM files {where})", (key, time))
        return bool(found.fetchone()[0])

    def shrink(self) -> None:
        """Truncate the log, as far as that is possible now. Call it outside a transaction."""
        with contextlib.suppress(sqlite3.Error):
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        self.db.close()


def read_by_key(db: sqlite3.Connection, key: bytes) -> list[ManifestEntry]:
    """The files saved from one URL, oldest first."""
    found = db.execute(f"SELECT {_fields_of(db)} FROM files WHERE key = ? ORDER BY number", (key,))
    return list(map(ManifestEntry._make, found))


def key_of(url: str, salt: str) -> bytes:
    """The key of the resource that `url` names: a hash of its URL without passwords.

    If the URL holds secrets, the hash is salted with the directory's id: no precomputed table finds them, and
    two directories cannot be compared.
    """
    url = resource(url)
    if written(url) == url:
        return hashlib.sha256(url.encode()).digest()
    said = identity(url).encode(errors="surrogateescape")
    return hashlib.blake2b(said, digest_size=32, key=salt.encode()).digest()


def _use_write_ahead_log(db: sqlite3.Connection) -> None:
    """Waits up to `BUSY` seconds for another process that does the same to a new manifest: SQLite itself
    does not wait with a change of the journal's mode."""
    until = time.monotonic() + BUSY
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(RETRY)


def check_version(db: sqlite3.Connection) -> int:
    """The version of a manifest, 0 for a new one. Raises `StoreError` for an unsupported one."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version not in (0, _VERSION):
        raise StoreError(Reason.DISK, f"{FILE} is of version {version}, this nearfar reads {_VERSION}")
    return version


def read_rows(db: sqlite3.Connection) -> Iterator[Saved]:
    """Every saved file of a manifest, in the order they were saved. Raises `sqlite3.Error`."""
    for row in db.execute(f"SELECT {_fields_of(db)} FROM files ORDER BY number"):
        yield ManifestEntry._make(row).saved


def _fields_of(db: sqlite3.Connection) -> str:
    """The columns of a manifest that is only read: one of an earlier nearfar has no times of modification."""
    return _FIELDS if _has_modified(db, "files") else _FIELDS.replace("modified", "NULL")


def _has_modified(db: sqlite3.Connection, table: str) -> bool:
    return any(column[1] == "modified" for column in db.execute(f"PRAGMA table_info({table})"))


def refuse_strangers(directory: Path) -> None:
    """SQLite opens by path, and would follow a symlink, or block on a FIFO, that another user planted.

    Raises `StoreError`.
    """
    for name in (FILE, f"{FILE}-wal", f"{FILE}-shm", f"{FILE}-journal"):
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG((directory / name).lstat().st_mode):
                raise StoreError(Reason.REJECTED, f"{name} is not a regular file")


Form = Literal["jsonl", "csv"]


def write(rows: Iterable[Saved], form: Form, file: IO[str]) -> None:
    """Write `rows` to `file`, one at a time: one JSON object per line, or CSV (RFC 4180) with a header."""
    if form == "jsonl":
        for row in rows:
            file.write(f"{json_line(row._asdict())}\n")
    elif form == "csv":
        import csv

        table = csv.writer(file)
        table.writerow(Saved._fields)
        table.writerows(rows)
    else:
        raise ValueError(f"{form!r} is neither 'jsonl' nor 'csv'")
