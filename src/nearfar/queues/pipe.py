r"""The standard library's process queue over one pipe, extended by messages, stages, and direct writes.

::

    claim a slot -> outbox ==pipe==> take -> give the slot back
    `_sem`, shared  (per process)    `_rlock`: one reader at a time

The mechanism of `multiprocessing.Queue` is kept: the slots are the bound and the count, the reader lock
serializes the consumers, and there is a feeder thread. `PipedQueue` adds three things.

* Items come as messages, and the caller of `put` writes them itself if it need not wait.
* The end is a shared stage that only rises, plus an empty message (no pickle is empty) that wakes the one
  reader that may be blocked on an empty pipe. The readers behind it see the stage when they get the lock.
  From then on the slots show whether messages may still come, from any feeder thread.
* A message given back while the queue is at its bound exceeds it, counted in `_surplus`: giving back must not
  wait.

An `Outbox` holds what one process has put and not yet written into the pipe::

    put -> messages --by the putting thread, as far as the pipe surely has room--> pipe
                    \--by the feeder thread: what may have to wait, and the rest--/

A put after `QUIET` seconds without one is written at once, by the putting thread. Puts in quick succession
are collected, up to `FEW` messages or about `MUCH` bytes, and written together. The feeder thread writes the
rest `GATHER` seconds later. So a killed process loses little more than what the pipe had no room for.

A thread that writes holds the queue's writer lock, and removes a message only after it was written. Other
processes wait for that lock, so no exception may interrupt this: the putting thread writes safely (see
`nearfar.net.interrupts`).
"""

from __future__ import annotations

import multiprocessing
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from multiprocessing import queues
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import BoundedSemaphore, Lock
from queue import Empty, Full, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from nearfar.errors import ShutDown
from nearfar.net.interrupts import safely
from nearfar.queues.base import left
from nearfar.queues.framing import (
    HEADER,
    PAGE,
    TOGETHER,
    Message,
    capacity,
    read,
    read_waiting,
    unread,
    write,
)

__all__ = ["DROPPED", "SHUT", "Bell", "Outbox", "PipedQueue"]


QUIET = 0.00002
"""Seconds since the last write after which a put is written at once."""
FEW = 32
"""Messages that may collect before the putting thread writes them."""
MUCH = 32 * 1024
"""Bytes that may collect, estimated as if all waiting messages were as long as the last one."""
GATHER = 0.0005
"""Seconds that messages may wait for more."""
BATCH = 64 * 1024
"""Bytes that the feeder thread writes at once before it lets other processes write. The last message is
written as a whole."""


