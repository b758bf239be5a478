"""One client elsewhere: its tasks, by their numbers, and what it has not been told. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nearfar.coordinator import failures
from nearfar.coordinator.accounts import Accounts, too_large, weight
from nearfar.coordinator.clients import Client
from nearfar.coordinator.desk import Session
from nearfar.coordinator.failures import Unread
from nearfar.coordinator.parts import Row
from nearfar.coordinator.tasks import Outcome, State, Status, Task
from nearfar.coordinator.wire import Kind
from nearfar.errors import NearfarError, ProtocolError
from nearfar.net.budget import EACH

MOST_TASKS = 1 << 20
"""Tasks of one client without an outcome, and outcomes that it has not asked for: far more than one sends."""
UNKNOWN = b"(not told yet)"
"""The function of a task that an agent brought along."""

# Looked up once, for they are needed for each task: an attribute of an enum costs eight times a global.
_NEW, _TOO_LARGE, _FAILED = State.NEW, int(Status.TOO_LARGE), int(Outcome.FAILED)


class RemoteTask(Task):
    """A task of a client elsewhere."""

    __slots__ = (
        "filled",
        "guest",
        "hollow",
        "losses",
        "number",
        "origin",
        "retries",
        "session",
        "timeout",
        "weight",
    )

    def __init__(self, guest: Guest, number: int, row: Row | None = None) -> None:
        """With a `row` of SUBMIT it is fit for any worker. Without one it is empty until `fill`, and hollow
        until it may be given to any worker."""
        self.guest = guest
        self.number = number
        self.client = guest.name
        self.session = guest.session if row is not None else None
        """Where it was submitted last: its outcome is told in no other."""
        self.origin = ""
        """The session of the agent that answered it, and keeps the answer until it is released."""
        self.state = _NEW
        self.losses = 0
        if row is None:
            self.mode, self.function, self.blob, self.buffers = 0, UNKNOWN, b"", ()
            self.timeout, self.retries = None, 0
            self.weight = 0
            """Bytes that its arguments cost here."""
            self.hollow, self.filled = True, False
        else:
            _, self.mode, self.function, self.blob, self.buffers, self.timeout, self.retries = row
            self.weight = weight(self.blob, self.buffers) if self.buffers else EACH + len(self.blob)
            self.hollow, self.filled = False, True

    def fill(self, row: Row) -> None:
        """What it carries, from a row of SUBMIT."""
        _, self.mode, self.function, self.blob, self.buffers, self.timeout, self.retries = row
        self.filled = True
        self.weight = weight(self.blob, self.buffers)
        self.guest.accounts.arguments.add(self.client, self.weight)

    def empty(self) -> None:
        """Its arguments are not needed any more."""
        if self.weight:
            self.guest.accounts.arguments.add(self.client, -self.weight)
            self.weight = 0
            self.blob, self.buffers = b"", ()

    def lose(self) -> None:
        self.losses += 1

    def answered(self, status: int, blob: Any, buffers: Any) -> None:
        row = (self.number, status, blob, buffers)
        if status == _TOO_LARGE:  # its agent said no more of it than how large it is
            size = int(blob) if bytes(blob).isdigit() and len(blob) < 20 else 0
            row = self.guest.too_large(self.number, size)
        guest = self.guest
        if not guest.settled:
            guest.lists.settling[guest.name] = guest
        guest.settled.append((self, row))

    def failed(self, error: BaseException) -> None:
        guest = self.guest
        guest.lists.settling[guest.name] = guest
        guest.settled.append((self, (self.number, Outcome.FAILED, failures.describe(error), ())))


@dataclass(slots=True)
class Withheld:
    """An answer for which there was no room here: the agent of the session `origin` keeps it."""

    origin: str
    size: int
    session: Session | None
    """Where its task was submitted last."""
    fetched: bool = False
    """It was asked for, and there is room set aside."""


class Lists:
    """Those among all clients, by name, whom a turn or a tick has to look at: they may be few of many."""

    def __init__(self) -> None:
        self.settling: dict[str, Guest] = {}
        """Whose tasks have come to outcomes that are to be taken in."""
        self.telling: dict[str, Guest] = {}
        """Who may have something to be told."""
        self.expected: dict[str, Guest] = {}
        """Of whom something may change as time passes."""
        self.held_back: dict[str, Guest] = {}
        """Whose tasks are not given out until they take results, or for whom answers are to be fetched."""


class Guest:
    """One client, here or away."""

    def __init__(self, name: str, now: float, lists: Lists, accounts: Accounts) -> None:
        """It enters itself in the `lists`."""
        self.name = name
        self.accounts = accounts
        self.lists = lists
        self.client = Client(name, read_error=Unread)
        self.session: Session | None = None
        self.since = now
        """When its session began, or it went away, or was last claimed for."""
        self.joined = False
        self.tasks: dict[int, RemoteTask] = {}
        """By number: those without an outcome."""
        self.highest = 0
        """The highest number of a task that was ever heard of: those above are new for certain."""
        self.settled: list[tuple[RemoteTask, Row]] = []
        """What tasks have come to: to be taken in by `take_in_all`."""
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
        self.weights: dict[int, int] = {}
        """Bytes of the outcomes that are here and may not have arrived, or for which room is set aside."""
        self.withheld: dict[int, Withheld] = {}
        """Outcomes that are not here, by number."""
        self.wanted_at = now
        """When something of it was put off last."""
        self.workers = -1
        """How many it was told of."""

    def check_room(self, count: int) -> None:
        """Raise `ProtocolError` unless `count` more tasks or outcomes may come."""
        if len(self.tasks) + len(self.held) + len(self.kept) + len(self.withheld) + count > MOST_TASKS:
            raise ProtocolError(f"{self.name} has {MOST_TASKS} tasks already")

    def take_in_all(self) -> None:
        """Take in what tasks have come to."""
        settled, self.settled = self.settled, []
        accounts, tasks, largest = self.accounts, self.tasks, self.accounts.largest
        freed = came = 0
        fresh: list[tuple[RemoteTask, Row, int]] = []
        for task, row in settled:
            number, status, blob, buffers = row
            if tasks.get(number) is not task:
                continue
            del tasks[number]
            if task.weight:
                freed += task.weight
                task.weight, task.blob, task.buffers = 0, b"", ()
            size = weight(blob, buffers) if buffers else EACH + len(blob)
            if 0 < largest < size and status != _FAILED:
                row = self.too_large(number, size)
                size = weight(row[2], ())
            came += size
            fresh.append((task, row, size))
        if freed:
            accounts.arguments.add(self.name, -freed)
        if accounts.results.fits(self.name, came):
            self._take_in_fitting(fresh, came)
        else:
            for task, row, _ in fresh:
                if self.take_in(row, task.origin, task.session):
                    self.offer(row, task.session)

    def _take_in_fitting(self, fresh: list[tuple[RemoteTask, Row, int]], came: int) -> None:
        """What there is room for."""
        weights, origins, outcomes, session = self.weights, self.origins, self.outcomes, self.session
        agents: dict[str, int] = {}
        for task, row, size in fresh:
            number, origin = row[0], task.origin
            weights[number] = size
            if origin:
                origins[number] = origin
                agents[origin] = agents.get(origin, 0) + size
            if task.session is session is not None:
                outcomes.append(row)
            else:
                self.offer(row, task.session)
        if outcomes:
            self.lists.telling[self.name] = self
        self.accounts.results.add(self.name, came)
        strained = [self.accounts.keep(origin, self.name, size) for origin, size in agents.items()]
        if any(strained) or self.accounts.results.strained(self.name):
            self.hold_back()

    def too_large(self, number: int, size: int) -> Row:
        """What is told of an answer that can never be taken in."""
        error = NearfarError(too_large("result", size, self.accounts.largest))
        return (number, Outcome.FAILED, failures.describe(error), ())

    def take_in(self, row: Row, origin: str, session: Session | None) -> bool:
        """An outcome came, of a task that was submitted in that session; the agent of the session `origin`,
        if any, keeps it. False if there is no room for it here, and it stays there."""
        number, size = row[0], weight(row[2], row[3])
        if origin:
            self.origins[number] = origin
            if self.accounts.keep(origin, self.name, size):
                self.hold_back()
            if not self.accounts.results.fits(self.name, size):
                self.withheld[number] = Withheld(origin, size, session)
                self.hold_back()
                self.expect()
                return False
        self.weigh(number, size)
        return True

    def offer(self, row: Row, session: Session | None) -> None:
        """An outcome of a task that was submitted in that session: tell it, or keep it for the next."""
        if session is not None and session is self.session:
            self.tell(row)
        else:
            self.kept[row[0]] = row
            self.expect()

    def weigh(self, number: int, size: int) -> None:
        """The outcome of that task costs so many bytes here."""
        self.weights[number] = size
        self.accounts.results.add(self.name, size)
        if self.accounts.results.strained(self.name):
            self.hold_back()

    def hold_back(self) -> None:
        """Have none of its tasks given out until it has taken results."""
        self.lists.held_back[self.name] = self

    def unweigh(self, number: int) -> int:
        """That outcome is not here any more; returns what it cost."""
        size = self.weights.pop(number, 0)
        if size:
            self.accounts.results.add(self.name, -size)
        return size

    def tell(self, row: Row) -> None:
        """Have it told an outcome."""
        self.outcomes.append(row)
        self.lists.telling[self.name] = self

    def detach(self, now: float) -> None:
        """Its session is over: what it may not have been told is kept."""
        if self.session is not None:
            for message in [*self.session.talk.unacked(), *self.session.words]:
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
        self.lists.expected[self.name] = self

    @property
    def unclear(self) -> bool:
        """Whether time may change something."""
        return self.session is None or bool(self.kept or self.held or self.claimed or self.unasked())

    def unasked(self) -> list[int]:
        """The answers that agents keep, to tasks that this session has not submitted."""
        return [number for number, each in self.withheld.items() if each.session is not self.session]

    def has(self, number: int) -> bool:
        """True if the arguments of that task are here already, or are not needed."""
        task = self.tasks.get(number)
        return task.filled if task else number in self.held or number in self.kept or number in self.withheld

    def clear(self) -> None:
        """It is gone: nothing that is still under way to it counts."""
        self.tasks.clear()
        self.settled.clear()
        self.held.clear()
        self.kept.clear()
        self.withheld.clear()
        self.weights.clear()

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
        given = (number for number, task in self.tasks.items() if task.state >= State.GIVEN)
        return {*given, *self.kept, *self.withheld}
