"""Agents, as the coordinator sees them: whole machines of workers, each behind one session. Pure."""

from __future__ import annotations

from typing import Any

from nearfar.coordinator.desk import Desk, Session
from nearfar.coordinator.guest import RemoteTask
from nearfar.coordinator.guests import Guests
from nearfar.coordinator.machine import Coordinator
from nearfar.coordinator.parts import MOST_ROWS, Row
from nearfar.coordinator.tasks import State, Task
from nearfar.coordinator.wire import Kind
from nearfar.coordinator.workers import Batch, Initializer, Preparation, Worker
from nearfar.errors import ProtocolError
from nearfar.net.complaints import shown

RELEASE_EVERY = 64
"""Small answers that may be released: what waits for company costs its agent no message, and no wake-up."""
MOST_WORKERS = 1024
"""Workers of one agent."""
MOST_BROUGHT = 8
"""Batches that a worker may bring along: it has two at most, and an initializer before each."""
MOST_TASKS = 1024
"""Tasks in all of these together."""
LONGEST_END = 500
"""Characters of what is told of a worker's end."""
LOCAL = 0
"""What an agent calls an initializer, and what lives and dies with this process."""
MOST_LISTS = 16
"""Clients in one RELEASE: so it fits into a frame."""

_SETTLED = State.SETTLED  # once, for it is compared with each task's


class Agent:
    """One session of an agent; also the `Link` of its workers."""

    def __init__(self, desk: Desk, session: Session) -> None:
        self.session = session
        self.workers: dict[str, Worker] = {}
        self.given: dict[str, int] = {}
        """Batches sent to each worker, those among them that it brought along."""
        self.leaving = False
        self._desk = desk

    def give(self, worker: Worker, batch: Batch) -> None:
        self.given[worker.name] += 1
        rows = [
            (
                task.number if type(task) is RemoteTask else LOCAL,
                task.mode,
                task.function,
                task.blob,
                task.buffers,
            )
            for task in batch.tasks
        ]
        self._desk.say(self.session, Kind.WORK, worker.name, batch.client, rows=rows)

    def recall(self, worker: Worker) -> None:
        self._desk.say(self.session, Kind.RECALL, worker.name)

    def kill(self, worker: Worker) -> None:
        self._desk.say(self.session, Kind.KILL, worker.name)

    def retire(self, worker: Worker) -> None:
        self.forget(worker.name)
        self._desk.say(self.session, Kind.RETIRE, worker.name)

    def forget(self, name: str) -> None:
        self.workers.pop(name, None)
        self.given.pop(name, None)


