"""One remote client: its tasks by number, outcomes not sent yet, and the bytes of its payloads. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nearfar.coordinator import task as failures
from nearfar.coordinator.large_parts import Row, size_of
from nearfar.coordinator.messages import PoolMessageType
from nearfar.coordinator.sessions import PeerSession
from nearfar.coordinator.state import Client
from nearfar.coordinator.task import Task, TaskOutcome, TaskState, TaskStatus, Unread
from nearfar.errors import NearfarError, ProtocolError
from nearfar.net.resources import EACH, Budget

UNBOUNDED = 1 << 62
"""Bytes: means no bound."""
LEAST = 16 << 20
"""The smallest bound allowed: a message of many small tasks, or answers, must fit into a client's share."""


class PayloadBytes:
    """Counts bytes: half of `most` is for arguments on their way to workers, half for results to clients.

    A client may use no more of each half than it leaves free (`Budget`). While a client does not take its
    results, its tasks are not assigned; results of tasks that had begun stay with the agents if there is no
    room here, and are fetched later.
    """

    def __init__(self, most: int) -> None:
        """`most`: 0 for no bound."""
        self.largest = most // 4
        """The most bytes of one task, or one answer; 0: any number."""
        self.arguments = Budget(most // 2 or UNBOUNDED)
        self.results = Budget(most // 2 or UNBOUNDED)
        self.keepers: dict[str, Budget] = {}
        """Bytes of the answers that agents keep, by the agents' sessions."""

    def too_large(self, size: int) -> bool:
        """True if one task, or one answer, of this size can never be accepted."""
        return 0 < self.largest < size

    def enter(self, agent: str, most: int) -> None:
        """An agent's session begins; it may keep `most` bytes of answers (0: any number)."""
        self.keepers[agent] = Budget(most or UNBOUNDED)

    def leave(self, agent: str) -> None:
        """An agent's session has ended."""
        self.keepers.pop(agent, None)

    def keep(self, agent: str, client: str, size: int) -> bool:
        """Count `size` more bytes that an agent keeps for a client (or fewer); True if that is too much."""
        keeper = self.keepers.get(agent)
        if keeper is None:
            return False
        # bytes counted for an earlier session of the same name are not this session's
        return keeper.add(client, max(size, -keeper.held.get(client, 0)))

    def forget(self, client: str) -> None:
        """Drop a client's counts."""
        for budget in (self.arguments, self.results, *self.keepers.values()):
            budget.forget(client)

    def eased(self, client: str) -> bool:
        """True if the tasks of a client that was held back may be assigned again."""
        return self.results.eased(client) and all(each.eased(client) for each in self.keepers.values())


def weight(blob: Any, buffers: Sequence[Any]) -> int:
    """Bytes counted for a task or an answer."""
    return EACH + size_of(blob, buffers)


def too_large(what: str, size: int, most: int) -> str:
    """The error text for arguments or a result that do not fit."""
    return (
        f"the {what} of {size} bytes cannot be sent: the coordinator takes at most {most} bytes at a time, a"
        " quarter of its --max-bytes; send less, or start the coordinator with a larger --max-bytes"
    )


MOST_TASKS = 1 << 20
"""Tasks of one client without an outcome, plus outcomes that it has not requested: far more than usual."""
UNKNOWN = b"(not told yet)"
"""The function name of a task that an agent reported, and that its client has not submitted yet."""

# Module constants, since each task needs them: an attribute of an enum costs eight times a global.
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
        """With a `row` of SUBMIT, any worker can run it. Without one it has no arguments until `fill`, and it
        is `hollow` until it may be assigned to any worker."""
        self.remote_client = remote_client
        self.number = number
        self.client = remote_client.name
        self.session = remote_client.session if row is not None else None
        """The session in which it was submitted last: its outcome is sent in this session only."""
        self.state = _NEW
        self.losses = 0
        if row is None:
            self.mode, self.function, self.blob, self.buffers = 0, UNKNOWN, b"", ()
            self.timeout, self.retries = None, 0
            self.weight = 0
            """Bytes counted for its arguments."""
            self.hollow, self.filled = True, False
        else:
            _, self.mode, function, self.blob, self.buffers, self.timeout, self.retries = row
            if function != remote_client.function:
                remote_client.function = function
            self.function = remote_client.function
            self.weight = weight(self.blob, self.buffers) if self.buffers else EACH + len(self.blob)
            self.hollow, self.filled = False, True

    def fill(self, row: Row) -> None:
        """Set its function and arguments from a row of SUBMIT."""
        _, self.mode, self.function, self.blob, self.buffers, self.timeout, self.retries = row
        self.filled = True
        self.weight = weight(self.blob, self.buffers)
        self.remote_client.accounts.arguments.add(self.client, self.weight)

    def empty(self) -> None:
        """Free its arguments, which are not needed any more."""
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
    """An answer for which the coordinator had no room: the agent of the session `origin` keeps it."""

    origin: str
    size: int
    session: PeerSession | None
    """The session in which its task was submitted last."""
    fetched: bool = False
    """It was requested from the agent, and room is reserved."""


class Lists:
    """The clients, by name, that a turn or a tick must process."""

    def __init__(self) -> None:
        self.settling: dict[str, RemoteClient] = {}
        """Clients with outcomes to store."""
        self.telling: dict[str, RemoteClient] = {}
        """Clients that may have outcomes to be sent."""
        self.expected: dict[str, RemoteClient] = {}
        """Clients with a deadline."""
        self.held_back: dict[str, RemoteClient] = {}
        """Clients whose tasks are held until they take results, or whose answers must be fetched."""


class RemoteClient:
    """One client, connected or away."""

    def __init__(self, name: str, now: float, lists: Lists, accounts: PayloadBytes) -> None:
        """It adds itself to the `lists` when needed."""
        self.name = name
        self.accounts = accounts
        self.lists = lists
        self.client = Client(name, read_error=Unread)
        self.client.collect = self.settle
        self.session: PeerSession | None = None
        self.since = now
        """When its session began or ended, or when an agent last claimed a task of it."""
        self.joined = False
        self.tasks: dict[int, RemoteTask] = {}
        """Tasks without an outcome, by number."""
        self.function = b""
        """The function of its newest task: each row has a copy of the name, and tasks share one."""
        self.highest = 0
        """The highest task number that was ever received: tasks with higher numbers are surely new."""
        self.settled: list[tuple[Sequence[tuple[RemoteTask, Sequence[Any]]], str, bool]] = []
        """What `take_in_all` has yet to store: tasks, each with outcome, blob and buffers; their origin;
        whether they failed."""
        self.held: dict[int, RemoteTask] = {}
        """Tasks that were submitted again, and that no agent has claimed yet."""
        self.unwanted: set[int] = set()
        """The tasks of `held` to cancel."""
        self.outcomes: list[Row] = []
        """Outcomes to send."""
        self.kept: dict[int, Row] = {}
        """Outcomes of tasks that this session has not submitted: sent if it does, instead of running them."""
        self.claimed: set[int] = set()
        """Tasks that agents claimed, while they are hollow."""
        self.origins: dict[int, str] = {}
        """The sessions of agents that keep answers which the client may not have, by task number."""
        self.weights: dict[int, int] = {}
        """Bytes, by task number, of outcomes that the client has not acked, or for which room is reserved."""
        self.withheld: dict[int, Withheld] = {}
        """Outcomes that agents keep for lack of room here, by number."""
        self.wanted_at = now
        """When a message of it was last deferred."""
        self.workers = -1
        """The number of workers last sent to it."""

    def check_room(self, count: int) -> None:
        """Raise `ProtocolError` if `count` more tasks or outcomes would be too many."""
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
        """Store the outcomes in `settled`, to be sent."""
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
                if outcome == _TOO_LARGE:  # its agent sent only its size
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
        """The outcome that replaces an answer that can never be accepted."""
        error = NearfarError(too_large("result", size, self.accounts.largest))
        return (number, TaskOutcome.FAILED, failures.describe(error), ())

    def take_in(self, row: Row, origin: str, session: PeerSession | None) -> bool:
        """Count an outcome of a task that was submitted in `session`; the agent of the session `origin`, if
        any, keeps it. False if there is no room for it here: then only the agent has it."""
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
        """Send an outcome if its task was submitted in the present session; else keep it for the next."""
        if session is not None and session is self.session:
            self.tell(row)
        else:
            self.kept[row[0]] = row
            self.expect()

    def weigh(self, number: int, size: int) -> None:
        """Count the bytes of an outcome."""
        self.weights[number] = size
        if self.accounts.results.add(self.name, size):
            self.hold_back()

    def hold_back(self) -> None:
        """Assign none of its tasks until it has taken results."""
        self.lists.held_back[self.name] = self

    def unweigh(self, number: int) -> int:
        """Stop counting the bytes of an outcome; returns their number."""
        size = self.weights.pop(number, 0)
        if size:
            self.accounts.results.add(self.name, -size)
        return size

    def tell(self, row: Row) -> None:
        """Queue an outcome to be sent."""
        self.outcomes.append(row)
        self.lists.telling[self.name] = self

    def detach(self, now: float) -> None:
        """Its session has ended: keep the outcomes that it may not have received."""
        if self.session is not None:
            for message in [*self.session.channel.unacked(), *self.session.words]:
                if message.kind is PoolMessageType.OUTCOMES:
                    self.kept.update((row[0], row) for row in message.rows or ())
            self.kept.update((row[0], row) for row in self.outcomes)
            self.outcomes.clear()
        self.session = None
        self.workers = -1
        self.since = now
        self.expect()

    def expect(self) -> None:
        """Make `tick` check it: it is absent, or some of its tasks are unclear."""
        self.lists.expected[self.name] = self

    @property
    def unclear(self) -> bool:
        """Whether `tick` must check it."""
        return self.session is None or bool(self.kept or self.held or self.claimed or self.unasked())

    def unasked(self) -> list[int]:
        """The tasks that this session has not submitted, and whose answers agents keep."""
        return [number for number, each in self.withheld.items() if each.session is not self.session]

    def has(self, number: int) -> bool:
        """True if the arguments of that task were received already, or are not needed."""
        task = self.tasks.get(number)
        return task.filled if task else number in self.held or number in self.kept or number in self.withheld

    def clear(self) -> None:
        """The client has left: drop its tasks and outcomes."""
        self.tasks.clear()
        self.settled.clear()
        self.held.clear()
        self.kept.clear()
        self.withheld.clear()
        self.weights.clear()

    def forget_unread(self) -> None:
        """Drop claimed tasks that did not run and were not submitted again."""
        for number in list(self.claimed):
            task = self.tasks.get(number)
            if task is None or not task.hollow:
                self.claimed.discard(number)
            elif task.state is TaskState.NEW and not task.filled:
                del self.tasks[number]

    def began(self) -> set[int]:
        """The numbers of the tasks that may have started."""
        given = (number for number, task in self.tasks.items() if task.state >= TaskState.GIVEN)
        return {*given, *self.kept, *self.withheld}
