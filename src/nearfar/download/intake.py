"""Reads the input in a thread of its own, a little ahead, so that a slow pipe holds nobody up."""

from __future__ import annotations

import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Condition, Thread
from typing import Protocol

from nearfar.download.lines import Bad, LineReader, from_arguments
from nearfar.download.model import Job
from nearfar.output import same_file

Entry = Job | Bad

AHEAD = 2000
"""Entries read and not yet taken, after which reading waits."""
_BLOCK = 64 * 1024


class Source(Protocol):
    """An input as batches of entries."""

    countable: bool
    """True if the rest can be read to its end without waiting for anyone."""

    def __iter__(self) -> Iterator[list[Entry]]: ...

    def overwritten_by(self, path: Path) -> bool:
        """Whether an output to `path` would go where this reads."""

    def stop(self) -> None:
        """Let an iteration that waits end; from any thread."""

    def close(self) -> None:
        """Let go of what it holds."""


class Arguments:
    """The URLs of a command line."""

    countable = True

    def __init__(self, arguments: Iterable[str]) -> None:
        self._arguments = arguments

    def __iter__(self) -> Iterator[list[Entry]]:
        return from_arguments(self._arguments)

    def overwritten_by(self, path: Path) -> bool:
        return False

    def stop(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing is held."""


class Descriptor:
    """An open file descriptor, closed with it; gives what is there, and waits only while that is nothing."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._stopper, self._stopped = socket.socketpair()
        self.countable = stat.S_ISREG(os.fstat(descriptor).st_mode)

    def __iter__(self) -> Iterator[list[Entry]]:
        reader = LineReader()
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN | select.POLLHUP)
        poller.register(self._stopped, select.POLLIN)
        while self._stopped.fileno() not in dict(poller.poll()):
            try:
                block = os.read(self._descriptor, _BLOCK)
            except BlockingIOError:  # another reader was quicker
                continue
            if not block:
                yield reader.end()
                return
            yield reader.feed(block)

    def overwritten_by(self, path: Path) -> bool:
        return same_file(self._descriptor, path)

    def stop(self) -> None:
        self._stopper.send(b"\0")

    def close(self) -> None:
        self._stopper.close()
        self._stopped.close()
        os.close(self._descriptor)


class Intake:
    """The entries of a source, in order. `take` never waits; `on_event` is called, by the thread, for more.

    Reading begins with the first `take`: until then, no thread is in the way of a fork. An error of reading
    (`OSError`) is raised by `take`, once what was read before it has been taken.
    """

    def __init__(self, source: Source, on_event: Callable[[], None] = lambda: None) -> None:
        self.on_event = on_event
        self._source = source
        self._batches = iter(source)
        self._entries: deque[Entry] = deque()
        self._changed = Condition()
        self._ended = False
        self._closing = False
        self._error: OSError | None = None
        self._thread: Thread | None = None

    @property
    def ended(self) -> bool:
        """True if the input was read to its end."""
        return self._ended

    @property
    def exhausted(self) -> bool:
        """True if everything was taken."""
        return self._ended and not self._entries and self._error is None

    def begin(self) -> None:
        """Start the thread that reads. A second call does nothing, nor does one after `close`.

        Raises `RuntimeError` where no thread can be started.
        """
        if self._thread is None and not self._closing:
            thread = Thread(target=self._read, name="intake", daemon=True)
            thread.start()
            self._thread = thread  # only now: `close` waits for one that runs

    def take(self, most: int) -> list[Entry]:
        """Up to `most` entries: those that are there."""
        self.begin()
        with self._changed:
            entries = self._entries
            taken = [entries.popleft() for _ in range(min(most, len(entries)))]
            if not taken and self._error is not None:
                error, self._error = self._error, None
                raise error
            if len(entries) < AHEAD:
                self._changed.notify()
        return taken

    def close(self) -> None:
        """Read no further, and wait for the thread. A second call does nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if not self._source.countable:
            self._source.stop()
        if self._thread is not None:
            self._thread.join()

    def rest(self) -> tuple[int, bool]:
        """After `close`: how many entries were not taken, and whether that is all of the input.

        A file is counted to its end; what a pipe may still bring is left there.
        """
        count = len(self._entries)
        if self._ended:
            return count, True
        if self._source.countable:
            count += sum(map(len, self._batches))
        return count, self._source.countable

    def waiting(self) -> int:
        """How many entries could be taken now."""
        return len(self._entries)

    def _read(self) -> None:
        try:
            while self._wanted() and (batch := next(self._batches, None)) is not None:
                with self._changed:
                    self._entries.extend(batch)
                if batch:
                    self.on_event()
        except OSError as error:
            self._error = error
        self._ended = not self._closing
        self.on_event()

    def _wanted(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or len(self._entries) < AHEAD)
            return not self._closing
