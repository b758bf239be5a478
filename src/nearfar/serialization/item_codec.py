"""Items to bytes and back: msgpack for plain objects, pickle for the rest if the peer is trusted.

An item is one msgpack value; a batch is its items concatenated, so that it can be cut between any two without
reading them. What msgpack would change has an extension type of its own: tuples, sets, byte arrays, integers
beyond 64 bits, and pickles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import msgpack

from nearfar.errors import ItemError, ProtocolError, Untrusted
from nearfar.serialization.pickles import pickler

TUPLE, SET, FROZENSET, BYTEARRAY, INTEGER, PICKLE = 0x11, 0x12, 0x13, 0x14, 0x15, 0x1F

LEAVES = frozenset({type(None), bool, int, float, str, bytes})
"""The types that msgpack packs without conversion."""
_PLAIN = LEAVES | {list, dict, tuple}
_PORTABLE = _PLAIN | {set, frozenset, bytearray}
_DEEPEST = 32
"""Levels of nesting in msgpack; deeper objects (and circular ones) are pickled.

Each level of tuples or sets costs the reader some 40 KiB of the C stack, which has no other bound.
"""
LARGEST_ITEM = (1 << 31) - (1 << 20)
"""Bytes of an item: a larger one would not fit into a frame."""
BIN32 = 0xC6
"""The first byte in msgpack of bytes longer than 64 KiB."""
LARGEST_KEPT = 1 << 20
"""Bytes of an item above which its packer is not used again, because its buffer never shrinks."""


LARGEST_RUN = 1 << 20
"""Bytes of items that are encoded together, at most."""


def encode(item: Any, *, trusted: bool) -> bytes:
    """`item` as bytes, from which `decode` makes an equal item of the same types.

    Raises `ItemError` if it needs pickle and the peer is not `trusted`, or if it is too large for a frame;
    and whatever pickle raises. References shared inside an item come back as copies, except inside a pickle.
    """
    packed = _plain(item)
    if packed is None:
        if not trusted:
            raise ItemError(
                f"an object of type {type(item).__qualname__} cannot be sent as plain data (numbers, strings,"
                f" bytes, lists, tuples, sets and dicts, up to {_DEEPEST} deep), and this queue's peers are"
                " not trusted with pickle"
            )
        packed = _pack(msgpack.ExtType(PICKLE, pickler.dumps(item)))
    if len(packed) > LARGEST_ITEM:
        raise ItemError(f"an item of {len(packed)} bytes is too large: at most {LARGEST_ITEM} can be sent")
    return packed


class Parts:
    """An encoded item, or several, in pieces: so the content of long bytes is copied only once, when they are
    joined or placed in shared memory."""

    __slots__ = ("pieces", "size")

    def __init__(self, pieces: list[bytes], size: int) -> None:
        self.pieces = pieces
        self.size = size

    def __len__(self) -> int:
        return self.size


Encoded = bytes | Parts


def joined(body: Encoded) -> bytes:
    """Encoded items in one piece."""
    return b"".join(body.pieces) if isinstance(body, Parts) else body


def pieces(body: Encoded) -> list[bytes]:
    """The pieces of encoded items."""
    return body.pieces if isinstance(body, Parts) else [body]


def encode_parts(item: Any, *, trusted: bool) -> Encoded:
    """As `encode`, but long bytes are not copied, and `Parts` are encoded already."""
    if type(item) is Parts:
        return item
    if type(item) is bytes and LONG <= len(item) < LARGEST_ITEM - 5:
        return _long_bytes([item])
    return encode(item, trusted=trusted)


def encode_pieces(pieces: Sequence[bytes]) -> Parts:
    """An item of bytes, at least `LONG`, whose content is `pieces` together. They are not copied.

    Raises `ItemError` if it is too large for a frame.
    """
    size = sum(map(len, pieces))
    if size > LARGEST_ITEM - PREFIX:
        raise ItemError(f"an item of {size} bytes is too large: at most {LARGEST_ITEM} can be sent")
    prefix = prefix_of(size)
    return Parts([prefix, *pieces], len(prefix) + size)


def prefix_of(length: int) -> bytes:
    """What comes before the content of `length` long bytes when they are encoded: up to `PREFIX` bytes."""
    return _BIN16 + length.to_bytes(2, "big") if length < 1 << 16 else _BIN32 + length.to_bytes(4, "big")


def _long_bytes(items: list[bytes]) -> Parts:
    found: list[bytes] = []
    for item in items:
        found += (prefix_of(len(item)), item)
    return Parts(found, sum(map(len, found)))


def encode_many(items: list[Any], *, trusted: bool, most: int, size: int) -> Iterator[tuple[int, Encoded]]:
    """Runs of `items`, as (count, body), of up to `most` items and, if they are similar, about `size` bytes.

    Raises as `encode`.
    """
    start, step = 0, 1
    while start < len(items):
        chunk = items[start : start + step]
        body = _together(chunk) if step > 1 else None
        count = len(chunk)
        if body is None:
            count, body = 1, encode_parts(chunk[0], trusted=trusted)
        yield count, body
        start += count
        step = max(1, min(most, size * count // len(body)))


def encode_leaves(items: list[Any]) -> bytes:
    """Items of types in `LEAVES`, concatenated, by one call of msgpack.

    Raises `UnicodeEncodeError` for a string that is not valid Unicode.
    """
    return _pack(items)[1 if len(items) < 16 else 3 if len(items) < 1 << 16 else 5 :]


def _together(items: list[Any]) -> Encoded | None:
    """Leaves, concatenated, or None if they must be encoded one by one."""
    types = set(map(type, items))
    if not types <= LEAVES:
        return None
    if types == {bytes} and min(map(len, items)) >= LONG:
        return _long_bytes(items) if sum(map(len, items)) <= LARGEST_RUN - 5 * len(items) else None
    try:
        body = encode_leaves(items)
    except (UnicodeEncodeError, ValueError):
        return None
    return body if len(body) <= LARGEST_RUN else None


def decode(body: bytes, count: int, *, trusted: bool) -> list[Any]:
    """The `count` items of `body`.

    Raises `ItemError` if one of them cannot be read, `Untrusted` for a pickle from a peer that is not
    `trusted`, `ProtocolError` if there are not exactly `count`.
    """
    if count > len(body):
        raise ProtocolError(f"a body of {len(body)} bytes is not {count} items")
    if len(body) >= count * LONG and (long := decode_long(body, count)) is not None:
        return long
    try:
        if count == 1:
            return [_unpack(body, trusted)]
        head = b"\xdd" + count.to_bytes(4, "big")
        if HARMLESS < len(body) <= LARGEST_RUN:
            return _unpack_run(head, body, trusted)
        items: list[Any] = _unpack(b"".join((head, body)), trusted)
    except (Untrusted, ItemError):
        raise
    except (*_UNREADABLE, TypeError) as error:
        raise ProtocolError(f"a body of {len(body)} bytes is not {count} items: {error}") from error
    return items


def decode_long(body: bytes | memoryview, count: int) -> list[bytes] | None:
    """The `count` items of `body` if all of them are bytes, which are copied only once; else None."""
    items: list[bytes] = []
    end, size = 0, len(body)
    while end < size:
        width = _LENGTHS_OF_BYTES.get(body[end])
        if width is None:
            return None
        start = end + 1 + width
        end = start + int.from_bytes(body[end + 1 : start], "big")
        if end > size or start > size:
            return None
        items.append(bytes(body[start:end]))
    return items if len(items) == count else None


def cut(body: bytes | memoryview, count: int) -> int:
    """The number of bytes that the first `count` items of `body` take; raises `ProtocolError`."""
    end = _skip_long(body, count)
    if end:
        return end
    unpacker = _unpacker(body)
    try:
        for _ in range(count):
            unpacker.skip()
    except _UNREADABLE as error:
        raise ProtocolError(f"a body of {len(body)} bytes has fewer than {count} items") from error
    position: int = unpacker.tell()
    return position


def _skip_long(body: bytes | memoryview, count: int) -> int:
    """As `cut`, without a copy of `body`, if its items are bytes or strings and the first is long; else 0."""
    end, size = 0, len(body)
    for _ in range(count):
        width = _LENGTHS.get(body[end]) if end < size else None
        if width is None:
            return 0
        start = end + 1 + width
        end = start + int.from_bytes(body[end + 1 : start], "big")
        if end < LONG:
            return 0
    return end if end <= size else 0


def fitting(body: bytes, count: int, size: int) -> tuple[int, int]:
    """How many of the first `count` items of `body` fit into `size` bytes, and how many bytes they take.

    Raises `ProtocolError`.
    """
    unpacker = _unpacker(body)
    fits = taken = 0
    try:
        while fits < count:
            unpacker.skip()
            end = unpacker.tell()
            if end > size:
                break
            fits, taken = fits + 1, end
    except _UNREADABLE as error:
        raise ProtocolError(f"a body of {len(body)} bytes has fewer than {count} items") from error
    return fits, taken


def split(body: bytes) -> Iterator[bytes]:
    """The items of `body` one by one, as bytes; raises `ProtocolError` at the first malformed one."""
    unpacker = _unpacker(body)
    start = 0
    while start < len(body):
        try:
            unpacker.skip()
        except _UNREADABLE as error:
            raise ProtocolError(f"no item at byte {start} of {len(body)}") from error
        stop = unpacker.tell()
        yield body[start:stop]
        start = stop


def _plain(item: Any) -> bytes | None:
    """`item` as msgpack, or None if it is not plain data."""
    try:
        if type(item) is bytes and 1 << 16 <= len(item) <= LARGEST_ITEM:
            return b"".join((_BIN32, len(item).to_bytes(4, "big"), item))
        if type(item) in LEAVES or _all(item, _PLAIN, _DEEPEST):
            return _pack(item)
        if _all(item, _PORTABLE, _DEEPEST):
            return _pack(_portable(item))
    except UnicodeEncodeError:
        pass  # a lone surrogate: it has no UTF-8, but can be pickled
    except ValueError as error:
        raise ItemError(f"an object of type {type(item).__qualname__} cannot be sent: {error}") from error
    return None


def _all(item: Any, allowed: frozenset[type], depth: int) -> bool:
    kind = type(item)
    if kind not in allowed:
        return False
    if kind in LEAVES or kind is bytearray:
        return True
    if depth == 0:
        return False
    if kind is dict and not _members(item.values(), allowed, depth):
        return False
    return _members(item, allowed, depth)


def _members(items: Any, allowed: frozenset[type], depth: int) -> bool:
    kinds = set(map(type, items))
    if kinds <= LEAVES:
        return True
    return kinds <= allowed and all(_all(item, allowed, depth - 1) for item in items)


def _portable(item: Any) -> Any:
    """`item`, with our extension types for what msgpack would change."""
    kind = type(item)
    if kind is bytearray:
        return msgpack.ExtType(BYTEARRAY, bytes(item))
    if kind is set or kind is frozenset:
        members = [_portable(member) for member in item]
        return msgpack.ExtType(SET if kind is set else FROZENSET, _pack(members))
    if kind is dict:
        return {_portable(key): _portable(value) for key, value in item.items()}
    if kind is list or kind is tuple:
        return kind(_portable(member) for member in item)
    return item


def foreign(item: Any) -> Any:
    """msgpack's hook for objects that it cannot pack itself."""
    if type(item) is tuple:
        return msgpack.ExtType(TUPLE, _pack(list(item)))
    if type(item) is int:
        return msgpack.ExtType(INTEGER, item.to_bytes(item.bit_length() // 8 + 1, "big", signed=True))
    raise ItemError(f"an object of type {type(item).__qualname__} cannot be sent as msgpack")


_BIN16, _BIN32 = bytes([0xC5]), bytes([BIN32])
_LENGTHS_OF_BYTES = {0xC4: 1, 0xC5: 2, BIN32: 4}
_LENGTHS = _LENGTHS_OF_BYTES | {0xD9: 1, 0xDA: 2, 0xDB: 4}
"""The first bytes of bytes and strings in msgpack, and the width of the length that follows."""
PREFIX = 5
LONG = 512
"""Bytes of an item from which on it costs less to read its length here than to copy it for msgpack."""
_idle_packers: list[msgpack.Packer] = []
"""Packers for reuse: making one costs more than packing a small item, and a nested tuple needs its own."""


def _pack(item: Any) -> bytes:
    try:
        packer = _idle_packers.pop()
    except IndexError:
        packer = msgpack.Packer(default=foreign, strict_types=True)
    packed: bytes = packer.pack(item)
    if len(packed) <= LARGEST_KEPT:
        _idle_packers.append(packer)  # not after an error: it may hold half an item
    return packed


_idle_unpackers: dict[bool, list[msgpack.Unpacker]] = {True: [], False: []}
"""Unpackers for runs of items, for reuse, one per concurrent reader, by whether peers are trusted."""
HARMLESS = 16 * 1024
"""Bytes of an item: what a shorter one can make the reader allocate is little, and soon freed.

A list begins with its length, and the reader allocates that many elements at once. Five bytes may announce as
many elements as the item has bytes, and lists may be nested a thousand deep: an item of a megabyte could make
the reader allocate eight gigabytes. So a longer item is skipped over first, which allocates nothing, and
fails if anything is missing.
"""
_UNREADABLE = (ValueError, MemoryError, msgpack.UnpackException)


def _unpacker(body: bytes | memoryview) -> msgpack.Unpacker:
    unpacker = msgpack.Unpacker(max_buffer_size=len(body) or 1)
    unpacker.feed(body)
    return unpacker


def _unpack(data: bytes, trusted: bool, depth: int = 0) -> Any:
    if len(data) > HARMLESS and _long_lists(data if type(data) is bytes else bytes(data)):
        _unpacker(data).skip()
    return msgpack.unpackb(data, ext_hook=_HOOKS[trusted][depth], strict_map_key=False)


def _long_lists(data: bytes) -> bool:
    """False if surely no list in `data` has more than 15 elements, except one at its very beginning."""
    return data.find(b"\xdd", 1) >= 0 or data.find(b"\xdc", 1) >= 0


def _unpack_run(head: bytes, body: bytes, trusted: bool) -> list[Any]:
    """The list with that `head` and `body`, checked first. Its buffer is reused: getting new memory from the
    system, page by page, costs several times as much as everything else."""
    try:
        unpacker = _idle_unpackers[trusted].pop()
    except IndexError:
        hook = _HOOKS[trusted][0]
        most = LARGEST_RUN + len(head)
        unpacker = msgpack.Unpacker(ext_hook=hook, strict_map_key=False, max_buffer_size=most)
    start = unpacker.tell()
    for read in (unpacker.skip, unpacker.unpack):
        unpacker.feed(head)
        unpacker.feed(body)
        items: list[Any] = read()
        start += len(head) + len(body)
        if unpacker.tell() != start:
            raise ValueError("there are more bytes after them")
    _idle_unpackers[trusted].append(unpacker)  # not after an error: it may hold half an item
    return items


def _read(trusted: bool, depth: int, code: int, data: bytes) -> Any:
    """msgpack's hook for an extension type inside `depth` others."""
    if code in _COLLECTIONS:
        if depth == _DEEPEST:
            raise ProtocolError(f"an item nests its data more than {_DEEPEST} deep")
        return _COLLECTIONS[code](_unpack(data, trusted, depth + 1))
    if code == BYTEARRAY:
        return bytearray(data)
    if code == INTEGER:
        return int.from_bytes(data, "big", signed=True)
    if code == PICKLE:
        return _unpickle(data, trusted)
    raise ProtocolError(f"an item holds data of the unknown type {code}")


def _unpickle(data: bytes, trusted: bool) -> Any:
    if not trusted:
        raise Untrusted("an item is a pickle, and its sender is not trusted with one")
    try:
        return pickler.loads(data)
    except Exception as error:
        raise ItemError(f"an item arrived and cannot be unpickled: {error!r}") from error


_COLLECTIONS: dict[int, Any] = {TUPLE: tuple, SET: set, FROZENSET: frozenset}
_HOOKS = {
    trusted: [partial(_read, trusted, depth) for depth in range(_DEEPEST + 1)] for trusted in (False, True)
}
