"""Where a consumer puts files: each appears complete under its final name, or does not appear."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from nearfar.download.model import Body, Failure, Head, Job, Partial, Saved, disk
from nearfar.download.store import owners
from nearfar.download.store.claims import Claims, fits
from nearfar.download.store.commit import Committer, DraftLimit, Reserve, Step
from nearfar.download.store.draft import Draft
from nearfar.download.store.folders import Folders, regular, set_aside
from nearfar.download.store.manifest import FILE, Manifest, ManifestEntry
from nearfar.download.store.names import fold
from nearfar.download.store.partials import Partials, Resumption

log = logging.getLogger(__name__)


class Store:
    """One directory, for one process and one thread at a time. Several processes may share the directory.

    A file's way, for a group of drafts at once::

        open, write, finish     temporary beside the target, counted and hashed
        commit   sync           the bytes are synced to the disk
                 intend         the manifest records which file gets which name, synced
                 place          the name is given, never over a file of others (see `claims`)
                 record         the manifest records the file as saved
                 sync           the directories are synced to the disk

    and only then may a caller acknowledge. A crash at any point leaves no partial file under a final name;
    the next `sweep` determines what was saved.

    Not guaranteed: safety from someone who modifies the manifest itself, and a shared directory on a network
    file system (SQLite's WAL requires one machine).
    """

    def __init__(
        self,
        directory: Path,
        *,
        overwrite: bool = False,
        remote_time: bool = False,
        clock: Callable[[], float] = time.time,
        step: Callable[[Step], None] = lambda step: None,
    ) -> None:
        """Open `directory`, creating it if necessary. `overwrite`: files of other programs may be replaced.
        `remote_time`: files get the time of their last modification, where the server names it.

        `step` is called after each step of a commit. Raises `StoreError`.
        """
        self._drafts: set[Draft] = set()
        self._remote_time = remote_time
        self._clock = clock
        self._room = DraftLimit()
        with contextlib.ExitStack() as stack, _translated(str(directory)):
            self._folders = stack.enter_context(contextlib.closing(Folders(directory)))
            # Before the manifest: on a read-only or full disk, SQLite only reports that it cannot open it.
            self._owner = stack.enter_context(contextlib.closing(owners.Owner(self._folders)))
            self._manifest = stack.enter_context(contextlib.closing(Manifest(directory)))
            self._reserve = stack.enter_context(contextlib.closing(Reserve(self._folders, self._owner)))
            self._partials = stack.enter_context(
                contextlib.closing(Partials(directory, self._manifest, self._folders, self._owner, clock))
            )
            self._open = stack.pop_all()
        self._claims = Claims(self._manifest, self._folders, overwrite=overwrite)
        self._committer = Committer(
            self._manifest, self._claims, self._folders, self._reserve, self._partials, clock, step
        )
        self.id = self._manifest.id
        """The directory's id: two stores with one `id` share it."""

    def known(self, jobs: Sequence[Job]) -> list[Saved | None]:
        """What is saved already of `jobs`: in the manifest, and present with the recorded size.

        A job's name or checksum must match too. The file is read if there is a checksum, or if it was
        modified since. Raises `StoreError`; ValueError for an algorithm that hashlib lacks.
        """
        with _translated(FILE):
            keys = [self._manifest.key(job.url) for job in jobs]
            found = self._manifest.by_key(dict.fromkeys(keys))
            return [
                self._fitting(job, found[key]) if key in found else None
                for job, key in zip(jobs, keys, strict=True)
            ]

    def _fitting(self, job: Job, entries: list[ManifestEntry]) -> Saved | None:
        for entry in entries:
            if fits(self._folders, entry, job):
                return entry.saved
        for entry in entries:
            log.info("%s is gone, or is not what is asked for: it is fetched again", entry.name)
        return None

    def forget(self, saved: Saved) -> str | None:
        """Remove a file from the manifest, so that the next run that requests its URL fetches it again.

        A file with its name is renamed, and the new name returned; None if there is no file. Raises
        `StoreError`.
        """
        *above, name = saved.name.split("/")
        with _translated(saved.name), self._manifest.transaction():
            self._manifest.forget(fold(saved.name))
            try:
                folder = self._folders.at(tuple(above))
                return None if regular(name, folder) is None else "/".join([*above, set_aside(name, folder)])
            except FileNotFoundError:
                return None

    def key(self, job: Job) -> bytes:
        """Identifies the resource that the job's URL names, as `Draft.key`."""
        return self._manifest.key(job.url)

    def unfinished(self, jobs: Sequence[Job]) -> tuple[list[Partial | None], list[str]]:
        """What a transfer can continue of each job; and the partial files of `jobs` that are being written.

        Raises `StoreError`.
        """
        with _translated(FILE):
            return self._partials.find([self._manifest.key(job.url) for job in jobs], jobs)

    def want(self, files: Iterable[str]) -> None:
        """Ask the stores that write these partial files to release those that no producer feeds any more.
        Raises `StoreError`."""
        with _translated(FILE):
            self._partials.want(files)

    def wanted(self) -> set[str]:
        """The partial files of this store (`Draft.recorded`) that another store asks for. Raises
        `StoreError`."""
        with _translated(FILE):
            return self._partials.wanted()

    def resume(self, job: Job, file: str, on_done: Callable[[], None]) -> Resumption | None:
        """Take over a partial file, and begin to read it again; `on_done` is called from a thread at the end.

        None if it cannot be continued any more. Raises `StoreError`.
        """
        with _translated(FILE):
            return self._partials.take_over(file, self._manifest.key(job.url), job, on_done)

    def resumed(self, job: Job, resumption: Resumption) -> Draft | None:
        """The draft that continues a partial file, after `Resumption.done`; None if the file was changed: it
        is removed then. Raises `StoreError`."""
        self._partials.end(resumption)
        row = resumption.row
        head = Head(row.final_url, 200, row.type, row.length, row.etag, row.modified, validator=row.validator)
        draft = self._draft(job, head, resumption)
        if resumption.intact:
            return draft
        log.warning("%s: its partial file was changed: it is fetched from the start", row.name)
        draft.discard()
        return None

    def open(self, job: Job, head: Head) -> Draft:
        """Start a file, which another transfer may continue if `head` has a validator.

        Raises `StoreError`: disk, also if no space for the manifest can be reserved; or rejected, for a name
        that leads out of the directory.
        """
        if not self._reserve.full:
            with _translated("no room for a file beside the manifest"):
                self._reserve.keep()
        self._room.make(self._drafts)
        return self._draft(job, head)

    def _draft(self, job: Job, head: Head, resumption: Resumption | None = None) -> Draft:
        latest = self._clock() if self._remote_time else None
        key, partials = self._manifest.key(job.url), None if head.validator is None else self._partials
        return Draft(
            job, head, key, self._folders, self._owner, self._drafts, partials, resumption, latest=latest
        )

    def put(self, job: Job, head: Head, body: Body, data: bytes | memoryview) -> Draft:
        """`open`, write all of `data`, and finish: for a body in one piece."""
        draft = self.open(job, head)
        draft.write(data)
        draft.finish(body)
        return draft

    def commit(self, drafts: Iterable[Draft]) -> list[tuple[Draft, Saved | Failure]]:
        """Save finished drafts together, and return how each ended. Those that fail are discarded.

        A few hundred small files make a good group: they need two transactions and about one wait for the
        disk; each keeps a descriptor open until then. Never raises for an error of the disk or the manifest:
        each draft affected has it as its result.
        """
        group = list(dict.fromkeys(drafts))
        ended = self._committer.commit(group)
        self._drafts.difference_update(group)
        for draft in group:
            if draft.temporary is not None:
                draft.discard()
        with contextlib.suppress(OSError):  # `open` reports it
            self._reserve.keep()
        return [(draft, ended[draft]) for draft in group]

    def sweep(self) -> int:
        """Clean up after killed processes; return the number of temporaries removed. Partial files stay that
        a transfer may continue.

        Files that they had given a final name are recorded as saved, so they are not fetched again. Call it
        at the start. Raises `StoreError`.
        """
        with _translated(FILE):
            with self._manifest.transaction():
                for owner in self._manifest.owners():
                    if not owners.alive(owner, self._folders.root):
                        self._claims.resolve_all(owner)
                kept = self._partials.sweep()
            return owners.sweep(self._folders, kept)

    def close(self) -> None:
        """Release uncommitted drafts, and close the directory. A second call does nothing."""
        for draft in list(self._drafts):
            draft.release()
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
