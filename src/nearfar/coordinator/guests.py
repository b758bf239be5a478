"""Clients elsewhere, as the coordinator sees them: their tasks, and outcomes they may not have yet. Pure.

A client's name and its tasks' numbers outlast its sessions, and coordinators. In each new session it submits
*again* what it has no outcome for. That must not run twice: it may still be here (then it is only attached to
the session), or an agent may bring it along from an earlier coordinator (*claim* it). For a lease after its
start, a coordinator therefore holds what is submitted again and not claimed, or was claimed and comes back
unread; then it runs.

What had begun when its client was given up is told as lost if the client comes after all.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from nearfar.coordinator import failures, parts, wire
from nearfar.coordinator.accounts import Accounts, too_large, weight
from nearfar.coordinator.desk import Desk, Session
from nearfar.coordinator.guest import Guest, Lists, RemoteTask
from nearfar.coordinator.machine import Coordinator
from nearfar.coordinator.parts import LARGE, Row, shares
from nearfar.coordinator.releases import Releases
from nearfar.coordinator.tasks import Outcome, State, Task
from nearfar.coordinator.wire import Kind
from nearfar.coordinator.workers import Initializer, Worker
from nearfar.errors import InitializerFailed, NearfarError, ProtocolError, WorkerLost
from nearfar.net.budget import EACH

BLOB = wire.FORMS[Kind.SUBMIT].blob
MOST_GHOSTS = 256
"""Clients remembered that were given up."""
MOST_GUESTS = 10_000
"""Clients, here or away."""


class Guests:
    """`lease` is in seconds; `now` that of the coordinator's start."""

    def __init__(
        self, desk: Desk, coordinator: Coordinator, lease: float, now: float, accounts: Accounts
    ) -> None:
        self.accounts = accounts
        self.all: dict[str, Guest] = {}
        self._desk = desk
        self._coordinator = coordinator
        self._lease = lease
        self._holds_until = now + lease
        self._ghosts: OrderedDict[str, tuple[set[int], str]] = OrderedDict()
        self.releases = Releases(desk)
        self.lists = Lists()
        self._workers = 0
        """How many there were when everybody was told last."""
        self._asked: set[Task] = set()
        """To be cancelled; their workers were asked to give them back."""

    # -- coming and going --------------------------------------------------------------------------

    def arrive(self, session: Session) -> None:
        """A session of a client begins."""
        guest = self.find(session.uid)
        guest.detach(self._desk.now)
        guest.session = session
        session.peer = guest
        self.lists.telling[guest.name] = guest

    def join(self, guest: Guest, eager: bool, rows: Sequence[Row]) -> None:
        """Its initializer, if there is a row."""
        if guest.joined:
            return
        guest.joined = True
        if not rows:
            return
        size = weight(*rows[0][1:])
        if self.accounts.too_large(size):
            said = too_large("initializer", size, self.accounts.largest)
            self._coordinator.fail_client(guest.client, InitializerFailed(said))
            return
        self.accounts.arguments.add(guest.name, size)
        guest.client.initializer = Initializer(*rows[0])
        guest.client.eager = eager
        self._coordinator.client_came(guest.client, self._desk.now)

    def depart(self, uid: str, why: str) -> None:
        """A client is gone: `why` is told should it come after all; nothing: it never will."""
        guest = self.all.pop(uid, None)
        if guest is None:
            return
        guest.detach(self._desk.now)
        self.lists.expected.pop(uid, None)
        if why and (began := guest.began()):
            self._ghosts[uid] = (began, why)
            if len(self._ghosts) > MOST_GHOSTS:
                self._ghosts.popitem(last=False)
        self.lists.held_back.pop(uid, None)
        self._asked.difference_update(guest.tasks.values())
        self._release(guest, list(guest.origins))
        guest.clear()
        self.accounts.forget(uid)
        self._coordinator.client_gone(uid)

    def find(self, uid: str) -> Guest:
        """The client of that name, or one made up that is waited for; `ProtocolError` for one too many."""
        guest = self.all.get(uid)
        if guest is None:
            if len(self.all) >= MOST_GUESTS:
                raise ProtocolError(f"there are {MOST_GUESTS} clients already")
            guest = self.all[uid] = Guest(uid, self._desk.now, self.lists, self.accounts)
            guest.expect()
            self._coordinator.client_came(guest.client, self._desk.now)
        return guest

    # -- tasks -------------------------------------------------------------------------------------

    def has_room(self, session: Session, rows: Sequence[Row]) -> bool:
        """False if the arguments in rows of SUBMIT are more than this client may have here now.

        What is here already is attached to the session all the same: its outcome may be what makes room.
        """
        guest, arguments = self.all.get(session.uid), self.accounts.arguments
        if guest is None:
            return True
        if arguments.fits(guest.name, EACH * len(rows) + parts.weight(rows, BLOB)):
            if arguments.wanted:
                arguments.want(guest.name, 0)
            return True
        fresh = [row for row in rows if not guest.has(row[0]) and row[0] not in session.handled]
        sizes = [weight(row[BLOB], row[BLOB + 1]) for row in fresh]
        size = sum(size for size in sizes if not self.accounts.too_large(size))
        if not size or arguments.fits(guest.name, size):
            arguments.want(guest.name, 0)
            return True
        arguments.want(guest.name, size)
        guest.wanted_at = self._desk.now
        known = [row for row in rows if guest.has(row[0]) and row[0] not in session.handled]
        self.submit(guest, True, known)
        session.handled.update(row[0] for row in known)
        return False

    def submit(self, guest: Guest, again: bool, rows: Sequence[Row]) -> None:
        """Tasks of a client that is here; `again`: an earlier coordinator may have had them."""
        guest.check_room(len(rows))
        if again or guest.session is None or guest.session.handled:
            self._submit_each(guest, again, rows)
            return
        highest, tasks = guest.highest, guest.tasks
        fresh: deque[RemoteTask] = deque()
        largest, total = self.accounts.largest, 0
        rest: Sequence[Row] = ()
        for place, row in enumerate(rows):
            number = row[0]
            task = RemoteTask(guest, number, row)
            if number <= highest or 0 < largest < task.weight:  # known already, perhaps, or too large
                rest = rows[place:]
                break
            highest = number
            total += task.weight
            tasks[number] = task
            fresh.append(task)
        guest.highest = highest
        if total:
            self.accounts.arguments.add(guest.name, total)
        self._coordinator.book.submit_all(guest.client, fresh)
        if rest:
            self._submit_each(guest, again, rest)

    def _submit_each(self, guest: Guest, again: bool, rows: Sequence[Row]) -> None:
        """The same, of tasks that may be known here."""
        handled = guest.session.handled if guest.session is not None else set()
        for row in rows:
            number = row[0]
            guest.highest = max(guest.highest, number)
            if number in handled:
                handled.discard(number)
                continue
            task = guest.tasks.get(number)
            if task is not None:
                self._attach(guest, task, row)
            elif number in guest.held:
                guest.held[number].session = guest.session
            elif number in guest.kept:
                guest.tell(guest.kept.pop(number))
            elif number in guest.withheld:
                guest.withheld[number].session = guest.session
            elif number in guest.weights:
                raise ProtocolError(f"{guest.name} submits task {number} again, which was told its outcome")
            else:
                task = RemoteTask(guest, number)
                task.session = guest.session
                size = weight(row[BLOB], row[BLOB + 1])
                if self.accounts.too_large(size):
                    guest.tasks[number] = task
                    said = too_large("arguments", size, self.accounts.largest)
                    task.failed(NearfarError(said))
                    continue
                task.fill(row)
                self._enter(guest, task, again)

    def _enter(self, guest: Guest, task: RemoteTask, again: bool) -> None:
        """A task that is not here. `again`: but it may be elsewhere, or have been here."""
        began, why = self._ghosts.get(guest.name, ((), "")) if again else ((), "")
        if task.number in began:
            guest.tasks[task.number] = task
            task.failed(WorkerLost("(unknown)", "", 0, f"was killed, for {why}", task.describe()))
        elif again and self._desk.now < self._holds_until:
            guest.held[task.number] = task
            guest.expect()
        else:
            self._run(guest, task)

    def _run(self, guest: Guest, task: RemoteTask) -> None:
        guest.tasks[task.number] = task
        task.hollow = False
        self._coordinator.submit(task)

    def _attach(self, guest: Guest, task: RemoteTask, row: Row) -> None:
        task.session = guest.session
        if not task.filled:
            task.fill(row)
            if task.state is State.NEW:
                self._enter(guest, guest.tasks.pop(task.number), again=True)
            else:
                self._coordinator.resumed(task, self._desk.now)

    def claim(self, uid: str, number: int) -> RemoteTask:
        """A task that a worker was given by an earlier coordinator."""
        guest = self.find(uid)
        if guest.session is None:
            guest.since = self._desk.now
        task = self._known(guest, number)
        if task is None:
            task = RemoteTask(guest, number)
        elif task.state >= State.GIVEN:
            task = RemoteTask(guest, number)
            task.state = State.SETTLED  # another runs it, and answers for it
            return task
        if task.state is State.WAITING:
            guest.client.waiting.remove(task)
        task.state = State.GIVEN
        guest.tasks[number] = task
        guest.highest = max(guest.highest, number)
        guest.claimed.add(number)
        guest.expect()
        return task

    def keep(self, uid: str, row: Row, origin: str) -> None:
        """An agent has an answer that an earlier coordinator did not release."""
        guest = self.find(uid)
        number = row[0]
        guest.highest = max(guest.highest, number)
        if number in guest.withheld:
            self._fetched(guest, row, origin)
            return
        guest.check_room(1)
        guest.since = self._desk.now
        task = self._known(guest, number)
        if task is None:
            if guest.take_in(row, origin, None):
                guest.offer(row, None)
        elif task.state is State.SETTLED:
            self.releases.add(uid, [number], origin)
        else:
            guest.tasks[number] = task
            task.origin = origin
            task.state = State.SETTLED
            task.answered(*row[1:])

    def _known(self, guest: Guest, number: int) -> RemoteTask | None:
        """The task of that number, if there is one; a settled one if there is but its outcome."""
        task = guest.held.pop(number, None) or guest.tasks.get(number)
        if number in guest.unwanted:
            guest.unwanted.discard(number)
            self._say_cancelled(guest, number, False)
        if task is None and (number in guest.weights or number in guest.origins):
            task = RemoteTask(guest, number)
            task.state = State.SETTLED
        return task

    def _fetched(self, guest: Guest, row: Row, origin: str) -> None:
        """An agent says again what there is room for now. Raises `ProtocolError` for what that cannot be."""
        number = row[0]
        withheld = guest.withheld[number]
        if withheld.origin != origin:
            self.releases.add(guest.name, [number], origin)
            return
        if not withheld.fetched or weight(row[2], row[3]) != withheld.size:
            raise ProtocolError(f"task {number} of {guest.name} had another answer before")
        del guest.withheld[number]
        guest.offer(row, withheld.session)

    def lost(self, session: Session) -> None:
        """An agent is gone, and with it the answers that there was no room for here."""
        for guest in list(self.lists.held_back.values()):
            for number, withheld in list(guest.withheld.items()):
                if withheld.origin == session.name:
                    del guest.withheld[number]
                    guest.origins.pop(number, None)
                    guest.unweigh(number)
                    how = "was lost, with an answer for which its client had made no room"
                    error = WorkerLost(session.uid, session.host, session.pid, how)
                    row: Row = (number, Outcome.FAILED, failures.describe(error), [])
                    guest.weigh(number, weight(row[2], ()))
                    guest.offer(row, withheld.session)

    def reconsider(self) -> None:
        """Hold back the tasks of clients that do not take their results, or go on with them; have agents say
        what there is room for now."""
        for guest in list(self.lists.held_back.values()):
            if not guest.client.held_back:
                self._coordinator.hold(guest.client, True)
            if guest.withheld:
                self._fetch(guest)
            elif self.accounts.eased(guest.name):
                del self.lists.held_back[guest.name]
                self._coordinator.hold(guest.client, False)

    def _fetch(self, guest: Guest) -> None:
        for number, withheld in guest.withheld.items():
            if withheld.fetched or withheld.session is not guest.session or guest.session is None:
                continue
            agent = self._desk.sessions.get(withheld.origin)
            if agent is None or not self.accounts.results.fits(guest.name, withheld.size):
                return
            withheld.fetched = True
            guest.weigh(number, withheld.size)
            self._desk.say(agent, Kind.FETCH, [[guest.name, [number]]])

    def _release(self, guest: Guest, numbers: Sequence[int]) -> None:
        """Outcomes are not needed any more: neither here, nor at the agents that keep them."""
        weights, origins = guest.weights, guest.origins
        freed = 0
        agents: dict[str, list[int]] = {}
        sizes: dict[str, int] = {}
        large: set[str] = set()
        for number in numbers:
            size = weights.pop(number, 0)
            freed += size
            if guest.withheld and (withheld := guest.withheld.pop(number, None)) is not None:
                size = withheld.size
            origin = origins.pop(number, "")
            if not origin:
                continue
            if origin in agents:
                agents[origin].append(number)
                sizes[origin] += size
            else:
                agents[origin], sizes[origin] = [number], size
            if size > LARGE:
                large.add(origin)
        if freed:
            self.accounts.results.add(guest.name, -freed)
        for origin, released in agents.items():
            self.accounts.keep(origin, guest.name, -sizes[origin])
            self.releases.add(guest.name, released, origin, large=origin in large)

    def heard(self, session: Session) -> None:
        """A client spoke: it may have acked outcomes."""
        acked, told = session.talk.out.received, session.told
        while told and told[0][0] <= acked:
            self._release(session.peer, [row[0] for row in told.popleft()[1]])

    def cancel(self, guest: Guest, number: int) -> None:
        task = guest.tasks.get(number)
        verdict: bool | None = False
        if number in guest.held:
            guest.unwanted.add(number)  # it may run elsewhere: an agent may still come and say so
            return
        if task is not None:
            verdict = task.state is State.NEW or self._coordinator.cancel(task)
            if verdict:
                task.empty()
                del guest.tasks[number]
            elif verdict is None:
                self._asked.add(task)
        if verdict is not None:
            self._say_cancelled(guest, number, verdict)

    def _say_cancelled(self, guest: Guest, number: int, never: bool) -> None:
        if guest.session is not None:
            self._desk.say(guest.session, Kind.CANCELLED, number, never)

    def returned(self, worker: Worker) -> None:
        """`worker` gave back what it had not read: what it still has can't be cancelled any more."""
        if not self._asked:
            return
        for task in worker.unanswered():
            if task in self._asked and isinstance(task, RemoteTask):
                self._coordinator.book.cancelled.discard(task)
                if task.guest.session is not None:
                    self._desk.say(task.guest.session, Kind.CANCELLED, task.number, False)
        self._asked = {task for task in self._asked if task in self._coordinator.book.cancelled}

    def settled(self) -> bool:
        """True if those who are here have acked all outcomes."""
        return not any(
            g.session and (g.outcomes or g.withheld or g.session.words or g.session.told)
            for g in self.all.values()
        )

    # -- time --------------------------------------------------------------------------------------

    def tick(self) -> None:
        now = self._desk.now
        for name in list(self.accounts.arguments.wanted):
            if now >= self.all[name].wanted_at + self._lease:  # it would have said it again by now
                self.accounts.arguments.want(name, 0)
        for guest in list(self.lists.expected.values()):
            if not guest.unclear:
                del self.lists.expected[guest.name]
                continue
            if now >= self._holds_until:
                self._stop_holding(guest)
            if now >= guest.since + self._lease:
                if guest.session is None:
                    self.depart(guest.name, f"its client was away for {self._lease:g} s")
                else:
                    self._release(guest, [*guest.kept, *guest.unasked()])
                    guest.kept.clear()
                    guest.forget_unread()

    def _stop_holding(self, guest: Guest) -> None:
        """What no agent has claimed by now is to run; what one has may run elsewhere if it comes back."""
        for number, held in guest.held.items():
            if number in guest.unwanted:
                held.empty()
                self._say_cancelled(guest, number, True)
            else:
                self._run(guest, held)
        guest.held.clear()
        guest.unwanted.clear()
        for number in list(guest.claimed):
            task = guest.tasks.get(number)
            if task is not None and task.filled:
                if task.state is State.NEW:
                    self._run(guest, task)
                task.hollow = False
                guest.claimed.discard(number)

    def deadline(self) -> float | None:
        """When `tick` has something to do."""
        if not self.lists.expected:
            return None
        expected = self.lists.expected.values()
        times = [g.since + self._lease for g in expected if g.kept or g.session is None or g.unasked()]
        holding = self._desk.now < self._holds_until
        if holding and any(guest.held or guest.claimed for guest in expected):
            times.append(self._holds_until)
        return min(times, default=None)

    def flush(self) -> None:
        """Say what there is to be told."""
        lists = self.lists
        if lists.settling:
            for guest in lists.settling.values():
                guest.take_in_all()
            lists.settling.clear()
        if lists.held_back:
            self.reconsider()
        count = len(self._coordinator.workers)
        if count != self._workers:
            self._workers = count
            lists.telling.update(self.all)
        if not lists.telling:
            return
        for guest in lists.telling.values():
            if guest.session is None:
                continue
            if guest.outcomes:
                for rows in shares(guest.outcomes, wire.FORMS[Kind.OUTCOMES].blob):
                    self._desk.say(guest.session, Kind.OUTCOMES, rows=rows)
                guest.outcomes = []
            if guest.workers != count:
                guest.workers = count
                self._desk.say(guest.session, Kind.WORKERS, count)
        lists.telling.clear()
