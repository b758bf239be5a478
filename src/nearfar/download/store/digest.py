"""SHA-256 of a file while it is written: large pieces are hashed by a second thread, beside the transfer."""

from __future__ import annotations

import hashlib
from queue import Queue
from threading import Thread

LARGE = 768 * 1024
"""Bytes of a piece from which a thread is worth its start; hashing them takes half a millisecond."""
WAITING = 4
"""Pieces that may wait for the thread: where it is slower than the network, the network waits."""


class Digest:
    """Takes bytes in order. Use it in one thread; `close` it, or ask for its digest, to end its own."""

    __slots__ = ("_hash", "_pieces", "_thread")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._thread: Thread | None = None
        self._pieces: Queue[bytes | None]
        """For the thread, if there is one; None ends it."""

    def update(self, data: bytes | memoryview) -> None:
        """Append `data`; it may be a view that is good for as long as this call."""
        if self._thread is None and (len(data) < LARGE or not self._start()):
            self._hash.update(data)
        else:
            self._pieces.put(bytes(data))

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
        """Start the thread; False where none can be had."""
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
            self._hash.update(data)