class Agents:
    """By the names of their sessions. Their words raise `ProtocolError` when they cannot be true."""

    def __init__(self, desk: Desk, coordinator: Coordinator, guests: Guests, patience: float) -> None:
        """`patience`: seconds that a few small answers wait for company before they are released."""
        self.all: dict[str, Agent] = {}
        self._patience = patience
        self._desk = desk
        self._coordinator = coordinator
        self._guests = guests

    def arrive(self, session: Session) -> None:
        """A session of an agent begins."""
        session.peer = self.all[session.name] = Agent(self._desk, session)
        self._guests.accounts.enter(session.name, session.most_bytes)

    def depart(self, name: str, why: str) -> None:
        """A session is over: what its workers run is lost with them."""
        agent = self.all.pop(name, None)
        if agent is not None:
            for worker in list(agent.workers.values()):
                self._coordinator.died(worker, why, None)
            self._guests.lost(agent.session)
            self._guests.accounts.leave(name)

    def came(
        self, agent: Agent, name: str, pid: int, ran: int, prepared: list[str], batches: list[list[Any]]
    ) -> None:
        """A worker is ready; or it is older than this coordinator, and comes with what it was given."""
        if not name.startswith(f"{agent.session.uid}/"):
            raise ProtocolError(f"{name} is not a name for a worker of {agent.session.uid}")
        if len(agent.workers) >= MOST_WORKERS:
            raise ProtocolError(f"{agent.session.uid} has more than {MOST_WORKERS} workers")
        if len(batches) > MOST_BROUGHT or sum(len(numbers) for _, numbers in batches) > MOST_TASKS:
            raise ProtocolError(f"{name} brings more along than a worker ever has")
        if name in self._coordinator.workers:
            raise ProtocolError(f"there is a worker {name} already")
        worker = Worker(name, agent, host=agent.session.host, pid=pid, quota=agent.session.quota, ahead=False)
        worker.ran = ran
        worker.prepared.update(prepared)
        if worker.quota is not None:
            worker.quota += len(prepared)
        for client, numbers in batches:
            tasks = [self._claimed(worker, client, number) for number in numbers]
            worker.batches.append(Batch(client, tasks, None))
        agent.workers[name] = worker
        agent.given[name] = len(batches)
        self._coordinator.worker_came(worker, self._desk.now)
        if agent.leaving:
            self._coordinator.drain(worker)

    def answers(self, agent: Agent, name: str, first: int, spent: float, rows: list[Row]) -> None:
        """The next tasks of a worker ran."""
        worker = agent.workers.get(name)
        if worker is None:
            self._desk.stale += len(rows)
            return
        if first != worker.ran + 1:
            raise ProtocolError(f"{name} answers task {first} after {worker.ran}")
        origin, left = agent.session.name, len(rows)
        for batch in worker.batches:
            for task in batch.tasks[batch.answered : batch.answered + left]:
                if type(task) is RemoteTask:
                    task.origin = origin
                    if task.state is _SETTLED:
                        self._guests.releases.add(task.client, [task.number], origin)
            left -= len(batch.tasks) - batch.answered
            if left <= 0:
                break
        self._coordinator.answered(worker, rows, spent, self._desk.now)

    def kept(self, agent: Agent, rows: list[Row]) -> None:
        """Answers that an earlier coordinator had, and perhaps not their clients."""
        for client, *row in rows:
            self._guests.keep(client, tuple(row), agent.session.name)

    def died(self, agent: Agent, name: str, how: str, unread: int, given: int) -> None:
        """A worker ended. What was still on its way to it was read by nobody."""
        worker = agent.workers.get(name)
        if worker is not None:
            on_the_way = agent.given[name] - given
            if not 0 <= on_the_way + unread <= len(worker.batches) or on_the_way < 0:
                raise ProtocolError(f"{name} has not read more than it was given")
            agent.forget(name)
            self._coordinator.died(worker, shown(how, LONGEST_END), unread + on_the_way)

    def returned(self, agent: Agent, name: str, batches: int) -> None:
        """A worker was asked to give back what it has not read."""
        worker = agent.workers.get(name)
        if worker is not None:
            if batches > len(worker.batches):
                raise ProtocolError(f"{name} gives back more than it has")
            agent.given[name] -= batches
            self._coordinator.returned(worker, batches)
            self._guests.returned(worker)

    def leaving(self, agent: Agent) -> None:
        """Give it no more; each worker is retired once it has answered what it runs."""
        agent.leaving = True
        for worker in list(agent.workers.values()):
            self._coordinator.drain(worker)

    def deadline(self) -> float | None:
        """When `flush` is wanted."""
        since = self._guests.releases.since
        return None if since is None else since + self._patience

    def flush(self) -> None:
        """Say what there is to be told."""
        releases = self._guests.releases
        if self._desk.now < (releases.since or 0.0) + self._patience and releases.weight < RELEASE_EVERY:
            return
        for name, clients in releases.numbers.items():
            agent = self.all.get(name)
            if agent is not None:
                lists = [
                    [client, numbers[start : start + MOST_ROWS]]
                    for client, numbers in clients.items()
                    for start in range(0, len(numbers), MOST_ROWS)
                ]
                for start in range(0, len(lists), MOST_LISTS):
                    self._desk.say(agent.session, Kind.RELEASE, lists[start : start + MOST_LISTS])
        releases.clear()

    def _claimed(self, worker: Worker, client: str, number: int) -> Task:
        if number:
            return self._guests.claim(client, number)
        self._guests.find(client)
        return Preparation(client, worker, Initializer(b"", b""))
