"""What an end put, on its way: entries wait for room, what is fresh waits to be sent, batches were sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from nearfar.net import codec


@dataclass(frozen=True, slots=True)
class Several:
    """Items end to end."""

    count: int
    body: bytes


@dataclass(order=True, frozen=True, slots=True)
class Fresh:
    """Items with numbers, not sent yet."""

    first: int
    count: int
    body: bytes
    to: str | None


@dataclass(slots=True, eq=False)
class Entry:
    """Items of one call of `put` or `put_many`, waiting for room: one by one, or `Several` as one."""

    items: deque[bytes | Several]
    to: str | None = None
    admitted: int = 0
    last: int = 0
    """The number of the last item admitted."""


@dataclass(slots=True)
class Batch:
    """Items sent as one and not all settled."""

    first: int
    count: int
    body: bytes
    to: str | None
    open: list[tuple[int, int]]
    """The ranges of numbers that are not settled."""

    def settle(self, first: int, last: int) -> int:
        """Items `first` to `last` are settled; tells how many of them had not been."""
        pieces, settled = [], 0
        for start, stop in self.open:
            low, high = max(start, first), min(stop, last)
            if low > high:
                pieces.append((start, stop))
                continue
            settled += high - low + 1
            if start < low:
                pieces.append((start, low - 1))
            if high < stop:
                pieces.append((high + 1, stop))
        self.open = pieces
        return settled

    def items(self) -> Iterator[tuple[int, bytes]]:
        """The items that are not settled, with their numbers."""
        items = list(codec.split(self.body))
        for start, stop in self.open:
            for number in range(start, stop + 1):
                yield number, items[number - self.first]


def several(item: bytes | Several) -> Several:
    """An item, or several, as several."""
    return item if isinstance(item, Several) else Several(1, item)


def count_of(item: bytes | Several) -> int:
    """How many items that is."""
    return item.count if isinstance(item, Several) else 1


def one_by_one(fresh: Fresh) -> Iterator[Fresh]:
    """Each item for itself."""
    for number, body in enumerate(codec.split(fresh.body), fresh.first):
        yield Fresh(number, 1, body, fresh.to)
