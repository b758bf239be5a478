"""Reads saved files again, and compares them with the digests of a list or of the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nearfar.download.input import Bad, parse
from nearfar.download.model import Saved
from nearfar.download.redact import written
from nearfar.download.store.listing import Listing
from nearfar.download.store.manifest import FILE
from nearfar.download.store.store import Store
from nearfar.download.urls import resource


@dataclass(slots=True)
class Verified:
    """The result for the folders."""

    files: dict[Path, int] = field(default_factory=dict)
    """The number of intact files in each folder."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes, by the URL of each intact file."""
    complaints: list[str] = field(default_factory=list)
    """What is wrong, one sentence each."""
    unlisted: list[str] = field(default_factory=list)
    """Files of URLs that are not in the list: their content was not checked."""
    unfinished: list[str] = field(default_factory=list)
    """Partial files, which the next run of the producer continues."""
    repaired: list[str] = field(default_factory=list)
    """What was done about wrong files, one sentence each."""


def digests(lines: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of each URL, from lines in the producer's input format.

    Raises `ValueError` for a line without one.
    """
    found = {}
    for number, line in enumerate(lines, 1):
        job = parse(line, f"line {number}")
        if job is None:
            continue
        if isinstance(job, Bad) or job.checksum is None or job.checksum.algorithm != "sha256":
            raise ValueError(f"line {number} is not a URL with its digest (URL, a tab, sha256=...)")
        found[resource(written(job.url))] = job.checksum.digest
    return found


def verify(wanted: Mapping[str, str], folders: Sequence[Path], *, repair: bool = False) -> Verified:
    """Read every file in the folders' manifests, and look for an intact one of each URL in `wanted`.

    A manifest is trusted only for which file is of which URL. Folders are only read, unless something must be
    repaired: see `_repair`. Raises `StoreError`, `OSError`.
    """
    verified = Verified()
    for folder in folders:
        verified.files[folder] = 0
        if (folder / FILE).exists():
            _verify(verified, folder, wanted, repair=repair)
    verified.complaints += [f"{url} was not saved" for url in wanted if url not in verified.sizes]
    return verified


def verify_saved(folders: Sequence[Path], *, repair: bool = False) -> Verified:
    """Compare every file with its digest of the time it was saved. Raises `StoreError`, `OSError`."""
    verified = Verified()
    for folder in folders:
        verified.files[folder] = 0
        _verify(verified, folder, None, repair=repair)
    return verified


def _verify(verified: Verified, folder: Path, wanted: Mapping[str, str] | None, *, repair: bool) -> None:
    wrong: list[Saved] = []
    with Listing(folder) as listing:
        for row in listing.rows():
            if wanted is not None and resource(row.url) not in wanted:
                verified.unlisted.append(f"{folder / row.name} (of {row.url})")
            elif complaint := _complaint(listing, folder, row, wanted):
                verified.complaints.append(complaint)
                wrong.append(row)
            else:
                verified.files[folder] += 1
                verified.sizes[resource(row.url)] = row.size
        for each in listing.partials():
            of = "" if each.length is None else f" of {each.length:,}"
            verified.unfinished.append(f"{folder / each.name}: {each.size:,}{of} bytes (of {each.url})")
    if repair and wrong:
        verified.repaired += _repair(folder, wrong)


def _complaint(listing: Listing, folder: Path, row: Saved, wanted: Mapping[str, str] | None) -> str:
    path = folder / row.name
    digest = listing.digest(row)
    if digest is None:
        return f"{path} is in the manifest, but not there"
    if wanted is None:
        return "" if digest == row.sha256 else f"{path} is not as it was saved: its digest is another"
    return "" if digest == wanted[resource(row.url)] else f"{path} has another digest than the list tells"


def _repair(folder: Path, wrong: Sequence[Saved]) -> Iterator[str]:
    """Make the next run fetch wrong files again: remove them from the manifest, and rename them."""
    with Store(folder) as store:
        for row in wrong:
            aside = store.forget(row)
            yield f"{folder / row.name}: " + (
                f"set aside as {aside}" if aside else "forgotten, it is not there"
            )
