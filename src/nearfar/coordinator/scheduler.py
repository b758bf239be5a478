"""The scheduler, as a pure state machine: which task goes to which worker, and how each task ends.

Events are method calls. Actions go through each worker's `Link`; ended tasks are appended to `outcomes`,
which the caller delivers while it holds no lock.

::

    submit --> WAITING -- flush --> GIVEN -- answered --> SETTLED
                  ^                  | |
                  +- returned, died -+ +- died while it ran, or too slow --> WAITING (retries) or SETTLED

A worker has one batch that it runs and at most one ahead. It answers tasks in the order in which it received
them, so answers need no identifier. When a worker dies, the batches it had not read, and the tasks after the
one that it ran, are assigned to other workers: only the running task counts as lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from nearfar.coordinator.placement import BatchSizer, Placement
from nearfar.coordinator.registry import Answer, TaskRegistry
from nearfar.coordinator.state import (
    NOBODY,
    Client,
    Preparation,
    Revocation,
    TaskBatch,
    TaskTimeouts,
    Worker,
    WorkerStage,
)
from nearfar.coordinator.task import Task, TaskState
from nearfar.errors import ProtocolError, TaskTimeout
from nearfar.serialization.tracebacks import anew

_READY = WorkerStage.READY
"""Looked up once: an attribute of an enum costs eight times a global."""


class Dispatcher:
    """The half of `nearfar.coordinator.scheduler.Scheduler` that moves batches."""

    def __init__(self) -> None:
        self.book = TaskRegistry()
        self._placement = Placement()
        self._costs = BatchSizer()
        self._alarms = TaskTimeouts()
        self.workers: dict[str, Worker] = self._placement.all
        """By name; always the same object, as the next two."""
        self.idle: Mapping[str, Worker] = self._placement.idle
        """The workers that have nothing to do."""
        self.outcomes: deque[tuple[Task, Answer | BaseException]] = self.book.outcomes
        """Ended tasks; the caller empties it and delivers them."""

    def _give(self, worker: Worker, client: Client, now: float) -> None:
        batch = self._costs.cut(client, worker, len(self._placement.all))
        if client.initializer is None or client.name in worker.prepared:
            self._hand(worker, batch, now)
        else:
            self._prepare(worker, client, now)
            if client.name not in worker.prepared:  # it could not be sent, so no task of its client runs
                self.book.requeue(batch.tasks, worker)
                return
            worker.unsent = batch
            worker.batches.append(batch)
            self.book.given(batch)
            self._place(worker)

    def _heir(self, worker: Worker, client: Client) -> Client:
        """The client whose batch follows the one that `worker` runs: among equals, the same client.

        Otherwise a client with long tasks would get in between the short tasks of another.
        """
        if worker.batches and worker.batches[0].client != client.name:
            own = self.book.clients.get(worker.batches[0].client)
            if own is not None and own.given <= client.given and own.next() is not None:
                return own
        return client

    def _prepare_early(self, worker: Worker, client: Client, now: float) -> None:
        """Run an eager initializer in `worker`, if it can run there now."""
        wanted = client.eager and client.error is None and client.name not in worker.prepared
        if wanted and self._placement.has_room(worker):
            self._prepare(worker, client, now)

    def _prepare(self, worker: Worker, client: Client, now: float) -> None:
        """Send the initializer of `client` to `worker`."""
        assert client.initializer is not None
        worker.prepared.add(client.name)
        if worker.quota is not None:
            worker.quota += 1
        task = Preparation(client.name, worker, client.initializer)
        self._hand(worker, TaskBatch(client.name, [task], None), now)

    def _hand(self, worker: Worker, batch: TaskBatch, now: float) -> None:
        worker.batches.append(batch)
        self.book.given(batch)
        batch.since = now
        special = batch.tasks[0].timeout is not None or worker.recall is not Revocation.UNASKED
        if special and len(worker.batches) == 1:
            self._begin(worker, now)
        self._place(worker)
        worker.link.give(worker, batch)

    def _begin(self, worker: Worker, now: float) -> None:
        """Record that the first batch of `worker`, if it has one, begins now."""
        if worker.recall is Revocation.IN_VAIN:
            worker.recall = Revocation.UNASKED
        if not worker.batches:
            return
        batch = worker.batches[0]
        if worker.unsent is batch:
            client = self.book.clients.get(batch.client)
            if client is None or client.error is not None or worker.stage is not WorkerStage.READY:
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
        """Record what `worker` can take, or retire it."""
        if worker.stage is _READY and (worker.batches or worker.quota is None):
            self._placement.place(worker)  # it has something to do, or will get something
        elif worker.stage is WorkerStage.GONE:
            return
        elif worker.retirable():
            worker.stage = WorkerStage.GONE
            self._placement.remove(worker)
            worker.link.retire(worker)
        else:
            self._placement.place(worker)

    def _take_back(self, worker: Worker, batches: int = 1) -> None:
        """Take the last `batches` from `worker`."""
        worker.unsent = None
        for _ in range(min(batches, len(worker.batches))):
            batch = worker.batches.pop()
            self.book.over(batch)
            self.book.requeue(batch.unanswered(), worker)

    def _ask_back(self, worker: Worker) -> None:
        if worker.unsent is not None:
            self._take_back(worker)
            self._place(worker)
        if len(worker.batches) > 1 and worker.recall is Revocation.UNASKED:
            worker.recall = Revocation.ASKED
            self._place(worker)
            worker.link.recall(worker)

    def _end_worker(self, worker: Worker, verdict: BaseException | None = None) -> None:
        if worker.stage < WorkerStage.DOOMED:
            worker.stage = WorkerStage.DOOMED
            worker.verdict = verdict
            self._place(worker)
            worker.link.kill(worker)

    def _free(self, worker: Worker) -> None:
        """Kill it if it only has tasks of clients that are gone; other clients' tasks are recalled first."""
        clients, batches = self.book.clients, worker.batches
        if not batches or batches[0].client in clients or worker.recall is Revocation.ASKED:
            return
        if not any(batch.client in clients for batch in batches):
            self._end_worker(worker)


