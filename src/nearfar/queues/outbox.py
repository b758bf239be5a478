"""What one process has put into a near queue and not yet written into its pipe, and who writes it.

::

    put -> messages --by who puts, as far as the pipe has room for sure--> pipe
                    \\--by the feeder thread: what may have to wait, what is left over-/

A put that follows none for `QUIET` seconds is written at once, by the thread that puts. While puts follow one
another they gather, up to `FEW` or about `MUCH` bytes, and are one write. What is left in the end is written
by the feeder thread, `GATHER` seconds later. So a process that is killed loses little more than what the pipe
had no room for.

Whoever writes holds the queue's writer lock, and takes a message out only after it was written. Other
processes wait for that lock, so no exception may come in between: who puts writes
safely (see `nearfar.net.deputy`).
"""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from multiprocessing.synchronize import Lock
from queue import Empty, SimpleQueue

from nearfar.net.deputy import safely
from nearfar.queues.deadlines import left
from nearfar.queues.frames import HEADER, PAGE, TOGETHER, Message, capacity, unread, write

__all__ = ["Bell", "Outbox"]

QUIET = 0.00002
"""Seconds since the last write after which a put is written at once."""
FEW = 32
"""Messages that may gather before who puts writes them."""
MUCH = 32 * 1024
"""Bytes that may gather: as many as all waiting messages have if they are as long as the last one."""
GATHER = 0.0005
"""Seconds that messages may wait for more."""
BATCH = 64 * 1024
"""Bytes that the feeder thread sends in one go, the last message as a whole, before the feeder threads of
others have their turn."""


class Bell:
    """Wakes the feeder thread: what it uses of the `Condition` of `multiprocessing.Queue`.

    There is no lock that a signal's handler, or an exception in the middle, could find held: a put in a
    handler that interrupts a put is just another put.
    """

    def __init__(self) -> None:
        self.wrote = 0.0
        """When something was written last."""
        self.writing = False
        """Who puts is writing now."""
        self._rung: SimpleQueue[bool] = SimpleQueue()

    def notify(self, *, patiently: bool = False) -> None:
        """Wake it now, or `patiently`: once nothing was written for `GATHER` seconds."""
        self._rung.put(patiently)

    def wait(self) -> None:
        """The thread: sleep until woken. It may be woken for nothing.

        It does not compete with a thread that puts and writes, which lets go of the interpreter just while it
        writes: this one would get the writer lock next, and hold it until it gets the interpreter back.
        """
        patiently = self._rung.get()
        while patiently:
            rest = GATHER if self.writing else self.wrote + GATHER - time.monotonic()
            if rest <= 0:
                return
            with suppress(Empty):
                patiently = self._rung.get(timeout=rest)

    def acquire(self) -> bool:
        return True

    def release(self) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def _at_fork_reinit(self) -> None:
        """Called in the child of a fork, which makes a new one."""


