"""Where a consumer puts files: each appears complete under its final name, or not at all."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from nearfar.download.model import Body, Failure, Head, Job, Saved
from nearfar.download.store import export, owners
from nearfar.download.store.claims import Claims
from nearfar.download.store.commit import Committer, Step
from nearfar.download.store.draft import Draft
from nearfar.download.store.errors import StoreError, disk
from nearfar.download.store.folders import Folders, set_aside, size
from nearfar.download.store.manifest import FILE, Entry, Manifest
from nearfar.download.store.names import asked, fold
from nearfar.download.store.reserve import Reserve
from nearfar.download.store.room import Room

log = logging.getLogger(__name__)


class Store:
    """One directory, for one process and one thread at a time. Several processes may share the directory.

    A file's way, for a group of drafts at once::

        open, write, finish     temporary beside the target, counted and hashed
        commit   sync           the bytes are on the disk
                 intend         the manifest says which file is to get which name, on the disk too
                 place          the name is given, never over a file of others (see `claims`)
                 record         the manifest says saved
                 sync           the directories are on the disk

    and only then may a caller acknowledge. A death at any point leaves no partial file under a final name;
    the next `sweep` finds out what was saved.

    Not promised: safety from someone who writes into the manifest itself, and a shared directory on a
    network file system (SQLite's WAL wants one machine).
    """

    def __init__(
        self,
        directory: Path,
        *,
        overwrite: bool = False,
        clock: Callable[[], float] = time.time,
        step: Callable[[Step], None] = lambda step: None,
    ) -> None:
        """Open `directory`, making it if need be. `overwrite`: files of others may be replaced.

        `step` is called as each step of a commit ends. Raises `StoreError`.
        """
        self._drafts: set[Draft] = set()
        self._room = Room()
        with contextlib.ExitStack() as stack, _translated(str(directory)):
            self._folders = stack.enter_context(contextlib.closing(Folders(directory)))
            # Before the manifest: of a disk that takes nothing, SQLite only says that it cannot open it.
            self._owner = stack.enter_context(contextlib.closing(owners.Owner(self._folders)))
            self._manifest = stack.enter_context(contextlib.closing(Manifest(directory)))
            self._reserve = stack.enter_context(contextlib.closing(Reserve(self._folders, self._owner)))
            self._open = stack.pop_all()
        self._claims = Claims(self._manifest, self._folders, overwrite=overwrite)
        token = self._owner.token
        self._committer = Committer(
            self._manifest, self._claims, self._folders, self._reserve, token, clock, step
        )
        self.id = self._manifest.id
        """Of the directory: two stores with one `id` share it."""

    def known(self, jobs: Sequence[Job]) -> list[Saved | None]:
        """What is saved already of `jobs`: in the manifest, and there with the size it tells of.

        A name or a checksum that a job asks for must fit too. The file is read where there is a checksum, and
        where it was written to since. Raises `StoreError`; ValueError for an algorithm that hashlib lacks.
        """
        with _translated(FILE):
            keys = [self._manifest.key(job.url) for job in jobs]
            found = self._manifest.by_key(dict.fromkeys(keys))
            return [self._fitting(job, found.get(key, [])) for job, key in zip(jobs, keys, strict=True)]

    def _fitting(self, job: Job, entries: list[Entry]) -> Saved | None:
        for entry in entries:
            if self._names(job, entry) and self._claims.holds(entry, job.checksum):
                return entry.saved
        for entry in entries:
            log.info("%s is gone, or is not what is asked for: it is fetched again", entry.name)
        return None

    def _names(self, job: Job, entry: Entry) -> bool:
        try:
            return job.name is None or fold("/".join(asked(job.name))) == entry.fold
        except StoreError:
            return False

    def forget(self, saved: Saved) -> str | None:
        """Have a file fetched again by the next run that asks for its URL: the manifest names it no more.

        What bears its name is set aside under another, which is returned; None if no file does. Raises
        `StoreError`.
        """
        *above, name = saved.name.split("/")
        with _translated(saved.name), self._manifest.transaction():
            self._manifest.forget(fold(saved.name))
            try:
                folder = self._folders.at(tuple(above))
                return None if size(name, folder) is None else "/".join([*above, set_aside(name, folder)])
            except FileNotFoundError:
                return None

    def open(self, job: Job, head: Head) -> Draft:
        """Start a file.

        Raises `StoreError`: disk, also where no room for the manifest can be kept beside it; or refused, for
        a name that leads out of the directory.
        """
        with _translated("no room for a file beside the manifest"):
            self._reserve.keep()
        self._room.make(self._drafts)
        return Draft(job, head, self._manifest.key(job.url), self._folders, self._owner, self._drafts)

    def put(self, job: Job, head: Head, body: Body, data: bytes | memoryview) -> Draft:
        """`open`, write all of `data`, and finish: for a body that came in one piece."""
        draft = self.open(job, head)
        draft.write(data)
        draft.finish(body)
        return draft

    def commit(self, drafts: Iterable[Draft]) -> list[tuple[Draft, Saved | Failure]]:
        """Save finished drafts together, and tell how each ended. Those that fail are discarded.

        A few hundred small files make a good group: two transactions and about one wait for the disk for
        all of them; each keeps a descriptor open until then. Never raises for a fault of the disk or of
        the manifest: it is the answer of each draft that it touches.
        """
        group = list(dict.fromkeys(drafts))
        ended = self._committer.commit(group)
        for draft in group:
            draft.discard()
        with contextlib.suppress(OSError):  # `open` says so
            self._reserve.keep()
        return [(draft, ended[draft]) for draft in group]

    def sweep(self) -> int:
        """Clear up after killed processes; return how many of their temporaries were removed.

        What they had given its name is recorded as saved, so it is not fetched again. Call it at the start.
        Raises `StoreError`.
        """
        with _translated(FILE):
            with self._manifest.transaction():
                for owner in self._manifest.owners():
                    if not owners.alive(owner, self._folders.root):
                        self._claims.resolve_all(owner)
            return owners.sweep(self._folders)

    def rows(self) -> Iterator[Saved]:
        """Every file of the manifest, in the order they were saved. Raises `StoreError`."""
        with _translated(FILE):
            yield from self._manifest.rows()

    def counts(self) -> tuple[int, int]:
        """How many files the manifest holds, and their bytes. Raises `StoreError`."""
        with _translated(FILE):
            return self._manifest.counts()

    def export(self, form: export.Form, file: IO[str]) -> None:
        """Write every row to `file` as JSON Lines or CSV. Raises `StoreError`, or OSError of `file`."""
        export.write(self.rows(), form, file)

    def close(self) -> None:
        """Discard what was not committed, and let go of the directory. A second call does nothing."""
        for draft in list(self._drafts):
            draft.discard()
        self._open.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise disk(error, what) from error
