"""Rows of a message, with a separate frame for each large part of them.

A part is bytes: the blob of a row, or one of its buffers. A large part is replaced in its row by an empty
part, and sent in a further frame. The message has the place of each, (row, part): part 0 is the blob, part 1
the first buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from nearfar.errors import ProtocolError

AGENT, CLIENT = "agent", "client"
"""The roles of a peer, in HELLO."""
LARGE = 32 * 1024
"""Bytes: a longer part is sent in a separate frame, and is not copied."""
MOST_PARTS = 1024
"""Frames of large parts in one message; further ones stay in their rows."""
MOST_ROWS = 4096
MOST_BUFFERS = 1 << 20
"""Buffers of one row."""
TOGETHER = 1 << 20
"""Bytes of parts after which a message is full."""

Row = tuple[Any, ...]
Place = tuple[int, int]


def shares(rows: Sequence[Row], blob: int, size: int = -1) -> list[Sequence[Row]]:
    """Split `rows` into messages, none empty; `blob` is the index of their parts, `size` their bytes or -1.

    A row of more than `TOGETHER` bytes is a message of its own.
    """
    if len(rows) <= 1:
        return [rows] if rows else []
    if len(rows) <= MOST_ROWS and (weight(rows, blob) if size < 0 else size) <= TOGETHER:
        return [rows]
    shares: list[Sequence[Row]] = []
    start = size = 0
    for place, row in enumerate(rows):
        more = len(row[blob])
        if row[blob + 1]:
            more += sum(map(_size, row[blob + 1]))
        if place > start and (size + more > TOGETHER or place - start == MOST_ROWS):
            shares.append(rows[start:place])
            start, size = place, 0
        size += more
    if rows:
        shares.append(rows[start:])
    return shares


def weight(rows: Sequence[Row], blob: int) -> int:
    """Bytes of the parts of `rows`."""
    if len(rows) == 1:
        row = rows[0]
        return size_of(row[blob], row[blob + 1]) if row[blob + 1] else len(row[blob])
    size = sum(map(len, map(itemgetter(blob), rows)))
    for buffers in filter(None, map(itemgetter(blob + 1), rows)):
        size += sum(map(_size, buffers))
    return size


def size_of(blob: Any, buffers: Sequence[Any]) -> int:
    """Bytes of one row's parts."""
    return len(blob) + sum(map(_size, buffers)) if buffers else len(blob)


def take_out(rows: Sequence[Row], blob: int) -> tuple[Sequence[Row], list[Place], list[Any]]:
    """`rows` without their large parts, the places of these, and their frames.

    `blob` is the index of the parts of a row: one there, and a sequence of others after it. A part is bytes,
    or any buffer; a large one must not change until it is sent.
    """
    places: list[Place] = []
    large: list[Any] = []
    changed: dict[int, Row] = {}
    for at, row in enumerate(rows):
        if not row[blob + 1] and len(row[blob]) <= LARGE:
            continue
        parts = [_flat(part) for part in (row[blob], *row[blob + 1])]
        for number, part in enumerate(parts):
            if len(part) > LARGE and len(large) < MOST_PARTS:
                places.append((at, number))
                large.append(part)
                parts[number] = b""
        changed[at] = _with_parts(row, blob, parts)
    if changed:
        rows = [changed.get(at, row) for at, row in enumerate(rows)]
    return rows, places, large


def put_back(rows: list[Row], blob: int, places: Sequence[Place], large: Sequence[Any]) -> None:
    """Put the frames of large parts into their places. Raises `ProtocolError`."""
    if len(places) != len(large):
        raise ProtocolError(f"{len(large)} large parts for {len(places)} places")
    filled: dict[int, list[Any]] = {}
    for (at, number), frame in zip(places, large, strict=True):
        if at >= len(rows):
            raise ProtocolError("a large part of a row that is not there")
        parts = filled.get(at)
        if parts is None:
            parts = filled[at] = [rows[at][blob], *rows[at][blob + 1]]
        if number >= len(parts) or len(parts[number]):
            raise ProtocolError("a large part without a place in its row")
        parts[number] = frame
    for at, parts in filled.items():
        rows[at] = _with_parts(rows[at], blob, parts)


def _with_parts(row: Row, blob: int, parts: list[Any]) -> Row:
    return (*row[:blob], parts[0], tuple(parts[1:]), *row[blob + 2 :])


def _flat(part: Any) -> Any:
    if type(part) is bytes:
        return part
    raw = part.raw() if hasattr(part, "raw") else memoryview(part)  # a PickleBuffer may have any shape
    return raw if raw.ndim == 1 and raw.itemsize == 1 else raw.cast("B")


def _size(part: Any) -> int:
    return len(part) if type(part) is bytes else memoryview(part).nbytes
