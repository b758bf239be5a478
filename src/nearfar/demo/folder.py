"""The demo's output folder: made, cleaned of an earlier demo, and never of anything else."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from nearfar.demo.trouble import Trouble

MARK = ".nearfar-demo"
"""A file by which a demo knows the folder of an earlier one, and holds it against a demo at the same time."""

LISTS = re.compile(r"urls\.txt|\.?[a-z]+-failures\.txt(\.\d+)?")
SAVED = re.compile(r"\d{4}(-[0-9a-f]+)?\.png|\.nearfar\S*")


class Unusable(Trouble):
    """The folder that was asked for cannot be the demo's."""


@contextmanager
def output_folder(root: Path, names: tuple[str, ...]) -> Iterator[None]:
    """Make `root`, or clean it: of the demo's lists, and of what a demo saved in the folders called `names`.

    Raises `Unusable` when `root` is not empty and no demo made it, when something that no demo makes is in
    one of its folders, when another demo is at work in it, or when it cannot be written.
    """
    try:
        mark = _take(root, names)
    except OSError as error:
        raise Unusable(f"cannot use {error.filename or root}: {error.strerror or error}") from error
    with mark:
        yield


def _take(root: Path, names: tuple[str, ...]) -> IO[str]:
    """Hold `root` for as long as the file that is returned is open; and clean it."""
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()) and not (root / MARK).is_file():
        raise Unusable(f"{root} is not empty, and not from a demo: name another folder with --output")
    with ExitStack() as undo:
        mark = undo.enter_context(_marked(root / MARK))
        _hold(mark.fileno(), root)
        _remove(root, LISTS)
        for name in names:
            _clean(root / name)
        undo.pop_all()
    return mark


def _marked(path: Path) -> IO[str]:
    """Only a regular file is a mark: nothing is written through a link, no pipe's reader waited for."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unusable(f"{path} is no regular file, which no demo makes: move it away")
    return os.fdopen(descriptor, "w")


def _hold(descriptor: int, root: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Unusable(f"another demo is at work in {root}: wait for it, or name another --output") from None


def _clean(folder: Path) -> None:
    if folder.is_symlink():
        raise Unusable(f"{folder} is a link, which no demo makes: move it away")
    if not folder.exists():
        return
    _remove(folder, SAVED)
    if left := sorted(path.name for path in folder.iterdir()):
        raise Unusable(f"{folder} holds {left[0]!r}, which no demo makes: move it away")
    folder.rmdir()


def _remove(folder: Path, ours: re.Pattern[str]) -> None:
    for path in folder.iterdir():
        if ours.fullmatch(path.name) and not path.is_dir():
            path.unlink()
