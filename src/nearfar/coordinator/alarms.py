"""When a running task is over its time."""

from __future__ import annotations

import heapq

from nearfar.coordinator.workers import Batch, Worker

FEW = 64
"""Stale entries that the heap may have."""


class Alarms:
    """One per worker at most: for the first of its batches. A heap, with stale entries that are swept out."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Worker, Batch]] = []
        self._serial = 0
        self._most = FEW

    def set(self, when: float, worker: Worker) -> None:
        """Ring at `when`, if `worker` still runs the batch that it has begun by now."""
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, worker, worker.batches[0]))
        if len(self._heap) > self._most:
            self._heap = [entry for entry in self._heap if _runs(entry)]
            heapq.heapify(self._heap)
            self._most = 2 * len(self._heap) + FEW

    def ring(self, now: float) -> list[Worker]:
        """Those whose time is over."""
        rung = []
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if _runs(entry):
                rung.append(entry[2])
        return rung

    @property
    def due(self) -> float | None:
        """When to ask next; None: not for now."""
        return self._heap[0][0] if self._heap else None


def _runs(entry: tuple[float, int, Worker, Batch]) -> bool:
    batches = entry[2].batches
    return bool(batches) and batches[0] is entry[3]
