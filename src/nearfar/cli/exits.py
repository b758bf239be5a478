"""How a program ends and what it prints: exit codes, and standard streams that may be closed.

Every start loads this module, so it imports next to nothing.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from enum import IntEnum

from nearfar.readable import readable

TYPE_CHECKING = False  # not from typing, whose import would slow down the start of programs
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
    """End this process now, from a signal handler: nothing is finished, no peer is told.

    Only files that would stay for ever are removed: sockets, and multiprocessing's folder for its own.
    Modules that are not loaded have made none.
    """
    if files := sys.modules.get("nearfar.net.addresses"):
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


class OutputLost(Exception):
    """The standard output cannot be written: its reader is gone, or its disk is full."""


class Unheeded(io.FileIO):
    """A file whose writer does not hear that it cannot be written: what is said there stops no work."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def tell(line: object) -> None:
    """Print a line on the standard output, at once; what a terminal would obey, as ``\\x1b``. Raises
    `OutputLost`."""
    try:
        print(readable(str(line), keep="\n"), flush=True)
    except OSError as error:
        give_up_output(error)


def flush() -> None:
    """Before the end, when Python itself would complain. Raises `OutputLost`."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        give_up_output(error)


def give_up_output(error: OSError) -> None:
    """Let what is still to be written go nowhere, and raise `OutputLost`; not for a terminal that was closed:
    SIGHUP says so, and nobody is there to be told."""
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
    if error.errno == errno.EIO:
        return
    reason = (error.strerror or str(error)).lower()
    gone = isinstance(error, BrokenPipeError)
    said = "the reader of standard output is gone" if gone else f"cannot write standard output: {reason}"
    raise OutputLost(said) from None


def secure() -> None:
    """Make the standard streams of this process such that no writer is surprised.

    A descriptor from 0 to 2 that is closed is opened on nothing: another file would get its number, and what
    is written to standard error would land in it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text in its encoding
    raw = io.BufferedWriter(Unheeded(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(raw, errors="backslashreplace", line_buffering=True)
