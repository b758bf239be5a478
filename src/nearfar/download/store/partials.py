"""Partial files: the durable beginnings of large files, which a later transfer continues.

While a file is received, its store notes about once a second (`EVERY`) how many bytes it has, their SHA-256,
and what a server must confirm before it sends the rest (`Partial`): a row of the manifest. A thread writes
the row at once, which is enough after a kill; another one syncs the file, and notes then how much of it a
power cut would leave. After a kill, the temporary of a file that has a row stays; a store that is asked for
its URL offers it (`find`), takes it over (`take_over`), reads it again, and compares it with the digest of
the row (`Resumption`): a file that any program or power cut has changed is never continued.

A row belongs to a store that runs, or to none: then any store of the folder may take the file over.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple, Self

from nearfar.download.model import Job, Partial, StoreError
from nearfar.download.store import owners
from nearfar.download.store.folders import Folders, regular
from nearfar.download.store.manifest import AT_ONCE, BUSY, FILE, Manifest
from nearfar.download.store.names import asked
from nearfar.download.store.owners import Owner

EVERY = 0.75
"""Seconds between two times that the bytes of one file are made durable: with the time that syncing takes, a
kill costs about a second."""
FIRST = 0.25
"""Seconds after which that is done for the first time: the first bytes were buffered before."""
KEPT = 14 * 86_400.0
"""Seconds after which a sweep removes a partial file that no transfer has continued."""
LEAST = 4096
"""Bytes; fewer are fetched again."""
COMPARED = 512
"""First and last bytes that an offer has."""
_PIECE = 1 << 20
_READ = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

log = logging.getLogger(__name__)


class PartialRow(NamedTuple):
    """A row about one partial file."""

    file: str
    """The path of the temporary below the folder."""
    owner: str
    """The token of the store that writes it; empty: none."""
    key: bytes
    """`Manifest.key` of its URL."""
    named: bool
    """The user chose the name."""
    name: str
    """The requested name of the complete file."""
    url: str
    final_url: str
    type: str | None
    etag: str | None
    modified: str | None
    length: int | None
    validator: str
    source: str
    size: int
    sha256: str
    """Of the first `size` bytes."""
    synced: int
    """Bytes that are synced to the disk."""
    synced_sha256: str
    boot: str
    """The boot of the system (`boot_id`) in which `size` bytes were written."""
    time: float
    """When it was written, in seconds since the epoch."""

    @property
    def place(self) -> tuple[tuple[str, ...], str]:
        """The sub-directory, and the temporary's name."""
        *parts, name = self.file.split("/")
        return tuple(parts), name

    def durable(self) -> Self:
        """The row of what must be there now: after another boot, what was synced."""
        if self.boot == boot_id():
            return self
        return self._replace(size=self.synced, sha256=self.synced_sha256)

    def fits(self, job: Job) -> bool:
        """Whether `job` asks for the same name."""
        if job.name is None or not self.named:
            return job.name is None and not self.named
        with contextlib.suppress(StoreError):
            return "/".join(asked(job.name)) == self.name
        return False


@cache
def boot_id() -> str:
    """Identifies this boot of the system; where that is unknown, this process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.urandom(16).hex()


_FIELDS = ", ".join(PartialRow._fields)
_MARKS = ", ".join("?" * len(PartialRow._fields))
_CHANGES = ", ".join(f"{each} = excluded.{each}" for each in ("owner", "size", "sha256", "boot", "time"))
_WRITE = (
    f"INSERT INTO partials ({_FIELDS}) VALUES ({_MARKS})"
    f" ON CONFLICT (file) DO UPDATE SET {_CHANGES}, wanted = 0"
)
_DROP = "DELETE FROM partials WHERE file = ?"


def read_partials(db: sqlite3.Connection, where: str = "", values: Sequence[object] = ()) -> list[PartialRow]:
    """The rows of the partial files in a manifest, oldest first. Raises `sqlite3.Error`."""
    found = db.execute(f"SELECT {_FIELDS} FROM partials {where} ORDER BY time", values)
    return list(map(PartialRow._make, found))


_Connect = Callable[[], sqlite3.Connection]
_Order = Callable[[_Connect], object]


class _Worker:
    """A thread that carries out orders, with an SQLite connection of its own; it starts with the first."""

    def __init__(self, name: str, connect: _Connect) -> None:
        self._name = name
        self._connect = connect
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._starting = Lock()

    def order(self, order: _Order) -> None:
        """Carry `order` out after the earlier ones. From any thread."""
        with self._starting:
            self._orders.put(order)
            if self._thread is None:
                thread = Thread(target=self._work, name=self._name, daemon=True)
                with contextlib.suppress(RuntimeError):  # without threads, nothing is kept
                    thread.start()
                    self._thread = thread

    def close(self) -> None:
        """Carry out the orders given so far, and end the thread."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        with contextlib.ExitStack() as stack:
            connect = cache(lambda: stack.enter_context(contextlib.closing(self._connect())))
            while (order := self._orders.get()) is not None:
                try:
                    order(connect)
                except (OSError, sqlite3.Error) as error:
                    log.debug("a partial file is not noted: %s", error)


