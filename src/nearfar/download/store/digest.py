"""SHA-256 of a file while it is written: a second thread hashes large pieces, in parallel to the transfer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from queue import Queue
from threading import Thread
from typing import Any

LARGE = 768 * 1024
"""Bytes of a piece that justify starting a thread; hashing them takes half a millisecond."""
WAITING = 4
"""Pieces that may wait for the thread: if it is slower than the network, the transfer blocks."""


class Digest:
    """Hashes bytes in order. Use it in one thread; `close` or `hexdigest` ends its second thread."""

    __slots__ = ("_hash", "_pieces", "_thread")

    def __init__(self, state: Any = None) -> None:
        """`state`: a hash of the bytes so far; None: there are none."""
        self._hash = state or hashlib.sha256()
        self._thread: Thread | None = None
        self._pieces: Queue[bytes | memoryview | Callable[[str], None] | None]
        """Queue to the thread, if there is one; None ends it."""

    def update(self, data: bytes | memoryview) -> None:
        """Append `data`. A view may become invalid after this call, unless it is one of `bytes`."""
        if self._thread is None and (len(data) < LARGE or not self._start()):
            self._hash.update(data)
        else:
            lasts = isinstance(data, memoryview) and type(data.obj) is bytes
            self._pieces.put(data if lasts else bytes(data))

    def mark(self, on_digest: Callable[[str], None]) -> None:
        """Call `on_digest` with the digest of all bytes so far, from either thread. It must not raise."""
        if self._thread is None:
            on_digest(self._hash.copy().hexdigest())
        else:
            self._pieces.put(on_digest)

    def hexdigest(self) -> str:
        """The digest of all bytes so far, in lower-case hex."""
        if self._thread is not None:
            self.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        """Wait until all is hashed, and end the thread."""
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None

    def _start(self) -> bool:
        """Start the thread; False if that is not possible."""
        self._pieces = Queue(WAITING)
        thread = Thread(target=self._work, name="digest", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        return True

    def _work(self) -> None:
        while (data := self._pieces.get()) is not None:
            if isinstance(data, bytes | memoryview):
                self._hash.update(data)
            else:
                data(self._hash.copy().hexdigest())
