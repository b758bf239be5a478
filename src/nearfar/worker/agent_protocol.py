"""The agent's side of the protocol with its coordinator, as a pure state machine.

::

    NEW --connect--> GREETING --WELCOME--> OPEN --LEAVING ... BYE, PART--> CLOSED
                        ^                   |
                        +----- STRANGER ----+

The agent passes tasks to its workers and their answers back, both undecoded. Its sessions are those of
`nearfar.net.session`; only STRANGER ends one. If the next WELCOME has the same epoch, the
coordinator counted this agent as dead and reported all running tasks as lost: those workers are killed. If
the epoch differs, the coordinator was restarted without any state: running tasks go on and are reported to
it, and so are the answers that were not released yet, since their clients may not have them.
Times are in seconds of any steady clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from nearfar.coordinator.large_parts import AGENT, Row, shares, size_of, weight
from nearfar.coordinator.messages import (
    FAREWELL,
    FORMS,
    LOOSE,
    MOST_NAMES,
    PoolChannel,
    PoolFrame,
    PoolMessage,
    PoolMessageType,
)
from nearfar.coordinator.sessions import client_session
from nearfar.coordinator.task import Mode, TaskStatus
from nearfar.errors import ProtocolError
from nearfar.net.session import Connect, SendMessage, SessionStage
from nearfar.net.validation import shown


class Assigned(NamedTuple):
    """A batch of a worker: its client, and the client's numbers of its tasks (0: an initializer)."""

    client: str
    numbers: list[int]


class Journal:
    """The record of one worker, from which a restarted coordinator gets its state."""

    def __init__(self, name: str, pid: int, wired: str) -> None:
        self.name = name
        self.wired = wired
        """Its name at the coordinator."""
        self.pid = pid
        self.batches: deque[Assigned] = deque()
        """Batches that it has not answered in full, in order."""
        self.prepared: set[str] = set()
        """The clients whose initializer was sent to it."""
        self.ran = 0
        """Tasks that it answered."""
        self.given = 0
        """Batches sent to it in this session, including those that it had at its beginning."""
        self.told = False
        """Whether a coordinator was told of it."""
        self.end: tuple[str, int] | None = None
        """After its death: how it ended, and how many batches it had not read."""
        self.end_message = 0
        """The number of this session's message that reported its end."""

    def give(self, client: str, numbers: list[int], *, initializer: bool) -> None:
        self.given += 1
        self.batches.append(Assigned(client, numbers))
        if initializer:
            self.prepared.add(client)

    def take_back(self, batches: int) -> None:
        """The last `batches` were returned unread."""
        for _ in range(batches):
            client, numbers = self.batches.pop()
            self.given -= 1
            if 0 in numbers:
                self.prepared.discard(client)

    def answer(self, count: int) -> list[Assigned]:
        """Remove its next `count` tasks, which it has answered; returns them."""
        self.ran += count
        answered: list[Assigned] = []
        while count:
            given = self.batches.popleft()
            if len(given.numbers) > count:
                client, numbers = given
                self.batches.appendleft(Assigned(client, numbers[count:]))
                given = Assigned(client, numbers[:count])
            answered.append(given)
            count -= len(given.numbers)
        return answered


class AssignBatch(NamedTuple):
    """Send a worker a batch: rows of WORK, which are task, mode, function, blob, buffers."""

    worker: str
    client: str
    rows: Sequence[Row]


class RevokeBatch(NamedTuple):
    """Recall the batches that a worker has not read, and report their number (`returned`)."""

    worker: str


class Kill(NamedTuple):
    """Kill a worker."""

    worker: str


class Retire(NamedTuple):
    """Let an idle worker end."""

    worker: str


Action = Connect | SendMessage | AssignBatch | RevokeBatch | Kill | Retire


ANSWERS_BLOB = FORMS[PoolMessageType.ANSWERS].blob
LONGEST_END = 500
"""Characters of the text on how a worker ended."""

_PREPARE, _WORK = int(Mode.PREPARE), PoolMessageType.WORK  # looked up once: they are compared at each batch


