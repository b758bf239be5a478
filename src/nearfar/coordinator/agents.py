"""The agents at a coordinator: each is a machine's workers behind one session. Pure."""

from __future__ import annotations

from typing import Any

from nearfar.coordinator.large_parts import MOST_ROWS, Row
from nearfar.coordinator.messages import PoolMessageType
from nearfar.coordinator.remote_client import RemoteTask
from nearfar.coordinator.remote_clients import RemoteClients
from nearfar.coordinator.scheduler import Scheduler
from nearfar.coordinator.sessions import PeerSession, PoolSessions
from nearfar.coordinator.state import Initializer, Preparation, TaskBatch, Worker
from nearfar.coordinator.task import Task, TaskState
from nearfar.errors import ProtocolError
from nearfar.net.validation import shown
from nearfar.serialization.pickles.calls import dump_bare

MOST_WORKERS = 1024
"""Workers of one agent."""
MOST_BROUGHT = 8
"""Batches that a reconnecting worker may report: it has two at most, and an initializer before each."""
MOST_TASKS = 1024
"""Tasks in all of these batches together."""
LONGEST_END = 500
"""Characters of the text on how a worker ended."""
LOCAL = 0
"""An initializer's number in messages of agents, and the bound's name for the local workers."""
MOST_LISTS = 16
"""Clients in one RELEASE: so it fits into a frame."""

_SETTLED = TaskState.SETTLED  # looked up once: it is compared with each task's state


class AgentSession:
    """One session of an agent; also the `Link` of its workers."""

    def __init__(self, table: PoolSessions, session: PeerSession) -> None:
        self.session = session
        self.workers: dict[str, Worker] = {}
        self.given: dict[str, int] = {}
        """Batches sent to each worker, including those that it reported when it came."""
        self.leaving = False
        self._table = table

    def give(self, worker: Worker, batch: TaskBatch) -> None:
        self.given[worker.name] += 1
        rows = [
            (
                task.number if type(task) is RemoteTask else LOCAL,
                task.mode,
                task.function,
                task.blob if type(task.blob) is not tuple else dump_bare(task.blob),
                task.buffers,
            )
            for task in batch.tasks
        ]
        self._table.say(self.session, PoolMessageType.WORK, worker.name, batch.client, rows=rows)

    def recall(self, worker: Worker) -> None:
        self._table.say(self.session, PoolMessageType.RECALL, worker.name)

    def kill(self, worker: Worker) -> None:
        self._table.say(self.session, PoolMessageType.KILL, worker.name)

    def retire(self, worker: Worker) -> None:
        self.forget(worker.name)
        self._table.say(self.session, PoolMessageType.RETIRE, worker.name)

    def forget(self, name: str) -> None:
        self.workers.pop(name, None)
        self.given.pop(name, None)


