"""`imap` and `imap_unordered`: results one by one, over an input that may be endless."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from multiprocessing import TimeoutError
from typing import Any

from nearfar.coordinator.tasks import Mode
from nearfar.pool.call import Chunk, raise_from
from nearfar.pool.engine import Engine, hand_in
from nearfar.pool.options import Limits
from nearfar.pool.progress import Reporter
from nearfar.queues.deadlines import deadline_of, left

__all__ = ["IMapIterator", "IMapUnorderedIterator", "default_window"]

LOOK = 0.005
"""Seconds of reading a slow input between two looks at whether the next result is there."""


def default_window(workers: int, chunksize: int) -> int:
    """Items that are read ahead if nobody says: four chunks for each worker, and 256 at least."""
    return max(256, 4 * workers * chunksize)


class IMapIterator:
    """Results in the order of the input, as `multiprocessing.Pool.imap` gives them, in bounded memory.

    At most `window` items are read and not yet returned. The input is read in the thread that asks for the
    next result; one that tells its length is read up to the window at once, so that work begins before the
    first result is asked for. A slow input is read only until the next result is there.

    A task that failed raises at its place (with its whole chunk, if there is more than one item in it), and
    iteration goes on after it. For a task's StopIteration, `RuntimeError` is raised, as a generator does.
    What the input raises comes after all earlier results; items of a chunk that was not yet full are
    dropped, as the standard does.
    """

    def __init__(
        self,
        engine: Engine,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int,
        window: int | None = None,
        limits: Limits = (None, 0),
        reporter: Reporter | None = None,
        read: Callable[[IMapIterator], object] | None = None,
        keeper: object = None,
    ) -> None:
        """`limits`: those of each chunk. `read` is called when the input is at its end.
        `keeper` (the pool) is kept alive until the end.

        Raises `ValueError` for a chunk of no items, or one larger than the window.
        """
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize!r}")
        self._window = default_window(engine.size, chunksize) if window is None else window
        if self._window < chunksize:
            raise ValueError(f"a window of {self._window} items has no room for a chunk of {chunksize}")
        self._engine = engine
        self._func = func
        self._source = iter(iterable)
        self.reading = True
        """Whether there may be more input."""
        self._chunksize = chunksize
        self._limits = limits
        self._reporter = reporter
        self._keeper = keeper
        self._read: Callable[[IMapIterator], object] | None = read
        # Reentrant: a callback that runs while this waits may ask for the next result, too.
        self._lock = threading.RLock()
        self._ahead = 0
        self._pending = 0
        self._running: set[Chunk] = set()
        self._chunks: deque[Chunk] = deque()
        self._values: deque[Any] = deque()
        self._input_error: Exception | None = None
        if hasattr(iterable, "__len__"):
            while self._has_room() and self._read_chunk():
                pass

    def __iter__(self) -> IMapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result, or raises its error; `StopIteration` at the end.

        Raises `multiprocessing.TimeoutError` if it is not there after `timeout` seconds. Reading the input
        cannot be interrupted: an input that blocks blocks this.
        """
        deadline = deadline_of(True, timeout)
        if not self._lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise TimeoutError
        try:
            while not self._values:
                self._fill()
                self._take_chunk(deadline)
            self._ahead -= 1
            return self._values.popleft()
        finally:
            self._lock.release()

    def close(self) -> None:
        """Read no more input, and drop what has not begun. Results that are there can still be had."""
        with self._lock:
            self._end_reading()
            for chunk in self._running.copy():
                self._engine.cancel(chunk)

    def read_all(self) -> None:
        """Read the input to its end, whatever the window: for a pool that is joined."""
        with self._lock:
            while self._read_chunk():
                pass

    def stop(self) -> None:
        """Read no more input."""
        # Not under the lock: another thread may hold it, waiting for a result.
        self._end_reading()

    def _has_room(self) -> bool:
        return self._ahead + self._chunksize <= self._window

    def _fill(self) -> None:
        """Read what there is room for; at least one chunk, so that the window does not shrink."""
        looked = time.monotonic()
        while self._has_room() and self._read_chunk() and not self._is_next():
            now = time.monotonic()
            if now - looked > LOOK:
                looked = now
                if self._engine.wait_until(self._is_next, 0):
                    return

    def _read_chunk(self) -> bool:
        """Submit one chunk of the input; False if there is none."""
        if not self.reading:
            return False
        try:
            items = tuple(islice(self._source, self._chunksize))
        except Exception as error:
            self._input_error = error
            items = ()
        if not items:
            self._end_reading()
            return False
        self._submit(items)
        return True

    def _submit(self, items: Sequence[Any]) -> None:
        chunk = Chunk(self._func, items, Mode.MAP, self._ended)
        chunk.timeout, chunk.retries = self._limits
        self._ahead += chunk.size
        self._pending += 1
        self._running.add(chunk)
        self._submitted(chunk)
        hand_in(self._engine, chunk)

    def _end_reading(self) -> None:
        self.reading = False
        self._source = iter(())
        read, self._read = self._read, None
        if read is not None:
            read(self)

    def _take_chunk(self, deadline: float | None) -> None:
        """Wait for the next chunk and unpack it, or raise its error, or say that this is the end."""
        if not self._pending:
            self._end()
        if not self._is_next() and not self._engine.wait_until(self._is_next, left(deadline)):
            raise TimeoutError
        chunk = self._take_settled()
        if chunk is None:
            return
        self._pending -= 1
        error = chunk.error()
        if error is not None:
            self._ahead -= chunk.size
            if isinstance(error, StopIteration):
                raise_from(error)
        self._values.extend(chunk.result())

    def _end(self) -> None:
        error, self._input_error = self._input_error, None
        self._keeper = None
        if self._reporter is not None:
            self._reporter.close()
        if error is not None:
            raise error
        raise StopIteration

    def _ended(self, chunk: Chunk) -> None:
        """A chunk is about to be settled. Runs in any thread."""
        self._running.discard(chunk)
        if self._reporter is not None:
            self._reporter.add(chunk.size)

    def _submitted(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)

    def _is_next(self) -> bool:
        # Another thread may have taken everything: then there is nothing to wait for.
        try:
            return self._chunks[0].settled
        except IndexError:
            return True

    def _take_settled(self) -> Chunk | None:
        return self._chunks.popleft() if self._chunks and self._chunks[0].settled else None


class IMapUnorderedIterator(IMapIterator):
    """Results as they come. Otherwise as `IMapIterator`; errors, too, come when they happen."""

    def _submitted(self, chunk: Chunk) -> None:
        """Nothing: `_chunks` are those that have ended."""

    def _ended(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        super()._ended(chunk)

    def _is_next(self) -> bool:
        return bool(self._chunks) or not self._pending

    def _take_settled(self) -> Chunk | None:
        return self._chunks.popleft() if self._chunks else None
