"""Whether all of a list was saved: the files themselves, read again, against digests that the list tells."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nearfar.download.lines import Bad, parse
from nearfar.download.model import Saved
from nearfar.download.redact import written
from nearfar.download.store import Store


@dataclass(slots=True)
class Verified:
    """What was found in the folders."""

    files: dict[Path, int] = field(default_factory=dict)
    """How many good files each folder holds."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes, by the URL of each good file."""
    complaints: list[str] = field(default_factory=list)


def digests(lines: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of each URL, from lines as a producer takes them.

    Raises `ValueError` for a line without one.
    """
    found = {}
    for number, line in enumerate(lines, 1):
        job = parse(line, f"line {number}")
        if job is None:
            continue
        if isinstance(job, Bad) or job.checksum is None or job.checksum.algorithm != "sha256":
            raise ValueError(f"line {number} is not a URL with its digest (URL, a tab, sha256=...)")
        found[written(job.url)] = job.checksum.digest
    return found


def verify(wanted: Mapping[str, str], folders: Sequence[Path]) -> Verified:
    """Read every file that the folders' manifests name, and look for a good one of each URL in `wanted`.

    A manifest is believed only in which file is of which URL. Raises `StoreError`, `OSError`.
    """
    verified = Verified()
    for folder in folders:
        verified.files[folder] = 0
        with Store(folder) as store:
            for row in store.rows():
                complaint = _complaint(wanted, folder, row)
                if complaint:
                    verified.complaints.append(complaint)
                else:
                    verified.files[folder] += 1
                    verified.sizes[row.url] = row.size
    verified.complaints += [f"{url} was not saved" for url in wanted if url not in verified.sizes]
    return verified


def _complaint(wanted: Mapping[str, str], folder: Path, row: Saved) -> str:
    path = folder / row.name
    if row.url not in wanted:
        return f"{path} is of {row.url}, which is not in the list"
    if not path.is_file():
        return f"{path} is in the manifest, but not there"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if digest == wanted[row.url] else f"{path} has another digest than the list tells"
