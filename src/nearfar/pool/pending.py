"""A far client's tasks: what waits here, what the coordinator has, and what they have come to. Pure.

Tasks are numbered as they are sent. No more is sent than keeps the coordinator's workers busy, so that a
million tasks do not lie there and here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import CancelledError
from typing import Any

from nearfar.coordinator import failures
from nearfar.coordinator.accounts import too_large
from nearfar.coordinator.parts import Row
from nearfar.coordinator.tasks import Outcome, State, Task
from nearfar.errors import NearfarError, ProtocolError
from nearfar.net.budget import EACH

WINDOW = 1000
WINDOW_EACH = 512
"""More tasks for each worker: two of its largest batches."""
PLENTY_EACH = 64
"""Tasks for each worker that keep it busy longer than more of them wait for company."""
WINDOW_BYTES = 4 << 20
FEW_EACH = 4
"""Tasks for each worker that may be under way, however large they are."""

Answer = Sequence[Any]
"""Status, blob and buffers, unread."""

# Looked up once, for they are needed for each task: an attribute of an enum costs eight times a global.
_WAITING, _GIVEN, _SETTLED, _FAILED = State.WAITING, State.GIVEN, State.SETTLED, int(Outcome.FAILED)


class Pending:
    """`read_error` reads what an initializer raised, as a worker pickled it."""

    def __init__(self, read_error: Callable[[bytes], BaseException]) -> None:
        self.outcomes: deque[tuple[Task, Answer | BaseException]] = deque()
        """Tasks that have come to an end."""
        self.cancels: set[int] = set()
        """Of the sent, those to be cancelled: said in every session until there is an answer."""
        self.done = 0
        """Tasks that a worker answered."""
        self.stale = 0
        """Outcomes of tasks that had one."""
        self.unsent: deque[Task] = deque()
        """Cancelled ones are passed over when their turn comes."""
        self.asked_back: set[Task] = set()
        """The tasks of `cancels`."""
        self._sent: dict[int, Task] = {}
        self._serial = 0
        self._withdrawn = 0
        self._bytes = 0
        self.largest = 0
        """Bytes that one task may have; several that were sent have half as many together. 0: any number."""
        self._read_error = read_error

    def __len__(self) -> int:
        return len(self._sent) + len(self.unsent) - self._withdrawn

    def counts(self) -> tuple[int, int]:
        """How many tasks wait here, and how many the coordinator has."""
        return len(self.unsent) - self._withdrawn, len(self._sent)

    def withdraw(self, task: Task) -> None:
        """It was not sent yet, and will not be."""
        task.state = State.SETTLED
        self._withdrawn += 1

    def ask_back(self, tasks: Set[Task]) -> list[int]:
        """The numbers of those of `tasks`, which were sent, that are to be cancelled from now on."""
        fresh = tasks - self.asked_back
        if not fresh:
            return []
        numbers = [number for number, task in self._sent.items() if task in fresh]
        self.asked_back |= fresh
        self.cancels.update(numbers)
        return numbers

    # -- to the coordinator ------------------------------------------------------------------------

    def plenty(self, workers: int) -> bool:
        """True if so much is sent that the workers are busy for a while: more may wait for company."""
        return len(self._sent) >= PLENTY_EACH * (workers + 1)

    def room(self, workers: int) -> bool:
        """True if one more may be sent to a coordinator with so many workers."""
        if self._bytes >= WINDOW_BYTES:
            return len(self._sent) < FEW_EACH * (workers + 1)
        return len(self._sent) < WINDOW + WINDOW_EACH * workers

    def send(self, workers: int) -> list[Row]:
        """Rows of SUBMIT: those that are to be sent now."""
        rows: list[Row] = []
        unsent, sent, largest = self.unsent, self._sent, self.largest
        most = WINDOW + WINDOW_EACH * workers
        while unsent and len(sent) < most and (self._bytes < WINDOW_BYTES or self.room(workers)):
            task = unsent[0]
            size = _size(task) if task.buffers else len(task.blob)
            if task.state is not _WAITING:
                self._withdrawn -= 1
            elif 0 < largest < size:
                self.end(task, self._too_large(size))
            elif sent and 0 < largest < 2 * (self._bytes + size + EACH * (len(sent) + 1)):
                break
            else:
                task.state = _GIVEN
                self._serial += 1
                sent[self._serial] = task
                self._bytes += size
                rows.append(
                    (
                        self._serial,
                        task.mode,
                        task.function,
                        task.blob,
                        task.buffers,
                        task.timeout,
                        task.retries,
                    )
                )
            unsent.popleft()
        return rows

    def sent(self) -> list[Row]:
        """Rows of SUBMIT: those that were sent and have no outcome, in their order."""
        if self.largest:  # another coordinator may take less
            for number, task in list(self._sent.items()):
                if (size := _size(task)) > self.largest and self._take(number) is not None:
                    self.end(task, self._too_large(size))
        return [
            (number, task.mode, task.function, task.blob, task.buffers, task.timeout, task.retries)
            for number, task in self._sent.items()
        ]

    def _too_large(self, size: int) -> NearfarError:
        return NearfarError(too_large("arguments", size, self.largest))

    # -- the ends of tasks -------------------------------------------------------------------------

    def settle(self, rows: Iterable[Row]) -> None:
        """The coordinator told outcomes: rows of OUTCOMES."""
        sent, cancels = self._sent, self.cancels
        for number, outcome, blob, buffers in rows:
            if cancels:
                self._answered(number)
            task = sent.pop(number, None)
            if task is None:
                self.stale += 1
                continue
            self._bytes -= _size(task) if task.buffers else len(task.blob)
            if outcome != _FAILED:
                task.state = _SETTLED
                self.done += 1
                self.outcomes.append((task, (outcome, blob, buffers)))
            else:
                try:
                    error = failures.read(blob, self._read_error)
                except ProtocolError as unreadable:
                    error = unreadable
                self.end(task, error)

    def cancelled(self, number: int, never: bool) -> None:
        """The coordinator answered: it will `never` run, or it is too late."""
        self._answered(number)
        if never and (task := self._take(number)) is not None:
            self.end(task, CancelledError())

    def end(self, task: Task, error: BaseException) -> None:
        task.state = State.SETTLED
        self.outcomes.append((task, error))

    def fail(self, error: BaseException) -> None:
        """Every task comes to this end."""
        for task in [*self._sent.values(), *self.unsent]:
            if task.state is not State.SETTLED:
                self.end(task, error)
        self._sent.clear()
        self.unsent.clear()
        self.cancels.clear()
        self.asked_back.clear()
        self._bytes = self._withdrawn = 0

    def _answered(self, number: int) -> None:
        """The coordinator has said what became of a wish to cancel."""
        if number in self.cancels:
            self.cancels.discard(number)
            self.asked_back.discard(self._sent[number])

    def _take(self, number: int) -> Task | None:
        self._answered(number)
        task = self._sent.pop(number, None)
        if task is not None:
            self._bytes -= _size(task)
        return task


def _size(task: Task) -> int:
    size = len(task.blob)
    return size + sum(memoryview(part).nbytes for part in task.buffers) if task.buffers else size
