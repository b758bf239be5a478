"""One remote client: its tasks by number, outcomes not sent yet, and the bytes of its payloads. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nearfar.coordinator import task as failures
from nearfar.coordinator.columns import Row, size_of
from nearfar.coordinator.messages import PoolMessageType
from nearfar.coordinator.sessions import PeerSession
from nearfar.coordinator.state import Client
from nearfar.coordinator.task import Task, TaskOutcome, TaskState, TaskStatus, Unread
from nearfar.errors import NearfarError, ProtocolError
from nearfar.net.resources import EACH, Budget

UNBOUNDED = 1 << 62
"""Bytes: the bound of a coordinator that has none."""
LEAST = 16 << 20
"""The smallest bound that there may be: a message of many small tasks, or answers, must fit into a share."""


class PayloadBytes:
    """Of `most` bytes, one half is for arguments on their way to workers, one for results on their way back.

    Of each, a client may have no more than it leaves free (`Budget`). Where a client does not take its
    results, its tasks are held back; what its workers had begun by then stays with their agents if there is
    no room for it here, and is fetched later.
    """

    def __init__(self, most: int) -> None:
        """`most`: 0 for no bound."""
        self.largest = most // 4
        """Bytes that one task, or one answer, may have; 0: any number."""
        self.arguments = Budget(most // 2 or UNBOUNDED)
        self.results = Budget(most // 2 or UNBOUNDED)
        self.keepers: dict[str, Budget] = {}
        """What agents keep, by their sessions."""

    def too_large(self, size: int) -> bool:
        """True for one task, or one answer, that can never be taken in."""
        return 0 < self.largest < size

    def enter(self, agent: str, most: int) -> None:
        """An agent's session begins: how much it may keep (0: any number)."""
        self.keepers[agent] = Budget(most or UNBOUNDED)

    def leave(self, agent: str) -> None:
        """It is over."""
        self.keepers.pop(agent, None)

    def keep(self, agent: str, client: str, size: int) -> bool:
        """An agent keeps so many bytes more for a client, or, with a negative number, fewer; returns whether
        that becomes too much."""
        keeper = self.keepers.get(agent)
        if keeper is None:
            return False
        # what a session kept that had the same name before is not this one's
        return keeper.add(client, max(size, -keeper.held.get(client, 0)))

    def forget(self, client: str) -> None:
        """A client is gone."""
        for budget in (self.arguments, self.results, *self.keepers.values()):
            budget.forget(client)

    def eased(self, client: str) -> bool:
        """True if workers may bring more for a client that was held back."""
        return self.results.eased(client) and all(each.eased(client) for each in self.keepers.values())


def weight(blob: Any, buffers: Sequence[Any]) -> int:
    """Bytes that a task or an answer costs here."""
    return EACH + size_of(blob, buffers)


def too_large(what: str, size: int, most: int) -> str:
    """What a client is told of arguments or a result that do not fit."""
    return (
        f"the {what} of {size} bytes cannot travel: the coordinator takes at most {most} bytes at a time, a"
        " quarter of its --max-bytes; send less, or start it with more"
    )


MOST_TASKS = 1 << 20
"""Tasks of one client without an outcome, and outcomes that it has not asked for: far more than one sends."""
UNKNOWN = b"(not told yet)"
"""The function of a task that an agent brought along."""

# Looked up once, for they are needed for each task: an attribute of an enum costs eight times a global.
_NEW, _TOO_LARGE, _FAILED = TaskState.NEW, int(TaskStatus.TOO_LARGE), int(TaskOutcome.FAILED)


