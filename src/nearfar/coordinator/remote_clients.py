"""The remote clients of a coordinator: their tasks, and the outcomes that they may lack. Pure.

A client's name and its tasks' numbers stay the same over sessions, and over restarts of the coordinator. In
each new session a client submits its tasks without an outcome *again*. Those must not run twice: the
coordinator may still have a task (then it only attaches it to the session), or an agent may have it from an
earlier coordinator and *claim* it. So for a lease after its start, a coordinator holds tasks that were
submitted again and not claimed, or that were claimed and returned unread; then it runs them.

Tasks that had started when their client was dropped are reported as lost if the client returns.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from math import inf

from nearfar.coordinator import messages
from nearfar.coordinator import task as failures
from nearfar.coordinator.large_parts import LARGE, Row, shares
from nearfar.coordinator.messages import PoolMessageType
from nearfar.coordinator.remote_client import Lists, PayloadBytes, RemoteClient, RemoteTask, too_large, weight
from nearfar.coordinator.scheduler import Scheduler
from nearfar.coordinator.sessions import PeerSession, PoolSessions
from nearfar.coordinator.state import Initializer, Worker
from nearfar.coordinator.task import Task, TaskOutcome, TaskState
from nearfar.errors import InitializerFailed, NearfarError, ProtocolError, WorkerLost
from nearfar.net.resources import EACH

RELEASE_EVERY = 256
"""Released small answers that are sent together: fewer messages, and fewer wake-ups of the agent."""
LARGE_WEIGHS = RELEASE_EVERY
"""Small answers that a large one counts for: it is released at once, so that its memory can be reused."""


class ResultAcks:
    """Answers of all clients that agents may drop, to be sent in RELEASE."""

    def __init__(self, table: PoolSessions, patience: float) -> None:
        """`patience`: seconds that a few released small answers wait for more before they are sent."""
        self.numbers: dict[str, dict[str, list[int]]] = {}
        """Task numbers, by the agents' sessions and the clients."""
        self.weight = 0
        """The number of these answers; a large one counts as `LARGE_WEIGHS`."""
        self.due = inf
        """When they must be sent to the agents."""
        self._patience = patience
        self._table = table

    def add(self, uid: str, numbers: list[int], origin: str, *, large: bool = False) -> None:
        """The agent of the session `origin` may drop these answers; `large`: one of them is large."""
        self.numbers.setdefault(origin, {}).setdefault(uid, []).extend(numbers)
        self.weight += len(numbers) + LARGE_WEIGHS if large else len(numbers)
        if self.due == inf:
            self.due = self._table.now + self._patience
        if self.weight >= RELEASE_EVERY:
            self.due = self._table.now

    def clear(self) -> None:
        """The releases were sent."""
        self.numbers.clear()
        self.weight = 0
        self.due = inf


BLOB = messages.FORMS[PoolMessageType.SUBMIT].blob
MOST_GHOSTS = 256
"""Dropped clients that are stored."""
MOST_GUESTS = 10_000
"""Clients, connected or away."""


