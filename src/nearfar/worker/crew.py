"""The worker processes of one parent: started, watched, replaced; each on its private line."""

from __future__ import annotations

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
from typing import Protocol

from nearfar.net import forks
from nearfar.worker.inherited import Inherited
from nearfar.worker.member import Answer, Answers, Member
from nearfar.worker.messages import Payload, Row
from nearfar.worker.run import Birth

MOST_STILLBORN = 3
"""Times the number of workers: so many deaths in a row before one was ready, and no more are started."""
TRY_EVERY = 0.1
"""Seconds between two tries to start a process where the system has no room for one."""
MOST_TRIES = 50
"""So many tries in a row without any worker left, and no more are made."""
LOOK_EVERY = 0.005
"""Seconds between two looks at answers that wait for company."""

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who hears of a crew. Every answer that a worker gave is told before its death."""

    def came(self, name: str, pid: int) -> None:
        """A worker is ready."""

    def answered(self, name: str, answers: Sequence[Answer], spent: float) -> None:
        """The next of the tasks that a worker was given ran, in `spent` seconds together."""

    def died(self, name: str, how: str, unread: int) -> None:
        """A worker that came is gone. It never read the last `unread` batches that it was given."""

    def left(self, name: str) -> None:
        """A worker that was retired has ended."""

    def hopeless(self, reason: str) -> None:
        """Processes die at their start again and again: no more are started."""


class Crew:
    """Up to `count` processes. Not for several threads at once; nothing here blocks but `close`."""

    def __init__(
        self,
        listener: Listener,
        count: int,
        *,
        context: BaseContext | None = None,
        quota: int | None = None,
        main_of: str | None = None,
        far: bool = True,
        daemon: bool = True,
        inherited: Inherited | None = None,
    ) -> None:
        """`quota`: tasks after which a worker is to be replaced.

        `main_of`: the client whose `__main__` these processes have, because they are its children. `far`:
        what the pickler of their clients was told. Daemonic processes may have no children of their own.
        """
        self.members: dict[str, Member] = {}
        self.quota = quota
        self._listener = listener
        self._count = count
        self.label = ""
        """What stands before the name by which a worker knows itself."""
        self._context = context or multiprocessing.get_context()
        self._main_of = main_of
        self._far = far
        self._daemon = daemon
        self._inherited = inherited
        self._host = socket.gethostname()
        self._serial = itertools.count()
        self._stillborn = 0
        self._hopeless = False
        self._closed = False
        self._starting: Member | None = None
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._next_look = 0.0
        self._next_try = inf
        self._tries = 0
        forks.watch(self)

    # -- the processes -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the processes that are missing. Raises `OSError` where none can be started."""
        taken = {member.birth.slot for member in self.members.values() if not member.retiring}
        for slot in range(self._count):
            if slot not in taken and not self._hopeless:
                self._start(slot)

    def resize(self, count: int) -> None:
        """Have `count` processes from now on; those above are for the caller to retire."""
        self._count = count

    def _start(self, slot: int) -> None:
        name = f"{slot}.{next(self._serial)}"
        birth = Birth(slot, self.label + name, self._host, self._main_of, self._far, self._inherited)
        member = Member(name, self._context, birth, daemon=self._daemon)
        self.members[member.name] = member
        self._starting = member
        try:
            member.start()
        except BaseException:
            del self.members[member.name]
            member.let_go()
            raise
        finally:
            self._starting = None
        log.debug("worker %s started, pid %d", member.name, member.pid)
        self.watch(member.end.fileno(), partial(self._read, member))
        self.watch(member.pidfd, partial(self._bury, member))

    def forget_parent(self) -> None:
        """In a forked child: close what is the parent's, or its workers would not notice its end."""
        self._closed = True
        self._poll.close()
        for member in self.members.values():
            # or multiprocessing would end the parent's workers when this child ends
            processes._children.discard(member.process)  # type: ignore[attr-defined]
            member.let_go(keep_theirs=member is self._starting)
        forks.keep(*self.members.values())
        self.members = {}

    # -- what they are told ------------------------------------------------------------------------

    def give(self, name: str, client: str, rows: Sequence[Row]) -> None:
        """One batch. Raises `ValueError` unless all have one function and mode, and as `Member.give` does."""
        function, mode, *_ = rows[0]
        if any(row.function != function or row.mode != mode for row in rows):
            raise ValueError("a batch is of one function and mode")
        self.members[name].give(client, function, mode, rows)

    def give_tasks(
        self, name: str, client: str, function: bytes, mode: int, tasks: Sequence[Payload]
    ) -> None:
        """The same, of anything that has a blob and buffers."""
        self.members[name].give(client, function, mode, tasks)

    def recall(self, name: str) -> int:
        """How many batches, the last ones, it had not read; it will not."""
        member = self.members.get(name)
        return member.recall() if member is not None else 0

    def kill(self, name: str) -> None:
        """End it at once; `Listener.died` follows."""
        if name in self.members:
            self.members[name].kill()

    def retire(self, name: str) -> None:
        """Let an idle one end; its place is taken at once. `Listener.left` follows."""
        if name in self.members:
            self.members[name].retire()
            self._start_again()

    # -- what they say -----------------------------------------------------------------------------

    def fileno(self) -> int:
        """A descriptor that is readable when `turn` has something to do."""
        return self._poll.fileno()

    def watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        """Have `turn` call `handler` whenever `descriptor` is readable."""
        self._poll.register(descriptor, select.EPOLLIN)
        self._handlers[descriptor] = handler

    def unwatch(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait up to `timeout` seconds for something to do, for `dispatch`. The only method that waits."""
        return self._poll.poll(timeout)

    def dispatch(self, events: list[tuple[int, int]]) -> None:
        """Do what `poll` found."""
        for descriptor, _ in events:
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler()

    def turn(self) -> None:
        """Read what came, see who died, start who is missing."""
        self.dispatch(self._poll.poll(0))

    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        deadline = min([self._next_try, *(self._next_look for m in self.members.values() if m.gathering)])
        return None if deadline == inf else deadline

    def tick(self, now: float) -> None:
        """Look for answers that wait for company; try again to start what could not be started."""
        if now >= self._next_try:
            self._start_again()
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY
            for member in list(self.members.values()):
                found = member.look() if member.gathering else None
                if found is not None:
                    self._tell(member, found)

    def _read(self, member: Member) -> None:
        try:
            found = member.receive()
        except BlockingIOError:
            return
        except (EOFError, ConnectionResetError):
            self.unwatch(member.end.fileno())  # its process is ending: `_bury` follows
            return
        if found is not None:
            self._tell(member, found)
        else:
            self._stillborn = 0
            self._listener.came(member.name, member.pid)

    def _tell(self, member: Member, found: Answers) -> None:
        if found.answers:
            self._listener.answered(member.name, found.answers, found.spent)

    def _bury(self, member: Member) -> None:
        """A process has ended."""
        self.unwatch(member.pidfd)
        self.unwatch(member.end.fileno())
        came = member.ready
        for words in member.last_words():
            self._tell(member, words)
        unread = member.inherit()
        how = member.reap()
        del self.members[member.name]
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
        """The system may have room again: wait for it, not too long if no worker is left."""
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
        """Kill what is left, wait for the ends, close everything. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for member in self.members.values():
            if not member.retiring:
                member.kill()
        for member in self.members.values():
            if member.retiring:
                member.process.join(1.0)
                member.kill()
            member.reap()
            member.close()
        self.members.clear()
        self._poll.close()
