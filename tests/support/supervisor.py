"""A supervisor without processes: its workers run when the test lets them, in the thread that drives it."""

from __future__ import annotations

import threading
from collections import deque
from math import inf
from typing import Any

from nearfar.net.process import Waker
from nearfar.worker.channel import TaskRow
from nearfar.worker.supervisor import PollSet, WorkerListener


class FakeCrew(PollSet):
    """Like `nearfar.worker.supervisor.Supervisor`. A task's value is its blob, backwards; `gate` holds it
    back."""

    def __init__(self, listener: WorkerListener, count: int) -> None:
        super().__init__()
        self.listener = listener
        self.count = count
        self.gate = threading.Event()
        self.gate.set()
        self.ran: list[bytes] = []
        self.closed = False
        self.quota = None
        self.given: dict[str, deque[list[TaskRow]]] = {}
        self._serial = 0
        self._waker = Waker()
        self._events: deque[tuple[Any, ...]] = deque()
        self._retired = 0
        self.watch(self._waker.fileno(), self._turn)

    # -- for tests, from any thread ----------------------------------------------------------------

    def open(self) -> None:
        """Let the workers run what they have."""
        self.gate.set()
        self._waker.wake()

    def busy(self) -> bool:
        return any(list(self.given.values()))

    def crash(self, how: str = "killed by SIGSEGV") -> None:
        """A worker that has work dies in its first batch."""
        self._events.append(("crash", how))
        self._waker.wake()

    # -- the interface -----------------------------------------------------------------------------

    def start(self) -> None:
        while len(self.given) + self._retired < self.count:
            self._serial += 1
            name = f"0.{self._serial}"
            self.given[name] = deque()
            self._events.append(("came", name))
        self._waker.wake()

    def deadline(self) -> float:
        return inf

    def tick(self, now: float) -> None:
        pass

    def _turn(self) -> None:
        self._waker.clear()
        while self._events:
            what, text = self._events.popleft()
            if what == "came":
                self.listener.came(text, 4000 + self._serial)
            elif what == "died" or (busy := [name for name, batches in self.given.items() if batches]):
                name, how = (text, "killed by SIGKILL") if what == "died" else (busy[0], text)
                if name in self.given:
                    unread = max(0, len(self.given.pop(name)) - 1)
                    self.listener.died(name, how, unread)
                    self.start()
        if self.gate.is_set():
            for name, batches in list(self.given.items()):
                while batches:
                    self.run(name, batches.popleft())

    def run(self, name: str, rows: list[TaskRow]) -> None:
        self.ran += [bytes(blob) for _, _, blob, _ in rows]
        answers = [(0, bytes(blob)[::-1], [bytes(b) for b in buffers]) for _, _, blob, buffers in rows]
        self.listener.answered(name, answers, 0.01 * len(rows))

    def give(self, name: str, client: str, rows: list[TaskRow]) -> None:
        self.given[name].append(rows)
        self._waker.wake()

    def give_tasks(
        self, name: str, client: str, function: bytes, mode: int, blobs: list[Any], beside: list[Any]
    ) -> None:
        rows = zip(blobs, beside, strict=True)
        self.give(name, client, [TaskRow(function, mode, blob, buffers) for blob, buffers in rows])

    def pids(self) -> dict[str, int]:
        """As `Supervisor.pids`: there are no processes."""
        return {}

    def resize(self, count: int) -> None:
        self.count = count

    def recall(self, name: str) -> None:
        batches = self.given.get(name, deque())
        count = max(0, len(batches) - 1)
        for _ in range(count):
            batches.pop()
        self.listener.returned(name, count)

    def kill(self, name: str) -> None:
        self._events.append(("died", name))
        self._waker.wake()

    def retire(self, name: str) -> None:
        del self.given[name]
        self._retired += 1

    def close(self) -> None:
        self.closed = True
        super().close()
        self._waker.close()