class Outbox:
    """`tokens` is the standard queue's buffer: each tells its feeder thread to call `feed` once.

    `writer` tells the descriptor of the pipe's end.

    Refers to no queue: the feeder thread, which has it, must not keep one alive.
    """

    def __init__(self, tokens: deque[None], bell: Bell, writer: Callable[[], int], wlock: Lock) -> None:
        self._messages: deque[Message] = deque()
        self._tokens = tokens
        self._bell = bell
        self._writer = writer
        self._wlock = wlock
        self._poll: select.poll | None = None
        self._capacity = 0
        self._behind = False
        """The feeder thread is about to write all there is."""
        self._sent = 0
        """Messages written."""
        self._waiters: list[threading.Lock] = []

    def add(self, messages: Sequence[Message]) -> None:
        """Take in `messages`; they are written by now, or soon. Needs the feeder thread to be there.

        A signal's handler may call this in the midst of itself.
        """
        waiting = self._messages
        try:
            waiting.extend(messages)
            if self._behind:
                return
            count = len(waiting)
            much = count >= FEW or count * len(messages[-1]) >= MUCH
            if much or time.monotonic() - self._bell.wrote > QUIET:
                self._write_now()
            elif not self._tokens:
                self.call_feeder(patiently=True)
        except BaseException:
            self.call_feeder()  # they may wait here, and nobody would write them
            raise

    def call_feeder(self, *, patiently: bool = False) -> None:
        """Have the feeder thread write what waits."""
        self._tokens.append(None)
        self._bell.notify(patiently=patiently)

    def feed(self, *_: object) -> None:
        """The feeder thread, with the writer lock held: write a good deal of what waits, and wait for it."""
        batch = self._first(BATCH) or list(islice(self._messages, 1))
        try:
            if batch:
                write(self._writer(), batch)
        finally:  # as by the standard, what could not be written is gone
            self._take_out(len(batch))
            self._behind = False
            if self._messages:  # looked at after `_behind`: what came meanwhile may have counted on it
                self._behind = True
                self._tokens.appendleft(None)

    def flush(self, deadline: float | None) -> int:
        """Wait until all that is here now is in the pipe, or for the deadline; tells how much is not."""
        target = self._sent + len(self._messages)
        while missing := max(0, min(target - self._sent, len(self._messages))):
            if not self._behind:
                self._write_now()
            written = threading.Lock()
            written.acquire()
            self._waiters.append(written)
            if self._messages and not written.acquire(timeout=_most(left(deadline))):
                with suppress(ValueError):
                    self._waiters.remove(written)
                if deadline is not None and time.monotonic() >= deadline:
                    return max(0, min(target - self._sent, len(self._messages)))
        return missing

    def _write_now(self) -> None:
        """Write what waits, as far as that needs no waiting; leave the rest to the feeder thread."""
        safely(self._write_what_fits)

    def _write_what_fits(self) -> None:
        try:
            with suppress(OSError):  # the feeder thread meets it again, and does as the standard's
                while self._messages and self._write_some():
                    pass
        finally:
            if self._messages and not self._behind:
                self._behind = True
                self.call_feeder()

    def _write_some(self) -> bool:
        """Write messages that the pipe has room for, if nobody else writes. Tells whether there were some."""
        if not self._wlock.acquire(False):
            return False
        try:
            batch = self._first(self._room())
            if batch:
                self._bell.writing = True
                write(self._writer(), batch)
                self._take_out(len(batch))
            return bool(batch)
        finally:
            self._bell.writing = False
            self._wlock.release()

    def _first(self, most: int) -> list[Message]:
        """The first messages: as many as fit into `most` bytes with their headers."""
        messages = self._messages
        if not messages:
            return []
        likely = most // (len(messages[0]) + HEADER) + 1
        batch = list(islice(messages, min(likely, TOGETHER)))
        size = 0
        for index, message in enumerate(batch):
            size += len(message) + HEADER
            if size > most:
                return batch[:index]
        return batch

    def _room(self) -> int:
        """Bytes that the pipe takes now without waiting, while nobody else writes.

        A pipe is a row of pages. A write begins a new one where what is over in the last one is not enough
        for what it has over whole pages. So of any two neighbours more than one page is filled, but for the
        first, which may be nearly read, and the last.
        """
        try:
            first = len(self._messages[0]) + HEADER
        except IndexError:
            return 0
        if first <= PAGE:
            return PAGE if self._is_writable() else 0
        writer = self._writer()
        if not self._capacity:
            self._capacity = capacity(writer)
        there = unread(writer)
        return max(0, self._capacity - 2 * there - 4 * PAGE) if there else self._capacity

    def _is_writable(self) -> bool:
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._writer(), select.POLLOUT)
        return [events for _, events in self._poll.poll(0)] == [select.POLLOUT]

    def _take_out(self, count: int) -> None:
        """The first `count` messages are written."""
        for _ in range(count):
            self._messages.popleft()
        self._sent += count
        self._bell.wrote = time.monotonic()
        while self._waiters:
            self._waiters.pop().release()


def _most(seconds: float | None) -> float:
    """A time to wait, as `Lock.acquire` takes it."""
    return -1 if seconds is None else min(seconds, threading.TIMEOUT_MAX)
