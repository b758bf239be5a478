"""The standard's process queue with a shared end: messages, slots and stages.

::

    claim a slot -> outbox ==pipe==> take -> give the slot back
    `_sem`, shared  (per process)    `_rlock`: one reader at a time

What `multiprocessing.Queue` does stays as it is: the slots are the bound and the count, the reader lock
orders the takers, and there is a feeder thread. Three things are new.

* Items come as messages, and the caller of `put` writes them, if that needs no waiting
  (`nearfar.queues.outbox`).
* The end is a shared stage that only goes up, plus an empty message (no pickle is empty) that wakes the one
  reader who may be blocked on an empty pipe. Those behind it find the stage when the lock comes to them.
  From then on the slots say whether messages may still come, from whichever feeder thread.
* A message given back at the bound goes in above it, counted in `_surplus`: who gives back must not wait.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import queues
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import BoundedSemaphore, Lock
from threading import Thread
from typing import Any, TypeVar

from nearfar.errors import Empty, Full, ShutDown
from nearfar.net.deputy import safely
from nearfar.queues.deadlines import left
from nearfar.queues.frames import Message, read, read_waiting
from nearfar.queues.outbox import Bell, Outbox

T = TypeVar("T")

__all__ = ["DROPPED", "SHUT", "PipedQueue"]

SHUT, DROPPED = 1, 2
"""Stages of a queue: 0 is open, `SHUT` takes no more items, `DROPPED` gives none out either."""

SLICE = 0.05
"""Seconds between two looks at what wakes nobody: the stage while a put waits, the slots after the end."""

GRACE = 1.0
"""Seconds without any arrival after which `_drop_waiting` stops waiting for messages under way."""

WAKE = b""


class PipedQueue(queues.Queue):  # type: ignore[type-arg]  # Python 3.11 has no Queue[Any] at run time
    """Moves messages between processes; `nearfar.queues.near` makes queues of items of it."""

    # The parts of the standard's queue that are used here; typeshed does not name them.
    _buffer: deque[None]
    _closed: bool
    _maxsize: int
    _notempty: Bell
    _poll: Callable[[float], bool]
    _reader: Connection[Any, Any]
    _rlock: Lock
    _sem: BoundedSemaphore
    _start_thread: Callable[[], None]
    _thread: Thread | None
    _wlock: Lock
    _writer: Connection[Any, Any]

    def __init__(self, maxsize: int, ctx: BaseContext | None) -> None:
        context = ctx or multiprocessing.get_context()
        super().__init__(maxsize, ctx=context)
        self._bounded = maxsize > 0
        self._stage = context.Semaphore(0)
        self._surplus = context.Semaphore(0)

    def __getstate__(self) -> tuple[Any, ...]:  # type: ignore[override]
        return super().__getstate__(), self._bounded, self._stage, self._surplus

    def __setstate__(self, state: tuple[Any, ...]) -> None:  # type: ignore[override]
        standard, self._bounded, self._stage, self._surplus = state
        super().__setstate__(standard)

    def _reset(self, after_fork: bool = False) -> None:
        super()._reset(after_fork)  # type: ignore[misc]
        self._notempty = Bell()
        self._outbox = Outbox(self._buffer, self._notempty, self._writer.fileno, self._wlock)
        self._send_bytes = self._outbox.feed
        self._starting = threading.RLock()

    def qsize(self) -> int:
        return self._maxsize - self._sem.get_value() + self._surplus.get_value()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")

    def _settle(self) -> None:
        """Called for each message that is done with, or dropped."""

    def _claim(self, block: bool, deadline: float | None) -> None:
        """Take one of the slots, or raise `Full` or `ShutDown`.

        The stage is read after the slot was taken: whoever finds it set and no slot taken knows that no
        message is on its way. It is read before, too, so that late puts do not flicker in `qsize`.
        """
        while not self._stage.get_value():
            if self._sem.acquire(False) or (block and self._sem.acquire(True, left(deadline, SLICE))):
                if not self._stage.get_value():
                    return
                self._free()
            elif not block or (deadline is not None and time.monotonic() >= deadline):
                raise Full
        raise ShutDown

    def _free(self) -> None:
        """Give back what one message took: its place above the bound if there is one, else its slot."""
        if not self._surplus.acquire(False):
            self._sem.release()

    def _send(self, *messages: Message) -> None:
        if self._thread is None:
            safely(self._start_feeder)
        self._outbox.add(messages)

    def _start_feeder(self) -> None:
        with self._starting:
            if self._thread is None:
                self._start_thread()

    def _give_back(self, message: Message) -> None:
        """Put at the tail what was taken before: without waiting, and after the end too."""
        if self._stage.get_value() >= DROPPED:
            self._settle()
            return
        if not self._sem.acquire(False):
            self._surplus.release()
        self._send(message)

    def _take(self, deadline: float | None, dropping: bool = False) -> Message:
        """The next message, or raise `Empty` or `ShutDown`."""
        return self._alone(deadline, partial(self._read, deadline, dropping))

    def _alone(self, deadline: float | None, do: Callable[[], T]) -> T:
        """`do()`, as the one reader. Raises `Empty` where others read for too long.

        Raises `RuntimeError` in a signal's handler, or a finalizer, of a thread that reads.
        """
        self._check_open()
        lock = self._rlock
        mine = lock._semlock._is_mine  # type: ignore[attr-defined]
        if mine():
            raise RuntimeError("this thread is in the middle of a get from this queue: it cannot get again")
        try:
            try:
                if not lock.acquire(True, left(deadline)):
                    raise Empty
                return do()
            finally:  # twice, as a signal's handler may raise here, and others would wait for ever
                if mine():
                    lock.release()
        finally:
            if mine():
                lock.release()

    def _take_many(self, most: int, deadline: float | None) -> list[Message]:
        """The next message, and those behind it that lie there already. Raises as `_take`."""

        def read() -> list[Message]:
            first = self._read(deadline, dropping=False)
            return [first, *read_waiting(self._reader.fileno(), most - 1)]

        found = self._alone(deadline, read)
        for _ in found[1:]:
            self._free()
        return found

    def _take_batched(self, most: int, least: int, deadline: float | None) -> list[Message]:
        """Up to `most` messages; fewer than `least` only at the deadline or the end. Raises as `_take`."""
        found = self._take_many(most, deadline)
        try:
            with suppress(Empty, ShutDown):
                while len(found) < least:
                    found += self._take_many(most - len(found), deadline)
        except BaseException:
            for message in found:
                self._give_back(message)
            raise
        return found

    def _read(self, deadline: float | None, dropping: bool) -> Message:
        while True:
            wait = left(deadline)
            if stage := self._stage.get_value():
                if self.qsize() == 0 or (stage >= DROPPED and not dropping):
                    raise ShutDown
                wait = left(deadline, SLICE)
            if wait is None or self._poll(wait):
                if message := read(self._reader.fileno()):
                    self._free()
                    return message
            elif deadline is not None and time.monotonic() >= deadline:
                raise Empty

    def _end(self, stage: int) -> None:
        """Raise the stage to `stage` at least, and let those who wait find it."""
        for _ in range(self._stage.get_value(), stage):
            self._stage.release()
        self._wake_reader()

    def _wake_reader(self) -> None:
        """Wake a reader who blocks on an empty pipe. One who has something to read finds the stage anyway.

        The pipe is written only while it is empty and nobody else may write, so that this never blocks on a
        full one; a feeder thread may hold the lock in just that state, hence the slices.
        """
        while not self._poll(0.0):
            safely(self._try_to_wake)

    def _try_to_wake(self) -> None:
        if self._wlock.acquire(True, SLICE):
            try:
                if not self._poll(0.0):
                    self._writer.send_bytes(WAKE)
            finally:
                self._wlock.release()

    def _drop_waiting(self) -> None:
        with suppress(Empty, ShutDown):
            while True:
                self._take(time.monotonic() + GRACE, dropping=True)
                self._settle()
