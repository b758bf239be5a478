"""Rows of a message in frames: one msgpack array of their columns, and a frame for each large part.

``[number of rows, *columns]``: a column has a value for each row, or one for all. So what the rows of a
message share, such as their function, is said once, and what differs is checked by the column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import msgpack

from nearfar.errors import ProtocolError
from nearfar.net import frames as announced
from nearfar.net import frames as shapes

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

_MOST_NATURAL = (1 << 63) - 1

Row = tuple[Any, ...]
Check = Callable[[Any], bool]


class Columns(NamedTuple):
    """What a row holds. Where `blob` is not negative, a part stands there, and a list of parts after it."""

    checks: tuple[Check, ...]
    blob: int = -1


def shares(rows: Iterable[Row], blob: int) -> Iterator[list[Row]]:
    """`rows` cut into messages of their own, none empty; `blob` says where their parts are.

    A row of more than `TOGETHER` bytes has a message for itself.
    """
    share: list[Row] = []
    size = 0
    for row in rows:
        more = len(row[blob])
        if row[blob + 1]:
            more += sum(map(_size, row[blob + 1]))
        if share and (size + more > TOGETHER or len(share) == MOST_ROWS):
            yield share
            share, size = [], 0
        share.append(row)
        size += more
    if share:
        yield share


def weight(rows: Sequence[Row], blob: int) -> int:
    """Bytes of the parts of `rows`."""
    if len(rows) == 1:
        return size_of(rows[0][blob], rows[0][blob + 1])
    return sum([size_of(row[blob], row[blob + 1]) for row in rows])


def size_of(blob: Any, buffers: Sequence[Any]) -> int:
    """Bytes of one row's parts."""
    return len(blob) + sum(map(_size, buffers)) if buffers else len(blob)


def pack(rows: Sequence[Row], form: Columns) -> list[Any]:
    """The frames of `rows`. A part is bytes, or any buffer; a large one must not change until it is sent."""
    large: list[Any] = []
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    if rows and form.blob >= 0:
        blobs, buffers = columns[form.blob : form.blob + 2]
        if any(buffers) or max(map(len, blobs)) > LARGE:
            placed = [
                (_place(part, large), [_place(each, large) for each in beside])
                for part, beside in zip(blobs, buffers, strict=True)
            ]
            columns[form.blob : form.blob + 2] = zip(*placed, strict=True)
    if len(rows) > 1:
        columns = [_told(column, place, form.blob) for place, column in enumerate(columns)]
    return [msgpack.packb([len(rows), *columns]), *large]


