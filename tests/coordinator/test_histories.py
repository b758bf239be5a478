"""Random histories: any events in any order, the invariants checked after each."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nearfar.coordinator.scheduler import Scheduler
from nearfar.coordinator.state import Client, Preparation, TaskBatch, Worker
from nearfar.coordinator.task import Task, TaskStatus
from nearfar.errors import InitializerFailed, TaskTimeout, WorkerLost
from tests.coordinator.check import check, check_end
from tests.coordinator.fakes import Job, prepared_client

pytestmark = [pytest.mark.pure, pytest.mark.timeout(300)]
NUMBER = st.integers(0, 1 << 16)


class Process:
    """A worker process, and what is under way to it and from it, each in its order.

    `near`: orders reach it at once, and a recall is answered inside the call; what it says waits still.
    """

    def __init__(self, history: History, near: bool) -> None:
        self.history = history
        self.near = near
        self.down: deque[tuple[str, Any]] = deque()
        self.up: deque[tuple[str, Any]] = deque()
        self.unread: deque[TaskBatch] = deque()
        self.reading: deque[Task] = deque()
        self.dead = False
        self.retired = False

    def give(self, worker: Worker, batch: TaskBatch) -> None:
        assert not self.retired
        self.say("give", batch)

    def recall(self, worker: Worker) -> None:
        if self.near:
            count = 0 if self.dead else len(self.unread)
            if not self.dead:
                self.unread.clear()
            self.history.machine.returned(worker, count)
        else:
            self.say("recall", None)

    def kill(self, worker: Worker) -> None:
        self.say("kill", None)

    def retire(self, worker: Worker) -> None:
        assert not self.unread and not self.reading and not any(kind == "give" for kind, _ in self.down)
        self.retired = True

    def say(self, kind: str, what: Any) -> None:
        self.down.append((kind, what))
        if self.near:
            self.hear()

    def hear(self) -> None:
        """The next order arrives."""
        if not self.down:
            return
        kind, batch = self.down.popleft()
        if kind == "give":
            self.unread.append(batch)
        elif kind == "kill":
            self.crash()
        elif not self.dead:
            self.up.append(("returned", len(self.unread)))
            self.unread.clear()

    def read(self) -> None:
        if not self.dead and not self.reading and self.unread:
            self.reading.extend(self.unread.popleft().tasks)
            self.begin()

    def begin(self) -> None:
        self.history.runs[self.reading[0]] += 1

    def run(self, many: int, status: int) -> None:
        done = []
        while self.reading and not self.dead and len(done) < many:
            task = self.reading.popleft()
            blob = "prepared" if isinstance(task, Preparation) else task
            done.append((status if isinstance(task, Preparation) else TaskStatus.VALUE, blob, ()))
            if self.reading:
                self.begin()
        if done:
            self.up.append(("answered", done))

    def crash(self) -> None:
        if not self.dead:
            self.dead = True
            self.up.append(("died", None))


class History(RuleBasedStateMachine):
    """The events, with a model to compare with."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Scheduler()
        self.now = 0.0
        self.serial = 0
        self.jobs: list[Job] = []
        self.outcomes: Counter[Task] = Counter()
        self.told: dict[Task, Any] = {}
        self.runs: Counter[Task] = Counter()
        self.cancels: set[Task] = set()
        self.gone: set[str] = set()
        self.silenced: set[str] = set()

    @initialize(near=st.booleans(), eager=st.booleans())
    def begin(self, near: bool, eager: bool) -> None:
        self.machine.client_came(Client("plain0"), self.now)
        self.machine.client_came(prepared_client("init0", eager=eager), self.now)
        self.worker(near, None, True)

    @precondition(lambda self: len(self.machine.book.clients) < 3)
    @rule(initializer=st.booleans(), eager=st.booleans())
    def client(self, initializer: bool, eager: bool) -> None:
        self.serial += 1
        made = prepared_client(f"i{self.serial}", eager=eager) if initializer else Client(f"p{self.serial}")
        self.machine.client_came(made, self.now)
        self.flush()

    @precondition(lambda self: len(self.machine.workers) < 4)
    @rule(
        near=st.sampled_from([True, False, False]),
        quota=st.sampled_from([None, None, None, 7]),
        ahead=st.booleans(),
    )
    def worker(self, near: bool, quota: int | None, ahead: bool) -> None:
        self.serial += 1
        worker = Worker(
            f"w{self.serial}", Process(self, near), host="here", pid=self.serial, quota=quota, ahead=ahead
        )
        self.machine.worker_came(worker, self.now)
        self.flush()

    @rule(
        which=NUMBER,
        many=st.sampled_from([1, 1, 3, 40]),
        function=st.sampled_from([b"m:f", b"m:g"]),
        timeout=st.sampled_from([None, None, None, 5.0]),
        retries=st.sampled_from([0, 0, 0, 2]),
    )
    def submits(self, which: int, many: int, function: bytes, timeout: float | None, retries: int) -> None:
        self.submit(which, many, function, timeout, retries)

    def submit(self, which: int, many: int, function: bytes, timeout: float | None, retries: int) -> None:
        clients = list(self.machine.book.clients)
        if not clients:
            return
        name = clients[which % len(clients)]
        for _ in range(many):
            job = Job(len(self.jobs), name, function, timeout=timeout, retries=retries)
            self.jobs.append(job)
            self.machine.submit(job)
        self.flush()

    @rule(which=NUMBER)
    def cancel(self, which: int) -> None:
        if self.jobs:
            job = self.jobs[which % len(self.jobs)]
            began = self.runs[job]
            if self.machine.cancel(job):
                assert not began or job.retries, "it ran, or runs"
                self.outcomes[job] += 1
                self.told[job] = CancelledError()
            self.flush()

    @rule(which=NUMBER)
    def leave(self, which: int) -> None:
        if len(self.machine.book.clients) > 1:
            name = list(self.machine.book.clients)[which % len(self.machine.book.clients)]
            self.machine.client_gone(name)
            self.gone.add(name)
            self.flush()

    @precondition(lambda self: len(self.machine.workers) > 2)
    @rule(which=NUMBER)
    def drain(self, which: int) -> None:
        self.with_worker(which, self.machine.drain)

    @precondition(lambda self: len(self.machine.workers) > 2)
    @rule(which=NUMBER)
    def crash(self, which: int) -> None:
        self.with_worker(which, lambda worker: worker.link.crash())

    @precondition(lambda self: len(self.machine.workers) > 2)
    @rule(which=NUMBER)
    def silence(self, which: int) -> None:
        def lose(worker: Worker) -> None:
            self.silenced.add(worker.name)
            self.machine.died(worker, "silent", None)

        self.with_worker(which, lose)

    @rule(which=NUMBER, many=st.sampled_from([1, 2, 300]), fails=st.integers(0, 9))
    def work(self, which: int, many: int, fails: int) -> None:
        def act(worker: Worker) -> None:
            worker.link.read()
            worker.link.run(many, TaskStatus.VALUE if fails else TaskStatus.ERROR)

        self.with_worker(which, act)

    @rule(which=NUMBER)
    def read(self, which: int) -> None:
        self.with_worker(which, lambda worker: worker.link.read())

    @rule(which=NUMBER)
    def orders_arrive(self, which: int) -> None:
        self.with_worker(which, lambda worker: worker.link.hear())

    @rule(which=NUMBER, slow=st.booleans())
    def word_arrives(self, which: int, slow: bool) -> None:
        self.with_worker(which, lambda worker: self.deliver(worker, 1.0 if slow else 1e-6))

    @rule(seed=NUMBER, steps=st.sampled_from([5, 40]))
    def bustle(self, seed: int, steps: int) -> None:
        """Many small steps of the workers, in any order."""
        chance = random.Random(seed)
        for _ in range(steps):
            workers = list(self.machine.workers.values())
            if not workers:
                return
            worker = chance.choice(workers)
            match chance.choice(["hear", "read", "run", "word", "word", "submit"]):
                case "hear":
                    worker.link.hear()
                case "read":
                    worker.link.read()
                case "run":
                    worker.link.run(chance.choice([1, 300]), TaskStatus.VALUE)
                case "word":
                    self.deliver(worker, 1.0 if chance.random() < 0.05 else 1e-6)
                case "submit":
                    self.submit(chance.randrange(1000), 1, chance.choice([b"m:f", b"m:g"]), None, 0)
            self.flush()
            self.books()

    @rule(seconds=st.sampled_from([1.0, 6.0]))
    def time(self, seconds: float) -> None:
        self.now += seconds
        self.machine.tick(self.now)
        self.flush()

    def settle(self) -> None:
        """The living workers run until no message is left."""
        for _ in range(10_000):
            before = self.progress()
            for worker in list(self.machine.workers.values()):
                link = worker.link
                link.hear()
                link.read()
                link.run(50, TaskStatus.VALUE)
                self.deliver(worker, 1e-6)
                self.flush()
            if before == self.progress() and not self.busy():
                return
        raise AssertionError("never quiet")

    def teardown(self) -> None:
        self.worker(True, None, True)
        self.settle()
        if self.machine.workers:
            check_end(self.machine, list(self.jobs), self.outcomes)

    @invariant()
    def books(self) -> None:
        check(self.machine)
        for job, runs in self.runs.items():
            if isinstance(job, Job):
                assert runs <= 1 + job.retries, f"{job} ran {runs} times"
        assert all(count <= 1 for count in self.outcomes.values()), "two outcomes"

    def with_worker(self, which: int, act: Callable[[Worker], None]) -> None:
        workers = list(self.machine.workers.values())
        if workers:
            act(workers[which % len(workers)])
            self.flush()

    def deliver(self, worker: Worker, spent: float) -> None:
        link = worker.link
        if not link.up:
            return
        kind, what = link.up.popleft()
        if kind == "answered":
            self.machine.answered(worker, what, spent, self.now)
        elif kind == "returned":
            self.machine.returned(worker, what)
        else:
            on_the_way = sum(1 for order, _ in link.down if order == "give")
            self.machine.died(worker, "killed", len(link.unread) + on_the_way)

    def flush(self) -> None:
        self.machine.flush(self.now)
        for task, outcome in self.machine.outcomes:
            self.outcomes[task] += 1
            self.told[task] = outcome
            assert task.client not in self.gone, "nobody waits for that"
            if isinstance(outcome, tuple):
                assert outcome[1] is task, "another task's answer"
            elif isinstance(outcome, TaskTimeout):
                assert task.timeout is not None
            elif isinstance(outcome, WorkerLost):
                assert self.runs[task] or self.silenced
            else:
                assert isinstance(outcome, CancelledError | InitializerFailed)
        self.machine.outcomes.clear()

    def progress(self) -> tuple[int, ...]:
        return (sum(self.outcomes.values()), sum(self.runs.values()), len(self.machine.workers))

    def busy(self) -> bool:
        return any(w.link.up or w.link.down or w.batches for w in self.machine.workers.values())


History.TestCase.settings = settings(
    max_examples=40, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestHistories = History.TestCase


class LongHistory(History):
    pass


LongHistory.TestCase.settings = settings(
    max_examples=300, stateful_step_count=120, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.chaos
@pytest.mark.timeout(300)
class TestLongHistories(LongHistory.TestCase):
    pass
