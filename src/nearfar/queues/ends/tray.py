"""Where small items of single puts gather until the end's loop takes them in: a put that has to wait for
nothing does not touch the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from operator import length_hint
from typing import Any

from nearfar.net.codec import encode, encode_leaves

LARGEST = 64 * 1024
"""Bytes or characters of an item that may lie here: larger ones go by themselves."""
LIGHT = 255
"""Bytes or characters of an item that is kept as it is, and packed with the others of its batch."""
HEADER = 2
"""Bytes that stand before such an item when it is packed, at most."""
NUMBER = 9
"""Bytes of a number when it is packed, at most."""
MOST = 1024
"""Items that may lie here."""
MANY = 512
"""Items after which the loop is to take them in, whoever comes by."""
HEAVY = 256 * 1024
"""Bytes after which it is to do so."""
ANY = 1 << 62
"""Bytes: more than ever lie here."""
UNITS = 16 * MOST
"""Room is taken in as many units, so that it is a step of C to take some: what an item does not fill of its
last unit is at most a sixteenth of what all have."""

WayIn = tuple[Callable[[Any], object], Iterator[int], Iterator[int], int]
_LEAST, _GREATEST = -(1 << 63), (1 << 64) - 1
"""The integers that msgpack has by itself."""
_NUMBERS = frozenset({bool, float, type(None)})
_SIZED = frozenset({bytes, str})


class Packed(bytes):
    """An item that was packed when it was put: it may change afterwards, or is not light."""


class Tray:
    """`slip` may be called by any thread, and in the middle of itself, by a signal's handler or a finalizer;
    all else only with the machine's lock held.

    What lies here is in the queue. In a bounded queue room for it was set aside with `open`, and an item
    comes in by a single step of C, which takes one of the permits, and room, and adds to the items: there is
    nothing to be torn. Without a bound, threads that put at once may exceed the limit by one item each.
    """

    __slots__ = ("_free", "_way_in", "_weight", "called", "items", "limit", "trusted")

    def __init__(self) -> None:
        self.items: list[Any] = []
        """Leaves, which cannot change, as they were put; others as `Packed`."""
        self.limit = 0
        """How many items may lie here."""
        self.called = False
        """Somebody was told of the items that lie here. Who puts one and finds this false has to tell."""
        self.trusted = False
        self._free = False
        """There is no bound."""
        self._way_in: WayIn = (self.items.append, iter(()), iter(()), 1)
        """Where items are added; the permits: how many there are then, for each that may come; the units of
        room; and the bytes of one."""
        self._weight = 0

    def slip(self, item: Any) -> int:
        """Take in `item`, and tell how many lie here now, or `MANY` when they have become heavy; 0 if it was
        not taken, and is to be put in the other way.

        Raises what `codec.encode` raises. Called for each item, hence so flat.
        """
        kind = type(item)
        if kind is bytes or (kind is str and item.isascii()):
            size = len(item) + HEADER
            if size > LIGHT + HEADER:
                return self._slip_packed(item)
        elif kind in _NUMBERS or (kind is int and _LEAST <= item <= _GREATEST):
            size = NUMBER
        else:
            return self._slip_packed(item)
        if self._free:
            items = self.items
            lying = len(items)
            if lying >= self.limit:
                return 0
            items.append(item)
            return lying + 1
        return self._slip_within_bounds(item, size)

    def _slip_packed(self, item: Any) -> int:
        if not self.limit or (item.__class__ in _SIZED and len(item) > LARGEST):
            return 0
        packed = Packed(encode(item, trusted=self.trusted))
        if len(packed) > LARGEST:
            return 0
        lying = self._slip_within_bounds(packed, len(packed))
        if lying:
            before = self._weight
            self._weight = before + len(packed)
            if before <= HEAVY < before + len(packed):
                return MANY
        return lying

    def _slip_within_bounds(self, item: Any, size: int) -> int:
        add, permits, room, unit = self._way_in
        if size > unit:
            room = _some(room, -(-size // unit))
        for _, lying, _ in zip(room, permits, map(add, (item,)), strict=False):
            return lying
        return 0

    def open(self, limit: int, room: int = ANY) -> None:
        """After `clear`: let in up to `limit` items, of up to `room` bytes together."""
        if not room:
            return
        self.limit = min(limit, MOST)
        unit = max(1, room // UNITS)
        permits = iter(range(len(self.items) + 1, self.limit + 1))
        self._way_in = (self.items.append, permits, iter(range(room // unit)), unit)
        self._free = limit == ANY

    def clear(self) -> list[Any]:
        """Take out what lies here, and let in nothing more until `open`."""
        self.called = False
        if not self.items and not self.limit:
            return []
        self._free = False
        list(self._way_in[1])  # use up the permits: who is about to come in does not
        self.limit = self._weight = 0
        items = self.items[:]
        del self.items[: len(items)]  # the same list: a put without a bound may be about to add to it
        return items


def packed(items: list[Any], most: int, size: int) -> Iterator[tuple[int, bytes]]:
    """`items` of a tray end to end, as (count, body): up to `most` of them, and about `size` bytes, each."""
    if Packed not in set(map(type, items)):
        for start in range(0, len(items), most):
            chunk = items[start : start + most]
            yield len(chunk), encode_leaves(chunk)
        return
    parts: list[bytes] = []
    total = 0
    for item in items:
        part = item if type(item) is Packed else encode(item, trusted=False)
        if parts and (len(parts) >= most or total + len(part) > size):
            yield len(parts), b"".join(parts)
            parts, total = [], 0
        parts.append(part)
        total += len(part)
    if parts:
        yield len(parts), b"".join(parts)


def _some(room: Iterator[int], units: int) -> Iterator[int]:
    """What takes so many units of `room` in one step, and gives nothing where there are fewer.

    Where others have taken some since this looked, what is left is taken in vain.
    """
    return islice(room, units - 1, None) if length_hint(room) >= units else iter(())