def unpack(frames: Sequence[Any], form: Columns) -> list[Row]:
    """The rows in `frames`, whose parts are bytes, or the frames themselves. Raises `ProtocolError`."""
    if not 1 <= len(frames) <= 1 + MOST_PARTS:
        raise ProtocolError(f"rows in {len(frames)} frames")
    try:
        if len(frames[0]) > AT_ONCE:
            words = _columns_singly(frames[0], len(form.checks), form.blob)
        else:
            words = announced.unpack(frames[0], MOST_BUFFERS)
    except (ValueError, TypeError, MemoryError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not rows: {error!r}") from error
    if type(words) is not list or not words or type(words[0]) is not int or not 0 <= words[0] <= MOST_ROWS:
        raise ProtocolError("not rows")
    count, *columns = words
    large = iter(frames[1:])
    rows = _rows(count, columns, form, large) if count else []
    if next(large, None) is not None:
        raise ProtocolError("a part that no row names")
    return rows


def _rows(count: int, columns: list[Any], form: Columns, large: Iterator[Any]) -> list[Row]:
    checks, blob = form
    if len(columns) != len(checks) or set(map(type, columns)) != {list}:
        raise ProtocolError("rows of the wrong shape")
    if not {1, count}.issuperset(map(len, columns)) or (blob >= 0 and len(columns[blob]) != count):
        raise ProtocolError("rows of the wrong shape")
    if blob >= 0:
        _fetch(columns, blob, large)
    for check, column in zip(checks, columns, strict=True):
        if not (check(column[0]) if len(column) == 1 else _holds_in_all(check, column)):
            raise ProtocolError("rows with a field of the wrong kind")
    if count == 1:
        return [tuple([column[0] for column in columns])]
    spread = [column if len(column) == count else repeat(column[0], count) for column in columns]
    return list(zip(*spread, strict=True))


def _fetch(columns: list[Any], blob: int, large: Iterator[Any]) -> None:
    """Put the large parts where they are named, row by row."""
    blobs, buffers = columns[blob : blob + 2]
    if set(map(type, buffers)) != {list}:
        raise ProtocolError("a row without parts")
    if not any(buffers):
        if None in blobs:
            columns[blob] = [next(large, None) if part is None else part for part in blobs]
        return
    if len(buffers) != len(blobs):
        raise ProtocolError("rows that share their parts")
    for place, beside in enumerate(buffers):
        if blobs[place] is None:
            blobs[place] = next(large, None)
        buffers[place] = [next(large, None) if part is None else part for part in beside]


def _columns_singly(frame: Any, fields: int, blob: int) -> list[Any]:
    """The same of a long frame, value by value: lists where there are to be some, and nowhere else."""
    unpacker = msgpack.Unpacker(
        max_buffer_size=len(frame), max_array_len=0, max_map_len=0, max_ext_len=0, max_str_len=AT_ONCE
    )
    unpacker.feed(frame)
    if unpacker.read_array_header() != 1 + fields:
        raise ValueError("rows of the wrong shape")
    words: list[Any] = [unpacker.unpack()]
    for place in range(fields):
        count = _length(unpacker, MOST_ROWS)
        if blob < 0 or place != blob + 1:
            words.append([unpacker.unpack() for _ in range(count)])
        else:
            words.append([_beside(unpacker) for _ in range(count)])
    return words


def _beside(unpacker: msgpack.Unpacker) -> list[Any]:
    read: list[Any] = []
    for _ in range(_length(unpacker, MOST_BUFFERS)):
        part = unpacker.unpack()
        if part is not None and type(part) is not bytes:  # at the first: empty lists may be many
            raise ValueError("a part that is none")
        read.append(part)
    return read


def _length(unpacker: msgpack.Unpacker, most: int) -> int:
    count: int = unpacker.read_array_header()
    if count > most:
        raise ValueError(f"a list of {count}")
    return count


def _told(column: Sequence[Any], place: int, blob: int) -> Sequence[Any]:
    """What is said of a column: one value for all rows where they are the same, but of parts."""
    if place == blob:
        return column
    if place == blob + 1 and blob >= 0:
        return column if any(column) else [[]]
    return column[:1] if column.count(column[0]) == len(column) else column


def _place(part: Any, large: list[Any]) -> Any:
    part = _flat(part)
    if len(part) <= LARGE or len(large) >= MOST_PARTS:
        return part
    large.append(part)
    return None


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


def _holds_in_all(check: Check, column: list[Any]) -> bool:
    whole = _IN_ALL.get(check)
    return all(map(check, column)) if whole is None else whole(column)


def _all_natural(column: list[Any]) -> bool:
    return set(map(type, column)) == {int} and min(column) >= 0 and max(column) <= _MOST_NATURAL


def _all_positive(column: list[Any]) -> bool:
    return _all_natural(column) and min(column) > 0


def _all_parts(column: list[Any]) -> bool:
    return {bytes, memoryview}.issuperset(map(type, column))


_IN_ALL: dict[Check, Callable[[list[Any]], bool]] = {
    shapes.natural: _all_natural,
    shapes.positive: _all_positive,
    is_part: _all_parts,
}
"""The checks of what differs from row to row, of a whole column: a fifth of the cost."""
