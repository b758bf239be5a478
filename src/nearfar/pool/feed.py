"""The input of an `imap` on its way to the workers: read in a thread of its own, ahead of the results.

An input may block: it may wait for what the caller does with a result, as in
``for r in pool.imap(f, iter(q.get, None)): q.put(...)``. So the caller's thread reads only what cannot.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from nearfar.coordinator.tasks import Mode
from nearfar.net.deputy import checkpoint, safe, safely, soon, whose
from nearfar.pool.call import Chunk
from nearfar.pool.condition import Condition
from nearfar.pool.engine import Engine, hand_in
from nearfar.pool.options import Limits
from nearfar.pool.progress import Reporter
from nearfar.queues.deadlines import left

__all__ = ["Feed"]

AT_HAND = (list, tuple, range, str, bytes, bytearray, dict, set, frozenset)
"""Inputs that are there already: to read one runs no code of others, and never blocks."""
ITEM_WITHIN = 0.1
"""Seconds that `finish` waits for the item that is being read, which may never come."""
ENDLESS = 1 << 62


class Feed:
    """Reads `source` and hands it in, in chunks; `head` is the next that has ended.

    At most `window` items are read and not done with. No method holds a lock while code of others runs, so
    that a garbage collection finds none held. The thread keeps this alive, and not the iterator that takes
    from it: that one calls `stop` when it is forgotten.

    `wait`, `head`, `take`, `over` and `make_room` are for a thread that is not `exposed` (see
    `nearfar.net.deputy`). The thread that reads is, as it runs the caller's input: it hands in safely.
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
    ) -> None:
        """`limits`: those of each chunk. `ordered`: chunks are taken in the order of the input."""
        self.error: BaseException | None = None
        """What reading the input raised."""
        self._engine = engine
        self._func = func
        self._source: Iterator[Any] = iter(source)
        self._at_hand = type(source) in AT_HAND
        self._chunksize = chunksize
        self._window = window
        self._low = max(chunksize, window // 4)
        """Items that there is to be room for before the thread is woken: each change of threads is dear."""
        self._limits = limits
        self._reporter = reporter
        self._ordered = ordered
        self._on_end: Callable[[Feed], object] | None = None
        self._reading = True
        self._finishing = self._stopped = False
        self._items: list[Any] = []
        """Of the chunk that is being read."""
        self._read = self._done = 0
        """Items."""
        self._submitted = self._taken = 0
        """Chunks. Only who reads counts what was read and submitted, only who takes the others."""
        self._queue: deque[Chunk] = deque()
        """Those to be taken: all that were submitted, or, not `ordered`, all that have ended."""
        self._unsettled: set[Chunk] = set()
        self._room = Condition()
        self._news = Condition()
        self._thread: threading.Thread | None = None

    def begin(self, on_end: Callable[[Feed], object] | None) -> None:
        """Read as far as the window goes. `on_end` is called once no more is read, in any thread."""
        self._on_end = on_end
        if self._at_hand:
            safely(self._read_on)
        else:
            self._thread = threading.Thread(target=self._run, name="nearfar-imap-input", daemon=True)
            self._thread.start()

    # -- for who takes -----------------------------------------------------------------------------

    def wait(self, deadline: float | None) -> bool:
        """Wait until `head` tells something, by `deadline` of `time.monotonic` (None: for ever)."""
        if self._submitted == self._taken and not self._news.wait(self._is_known, deadline):
            return False
        return self._is_next() or self._engine.wait_until(self._is_next, left(deadline))

    def head(self) -> Chunk | None:
        """The next chunk, which has ended; None if another caller has taken it meanwhile, or at the end."""
        return self._queue[0] if self._queue and self._is_next() else None

    def take(self) -> None:
        """The head has been had."""
        self._queue.popleft()
        self._taken += 1

    @property
    def over(self) -> bool:
        """Whether there will be no chunk any more."""
        return not self._may_come() and self._submitted == self._taken

    def make_room(self, items: int) -> None:
        """The caller is done with so many items more."""
        self._done += items
        if self._read - self._done + self._low <= self._window:
            if not self._at_hand:
                self._room.notify()
            elif self._reading:
                self._read_on()

    def read_all(self) -> None:
        """Read the input to its end, whatever the window, and return then."""
        self._window = ENDLESS
        if self._at_hand:
            safely(self._read_on)
        elif self._thread is not None and self._thread is not threading.current_thread():
            safely(self._room.notify)
            self._thread.join()

    @safe
    def finish(self) -> None:
        """Read no more than the chunk that is being read, and drop what has not begun."""
        self._finishing = True
        if self._thread is not None and self._thread.ident != whose():
            self._room.notify()
            self._thread.join(ITEM_WITHIN)
        self.stop()
        self._engine.cancel(*self._unsettled, wait=False)

    @safe
    def stop(self) -> None:
        """Read no more, and hand in no more: an item for which the input still blocks is dropped."""
        self._finishing = self._stopped = True
        self._room.notify()
        self._news.notify()
        self._forget()

    def _may_come(self) -> bool:
        return self._reading and not self._stopped

    def _is_known(self) -> bool:
        return self._submitted != self._taken or not self._may_come()

    def _is_next(self) -> bool:
        if self._queue:
            try:
                return not self._ordered or self._queue[0].settled
            except IndexError:  # taken by another thread
                return True
        return self._ordered or self._submitted == self._taken

    # -- reading -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._reading:
                self._read_on()
                self._room.wait(self._may_read, None)
        except BaseException as error:  # another thread raised it here: the caller is to know
            self.error = self.error or error
            soon(self._end)

    def _may_read(self) -> bool:
        return self._finishing or not self._reading or self._has_room()

    def _has_room(self) -> bool:
        return self._read - self._done + self._chunksize <= self._window

    def _read_on(self) -> None:
        while self._reading and not self._finishing and self._has_room():
            self._read_chunk()
            if self._at_hand:
                checkpoint()  # the caller's thread reads, and perhaps much
        if self._finishing:
            self._end()

    def _read_chunk(self) -> None:
        try:
            more = self._fill()
        except BaseException as error:
            if self._at_hand and not isinstance(error, Exception):
                raise  # of the handler of a signal, in the caller's own thread
            self.error = error  # what was read of a chunk that is not full is dropped, as the standard does
            self._end()
            return
        if self._items and not self._stopped:
            safely(partial(self._submit, tuple(self._items)))
        self._items.clear()
        if not more:
            self._end()

    def _fill(self) -> bool:
        """Read the items of one chunk; False if they are the last."""
        items = self._items
        if self._at_hand:
            items.extend(islice(self._source, self._chunksize - len(items)))
            return len(items) == self._chunksize
        for item in self._source:
            items.append(item)
            if self._stopped or len(items) == self._chunksize:
                return True
        return False

    def _submit(self, items: tuple[Any, ...]) -> None:
        chunk = Chunk(self._func, items, Mode.MAP, self._ended, loud=self._reporter is not None)
        chunk.timeout, chunk.retries = self._limits
        self._read += chunk.size
        self._unsettled.add(chunk)
        if self._ordered:
            self._queue.append(chunk)
        self._submitted += 1
        hand_in(self._engine, chunk)
        self._news.notify()

    def _ended(self, chunk: Chunk) -> None:
        """A chunk is about to be settled. Runs in any thread."""
        self._unsettled.discard(chunk)
        if not self._ordered:
            self._queue.append(chunk)
        if self._reporter is not None:
            self._reporter.add(chunk.size)

    @safe
    def _end(self) -> None:
        self._source = iter(())
        self._reading = False
        self._news.notify()
        self._forget()

    def _forget(self) -> None:
        """Tell of the end, once. What blocks in its input for ever is to keep no pool alive."""
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)
