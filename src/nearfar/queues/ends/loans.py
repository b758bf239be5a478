"""What was lent to an end, in its buffer and in its program's hands."""

from __future__ import annotations

from dataclasses import dataclass
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

    def read(self, *, trusted: bool) -> bool:
        """Read the items; whether all could be. In the place of another stands `Unreadable`."""
        plain = True
        try:
            self.items = codec.decode(self.body, self.count, trusted=trusted)
        except (ItemError, ProtocolError, Untrusted):
            self.items, plain = self._read_singly(trusted), False
        self.body = b""
        return plain

    def _read_singly(self, trusted: bool) -> list[Any]:
        items: list[Any] = []
        bodies = codec.split(self.body)
        for _ in range(self.count):
            try:
                items += codec.decode(next(bodies, b""), 1, trusted=trusted)
            except (ItemError, ProtocolError, Untrusted) as error:
                items.append(Unreadable(error))
        return items


class Unreadable(NamedTuple):
    """What reading an item raised."""

    error: Exception
