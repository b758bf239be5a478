"""Where small items of single puts gather until the end's loop takes them in: a put that has to wait for
nothing does not touch the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from operator import length_hint
from typing import Any

import msgpack

from nearfar.net.codec import LEAVES, encode

LARGEST = 64 * 1024
"""Bytes or characters of an item that may lie here: larger ones go by themselves."""
LIGHT = 256
"""Bytes or characters of an item whose weight does not count."""
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

WayIn = tuple[Callable[[bytes], object], Iterator[int], Iterator[int], int]


class Tray:
    """`slip` may be called by any thread, and in the middle of itself, by a signal's handler or a finalizer;
    all else only with the machine's lock held.

    What lies here is in the queue: room for it was set aside with `open`. An item comes in by a single step
    of C, which takes one of the permits, and room, and adds to the items: there is nothing to be torn.
    """

    __slots__ = ("_pack", "_way_in", "_weight", "items", "limit", "trusted")

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.limit = 0
        """How many items may lie here."""
        self.trusted = False
        self._way_in: WayIn = (self.items.append, iter(()), iter(()), 1)
        """Where items are added; the permits: how many there are then, for each that may come; the units of
        room; and the bytes of one."""
        self._weight = 0
        self._pack = msgpack.Packer(strict_types=True).pack  # calls nothing of ours, hence in one step

    def slip(self, item: Any) -> int:
        """Take in `item`, and tell how many lie here now, or `MANY` when they have become heavy; 0 if it was
        not taken, and is to be put in the other way.

        Raises what `codec.encode` raises. Called for each item, hence so flat.
        """
        kind = type(item)
        if kind is bytes or kind is str:
            if len(item) > LIGHT:
                return self._slip_slowly(item)
        elif kind not in LEAVES:
            return self._slip_slowly(item)
        if not self.limit:
            return 0
        add, permits, room, unit = self._way_in
        try:
            packed = self._pack(item)
        except (UnicodeEncodeError, OverflowError):  # nothing that msgpack has by itself
            return self._slip_slowly(item) if kind is int else 0
        if len(packed) > unit:
            room = _some(room, -(-len(packed) // unit))
        for _, lying, _ in zip(room, permits, map(add, (packed,)), strict=False):
            return lying
        return 0

    def _slip_slowly(self, item: Any) -> int:
        if not self.limit or (item.__class__ in _SIZED and len(item) > LARGEST):
            return 0
        packed = encode(item, trusted=self.trusted)
        if len(packed) > LARGEST:
            return 0
        add, permits, room, unit = self._way_in
        if len(packed) > unit:
            room = _some(room, -(-len(packed) // unit))
        for _, lying, _ in zip(room, permits, map(add, (packed,)), strict=False):
            before = self._weight
            self._weight = before + len(packed)
            return MANY if before <= HEAVY < before + len(packed) else lying
        return 0

    def open(self, limit: int, room: int = ANY) -> None:
        """After `clear`: let in up to `limit` items, of up to `room` bytes together."""
        if not room:
            return
        self.limit = min(limit, MOST)
        unit = max(1, room // UNITS)
        self._way_in = (self.items.append, iter(range(1, self.limit + 1)), iter(range(room // unit)), unit)

    def clear(self) -> list[bytes]:
        """Take out what lies here, and let in nothing more until `open`."""
        if not self.items and not self.limit:
            return []
        self._shut()
        self.limit = self._weight = 0
        items, self.items = self.items, []
        return items

    def _shut(self) -> None:
        """Use up the permits: whoever is about to come in does not."""
        list(self._way_in[1])


def _some(room: Iterator[int], units: int) -> Iterator[int]:
    """What takes so many units of `room` in one step, and gives nothing where there are fewer.

    Where others have taken some since this looked, what is left is taken in vain.
    """
    return islice(room, units - 1, None) if length_hint(room) >= units else iter(())


_SIZED = frozenset({bytes, str})
