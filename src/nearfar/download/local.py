"""The processes of one command that downloads and saves: starts, feeds, watches, and replaces them.

Without chosen numbers, each process fetches and saves its own share (`local_store`). If one dies, its
unfinished jobs are handed out again, and another process takes its place.

With ``-P`` and ``-C``, producers fetch and consumers save, with near queues between them. A process killed
inside such a queue may leave a lock of it taken, and block all others for ever. So one death ends the whole
generation: its processes are killed, queues and processes are created anew, and jobs without an ending are
handed out again.

The limits per host are those of all processes together: this process grants each its share
(`nearfar.queues.limits`).

In both cases the store is queried first, so nothing saved is fetched twice. `local_process` has the code of
the processes.
"""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar.download.account import InputJobs
from nearfar.download.local_process import (
    CHILD_SILENCE,
    SIGNALS,
    ProcessPlan,
    consume,
    fetch,
    read_ending,
)
from nearfar.download.model import Ending, Job, Report, Saved, Underway
from nearfar.download.store.store import Store
from nearfar.download.watched import LONGEST_WAIT, merged
from nearfar.errors import QueueLost
from nearfar.queues.limits import SharedLimits

if TYPE_CHECKING:
    from nearfar.download.near_transport import Routes
    from nearfar.queues.near import NearQueue

FRUITLESS = 5
"""Consecutive deaths without a job ended in between, after which the work is given up."""
SMALLEST_SHARE = 8
"""Lowest number of jobs handed out at a time; more if many wait, so that the last ones are spread evenly."""
PIPE = 1024 * 1024
"""Bytes of a queue's pipe: a message of files passes at once, without a context switch for each 64 KiB."""

log = logging.getLogger(__name__)


class LocalProcess:
    """A child process, and the parent's state about it."""

    def __init__(self, process: BaseProcess, pipe: Connection[Any, Any]) -> None:
        self.process = process
        self.pipe = pipe
        self.given: dict[int, Job] = {}
        """Jobs that it was given and has not ended."""
        self.has_capacity = 0
        """Jobs that it requested."""
        self.underway = Underway()
        """Their progress, by its last message."""
        self.name = str(process.pid)
        self.heard = time.monotonic()
        self.silent = False
        """It has lost its permits, because it was not heard for its lease."""
        self.report = Report()


