"""When each session wants the clock: to ack, to beat, to send again, to be given up. Pure."""

from __future__ import annotations

import heapq
from math import inf
from typing import Generic, Protocol, TypeVar

FEW = 64
"""Stale entries that the heap may have."""


class Due(Protocol):
    """What can be given a time."""

    due: float
    """When it wants the clock, as far as its `Dues` know: at first never (`inf`)."""


S = TypeVar("S", bound=Due)


class Dues(Generic[S]):
    """A heap, with stale entries that are swept out: what one session says costs no look at the others."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, S]] = []
        self._serial = 0
        self._most = FEW

    def set(self, session: S, when: float) -> None:
        """Ring at `when`, or before: where it was to ring earlier, it will, and may be set anew then."""
        if when >= session.due:
            return
        session.due = when
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, session))
        if len(self._heap) > self._most:
            self._heap = [entry for entry in self._heap if entry[0] == entry[2].due]
            heapq.heapify(self._heap)
            self._most = 2 * len(self._heap) + FEW

    def ring(self, now: float) -> list[S]:
        """Those whose time has come, perhaps of sessions that are over; each is to be set anew."""
        rung = []
        while self._heap and self._heap[0][0] <= now:
            when, _, session = heapq.heappop(self._heap)
            if when == session.due:
                session.due = inf
                rung.append(session)
        return rung

    def deadline(self) -> float | None:
        """When to ask next; None: not for now."""
        return self._heap[0][0] if self._heap else None
