"""One client elsewhere: its tasks, by their numbers, and what it has not been told. Pure."""

from __future__ import annotations

from typing import Any

from nearfar.coordinator import failures
from nearfar.coordinator.clients import Client
from nearfar.coordinator.desk import Session
from nearfar.coordinator.failures import Unread
from nearfar.coordinator.parts import LARGE, Row
from nearfar.coordinator.tasks import Outcome, State, Task
from nearfar.coordinator.wire import Kind
from nearfar.errors import ProtocolError

MOST_TASKS = 1 << 20
"""Tasks of one client without an outcome, and outcomes that it has not asked for: far more than one sends."""
UNKNOWN = b"(not told yet)"
"""The function of a task that an agent brought along."""


class RemoteTask(Task):
    """A task of a client elsewhere."""

    __slots__ = ("filled", "guest", "hollow", "losses", "number", "origin", "retries", "session", "timeout")

    def __init__(self, guest: Guest, number: int) -> None:
        """Empty until `fill`, and hollow until it may be given to any worker."""
        self.guest = guest
        self.number = number
        self.client = guest.name
        self.session: Session | None = None
        """Where it was submitted last: its outcome is told in no other."""
        self.origin = ""
        """The session of the agent that answered it, and keeps the answer until it is released."""
        self.state = State.NEW
        self.losses = 0
        self.hollow = True
        self.filled = False
        self.mode, self.function, self.blob, self.buffers = 0, UNKNOWN, b"", ()
        self.timeout, self.retries = None, 0

    def fill(self, row: Row) -> None:
        """What it carries, from a row of SUBMIT."""
        _, self.mode, self.function, self.blob, self.buffers, self.timeout, self.retries = row
        self.filled = True

    def lose(self) -> None:
        self.losses += 1

    def answered(self, status: int, blob: Any, buffers: Any) -> None:
        self.guest.settle(self, (self.number, status, blob, list(buffers)))

    def failed(self, error: BaseException) -> None:
        self.guest.settle(self, (self.number, Outcome.FAILED, failures.describe(error), []))


class Lists:
    """Those among all clients, by name, whom a turn or a tick has to look at: they may be few of many."""

    def __init__(self) -> None:
        self.telling: dict[str, Guest] = {}
        """Who may have something to be told."""
        self.expected: dict[str, Guest] = {}
        """Of whom something may change as time passes."""


class Guest:
    """One client, here or away."""

    def __init__(self, name: str, now: float, lists: Lists) -> None:
        """It enters itself in the `lists`."""
        self.name = name
        self._lists = lists
        self.client = Client(name, read_error=Unread)
        self.session: Session | None = None
        self.since = now
        """When its session began, or it went away, or was last claimed for."""
        self.joined = False
        self.tasks: dict[int, RemoteTask] = {}
        """By number: those without an outcome."""
        self.held: dict[int, RemoteTask] = {}
        """Submitted again, and not claimed yet."""
        self.unwanted: set[int] = set()
        """Those among them that are to be cancelled."""
        self.outcomes: list[Row] = []
        """To be told."""
        self.kept: dict[int, Row] = {}
        """Outcomes of tasks that this session has not submitted: told if it does, and not run."""
        self.claimed: set[int] = set()
        """What agents brought along, as long as it is hollow."""
        self.origins: dict[int, str] = {}
        """Who keeps answers that the client may not have, by number."""
        self.large: set[int] = set()
        """Those among them that hold much memory."""
        self.workers = -1
        """How many it was told of."""

    def check_room(self, count: int) -> None:
        """Raise `ProtocolError` unless `count` more tasks or outcomes may come."""
        if len(self.tasks) + len(self.held) + len(self.kept) + count > MOST_TASKS:
            raise ProtocolError(f"{self.name} has {MOST_TASKS} tasks already")

    def settle(self, task: RemoteTask, row: Row) -> None:
        if self.tasks.get(task.number) is task:
            del self.tasks[task.number]
            if task.origin:
                self.origins[task.number] = task.origin
                if row[3] or len(row[2]) > LARGE:
                    self.large.add(task.number)
            if task.session is not None and task.session is self.session:
                self.tell(row)
            else:
                self.kept[task.number] = row
                self.expect()

    def tell(self, row: Row) -> None:
        """Have it told an outcome."""
        self.outcomes.append(row)
        self._lists.telling[self.name] = self

    def detach(self, now: float) -> None:
        """Its session is over: what it may not have been told is kept."""
        if self.session is not None:
            for message in self.session.talk.unacked() + self.session.words:
                if message.kind is Kind.OUTCOMES:
                    self.kept.update((row[0], row) for row in message.rows or ())
            self.kept.update((row[0], row) for row in self.outcomes)
            self.outcomes.clear()
        self.session = None
        self.workers = -1
        self.since = now
        self.expect()

    def expect(self) -> None:
        """Have the clock look after it: it is away, or something of it is unclear."""
        self._lists.expected[self.name] = self

    @property
    def unclear(self) -> bool:
        """Whether time may change something."""
        return self.session is None or bool(self.kept or self.held or self.claimed)

    def forget_unread(self) -> None:
        """What agents brought along, was not run, and is not submitted again: nobody wants it."""
        for number in list(self.claimed):
            task = self.tasks.get(number)
            if task is None or not task.hollow:
                self.claimed.discard(number)
            elif task.state is State.NEW and not task.filled:
                del self.tasks[number]

    def began(self) -> set[int]:
        """The numbers of the tasks that may have run."""
        return {number for number, task in self.tasks.items() if task.state >= State.GIVEN}.union(self.kept)
