"""What was lent to an end, in its buffer and in its program's hands."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nearfar.errors import ItemError, ProtocolError, Untrusted
from nearfar.net import codec


class Taken(NamedTuple):
    """An item in the program's hands."""

    position: int
    item: Any
    attempt: int
    session: int = 0
    """Which session of its end the position belongs to."""


@dataclass(slots=True)
class Loan:
    """A batch in the buffer; read when its first item is taken."""

    position: int
    count: int
    attempt: int
    body: bytes
    items: list[Any] | None = None
    at: int = 0
    """Where among `items` the next one is."""
    weight: int = 0
    """Bytes that all of it came in."""
    plain: bool = False
    """It was read, and nothing in it is `Unreadable`."""

    def read(self, *, trusted: bool) -> None:
        """Read the items. In the place of one that cannot be read stands `Unreadable`."""
        try:
            self.items = codec.decode(self.body, self.count, trusted=trusted)
            self.plain = True
        except (ItemError, ProtocolError, Untrusted):
            self.items = self._read_singly(trusted)
        self.body = b""

    def _read_singly(self, trusted: bool) -> list[Any]:
        items: list[Any] = []
        bodies = codec.split(self.body)
        for _ in range(self.count):
            try:
                items += codec.decode(next(bodies, b""), 1, trusted=trusted)
            except (ItemError, ProtocolError, Untrusted) as error:
                items.append(Unreadable(error))
        return items


@dataclass(slots=True)
class Chunk:
    """The next items, which one thread takes by itself, without the lock: one step of C each.

    The thread takes from the left, and nobody else does. What it took is read off the length. Whoever holds
    the lock may take away what is left, from the right, item by item: so each item is taken once.
    """

    session: int
    first: int
    """The position of its first item."""
    items: deque[Any]
    """The items, or a `Taken` for each."""
    size: int
    holder: int
    settles: bool
    """With each item that is taken, the one before is done."""
    holding: int
    """The position of the item that the holder had in hand before, if that is then done."""
    counted: int = 0
    """Items of which is known that they were taken."""
    left: int = -1
    """Items that were taken away; -1 while they are there."""

    def taken(self) -> int:
        """How many items the thread took."""
        return self.size - (len(self.items) if self.left < 0 else self.left)

    def take_away(self) -> None:
        """Let the thread have nothing more."""
        left = 0
        try:
            while True:
                self.items.pop()
                left += 1
        except IndexError:
            self.left = left


Portion = tuple[int, deque[Any], Chunk]
"""Who may take items from where."""
NOTHING: Portion = (0, deque(), Chunk(0, 0, deque(), 0, 0, False, 0))


@dataclass(slots=True)
class Hand:
    """What a program takes, and says to be done, without the lock. It outlasts the sessions of its end."""

    getting: Portion = NOTHING
    """The thread that may take these items."""
    receiving: Portion = NOTHING
    """The same, of deliveries."""
    acks: list[Taken] = field(default_factory=list)
    """Deliveries that are done, until the machine counts them."""
    called: bool = False
    """Somebody is about to count them."""


class Unreadable(NamedTuple):
    """What reading an item raised."""

    error: Exception
