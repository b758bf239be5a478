"""Deadlines of sessions, warnings after a delay, and the suspension of this process. Pure."""

from __future__ import annotations

import heapq
from math import inf
from typing import Generic, Protocol, TypeVar

FEW = 64
"""Stale entries that the heap may have."""


class Timer(Protocol):
    """What can be given a time."""

    due: float
    """When it wants the clock, as far as its `Timers` know: at first never (`inf`)."""


S = TypeVar("S", bound=Timer)


class Timers(Generic[S]):
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


AFTER = 3.0
"""Seconds of waiting before it is said."""


class DelayedWarning:
    """Told again and again what is waited for, it finds when that has not changed for `AFTER` seconds."""

    def __init__(self) -> None:
        self._missing = ""
        self._since = 0.0
        self._said = False

    def look(self, missing: str, now: float) -> str:
        """What is to be said now, or nothing.

        `missing` is a sentence, the same as long as the same is missing; nothing if nothing is.
        """
        if missing != self._missing:
            self._missing, self._since, self._said = missing, now, False
        elif missing and not self._said and now - self._since >= AFTER:
            self._said = True
            return missing
        return ""

    def deadline(self) -> float | None:
        """When `look` is wanted next, if nothing happens."""
        return self._since + AFTER if self._missing and not self._said else None


class SuspendDetector:
    """Told the time several times a lease, it finds when this process did not run: it was frozen."""

    def __init__(self, now: float) -> None:
        self._last = now

    def seconds(self, now: float, lease: float) -> float:
        """For how many seconds it stood still since the last call; 0 for what is less than half a lease."""
        stood, self._last = now - self._last, now
        return stood if stood > lease / 2 else 0.0
