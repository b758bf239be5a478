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

from collections.abc import Sequence
from itertools import islice

from nearfar.coordinator.book import Answer
from nearfar.coordinator.clients import Client
from nearfar.coordinator.giving import Giving
from nearfar.coordinator.tasks import State, Task
from nearfar.coordinator.workers import NOBODY, Recall, Stage, Worker
from nearfar.errors import ProtocolError, TaskTimeout

_UNASKED = Recall.UNASKED
"""Looked up once: an attribute of an enum costs eight times a global."""


class Coordinator(Giving):
    """See the module. `now` is in seconds of any steady clock."""

    # -- clients and their tasks -------------------------------------------------------------------

    def client_came(self, client: Client, now: float) -> None:
        """Call it again once its initializer is known. Raises `ProtocolError` if its name is taken."""
        if self.book.clients.get(client.name, client) is not client:
            raise ProtocolError(f"there is a client {client.name} already")
        self.book.came(client)
        for worker in list(self.workers.values()):
            self._prepare_early(worker, client, now)

    def client_gone(self, name: str) -> None:
        """Drop its tasks without an outcome, and kill what runs them."""
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
        """All its tasks come to this end now; what its workers run of them goes on unheard."""
        given = [task for worker in self.workers.values() for task in worker.unanswered()]
        self.book.fail_client(client, error, (task for task in given if task.client == client.name))

    def hold(self, client: Client, back: bool) -> None:
        """Give no worker a task of this client, and have back what they have not read; or go on with it."""
        self.book.hold(client, back)
        if back:
            for worker in list(self.workers.values()):
                if worker.batches and worker.batches[-1].client == client.name:
                    self._ask_back(worker)

    def submit(self, task: Task) -> None:
        """Take a task of a client that came; a broken client's comes to its end at once."""
        self.book.submit(task)

    def cancel(self, task: Task) -> bool | None:
        """True: it will never run, and this answer is its only outcome. False: too late, it may have begun.

        None: its worker was asked to give it back; its outcome will tell, `CancelledError` or an answer.
        """
        if task.state is State.GIVEN:
            holder = self._roster.holder_ahead(task)
            if holder is None:
                return False
            self._ask_back(holder)
            if task.state is State.GIVEN and holder.recall is Recall.ASKED:
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
            self._prepare_early(worker, client, now)

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
        if count > worker.asked():
            raise ProtocolError(f"worker {worker.name} answers more than it was asked")
        worker.ran += count
        taken = 0
        while taken < count:
            batch = worker.batches[0]
            tasks = batch.tasks[batch.answered : batch.answered + count - taken]
            batch.answered += len(tasks)
            self._costs.learn(tasks[0], spent / count)
            self.book.answered(tasks, islice(answers, taken, None))
            taken += len(tasks)
            if batch.answered == len(batch.tasks):
                worker.batches.popleft()
                self.book.over(batch)
                if worker.batches or worker.recall is not _UNASKED:
                    self._begin(worker, now)
                    self._free(worker)
        self._place(worker)

    def returned(self, worker: Worker, batches: int) -> None:
        """The last `batches` that `worker` was given come back unread (none: it had read them all)."""
        worker.recall = Recall.UNASKED if batches else Recall.IN_VAIN
        self._take_back(worker, batches)
        self._free(worker)
        self._place(worker)

    def refused(self, worker: Worker, error: BaseException) -> None:
        """The batch just given to `worker` cannot be sent: there is no room for it on this machine.

        Said inside `Link.give`. An initializer that cannot be sent breaks its client.
        """
        batch = worker.batches.pop()
        self.book.over(batch)
        for task in batch.unanswered():
            self.book.refuse(task, worker, error)
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
        claimed = max(0, len(batches) - (unread or 0) - (worker.unsent is not None))
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
        roster = self._roster
        while roster.idle or roster.half:
            client = self.book.whose_turn()
            if client is not None:
                worker = roster.roomy()
                self._give(worker, self._heir(worker, client) if worker.batches else client, now)
            elif not (roster.idle and (roster.ahead or roster.held_back)):
                return
            elif (stocked := roster.stocked()) is not None:
                self._ask_back(stocked)
            elif (pair := roster.handover()) is not None:
                holder, heir = pair
                client = self.book.clients[holder.batches[-1].client]
                self._ask_back(holder)
                if client.next() is not None:
                    self._give(heir, client, now)
            else:
                return

    def tick(self, now: float) -> None:
        """Kill the workers whose task is over its time."""
        for worker in self._alarms.ring(now):
            task = worker.batches[0].tasks[0]
            self._doom(worker, TaskTimeout(f"ran longer than {task.timeout:g} s, and was killed"))

    def deadline(self) -> float | None:
        """When `tick` wants to be called; None: not for now."""
        return self._alarms.due