_UNASKED = Revocation.UNASKED
"""Looked up once: an attribute of an enum costs eight times a global."""


class Scheduler(Dispatcher):
    """See the module. `now` is in seconds of any steady clock."""

    # -- clients and their tasks -------------------------------------------------------------------

    def client_came(self, client: Client, now: float) -> None:
        """Add a client; call it again once its initializer is known. `ProtocolError`: its name is taken."""
        if self.book.clients.get(client.name, client) is not client:
            raise ProtocolError(f"there is a client {client.name} already")
        self.book.came(client)
        for worker in list(self.workers.values()):
            self._prepare_early(worker, client, now)

    def client_gone(self, name: str) -> None:
        """Drop its tasks without an outcome, and kill the workers that run them."""
        if not self.book.gone(name):
            return
        for worker in list(self.workers.values()):
            worker.prepared.discard(name)
            its = [batch for batch in worker.batches if batch.client == name]
            for batch in its:
                self.book.drop(batch.unanswered())
                batch.client = NOBODY
            if its:
                self._ask_back(worker)
                self._free(worker)

    def fail_client(self, client: Client, error: BaseException) -> None:
        """End all its tasks with `error` now; running ones go on, and their answers are dropped."""
        given = [task for worker in self.workers.values() for task in worker.unanswered()]
        self.book.fail_client(client, error, (task for task in given if task.client == client.name))

    def hold(self, client: Client, back: bool) -> None:
        """`back`: assign no task of this client, and recall its unread ones; else resume."""
        self.book.hold(client, back)
        if back:
            for worker in list(self.workers.values()):
                if worker.batches and worker.batches[-1].client == client.name:
                    self._ask_back(worker)

    def submit(self, task: Task) -> None:
        """Accept a task of a known client; a task of a client with an error ends at once."""
        self.book.submit(task)

    def cancel(self, task: Task) -> bool | None:
        """True: it will never run, and gets no other outcome. False: too late, it may have begun.

        None: its worker was asked to return it; its outcome will be `CancelledError` or an answer.
        """
        if task.state is TaskState.GIVEN:
            holder = self._placement.holder_ahead(task)
            if holder is None:
                return False
            self._ask_back(holder)
            if task.state is TaskState.GIVEN and holder.recall is Revocation.ASKED:
                self.book.cancelled.add(task)
                return None
        if task.state is not TaskState.WAITING:
            return False
        task.state = TaskState.SETTLED
        return True

    # -- workers -----------------------------------------------------------------------------------

    def worker_came(self, worker: Worker, now: float) -> None:
        """A worker is ready, or reports batches of an earlier coordinator: their tasks are GIVEN, and most of
        them hollow. Raises `ProtocolError` if its name is taken."""
        if worker.name in self.workers:
            raise ProtocolError(f"there is a worker {worker.name} already")
        self.workers[worker.name] = worker
        for batch in worker.batches:
            self.book.given(batch)
        self._begin(worker, now)
        self._place(worker)
        for client in self.book.clients.values():
            self._prepare_early(worker, client, now)

    def resumed(self, task: Task, now: float) -> None:
        """The arguments of a hollow task are known now; its `timeout` counts from now if a worker runs it."""
        for worker in self.workers.values():
            if worker.batches and worker.batches[0].tasks[0] is task:
                self._begin(worker, now)

    def drain(self, worker: Worker) -> None:
        """Assign it no more tasks; it is retired once it has answered those that it runs."""
        if worker.stage is WorkerStage.READY:
            worker.stage = WorkerStage.DRAINING
            self._ask_back(worker)
            self._place(worker)

    def answered(self, worker: Worker, answers: Sequence[Answer], spent: float, now: float) -> None:
        """`worker` has run its next tasks, which took `spent` seconds together.

        Raises `ProtocolError`, changing nothing, for more answers than it has tasks.
        """
        count = len(answers)
        if count > worker.asked():
            raise ProtocolError(f"worker {worker.name} answers more tasks than it has")
        worker.ran += count
        if count and self.book.statistics is not None:
            self.book.statistics.answered(answers, spent)
        taken = 0
        while taken < count:
            batch = worker.batches[0]
            tasks = batch.tasks[batch.answered : batch.answered + count - taken]
            batch.answered += len(tasks)
            self._costs.learn(tasks[0], spent / count)
            self.book.answered(tasks, islice(answers, taken, None), batch.owner, worker.origin)
            taken += len(tasks)
            if batch.answered == len(batch.tasks):
                worker.batches.popleft()
                self.book.over(batch)
                if worker.batches or worker.recall is not _UNASKED:
                    self._begin(worker, now)
                    self._free(worker)
        self._place(worker)

    def returned(self, worker: Worker, batches: int) -> None:
        """`worker` returns its last `batches`, which it has not read (0: it had read them all)."""
        worker.recall = Revocation.UNASKED if batches else Revocation.IN_VAIN
        self._take_back(worker, batches)
        self._free(worker)
        self._place(worker)

    def refused(self, worker: Worker, error: BaseException) -> None:
        """The batch just assigned to `worker` cannot be sent: this machine has no room for it.

        Called inside `Link.give`. If an initializer cannot be sent, all tasks of its client fail.
        """
        batch = worker.batches.pop()
        self.book.over(batch)
        for task in batch.unanswered():
            self.book.refuse(task, worker, error)
        self._place(worker)

    def died(self, worker: Worker, how: str, unread: int | None) -> None:
        """A worker has died, and all its answers have been reported.

        `unread`: how many of its last batches it never read. None: unknown (its machine fell silent), so all
        of its tasks may have begun, and count as lost with it.
        """
        if worker.stage is WorkerStage.GONE:
            return
        worker.stage = WorkerStage.GONE
        self._placement.remove(worker)
        batches = list(worker.batches)
        worker.batches.clear()
        for batch in batches:
            self.book.over(batch)
        claimed = max(0, len(batches) - (unread or 0) - (worker.unsent is not None))
        for batch in reversed(batches[claimed:]):
            self.book.requeue(batch.unanswered(), worker)
        began = [task for batch in batches[:claimed] for task in batch.unanswered()]
        guilty = len(began) if unread is None else 1
        self.book.requeue(began[guilty:], worker)
        for task in reversed(began[:guilty]):
            self.book.blame(task, worker, how, crashed=unread is not None)

    # -- dispatch ----------------------------------------------------------------------------------

    def flush(self, now: float) -> None:
        """Assign the tasks that can be assigned."""
        placement = self._placement
        while placement.idle or placement.half:
            client = self.book.whose_turn()
            if client is not None:
                worker = next(iter((placement.idle or placement.half).values()))
                self._give(worker, self._heir(worker, client) if worker.batches else client, now)
            elif not (placement.idle and (placement.ahead or placement.held_back)):
                return
            elif (stocked := placement.stocked()) is not None:
                self._ask_back(stocked)
            elif (pair := placement.handover()) is not None:
                holder, heir = pair
                client = self.book.clients[holder.batches[-1].client]
                self._ask_back(holder)
                if client.next() is not None:
                    self._give(heir, client, now)
            else:
                return

    def tick(self, now: float) -> None:
        """Kill the workers whose task exceeded its timeout."""
        if self._alarms.due is None or now < self._alarms.due:
            return
        for worker in self._alarms.ring(now):
            task = worker.batches[0].tasks[0]
            self._end_worker(worker, TaskTimeout(f"ran longer than {task.timeout:g} s, and was killed"))

    def deadline(self) -> float | None:
        """When `tick` must be called next; None: not for now."""
        return self._alarms.due


Outcomes = deque[tuple[Task, Sequence[Any] | BaseException]]


def tell(outcomes: Outcomes, loud: Outcomes | None = None) -> bool:
    """Deliver outcomes to their tasks, which may run users' callbacks: hold no lock that one may need. With
    `loud`, outcomes that would run callbacks are put there instead.

    Several threads may call it at once, and a signal may interrupt it: no outcome is delivered twice, or
    lost.
    An error that ends many tasks is copied for each. Returns whether anything was delivered.
    """
    told = False
    while outcomes:
        try:
            one = outcomes.popleft()
        except IndexError:  # another thread delivers, too
            break
        task, outcome = one
        if loud is not None and task.loud:
            loud.append(one)
            continue
        told = True
        try:
            if isinstance(outcome, BaseException):
                task.failed(anew(outcome))
            elif len(outcome) == 1:
                task.returned(outcome[0])
            else:
                task.answered(*outcome)
        except BaseException:
            if not task.told:
                outcomes.appendleft(one)
            raise
    return told
