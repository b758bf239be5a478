"""What the coordinator knows of one worker process: what it was given, in order, and what that costs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from nearfar.coordinator.tasks import Mode, State, Task

NOBODY = ""
"""The client of a batch whose client is gone: another may come under its name."""


class Batch:
    """Tasks of one client that travel in one message. A worker that reads it runs them in order."""

    __slots__ = ("answered", "client", "cost", "owner", "since", "tasks")

    def __init__(self, client: str, tasks: list[Task], cost: float | None) -> None:
        self.client = client
        self.tasks = tasks
        self.answered = 0
        """How many of the first have been answered."""
        self.cost = cost
        """Seconds that it should take; None if nothing like it was measured yet."""
        self.owner: Any = None
        """The `Client` that counts it as given: one of that name may be gone, and another have come."""
        self.since = 0.0
        """When it became the first of its worker."""

    def unanswered(self) -> list[Task]:
        return self.tasks[self.answered :]


class Link(Protocol):
    """How a worker is reached. None of these blocks; what they bring about comes back as events."""

    def give(self, worker: Worker, batch: Batch) -> None:
        """Send it a batch."""

    def recall(self, worker: Worker) -> None:
        """Take back what it has not read: answered by `Coordinator.returned`."""

    def kill(self, worker: Worker) -> None:
        """End its process at once: answered by `Coordinator.died`."""

    def retire(self, worker: Worker) -> None:
        """Let it end, having nothing to do: it is gone when this is said."""


class Stage(IntEnum):
    """A worker's life, as the coordinator sees it."""

    READY = 0
    DRAINING = 1
    """It finishes what it has, and gets no more."""
    DOOMED = 2
    """Its end was ordered, and has not been reported yet."""
    GONE = 3


class Recall(IntEnum):
    """Whether a worker was asked to give back what it has not read."""

    UNASKED = 0
    ASKED = 1
    IN_VAIN = 2
    """It had read all of it; not worth asking again before it begins its next batch."""


class Worker:
    """One process that runs tasks. Its name is new at each start."""

    __slots__ = (
        "ahead",
        "batches",
        "host",
        "link",
        "name",
        "pid",
        "prepared",
        "quota",
        "ran",
        "recall",
        "stage",
        "unsent",
        "verdict",
    )

    def __init__(
        self, name: str, link: Link, *, host: str, pid: int, quota: int | None = None, ahead: bool = True
    ) -> None:
        """`quota`: tasks after which it is to be replaced. `ahead`: what it has not read can be had back for
        certain, so that it may be given work behind a long task."""
        self.name = name
        self.link = link
        self.host = host
        self.pid = pid
        self.quota = quota
        self.ahead = ahead
        self.stage = Stage.READY
        self.batches: deque[Batch] = deque()
        self.unsent: Batch | None = None
        """The last of them, if it is held back until the initializer before it has run."""
        self.prepared: set[str] = set()
        """The clients whose initializer it has run."""
        self.recall = Recall.UNASKED
        self.verdict: BaseException | None = None
        """What its head task is to be told once it is dead, other than `WorkerLost`."""
        self.ran = 0
        """Tasks that it answered, initializers among them: they raise its quota."""

    def willing(self) -> bool:
        """True if it may be given more, as far as its stage and its quota go."""
        return self.stage is Stage.READY and (self.quota is None or self.ran + self.holds() < self.quota)

    def retirable(self) -> bool:
        """True if it has nothing to do and will get nothing."""
        return not self.batches and self.stage < Stage.DOOMED and not self.willing()

    def __repr__(self) -> str:
        return f"<Worker {self.name} {self.stage.name} {sum(1 for _ in self.unanswered())} tasks>"

    def unanswered(self) -> Iterator[Task]:
        """What it was given and has not answered, in order."""
        for batch in self.batches:
            yield from batch.unanswered()

    def holds(self) -> int:
        """How many tasks it has not answered."""
        held = 0
        for batch in self.batches:
            held += len(batch.tasks) - batch.answered
        return held

    def asked(self) -> int:
        """How many it has been sent and has not answered."""
        sent = 0
        for batch in self.batches:
            if batch is not self.unsent:
                sent += len(batch.tasks) - batch.answered
        return sent


@dataclass(frozen=True, slots=True)
class Initializer:
    """What every worker runs once before a client's first task."""

    function: bytes
    blob: Any
    buffers: Sequence[Any] = ()


class Preparation(Task):
    """A client's initializer on its way to one worker."""

    __slots__ = ("worker",)

    def __init__(self, client: str, worker: Worker, initializer: Initializer) -> None:
        self.client = client
        self.worker = worker
        self.mode = Mode.PREPARE
        self.function = initializer.function
        self.blob = initializer.blob
        self.buffers = initializer.buffers
        self.state = State.GIVEN
