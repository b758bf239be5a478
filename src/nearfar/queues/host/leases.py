"""Leases: which items one consumer has, by their position in what it was sent."""

from __future__ import annotations

from bisect import bisect_left

from nearfar.queues.host.runs import Run


class Leases:
    """The items lent to one consumer and not settled yet.

    Each item lent gets the next *position*, from 1, and none is used twice, so that a position names one
    attempt at one item: an ack for a position that is not here is late. Items up to `taken` are in the hands
    of the consumer's program, the others wait in its buffer.
    """

    __slots__ = ("_positions", "_runs", "held_items", "last", "taken", "untaken_bytes", "untaken_items")

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._runs: list[Run] = []
        self.last = 0
        self.taken = 0
        self.held_items = 0
        """Items in the hands of the program."""
        self.untaken_items = 0
        self.untaken_bytes = 0

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
        for run in self._runs[self._index(self.taken + 1) : self._index(upto + 1)]:
            self.untaken_items -= run.count
            self.untaken_bytes -= len(run.body)
            self.held_items += run.count
        self.taken = upto

    def remove(self, first: int, last: int) -> list[Run]:
        """Take out what is here of positions `first` to `last`."""
        start, stop = self._index(first), self._index(last + 1)
        removed = self._runs[start:stop]
        for position, run in zip(self._positions[start:stop], removed, strict=True):
            if position > self.taken:
                self.untaken_items -= run.count
                self.untaken_bytes -= len(run.body)
            else:
                self.held_items -= run.count
        del self._runs[start:stop], self._positions[start:stop]
        return removed

    def _index(self, position: int) -> int:
        """Where the runs from `position` on begin; one that reaches across it is cut there."""
        index = bisect_left(self._positions, position)
        if index:
            first, run = self._positions[index - 1], self._runs[index - 1]
            if position < first + run.count:
                self._runs[index - 1 : index] = run.cut(position - first)
                self._positions.insert(index, position)
        return index