class AgentProtocol:
    """`name` is new for every agent; `about` are its facts in HELLO. Workers have the supervisor's names.

    `wait`: seconds without a coordinator after which it is `lost`.
    """

    def __init__(self, name: str, about: dict[str, Any], *, wait: float = 60.0, stem: str = "") -> None:
        self.name = name
        self.refused = ""
        self.epoch = ""
        """The epoch of the last coordinator."""
        self.stale = 0
        """Answers to unknown tasks."""
        self.calling = client_session(AGENT, name, about, wait, stem)
        """The session with the coordinator; its `stage` is also this protocol's (CLOSED: it has ended)."""
        self._records: dict[str, Journal] = {}
        self._ended: list[Journal] = []
        """Workers whose end was reported, until the report is acked."""
        self.kept: dict[str, dict[int, Row]] = {}
        """Answers by client and number, until the coordinator releases them."""
        self.kept_bytes = 0
        self.done = 0
        """Tasks answered, with those of workers that have ended."""
        self.largest = 0
        """The most bytes of an answer, from WELCOME; 0: any number."""
        self._leaving = self._said_leaving = self._said_bye = False
        self._last_answer: float = 0
        """The number of this session's last message with answers."""
        self._idle_since = inf
        """Since when it is leaving and no task runs."""
        self._actions: list[Action] = []

    @property
    def session_name(self) -> str:
        """The name of the session's socket."""
        return self.calling.session_name

    @property
    def stage(self) -> SessionStage:
        """The stage of the session; CLOSED: it has ended."""
        return self.calling.stage

    # -- from the program --------------------------------------------------------------------------

    def connect(self, now: float) -> None:
        """Begin the first session."""
        if self.stage is SessionStage.NEW:
            self.calling.begin(now)

    def leave(self) -> None:
        """Take no more tasks, and close once the coordinator has the answers of all running tasks.

        If no task runs, and the coordinator has received every answer, it closes after `FAREWELL` seconds
        even without a reply.
        """
        self._leaving = True

    def abort(self) -> None:
        """Kill the running workers, and close once the coordinator knows, without waiting for its clients."""
        self._leaving = True
        self._forget_kept()
        self._actions += [Kill(record.name) for record in self._records.values() if record.end is None]

    def abandon(self) -> None:
        """Close at once."""
        self.calling.stage = SessionStage.CLOSED

    # -- from the supervisor -----------------------------------------------------------------------

    def came(self, worker: str, pid: int, now: float) -> None:
        """A worker is ready."""
        record = self._records[worker] = Journal(worker, pid, f"{self.name}/{worker}")
        if self.stage is SessionStage.OPEN:
            self._announce(record, now)

    def answered(self, worker: str, rows: Sequence[Row], spent: float, now: float) -> None:
        """A worker has run its next tasks; rows of status, blob, buffers."""
        record = self._records.get(worker)
        if record is None:
            self.stale += len(rows)
            return
        self.done += len(rows)
        size = weight(rows, ANSWERS_BLOB)
        if 0 < self.largest < size:  # all of them together
            rows = [self._fitted(row) for row in rows]
            size = weight(rows, ANSWERS_BLOB)
        for share in shares(rows, ANSWERS_BLOB, size):
            first = record.ran + 1
            spent_here = spent * len(share) / len(rows)
            number = self._say(now, PoolMessageType.ANSWERS, record.wired, first, spent_here, rows=share)
            self._last_answer = number or inf  # without a session, no coordinator has received it
            place = 0
            for client, numbers in record.answer(len(share)):
                answers = share[place : place + len(numbers)]
                place += len(numbers)
                if numbers[0]:
                    self.kept.setdefault(client, {}).update(zip(numbers, answers, strict=True))
                    self.kept_bytes += size if len(answers) == len(rows) else weight(answers, ANSWERS_BLOB)
                elif answers[0][0] == TaskStatus.ERROR:
                    record.prepared.discard(client)

    def died(self, worker: str, how: str, unread: int, now: float) -> None:
        """A worker ended, and all its answers have been reported."""
        record = self._records.get(worker)
        if record is not None:
            record.end = (shown(how, LONGEST_END), unread)
            self._forget(record, now)

    def returned(self, worker: str, batches: int, now: float) -> None:
        """The result of `RevokeBatch`."""
        record = self._records.get(worker)
        if record is not None:
            record.take_back(batches)
            self._say(now, PoolMessageType.RETURNED, record.wired, batches)

    def workers(self) -> list[tuple[str, int, bool]]:
        """Of each worker that lives: its name, how many tasks it answered, and whether it has some."""
        return [
            (record.name, record.ran, bool(record.batches))
            for record in self._records.values()
            if record.end is None
        ]

    def memory(self, sizes: dict[str, int], now: float) -> None:
        """How much memory workers have, by name: tell the coordinator, if there is one."""
        if self.stage is SessionStage.OPEN:
            known = [record for record in self._records.values() if record.told and record.name in sizes]
            rows = [(record.wired, sizes[record.name]) for record in known]
            for start in range(0, len(rows), MOST_NAMES):
                self._say(now, PoolMessageType.MEMORY, rows[start : start + MOST_NAMES])

    # -- from the network --------------------------------------------------------------------------

    def receive(self, envelope: PoolFrame, now: float) -> None:
        """Process a message."""
        kind = envelope.message.kind
        if kind not in LOOSE:
            talk = self.calling.open_talk()
            if talk is not None:
                try:
                    self._hear(talk, envelope, now)
                except ProtocolError as error:
                    self._refuse(f"it broke the protocol: {error}")
        elif kind is PoolMessageType.WELCOME:
            self._welcome(envelope.message, now)
        elif kind is PoolMessageType.REFUSED:
            self._refuse(envelope.message.fields[0])
        elif self.stage is SessionStage.OPEN:
            self.calling.begin(now)

    def tick(self, now: float) -> None:
        """Process the time."""
        self.calling.tick(now)

    def flush(self, now: float) -> Sequence[Action]:
        """The actions to perform now."""
        if self._leaving and self.stage is not SessionStage.CLOSED:
            self._go(now)
        actions, said = self._actions, self.calling.flush(now)
        if not actions:
            return said
        self._actions = []
        return [*actions, *said]

    def deadline(self, now: float) -> float:
        """When `tick` and `flush` must be called next."""
        due = self.calling.deadline(now)
        return min(due, self._farewell()) if self._leaving else due

    def away(self, now: float) -> float:
        """Seconds since a coordinator answered last; 0 if one answers."""
        return self.calling.away(now)

    @property
    def barred(self) -> str:
        """Why the coordinator and this agent do not accept each other, once that is certain."""
        return self.calling.barred

    def turned_away(self, why: str, now: float) -> None:
        """The coordinator rejected the socket."""
        self.calling.turned_away(why, now)

    def lost(self, now: float) -> bool:
        """True if no coordinator has answered for too long."""
        return self.calling.lost(now)

    def _welcome(self, message: PoolMessage, now: float) -> None:
        name, facts = message.fields
        if not self.calling.welcome(name, facts["lease"], now):
            return
        self._said_leaving = self._said_bye = False
        if facts["epoch"] == self.epoch:
            self._disown()
        self.epoch = facts["epoch"]
        self.largest = facts.get("largest", 0)
        for record in list(self._records.values()):
            self._announce(record, now)
        self._say_kept([[client, list(answers)] for client, answers in self.kept.items()], now)

    def _refuse(self, why: str) -> None:
        self.refused = shown(why)
        self.abandon()

    def _disown(self) -> None:
        """Drop what this coordinator knew: it has reported the running tasks as lost, and has the answers."""
        self._forget_kept()
        for record in list(self._records.values()):
            if record.told:
                del self._records[record.name]
                if record.end is None:
                    self._actions.append(Kill(record.name))

    def _hear(self, talk: PoolChannel, envelope: PoolFrame, now: float) -> None:
        ready = talk.hear(envelope, now)
        if self._ended:
            self._forget_ended(talk.out.received)
        for message in ready:
            if message.kind is _WORK:
                self._handle_work(message)
            else:
                self._handle(message, now)

    def _forget_ended(self, acked: int) -> None:
        """Drop dead workers whose report is acked."""
        for record in self._ended:
            if 0 < record.end_message <= acked:
                self._records.pop(record.name, None)
        self._ended = [record for record in self._ended if record.name in self._records]

    def _forget_kept(self) -> None:
        self.kept.clear()
        self.kept_bytes = 0

    def _fitted(self, row: Row) -> Row:
        """An answer, or its size if the coordinator does not accept so much."""
        if not self.largest:
            return row
        size = size_of(row[1], row[2])
        return row if size <= self.largest else (TaskStatus.TOO_LARGE, b"%d" % size, [])

    def _say_kept(self, tasks: Sequence[Sequence[Any]], now: float) -> None:
        """Send these answers again, those of them that are kept; by clients and numbers."""
        rows = [
            (client, number, *self._fitted(answers[number]))
            for client, numbers in tasks
            if (answers := self.kept.get(client)) is not None
            for number in numbers
            if number in answers
        ]
        for share in shares(rows, FORMS[PoolMessageType.KEPT].blob):
            self._last_answer = self._say(now, PoolMessageType.KEPT, rows=share)

    def _release(self, tasks: Sequence[Sequence[Any]]) -> None:
        """Forget these answers: their clients have them. By clients and numbers."""
        for client, numbers in tasks:
            answers = self.kept.get(client)
            if answers is None:
                continue
            gone = [row for number in numbers if (row := answers.pop(number, None)) is not None]
            self.kept_bytes -= weight(gone, ANSWERS_BLOB)
            if not answers:
                del self.kept[client]

    def _handle(self, message: PoolMessage, now: float) -> None:
        match message.kind:
            case PoolMessageType.RELEASE:
                self._release(message.fields[0])
            case PoolMessageType.FETCH:
                self._say_kept(message.fields[0], now)
            case PoolMessageType.PART:
                self.abandon()
            case PoolMessageType.RECALL | PoolMessageType.KILL | PoolMessageType.RETIRE:
                self._handle_for_worker(message)
            case _:
                pass  # meant for clients

    def _addressed(self, wired: str) -> Journal | None:
        """The worker of that name at the coordinator; None if it died: its end is being reported."""
        record = self._records.get(wired.removeprefix(f"{self.name}/"))
        return None if record is None or record.end is not None else record

    def _handle_work(self, message: PoolMessage) -> None:
        (wired, client), rows = message.fields, message.rows or ()
        record = self._addressed(wired)
        if record is None:
            return
        function_and_mode = rows[0][1:3] if rows else None
        if not all(row[1:3] == function_and_mode for row in rows) or not rows:
            raise ProtocolError("a batch that is not of one function and mode")
        record.give(client, [row[0] for row in rows], initializer=rows[0][1] == _PREPARE)
        self._actions.append(AssignBatch(record.name, client, rows))

    def _handle_for_worker(self, message: PoolMessage) -> None:
        record = self._addressed(message.fields[0])
        if record is None:
            return
        match message.kind:
            case PoolMessageType.RECALL:
                self._actions.append(RevokeBatch(record.name))
            case PoolMessageType.KILL:
                self._actions.append(Kill(record.name))
            case _:
                del self._records[record.name]
                self._actions.append(Retire(record.name))

    # -- to the coordinator ------------------------------------------------------------------------

    def _announce(self, record: Journal, now: float) -> None:
        """Report a worker, unless it came while this agent leaves, or is dead and has no batch."""
        if not record.batches and (self._leaving or record.end is not None):
            del self._records[record.name]
            return
        record.told = True
        record.given = len(record.batches)
        batches = [[client, numbers] for client, numbers in record.batches]
        prepared = sorted(record.prepared)
        self._say(now, PoolMessageType.CAME, record.wired, record.pid, record.ran, prepared, batches)
        if record.end is not None:
            self._forget(record, now)

    def _forget(self, record: Journal, now: float) -> None:
        assert record.end is not None
        how, unread = record.end
        if not record.told and not record.batches:
            del self._records[record.name]  # no coordinator knew it
        else:
            record.end_message = self._say(now, PoolMessageType.DIED, record.wired, how, unread, record.given)
            if record not in self._ended:
                self._ended.append(record)

    def _say(self, now: float, kind: PoolMessageType, *fields: Any, rows: Sequence[Row] | None = None) -> int:
        """Queue a message if there is a session; state is sent again in the next one."""
        calling = self.calling
        talk = calling.talk
        if calling.stage is not SessionStage.OPEN or talk is None:
            return 0
        return talk.send(PoolMessage(kind, fields, rows), now)

    def _farewell(self) -> float:
        """When it closes although no coordinator answers."""
        talk = self.calling.talk
        had = not self.kept or (talk is not None and talk.out.received >= self._last_answer)
        return self.calling.silent_since(self._idle_since) + FAREWELL if had else inf

    def _go(self, now: float) -> None:
        """Close: with the coordinator's reply if it answers, else as soon as nothing would be lost."""
        busy = any(record.batches for record in self._records.values())
        self._idle_since = inf if busy else min(self._idle_since, now)
        if now >= self._farewell():
            self.abandon()
            return
        if self.stage is not SessionStage.OPEN or self.away(now):
            if not (self.kept or busy):
                self.abandon()
            return
        if not self._said_leaving:
            self._said_leaving = True
            self._say(now, PoolMessageType.LEAVING)
        if not (self._records or self.kept or self._said_bye):
            self._said_bye = True
            self._say(now, PoolMessageType.BYE)
