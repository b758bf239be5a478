"""Items to bytes and back: msgpack for plain objects, pickle for the rest where the peer is trusted.

An item is one msgpack value; a batch is its items end to end, so that it can be cut between any two
without reading them. What msgpack would change on the way travels in an extension type of ours: tuples, sets,
byte arrays, integers beyond 64 bits, and pickles.
"""

from __future__ import annotations

from typing import Any

import msgpack

from nearfar.errors import ItemError, ProtocolError, Untrusted
from nearfar.net import pickles

TUPLE, SET, FROZENSET, BYTEARRAY, INTEGER, PICKLE = 0x11, 0x12, 0x13, 0x14, 0x15, 0x1F

_LEAVES = frozenset({type(None), bool, int, float, str, bytes})
_PLAIN = _LEAVES | {list, dict, tuple}
_PORTABLE = _PLAIN | {set, frozenset, bytearray}
_DEEPEST = 100
"""Levels of nesting that travel as msgpack; deeper objects (and circular ones) are pickle's."""


def encode(item: Any, *, trusted: bool) -> bytes:
    """`item` as bytes that `decode` makes equal and of the same types.

    Raises `ItemError` when it can't be had without pickle and the peer is not `trusted`, and whatever pickle
    raises when it can't be had with it. References shared inside an item come back as copies, except in
    what pickle carries.
    """
    try:
        if type(item) in _LEAVES or _all(item, _PLAIN, _DEEPEST):
            return _pack(item)
        if _all(item, _PORTABLE, _DEEPEST):
            return _pack(_portable(item))
    except UnicodeEncodeError:
        pass  # a lone surrogate: no UTF-8 for it, but pickle knows how
    if not trusted:
        raise ItemError(
            f"an object of type {type(item).__qualname__} holds more than plain data, and this queue's"
            " peers are not trusted with pickle: send plain data (numbers, strings, bytes, lists, tuples,"
            " sets, dicts)"
        )
    return _pack(msgpack.ExtType(PICKLE, pickles.dumps(item)))


def decode(body: bytes, count: int, *, trusted: bool) -> list[Any]:
    """The `count` items of `body`.

    Raises `ItemError` when one of them cannot be read, `Untrusted` for a pickle from a peer that is not
    `trusted`, `ProtocolError` when there are not just `count`.
    """
    hook = _read_trusted if trusted else _read
    try:
        if count == 1:
            return [msgpack.unpackb(body, ext_hook=hook, strict_map_key=False)]
        items: list[Any] = msgpack.unpackb(
            b"\xdd" + count.to_bytes(4, "big") + body, ext_hook=hook, strict_map_key=False
        )
    except (Untrusted, ItemError):
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"a body of {len(body)} bytes is not {count} items: {error}") from error
    return items


def cut(body: bytes, count: int) -> int:
    """The number of bytes that the first `count` items of `body` take; raises `ProtocolError`."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(body) or 1)
    unpacker.feed(body)
    try:
        for _ in range(count):
            unpacker.skip()
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"a body of {len(body)} bytes has fewer than {count} items") from error
    position: int = unpacker.tell()
    return position


def _all(item: Any, allowed: frozenset[type], depth: int) -> bool:
    kind = type(item)
    if kind not in allowed:
        return False
    if kind in _LEAVES or kind is bytearray:
        return True
    if depth == 0:
        return False
    if kind is dict and not _members(item.values(), allowed, depth):
        return False
    return _members(item, allowed, depth)


def _members(items: Any, allowed: frozenset[type], depth: int) -> bool:
    kinds = set(map(type, items))
    if kinds <= _LEAVES:
        return True
    return kinds <= allowed and all(_all(item, allowed, depth - 1) for item in items)


def _portable(item: Any) -> Any:
    """`item` with what msgpack would change replaced by our extension types."""
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


def _foreign(item: Any) -> Any:
    """What msgpack asks for an object that it does not know by itself."""
    if type(item) is tuple:
        return msgpack.ExtType(TUPLE, _pack(list(item)))
    if type(item) is int:
        return msgpack.ExtType(INTEGER, item.to_bytes(item.bit_length() // 8 + 1, "big", signed=True))
    raise ItemError(f"an object of type {type(item).__qualname__} cannot travel as msgpack")


_idle_packers: list[msgpack.Packer] = []
"""Packers to use again: making one costs more than packing a small item, and a nested tuple needs its own."""


def _pack(item: Any) -> bytes:
    try:
        packer = _idle_packers.pop()
    except IndexError:
        packer = msgpack.Packer(default=_foreign, strict_types=True, buf_size=1024)
    packed: bytes = packer.pack(item)
    _idle_packers.append(packer)  # not after an error: it may hold half an item
    return packed


def _read(code: int, data: bytes) -> Any:
    return _extension(code, data, _read)


def _read_trusted(code: int, data: bytes) -> Any:
    if code == PICKLE:
        try:
            return pickles.loads(data)
        except Exception as error:
            raise ItemError(f"an item arrived and cannot be unpickled: {error!r}") from error
    return _extension(code, data, _read_trusted)


def _extension(code: int, data: bytes, hook: Any) -> Any:
    match code:
        case 0x11 | 0x12 | 0x13:  # TUPLE, SET, FROZENSET
            members = msgpack.unpackb(data, ext_hook=hook, strict_map_key=False)
            return {TUPLE: tuple, SET: set, FROZENSET: frozenset}[code](members)
        case 0x14:  # BYTEARRAY
            return bytearray(data)
        case 0x15:  # INTEGER
            return int.from_bytes(data, "big", signed=True)
        case 0x1F:  # PICKLE
            raise Untrusted("an item is a pickle, and its sender is not trusted with one")
        case _:
            return msgpack.ExtType(code, data)
