"""What was saved when something was killed or started again, to judge which requests were made in vain."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

from tests.support.web import Web


def saved_names(folder: Path) -> set[str]:
    """The files that the manifest of `folder` lists now."""
    with (
        suppress(sqlite3.OperationalError),  # there is none yet
        closing(sqlite3.connect(f"file:{folder}/.nearfar.sqlite?mode=ro", uri=True)) as manifest,
    ):
        return {name for (name,) in manifest.execute("SELECT name FROM files")}
    return set()


def kept_bytes(folder: Path) -> dict[str, int]:
    """How much of each unfinished file, by its URL, another run would continue now."""
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"file:{folder}/.nearfar.sqlite?mode=ro", uri=True)) as manifest,
    ):
        return dict(manifest.execute("SELECT url, size FROM partials"))
    return {}


class SavedAtKills:
    """The moments of one download, each with the files that were saved before it.

    Call `note` just before each kill, and before each start of a command that was there before.
    """

    def __init__(self, web: Web, folder: Path) -> None:
        self._web = web
        self.folder = folder
        self._noted: list[tuple[float, set[str]]] = []

    def note(self) -> None:
        saved = saved_names(self.folder)
        self._noted.append((time.monotonic(), saved))

    def fetched_again(self) -> list[str]:
        """The paths requested again though they were saved at each moment since their previous request.

        A file that was not saved at a kill may rightly be requested again: its body may have been on its way
        to the consumer, and be saved between the answer to the next query of the stores and the request.
        """
        times: dict[str, list[float]] = {}
        for each in self._web.log:
            times.setdefault(each.path, []).append(each.at)
        return [
            path
            for path, requested in times.items()
            for first, again in pairwise(sorted(requested))
            if (between := [saved for when, saved in self._noted if first <= when <= again])
            and all(path[1:] in saved for saved in between)
        ]
