"""The socket files that this process has made, and must remove."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_made: set[tuple[int, str]] = set()
"""With the process that made each: one that was forked since has made none."""


def note(path: str) -> None:
    """There is a socket file of ours at `path` now."""
    _made.add((os.getpid(), path))


def remove(path: str) -> None:
    """Remove ours at `path`, which ZeroMQ leaves behind; as far as it can be."""
    with contextlib.suppress(OSError):
        Path(path).unlink(missing_ok=True)
    _made.discard((os.getpid(), path))


def remove_all() -> None:
    """Remove all that is left, when the process ends without closing its sockets."""
    for pid, path in list(_made):
        if pid == os.getpid():
            remove(path)
