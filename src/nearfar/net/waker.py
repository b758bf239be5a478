"""Wake a thread that polls."""

from __future__ import annotations

import contextlib
import os


class Waker:
    """A pipe to poll on: `wake` may be called by any thread, and by a signal handler."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return self._read

    def wake(self) -> None:
        """Make the descriptor readable. After `close` it does nothing."""
        with contextlib.suppress(OSError):
            os.write(self._write, b"\0")

    def clear(self) -> None:
        """Make the descriptor unreadable until the next `wake`."""
        with contextlib.suppress(
            OSError
        ):  # readable still, if it was another error than that nothing lies there
            os.read(self._read, 4096)

    def close(self) -> None:
        """Close both descriptors."""
        read, write, self._read, self._write = self._read, self._write, -1, -1
        for descriptor in (read, write):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
