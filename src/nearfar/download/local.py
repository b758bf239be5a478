"""The producer and consumer processes of one command, on near queues: started, fed, watched, and restarted.

Each process has a pipe to its parent::

    parent -> producer    jobs  [(number, *job)...] | end | stop
    producer -> parent    want  how many            | ended [(number, saved, *what)...] | underway (size, ...)
    parent -> consumer    end

A child whose parent is gone exits at once.

A process killed inside a near queue may leave a lock of that queue taken, and block all others for ever. So
one death ends the whole generation: its processes are killed, queues and processes are made anew, and jobs
without an ending are handed out again. The stores are asked first, so nothing saved is fetched twice.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import multiprocessing
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any

from nearfar.download.account import Ended, InputJobs
from nearfar.download.fetch.base import Fetcher
from nearfar.download.model import Ending, Failure, Job, Saved, Underway
from nearfar.download.near_transport import Arena, NearRequestReceiver, NearRequestSender, Routes
from nearfar.download.store.store import Store
from nearfar.errors import QueueLost
from nearfar.net.failures import shortage
from nearfar.net.memory import keep_freed_memory
from nearfar.queues.near import NearQueue

ORPHANED = 70
TOLD_EVERY = 0.2
"""Seconds between two words of what is on its way, for the progress."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A terminal's Ctrl-C reaches every process of a command; only the parent decides what it means."""


@dataclass(frozen=True, slots=True)
class ProcessPlan:
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


class PipeJobs:
    """A producer's `JobSource` whose other side is the parent process."""

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
    """What `PipeJobs.end` wrote down: flat, as a class costs more to pickle than all that is in it."""
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
def produce(plan: ProcessPlan, routes: Routes, number: int, pipe: Connection[Any, Any]) -> None:
    """The life of a producer process."""
    _prepare(plan)
    # Here and in `consume`: neither process waits for the imports of the other's work, nor does the parent.
    from nearfar.download.producer import Producer

    fetcher = plan.make_fetcher()
    request_sender = NearRequestSender(routes, number)
    job_source = PipeJobs(pipe, lambda: producer.stop())
    producer = Producer(job_source, fetcher, request_sender, jobs=plan.jobs, ahead=16 * plan.jobs)
    Thread(target=job_source.listen, name="parent", daemon=True).start()
    # What there is when the work begins stays to its end: no collection need look at it again.
    gc.freeze()
    producer.run()
    request_sender.close(None)
    fetcher.close()


@_short_words()
def consume(plan: ProcessPlan, routes: Routes, name: str, pipe: Connection[Any, Any]) -> None:
    """The life of a consumer process."""
    _prepare(plan)
    from nearfar.download.consumer import Consumer
    from nearfar.download.store.store import Store

    request_receiver = NearRequestReceiver(routes, name, pipe)
    with Store(plan.directory, overwrite=plan.overwrite) as store:
        gc.freeze()
        Consumer(request_receiver, store).run()
    request_receiver.close(None)


def _prepare(plan: ProcessPlan) -> None:
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


FRUITLESS = 5
"""Generations in a row that may die without one more job ended."""
SMALLEST_SHARE = 8
"""Jobs handed out at a time, at least; more while many wait, so that the last ones are spread evenly."""
PIPE = 1024 * 1024
"""Bytes that a queue's pipe holds: a message of files passes at once, without a switch for each 64 KiB."""
LONGEST_WAIT = 1.0
"""Seconds between two turns when nothing happens, for the progress display."""

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class LocalProcess:
    """A process, and what this end knows of it."""

    process: BaseProcess
    pipe: Connection[Any, Any]
    given: dict[int, Job] = field(default_factory=dict)
    """Jobs it was handed and has not ended."""
    has_capacity: int = 0
    """Jobs it asked for."""
    underway: Underway = field(default_factory=Underway)
    """What has come of them, as it said last."""

    def end(self, ended: Ended) -> None:
        """One of its jobs has an ending, and counts there from now on: not here as well until it says so."""
        if ended.ending is not Ending.ALREADY:
            size, files, waits_for = self.underway
            gone = ended.what.size if isinstance(ended.what, Saved) else 0
            self.underway = Underway(max(0, size - gone), max(0.0, files - 1), waits_for)


