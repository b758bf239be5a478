"""Deadlines of sessions, warnings after a delay, and the suspension of this process. Pure."""

from __future__ import annotations

import heapq
from math import inf
from typing import Generic, Protocol, TypeVar

FEW = 64
"""Stale entries in the heap, at most."""


class Timer(Protocol):
    """An object with a due time."""

    due: float
    """When it is due, as set in its `Timers`; initially `inf`."""


S = TypeVar("S", bound=Timer)


class Timers(Generic[S]):
    """A heap of timers whose stale entries are removed now and then: setting one needs no scan of all."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, S]] = []
        self._serial = 0
        self._most = FEW

    def set(self, session: S, when: float) -> None:
        """Ring at `when`. A timer with an earlier time keeps that, and can be set again then."""
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
        """The timers that are due, perhaps of ended sessions; each must be set again."""
        rung = []
        while self._heap and self._heap[0][0] <= now:
            when, _, session = heapq.heappop(self._heap)
            if when == session.due:
                session.due = inf
                rung.append(session)
        return rung

    def deadline(self) -> float | None:
        """When to call `ring` next; None if no timer is set."""
        return self._heap[0][0] if self._heap else None


AFTER = 3.0
"""Seconds of waiting before a warning."""


class DelayedWarning:
    """Warns when what is missing has not changed for `AFTER` seconds."""

    def __init__(self) -> None:
        self._missing = ""
        self._since = 0.0
        self._said = False

    def look(self, missing: str, now: float) -> str:
        """The warning to give now, or empty.

        `missing` is a sentence about what is missing, the same as long as that does not change; empty if
        nothing is missing.
        """
        if missing != self._missing:
            self._missing, self._since, self._said = missing, now, False
        elif missing and not self._said and now - self._since >= AFTER:
            self._said = True
            return missing
        return ""

    def deadline(self) -> float | None:
        """When to call `look` next, if nothing happens."""
        return self._since + AFTER if self._missing and not self._said else None


class SuspendDetector:
    """Detects that this process did not run, because `seconds` is called late: it was suspended."""

    def __init__(self, now: float) -> None:
        self.due = now
        """When the next call is due; if this is not set, several times a lease."""
        self._last = now

    def seconds(self, now: float, lease: float) -> float:
        """For how many seconds it was suspended since the last call; 0 if for less than half a lease."""
        stood, self._last = now - max(self._last, self.due), now
        return stood if stood > lease / 2 else 0.0
