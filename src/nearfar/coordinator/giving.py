"""Giving tasks to workers and taking them back: what the coordinator does to bring its decisions about."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from nearfar.coordinator.alarms import Alarms
from nearfar.coordinator.book import Answer, Book
from nearfar.coordinator.clients import Client
from nearfar.coordinator.costs import Costs
from nearfar.coordinator.roster import Roster
from nearfar.coordinator.tasks import Task
from nearfar.coordinator.workers import Batch, Preparation, Recall, Stage, Worker

_READY = Stage.READY
"""Looked up once: an attribute of an enum costs eight times a global."""


class Giving:
    """The half of `nearfar.coordinator.machine.Coordinator` that moves batches."""

    def __init__(self) -> None:
        self.book = Book()
        self._roster = Roster()
        self._costs = Costs()
        self._alarms = Alarms()

    @property
    def workers(self) -> dict[str, Worker]:
        """By name."""
        return self._roster.all

    @property
    def idle(self) -> Mapping[str, Worker]:
        """The workers that have nothing to do; the same object always."""
        return self._roster.idle

    @property
    def outcomes(self) -> deque[tuple[Task, Answer | BaseException]]:
        """Tasks that have come to an end; who runs the machine empties it, and tells them."""
        return self.book.outcomes

    def _give(self, worker: Worker, client: Client, now: float) -> None:
        batch = self._costs.cut(client, worker, len(self._roster.all))
        if client.initializer is None or client.name in worker.prepared:
            self._hand(worker, batch, now)
        else:
            self._prepare(worker, client, now)
            if client.name not in worker.prepared:  # it could not be sent, and nothing of its client runs
                self.book.requeue(batch.tasks, worker)
                return
            worker.unsent = batch
            worker.batches.append(batch)
            self.book.given(batch)
            self._place(worker)

    def _heir(self, worker: Worker, client: Client) -> Client:
        """Who is next behind what `worker` runs: among equals the same client.

        Or one that keeps its own workers busy for long would get between the short tasks of another.
        """
        if worker.batches and worker.batches[0].client != client.name:
            own = self.book.clients.get(worker.batches[0].client)
            if own is not None and own.given <= client.given and own.next() is not None:
                return own
        return client

    def _prepare_early(self, worker: Worker, client: Client, now: float) -> None:
        """Have an eager initializer run in `worker`, if it can run there now."""
        wanted = client.eager and client.error is None and client.name not in worker.prepared
        if wanted and self._roster.has_room(worker):
            self._prepare(worker, client, now)

    def _prepare(self, worker: Worker, client: Client, now: float) -> None:
        """Have `worker` run the initializer of `client`."""
        assert client.initializer is not None
        worker.prepared.add(client.name)
        if worker.quota is not None:
            worker.quota += 1
        task = Preparation(client.name, worker, client.initializer)
        self._hand(worker, Batch(client.name, [task], None), now)

    def _hand(self, worker: Worker, batch: Batch, now: float) -> None:
        worker.batches.append(batch)
        self.book.given(batch)
        batch.since = now
        special = batch.tasks[0].timeout is not None or worker.recall is not Recall.UNASKED
        if special and len(worker.batches) == 1:
            self._begin(worker, now)
        self._place(worker)
        worker.link.give(worker, batch)

    def _begin(self, worker: Worker, now: float) -> None:
        """The head batch of `worker`, if there is one, has its turn now."""
        if worker.recall is Recall.IN_VAIN:
            worker.recall = Recall.UNASKED
        if not worker.batches:
            return
        batch = worker.batches[0]
        if worker.unsent is batch:
            client = self.book.clients.get(batch.client)
            if client is None or client.error is not None or worker.stage is not Stage.READY:
                self._take_back(worker)
                return
            worker.unsent = None
            worker.link.give(worker, batch)
            if not worker.batches:
                return
        batch.since = now
        if (timeout := batch.tasks[0].timeout) is not None:
            self._alarms.set(now + timeout, worker)

    def _place(self, worker: Worker) -> None:
        """Note what room `worker` has, or let it go."""
        if worker.stage is _READY and (worker.batches or worker.quota is None):
            self._roster.place(worker)  # it has something to do, or will get something
        elif worker.stage is Stage.GONE:
            return
        elif worker.retirable():
            worker.stage = Stage.GONE
            self._roster.remove(worker)
            worker.link.retire(worker)
        else:
            self._roster.place(worker)

    def _take_back(self, worker: Worker, batches: int = 1) -> None:
        """The last of what `worker` was given is nobody's again."""
        worker.unsent = None
        for _ in range(min(batches, len(worker.batches))):
            batch = worker.batches.pop()
            self.book.over(batch)
            self.book.requeue(batch.unanswered(), worker)

    def _ask_back(self, worker: Worker) -> None:
        if worker.unsent is not None:
            self._take_back(worker)
            self._place(worker)
        if len(worker.batches) > 1 and worker.recall is Recall.UNASKED:
            worker.recall = Recall.ASKED
            self._place(worker)
            worker.link.recall(worker)

    def _doom(self, worker: Worker, verdict: BaseException | None = None) -> None:
        if worker.stage < Stage.DOOMED:
            worker.stage = Stage.DOOMED
            worker.verdict = verdict
            self._place(worker)
            worker.link.kill(worker)

    def _free(self, worker: Worker) -> None:
        """Kill it if all that it has is for clients that are gone: what others have there is back first."""
        clients, batches = self.book.clients, worker.batches
        if not batches or batches[0].client in clients or worker.recall is Recall.ASKED:
            return
        if not any(batch.client in clients for batch in batches):
            self._doom(worker)
