"""The processes of one command, each with a pipe to its parent.

::

    parent -> producer    jobs  [(number, *job)...] | end | stop
    producer -> parent    want  how many            | ended [(number, saved, *what)...] | underway (size, ...)
    parent -> consumer    end

A child whose parent is gone leaves at once.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

from nearfar.download.account import Ended
from nearfar.download.couriers.near import NearInbound, NearOutbound, Routes
from nearfar.download.fetch.base import Fetcher
from nearfar.download.memory import keep_freed_memory
from nearfar.download.model import Ending, Failure, Job, Saved, Underway
from nearfar.net.shortage import shortage

ORPHANED = 70
TOLD_EVERY = 0.2
"""Seconds between two words of what is on its way, for the progress."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A terminal's Ctrl-C reaches every process of a command; only the parent decides what it means."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the processes of one command do. Everything in it must be picklable: they are spawned."""

    directory: Path
    make_fetcher: Callable[[], Fetcher]
    overwrite: bool = False
    producers: int = 1
    consumers: int = 1
    jobs: int = 16
    """Transfers at a time, of each producer."""
    prepare: Callable[[], None] | None = None
    """Called first in each process: sets up logging."""


class PipeDesk:
    """A producer's desk whose other side is the parent."""

    def __init__(self, pipe: Connection[Any, Any], on_stop: Callable[[], None]) -> None:
        self.on_event: Callable[[], None] = lambda: None
        self._pipe = pipe
        self._on_stop = on_stop
        self._jobs: deque[tuple[int, Job]] = deque()
        self._asked = False
        self._over = False
        self._ended: list[tuple[Any, ...]] = []
        self.underway: Callable[[], Underway] = Underway
        self._told = Underway()
        self._due = 0.0

    def listen(self) -> None:
        """Read what the parent says, until it says the end: for a thread of its own."""
        while not self._over:
            try:
                word, jobs = self._pipe.recv()
            except (EOFError, OSError):
                # The parent is gone, or about to kill this process.
                return
            self._jobs.extend((number, Job(url, name, checksum)) for number, url, name, checksum in jobs)
            self._asked = False
            if word != "jobs":
                self._over = True
            if word == "stop":
                self._on_stop()
            self.on_event()

    def take(self, most: int) -> Sequence[tuple[int, Job]]:
        jobs = self._jobs
        taken = [jobs.popleft() for _ in range(min(most, len(jobs)))]
        if not taken and not self._asked and not self._over:
            self._asked = True
            self._pipe.send(("want", most))
        return taken

    @property
    def exhausted(self) -> bool:
        return self._over and not self._jobs

    def end(self, number: int, ended: Ended) -> None:
        self._ended.append((number, ended.ending is Ending.SAVED, *ended.what))

    def turn(self) -> None:
        if self._ended:
            ended, self._ended = self._ended, []
            self._pipe.send(("ended", ended))
        now = time.monotonic()
        if now >= self._due:
            self._due = now + TOLD_EVERY
            underway = self.underway()
            if underway != self._told:
                self._told = underway
                self._pipe.send(("underway", tuple(underway)))


def read_ending(saved: bool, *what: Any) -> Ended:
    """What `PipeDesk.end` wrote down: flat, as a class costs more to pickle than all that is in it."""
    if len(what) == len(Failure._fields):
        return Ended(Ending.FAILED, Failure._make(what))
    return Ended(Ending.SAVED if saved else Ending.ALREADY, Saved._make(what))


@contextmanager
def _short_words() -> Iterator[None]:
    """Where there is no memory or no thread to be had, end with a sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if (why := shortage(error)) is None:
            raise
        sys.exit(f"a process of this command ends: {why}")


@_short_words()
def produce(plan: Plan, routes: Routes, number: int, pipe: Connection[Any, Any]) -> None:
    """The life of a producer process."""
    _prepare(plan)
    # Here and in `consume`: neither process waits for the imports of the other's work, nor does the parent.
    from nearfar.download.producer import Producer

    fetcher = plan.make_fetcher()
    outbound = NearOutbound(routes, number)
    desk = PipeDesk(pipe, lambda: producer.stop())
    producer = Producer(desk, fetcher, outbound, jobs=plan.jobs, ahead=16 * plan.jobs)
    Thread(target=desk.listen, name="parent", daemon=True).start()
    # What there is when the work begins stays to its end: no collection need look at it again.
    gc.freeze()
    producer.run()
    outbound.close(None)
    fetcher.close()


@_short_words()
def consume(plan: Plan, routes: Routes, name: str, pipe: Connection[Any, Any]) -> None:
    """The life of a consumer process."""
    _prepare(plan)
    from nearfar.download.consumer import Consumer
    from nearfar.download.store import Store

    inbound = NearInbound(routes, name, pipe)
    with Store(plan.directory, overwrite=plan.overwrite) as store:
        gc.freeze()
        Consumer(inbound, store).run()
    inbound.close(None)


def _prepare(plan: Plan) -> None:
    keep_freed_memory()
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    Thread(target=_leave_with_parent, name="orphan", daemon=True).start()
    if plan.prepare is not None:
        plan.prepare()


def _leave_with_parent() -> None:
    """In a thread, since the main one may wait for ever for the rest of a message of a dead sibling.

    By the process itself: of the pipe that multiprocessing watches, a forked sibling may hold the other end.
    """
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return
    try:
        watched = os.pidfd_open(parent.pid)
        if os.getppid() == parent.pid:
            select.select([watched], [], [])
    except ProcessLookupError:
        pass  # it is gone already
    except (AttributeError, OSError):  # no Linux, or an old one
        parent.join()
    os._exit(ORPHANED)
