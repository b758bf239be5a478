"""Exit codes of programs, and output to standard streams that may be closed.

Every program loads this module at its start, so it imports almost nothing.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from enum import IntEnum

from nearfar.readable import json_line, readable

TYPE_CHECKING = False  # not from typing, whose import would slow down the start of programs
if TYPE_CHECKING:
    from typing import NoReturn


class Exit(IntEnum):
    """The exit codes of every program."""

    OK = 0
    FAILED = 1
    """The program ran to its end, and some of its work failed: see the counts."""
    USAGE = 2
    """The command line, or a file that it names, is invalid."""
    LOST = 3
    """A peer or the host of a queue was lost and did not return in time."""
    UNTRUSTED = 4
    """The other side does not admit this one, or could not be authenticated: the keys do not match."""
    HUNG_UP = 129
    """SIGHUP (a terminal was closed): as `INTERRUPTED`."""
    INTERRUPTED = 130
    """SIGINT: stopped properly; the same command continues from here."""
    TERMINATED = 143
    """SIGTERM: as `INTERRUPTED`."""


def leave(code: int) -> NoReturn:
    """End this process now, from a signal handler, without finishing work or notifying peers.

    Removes only files that would remain for ever: sockets, and multiprocessing's temporary folder. Modules
    that are not loaded have made none.
    """
    if files := sys.modules.get("nearfar.net.addresses"):
        files.remove_all()
    if process := sys.modules.get("multiprocessing.process"):
        folder = process.current_process()._config.get("tempdir")
        if folder is not None:
            remove_folder(folder)
    os._exit(code)


def remove_folder(folder: str) -> None:
    """Remove a folder without subfolders, as far as possible."""
    from pathlib import Path  # a program with such a folder has loaded it; others need not

    try:
        for path in Path(folder).iterdir():
            path.unlink()
        Path(folder).rmdir()
    except OSError:
        return


class OutputLost(Exception):
    """The standard output cannot be written: its reader has closed it, or the disk is full."""


class Unheeded(io.FileIO):
    """A file that ignores errors of writing, so that a failing log stops no work."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def tell(line: object) -> None:
    """Print a line on the standard output, unbuffered, with control characters escaped as ``\\x1b``. Raises
    `OutputLost`."""
    tell_drawn(readable(str(line), keep="\n"))


def tell_drawn(text: str) -> None:
    """As `tell`, of a text whose control characters are our own: colors."""
    try:
        print(text, flush=True)
    except OSError as error:
        give_up_output(error)


def tell_json(result: object) -> None:
    """Print `result` as one line of JSON on the standard output. Raises `OutputLost`."""
    tell(json_line(result))


def flush() -> None:
    """Flush the standard output before Python does so at exit. Raises `OutputLost`."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        give_up_output(error)


def give_up_output(error: OSError) -> None:
    """Discard further output, and raise `OutputLost`; not for a closed terminal, which is reported by SIGHUP,
    and where no user can read a message."""
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
    if error.errno == errno.EIO:
        return
    reason = (error.strerror or str(error)).lower()
    gone = isinstance(error, BrokenPipeError)
    said = "the reader of standard output is gone" if gone else f"cannot write standard output: {reason}"
    raise OutputLost(said) from None


def secure() -> None:
    """Make the standard streams of this process safe to write to.

    A closed descriptor from 0 to 2 is opened on /dev/null: otherwise another file would get its number, and
    text for standard error would be written into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may not be valid in its encoding
    raw = io.BufferedWriter(Unheeded(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(raw, errors="backslashreplace", line_buffering=True)