class Partials:
    """The partial files of one store. Methods may raise `sqlite3.Error` and `OSError`, unless they say so.

    `record`, `release` and `drop` never wait or raise: a thread carries them out in order, and another one
    syncs files.
    """

    def __init__(
        self, directory: Path, manifest: Manifest, folders: Folders, owner: Owner, clock: Callable[[], float]
    ) -> None:
        self.clock = clock
        self.token = owner.token
        self._directory = directory
        self._manifest = manifest
        self._db = manifest.db
        self._folders = folders
        self._owner = owner
        self._notes = _Worker("partials", partial(self._connect, "NORMAL"))
        self._syncs = _Worker("sync", partial(self._connect, "FULL"))
        self._syncing: set[str] = set()
        self._releasing: list[bytes] = []
        """Keys of files that will be free in a moment."""
        self._resumptions: set[Resumption] = set()

    def record(self, descriptor: int, row: PartialRow, on_end: Callable[[bool], None]) -> None:
        """Write `row`, then sync `descriptor`, which is closed at the end. `on_end`, called in the thread,
        gets whether the row was written."""
        self._notes.order(partial(self._note, descriptor, row, on_end))

    def release(self, descriptor: int, row: PartialRow) -> None:
        """`record` a file that no store writes any more."""
        self._releasing.append(row.key)
        on_end = partial(self._has_released, row.key)
        self._notes.order(partial(self._note, descriptor, row, on_end))

    def _has_released(self, key: bytes, _: bool) -> None:
        self._releasing.remove(key)

    def _note(
        self, descriptor: int, row: PartialRow, on_end: Callable[[bool], None], connect: _Connect
    ) -> None:
        noted = False
        try:
            connect().execute(_WRITE, row)
            noted = True
        finally:
            on_end(noted)
            if noted and (row.file not in self._syncing or not row.owner):
                self._syncing.add(row.file)
                self._syncs.order(partial(self._sync, descriptor, row))
            else:
                os.close(descriptor)

    def _sync(self, descriptor: int, row: PartialRow, connect: _Connect) -> None:
        try:
            os.fsync(descriptor)
            synced = (row.size, row.sha256, row.file)
            connect().execute("UPDATE partials SET synced = ?, synced_sha256 = ? WHERE file = ?", synced)
        finally:
            self._syncing.discard(row.file)
            os.close(descriptor)

    def drop(self, file: str) -> None:
        """Delete a row."""
        self._notes.order(lambda connect: connect().execute(_DROP, (file,)))

    def drop_all(self, files: Iterable[str]) -> None:
        """Delete rows, in the transaction of the store's thread."""
        self._db.executemany(_DROP, ((file,) for file in files))

    def find(self, keys: Sequence[bytes], jobs: Sequence[Job]) -> tuple[list[Partial | None], list[str]]:
        """What can be continued of each job; and the partial files of these jobs that a store writes now."""
        found: list[Partial | None] = [None] * len(jobs)
        busy = [key.hex() for key in keys if key in self._releasing] if self._releasing else []
        if not self._db.execute("SELECT EXISTS (SELECT 1 FROM partials)").fetchone()[0]:
            return found, busy
        rows: dict[bytes, list[PartialRow]] = {}
        for start in range(0, len(keys), AT_ONCE):
            part = keys[start : start + AT_ONCE]
            for row in read_partials(self._db, f"WHERE key IN ({', '.join('?' * len(part))})", part):
                rows.setdefault(row.key, []).append(row.durable())
        for index, (key, job) in enumerate(zip(keys, jobs, strict=True)):
            for row in sorted(rows.get(key, ()), key=lambda row: -row.size):
                if row.size < LEAST or not row.fits(job):
                    continue
                if row.owner and owners.alive(row.owner, self._folders.root):
                    busy.append(row.file)
                elif found[index] is None:
                    found[index] = self._offer(row)
        return found, busy

    def _offer(self, row: PartialRow) -> Partial | None:
        parts, name = row.place
        try:
            folder = self._folders.at(parts)
            if not _is_ours(regular(name, folder), row):
                return None
            descriptor = os.open(name, os.O_RDONLY | _READ, dir_fd=folder)
            try:
                first = os.pread(descriptor, COMPARED, 0)
                last = os.pread(descriptor, COMPARED, row.size - COMPARED)
            finally:
                os.close(descriptor)
        except (OSError, StoreError):
            return None
        return Partial(
            row.file, self._manifest.id, row.size, row.length, row.validator, row.source, first, last
        )

    def take_over(self, file: str, key: bytes, job: Job, on_done: Callable[[], None]) -> Resumption | None:
        """Begin to read a partial file again, which belongs to this store from now on.

        None if it is not there any more, is not as the row says, or belongs to another store.
        """
        with self._manifest.transaction():
            row = next(iter(read_partials(self._db, "WHERE file = ?", (file,))), None)
            if row is None or row.key != key or not row.fits(job):
                return None
            row = row.durable()
            if row.owner and owners.alive(row.owner, self._folders.root):
                return None
            row = self._rename(row)
        if row is None:
            return None
        resumption = self._open(row, on_done)
        if resumption is None:
            self.drop(row.file)
        else:
            self._resumptions.add(resumption)
        return resumption

    def _rename(self, row: PartialRow) -> PartialRow | None:
        """Give the file a name of this store. A file that is not as the row says stays, without its row."""
        parts, name = row.place
        new = None
        with contextlib.suppress(OSError, StoreError):
            folder = self._folders.at(parts)
            if _is_ours(regular(name, folder), row):
                temporary = os.fsdecode(self._owner.temporary(parts))
                os.rename(name, temporary, src_dir_fd=folder, dst_dir_fd=folder)
                new = row._replace(file="/".join((*parts, temporary)), owner=self.token)
        self.drop_all([row.file])
        if new is not None:
            self._db.execute(_WRITE, new)
        return new

    def _open(self, row: PartialRow, on_done: Callable[[], None]) -> Resumption | None:
        parts, name = row.place
        with contextlib.suppress(OSError, StoreError):
            descriptor = os.open(name, os.O_RDWR | _READ, dir_fd=self._folders.at(parts))
            if _is_ours(os.fstat(descriptor), row):
                return Resumption(row, descriptor, on_done)
            os.close(descriptor)
        return None

    def end(self, resumption: Resumption) -> None:
        """A resumption has been used, or is not needed."""
        self._resumptions.discard(resumption)

    def want(self, files: Iterable[str]) -> None:
        """Ask the stores that write these files to let them go, if no producer feeds them any more."""
        with self._manifest.transaction():
            self._db.executemany("UPDATE partials SET wanted = 1 WHERE file = ?", ((file,) for file in files))

    def wanted(self) -> set[str]:
        """The files of this store that another transfer wants to continue."""
        found = self._db.execute("SELECT file FROM partials WHERE wanted AND owner = ?", (self.token,))
        return {file for (file,) in found}

    def sweep(self) -> set[str]:
        """Give up what cannot be, or need not be, continued; return the files to keep. In a transaction."""
        kept: set[str] = set()
        gone: list[str] = []
        for row in read_partials(self._db):
            if row.owner and owners.alive(row.owner, self._folders.root):
                kept.add(row.file)
            elif self._is_worth_keeping(row):
                kept.add(row.file)
                self._db.execute(_WRITE, row._replace(owner=""))
            else:
                gone.append(row.file)
        self.drop_all(gone)
        return kept

    def _is_worth_keeping(self, row: PartialRow) -> bool:
        """Whether a file that no store writes may be continued; if not, it is removed."""
        parts, name = row.place
        try:
            folder = self._folders.at(parts)
            found = regular(name, folder)
            if found is None:
                return False
            late = abs(self.clock() - row.time) >= KEPT
            if (
                _is_ours(found, row.durable())
                and not late
                and not self._manifest.saved_since(row.key, row.time)
            ):
                return True
            os.unlink(name, dir_fd=folder)
        except (OSError, StoreError):
            return False
        return False

    def close(self) -> None:
        """Carry out the orders given so far, and end the threads."""
        for resumption in self._resumptions:
            resumption.cancel()
        self._resumptions.clear()
        self._notes.close()
        self._syncs.close()

    def _connect(self, synchronous: str) -> sqlite3.Connection:
        """A connection for a thread: the main one may be in a transaction."""
        # The folder may have been moved since it was opened.
        here = Path(f"/proc/self/fd/{self._folders.root}")
        path = (here if here.is_dir() else self._directory) / FILE
        db = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
        db.execute(f"PRAGMA synchronous = {synchronous}")
        return db


