"""Where a consumer puts files: each appears complete under its final name, or not at all."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

from nearfar.download.model import Body, Failure, Head, Job, Reason, Saved
from nearfar.download.store import export, owners
from nearfar.download.store.claims import Claim, Claims
from nearfar.download.store.draft import Draft
from nearfar.download.store.errors import StoreError, disk
from nearfar.download.store.folders import Folders, place
from nearfar.download.store.manifest import FILE, Entry, Manifest, url_key
from nearfar.download.store.names import asked, fold

_ROUNDS = 20
"""How often one group may lose a name to other processes before it gives up."""

Step = Literal["synced", "intended", "placed", "renamed", "recorded", "done"]


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
        self._clock = clock
        self._step = step
        self._drafts: set[Draft] = set()
        with contextlib.ExitStack() as stack, _translated(str(directory)):
            self._folders = Folders(directory)
            stack.callback(self._folders.close)
            self._manifest = Manifest(directory)
            stack.callback(self._manifest.close)
            self._owner = owners.Owner(self._folders)
            stack.pop_all()
        self._claims = Claims(self._manifest, self._folders, overwrite=overwrite)
        self._unsettled = False
        self.id = self._manifest.id
        """Of the directory: two stores with one `id` share it."""

    def known(self, jobs: Sequence[Job]) -> list[Saved | None]:
        """What is saved already of `jobs`: in the manifest, and there with the size it tells of.

        A name or a checksum that a job asks for must fit too; an algorithm other than SHA-256 reads the
        file. Raises `StoreError`.
        """
        with _translated(FILE):
            found = self._manifest.by_key({url_key(job.url) for job in jobs})
            return [self._fitting(job, found.get(url_key(job.url), [])) for job in jobs]

    def _fitting(self, job: Job, entries: list[Entry]) -> Saved | None:
        for entry in entries:
            if (
                self._names(job, entry)
                and self._claims.size(entry) == entry.size
                and self._digests(job, entry)
            ):
                return entry.saved
        return None

    def _names(self, job: Job, entry: Entry) -> bool:
        try:
            return job.name is None or fold("/".join(asked(job.name))) == entry.fold
        except StoreError:
            return False

    def _digests(self, job: Job, entry: Entry) -> bool:
        if job.checksum is None:
            return True
        if job.checksum.algorithm == "sha256":
            return job.checksum.digest == entry.sha256
        return job.checksum.digest == self._claims.digest(entry, job.checksum.algorithm)

    def open(self, job: Job, head: Head) -> Draft:
        """Start a file. Raises `StoreError`: disk, or refused for a name that leads out of the directory."""
        draft = Draft(job, head, self._folders, self._owner)
        self._drafts.add(draft)
        return draft

    def put(self, job: Job, head: Head, body: Body, data: bytes) -> Draft:
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
        ended: dict[Draft, Saved | StoreError] = {}
        try:
            self._sync(group, ended)
            for _ in range(len(group) + _ROUNDS):
                left = [draft for draft in group if draft not in ended]
                if not left:
                    break
                self._round(left, ended)
            self._sync_folders(group, ended)
        except (OSError, sqlite3.Error, StoreError) as error:
            for draft in group:
                ended.setdefault(draft, disk(error, f"{draft.label}: {FILE}"))
        self._step("done")
        lost = StoreError(Reason.DISK, "other consumers kept taking the name")
        results = [(draft, ended.get(draft, lost)) for draft in group]
        for draft in group:
            self._drafts.discard(draft)
            draft.discard()
        return [(draft, r.failure if isinstance(r, StoreError) else r) for draft, r in results]

    def _sync(self, drafts: list[Draft], ended: dict[Draft, Saved | StoreError]) -> None:
        """All write-backs are started before the first is waited for.

        Measured on ext4, microseconds a file in groups of 250: fsync one after the other 460-2,400, this way
        130-190, a pool of 8-32 threads 120-210, syncfs 50-420 and it waits for strangers' files as well.
        """
        for draft in drafts:
            with contextlib.suppress(OSError):
                draft.write_back()
        for draft in drafts:
            try:
                if draft.descriptor is None or draft.body is None:
                    raise ValueError(f"{draft.label} is not finished")
                os.fsync(draft.descriptor)
            except OSError as error:
                ended[draft] = disk(error, draft.label)
            draft.close()
        self._step("synced")

    def _round(self, drafts: list[Draft], ended: dict[Draft, Saved | StoreError]) -> None:
        """Take the group one step further: intend and place what can be; the rest waits for another round."""
        with self._manifest.transaction(synced=True):
            if self._unsettled:
                self._resolve(self._owner.token)
                self._unsettled = False
            claims, answers = self._claims.group(drafts, self._clock())
            self._manifest.intend((claim.entry for claim in claims), self._owner.token)
        self._unsettled = True
        ended.update(answers)
        self._step("intended")
        with self._manifest.transaction():
            placed = self._place(claims, ended)
            self._manifest.promote(self._owner.token)
            self._step("recorded")
        self._unsettled = False
        ended.update(placed)

    def _place(self, claims: list[Claim], ended: dict[Draft, Saved | StoreError]) -> dict[Draft, Saved]:
        """Give the names, under the manifest's lock: no other process can take an intent over meanwhile."""
        held = self._manifest.intents_of(self._owner.token)
        placed: dict[Draft, Saved] = {}
        for claim in claims:
            if claim.entry.fold not in held:
                continue
            try:
                self._name(claim)
                placed[claim.draft] = claim.entry.saved
            except FileExistsError:
                claim.draft.tried.add(claim.entry.fold)
            except (OSError, StoreError) as error:
                ended[claim.draft] = disk(error, claim.draft.label)
        self._manifest.withdraw(claim.entry.fold for claim in claims if claim.draft not in placed)
        self._step("renamed")
        return placed

    def _name(self, claim: Claim) -> None:
        draft = claim.draft
        if draft.temporary is None:
            raise ValueError(f"{draft.label} is discarded")
        folder = self._folders.at(draft.folder)
        place(draft.temporary, claim.entry.parts[-1], folder, replace=claim.replace)
        draft.temporary = None
        self._step("placed")

    def _sync_folders(self, drafts: list[Draft], ended: dict[Draft, Saved | StoreError]) -> None:
        for folder in {draft.folder for draft in drafts}:
            try:
                os.fsync(self._folders.at(folder))
            except (OSError, StoreError) as error:
                for draft in drafts:
                    if draft.folder == folder:
                        ended[draft] = disk(error, draft.label)

    def sweep(self) -> int:
        """Clear up after killed processes; return how many of their temporaries were removed.

        What they had given its name is recorded as saved, so it is not fetched again. Call it at the start.
        Raises `StoreError`.
        """
        with _translated(FILE):
            with self._manifest.transaction():
                for owner in self._manifest.owners():
                    if not owners.alive(owner, self._folders.root):
                        self._resolve(owner)
            return owners.sweep(self._folders)

    def _resolve(self, owner: str) -> None:
        for intent in self._manifest.intents_of(owner).values():
            self._claims.resolve(intent)

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
        while self._drafts:
            self._drafts.pop().discard()
        self._manifest.close()
        self._owner.close()
        self._folders.close()

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
