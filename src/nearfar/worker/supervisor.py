"""The worker processes of one parent: started, watched, replaced."""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import select
import socket
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from multiprocessing import process as processes
from multiprocessing.context import BaseContext
from time import monotonic
from typing import Any, Protocol

from nearfar.net import process
from nearfar.net.validation import shown
from nearfar.worker.channel import Buffer, TaskRow
from nearfar.worker.handle import Answer, Answers, WorkerHandle
from nearfar.worker.lifetime import Inherited, Surroundings
from nearfar.worker.main import WorkerConfig

__all__ = ["Supervisor", "WorkerListener"]


class PollSet:
    """Descriptors and their handlers. Only `poll` waits. For one thread at a time."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self._handlers: dict[int, Callable[[], object]] = {}
        self._fresh: set[int] = set()
        """Descriptors watched since `dispatch` began: an event may belong to an earlier one of that
        number."""

    def watch(self, descriptor: int, handler: Callable[[], object]) -> None:
        """Have `dispatch` call `handler` whenever `descriptor` is readable. Raises `OSError`."""
        self.epoll.register(descriptor, select.EPOLLIN)
        self._handlers[descriptor] = handler
        self._fresh.add(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Call it before a close: a child may still have the descriptor. Ignored if it is not watched."""
        if self._handlers.pop(descriptor, None) is not None:
            with contextlib.suppress(OSError):
                self.epoll.unregister(descriptor)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait up to `timeout` seconds for events, for `dispatch`."""
        return self.epoll.poll(timeout)

    def dispatch(self, events: Sequence[tuple[int, int]]) -> None:
        """Call the handlers of the events."""
        self._fresh.clear()
        for descriptor, _ in events:
            handler = self._handlers.get(descriptor)
            if handler is not None and descriptor not in self._fresh:
                handler()

    def close(self) -> None:
        """Watch nothing any more."""
        self.epoll.close()


class WorkerListener(Protocol):
    """Receives a supervisor's events. Every answer of a worker is reported before its death."""

    def came(self, name: str, pid: int) -> None:
        """A worker is ready."""

    def answered(self, name: str, answers: Sequence[Answer], spent: float) -> None:
        """A worker has run its next tasks, in `spent` seconds together."""

    def returned(self, name: str, batches: int) -> None:
        """The result of `Supervisor.recall`: the last `batches` sent to the worker (0: it had read them
        all)."""

    def died(self, name: str, how: str, unread: int) -> None:
        """A worker has died after `came`. It never read the last `unread` batches that were sent to it."""

    def left(self, name: str) -> None:
        """A worker that was retired has ended."""

    def hopeless(self, reason: str) -> None:
        """Processes repeatedly died at their start: no more are started."""


MOST_STILLBORN = 3
"""Times the number of workers: after so many consecutive deaths before READY, no more are started."""
TRY_EVERY = 0.1
"""Seconds between two attempts to start a process if the system lacks resources."""
MOST_TRIES = 50
"""Consecutive failed attempts without any worker left, after which no more are made."""
RECALL_EVERY = 0.001
"""Seconds between two attempts to recall batches of a worker that is about to begin."""
LOOK_EVERY = 0.005
"""Seconds between two checks for unsent answers."""

log = logging.getLogger(__name__)


