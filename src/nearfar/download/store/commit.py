"""Saving a group of drafts: synced, intended, placed, recorded, each step for all of them at once."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable
from typing import Literal

from nearfar.download.model import Failure, Reason, Saved
from nearfar.download.store.claims import Claim, Claims
from nearfar.download.store.draft import Draft
from nearfar.download.store.errors import StoreError, disk, lacks_room
from nearfar.download.store.folders import Folders, place, set_aside
from nearfar.download.store.manifest import FILE, Manifest
from nearfar.download.store.reserve import Reserve

log = logging.getLogger(__name__)

_ROUNDS = 20
"""How often one group may lose a name to other processes before it gives up."""

Step = Literal["synced", "intended", "placed", "renamed", "recorded", "done"]
_Endings = dict[Draft, Saved | StoreError]


class Committer:
    """Does the work of `Store.commit`, whose docstring says what it promises."""

    def __init__(
        self,
        manifest: Manifest,
        claims: Claims,
        folders: Folders,
        reserve: Reserve,
        owner: str,
        clock: Callable[[], float],
        step: Callable[[Step], None],
    ) -> None:
        self._manifest = manifest
        self._claims = claims
        self._folders = folders
        self._reserve = reserve
        self._owner = owner
        self._clock = clock
        self._step = step
        self._unsettled = False

    def commit(self, group: list[Draft]) -> dict[Draft, Saved | Failure]:
        """Save what can be saved of `group`, and tell how each ended."""
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
        """All write-backs are started before the first is waited for.

        Measured on ext4, microseconds a file for 1,000 of 20 kB: fsync one after the other 460-2,400, this
        way 130-190, a pool of 8-32 threads 120-210, syncfs 50-420 and it waits for strangers' files too.
        """
        for draft in drafts:
            with contextlib.suppress(OSError):
                draft.write_back()
        for draft in drafts:
            if draft.synced:
                continue
            try:
                if draft.descriptor is None or draft.body is None:
                    raise ValueError(f"{draft.label} is not finished")
                os.fsync(draft.descriptor)
            except OSError as error:
                ended[draft] = disk(error, draft.label)
            draft.close()
        self._step("synced")

    def _record(self, group: list[Draft], ended: _Endings) -> None:
        """Round by round, until all have ended or lost their names too often."""
        roomy = True
        for _ in range(len(group) + _ROUNDS):
            left = [draft for draft in group if draft not in ended]
            if not left:
                return
            try:
                self._round(left, ended)
            except (OSError, sqlite3.Error) as error:
                if not lacks_room(error):
                    raise
                if not roomy and not self._sacrifice(left, ended, error):
                    raise
                # The first time, what was kept for it may be enough.
                roomy = False
                self._reserve.release()
                self._manifest.shrink()

    def _sacrifice(self, left: list[Draft], ended: _Endings, error: OSError | sqlite3.Error) -> bool:
        """Fail the second half of what has no name yet, whose room and rows the first half needs."""
        unnamed = [draft for draft in left if draft.temporary is not None]
        victims = unnamed[len(unnamed) // 2 :] if len(left) > 1 else []
        for draft in victims:
            ended[draft] = disk(error, f"{draft.label}: {FILE}")
            draft.discard()
        return bool(victims)

    def _round(self, drafts: list[Draft], ended: _Endings) -> None:
        """Take the group one step further: intend and place what can be; the rest waits for another round."""
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
            self._manifest.promote(self._owner)
            self._step("recorded")
        self._unsettled = False
        ended.update(placed)

    def _place(self, claims: list[Claim], ended: _Endings) -> dict[Draft, Saved]:
        """Give the names, under the manifest's lock: no other process can take an intent over meanwhile."""
        held = self._manifest.folds_of(self._owner)
        placed: dict[Draft, Saved] = {}
        mine = [claim for claim in claims if claim.entry.fold in held]
        for claim in mine:
            try:
                self._name(claim)
                placed[claim.draft] = claim.entry.saved
            except FileExistsError:
                claim.draft.tried.add(claim.entry.fold)
            except (OSError, StoreError) as error:
                ended[claim.draft] = disk(error, claim.draft.label)
        self._manifest.withdraw(claim.entry.fold for claim in mine if claim.draft not in placed)
        self._step("renamed")
        return placed

    def _name(self, claim: Claim) -> None:
        draft = claim.draft
        if draft.temporary is None:
            raise ValueError(f"{draft.label} is discarded")
        folder = self._folders.at(draft.folder)
        if claim.set_aside:
            aside = set_aside(claim.entry.parts[-1], folder)
            log.warning(
                "%s was not what its list tells any more: it is %s now, and saved anew",
                claim.entry.name,
                aside,
            )
        place(draft.temporary, claim.entry.parts[-1], folder, replace=claim.replace)
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
