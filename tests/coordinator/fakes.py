"""Fake tasks, clients and workers for the coordinator's tests; the test controls the workers."""

from __future__ import annotations

from collections import deque
from concurrent.futures import CancelledError
from typing import Any

from nearfar.coordinator.scheduler import Scheduler
from nearfar.coordinator.state import Client, Initializer, TaskBatch, Worker
from nearfar.coordinator.task import Mode, Task, TaskState, TaskStatus
from nearfar.errors import InitializerFailed
from tests.coordinator.check import check


class Job(Task):
    """A task with a name, which counts its outcomes."""

    def __init__(
        self,
        name: Any,
        client: str = "c",
        function: bytes = b"m:f",
        *,
        size: int = 1,
        timeout: float | None = None,
        retries: int = 0,
    ) -> None:
        self.name = name
        self.client = client
        self.function = function
        self.mode = Mode.CALL
        self.blob = bytes(size)
        self.buffers = ()
        self.state = TaskState.NEW
        self.timeout = timeout
        self.retries = retries
        self.losses = 0

    def lose(self) -> None:
        self.losses += 1

    def __repr__(self) -> str:
        return f"<{self.name} {self.state.name}>"


class FakeLink:
    """A worker process with its socket: batches stay unread until it reads them, and it runs them in order.

    `prompt`: recall is answered at once, as by a process of our own; else when `settle` is called.
    """

    def __init__(self, machine: Scheduler, *, prompt: bool = True) -> None:
        self.machine = machine
        self.prompt = prompt
        self.unread: deque[TaskBatch] = deque()
        self.reading: deque[Task] = deque()
        self.began: list[Task] = []
        self.asked = 0
        self.killed = False
        self.retired = False
        self.given: list[list[Task]] = []

    def give(self, worker: Worker, batch: TaskBatch) -> None:
        assert not self.retired and batch.tasks[batch.answered :] == batch.tasks
        self.unread.append(batch)
        self.given.append(list(batch.tasks))

    def recall(self, worker: Worker) -> None:
        self.asked += 1
        if self.prompt:
            self.settle(worker)

    def settle(self, worker: Worker) -> None:
        """Answer a recall."""
        self.asked -= 1
        count = len(self.unread)
        self.unread.clear()
        self.machine.returned(worker, count)

    def kill(self, worker: Worker) -> None:
        self.killed = True

    def retire(self, worker: Worker) -> None:
        assert not self.unread and not self.reading
        self.retired = True

    def read(self) -> None:
        """Read and begin the next batch, if the last one is done."""
        if not self.reading and self.unread:
            self.reading.extend(self.unread.popleft().tasks)
            self.began.append(self.reading[0])

    def run(self, most: int = 1000) -> list[Task]:
        """Run the tasks that were read, or the first `most` of them."""
        done = [self.reading.popleft() for _ in range(min(most, len(self.reading)))]
        if done and self.reading:
            self.began.append(self.reading[0])
        return done


def answers_to(tasks: list[Task]) -> list[tuple[int, Any, tuple[()]]]:
    return [(TaskStatus.VALUE, getattr(task, "name", "prepared"), ()) for task in tasks]


class Stage:
    """A coordinator with fake workers and clients, and its tasks' outcomes. Each event is followed by a
    check."""

    def __init__(self, *clients: Client) -> None:
        self.machine = Scheduler()
        self.now = 0.0
        self.told: list[tuple[Task, Any]] = []
        for client in clients or (Client("c"),):
            self.client(client)

    def client(self, client: Client) -> Client:
        self.machine.client_came(client, self.now)
        self.after()
        return client

    def worker(self, name: str = "w", *, prompt: bool = True, **options: Any) -> Worker:
        worker = Worker(name, FakeLink(self.machine, prompt=prompt), host="here", pid=1, **options)
        self.machine.worker_came(worker, self.now)
        self.after()
        return worker

    def submit(self, *jobs: Job) -> None:
        for job in jobs:
            self.machine.submit(job)
        self.after()

    def jobs(self, count: int, client: str = "c", **options: Any) -> list[Job]:
        """Submit so many tasks."""
        made = [Job(f"{client}{n}", client, **options) for n in range(count)]
        self.submit(*made)
        return made

    def work(self, worker: Worker, most: int = 1000, *, cost: float = 0.0) -> list[Task]:
        """Have `worker` read, run and answer a batch, or the first `most` tasks of it."""
        worker.link.read()
        done = worker.link.run(most)
        if done:
            self.machine.answered(worker, answers_to(done), cost * len(done), self.now)
        self.after()
        return done

    def work_all(self, *, cost: float = 0.0) -> None:
        """Let every worker work until no task is left."""
        done = 1
        while done:
            done = sum(len(self.work(each, cost=cost)) for each in list(self.machine.workers.values()))

    def die(self, worker: Worker, how: str = "killed by SIGKILL", *, silent: bool = False) -> None:
        self.machine.died(worker, how, None if silent else len(worker.link.unread))
        self.after()

    def after(self) -> None:
        self.machine.flush(self.now)
        check(self.machine)
        self.told += self.machine.outcomes
        self.machine.outcomes.clear()

    def values(self) -> list[Any]:
        """The answers, in order."""
        return [answer[1] for _, answer in self.told if isinstance(answer, tuple)]

    def errors(self) -> dict[Any, BaseException]:
        return {task.name: error for task, error in self.told if isinstance(error, BaseException)}

    def cancelled(self) -> list[Any]:
        return [name for name, error in self.errors().items() if isinstance(error, CancelledError)]


def prepared_client(name: str = "c", *, eager: bool = False) -> Client:
    """A client with an initializer."""
    return Client(
        name, Initializer(b"m:prepare", b""), lambda blob: InitializerFailed(str(blob)), eager=eager
    )


def given(worker: Worker) -> list[list[Any]]:
    """The names of all tasks that were ever sent to `worker`."""
    return [[getattr(task, "name", "prepare") for task in batch] for batch in worker.link.given]


def held(worker: Worker) -> list[Any]:
    """The names of the tasks that `worker` has, in order."""
    return [getattr(task, "name", "prepare") for task in worker.unanswered()]