class Supervisor(PollSet):
    """Up to `count` processes. Not for several threads at once; only `close` blocks."""

    def __init__(
        self,
        listener: WorkerListener,
        count: int,
        *,
        context: BaseContext | None = None,
        quota: int | None = None,
        main_of: str | None = None,
        far: bool = True,
        daemon: bool = True,
        inherited: Inherited | None = None,
        plain: tuple[str, ...] | None = None,
    ) -> None:
        """`quota`: tasks after which a worker is replaced. `plain`: as in `WorkerConfig`.

        `main_of`: the client whose `__main__` these processes have, because they are its children. `far`: as
        given to the clients' pickler. Daemonic processes cannot have children of their own.
        """
        super().__init__()
        self.members: dict[str, WorkerHandle] = {}
        self.quota = quota
        self._listener = listener
        self._count = count
        self.label = ""
        """The prefix of a worker's name in `current_worker`."""
        self._context = context or multiprocessing.get_context()
        self._main_of = main_of
        self._far = far
        self._daemon = daemon
        self._inherited = inherited
        self._plain = plain
        self._surroundings = Surroundings() if self._context.get_start_method() == "fork" else None
        self._host = socket.gethostname()
        self._serial = itertools.count()
        self._stillborn = 0
        self._hopeless = False
        self._closed = False
        self._starting: WorkerHandle | None = None
        self._batched: dict[str, WorkerHandle] = {}
        """Workers that may have unsent answers."""
        self._recalled: dict[str, WorkerHandle] = {}
        """Dead workers whose unread batches are not known yet."""
        self._next_recall = 0.0
        self._next_look = 0.0
        self._next_try = inf
        self._tries = 0
        process.watch(self)

    # -- the processes -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the missing processes. Raises `OSError` if none can be started."""
        taken = {member.worker_config.slot for member in self.members.values() if not member.retiring}
        for slot in range(self._count):
            if slot not in taken and not self._hopeless:
                self._start(slot)

    def pids(self) -> dict[str, int]:
        """The live processes by name."""
        return {member.name: member.pid for member in self.members.values()}

    def resize(self, count: int) -> None:
        """Keep `count` processes from now on; the caller must retire the surplus."""
        self._count = count

    def _start(self, slot: int) -> None:
        name = f"{slot}.{next(self._serial)}"
        worker_config = WorkerConfig(
            slot,
            self.label + name,
            self._host,
            self._main_of,
            self._far,
            self._inherited,
            self._surroundings,
            self._plain,
        )
        member = WorkerHandle(name, self._context, worker_config, daemon=self._daemon)
        self.members[member.name] = member
        self._starting = member
        try:
            member.start()
            self.watch(member.end.fileno(), partial(self._read, member))
            self.watch(member.pidfd, partial(self._remove, member))
        except BaseException:
            del self.members[member.name]
            self._unwatch(member)
            member.abort()
            raise
        finally:
            self._starting = None
        log.debug("worker %s started, pid %d", member.name, member.pid)

    def forget_parent(self) -> None:
        """In a forked child: close the parent's descriptors, or its workers would not notice its end."""
        self._closed = True
        self.epoll.close()
        for member in self.members.values():
            # or multiprocessing would end the parent's workers when this child ends
            processes._children.discard(member.process)  # type: ignore[attr-defined]
            member.let_go(keep_theirs=member is self._starting)
        process.keep(*self.members.values())
        self.members = {}

    # -- orders ------------------------------------------------------------------------------------

    def give(self, name: str, client: str, rows: Sequence[TaskRow]) -> None:
        """Send a batch. Raises `ValueError` unless all rows have one function and mode, and the errors of
        `WorkerHandle.give`."""
        function, mode, *_ = rows[0]
        if any(row.function != function or row.mode != mode for row in rows):
            raise ValueError("a batch is of one function and mode")
        blobs, beside = [row.blob for row in rows], [row.buffers for row in rows]
        self.give_tasks(name, client, function, mode, blobs, beside)

    def give_tasks(
        self,
        name: str,
        client: str,
        function: bytes,
        mode: int,
        blobs: Sequence[Any],
        beside: Sequence[Sequence[Buffer]],
    ) -> None:
        """As `give`, by blobs and buffers: `beside` has the buffers of each task."""
        member = self.members[name]
        member.give(client, function, mode, blobs, beside)
        if len(blobs) > 1:
            self._batched[name] = member

    def recall(self, name: str) -> None:
        """Recall the batches that it has not read: `WorkerListener.returned` or `died` follows."""
        if name in self.members and not self._take_back(self.members[name]):
            self._recalled[name] = self.members[name]
            self._next_recall = 0.0

    def _take_back(self, member: WorkerHandle) -> bool:
        count = member.recall()
        if count is None:
            return False
        self._listener.returned(member.name, count)
        return True

    def kill(self, name: str) -> None:
        """Kill it; `WorkerListener.died` follows."""
        if name in self.members:
            self.members[name].kill()

    def signal(self, signum: int) -> None:
        """Send `signum` to each process, unless it was sent before; `WorkerListener.died` follows."""
        for member in self.members.values():
            member.signal(signum)

    def retire(self, name: str) -> None:
        """Let an idle worker end, and replace it at once. `WorkerListener.left` follows."""
        if name in self.members:
            self.members[name].retire()
            self._start_again()

    # -- events ------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `tick` must be called next; `inf`: not for now."""
        due = self._next_try
        if self._batched and self._next_look < due:
            due = self._next_look
        if self._recalled and self._next_recall < due:
            due = self._next_recall
        return due

    def tick(self, now: float) -> None:
        """Check for unsent answers; try again to start processes that could not be started."""
        if now >= self._next_try:
            self._start_again()
        if self._recalled and now >= self._next_recall:
            self._next_recall = now + RECALL_EVERY
            for member in list(self._recalled.values()):
                if self._take_back(member):
                    self._recalled.pop(member.name, None)
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY
            for member in list(self._batched.values()):
                if not member.gathering:
                    del self._batched[member.name]
                else:
                    self._look(member)

    def _read(self, member: WorkerHandle) -> None:
        try:
            found = member.receive()
        except BlockingIOError:
            return
        except (EOFError, ConnectionResetError):
            self.unwatch(member.end.fileno())  # its process is ending; `_remove` follows
            return
        except Exception as error:
            self._condemn(member, error)
            return
        if found is not None:
            if found.answers:
                self._listener.answered(member.name, found.answers, found.spent)
        else:
            self._stillborn = 0
            if not member.retiring:  # a signal may end it at once
                self._listener.came(member.name, member.pid)

    def _look(self, member: WorkerHandle) -> None:
        try:
            found = member.look()
        except Exception as error:
            self._condemn(member, error)
            return
        if found is not None:
            self._tell(member, found)

    def _condemn(self, member: WorkerHandle, error: Exception) -> None:
        """Kill a worker whose message cannot be read or stored; its running task is lost."""
        why = shown(repr(error))
        log.warning(
            "worker %s is killed, because its message cannot be read: %s",
            member.name,
            why,
            extra={"event": "worker", "fields": {"worker": member.name, "reason": why}},
        )
        member.fault = f"sent an unreadable message ({why})"
        self.unwatch(member.end.fileno())
        member.kill()

    def _tell(self, member: WorkerHandle, found: Answers) -> None:
        if found.answers:
            self._listener.answered(member.name, found.answers, found.spent)

    def _unwatch(self, member: WorkerHandle) -> None:
        self.unwatch(member.pidfd)
        self.unwatch(member.end.fileno())

    def _remove(self, member: WorkerHandle) -> None:
        """Remove a worker whose process has ended."""
        self._unwatch(member)
        self._batched.pop(member.name, None)
        came = member.ready
        for words in member.last_words():
            self._tell(member, words)
        unread = member.inherit()
        how = member.reap()
        del self.members[member.name]
        self._recalled.pop(member.name, None)
        member.close()
        if member.retiring:
            self._listener.left(member.name)
        elif came or member.ready:
            log.debug("worker %s %s", member.name, how)
            self._listener.died(member.name, how, unread)
        else:
            self._count_stillborn(how)
        self._start_again()

    def _count_stillborn(self, how: str) -> None:
        self._stillborn += 1
        if self._stillborn >= MOST_STILLBORN * max(1, self._count) and not self._hopeless:
            self._hopeless = True
            reason = f"{self._stillborn} workers in a row ended at their start; the last one {how}"
            self._listener.hopeless(reason)

    def _start_again(self) -> None:
        self._next_try = inf
        try:
            if not self._closed:
                self.start()
            self._tries = 0
        except OSError as error:
            self._try_later(error)

    def _try_later(self, error: OSError) -> None:
        """Try again later; if no worker is left, only `MOST_TRIES` times."""
        if not self._tries:
            log.warning("a worker cannot be started now: %s", error)
        self._tries = 1 if self.members else self._tries + 1
        if self._tries < MOST_TRIES:
            self._next_try = monotonic() + TRY_EVERY
        else:
            self._hopeless = True
            self._listener.hopeless(f"no worker can be started: {error}")

    # -- the end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Kill the remaining processes, wait for their ends, close everything. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for member in self.members.values():
            if not member.retiring:
                member.kill()
        for member in self.members.values():
            if member.retiring:
                member.ends_within(1.0)
                member.kill()
            member.reap()
            member.close()
        self.members.clear()
        super().close()
