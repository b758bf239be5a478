"""Rows of a message in frames: one msgpack array of them, and a frame for each large part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgpack

from nearfar.errors import ProtocolError
from nearfar.net import announced

LARGE = 32 * 1024
"""Bytes: a longer part travels in a frame of its own, and is not copied."""
MOST_PARTS = 1024
"""Frames of large parts in one message; what is over stands in the row."""
MOST_ROWS = 4096
MOST_BUFFERS = 1 << 20
"""Parts of one row."""
TOGETHER = 1 << 20
"""Bytes of parts after which a message is full."""
AT_ONCE = 2 << 20
"""Bytes of rows that are unpacked without looking at each value first: lists of nothing, a byte each, would
take sixty times as much here."""

Row = tuple[Any, ...]
Check = Callable[[Any], bool]


class Form(NamedTuple):
    """What a row holds. Where `blob` is not negative, a part stands there, and a list of parts after it."""

    checks: tuple[Check, ...]
    blob: int = -1


def shares(rows: Iterable[Row], blob: int) -> Iterator[list[Row]]:
    """`rows` cut into messages of their own, none empty; `blob` says where their parts are."""
    share: list[Row] = []
    size = 0
    for row in rows:
        share.append(row)
        size += len(row[blob]) + sum(map(_size, row[blob + 1]))
        if size >= TOGETHER or len(share) == MOST_ROWS:
            yield share
            share, size = [], 0
    if share:
        yield share


def pack(rows: Sequence[Row], form: Form) -> list[Any]:
    """The frames of `rows`. A part is bytes, or any buffer; a large one must not change until it is sent."""
    large: list[Any] = []
    if form.blob >= 0:
        rows = [_parted(row, form.blob, large) for row in rows]
    return [msgpack.packb(rows), *large]


def unpack(frames: Sequence[Any], form: Form) -> list[Row]:
    """The rows in `frames`, whose parts are bytes, or the frames themselves. Raises `ProtocolError`."""
    if not 1 <= len(frames) <= 1 + MOST_PARTS:
        raise ProtocolError(f"rows in {len(frames)} frames")
    checks, blob = form
    try:
        if len(frames[0]) > AT_ONCE:
            rows = _rows_singly(frames[0], len(checks), blob)
        else:
            rows = announced.unpack(frames[0], MOST_BUFFERS)
    except (ValueError, TypeError, MemoryError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not rows: {error!r}") from error
    if type(rows) is not list or len(rows) > MOST_ROWS:
        raise ProtocolError("not rows")
    large = iter(frames[1:])
    read = [_read(row, checks, blob, large) for row in rows]
    if next(large, None) is not None:
        raise ProtocolError("a part that no row names")
    return read


def _rows_singly(frame: Any, fields: int, blob: int) -> list[Any]:
    """The same of a long frame, value by value: lists where there are to be some, and nowhere else."""
    unpacker = msgpack.Unpacker(
        max_buffer_size=len(frame), max_array_len=0, max_map_len=0, max_ext_len=0, max_str_len=AT_ONCE
    )
    unpacker.feed(frame)
    count = unpacker.read_array_header()
    if count > MOST_ROWS:
        raise ValueError(f"{count} rows")
    return [_row_singly(unpacker, fields, blob) for _ in range(count)]


def _row_singly(unpacker: msgpack.Unpacker, fields: int, blob: int) -> list[Any]:
    if unpacker.read_array_header() != fields:
        raise ValueError("a row of the wrong shape")
    row: list[Any] = []
    for place in range(fields):
        if blob < 0 or place != blob + 1:
            row.append(unpacker.unpack())
            continue
        count = unpacker.read_array_header()
        if count > MOST_BUFFERS:
            raise ValueError(f"{count} parts in a row")
        row.append([unpacker.unpack() for _ in range(count)])
    return row


def _parted(row: Row, blob: int, large: list[Any]) -> Row:
    """`row` with its large parts moved to `large`, None in their places."""
    if not row[blob + 1] and len(row[blob]) <= LARGE:
        return row
    buffers = [_place(part, large) for part in (row[blob], *row[blob + 1])]
    return (*row[:blob], buffers[0], buffers[1:], *row[blob + 2 :])


def _place(part: Any, large: list[Any]) -> Any:
    part = _flat(part)
    if len(part) <= LARGE or len(large) >= MOST_PARTS:
        return part
    large.append(part)
    return None


def _read(row: Any, checks: tuple[Check, ...], blob: int, large: Iterator[Any]) -> Row:
    if type(row) is not list or len(row) != len(checks):
        raise ProtocolError("a row of the wrong shape")
    if blob >= 0:
        if type(row[blob + 1]) is not list:
            raise ProtocolError("a row without parts")
        if row[blob] is None:
            row[blob] = next(large, None)
        if row[blob + 1]:
            row[blob + 1] = [next(large, None) if part is None else part for part in row[blob + 1]]
    for check, value in zip(checks, row, strict=True):  # `all` and a generator would cost as much again
        if not check(value):
            raise ProtocolError("a row with a field of the wrong kind")
    return tuple(row)


def _flat(part: Any) -> Any:
    if type(part) is bytes:
        return part
    raw = part.raw() if hasattr(part, "raw") else memoryview(part)  # a PickleBuffer may have any shape
    return raw if raw.ndim == 1 and raw.itemsize == 1 else raw.cast("B")


def _size(part: Any) -> int:
    return len(part) if type(part) is bytes else memoryview(part).nbytes


def is_part(value: Any) -> bool:
    return type(value) is bytes or type(value) is memoryview


def are_parts(value: Any) -> bool:
    return type(value) is list and all(map(is_part, value))