class Bell:
    """Wakes the feeder thread: replaces the condition variable of `multiprocessing.Queue`.

    It has no lock that a signal handler, or an exception halfway, could find held: a put in a handler that
    interrupts a put is just another put.
    """

    def __init__(self) -> None:
        self.wrote = 0.0
        """When something was last written."""
        self.writing = False
        """Whether a putting thread is writing now."""
        self._rung: SimpleQueue[bool] = SimpleQueue()

    def notify(self, *, patiently: bool = False) -> None:
        """Wake the feeder thread now, or `patiently`: once nothing was written for `GATHER` seconds."""
        self._rung.put(patiently)

    def wait(self) -> None:
        """In the feeder thread: sleep until woken. It may be woken without need.

        It does not compete with a putting thread that writes and releases the interpreter only meanwhile: the
        feeder thread would then get the writer lock, and hold it until it gets the interpreter.
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
        """Called in the child of a fork, which makes a new `Bell`."""


class Outbox:
    """`tokens` is the standard queue's buffer: each tells its feeder thread to call `feed` once.

    `writer` returns the descriptor of the pipe's writing end.

    Has no reference to the queue: the feeder thread, which has the outbox, must not keep the queue alive.
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
        """Whether the feeder thread is about to write everything."""
        self._sent = 0
        """Messages written."""
        self._waiters: list[threading.Lock] = []

    def add(self, messages: Sequence[Message]) -> None:
        """Add `messages`, and write them now or soon. The feeder thread must have been started.

        A signal handler may call this while it is running.
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
            self.call_feeder()  # they may be here already, and would not be written otherwise
            raise

    def call_feeder(self, *, patiently: bool = False) -> None:
        """Have the feeder thread write what is waiting."""
        self._tokens.append(None)
        self._bell.notify(patiently=patiently)

    def feed(self, *_: object) -> None:
        """In the feeder thread, with the writer lock held: write the first messages, waiting if needed."""
        batch = self._first(BATCH) or list(islice(self._messages, 1))
        try:
            if batch:
                write(self._writer(), batch)
        finally:  # as in the standard library, what could not be written is lost
            self._take_out(len(batch))
            self._behind = False
            if self._messages:  # checked after `_behind`: what was added meanwhile relied on it
                self._behind = True
                self._tokens.appendleft(None)

    def flush(self, deadline: float | None) -> int:
        """Wait until all messages here are in the pipe, or for the deadline; returns how many are not."""
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
        """Write the messages for which the pipe has room; leave the rest to the feeder thread."""
        safely(self._write_what_fits)

    def _write_what_fits(self) -> None:
        try:
            with suppress(OSError):  # the feeder thread meets the error again, and reports it as usual
                while self._messages and self._write_some():
                    pass
        finally:
            if self._messages and not self._behind:
                self._behind = True
                self.call_feeder()

    def _write_some(self) -> bool:
        """Write messages for which the pipe has room, if no one else writes. Returns whether it wrote any."""
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
        """Bytes that the pipe surely takes without waiting, while no one else writes.

        A pipe is a sequence of pages. A write begins a new page if the free part of the last one cannot hold
        the write's remainder over whole pages. So any two neighbours together hold more than one page, except
        at the first page, which may be nearly read, and at the last.
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
        """Remove the first `count` messages, which were written."""
        for _ in range(count):
            self._messages.popleft()
        self._sent += count
        self._bell.wrote = time.monotonic()
        while self._waiters:
            self._waiters.pop().release()


def _most(seconds: float | None) -> float:
    """A time to wait, as `Lock.acquire` takes it."""
    return -1 if seconds is None else min(seconds, threading.TIMEOUT_MAX)


T = TypeVar("T")


SHUT, DROPPED = 1, 2
"""Stages of a queue: 0 is open, `SHUT` accepts no more items, `DROPPED` delivers none either."""

SLICE = 0.05
"""Seconds between two checks of what has no wake-up: the stage while a put waits, the slots after the end."""

GRACE = 1.0
"""Seconds without an arrival after which `_drop_waiting` stops waiting for messages under way."""

WAKE = b""


class PipedQueue(queues.Queue):  # type: ignore[type-arg]  # Python 3.11 has no Queue[Any] at run time
    """Moves messages between processes; the queues in `nearfar.queues.near` are built on it."""

    # The parts of the standard library's queue that are used here; typeshed lacks them.
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
        """Called for each message that is done, or dropped."""

    def _claim(self, block: bool, deadline: float | None) -> None:
        """Take one of the slots, or raise `Full` or `ShutDown`.

        The stage is read after the slot was taken: so if the stage is set and no slot is taken, no message is
        on its way. It is read before as well, so that late puts do not show in `qsize` for a moment.
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
        """Free what one message used: a place above the bound if there is one, else its slot."""
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
        """Put a taken message at the end of the queue: without waiting, and even after the shutdown."""
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
        """`do()`, as the only reader. Raises `Empty` if others read for too long.

        Raises `RuntimeError` in a signal handler, or a finalizer, of a thread that reads.
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
            finally:  # twice, as a signal handler may raise here, and others would wait for ever
                if mine():
                    lock.release()
        finally:
            if mine():
                lock.release()

    def _take_many(self, most: int, deadline: float | None) -> list[Message]:
        """The next message, and those that are in the pipe behind it. Raises as `_take`."""

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
        """Raise the stage to at least `stage`, and wake the readers that wait."""
        for _ in range(self._stage.get_value(), stage):
            self._stage.release()
        self._wake_reader()

    def _wake_reader(self) -> None:
        """Wake a reader that blocks on an empty pipe. One that has something to read sees the stage anyway.

        The pipe is written only while it is empty and no one else can write, so that this never blocks on a
        full pipe; a feeder thread may hold the lock in exactly that state, hence the slices.
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
