"""Where small items of single puts gather until the end's loop takes them in: a put that has to wait for
nothing does not touch the machine."""

from __future__ import annotations

import threading
from typing import Any

import msgpack

from nearfar.net.codec import LEAVES, foreign

LARGEST = 64 * 1024
"""Bytes or characters of an item that may lie here: larger ones go by themselves."""
MOST = 1024
"""Items that may lie here."""
MANY = 512
"""Items after which the loop is to take them in, whoever comes by."""
HEAVY = 256 * 1024
"""Bytes after which it is to do so."""


class Tray:
    """`slip` may be called by any thread; all else only with the machine's lock held.

    What lies here is in the queue: room for it was set aside with `open`. Signal handlers that raise may come
    between any two calls: no count is kept that such a one could tear.
    """

    __slots__ = ("_pack", "_weight", "items", "limit", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.items: list[bytes] = []
        self.limit = 0
        """How many items may lie here. Changed with `lock` held."""
        self._weight = 0
        self._pack = msgpack.Packer(default=foreign, strict_types=True).pack

    def slip(self, item: Any) -> int:
        """Take in `item`, and tell how many lie here now, or `MANY` if they are heavy; 0 if it was not taken.

        Raises `UnicodeEncodeError` for a text that is none.
        """
        if type(item) not in LEAVES or (item.__class__ in _SIZED and len(item) > LARGEST):
            return 0
        with self.lock:
            items = self.items
            if len(items) >= self.limit:
                return 0
            packed = self._pack(item)
            items.append(packed)
            self._weight += len(packed)
            return MANY if self._weight > HEAVY else len(items)

    def open(self, limit: int) -> None:
        """Let in up to `limit` items, those included that lie here."""
        limit = min(limit, MOST)
        if limit != self.limit:
            with self.lock:
                self.limit = limit

    def clear(self) -> list[bytes]:
        """Take out what lies here, and let in nothing more until `open`."""
        if not self.items and not self.limit:
            return []
        with self.lock:
            self.limit = self._weight = 0
            items, self.items = self.items, []
        return items


_SIZED = frozenset({bytes, str})
