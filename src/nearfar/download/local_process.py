"""The code of the child processes of one command, and their messages to and from their parent.

Each process has a pipe to its parent::

    parent -> child    jobs  [(number, *job)...] | end | stop | hosts [grant...]
    child  -> parent   want  how many            | ended [(number, saved, *what)...]
                       | underway of `Underway`  | report of `Report`
                       hosts [claim...]: of permits for hosts, which the parent holds
    parent -> consumer end

A child whose parent has ended exits at once.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from nearfar.download.account import Ended
from nearfar.download.fetch.base import Fetcher
from nearfar.download.model import Ending, Failure, Job, Report, Saved, Underway
from nearfar.net.failures import shortage
from nearfar.net.memory import keep_freed_memory
from nearfar.queues.limits import Claim, Grant

if TYPE_CHECKING:
    from nearfar.download.near_transport import Routes
    from nearfar.download.producer import Destination

ORPHANED = 70
REPORTED_EVERY = 1.0
"""Seconds between two reports for a dashboard."""
TOLD_EVERY = 0.2
"""Seconds between two progress messages."""
ALIVE_EVERY = 2.0
"""Seconds after which one is sent although nothing has changed."""
CHILD_SILENCE = 10.0
"""Seconds of silence after which a process loses its permits for hosts."""
AHEAD = 16
"""Jobs per transfer that a process takes in advance: one query asks the store about many."""
COLLECTED = 20_000
"""Threshold of the garbage collector: the objects of a group of files are freed without it."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C in a terminal reaches every process of a command; only the parent acts on it."""


class ProcessPlan(NamedTuple):
    """The configuration of the processes of one command. It must be picklable: they may be spawned."""

    directory: Path
    make_fetcher: Callable[[], Fetcher]
    overwrite: bool = False
    remote_time: bool = False
    downloaders: int = 1
    """Number of processes that each fetch and save, if there are neither producers nor consumers."""
    producers: int = 0
    """Number of processes that fetch, and send the files over a queue to consumers."""
    consumers: int = 0
    """Number of processes that save what producers send."""
    jobs: int = 16
    """Concurrent transfers of each process that fetches."""
    refresh: bool = False
    """Whether saved files are fetched again if their servers have another version."""
    reports: bool = False
    """Whether each process that fetches reports what is under way (`Report`), for a dashboard."""
    shared: bool = False
    """Whether the processes share their limits per host."""
    prepare: Callable[[], None] | None = None
    """Called first in each process: sets up logging."""


class PipeLimits:
    """A `HostLimits` whose holder is the parent process."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self._pipe = pipe
        self.arrived: deque[Grant] = deque()
        """Grants, from the thread that listens."""

    def session(self) -> int:
        return 1

    def expired(self) -> bool:
        return False  # a process without a parent ends

    def receive(self) -> Sequence[Grant]:
        arrived = self.arrived
        return [arrived.popleft() for _ in range(len(arrived))]

    def claim(self, session: int, claims: Sequence[Claim]) -> None:
        self._pipe.send(("hosts", claims))

    def due(self) -> float:
        return math.inf


class PipeJobs:
    """A producer's `JobSource`, which gets its jobs from the parent process."""

    def __init__(
        self, pipe: Connection[Any, Any], on_stop: Callable[[], None], *, reports: bool = False
    ) -> None:
        self.on_event: Callable[[], None] = lambda: None
        self._pipe = pipe
        self._on_stop = on_stop
        self._jobs: deque[tuple[int, Job]] = deque()
        self._asked = False
        self._over = False
        self._ended: list[tuple[Any, ...]] = []
        self.underway: Callable[[], Underway] = Underway
        self.report: Callable[[], Report] = Report
        self._told = Underway()
        self._due = self._alive_due = 0.0
        self._report_due = 0.0 if reports else inf
        self.limits = PipeLimits(pipe)

    def listen(self) -> None:
        """Read the parent's messages until it sends the end: for a thread of its own."""
        while not self._over:
            try:
                word, jobs = self._pipe.recv()
            except (EOFError, OSError):
                # The parent has ended, or is about to kill this process.
                return
            if word == "hosts":
                self.limits.arrived.extend(jobs)
                self.on_event()
                continue
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
            if underway != self._told or now >= self._alive_due:
                self._told = underway
                self._alive_due = now + ALIVE_EVERY
                self._pipe.send(("underway", underway))
        if now >= self._report_due:
            self._report_due = now + REPORTED_EVERY
            self._pipe.send(("report", self.report()))


