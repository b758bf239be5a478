"""Compares what was saved with the pictures as they are drawn: the demo believes nobody's word."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from nearfar.demo.gallery import Gallery
from nearfar.download.model import Saved
from nearfar.download.store import Store


@dataclass(slots=True)
class Checked:
    """What was found in the folders of one run."""

    files: Counter[Path] = field(default_factory=Counter)
    """How many good files each folder holds."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes, by the URL of each good file."""
    attempts: dict[str, int] = field(default_factory=dict)
    """How often each of them was asked for until it came."""
    complaints: list[str] = field(default_factory=list)

    @property
    def twice(self) -> int:
        """How many good files are in two folders."""
        return self.files.total() - len(self.sizes)


def check(gallery: Gallery, wanted: list[str], folders: list[Path]) -> Checked:
    """Look at every file in `folders`, and for a file of every URL in `wanted`.

    A file is good if it is, byte for byte, the picture that its URL ends with. Raises `StoreError`.
    """
    checked = Checked()
    for folder in folders:
        with Store(folder) as store:
            store.sweep()
            rows = list(store.rows())
        for row in rows:
            _check_file(gallery, folder, row, checked)
        known = {row.name for row in rows}
        unknown = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        checked.complaints += [f"{folder / name} is in no manifest" for name in unknown if name not in known]
    checked.complaints += [f"{url} was not saved" for url in wanted if url not in checked.sizes]
    return checked


def _check_file(gallery: Gallery, folder: Path, row: Saved, checked: Checked) -> None:
    path = folder / row.name
    picture = gallery.picture(urlsplit(row.url).path.rpartition("/")[2])
    if not path.is_file():
        checked.complaints.append(f"{path} is in the manifest, but not there")
    elif picture is None or path.read_bytes() != picture:
        checked.complaints.append(f"{path} is not the picture at {row.url}")
    else:
        checked.files[folder] += 1
        checked.sizes[row.url] = len(picture)
        checked.attempts[row.url] = row.attempts
