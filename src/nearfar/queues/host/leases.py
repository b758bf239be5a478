"""Leases: which items one consumer has, by their position in what it was sent."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from nearfar.queues.host.runs import Run


class Leases:
    """The items lent to one consumer and not settled yet.

    Each item lent gets the next *position*, from 1, and none is used twice, so that a position names one
    attempt at one item: an ack for a position that is not here is late. Items up to `taken` are in the hands
    of the consumer's program, the others wait in its buffer.
    """

    __slots__ = ("_positions", "_runs", "last", "taken", "untaken_bytes", "untaken_items")

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._runs: list[Run] = []
        self.last = 0
        self.taken = 0
        self.untaken_items = 0
        self.untaken_bytes = 0

    def __len__(self) -> int:
        return sum(run.count for run in self._runs)

    def lend(self, run: Run) -> int:
        """Note `run` as lent; returns the position of its first item."""
        position = self.last + 1
        self._positions.append(position)
        self._runs.append(run)
        self.last += run.count
        self.untaken_items += run.count
        self.untaken_bytes += len(run.body)
        return position

    def take(self, upto: int) -> None:
        """The program has every item up to position `upto`; never goes back."""
        upto = min(upto, self.last)
        if upto <= self.taken:
            return
        index = max(bisect_right(self._positions, self.taken + 1) - 1, 0)
        while index < len(self._runs) and self._positions[index] <= upto:
            if self._positions[index] + self._runs[index].count - 1 > upto:
                self._split(index, upto + 1)
            if self._positions[index] > self.taken:
                self.untaken_items -= self._runs[index].count
                self.untaken_bytes -= len(self._runs[index].body)
            index += 1
        self.taken = upto

    def remove(self, first: int, last: int) -> list[Run]:
        """Take out what is here of positions `first` to `last`."""
        start = bisect_right(self._positions, first) - 1
        if start >= 0 and self._positions[start] < first < self._positions[start] + self._runs[start].count:
            self._split(start, first)
        start = start if start >= 0 and self._positions[start] >= first else start + 1
        stop = start
        while stop < len(self._runs) and self._positions[stop] <= last:
            if self._positions[stop] + self._runs[stop].count - 1 > last:
                self._split(stop, last + 1)
            if self._positions[stop] > self.taken:
                self.untaken_items -= self._runs[stop].count
                self.untaken_bytes -= len(self._runs[stop].body)
            stop += 1
        removed = self._runs[start:stop]
        del self._runs[start:stop], self._positions[start:stop]
        return removed

    def in_hand(self) -> int:
        """How many items the program has."""
        return len(self) - self.untaken_items

    def __iter__(self) -> Iterator[tuple[int, Run]]:
        yield from zip(self._positions, self._runs, strict=True)

    def _split(self, index: int, position: int) -> None:
        head, tail = self._runs[index].cut(position - self._positions[index])
        self._runs[index : index + 1] = [head, tail]
        self._positions.insert(index + 1, position)
