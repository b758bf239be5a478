"""Decides which transfer starts next: limits in total and per host, paused hosts, waits before a retry."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from itertools import count
from typing import Generic, TypeVar

from nearfar.download.fetch.transfer import HostConcurrency

__all__ = ["Schedule"]

T = TypeVar("T")

REMEMBERED = 60.0
"""Seconds for which an idle host's lower limit is kept after its last 429 or 503."""


class _Host(Generic[T]):
    __slots__ = ("active", "known_until", "offered", "pace", "parked_until", "waiting")

    def __init__(self, pace: HostConcurrency) -> None:
        self.pace = pace
        self.waiting: deque[T] = deque()
        self.active = 0
        self.parked_until = 0.0
        self.known_until = 0.0
        """When its limit may be forgotten, if it is idle."""
        self.offered = False
        """It is in the queue of hosts that may have something to start."""


class Schedule(Generic[T]):
    """Items by host; pure, with the time as an argument (seconds of any one clock that starts above 0).

    Hosts take turns, so that one with a long queue does not delay the others; the cost of a call does not
    depend on the number of items and hosts that wait.
    """

    def __init__(self, total: int, per_host: int) -> None:
        self._total = total
        self._per_host = per_host
        self._active = 0
        self._hosts: dict[str, _Host[T]] = {}
        self._row: deque[str] = deque()
        self._later: list[tuple[float, int, str, T | None]] = []
        self._order = count()

    def add(self, host: str, item: T, *, first: bool = False) -> None:
        """Queue `item`; with `first`, before the host's other items."""
        entry = self._hosts.get(host) or self._host(host)
        if first:
            entry.waiting.appendleft(item)
        else:
            entry.waiting.append(item)
        if not entry.offered:
            self._settle(host, entry)

    def add_later(self, host: str, item: T, when: float) -> None:
        """`add` at the time `when`."""
        heapq.heappush(self._later, (when, next(self._order), host, item))

    def park(self, host: str, until: float) -> None:
        """Start nothing at `host` before the time `until`, or before a later time set earlier."""
        entry = self._host(host)
        if until > entry.parked_until:
            entry.parked_until = until
            heapq.heappush(self._later, (until, next(self._order), host, None))

    def put_off(self, host: str, now: float, seconds: float) -> float:
        """`host` deferred a request: start nothing for `seconds`, and fewer at a time after that.

        Deferrals during such a pause concern earlier requests, and change nothing. Returns for how many
        seconds the host will have only deferred by the end of the pause.
        """
        entry = self._host(host)
        if entry.parked_until <= now:
            self.slow_down(host, now)
        self.park(host, now + seconds)
        return entry.pace.put_off(now) + seconds

    def slow_down(self, host: str, now: float) -> None:
        """Start fewer at a time at `host`, which asked for that, and remember it for `REMEMBERED` seconds."""
        entry = self._host(host)
        entry.pace.slow_down()
        entry.known_until = now + REMEMBERED
        heapq.heappush(self._later, (entry.known_until, next(self._order), host, None))

    @property
    def has_capacity(self) -> bool:
        """True if more could start now, and no waiting item can: the caller should add more."""
        return self._active < self._total and not self._row

    def take(self, now: float) -> tuple[str, T] | None:
        """The next item that may start, with its host, or None; call `release` when it has ended."""
        if self._later and self._later[0][0] <= now:
            self._wake(now)
        while self._row and self._active < self._total:
            host = self._row.popleft()
            entry = self._hosts.get(host)
            if entry is None:
                continue
            entry.offered = False
            if entry.waiting and entry.active < entry.pace.window and entry.parked_until <= now:
                item = entry.waiting.popleft()
                entry.active += 1
                self._active += 1
                if entry.waiting:
                    self._settle(host, entry)
                return host, item
        return None

    def release(self, host: str, *, answered: bool = False) -> None:
        """An item of `host` has ended, and frees its place. `answered`: the host sent a response, so its
        limit may grow."""
        entry = self._hosts[host]
        if answered:
            entry.pace.answered()
        entry.active -= 1
        self._active -= 1
        if entry.waiting or not entry.active:
            self._settle(host, entry)

    def take_back(self) -> list[T]:
        """Remove and return every item that waits, for its host or its time."""
        back = [item for _, _, _, item in self._later if item is not None]
        self._later = [each for each in self._later if each[3] is None]
        heapq.heapify(self._later)
        for host, entry in list(self._hosts.items()):
            back.extend(entry.waiting)
            entry.waiting.clear()
            self._settle(host, entry)
        return back

    def deadline(self) -> float | None:
        """When an item can start because of time alone; None if there is no such item."""
        return self._later[0][0] if self._later else None

    def hosts(self, now: float) -> list[tuple[str, int, int, float]]:
        """The hosts with transfers, or with a pause: name, how many run, how many wait, seconds of pause."""
        later = Counter(host for _, _, host, item in self._later if item is not None)
        return [
            (host, entry.active, len(entry.waiting) + later[host], max(0.0, entry.parked_until - now))
            for host, entry in self._hosts.items()
        ]

    def _wake(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            _, _, host, item = heapq.heappop(self._later)
            if item is not None:
                self.add(host, item, first=True)
                continue
            entry = self._hosts.get(host)
            if entry is None:
                continue
            if entry.parked_until <= now:
                entry.parked_until = 0.0
            if entry.known_until <= now:
                entry.known_until = 0.0
            self._settle(host, entry)

    def _host(self, host: str) -> _Host[T]:
        entry = self._hosts.get(host)
        if entry is None:
            entry = self._hosts[host] = _Host(HostConcurrency(self._per_host))
        return entry

    def _settle(self, host: str, entry: _Host[T]) -> None:
        """Queue a host that may start something; forget an idle one, since there may be millions."""
        if entry.waiting:
            if not (entry.offered or entry.parked_until) and entry.active < entry.pace.window:
                entry.offered = True
                self._row.append(host)
        elif not entry.active and not entry.parked_until and (entry.pace.calm or not entry.known_until):
            del self._hosts[host]
