"""Saves a group of complete drafts, within the limits of descriptors and of disk space."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import sqlite3
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal

from nearfar.download.model import Failure, Reason, Saved, StoreError, disk, lacks_room
from nearfar.download.store.claims import Claims, NameClaim
from nearfar.download.store.draft import Draft
from nearfar.download.store.folders import Folders, place, set_aside
from nearfar.download.store.manifest import FILE, Manifest
from nearfar.download.store.owners import Owner
from nearfar.download.store.partials import Partials

log = logging.getLogger(__name__)

OTHERS = 32
"""Descriptors reserved for connections, the manifest and directories, in addition to those open at the
start."""
LEAST_DRAFTS = 4
"""Drafts that may be open at a time, however few descriptors there are."""


class DraftLimit:
    """Keeps the number of open drafts within the limit of open files, as it was at the start."""

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        here = Path("/proc/self/fd")
        taken = sum(1 for _ in here.iterdir()) if here.is_dir() else OTHERS
        self._most = None if soft == resource.RLIM_INFINITY else max(LEAST_DRAFTS, soft - taken - OTHERS)

    def make(self, drafts: Collection[Draft]) -> None:
        """Before another draft is opened: if `drafts` reach the limit, sync and close the complete ones."""
        if self._most is None or len(drafts) < self._most:
            return
        holding = [draft for draft in drafts if draft.descriptor is not None]
        if len(holding) >= self._most:
            for draft in holding:
                draft.rest()


MOST = 1 << 20
"""Bytes to reserve: what two groups of a few hundred files add to the manifest and its log."""
LEAST = 64 * 1024
"""Bytes that a few files add. With less reserved, no file is started."""
SHARE = 8
"""At most 1/`SHARE` of the free space is reserved, if that is less than `MOST`."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Reserve:
    """An unnamed file of allocated blocks, freed when the manifest needs them, and allocated again
    afterwards.

    Where a file system cannot preallocate, there is none, and no file is refused for lack of it.
    """

    def __init__(self, folders: Folders, owner: Owner) -> None:
        """Reserves nothing yet. Raises `OSError`."""
        name = owner.temporary(())
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(name, flags, 0o600, dir_fd=folders.root)
        os.unlink(name, dir_fd=folders.root)
        self._held = 0

    @property
    def full(self) -> bool:
        """Whether the target size is reserved."""
        return self._held >= MOST

    def keep(self) -> None:
        """Reserve the target size. Raises `OSError` if not even `LEAST` can be reserved."""
        if self.full:
            return
        room = os.fstatvfs(self._descriptor)
        size = min(MOST, max(LEAST, (room.f_bavail * room.f_frsize + self._held) // SHARE))
        while self._held < size:
            try:
                os.posix_fallocate(self._descriptor, 0, size)
            except OSError as error:
                self.release()
                if error.errno not in _FULL:
                    self._held = MOST  # not supported here, or not this much: no reason to refuse files
                elif size == LEAST:
                    raise
                size = max(LEAST, size // 2)
            else:
                self._held = size

    def release(self) -> None:
        """Free all of it at once, for the manifest."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        self._held = 0

    def close(self) -> None:
        os.close(self._descriptor)


_ROUNDS = 20
"""How often one group may lose a name to other processes before it fails."""

Step = Literal["synced", "intended", "placed", "renamed", "recorded", "done"]
_Endings = dict[Draft, Saved | StoreError]


class Committer:
    """Implements `Store.commit`, which documents its guarantees."""

    def __init__(
        self,
        manifest: Manifest,
        claims: Claims,
        folders: Folders,
        reserve: Reserve,
        partials: Partials,
        clock: Callable[[], float],
        step: Callable[[Step], None],
    ) -> None:
        self._manifest = manifest
        self._claims = claims
        self._folders = folders
        self._reserve = reserve
        self._partials = partials
        self._owner = partials.token
        self._clock = clock
        self._step = step
        self._unsettled = False

    def commit(self, group: list[Draft]) -> dict[Draft, Saved | Failure]:
        """Save what can be saved of `group`, and return how each ended."""
        ended: _Endings = {}
        try:
            self._sync(group, ended)
            self._record(group, ended)
            self._sync_folders(group, ended)
        except (OSError, sqlite3.Error, StoreError) as error:
            for draft in group:
                ended.setdefault(draft, disk(error, f"{draft.label}: {FILE}"))
        self._step("done")
        lost = StoreError(Reason.DISK, "other consumers kept taking the name")
        endings = {draft: ended.get(draft, lost) for draft in group}
        return {draft: e.failure if isinstance(e, StoreError) else e for draft, e in endings.items()}

    def _sync(self, drafts: list[Draft], ended: _Endings) -> None:
        """Start all write-backs before waiting for the first.

        Measured on ext4, microseconds per file for 1,000 of 20 kB: sequential fsync 460-2,400, this method
        130-190, a pool of 8-32 threads 120-210, syncfs 50-420, and it waits for other programs' files too.
        """
        for draft in drafts:
            draft.write_back()
        for draft in drafts:
            if draft.synced:
                continue
            if draft.descriptor is None or draft.body is None:
                raise ValueError(f"{draft.label} is not finished")
            try:
                os.fsync(draft.descriptor)
            except OSError as error:
                ended[draft] = disk(error, draft.label)
            draft.close()
        self._step("synced")

    def _record(self, group: list[Draft], ended: _Endings) -> None:
        """Repeat rounds until all have ended, or lost their names too often."""
        free_slots = True
        for _ in range(len(group) + _ROUNDS):
            left = [draft for draft in group if draft not in ended] if ended else group
            if not left:
                return
            try:
                self._round(left, ended)
            except (OSError, sqlite3.Error) as error:
                if not lacks_room(error):
                    raise
                if not free_slots and not self._sacrifice(left, ended, error):
                    raise
                # The first time, the reserved space may be enough.
                free_slots = False
                self._reserve.release()
                self._manifest.shrink()

    def _sacrifice(self, left: list[Draft], ended: _Endings, error: OSError | sqlite3.Error) -> bool:
        """Fail the second half of the unnamed drafts, to free space and rows for the first half."""
        unnamed = [draft for draft in left if draft.temporary is not None]
        victims = unnamed[len(unnamed) // 2 :] if len(left) > 1 else []
        for draft in victims:
            ended[draft] = disk(error, f"{draft.label}: {FILE}")
            draft.discard()
        return bool(victims)

    def _round(self, drafts: list[Draft], ended: _Endings) -> None:
        """One round: record intents and place what can be placed; the rest waits for another round."""
        with self._manifest.transaction():
            if self._unsettled:
                self._claims.resolve_all(self._owner)
            claims, answers = self._claims.group(drafts, self._clock())
            self._manifest.intend((claim.entry for claim in claims), self._owner)
        self._unsettled = True
        ended.update(answers)
        self._step("intended")
        with self._manifest.transaction():
            placed = self._place(claims, ended)
            self._manifest.promote(owner=self._owner)
            self._partials.drop_all(draft.recorded for draft in placed if draft.recorded is not None)
            self._step("recorded")
        self._unsettled = False
        ended.update(placed)

    def _place(self, claims: list[NameClaim], ended: _Endings) -> dict[Draft, Saved]:
        """Give the names, under the manifest's lock: no other process can take over an intent meanwhile."""
        held = self._manifest.folds_of(self._owner)
        mine = [claim for claim in claims if claim.entry.fold in held]
        placed: dict[Draft, Saved] = {}
        for claim in mine:
            try:
                self._name(claim)
                placed[claim.draft] = claim.entry.saved
            except FileExistsError:
                claim.draft.tried.add(claim.entry.fold)
            except (OSError, StoreError) as error:
                ended[claim.draft] = disk(error, claim.draft.label)
        if len(placed) < len(mine):
            self._manifest.withdraw(claim.entry.fold for claim in mine if claim.draft not in placed)
        self._step("renamed")
        return placed

    def _name(self, claim: NameClaim) -> None:
        draft = claim.draft
        if draft.temporary is None:
            raise ValueError(f"{draft.label} is discarded")
        folder = self._folders.at(draft.folder) if draft.folder else self._folders.root
        name = claim.entry.name.rpartition("/")[2]
        if claim.set_aside:
            aside = set_aside(name, folder)
            log.warning(
                "%s was not what its list tells any more: it is %s now, and saved anew",
                claim.entry.name,
                aside,
            )
        place(draft.temporary, name, folder, replace=claim.replace)
        draft.temporary = None
        self._step("placed")

    def _sync_folders(self, drafts: list[Draft], ended: _Endings) -> None:
        saved = [draft for draft in drafts if isinstance(ended.get(draft), Saved)]
        for folder in {draft.folder for draft in saved}:
            try:
                os.fsync(self._folders.at(folder))
            except (OSError, StoreError) as error:
                for draft in saved:
                    if draft.folder == folder:
                        ended[draft] = disk(error, draft.label)