def _is_ours(found: os.stat_result | None, row: PartialRow) -> bool:
    """Whether a file may be the one of the row: regular, this user's, with one name, and long enough."""
    return (
        found is not None
        and stat.S_ISREG(found.st_mode)
        and found.st_nlink == 1
        and found.st_uid == os.geteuid()
        and found.st_size >= row.size
    )


class Resumption:
    """Reads the kept bytes of a file again, in a thread, and compares them with the digest of the row."""

    def __init__(self, row: PartialRow, descriptor: int, on_done: Callable[[], None]) -> None:
        """`on_done` is called in the thread once `done` is set."""
        self.row = row
        self.descriptor = descriptor
        self.state: Any = hashlib.sha256()
        """The hash of the bytes."""
        self.done = False
        self.intact = False
        """The bytes are those that the row was written for."""
        self._on_done = on_done
        self._cancelled = False
        self._thread = Thread(target=self._read, name="resumption", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._read()

    def cancel(self) -> None:
        """End the thread, and close the descriptor."""
        self._cancelled = True
        if self._thread.is_alive():
            self._thread.join()
        os.close(self.descriptor)

    def _read(self) -> None:
        at = 0
        with contextlib.suppress(OSError):
            while at < self.row.size and not self._cancelled:
                data = os.pread(self.descriptor, min(_PIECE, self.row.size - at), at)
                if not data:
                    break
                self.state.update(data)
                at += len(data)
        self.intact = at == self.row.size and self.state.hexdigest() == self.row.sha256
        self.done = True
        self._on_done()