class RemoteTask(Task):
    """A task of a remote client."""

    __slots__ = (
        "filled",
        "hollow",
        "losses",
        "number",
        "remote_client",
        "retries",
        "session",
        "timeout",
        "weight",
    )

    def __init__(self, remote_client: RemoteClient, number: int, row: Row | None = None) -> None:
        """With a `row` of SUBMIT it is fit for any worker. Without one it is empty until `fill`, and hollow
        until it may be given to any worker."""
        self.remote_client = remote_client
        self.number = number
        self.client = remote_client.name
        self.session = remote_client.session if row is not None else None
        """Where it was submitted last: its outcome is told in no other."""
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
        self.remote_client.accounts.arguments.add(self.client, self.weight)

    def empty(self) -> None:
        """Its arguments are not needed any more."""
        if self.weight:
            self.remote_client.accounts.arguments.add(self.client, -self.weight)
            self.weight = 0
            self.blob, self.buffers = b"", ()

    def lose(self) -> None:
        self.losses += 1

    def answered(self, status: int, blob: Any, buffers: Any) -> None:
        self.remote_client.settle([(self, (status, blob, buffers))], "")

    def failed(self, error: BaseException) -> None:
        self.remote_client.settle([(self, (_FAILED, failures.describe(error), ()))], "", failed=True)


@dataclass(slots=True)
class Withheld:
    """An answer for which there was no room here: the agent of the session `origin` keeps it."""

    origin: str
    size: int
    session: PeerSession | None
    """Where its task was submitted last."""
    fetched: bool = False
    """It was asked for, and there is room set aside."""


class Lists:
    """The clients, by name, that a turn or a tick must process: they may be few of many."""

    def __init__(self) -> None:
        self.settling: dict[str, RemoteClient] = {}
        """Clients with outcomes to take in."""
        self.telling: dict[str, RemoteClient] = {}
        """Clients that may have outcomes to send."""
        self.expected: dict[str, RemoteClient] = {}
        """Clients whose state may change as time passes."""
        self.held_back: dict[str, RemoteClient] = {}
        """Clients whose tasks are held until they take results, or whose answers must be fetched."""


