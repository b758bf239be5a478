"""How every program ends: its codes, and what it does when it leaves at once."""

from __future__ import annotations

import os
import sys
from enum import IntEnum

TYPE_CHECKING = False  # not of typing: a program that starts is to load next to nothing
if TYPE_CHECKING:
    from typing import NoReturn


class Exit(IntEnum):
    """The exit codes of every program."""

    OK = 0
    FAILED = 1
    """The program ran to its end, and some of its work failed: the counts say what."""
    USAGE = 2
    """The command line, or a file it names, cannot be used as given."""
    LOST = 3
    """A peer or the host of a queue went away and did not return in time."""
    UNTRUSTED = 4
    """The other side does not let this one in, or is not who it should be: the keys do not fit."""
    HUNG_UP = 129
    """SIGHUP, of a terminal that was closed: as `INTERRUPTED`."""
    INTERRUPTED = 130
    """SIGINT: stopped in good order, and the same command goes on from here."""
    TERMINATED = 143
    """SIGTERM: the same."""


def leave(code: int) -> NoReturn:
    """End this process now, from a signal handler: nothing is finished, nobody is told.

    Only files that would stay for ever are removed: sockets, and multiprocessing's folder for its own.
    Modules that are not loaded have made none.
    """
    if files := sys.modules.get("nearfar.net.files"):
        files.remove_all()
    if process := sys.modules.get("multiprocessing.process"):
        folder = process.current_process()._config.get("tempdir")
        if folder is not None:
            remove_folder(folder)
    os._exit(code)


def remove_folder(folder: str) -> None:
    """As far as it can be: one without folders inside."""
    from pathlib import Path  # who has such a folder has loaded it; who only starts need not

    try:
        for path in Path(folder).iterdir():
            path.unlink()
        Path(folder).rmdir()
    except OSError:
        return