class LocalDownload:
    """Runs the processes of one command until every job of `desk`, its `InputJobs`, has ended."""

    def __init__(
        self,
        plan: ProcessPlan,
        job_source: InputJobs,
        clock: Callable[[], float] = time.time,
        *,
        before_spawning: Callable[[], None] = lambda: None,
    ) -> None:
        """`clock`: seconds since the epoch, by which files say when they were saved.

        `before_spawning` is called where processes cannot be forked.
        """
        self._plan = plan
        self._job_source = job_source
        self._started = clock()
        self._context: BaseContext = multiprocessing.get_context("spawn")
        self._before_spawning = before_spawning
        self._producers: list[LocalProcess] = []
        self._consumers: list[LocalProcess] = []
        self._routes: Routes | None = None
        self._again: deque[tuple[int, Job]] = deque()
        self._handed_twice: set[int] = set()
        self._ended = 0
        self._stopping = False
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        job_source.on_event = self.wake
        job_source.underway = self._underway

    def wake(self) -> None:
        """Let `run` look around. From any thread or signal handler."""
        with suppress(OSError):
            self._waker.send(b"\0")

    def stop(self) -> None:
        """Hand out no more; `run` returns when what is in hand has ended. From any thread or handler."""
        self._stopping = True
        self.wake()

    def run(self) -> None:
        """Work to the end, or to `stop`.

        Raises `StoreError` for a directory that cannot be used, and `QueueLost` when generation after
        generation dies without getting anything done.
        """
        fruitless = 0
        try:
            while not self._generation():
                fruitless = 0 if self._ended else fruitless + 1
                if fruitless >= FRUITLESS:
                    raise QueueLost(f"the processes died {fruitless} times without getting anything done")
                log.warning("starting queues and processes anew", extra={"event": "anew"})
        finally:
            self._job_source.on_event = lambda: None
            self._waker.close()
            self._woken.close()

    def _generation(self) -> bool:
        """Start everything and work; False if a process died before the end."""
        self._ended = 0
        try:
            self._start()
            return self._drive() and self._dismiss()
        finally:
            self._end()

    def _start(self) -> None:
        with Store(self._plan.directory) as store:
            store.sweep()
        self._context = multiprocessing.get_context("fork" if _alone() else "spawn")
        if self._context.get_start_method() == "spawn":
            self._before_spawning()
        names = [f"consumer-{number}" for number in range(self._plan.consumers)]
        self._routes = Routes(
            self._queue(),
            {name: self._queue() for name in names},
            [self._queue() for _ in range(self._plan.producers)],
            [Arena() for _ in range(self._plan.producers)],
        )
        for name in names:
            self._consumers.append(self._spawn(consume, name))
        for number in range(self._plan.producers):
            self._producers.append(self._spawn(produce, number))

    def _queue(self) -> NearQueue:
        queue = NearQueue(ctx=self._context)
        # Where the system does not let us, messages pass in smaller pieces.
        with suppress(AttributeError, OSError):
            fcntl.fcntl(queue.fileno(), fcntl.F_SETPIPE_SZ, PIPE)
        return queue

    def _spawn(self, life: Callable[..., None], who: Any) -> LocalProcess:
        ours, theirs = self._context.Pipe()
        arguments = (self._plan, self._routes, who, theirs)
        process: BaseProcess = self._context.Process(target=life, args=arguments, daemon=True)  # type: ignore[attr-defined]
        # What this process does at a signal is not for the child, which says itself what it does.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return LocalProcess(process, ours)

    def _drive(self) -> bool:
        """Feed the producers until each has left at its end; False if a process died."""
        working = list(self._producers)
        told = False
        while working:
            if not told and (self._stopping or self._all_given_back()):
                told = True
                self._tell(working, "stop" if self._stopping else "end")
            elif not self._stopping:
                self._feed()
            self._job_source.turn()
            ready = wait(self._watched(working), LONGEST_WAIT)
            if self._woken in ready:
                self._woken.recv(4096)
            for child in [child for child in working if child.pipe in ready]:
                self._hear(child)
            dead = self._dead(working, ready)
            if not dead:
                continue
            if not told or any(child.process.exitcode or child not in working for child in dead):
                self._mourn(dead)
                return self._stopping
            working = [child for child in working if child not in dead]
        return True

    def _dead(self, working: list[LocalProcess], ready: list[Any]) -> list[LocalProcess]:
        dead = [child for child in (*working, *self._consumers) if child.process.sentinel in ready]
        for child in dead:
            # Its sentinel closes a moment before its exit code can be read.
            child.process.join()
        return dead

    def _all_given_back(self) -> bool:
        return (
            self._job_source.exhausted
            and not self._again
            and not any(child.given for child in self._producers)
        )

    def _watched(self, working: list[LocalProcess]) -> list[Any]:
        pipes = [child.pipe for child in working if not child.pipe.closed]
        sentinels = [child.process.sentinel for child in (*working, *self._consumers)]
        return [self._woken, *pipes, *sentinels]

    def _feed(self) -> None:
        """Give a share to each producer that asked: the less is waiting, the smaller."""
        for child in self._producers:
            if not child.has_capacity:
                continue
            waiting = len(self._again) + self._job_source.waiting()
            share = min(child.has_capacity, max(SMALLEST_SHARE, waiting // (2 * len(self._producers))))
            jobs = [self._again.popleft() for _ in range(min(share, len(self._again)))]
            jobs = jobs or list(self._job_source.take(share))
            if jobs:
                child.has_capacity = 0
                child.given.update(jobs)
                self._say(child, "jobs", [(number, *job) for number, job in jobs])

    def _hear(self, child: LocalProcess) -> None:
        """Read one message of a producer."""
        try:
            word, said = child.pipe.recv()
        except (EOFError, OSError):
            child.pipe.close()
            return
        if word == "want":
            child.has_capacity = said
            return
        if word == "underway":
            child.underway = Underway._make(said)
            return
        for number, *ending in said:
            del child.given[number]
            self._ended += 1
            ended = read_ending(*ending)
            child.end(ended)
            self._job_source.end(number, self._in_this_run(number, ended))

    def _underway(self) -> Underway:
        told = [child.underway for child in self._producers]
        waits_for = max((each.waits_for for each in told), default="")  # a host before a consumer
        return Underway(sum(each.size for each in told), sum(each.files for each in told), waits_for)

    def _in_this_run(self, number: int, ended: Ended) -> Ended:
        """A file may have been saved by a generation that died before it could say so."""
        if (
            number in self._handed_twice
            and isinstance(ended.what, Saved)
            and ended.what.time >= self._started
        ):
            return Ended(Ending.SAVED, ended.what)
        return ended

    def _tell(self, children: list[LocalProcess], word: str) -> None:
        for child in children:
            self._say(child, word, [])

    def _say(self, child: LocalProcess, word: str, jobs: list[tuple[Any, ...]]) -> None:
        # A dead child does not listen; its sentinel says so in the next turn.
        with suppress(OSError):
            child.pipe.send((word, jobs))

    def _mourn(self, dead: list[LocalProcess]) -> None:
        for child in dead:
            code = child.process.exitcode or 0
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            role = "consumer" if child in self._consumers else "producer"
            log.warning("lost a %s process (%s, %s)", role, child.process.pid, how, extra={"event": "lost"})

    def _dismiss(self) -> bool:
        """Let the consumers go: every producer has left, so nothing waits for them."""
        self._tell(self._consumers, "end")
        for child in self._consumers:
            child.process.join()
        return True

    def _end(self) -> None:
        """Kill what is still there; read what the producers had said; take back what they had in hand."""
        children = (*self._producers, *self._consumers)
        for child in children:
            child.process.kill()
        for child in children:
            child.process.join()
            while not child.pipe.closed and child.pipe.poll():
                self._hear(child)
            self._again.extend(child.given.items())
            self._handed_twice.update(child.given)
            child.pipe.close()
            child.process.close()
        if self._routes is not None:
            self._routes.close()
        self._producers, self._consumers, self._routes = [], [], None


def _alone() -> bool:
    """True if this process has one thread, and so may be forked: a lock that another one held would stay so.

    A fork saves the start of an interpreter and its imports, a fifth of a second for each process.
    """
    threads = Path("/proc/self/task")
    return threads.is_dir() and sum(1 for _ in threads.iterdir()) == 1
