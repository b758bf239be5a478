"""The coordinator, as a pure machine: which task goes to which worker, and what becomes of it.

Events are method calls. What is to be done goes out through each worker's `Link`; what tasks have come to
lies in `outcomes`, for whoever runs the machine to tell once it holds no lock.

::

    submit --> WAITING -- flush --> GIVEN -- answered --> SETTLED
                  ^                  | |
                  +- returned, died -+ +- died while it ran, or too slow --> WAITING (retries) or SETTLED

A worker has one batch that it runs and at most one ahead. It answers in the order it was given, so no answer
needs a name. Of a dead worker, what it had not read moves on unharmed, and so does what came after the task
that it ran: that one alone is guilty.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import islice

from nearfar.coordinator.book import Answer, Book, drop
from nearfar.coordinator.clients import Client
from nearfar.coordinator.costs import Costs
from nearfar.coordinator.roster import Roster
from nearfar.coordinator.tasks import State, Task
from nearfar.coordinator.workers import Batch, Preparation, Recall, Stage, Worker
from nearfar.errors import ProtocolError, TaskTimeout


class Coordinator:
    """See the module. `now` is in seconds of any steady clock."""

    def __init__(self) -> None:
        self.book = Book()
        self._roster = Roster()
        self._costs = Costs()
        self._alarms: list[tuple[float, int, Worker, Batch]] = []
        self._serial = 0

    @property
    def workers(self) -> dict[str, Worker]:
        """By name."""
        return self._roster.all

    @property
    def outcomes(self) -> list[tuple[Task, Answer | BaseException]]:
        """Tasks that have come to an end; who runs the machine empties it, and tells them."""
        return self.book.outcomes

    # -- clients and their tasks -------------------------------------------------------------------

    def client_came(self, client: Client, now: float) -> None:
        """Its name must be new. Call it again with the same client once its initializer is known."""
        self.book.came(client)
        if client.eager:
            for worker in list(self.workers.values()):
                self._prepare(worker, client, now)

    def client_gone(self, name: str) -> None:
        """Drop its tasks without an outcome, and kill what runs them."""
        if not self.book.gone(name):
            return
        for worker in list(self.workers.values()):
            if all(batch.client != name for batch in worker.batches):
                continue
            self._ask_back(worker)
            for batch in worker.batches:
                if batch.client == name:
                    drop(batch.unanswered())
            if worker.batches and worker.batches[0].client == name:
                self._doom(worker)

    def submit(self, task: Task) -> None:
        """Take a task of a client that came; a broken client's comes to its end at once."""
        self.book.submit(task)

    def cancel(self, task: Task) -> bool | None:
        """True: it will never run, and this answer is its only outcome. False: too late, it may have begun.

        None: its worker was asked to give it back; its outcome will tell, `CancelledError` or an answer.
        """
        if task.state is State.GIVEN:
            holder = self._holder_ahead(task)
            if holder is None:
                return False
            self._ask_back(holder)
            if holder.recall is Recall.ASKED:
                self.book.cancelled.add(task)
                return None
        if task.state is not State.WAITING:
            return False
        task.state = State.SETTLED
        return True

    # -- workers -----------------------------------------------------------------------------------

    def worker_came(self, worker: Worker, now: float) -> None:
        """A worker is ready, or comes with what an earlier coordinator gave it: the tasks of those batches
        are GIVEN, and most of them hollow. Raises `ProtocolError` if its name is taken."""
        if worker.name in self.workers:
            raise ProtocolError(f"there is a worker {worker.name} already")
        self.workers[worker.name] = worker
        for batch in worker.batches:
            self.book.given(batch)
        self._begin(worker, now)
        self._place(worker)
        for client in self.book.clients.values():
            if client.eager:
                self._prepare(worker, client, now)

    def resumed(self, task: Task, now: float) -> None:
        """What a hollow task carries is known now; its `timeout` counts from here if a worker runs it."""
        for worker in self.workers.values():
            if worker.batches and worker.batches[0].tasks[0] is task:
                self._begin(worker, now)

    def drain(self, worker: Worker) -> None:
        """Give it no more; it is retired once it has answered what it runs."""
        if worker.stage is Stage.READY:
            worker.stage = Stage.DRAINING
            self._ask_back(worker)
            self._place(worker)

    def answered(self, worker: Worker, answers: Sequence[Answer], spent: float, now: float) -> None:
        """The next tasks of `worker` ran, and took `spent` seconds together.

        Raises `ProtocolError`, changing nothing, for more answers than it was given tasks.
        """
        count = len(answers)
        if count > worker.holds():
            raise ProtocolError(f"worker {worker.name} answers more than it was asked")
        worker.ran += count
        taken = 0
        while taken < count:
            batch = worker.batches[0]
            tasks = batch.tasks[batch.answered : batch.answered + count - taken]
            batch.answered += len(tasks)
            self._costs.learn(tasks[0], spent / count)
            for task, answer in zip(tasks, islice(answers, taken, None), strict=False):
                self.book.answered(task, answer)
            taken += len(tasks)
            if batch.answered == len(batch.tasks):
                worker.batches.popleft()
                self.book.over(batch)
                self._begin(worker, now)
        self._place(worker)

    def returned(self, worker: Worker, batches: int) -> None:
        """The last `batches` that `worker` was given come back unread (none: it had read them all)."""
        worker.recall = Recall.UNASKED if batches else Recall.IN_VAIN
        for _ in range(min(batches, len(worker.batches))):
            batch = worker.batches.pop()
            self.book.over(batch)
            self.book.requeue(batch.unanswered(), worker)
        self._place(worker)

    def died(self, worker: Worker, how: str, unread: int | None) -> None:
        """A worker is gone, and all its answers have been told.

        `unread`: how many of its last batches it never read. None: nobody can tell (its machine fell silent),
        so all that it had may have begun, and counts as lost with it.
        """
        if worker.stage is Stage.GONE:
            return
        worker.stage = Stage.GONE
        self._roster.remove(worker)
        batches = list(worker.batches)
        worker.batches.clear()
        for batch in batches:
            self.book.over(batch)
        claimed = len(batches) - (unread or 0)
        for batch in reversed(batches[claimed:]):
            self.book.requeue(batch.unanswered(), worker)
        began = [task for batch in batches[:claimed] for task in batch.unanswered()]
        guilty = len(began) if unread is None else 1
        self.book.requeue(began[guilty:], worker)
        for task in reversed(began[:guilty]):
            self.book.blame(task, worker, how, crashed=unread is not None)

    # -- giving ------------------------------------------------------------------------------------

    def flush(self, now: float) -> None:
        """Give out what can be given."""
        while (worker := self._roster.roomy()) is not None:
            client = self.book.whose_turn()
            if client is not None:
                self._give(worker, client, now)
            elif (stocked := self._roster.stocked()) is not None:
                self._ask_back(stocked)
            else:
                return

    def tick(self, now: float) -> None:
        """Kill the workers whose task is over its time."""
        while self._alarms and self._alarms[0][0] <= now:
            _, _, worker, batch = heapq.heappop(self._alarms)
            if worker.batches and worker.batches[0] is batch:
                task = batch.tasks[0]
                self._doom(worker, TaskTimeout(f"ran longer than {task.timeout:g} s, and was killed"))

    def deadline(self) -> float | None:
        """When `tick` wants to be called; None: not for now."""
        return self._alarms[0][0] if self._alarms else None

    def _give(self, worker: Worker, client: Client, now: float) -> None:
        if self._prepare(worker, client, now):
            return
        self._hand(worker, self._costs.cut(client, worker, len(self.workers)), now)

    def _prepare(self, worker: Worker, client: Client, now: float) -> bool:
        """Have `worker` run the initializer of `client` first, if it has not; True if that took its turn."""
        if client.initializer is None or client.error is not None or client.name in worker.prepared:
            return False
        worker.prepared.add(client.name)
        self._hand(
            worker, Batch(client.name, [Preparation(client.name, worker, client.initializer)], None), now
        )
        return True

    def _hand(self, worker: Worker, batch: Batch, now: float) -> None:
        worker.batches.append(batch)
        self.book.given(batch)
        if len(worker.batches) == 1:
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
        batch.since = now
        if (timeout := batch.tasks[0].timeout) is not None:
            self._serial += 1
            heapq.heappush(self._alarms, (now + timeout, self._serial, worker, batch))

    def _place(self, worker: Worker) -> None:
        """Note what room `worker` has, or let it go."""
        if worker.stage is Stage.GONE:
            return
        if worker.retirable():
            worker.stage = Stage.GONE
            self._roster.remove(worker)
            worker.link.retire(worker)
        else:
            self._roster.place(worker)

    def _ask_back(self, worker: Worker) -> None:
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

    def _holder_ahead(self, task: Task) -> Worker | None:
        """Whoever holds `task` in a batch that it may not have read."""
        for worker in self.workers.values():
            if any(task in batch.tasks for batch in islice(worker.batches, 1, None)):
                return worker
        return None