class Agents:
    """The agents by the names of their sessions. Messages that contradict the state raise `ProtocolError`."""

    def __init__(
        self,
        table: PoolSessions,
        coordinator: Scheduler,
        remote_clients: RemoteClients,
    ) -> None:
        self.all: dict[str, AgentSession] = {}
        self._table = table
        self._coordinator = coordinator
        self._remote_clients = remote_clients

    def arrive(self, session: PeerSession) -> None:
        """A session of an agent begins."""
        session.peer = self.all[session.name] = AgentSession(self._table, session)
        self._remote_clients.accounts.enter(session.name, session.most_bytes)

    def depart(self, name: str, why: str) -> None:
        """A session has ended: the tasks that its workers run are lost with them."""
        agent = self.all.pop(name, None)
        if agent is not None:
            for worker in list(agent.workers.values()):
                self._coordinator.died(worker, why, None)
            self._remote_clients.lost(agent.session)
            self._remote_clients.accounts.leave(name)

    def came(
        self,
        agent: AgentSession,
        name: str,
        pid: int,
        ran: int,
        prepared: list[str],
        batches: list[list[Any]],
    ) -> None:
        """A worker is ready; or it is older than this coordinator, and reports the batches that it has."""
        if not name.startswith(f"{agent.session.uid}/"):
            raise ProtocolError(f"{name} is not a name for a worker of {agent.session.uid}")
        if len(agent.workers) >= MOST_WORKERS:
            raise ProtocolError(f"{agent.session.uid} has more than {MOST_WORKERS} workers")
        if len(batches) > MOST_BROUGHT or sum(len(numbers) for _, numbers in batches) > MOST_TASKS:
            raise ProtocolError(f"{name} reports more batches than a worker ever has")
        if name in self._coordinator.workers:
            raise ProtocolError(f"there is a worker {name} already")
        session = agent.session
        worker = Worker(
            name, agent, host=session.host, pid=pid, quota=session.quota, ahead=False, origin=session.name
        )
        worker.ran = ran
        worker.prepared.update(prepared)
        if worker.quota is not None:
            worker.quota += len(prepared)
        for client, numbers in batches:
            tasks = [self._claimed(worker, client, number) for number in numbers]
            worker.batches.append(TaskBatch(client, tasks, None))
        agent.workers[name] = worker
        agent.given[name] = len(batches)
        self._coordinator.worker_came(worker, self._table.now)
        if agent.leaving:
            self._coordinator.drain(worker)

    def answers(self, agent: AgentSession, name: str, first: int, spent: float, rows: list[Row]) -> None:
        """A worker has run its next tasks."""
        worker = agent.workers.get(name)
        if worker is None:
            self._table.stale += len(rows)
            return
        if first != worker.ran + 1:
            raise ProtocolError(f"{name} answers task {first} after {worker.ran}")
        left = len(rows)
        for batch in worker.batches:
            for task in batch.tasks[batch.answered : batch.answered + left]:
                if task.state is _SETTLED and type(task) is RemoteTask:
                    self._remote_clients.releases.add(task.client, [task.number], worker.origin)
            left -= len(batch.tasks) - batch.answered
            if left <= 0:
                break
        self._coordinator.answered(worker, rows, spent, self._table.now)

    def kept(self, agent: AgentSession, rows: list[Row]) -> None:
        """Answers that an earlier coordinator received, and that their clients may not have received."""
        for client, *row in rows:
            self._remote_clients.keep(client, tuple(row), agent.session.name)

    def died(self, agent: AgentSession, name: str, how: str, unread: int, given: int) -> None:
        """A worker ended. It did not read the batches that were still on their way."""
        worker = agent.workers.get(name)
        if worker is not None:
            on_the_way = agent.given[name] - given
            if not 0 <= on_the_way + unread <= len(worker.batches) or on_the_way < 0:
                raise ProtocolError(f"{name} has not read more than it was given")
            agent.forget(name)
            self._coordinator.died(worker, shown(how, LONGEST_END), unread + on_the_way)

    def returned(self, agent: AgentSession, name: str, batches: int) -> None:
        """A worker returned the batches that it had not read, as it was asked."""
        worker = agent.workers.get(name)
        if worker is not None:
            if batches > len(worker.batches):
                raise ProtocolError(f"{name} gives back more than it has")
            agent.given[name] -= batches
            self._coordinator.returned(worker, batches)
            self._remote_clients.returned(worker)

    def memory(self, agent: AgentSession, workers: list[tuple[str, int]]) -> None:
        """How much memory its workers have; those that have ended meanwhile do not matter."""
        for name, size in workers:
            if (worker := agent.workers.get(name)) is not None:
                worker.memory = size

    def leaving(self, agent: AgentSession) -> None:
        """Send the agent no more tasks; each worker is retired once it has answered those that it runs."""
        agent.leaving = True
        for worker in list(agent.workers.values()):
            self._coordinator.drain(worker)

    def release(self) -> None:
        """Send the answers to release."""
        releases = self._remote_clients.releases
        for name, clients in releases.numbers.items():
            agent = self.all.get(name)
            if agent is not None:
                lists = [
                    [client, numbers[start : start + MOST_ROWS]]
                    for client, numbers in clients.items()
                    for start in range(0, len(numbers), MOST_ROWS)
                ]
                for start in range(0, len(lists), MOST_LISTS):
                    self._table.say(agent.session, PoolMessageType.RELEASE, lists[start : start + MOST_LISTS])
        releases.clear()

    def _claimed(self, worker: Worker, client: str, number: int) -> Task:
        if number:
            return self._remote_clients.claim(client, number)
        self._remote_clients.find(client)
        return Preparation(client, worker, Initializer(b"", b""))
