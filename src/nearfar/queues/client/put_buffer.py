"""Small items of single puts, until the client's driver takes them: so a put that need not wait does not use
the protocol's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from operator import length_hint
from typing import Any

from nearfar.serialization.item_codec import (
    LONG,
    PREFIX,
    Encoded,
    Parts,
    encode,
    encode_leaves,
    prefix_of,
)

LARGEST = 64 * 1024
"""Bytes or characters of an item in the put buffer, at most: larger ones are put without it."""
LIGHT = 255
"""Bytes or characters up to which an item is stored as it is, and packed with the others of its batch."""
HEADER = 2
"""Bytes before such an item when it is packed, at most."""
NUMBER = 9
"""Bytes of a packed number, at most."""
MOST = 2048
"""Items in the put buffer, at most."""
MANY = 1024
"""Items after which the driver takes them at once."""
HEAVY = 960 * 1024
"""Bytes after which the driver takes them at once."""
ANY = 1 << 62
"""Bytes: no bound."""
UNITS = 16 * MOST
"""The number of units of room, so that taking some is one step in C. The unused parts of last units are at
most a sixteenth of the room."""

WayIn = tuple[Callable[[Any], object], Iterator[int], Iterator[int], int]
_LEAST, _GREATEST = -(1 << 63), (1 << 64) - 1
"""The range of msgpack's integers."""
_NUMBERS = frozenset({bool, float, type(None)})
_SIZED = frozenset({bytes, str})


class Packed(bytes):
    """An item that was packed when it was put, because it may change afterwards or is not `LIGHT`."""


class PutBuffer:
    """`append_now` may be called by any thread, and reentered by a signal handler or a finalizer; all other
    methods require the client's lock.

    Items here count as put. In a bounded queue, `open` has reserved room for them, and an item is added by a
    single step in C, which takes a permit and room and appends the item, so that no exception can interrupt
    it halfway. Without a bound, concurrent puts may exceed the limit by one item each.
    """

    __slots__ = ("_free", "_way_in", "_weight", "called", "items", "limit", "trusted")

    def __init__(self) -> None:
        self.items: list[Any] = []
        """Immutable leaves as they were put; others as `Packed`."""
        self.limit = 0
        """How many items may be here."""
        self.called = False
        """Whether the driver was notified of the items here. A thread that adds one while this is false must
        notify it."""
        self.trusted = False
        self._free = False
        """Whether there is no bound."""
        self._way_in: WayIn = (self.items.append, iter(range(0)), iter(()), 1)
        """The function that adds an item; the permits (for each item that may come, the count with it); the
        units of room; and the bytes of a unit."""
        self._weight = 0

    def append_now(self, item: Any) -> int:
        """Add `item`, and return how many items are here now, or `MANY` if they exceed `HEAVY` bytes; 0 if it
        was not added, and must be put by `ProducerCalls.put`.

        Raises what `item_codec.encode` raises. Called for each item, hence without helper functions.
        """
        kind = type(item)
        if kind is bytes or (kind is str and item.isascii()):
            size = len(item) + HEADER
            if size > LIGHT + HEADER:
                return self._append_packed(item)
        elif kind in _NUMBERS or (kind is int and _LEAST <= item <= _GREATEST):
            size = NUMBER
        else:
            return self._append_packed(item)
        if self._free:
            items = self.items
            lying = len(items)
            if lying >= self.limit:
                return 0
            items.append(item)
            return lying + 1
        add, permits, room, unit = self._way_in
        if size > unit:
            room = _some(room, -(-size // unit))
        for _, lying, _ in zip(room, permits, map(add, (item,))):  # noqa: B905 - faster without `strict`
            return lying
        return 0

    def _append_packed(self, item: Any) -> int:
        if not self.limit or (item.__class__ in _SIZED and len(item) > LARGEST):
            return 0
        if type(item) is bytes and len(item) >= LONG:
            size = len(item) + PREFIX
            lying = self._append_within_bounds(item, size)
        else:
            packed = Packed(encode(item, trusted=self.trusted))
            size = len(packed)
            lying = self._append_within_bounds(packed, size) if size <= LARGEST else 0
        if lying:
            before = self._weight
            self._weight = before + size
            if before <= HEAVY < before + size:
                return MANY
        return lying

    def _append_within_bounds(self, item: Any, size: int) -> int:
        add, permits, room, unit = self._way_in
        room = _some(room, max(1, -(-size // unit)))
        for _, lying, _ in zip(room, permits, map(add, (item,)), strict=False):
            return lying
        return 0

    def open(self, limit: int, room: int = ANY) -> None:
        """After `clear`: admit up to `limit` items, of up to `room` bytes together."""
        if not room:
            return
        self.limit = min(limit, MOST)
        unit = max(1, room // UNITS)
        permits = iter(range(len(self.items) + 1, self.limit + 1))
        self._way_in = (self.items.append, permits, iter(range(room // unit)), unit)
        self._free = limit == ANY

    def clear(self) -> list[Any]:
        """Remove and return the items, and admit no more until `open`."""
        self.called = False
        if not self.items and not self.limit:
            return []
        self._free = False
        # use up the permits in one step, so that concurrent puts are not admitted
        self._way_in[1].__setstate__(MOST)  # type: ignore[attr-defined]
        self.limit = self._weight = 0
        items = self.items[:]
        del self.items[: len(items)]  # the same list: a put without a bound may be about to add to it
        return items


def packed(items: list[Any], most: int, size: int) -> list[tuple[int, Encoded]]:
    """`items` of a put buffer, concatenated, as (count, body): each with up to `most` items and about `size`
    bytes."""
    types = set(map(type, items))
    if Packed not in types:
        sized: list[Any] = items if types <= _SIZED else []
        if bytes in types and not sized:
            sized = [item for item in items if type(item) is bytes]
        if not sized or max(map(len, sized)) < LONG:
            if len(items) <= most:
                return [(len(items), encode_leaves(items))]
            chunks = [items[start : start + most] for start in range(0, len(items), most)]
            return [(len(chunk), encode_leaves(chunk)) for chunk in chunks]
    found: list[tuple[int, Encoded]] = []
    pieces: list[bytes] = []
    count = total = 0
    for item in items:
        if type(item) is bytes and len(item) >= LONG:
            some = [prefix_of(len(item)), item]
        else:
            some = [item if type(item) is Packed else encode(item, trusted=False)]
        length = sum(map(len, some))
        if count and (count >= most or total + length > size):
            found.append((count, Parts(pieces, total)))
            pieces, count, total = [], 0, 0
        pieces += some
        count += 1
        total += length
    if count:
        found.append((count, Parts(pieces, total)))
    return found


def _some(room: Iterator[int], units: int) -> Iterator[int]:
    """An iterator that takes `units` of `room` in one step, and yields nothing if there are fewer.

    If others took some in between, the rest is taken without effect.
    """
    return islice(room, units - 1, None) if length_hint(room) >= units else iter(())