class LocalDownload:
    """Runs the processes of one command until every job of its `InputJobs` has ended."""

    def __init__(
        self,
        plan: ProcessPlan,
        job_source: InputJobs,
        *,
        before_spawning: Callable[[], None] = lambda: None,
    ) -> None:
        """`before_spawning` is called if processes cannot be forked."""
        self._plan = plan
        self._job_source = job_source
        self._context: BaseContext = multiprocessing.get_context("spawn")
        self._before_spawning = before_spawning
        self._producers: list[LocalProcess] = []
        self._consumers: list[LocalProcess] = []
        self._routes: Routes | None = None
        self._fruitless = 0
        """Deaths since a job has ended, or a process got further in its files than any before."""
        self._furthest = 0
        self._stopping = False
        self._limits = SharedLimits()
        """The limits per host of all processes."""
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        job_source.on_event = self.wake
        job_source.underway = self._underway
        job_source.report = lambda: merged(child.report for child in self._producers)

    def wake(self) -> None:
        """Make `run` check its state now. From any thread or signal handler."""
        with suppress(OSError):
            self._waker.send(b"\0")

    def stop(self) -> None:
        """Hand out no more; `run` returns when all jobs in work have ended. From any thread or handler."""
        self._stopping = True
        self.wake()

    def run(self) -> None:
        """Work to the end, or to `stop`.

        Raises `StoreError` for a directory that cannot be used, and `QueueLost` if one process after the
        other dies without ending a job.
        """
        try:
            while not self._generation():
                self._count_death()
                log.warning("starting queues and processes anew", extra={"event": "anew"})
        finally:
            self._job_source.on_event = lambda: None
            self._waker.close()
            self._woken.close()

    def _generation(self) -> bool:
        """Start all processes and work; False if a process died before the end."""
        try:
            self._start()
            return self._drive() and self._dismiss()
        finally:
            self._end()

    def _start(self) -> None:
        self._sweep()
        self._choose_context()
        if not self._plan.producers:
            for number in range(self._plan.downloaders):
                self._producers.append(self._spawn(fetch, number))
            return
        from nearfar.download.near_transport import Arena, Routes

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
            self._producers.append(self._spawn(fetch, number))

    def _sweep(self) -> None:
        """Determine what killed processes have saved, and remove their temporaries."""
        with Store(self._plan.directory) as store:
            store.sweep()

    def _choose_context(self) -> None:
        self._context = multiprocessing.get_context("fork" if _alone() else "spawn")
        if self._context.get_start_method() == "spawn":
            self._before_spawning()
        elif not self._plan.producers:
            # Load what all of them need once, before the fork.
            import nearfar.download.fetch.curl
            import nearfar.download.local_store
            import nearfar.download.producer  # noqa: F401

    def _queue(self) -> NearQueue:
        from nearfar.queues.near import NearQueue

        queue = NearQueue(ctx=self._context)
        # If the system refuses the size, messages pass in smaller pieces.
        with suppress(AttributeError, OSError):
            fcntl.fcntl(queue.fileno(), fcntl.F_SETPIPE_SZ, PIPE)
        return queue

    def _spawn(self, life: Callable[..., None], who: Any) -> LocalProcess:
        ours, theirs = self._context.Pipe()
        arguments = (self._plan, self._routes, who, theirs)
        process: BaseProcess = self._context.Process(target=life, args=arguments, daemon=True)  # type: ignore[attr-defined]
        # The child must not inherit this process's signal handlers; it installs its own.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return LocalProcess(process, ours)

    def _drive(self) -> bool:
        """Feed the fetching processes until each has ended; False if all must start anew."""
        working = list(self._producers)
        told = False
        while working:
            if not told and (self._stopping or self._all_given_back()):
                told = True
                self._tell(working, "stop" if self._stopping else "end")
            elif not self._stopping:
                self._feed()
            self._job_source.turn()
            self._grant()
            ready = wait(self._watched(working), self._patience())
            if self._woken in ready:
                self._woken.recv(4096)
            for child in [child for child in working if child.pipe in ready]:
                self._hear(child)
            dead = self._dead(working, ready)
            if not dead:
                continue
            if not told or any(child.process.exitcode or child not in working for child in dead):
                self._mourn(dead)
                if self._routes is not None:
                    return self._stopping
                self._replace(dead, start=not told)
                working += [child for child in self._producers if child not in working]
            working = [child for child in working if child not in dead]
        return True

    def _grant(self) -> None:
        """Send the processes what they may have of their hosts; take back what a silent one has."""
        now = time.monotonic()
        for child in self._producers:
            if now - child.heard >= CHILD_SILENCE and not child.silent:
                child.silent = True
                self._limits.revoke(child.name)
        if self._limits.due <= now:
            by_name = {child.name: child for child in self._producers}
            for name, grants in self._limits.flush(now):
                self._say(by_name[name], "hosts", grants)

    def _patience(self) -> float:
        return max(0.0, min(LONGEST_WAIT, self._limits.due - time.monotonic()))

    def _replace(self, dead: list[LocalProcess], *, start: bool) -> None:
        """Take back the jobs of processes that died; `start` others in their place."""
        for child in dead:
            self._retire(child)
            self._producers.remove(child)
        self._sweep()
        if start:
            self._count_death()
            self._choose_context()
            for number, _ in enumerate(dead):
                self._producers.append(self._spawn(fetch, number))

    def _count_death(self) -> None:
        self._fruitless += 1
        if self._fruitless >= FRUITLESS:
            raise QueueLost(f"the processes died {self._fruitless} times without getting anything done")

    def _dead(self, working: list[LocalProcess], ready: list[Any]) -> list[LocalProcess]:
        dead = [child for child in (*working, *self._consumers) if child.process.sentinel in ready]
        for child in dead:
            # Its sentinel closes a moment before its exit code can be read.
            child.process.join()
        return dead

    def _all_given_back(self) -> bool:
        return self._job_source.exhausted and not any(child.given for child in self._producers)

    def _watched(self, working: list[LocalProcess]) -> list[Any]:
        pipes = [child.pipe for child in working if not child.pipe.closed]
        sentinels = [child.process.sentinel for child in (*working, *self._consumers)]
        return [self._woken, *pipes, *sentinels]

    def _feed(self) -> None:
        """Give a share to each process that requested jobs: the fewer jobs wait, the smaller."""
        for child in self._producers:
            if not child.has_capacity:
                continue
            waiting = self._job_source.waiting()
            share = min(child.has_capacity, max(SMALLEST_SHARE, waiting // (2 * len(self._producers))))
            if jobs := self._job_source.take(share):
                child.has_capacity = 0
                child.given.update(jobs)
                self._say(child, "jobs", [(number, *job) for number, job in jobs])

    def _hear(self, child: LocalProcess) -> None:
        """Read one message of a fetching process."""
        try:
            word, said = child.pipe.recv()
        except (EOFError, OSError):
            child.pipe.close()
            return
        now = child.heard = time.monotonic()
        if word == "hosts" or child.silent:
            child.silent = False
            self._limits.claim(child.name, said if word == "hosts" else (), now)
        match word:
            case "want":
                child.has_capacity = said
            case "ended":
                self._fruitless = 0
                self._count(child, said)
            case "underway":
                child.underway = said
                if said.size > self._furthest:
                    self._furthest = said.size
                    self._fruitless = 0
            case "report":
                child.report = said

    def _count(self, child: LocalProcess, endings: Sequence[tuple[Any, ...]]) -> None:
        size, files, waits_for, large = child.underway
        for number, *ending in endings:
            ended = read_ending(*ending)
            del child.given[number]
            self._job_source.end(number, ended)
            if ended.ending is not Ending.ALREADY:  # the last `underway` of the process includes it
                files -= 1
                size -= ended.what.size if isinstance(ended.what, Saved) else 0
        child.underway = Underway(max(0, size), max(0.0, files), waits_for, large)

    def _underway(self) -> Underway:
        told = [child.underway for child in self._producers]
        waits_for = max((each.waits_for for each in told), default="")  # a host before a consumer
        size, files = sum(each.size for each in told), sum(each.files for each in told)
        return Underway(size, files, waits_for, tuple(file for each in told for file in each.large))

    def _tell(self, children: list[LocalProcess], word: str) -> None:
        for child in children:
            self._say(child, word)

    def _say(self, child: LocalProcess, word: str, jobs: Sequence[tuple[Any, ...]] = ()) -> None:
        # A dead child does not read; the next iteration sees its sentinel.
        with suppress(OSError):
            child.pipe.send((word, jobs))

    def _mourn(self, dead: list[LocalProcess]) -> None:
        for child in dead:
            code = child.process.exitcode or 0
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            role, pid = self._role(child), child.process.pid
            fields = {"worker": pid, "role": role, "reason": how}
            log.warning(
                "lost a %s process (%d, %s)", role, pid, how, extra={"event": "lost", "fields": fields}
            )

    def _dismiss(self) -> bool:
        """End the consumers: every producer has ended, so none waits for them."""
        self._tell(self._consumers, "end")
        for child in self._consumers:
            child.process.join()
        return True

    def _role(self, child: LocalProcess) -> str:
        if child in self._consumers:
            return "consumer"
        return "producer" if self._consumers else "download"

    def _end(self) -> None:
        """Kill the remaining processes; read their last messages; take back their unfinished jobs."""
        children = (*self._producers, *self._consumers)
        for child in children:
            child.process.kill()
        for child in children:
            self._retire(child)
        if self._routes is not None:
            self._routes.close()
        self._producers, self._consumers, self._routes = [], [], None

    def _retire(self, child: LocalProcess) -> None:
        """Read the last messages of an ended process, and take back its unfinished jobs."""
        child.process.join()
        while not child.pipe.closed and child.pipe.poll():
            self._hear(child)
        self._job_source.give_back(child.given.items())
        self._limits.leave(child.name)
        child.pipe.close()
        child.process.close()


def _alone() -> bool:
    """True if this process has one thread, and so can be forked: a lock held by another thread would stay
    held.

    A fork saves the start of an interpreter and its imports, a fifth of a second per process.
    """
    threads = Path("/proc/self/task")
    return threads.is_dir() and sum(1 for _ in threads.iterdir()) == 1