class RemoteClients:
    """`lease` is in seconds; `now` that of the coordinator's start."""

    def __init__(
        self,
        table: PoolSessions,
        coordinator: Scheduler,
        lease: float,
        now: float,
        accounts: PayloadBytes,
    ) -> None:
        self.accounts = accounts
        self.all: dict[str, RemoteClient] = {}
        self._table = table
        self._coordinator = coordinator
        self._lease = lease
        self._holds_until = now + lease
        self._ghosts: OrderedDict[str, tuple[set[int], str]] = OrderedDict()
        self.releases = ResultAcks(table, lease / 100)
        self.lists = Lists()
        self._workers = 0
        """The number of workers that was last sent to the clients."""
        self._asked: set[Task] = set()
        """Tasks to cancel that their workers were asked to return."""

    # -- clients -----------------------------------------------------------------------------------

    def arrive(self, session: PeerSession) -> None:
        """A session of a client begins."""
        remote_client = self.find(session.uid)
        remote_client.detach(self._table.now)
        remote_client.session = session
        session.peer = remote_client
        self.lists.telling[remote_client.name] = remote_client

    def join(self, remote_client: RemoteClient, eager: bool, rows: Sequence[Row]) -> None:
        """Set the client's initializer, if there is a row."""
        if remote_client.joined:
            return
        remote_client.joined = True
        if not rows:
            return
        size = weight(*rows[0][1:])
        if self.accounts.too_large(size):
            said = too_large("initializer", size, self.accounts.largest)
            self._coordinator.fail_client(remote_client.client, InitializerFailed(said))
            return
        self.accounts.arguments.add(remote_client.name, size)
        remote_client.client.initializer = Initializer(*rows[0])
        remote_client.client.eager = eager
        self._coordinator.client_came(remote_client.client, self._table.now)

    def depart(self, uid: str, why: str) -> None:
        """Drop a client. `why`: sent to it if it returns; empty: it will never return."""
        remote_client = self.all.pop(uid, None)
        if remote_client is None:
            return
        remote_client.detach(self._table.now)
        self.lists.expected.pop(uid, None)
        if why and (began := remote_client.began()):
            self._ghosts[uid] = (began, why)
            if len(self._ghosts) > MOST_GHOSTS:
                self._ghosts.popitem(last=False)
        self.lists.held_back.pop(uid, None)
        self._asked.difference_update(remote_client.tasks.values())
        self._release(remote_client, list(remote_client.origins))
        remote_client.clear()
        self.accounts.forget(uid)
        self._coordinator.client_gone(uid)

    def find(self, uid: str) -> RemoteClient:
        """The client of that name, or a new one. Raises `ProtocolError` for one too many."""
        remote_client = self.all.get(uid)
        if remote_client is None:
            if len(self.all) >= MOST_GUESTS:
                raise ProtocolError(f"there are {MOST_GUESTS} clients already")
            remote_client = self.all[uid] = RemoteClient(uid, self._table.now, self.lists, self.accounts)
            remote_client.expect()
            self._coordinator.client_came(remote_client.client, self._table.now)
        return remote_client

    # -- tasks -------------------------------------------------------------------------------------

    def has_room(self, session: PeerSession, rows: Sequence[Row], size: int) -> bool:
        """False if the arguments in rows of SUBMIT are more than this client may store now. `size`: the bytes
        of their message, which are a little more.

        Known tasks are attached to the session in any case: their outcomes may free room.
        """
        remote_client, arguments = self.all.get(session.uid), self.accounts.arguments
        if remote_client is None:
            return True
        if arguments.fits(remote_client.name, EACH * len(rows) + size):
            if arguments.wanted:
                arguments.want(remote_client.name, 0)
            return True
        fresh = [row for row in rows if not remote_client.has(row[0]) and row[0] not in session.handled]
        sizes = [weight(row[BLOB], row[BLOB + 1]) for row in fresh]
        size = sum(size for size in sizes if not self.accounts.too_large(size))
        if not size or arguments.fits(remote_client.name, size):
            arguments.want(remote_client.name, 0)
            return True
        arguments.want(remote_client.name, size)
        remote_client.wanted_at = self._table.now
        known = [row for row in rows if remote_client.has(row[0]) and row[0] not in session.handled]
        self.submit(remote_client, True, known)
        session.handled.update(row[0] for row in known)
        return False

    def submit(self, remote_client: RemoteClient, again: bool, rows: Sequence[Row]) -> None:
        """Accept tasks of a connected client; `again`: an earlier coordinator may have had them."""
        remote_client.check_room(len(rows))
        if again or remote_client.session is None or remote_client.session.handled:
            self._submit_each(remote_client, again, rows)
            return
        highest, tasks = remote_client.highest, remote_client.tasks
        fresh: deque[RemoteTask] = deque()
        largest, total = self.accounts.largest, 0
        rest: Sequence[Row] = ()
        for place, row in enumerate(rows):
            number = row[0]
            task = RemoteTask(remote_client, number, row)
            if number <= highest or 0 < largest < task.weight:  # it may be known already, or it is too large
                rest = rows[place:]
                break
            highest = number
            total += task.weight
            tasks[number] = task
            fresh.append(task)
        remote_client.highest = highest
        if total:
            self.accounts.arguments.add(remote_client.name, total)
        self._coordinator.book.submit_all(remote_client.client, fresh)
        if rest:
            self._submit_each(remote_client, again, rest)

    def _submit_each(self, remote_client: RemoteClient, again: bool, rows: Sequence[Row]) -> None:
        """As `submit`, for tasks that may be known already."""
        handled = remote_client.session.handled if remote_client.session is not None else set()
        for row in rows:
            number = row[0]
            remote_client.highest = max(remote_client.highest, number)
            if number in handled:
                handled.discard(number)
                continue
            task = remote_client.tasks.get(number)
            if task is not None:
                self._attach(remote_client, task, row)
            elif number in remote_client.held:
                remote_client.held[number].session = remote_client.session
            elif number in remote_client.kept:
                remote_client.tell(remote_client.kept.pop(number))
            elif number in remote_client.withheld:
                remote_client.withheld[number].session = remote_client.session
            elif number in remote_client.weights:
                raise ProtocolError(
                    f"{remote_client.name} submits task {number} again, although it has its outcome"
                )
            else:
                task = RemoteTask(remote_client, number)
                task.session = remote_client.session
                size = weight(row[BLOB], row[BLOB + 1])
                if self.accounts.too_large(size):
                    remote_client.tasks[number] = task
                    said = too_large("arguments", size, self.accounts.largest)
                    task.failed(NearfarError(said))
                    continue
                task.fill(row)
                self._enter(remote_client, task, again)

    def _enter(self, remote_client: RemoteClient, task: RemoteTask, again: bool) -> None:
        """Accept an unknown task. `again`: an agent may have it, or it may have started earlier."""
        began, why = self._ghosts.get(remote_client.name, ((), "")) if again else ((), "")
        if task.number in began:
            remote_client.tasks[task.number] = task
            task.failed(WorkerLost("(unknown)", "", 0, f"was killed, for {why}", task.describe()))
        elif again and self._table.now < self._holds_until:
            remote_client.held[task.number] = task
            remote_client.expect()
        else:
            self._run(remote_client, task)

    def _run(self, remote_client: RemoteClient, task: RemoteTask) -> None:
        remote_client.tasks[task.number] = task
        task.hollow = False
        self._coordinator.submit(task)

    def _attach(self, remote_client: RemoteClient, task: RemoteTask, row: Row) -> None:
        task.session = remote_client.session
        if not task.filled:
            task.fill(row)
            if task.state is TaskState.NEW:
                self._enter(remote_client, remote_client.tasks.pop(task.number), again=True)
            else:
                self._coordinator.resumed(task, self._table.now)

    def claim(self, uid: str, number: int) -> RemoteTask:
        """The task that an earlier coordinator assigned to a worker."""
        remote_client = self.find(uid)
        if remote_client.session is None:
            remote_client.since = self._table.now
        task = self._known(remote_client, number)
        if task is None:
            task = RemoteTask(remote_client, number)
        elif task.state >= TaskState.GIVEN:
            task = RemoteTask(remote_client, number)
            task.state = TaskState.SETTLED  # another worker runs it, and will answer
            return task
        if task.state is TaskState.WAITING:
            remote_client.client.waiting.remove(task)
        task.state = TaskState.GIVEN
        remote_client.tasks[number] = task
        remote_client.highest = max(remote_client.highest, number)
        remote_client.claimed.add(number)
        remote_client.expect()
        return task

    def keep(self, uid: str, row: Row, origin: str) -> None:
        """Accept an answer that an agent keeps: an earlier coordinator did not release it."""
        remote_client = self.find(uid)
        number = row[0]
        remote_client.highest = max(remote_client.highest, number)
        if number in remote_client.withheld:
            self._fetched(remote_client, row, origin)
            return
        remote_client.check_room(1)
        remote_client.since = self._table.now
        task = self._known(remote_client, number)
        if task is None:
            if remote_client.take_in(row, origin, None):
                remote_client.offer(row, None)
        elif task.state is TaskState.SETTLED:
            self.releases.add(uid, [number], origin)
        else:
            remote_client.tasks[number] = task
            task.state = TaskState.SETTLED
            remote_client.settle([(task, row[1:])], origin)

    def _known(self, remote_client: RemoteClient, number: int) -> RemoteTask | None:
        """The task of that number, or None; a settled task if only its outcome is known."""
        task = remote_client.held.pop(number, None) or remote_client.tasks.get(number)
        if number in remote_client.unwanted:
            remote_client.unwanted.discard(number)
            self._say_cancelled(remote_client, number, False)
        if task is None and (number in remote_client.weights or number in remote_client.origins):
            task = RemoteTask(remote_client, number)
            task.state = TaskState.SETTLED
        return task

    def _fetched(self, remote_client: RemoteClient, row: Row, origin: str) -> None:
        """Accept a fetched answer. Raises `ProtocolError` if it differs from the withheld one."""
        number = row[0]
        withheld = remote_client.withheld[number]
        if withheld.origin != origin:
            self.releases.add(remote_client.name, [number], origin)
            return
        if not withheld.fetched or weight(row[2], row[3]) != withheld.size:
            raise ProtocolError(f"task {number} of {remote_client.name} had another answer before")
        del remote_client.withheld[number]
        remote_client.offer(row, withheld.session)

    def lost(self, session: PeerSession) -> None:
        """An agent is lost, with the answers that it kept for lack of room here."""
        for remote_client in list(self.lists.held_back.values()):
            for number, withheld in list(remote_client.withheld.items()):
                if withheld.origin == session.name:
                    del remote_client.withheld[number]
                    remote_client.origins.pop(number, None)
                    remote_client.unweigh(number)
                    how = "was lost, with an answer for which its client had made no room"
                    error = WorkerLost(session.uid, session.host, session.pid, how)
                    row: Row = (number, TaskOutcome.FAILED, failures.describe(error), [])
                    remote_client.weigh(number, weight(row[2], ()))
                    remote_client.offer(row, withheld.session)

    def reconsider(self) -> None:
        """Defer the tasks of clients that do not take their results, or resume them; fetch the withheld
        answers for which there is room now."""
        for remote_client in list(self.lists.held_back.values()):
            if not remote_client.client.held_back:
                self._coordinator.hold(remote_client.client, True)
            if remote_client.withheld:
                self._fetch(remote_client)
            elif self.accounts.eased(remote_client.name):
                del self.lists.held_back[remote_client.name]
                self._coordinator.hold(remote_client.client, False)

    def _fetch(self, remote_client: RemoteClient) -> None:
        for number, withheld in remote_client.withheld.items():
            if (
                withheld.fetched
                or withheld.session is not remote_client.session
                or remote_client.session is None
            ):
                continue
            agent = self._table.sessions.get(withheld.origin)
            if agent is None or not self.accounts.results.fits(remote_client.name, withheld.size):
                return
            withheld.fetched = True
            remote_client.weigh(number, withheld.size)
            self._table.say(agent, PoolMessageType.FETCH, [[remote_client.name, [number]]])

    def _release(self, remote_client: RemoteClient, numbers: Sequence[int]) -> None:
        """Drop outcomes that are not needed any more, here and at the agents that keep them."""
        weights, origins = remote_client.weights, remote_client.origins
        sizes = [weights.pop(number, 0) for number in numbers]
        if freed := sum(sizes):
            self.accounts.results.add(remote_client.name, -freed)
        if withheld := remote_client.withheld:
            gone = [withheld.pop(number, None) for number in numbers]
            sizes = [each.size if each is not None else size for each, size in zip(gone, sizes, strict=True)]
        keepers = [origins.pop(number, "") for number in numbers]
        for origin in filter(None, set(keepers)):
            its = [place for place, keeper in enumerate(keepers) if keeper == origin]
            released = [sizes[place] for place in its]
            self.accounts.keep(origin, remote_client.name, -sum(released))
            self.releases.add(
                remote_client.name, [numbers[place] for place in its], origin, large=max(released) > LARGE
            )

    def heard(self, session: PeerSession) -> None:
        """A client sent a message: release the outcomes that it has acked."""
        acked, told = session.channel.out.received, session.told
        while told and told[0][0] <= acked:
            self._release(session.peer, [row[0] for row in told.popleft()[1]])

    def cancel(self, remote_client: RemoteClient, number: int) -> None:
        task = remote_client.tasks.get(number)
        verdict: bool | None = False
        if number in remote_client.held:
            remote_client.unwanted.add(number)  # an agent that has not reconnected yet may run it
            return
        if task is not None:
            verdict = task.state is TaskState.NEW or self._coordinator.cancel(task)
            if verdict:
                task.empty()
                del remote_client.tasks[number]
            elif verdict is None:
                self._asked.add(task)
        if verdict is not None:
            self._say_cancelled(remote_client, number, verdict)

    def _say_cancelled(self, remote_client: RemoteClient, number: int, never: bool) -> None:
        if remote_client.session is not None:
            self._table.say(remote_client.session, PoolMessageType.CANCELLED, number, never)

    def returned(self, worker: Worker) -> None:
        """`worker` returned its unread batches: the tasks that it still has cannot be cancelled any more."""
        if not self._asked:
            return
        for task in worker.unanswered():
            if task in self._asked and isinstance(task, RemoteTask):
                self._coordinator.book.cancelled.discard(task)
                if task.remote_client.session is not None:
                    self._table.say(task.remote_client.session, PoolMessageType.CANCELLED, task.number, False)
        self._asked = {task for task in self._asked if task in self._coordinator.book.cancelled}

    def settled(self) -> bool:
        """True if all connected clients have acked all outcomes."""
        return not any(
            g.session and (g.outcomes or g.withheld or g.session.words or g.session.told)
            for g in self.all.values()
        )

    # -- time --------------------------------------------------------------------------------------

    def tick(self) -> None:
        now = self._table.now
        for name in list(self.accounts.arguments.wanted):
            if now >= self.all[name].wanted_at + self._lease:  # the client would have resent it by now
                self.accounts.arguments.want(name, 0)
        for remote_client in list(self.lists.expected.values()):
            if not remote_client.unclear:
                del self.lists.expected[remote_client.name]
                continue
            if now >= self._holds_until:
                self._stop_holding(remote_client)
            if now >= remote_client.since + self._lease:
                if remote_client.session is None:
                    self.depart(remote_client.name, f"its client was away for {self._lease:g} s")
                else:
                    self._release(remote_client, [*remote_client.kept, *remote_client.unasked()])
                    remote_client.kept.clear()
                    remote_client.forget_unread()

    def _stop_holding(self, remote_client: RemoteClient) -> None:
        """Run the tasks that no agent has claimed; claimed ones may be assigned to others once returned."""
        for number, held in remote_client.held.items():
            if number in remote_client.unwanted:
                held.empty()
                self._say_cancelled(remote_client, number, True)
            else:
                self._run(remote_client, held)
        remote_client.held.clear()
        remote_client.unwanted.clear()
        for number in list(remote_client.claimed):
            task = remote_client.tasks.get(number)
            if task is not None and task.filled:
                if task.state is TaskState.NEW:
                    self._run(remote_client, task)
                task.hollow = False
                remote_client.claimed.discard(number)

    def deadline(self) -> float | None:
        """When `tick` must be called next; None if it need not be."""
        if not self.lists.expected:
            return None
        expected = self.lists.expected.values()
        times = [g.since + self._lease for g in expected if g.kept or g.session is None or g.unasked()]
        holding = self._table.now < self._holds_until
        if holding and any(remote_client.held or remote_client.claimed for remote_client in expected):
            times.append(self._holds_until)
        return min(times, default=None)

    def flush(self) -> None:
        """Send the clients their outcomes and the number of workers."""
        lists = self.lists
        if lists.settling:
            for remote_client in lists.settling.values():
                remote_client.take_in_all()
            lists.settling.clear()
        if lists.held_back:
            self.reconsider()
        count = len(self._coordinator.workers)
        if count != self._workers:
            self._workers = count
            lists.telling.update(self.all)
        if not lists.telling:
            return
        for remote_client in lists.telling.values():
            if remote_client.session is None:
                continue
            if remote_client.outcomes:
                for rows in shares(remote_client.outcomes, messages.FORMS[PoolMessageType.OUTCOMES].blob):
                    self._table.say(remote_client.session, PoolMessageType.OUTCOMES, rows=rows)
                remote_client.outcomes = []
            if remote_client.workers != count:
                remote_client.workers = count
                self._table.say(remote_client.session, PoolMessageType.WORKERS, count)
        lists.telling.clear()