class RemoteClient:
    """One client, connected or away."""

    def __init__(self, name: str, now: float, lists: Lists, accounts: PayloadBytes) -> None:
        """It enters itself in the `lists`."""
        self.name = name
        self.accounts = accounts
        self.lists = lists
        self.client = Client(name, read_error=Unread)
        self.client.collect = self.settle
        self.session: PeerSession | None = None
        self.since = now
        """When its session began, or it went away, or was last claimed for."""
        self.joined = False
        self.tasks: dict[int, RemoteTask] = {}
        """By number: those without an outcome."""
        self.highest = 0
        """The highest number of a task that was ever heard of: those above are new for certain."""
        self.settled: list[tuple[Sequence[tuple[RemoteTask, Sequence[Any]]], str, bool]] = []
        """What `take_in_all` takes in: tasks, each with outcome, blob and buffers; their origin; whether they
        failed."""
        self.held: dict[int, RemoteTask] = {}
        """Submitted again, and not claimed yet."""
        self.unwanted: set[int] = set()
        """The tasks of `held` to cancel."""
        self.outcomes: list[Row] = []
        """To be told."""
        self.kept: dict[int, Row] = {}
        """Outcomes of tasks that this session has not submitted: told if it does, and not run."""
        self.claimed: set[int] = set()
        """Tasks that agents brought along, while they are hollow."""
        self.origins: dict[int, str] = {}
        """The agents' sessions that keep answers the client may not have, by task number."""
        self.weights: dict[int, int] = {}
        """Bytes of the outcomes that are here and may not have arrived, or for which room is set aside."""
        self.withheld: dict[int, Withheld] = {}
        """Outcomes that are not here, by number."""
        self.wanted_at = now
        """When something of it was put off last."""
        self.workers = -1
        """The number of workers last sent to it."""

    def check_room(self, count: int) -> None:
        """Raise `ProtocolError` unless `count` more tasks or outcomes may come."""
        if len(self.tasks) + len(self.held) + len(self.kept) + len(self.withheld) + count > MOST_TASKS:
            raise ProtocolError(f"{self.name} has {MOST_TASKS} tasks already")

    def settle(
        self, ended: Sequence[tuple[RemoteTask, Sequence[Any]]], origin: str, *, failed: bool = False
    ) -> None:
        """These tasks ended, each with a worker's answer, which the agent of the session `origin`, if any,
        keeps; or they `failed`: no worker answered."""
        self.lists.settling[self.name] = self
        self.settled.append((ended, origin, failed))

    def take_in_all(self) -> None:
        """Take in the outcomes of tasks."""
        settled, self.settled = self.settled, []
        for ended, origin, failed in settled:
            self._take_in_some(ended, origin, failed)

    def _take_in_some(
        self, ended: Sequence[tuple[RemoteTask, Sequence[Any]]], origin: str, failed: bool
    ) -> None:
        tasks, session, largest = self.tasks, self.session, self.accounts.largest
        freed = 0
        here = session is not None
        numbers: list[int] = []
        sizes: list[int] = []
        rows: list[Row] = []
        sessions: list[PeerSession | None] = []
        for task, (outcome, blob, buffers) in ended:
            number = task.number
            if tasks.get(number) is not task:
                continue
            del tasks[number]
            freed += task.weight
            task.weight, task.blob, task.buffers = 0, b"", ()
            size = weight(blob, buffers) if buffers else EACH + len(blob)
            if not failed and (outcome == _TOO_LARGE or 0 < largest < size):
                if outcome == _TOO_LARGE:  # its agent said no more of it than how large it is
                    size = int(blob) if bytes(blob).isdigit() and len(blob) < 20 else 0
                outcome, blob, buffers = self.too_large(number, size)[1:]
                size = EACH + len(blob)
            numbers.append(number)
            sizes.append(size)
            rows.append((number, outcome, blob, buffers))
            sessions.append(task.session)
            here = here and task.session is session
        if freed:
            self.accounts.arguments.add(self.name, -freed)
        if not rows:
            return
        came = sum(sizes)
        if not self.accounts.results.fits(self.name, came):
            for row, told_in in zip(rows, sessions, strict=True):
                if self.take_in(row, origin, told_in):
                    self.offer(row, told_in)
            return
        self.weights.update(zip(numbers, sizes, strict=True))
        if here:
            self.outcomes += rows
            self.lists.telling[self.name] = self
        else:
            for row, told_in in zip(rows, sessions, strict=True):
                self.offer(row, told_in)
        strained = self.accounts.results.add(self.name, came)
        if origin:
            self.origins.update(dict.fromkeys(numbers, origin))
            strained = self.accounts.keep(origin, self.name, came) or strained
        if strained:
            self.hold_back()

    def too_large(self, number: int, size: int) -> Row:
        """What is told of an answer that can never be taken in."""
        error = NearfarError(too_large("result", size, self.accounts.largest))
        return (number, TaskOutcome.FAILED, failures.describe(error), ())

    def take_in(self, row: Row, origin: str, session: PeerSession | None) -> bool:
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

    def offer(self, row: Row, session: PeerSession | None) -> None:
        """An outcome of a task that was submitted in that session: tell it, or keep it for the next."""
        if session is not None and session is self.session:
            self.tell(row)
        else:
            self.kept[row[0]] = row
            self.expect()

    def weigh(self, number: int, size: int) -> None:
        """The outcome of that task costs so many bytes here."""
        self.weights[number] = size
        if self.accounts.results.add(self.name, size):
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
                if message.kind is PoolMessageType.OUTCOMES:
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
        """Drop tasks that agents brought along, that did not run, and that were not submitted again."""
        for number in list(self.claimed):
            task = self.tasks.get(number)
            if task is None or not task.hollow:
                self.claimed.discard(number)
            elif task.state is TaskState.NEW and not task.filled:
                del self.tasks[number]

    def began(self) -> set[int]:
        """The numbers of the tasks that may have run."""
        given = (number for number, task in self.tasks.items() if task.state >= TaskState.GIVEN)
        return {*given, *self.kept, *self.withheld}
