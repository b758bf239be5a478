"""Decides a file's name inside one transaction, so that several consumers never share a name.

====================================  =========================  =============================
what bears the requested name         chosen by the store        chosen by the user
====================================  =========================  =============================
no file                               take it                    take it
the same URL, the same bytes          saved already              saved already
the same URL, other bytes             replace                    replace
the same URL, changed since; the job  set aside, take it         set aside, take it
has a checksum
another URL                           the next candidate         refuse; `overwrite`: replace
a file the store did not write (*)    the next candidate;        refuse; `overwrite`: replace
                                      `overwrite`: replace
====================================  =========================  =============================

(*) or wrote, and another program changed. Detected only when the file is given its name, see `Draft.tried`.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

from nearfar.download.model import Job, Reason, Saved, StoreError, disk
from nearfar.download.redact import written
from nearfar.download.store import owners
from nearfar.download.store.draft import Draft
from nearfar.download.store.folders import Folders, digest, regular
from nearfar.download.store.manifest import Manifest, ManifestEntry, readable
from nearfar.download.store.names import asked, candidates, fold


class NameClaim(NamedTuple):
    """A name for a draft, and what may be done with the file that has the name now."""

    draft: Draft
    entry: ManifestEntry
    replace: bool
    set_aside: bool = False
    """The present file was saved from the same URL, and is corrupt by the job's checksum."""


class Claims:
    """The names of one directory, from the manifest and the files themselves. Requires a transaction."""

    def __init__(self, manifest: Manifest, folders: Folders, *, overwrite: bool) -> None:
        self._manifest = manifest
        self._folders = folders
        self._overwrite = overwrite

    def group(
        self, drafts: list[Draft], now: float
    ) -> tuple[list[NameClaim], dict[Draft, Saved | StoreError]]:
        """Claim a name for each of `drafts`, or return how it ended without one.

        A second draft of one URL is in neither result: it must wait until the first has ended.
        """
        wishes = [fold(draft.label) for draft in drafts]
        keys = [draft.key for draft in drafts]
        saved = self._manifest.by_key(keys)
        taken = self._manifest.by_fold(wishes).keys() | self._manifest.intents(wishes).keys()
        claimed: dict[str, NameClaim] = {}
        ended: dict[Draft, Saved | StoreError] = {}
        seen: set[bytes] = set()
        for draft, wish in zip(drafts, wishes, strict=True):
            if draft.key in seen:
                continue
            seen.add(draft.key)
            if draft.key not in saved and wish not in taken and wish not in claimed and not draft.tried:
                claimed[wish] = NameClaim(draft, _entry(draft, draft.parts, wish, now), self._overwrite)
                continue
            try:
                found = self._choose(draft, saved.get(draft.key, []), claimed.keys(), now)
            except (OSError, StoreError) as error:
                ended[draft] = disk(error, draft.label)
                continue
            if isinstance(found, NameClaim):
                claimed[found.entry.fold] = found
            else:
                ended[draft] = found
        return list(claimed.values()), ended

    def _choose(
        self, draft: Draft, own: list[ManifestEntry], claimed: Collection[str], now: float
    ) -> Saved | NameClaim:
        """Choose for a draft whose URL or requested name is known already."""
        for entry in own:
            self._settle(entry.fold, draft.key)
        for entry in self._manifest.by_key([draft.key]).get(draft.key, []) if own else []:
            if entry.parts[:-1] != draft.folder or (draft.job.name and entry.fold != fold(draft.label)):
                continue
            kept = self._again(draft, entry, now)
            if kept is not None:
                return kept
        for parts in candidates(draft.parts, draft.key.hex()):
            found = self._try(draft, parts, claimed, now)
            if found is not None:
                return found
            if draft.job.name is not None:
                break
        if any(entry.fold == fold(draft.label) for entry in own):
            detail = "it was changed since it was saved: `nearfar verify --repair` sets it aside"
            raise StoreError(Reason.REJECTED, f"{draft.label}: {detail}, --overwrite replaces it")
        raise StoreError(Reason.REJECTED, f"{draft.label}: another file bears this name")

    def _again(self, draft: Draft, entry: ManifestEntry, now: float) -> Saved | NameClaim | None:
        """What to do about the file of an earlier download of the same URL, if its content is unchanged."""
        untouched = self.same(entry)
        if untouched and entry.sha256 == draft.sha256:
            new = _entry(draft, entry.parts, entry.fold, now)
            if (new.etag, new.modified) != (entry.etag, entry.modified):
                self._manifest.renew(new)
            return entry.saved
        if entry.fold in draft.tried and not untouched:
            return None
        replace = untouched or self._overwrite
        spoilt = self.size(entry) is not None and not replace and draft.job.checksum is not None
        return NameClaim(draft, _entry(draft, entry.parts, entry.fold, now), replace, spoilt)

    def _try(
        self, draft: Draft, parts: tuple[str, ...], claimed: Collection[str], now: float
    ) -> Saved | NameClaim | None:
        folded = fold("/".join(parts))
        if folded in draft.tried or folded in claimed:
            return None
        self._settle(folded, draft.key)
        if self._manifest.intents([folded]):
            return None
        holder = self._manifest.by_fold([folded]).get(folded)
        if holder is None:
            return NameClaim(draft, _entry(draft, parts, folded, now), self._overwrite)
        if holder.key == draft.key:
            return self._again(draft, holder, now)
        if draft.job.name is not None and self._overwrite:
            return NameClaim(draft, _entry(draft, parts, folded, now), replace=True)
        return None

    def _settle(self, folded: str, key: bytes) -> None:
        """Resolve an intent on a name if its owner is dead, or if it is for `key`: a redelivery."""
        owner = self._manifest.owner_of(folded)
        if owner is None:
            return
        intent = self._manifest.intents([folded])[folded]
        if intent.key == key or not owners.alive(owner, self._folders.root):
            self.resolve(intent)

    def resolve(self, intent: ManifestEntry) -> None:
        """Turn an intent without owner into a saved file, if the file has its name; otherwise drop it."""
        if self.same(intent):
            self._manifest.promote(fold=intent.fold)
        else:
            self._manifest.withdraw([intent.fold])

    def resolve_all(self, owner: str) -> None:
        """`resolve` every intent of an owner."""
        for intent in self._manifest.intents_of(owner).values():
            self.resolve(intent)

    def same(self, entry: ManifestEntry) -> bool:
        """Whether the file exists and has the size and digest in `entry`. Reads all of it."""
        return self.size(entry) == entry.size and (
            digest(entry.parts[-1], self._folders.at(entry.parts[:-1]), "sha256") == entry.sha256
        )

    def size(self, entry: ManifestEntry) -> int | None:
        """The size in bytes of the file with the name of `entry`; None if it is no reachable regular file."""
        with suppress(OSError, StoreError):
            if (found := regular(entry.parts[-1], self._folders.at(entry.parts[:-1]))) is not None:
                return found.st_size
        return None


