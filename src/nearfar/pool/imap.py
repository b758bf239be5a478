"""`imap` and `imap_unordered`: results one by one, over an input that is read ahead of the results.

`InputFeed` reads the input in a thread of its own and submits it. An input may block: it may wait for what
the caller does with a result, as in ``for r in pool.imap(f, iter(q.get, None)): q.put(...)``. So the caller's
thread reads only inputs that cannot block.
"""

from __future__ import annotations

import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from itertools import islice
from multiprocessing import TimeoutError
from time import monotonic
from typing import Any, NamedTuple

from nearfar.coordinator.task import Mode
from nearfar.net.interrupts import (
    Abandoned,
    DeferredCall,
    checkpoint,
    deferred_call_here,
    safe,
    safely,
    soon,
    whose,
)
from nearfar.pool.call import SMALL, Chunk, Item, Part, raise_from
from nearfar.pool.engine import Closed, Engine
from nearfar.pool.options import Limits, chunks
from nearfar.pool.progress import Reporter
from nearfar.pool.results import InterruptibleCondition
from nearfar.queues.base import deadline_of, left

__all__ = ["IMapIterator", "IMapUnorderedIterator", "InputFeed", "default_window"]


AT_HAND = (list, tuple, range, str, bytes, bytearray, dict, set, frozenset)
"""Inputs that are complete: reading one runs no foreign code and never blocks."""
ITEM_WITHIN = 0.1
"""Seconds that `finish` waits for the item that is being read, which may never come."""
ENDLESS = 1 << 62
WIDER = 4
"""Times: a window of small items, if none was asked for, becomes so much wider."""
EACH_CHECK = 0.001
"""Seconds of reading in the caller's thread, after which what was read is sent, and it is checked for an
interruption."""


