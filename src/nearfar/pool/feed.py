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
from time import monotonic
from typing import Any

from nearfar.coordinator.tasks import Mode
from nearfar.net.deputy import checkpoint, safe, safely, soon, whose
from nearfar.pool.call import Chunk, Item, Part
from nearfar.pool.condition import Condition
from nearfar.pool.engine import Engine
from nearfar.pool.options import Limits
from nearfar.pool.progress import Reporter
from nearfar.queues.deadlines import left

__all__ = ["Feed"]

AT_HAND = (list, tuple, range, str, bytes, bytearray, dict, set, frozenset)
"""Inputs that are there already: to read one runs no code of others, and never blocks."""
ITEM_WITHIN = 0.1
"""Seconds that `finish` waits for the item that is being read, which may never come."""
ENDLESS = 1 << 62
EACH_CHECK = 0.005
"""Seconds of reading in the caller's thread after which it is looked whether that was interrupted."""


class Feed:
    """Reads `source` and hands it in, in chunks; `head` is the next that has ended.

    At most `window` items are read and not done with. No method holds a lock while code of others runs, so
    that a garbage collection finds none held. The thread keeps this alive, and not the iterator that takes
    from it: that one calls `stop` when it is forgotten.

    `wait`, `head`, `over` and `make_room` are for a thread that is not `exposed` (see
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
        self._submitted = self.taken = 0
        """Chunks. Only who reads counts what was read and submitted, only who takes the others."""
        self.queue: deque[Part] = deque()
        """Those to be taken: all that were submitted, or, not `ordered`, all that have ended."""
        self._unsettled: set[Part] = set()
        """Where they are not `ordered`."""
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
        if self._submitted == self.taken and not self._news.wait(self._is_known, deadline):
            return False
        return self._is_next() or self._engine.wait_until(self._is_next, left(deadline))

    def head(self) -> Part | None:
        """The next part, which has ended; None if another caller has taken it meanwhile, or at the end."""
        return self.queue[0] if self.queue and self._is_next() else None

    @property
    def over(self) -> bool:
        """Whether there will be no chunk any more."""
        return not self._may_come() and self._submitted == self.taken

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
        parts = list(self.queue) if self._ordered else self._unsettled
        self._engine.cancel(*(part for part in parts if not part.settled), wait=False)

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
        except BaseException as error:  # another thread raised it here: the caller is to know
            self.error = self.error or error
            soon(self._end)

    def _may_read(self) -> bool:
        return self._finishing or not self._reading or self._has_room()

    def _has_room(self) -> bool:
        return self._read - self._done + self._chunksize <= self._window

    def _read_on(self) -> None:
        if self._at_hand:
            self._read_at_hand()
        else:
            while self._reading and not self._finishing and self._has_room():
                self._read_part()
        if self._finishing:
            self._end()

    def _read_at_hand(self) -> None:
        """In the caller's thread, and safely: what is read is submitted."""
        size, checked = self._chunksize, monotonic()
        while self._reading and not self._finishing and self._read - self._done + size <= self._window:
            items = tuple(islice(self._source, size))
            if items:
                self._submit(items)
            if len(items) < size:
                self._end()
            if monotonic() - checked > EACH_CHECK:
                checkpoint()
                checked = monotonic()
        self._news.notify()

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

    def _submit(self, items: tuple[Any, ...]) -> None:
        part: Part
        loud = self._reporter is not None
        if self._chunksize == 1:
            part = Item(self._func, items, self._ended, self._limits, loud=loud)
        else:
            part = Chunk(self._func, items, Mode.MAP, self._ended, loud=loud)
            part.timeout, part.retries = self._limits
        self._read += part.size
        if self._ordered:
            self.queue.append(part)
        else:
            self._unsettled.add(part)
        self._submitted += 1
        try:
            self._engine.submit(part)
        except Exception as error:
            part.settle(None, error)

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
        """Tell of the end, once. What blocks in its input for ever is to keep no pool alive."""
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)