def fits(folders: Folders, entry: ManifestEntry, job: Job) -> bool:
    """Whether the file is what `job` asks for: it has that name and checksum, and is unchanged since it was
    saved.

    With a checksum all of it is read; without, only if it was modified since it was saved.
    """
    name, checksum = entry.parts[-1], job.checksum
    try:
        if job.name is not None and fold("/".join(asked(job.name))) != entry.fold:
            return False
        folder = folders.at(entry.parts[:-1])
        found = regular(name, folder)
        if found is None or found.st_size != entry.size:
            return False
        if checksum is None:
            return found.st_mtime <= entry.time or digest(name, folder, "sha256") == entry.sha256
        if checksum.algorithm == "sha256" and checksum.digest != entry.sha256:
            return False
        return checksum.digest == digest(name, folder, checksum.algorithm)
    except (OSError, StoreError):
        return False


def _entry(draft: Draft, parts: tuple[str, ...], folded: str, now: float) -> ManifestEntry:
    head, body = draft.head, draft.body
    if body is None:
        raise ValueError(f"{draft.label} is not finished")
    url = written(draft.job.url)
    return ManifestEntry(
        folded,
        draft.key,
        url,
        url if head.url == draft.job.url else written(head.url),
        draft.label if parts is draft.parts else "/".join(parts),
        body.size,
        draft.sha256,
        head.type and readable(head.type),
        head.etag and readable(head.etag),
        now,
        body.attempts,
        head.modified and readable(head.modified),
    )