class InputFeed:
    """Reads `source` and submits it in chunks; `head` is the next ended chunk.

    At most `window` items are read and not yet done with. No method holds a lock while foreign code runs, so
    that a garbage collection finds none held. The reading thread keeps the feed alive, but not the iterator
    that takes from it: the iterator calls `stop` when it is deleted.

    `wait`, `head`, `over` and `make_room` are for a thread that is not `exposed` (see
    `nearfar.net.interrupts`). The reading thread is exposed, as it runs the caller's input: it submits with
    `safely`.
    """

    def __init__(
        self,
        engine: Engine,
        func: Callable[..., Any],
        source: Iterable[Any],
        chunksize: int,
        window: int,
        limits: Limits,
        reporter: Reporter | None,
        *,
        ordered: bool,
        widens: bool = False,
    ) -> None:
        """`limits`: those of each chunk. `ordered`: chunks are taken in the order of the input.

        `widens`: once the window's items were all small, and their results too, it is `WIDER` times as wide,
        as long as that lasts.
        """
        self.error: BaseException | None = None
        """What reading the input raised."""
        self._engine = engine
        self._func = func
        self._source: Iterator[Any] = iter(source)
        self._at_hand = type(source) in AT_HAND
        self._chunksize = chunksize
        self._window = window
        self.low = max(chunksize, window // 4)
        """Room, in items, at which more is read: each message, and each thread switch, is expensive."""
        self._widens = widens
        self._limits = limits
        self._loud = reporter is not None
        self._reporter = reporter
        self._ordered = ordered
        self._narrow: tuple[int, int] | None = None
        """While the window is wider: what it and `low` were before."""
        self._on_end: Callable[[InputFeed], object] | None = None
        self._reading = True
        self._finishing = self._stopped = False
        self._items: list[Any] = []
        """Items of the chunk that is being read."""
        self._read = self._done = 0
        """Items."""
        self._submitted = self.taken = 0
        """Chunks. Only the reader changes `_read` and `_submitted`, only the taker `_done` and `taken`."""
        self.queue: deque[Part] = deque()
        """The chunks to take: if `ordered`, all submitted ones, else all ended ones."""
        self._unsettled: set[Part] = set()
        """The submitted chunks that have not ended; only used if not `ordered`."""
        self._room = InterruptibleCondition()
        self._news = InterruptibleCondition()
        self._thread: threading.Thread | None = None

    def begin(self, on_end: Callable[[InputFeed], object] | None) -> None:
        """Read up to the window. `on_end` is called, in any thread, once no more will be read."""
        self._on_end = on_end
        if self._at_hand:
            safely(self._read_on)
        else:
            self._thread = threading.Thread(target=self._run, name="nearfar-imap-input", daemon=True)
            self._thread.start()

    # -- for the taker -----------------------------------------------------------------------------

    def wait(self, deadline: float | None) -> bool:
        """Wait until `head` is known, until `deadline` of `time.monotonic` (None: no limit)."""
        if self._submitted == self.taken and not self._news.wait(self._is_known, deadline):
            return False
        return self._is_next() or self._engine.wait_until(self._is_next, left(deadline))

    def head(self) -> Part | None:
        """The next ended part; None at the end, or if another caller has taken it meanwhile."""
        return self.queue[0] if self.queue and self._is_next() else None

    @property
    def over(self) -> bool:
        """Whether no further chunk will come."""
        return not self._may_come() and self._submitted == self.taken

    def make_room(self, items: int) -> None:
        """The caller is done with `items` more items."""
        self._done += items
        if self._widens and self._done >= self._window:
            self._widens = False
            self._narrow = self._window, self.low
            self._window *= WIDER
            self.low *= WIDER
        if self._read - self._done + self.low <= self._window:
            if not self._at_hand:
                self._room.notify()
            elif self._reading:
                self._read_on()

    def found_large(self) -> None:
        """An item, or its result, is large: fewer of them are kept, from now on."""
        self._widens = False
        narrow, self._narrow = self._narrow, None
        if narrow is not None:
            self._window, self.low = narrow

    def read_all(self) -> None:
        """Read the input to its end, regardless of the window; returns at the end."""
        self._window = ENDLESS
        if self._at_hand:
            safely(self._read_on)
        elif self._thread is not None and self._thread is not threading.current_thread():
            safely(self._room.notify)
            self._thread.join()

    @safe
    def finish(self) -> None:
        """Read no further than the current chunk, and drop the chunks that have not begun."""
        self._finishing = True
        if self._thread is not None and self._thread.ident != whose():
            self._room.notify()
            self._thread.join(ITEM_WITHIN)
        self.stop()
        parts = list(self.queue) if self._ordered else self._unsettled
        self._engine.cancel(*(part for part in parts if not part.settled), wait=False)

    @safe
    def stop(self) -> None:
        """Read and submit no more: an item for which the input still blocks is dropped."""
        self._finishing = self._stopped = True
        self._room.notify()
        self._news.notify()
        self._forget()

    def _may_come(self) -> bool:
        return self._reading and not self._stopped

    def _is_known(self) -> bool:
        return self._submitted != self.taken or not self._may_come()

    def _is_next(self) -> bool:
        if self.queue:
            try:
                return not self._ordered or self.queue[0].settled
            except IndexError:  # taken by another thread
                return True
        return self._ordered or self._submitted == self.taken

    # -- reading -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._reading:
                self._read_on()
                self._room.wait(self._may_read, None)
        except BaseException as error:  # another thread raised it here: pass it on to the caller
            self.error = self.error or error
            soon(self._end)

    def _may_read(self) -> bool:
        return self._finishing or not self._reading or self._has_room()

    def _has_room(self) -> bool:
        return self._room_now() >= self._chunksize

    def _read_on(self) -> None:
        if self._at_hand:
            self._read_at_hand()
        else:
            while self._reading and not self._finishing and self._has_room():
                self._read_part()
        if self._finishing:
            self._end()

    def _read_at_hand(self) -> None:
        """In the caller's thread, and safely: every item that is read is submitted."""
        size, checked = self._chunksize, monotonic()
        while self._reading and not self._finishing and (room := self._room_now() // size) > 0:
            pieces: Any = zip(islice(self._source, room)) if size == 1 else chunks(self._source, size)
            for items in islice(pieces, room):
                room -= 1
                self._submit(items, more=True)
                if self._finishing:
                    break
                if monotonic() - checked > EACH_CHECK:
                    self._engine.flush()
                    checkpoint()
                    checked = monotonic()
            self._engine.flush()
            if room and not self._finishing:
                self._end()
        self._news.notify()

    def _room_now(self) -> int:
        return self._window - self._read + self._done

    def _read_part(self) -> None:
        try:
            more = self._fill()
        except BaseException as error:
            self.error = error  # what was read of a chunk that is not full is dropped, as the standard does
            self._end()
            return
        if self._items and not self._stopped:
            safely(partial(self._submit_and_notify, tuple(self._items)))
        self._items.clear()
        if not more:
            self._end()

    def _fill(self) -> bool:
        """Read the items of one part; False if they are the last."""
        items = self._items
        for item in self._source:
            items.append(item)
            if self._stopped or len(items) == self._chunksize:
                return True
        return False

    def _submit_and_notify(self, items: tuple[Any, ...]) -> None:
        self._submit(items)
        self._news.notify()

    def _submit(self, items: tuple[Any, ...], *, more: bool = False) -> None:
        part: Part
        if self._chunksize == 1:
            part = Item(self._func, items, self._ended, self._limits, self._loud)
            self._read += 1
        else:
            part = Chunk(self._func, items, Mode.MAP, self._ended, loud=self._loud)
            part.timeout, part.retries = self._limits
            self._read += part.size
        if self._ordered:
            self.queue.append(part)
        else:
            self._unsettled.add(part)
        self._submitted += 1
        try:
            self._engine.submit(part, more=more)
        except Exception as error:
            part.settle(None, error)
        if (self._widens or self._narrow is not None) and not _is_small(part):
            self.found_large()

    def _ended(self, part: Part) -> None:
        """A part is about to be settled. Runs in any thread."""
        if not self._ordered:
            self._unsettled.discard(part)
            self.queue.append(part)
        if self._reporter is not None:
            self._reporter.add(part.size)

    @safe
    def _end(self) -> None:
        self._source = iter(())
        self._reading = False
        self._news.notify()
        self._forget()

    def _forget(self) -> None:
        """Call `on_end`, once. A feed whose input blocks for ever must not keep its pool alive."""
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)


def _is_small(part: Part) -> bool:
    """Whether a submitted part is known to take little memory. It is not, if an engine does not pack it."""
    return isinstance(part.function, bytes) and not part.buffers and len(part.blob) <= SMALL


Notice = Callable[[InputFeed], object]


def default_window(workers: int, chunksize: int) -> int:
    """Items that are read ahead by default: four chunks for each worker, at least 256."""
    return max(256, 4 * workers * chunksize)


class _Failed(NamedTuple):
    """Takes the place of a failed chunk's values, or of an input's error."""

    error: BaseException


class IMapIterator:
    """Results in the order of the input, as `multiprocessing.Pool.imap` gives them, in bounded memory.

    At most `window` items are read and not done with: a result is done with when the next one is requested.
    Without a `window`, these are 1,024 small ones with small results, else 256 (or four chunks for each
    worker).
    The input is read in a thread of its own, from the start, so it may block, and `next` keeps its timeout; a
    list, a range and the like are read in the caller's thread.

    A task that failed raises at its place (with its whole chunk, if there is more than one item in it), and
    iteration goes on after it. For a task's StopIteration, `RuntimeError` is raised, as a generator does.
    What the input raises comes after all earlier results; items of a chunk that was not yet full are
    dropped, as in the standard library. An iterator that is deleted reads no more.
    """

    _feed: InputFeed | None = None  # until there is one: `__del__` of an iterator whose making failed
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
        """`limits`: those of each chunk. `begun` is called before the input is read, `read` at its end, in
        any thread. `keeper` (the pool) is kept alive until the end.

        Raises `ValueError` for a chunk of no items, or one larger than the window.
        """
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize!r}")
        widens = window is None
        if window is None:
            window = default_window(engine.size, chunksize)
        if window < chunksize:
            raise ValueError(f"a window of {window} items has no room for a chunk of {chunksize}")
        self._keeper = keeper
        self._reporter = reporter
        # Reentrant: a callback that runs while this waits may ask for the next result, too.
        self._lock = threading.RLock()
        self._values: deque[Any] = deque()
        """The values that `next` returns next."""
        self._thread: int | None = None
        """The only thread that takes values without the lock: the first caller, until another one calls."""
        self._in_hand = 0
        """Items put into `_values` that were not yet reported to the feed as done with."""
        feed = InputFeed(
            engine, func, iterable, chunksize, window, limits, reporter, ordered=self._ordered, widens=widens
        )
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
        deferred_call = DeferredCall(partial(self._take, deadline_of(True, timeout)), self._give_back)
        try:
            found = deferred_call.run()
            if type(found) is not _Failed:
                return found
        except BaseException as error:
            deferred_call.interrupted(error)
            raise
        failed: BaseException = found.error
        del found, deferred_call  # the error's traceback holds this frame
        try:
            if isinstance(failed, StopIteration):
                raise_from(failed)
            raise failed
        finally:
            del failed

    __next__ = next

    def close(self) -> None:
        """Read no more input, and drop tasks that have not begun. Finished results can still be taken."""
        if self._feed is not None:
            self._feed.finish()

    def _take(self, deadline: float | None) -> Any:
        """The next value, or a `_Failed` in its place."""
        patience = left(deadline)
        if not self._lock.acquire(timeout=-1 if patience is None else patience):
            raise TimeoutError
        try:
            if self._thread is None:
                self._thread = whose()
            elif self._thread != whose():
                self._thread = 0  # from now on, every thread takes under the lock
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
        """Put back a value that did not reach its caller."""
        with self._lock:
            self._values.appendleft(found)

    def _take_block(self, feed: InputFeed, deadline: float | None) -> None:
        """Wait for the next part and unpack it, with the ended ones after it. `StopIteration` at the end."""
        if not feed.wait(deadline):
            raise TimeoutError
        deferred_call = deferred_call_here()
        if deferred_call is not None and deferred_call.abandoned:
            raise Abandoned
        part = feed.head()
        if part is None:
            if feed.over:
                self._end(feed)
            return
        values, queue = self._values, feed.queue
        while True:
            if not part.put_into(values):
                if not part.is_small():
                    feed.found_large()
                    if self._in_hand:
                        return
                error = part.error()  # read before it is taken, because reading may raise
                if isinstance(error, Closed):  # the pool was terminated while its items were read
                    error = CancelledError()
                values.extend((_Failed(error),) if error is not None else part.values())
            queue.popleft()
            feed.taken += 1
            self._in_hand += part.size
            if self._in_hand >= feed.low or not queue:
                return
            part = queue[0]
            if self._ordered and not part.settled:
                return

    def _end(self, feed: InputFeed) -> None:
        error, feed.error = feed.error, None
        self._keeper = None
        if self._reporter is not None:
            self._reporter.close()
        if error is None:
            raise StopIteration
        self._values.append(_Failed(error))


class IMapUnorderedIterator(IMapIterator):
    """Results, and errors, in the order in which tasks end. Otherwise as `IMapIterator`."""

    _ordered = False
