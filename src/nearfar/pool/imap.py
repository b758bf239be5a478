"""`imap` and `imap_unordered`: results one by one, over an input that may be endless, or block."""

from __future__ import annotations

import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from functools import partial
from multiprocessing import TimeoutError
from typing import Any, NamedTuple

from nearfar.net.deputy import Abandoned, Errand, errand_here, whose
from nearfar.pool.call import raise_from
from nearfar.pool.engine import Closed, Engine
from nearfar.pool.feed import Feed
from nearfar.pool.options import Limits
from nearfar.pool.progress import Reporter
from nearfar.queues.deadlines import deadline_of, left

__all__ = ["IMapIterator", "IMapUnorderedIterator", "default_window"]

Notice = Callable[[Feed], object]


def default_window(workers: int, chunksize: int) -> int:
    """Items that are read ahead if nobody says: four chunks for each worker, and 256 at least."""
    return max(256, 4 * workers * chunksize)


class _Failed(NamedTuple):
    """Stands among the values: in the place of a chunk that failed, or of an input that raised."""

    error: BaseException


class IMapIterator:
    """Results in the order of the input, as `multiprocessing.Pool.imap` gives them, in bounded memory.

    At most `window` items are read and not done with: a result is done with when the next one is asked for.
    The input is read in a thread of its own, from the start, so it may block, and `next` keeps its timeout; a
    list, a range and the like are read in the caller's.

    A task that failed raises at its place (with its whole chunk, if there is more than one item in it), and
    iteration goes on after it. For a task's StopIteration, `RuntimeError` is raised, as a generator does.
    What the input raises comes after all earlier results; items of a chunk that was not yet full are
    dropped, as the standard does. An iterator that is forgotten reads no more.
    """

    _feed: Feed | None = None  # until there is one: `__del__` of an iterator whose making failed
    _ordered = True

    def __init__(
        self,
        engine: Engine,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int,
        window: int | None = None,
        limits: Limits = (None, 0),
        reporter: Reporter | None = None,
        begun: Notice | None = None,
        read: Notice | None = None,
        keeper: object = None,
    ) -> None:
        """`limits`: those of each chunk. `begun` is called before the input is read, `read` when it is at its
        end, in any thread. `keeper` (the pool) is kept alive until the end.

        Raises `ValueError` for a chunk of no items, or one larger than the window.
        """
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize!r}")
        if window is None:
            window = default_window(engine.size, chunksize)
        if window < chunksize:
            raise ValueError(f"a window of {window} items has no room for a chunk of {chunksize}")
        self._keeper = keeper
        self._reporter = reporter
        # Reentrant: a callback that runs while this waits may ask for the next result, too.
        self._lock = threading.RLock()
        self._values: deque[Any] = deque()
        """Those that `next` gives next."""
        self._thread: int | None = None
        """The only thread that takes from them without the lock: the first that asks, until another does."""
        self._in_hand = 0
        """Items that were put there, and of which the feed does not know yet that they are done with."""
        self._block = max(1, window // 4)
        """Items that are put there at once, if so many have ended."""
        feed = Feed(engine, func, iterable, chunksize, window, limits, reporter, ordered=self._ordered)
        self._feed = feed
        if begun is not None:
            begun(feed)
        feed.begin(read)

    def __iter__(self) -> IMapIterator:
        return self

    def __del__(self) -> None:
        if self._feed is not None:
            self._feed.stop()

    def next(self, timeout: float | None = None) -> Any:
        """The next result, or raises its error; `StopIteration` at the end.

        Raises `multiprocessing.TimeoutError` if it is not there after `timeout` seconds.
        """
        values = self._values
        if values and self._thread == get_ident():
            taken, count = False, len(values)
            try:
                # No signal's handler runs between these, and no other thread.
                found = values[0]
                del values[0]
                taken = True
                if type(found) is not _Failed:
                    return found
            except BaseException:
                if taken or len(values) < count:
                    values.appendleft(found)
                raise
            values.appendleft(found)
        errand = Errand(partial(self._take, deadline_of(True, timeout)), self._give_back)
        try:
            found = errand.run()
            if type(found) is not _Failed:
                return found
        except BaseException as error:
            errand.interrupted(error)
            raise
        failed: BaseException = found.error
        del found, errand  # the error's traceback holds this frame
        try:
            if isinstance(failed, StopIteration):
                raise_from(failed)
            raise failed
        finally:
            del failed

    __next__ = next

    def close(self) -> None:
        """Read no more input, and drop what has not begun. Results that are there can still be had."""
        if self._feed is not None:
            self._feed.finish()

    def _take(self, deadline: float | None) -> Any:
        """The next value, or what stands in its place."""
        patience = left(deadline)
        if not self._lock.acquire(timeout=-1 if patience is None else patience):
            raise TimeoutError
        try:
            if self._thread is None:
                self._thread = whose()
            elif self._thread != whose():
                self._thread = 0  # from now on, everybody takes under the lock
            feed = self._feed
            assert feed is not None
            while not self._values:
                if self._in_hand:
                    in_hand, self._in_hand = self._in_hand, 0
                    feed.make_room(in_hand)
                self._take_block(feed, deadline)
            return self._values.popleft()
        finally:
            self._lock.release()

    def _give_back(self, found: Any) -> None:
        """It never reached the caller that asked for it."""
        with self._lock:
            self._values.appendleft(found)

    def _take_block(self, feed: Feed, deadline: float | None) -> None:
        """Wait for the next part and unpack it, and what has ended after it; or say that this is the end."""
        if not feed.wait(deadline):
            raise TimeoutError
        errand = errand_here()
        if errand is not None and errand.abandoned:
            raise Abandoned
        part = feed.head()
        if part is None:
            if feed.over:
                self._end(feed)
            return
        values, queue = self._values, feed.queue
        while True:
            if not part.put_into(values):
                if self._in_hand and not part.is_small():
                    return
                error = part.error()  # read before it is taken, for reading may raise
                if isinstance(error, Closed):  # the pool was terminated while its items were read
                    error = CancelledError()
                values.extend((_Failed(error),) if error is not None else part.values())
            queue.popleft()
            feed.taken += 1
            self._in_hand += part.size
            if self._in_hand >= self._block or not queue:
                return
            part = queue[0]
            if self._ordered and not part.settled:
                return

    def _end(self, feed: Feed) -> None:
        error, feed.error = feed.error, None
        self._keeper = None
        if self._reporter is not None:
            self._reporter.close()
        if error is None:
            raise StopIteration
        self._values.append(_Failed(error))


class IMapUnorderedIterator(IMapIterator):
    """Results as they come. Otherwise as `IMapIterator`; errors, too, come when they happen."""

    _ordered = False
