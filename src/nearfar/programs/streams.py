"""The standard streams of a program, whoever has closed them."""

from __future__ import annotations

import errno
import io
import os
import sys

from nearfar.readable import readable


class OutputLost(Exception):
    """The standard output cannot be written: nobody reads it any more, or its disk is full."""


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
    said = "nobody reads the standard output any more" if gone else f"cannot write standard output: {reason}"
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
