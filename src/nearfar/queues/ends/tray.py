"""Where small items of single puts gather until the end's loop takes them in: a put that has to wait for
nothing does not touch the machine."""

from __future__ import annotations

import threading
from typing import Any

import msgpack

from nearfar.net.codec import LEAVES, encode, foreign

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


class Tray:
    """`slip` may be called by any thread; all else only with the machine's lock held.

    What lies here is in the queue: room for it was set aside with `open`. Signal handlers that raise may come
    between any two calls: no count is kept that such a one could tear.
    """

    __slots__ = ("_pack", "_weight", "items", "limit", "lock", "room", "trusted")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.items: list[bytes] = []
        self.limit = 0
        """How many items may lie here. Changed with `lock` held."""
        self.room = 0
        """Bytes that may still come to lie here, or fewer. Changed with `lock` held."""
        self.trusted = False
        self._weight = 0
        self._pack = msgpack.Packer(default=foreign, strict_types=True).pack

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
        with self.lock:
            items = self.items
            lying = len(items)
            if lying >= self.limit:
                return 0
            try:
                packed = self._pack(item)
            except UnicodeEncodeError:
                return 0
            room = self.room - len(packed)
            if room < 0:
                return 0
            self.room = room  # first: what a signal tears here costs room, and lets nothing in without it
            items.append(packed)
            return lying + 1

    def _slip_slowly(self, item: Any) -> int:
        if not self.limit or (item.__class__ in _SIZED and len(item) > LARGEST):
            return 0
        packed = encode(item, trusted=self.trusted)
        if len(packed) > LARGEST:
            return 0
        with self.lock:
            items = self.items
            lying = len(items) + 1
            room = self.room - len(packed)
            if lying > self.limit or room < 0:
                return 0
            self.room = room
            items.append(packed)
            before, self._weight = self._weight, self._weight + len(packed)
            return MANY if before <= HEAVY < self._weight else lying

    def open(self, limit: int, room: int = ANY) -> None:
        """After `clear`: let in up to `limit` items, of up to `room` bytes together."""
        with self.lock:
            self.limit = min(limit, MOST) if room else 0
            self.room = room

    def clear(self) -> list[bytes]:
        """Take out what lies here, and let in nothing more until `open`."""
        if not self.items and not self.limit:
            return []
        with self.lock:
            self.limit = self._weight = 0
            items, self.items = self.items, []
        return items


_SIZED = frozenset({bytes, str})