def read_ending(saved: bool, *what: Any) -> Ended:
    """Decode what `PipeJobs.end` encoded: flat, since a class costs more to pickle than its content."""
    if len(what) == len(Failure._fields):
        return Ended(Ending.FAILED, Failure._make(what))
    return Ended(Ending.SAVED if saved else Ending.ALREADY, Saved._make(what))


@contextmanager
def _short_words() -> Iterator[None]:
    """Without memory or threads, exit with a one-line message."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if (why := shortage(error)) is None:
            raise
        sys.exit(f"a process of this command ends: {why}")


@_short_words()
def fetch(plan: ProcessPlan, routes: Routes | None, number: int, pipe: Connection[Any, Any]) -> None:
    """The main function of a process that fetches, and saves or, with `routes`, sends files to consumers."""
    _prepare(plan)
    from nearfar.download.producer import Producer

    fetcher = plan.make_fetcher()
    job_source = PipeJobs(pipe, lambda: producer.stop(), reports=plan.reports)
    if plan.shared:
        fetcher.share(job_source.limits)
    with _destination(plan, routes, number) as destination:
        producer = Producer(
            job_source,
            fetcher,
            destination,
            jobs=plan.jobs,
            ahead=AHEAD * plan.jobs,
            refresh=plan.refresh,
        )
        Thread(target=job_source.listen, name="parent", daemon=True).start()
        _collect_seldom()
        producer.run()
    fetcher.close()


@contextmanager
def _destination(plan: ProcessPlan, routes: Routes | None, number: int) -> Iterator[Destination]:
    if routes is None:
        from nearfar.download.local_store import LocalStore
        from nearfar.download.store.store import Store

        with Store(plan.directory, overwrite=plan.overwrite, remote_time=plan.remote_time) as store:
            yield LocalStore(store)
        return
    from nearfar.download.near_transport import NearRequestSender
    from nearfar.download.remote_stores import RemoteStores

    request_sender = NearRequestSender(routes, number)
    yield RemoteStores(request_sender)
    request_sender.close(None)


@_short_words()
def consume(plan: ProcessPlan, routes: Routes, name: str, pipe: Connection[Any, Any]) -> None:
    """The main function of a consumer process."""
    _prepare(plan)
    from nearfar.download.consumer import Consumer
    from nearfar.download.near_transport import NearRequestReceiver
    from nearfar.download.store.store import Store

    request_receiver = NearRequestReceiver(routes, name, pipe)
    with Store(plan.directory, overwrite=plan.overwrite, remote_time=plan.remote_time) as store:
        _collect_seldom()
        Consumer(request_receiver, store).run()
    request_receiver.close(None)


def _collect_seldom() -> None:
    """Freeze the objects that exist before the work: they live to the end, and files create no cycles."""
    gc.freeze()
    gc.set_threshold(COLLECTED)


def _prepare(plan: ProcessPlan) -> None:
    keep_freed_memory()
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    Thread(target=_leave_with_parent, name="orphan", daemon=True).start()
    if plan.prepare is not None:
        plan.prepare()


def _leave_with_parent() -> None:
    """Run in a thread, since the main one may block for ever on an incomplete message of a dead sibling.

    The process watches its parent itself: a forked sibling may hold the other end of multiprocessing's pipe.
    """
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return
    try:
        watched = os.pidfd_open(parent.pid)
        if os.getppid() == parent.pid:
            select.select([watched], [], [])
    except ProcessLookupError:
        pass  # the parent has ended already
    except (AttributeError, OSError):  # no Linux, or an old one
        parent.join()
    os._exit(ORPHANED)
