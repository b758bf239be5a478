"""Rows of a message: one column for each field, checks of its values, and a frame for each large part.

The columns are in the message's first frame: ``number of rows, *columns``. A column has a value for each
row, or one value for all rows. So a value that all rows share, such as their function, is sent once, and
differing values are checked by column. A single row is ``1, *values``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product, repeat
from math import inf
from types import NoneType
from typing import Any, NamedTuple

import msgpack

from nearfar.coordinator.task import Mode, TaskOutcome, TaskStatus
from nearfar.errors import ProtocolError
from nearfar.net import bounded_msgpack
from nearfar.net.validation import LONGEST_LEASE, LONGEST_NAME, LONGEST_TEXT, SHORTEST_LEASE, name, natural

__all__ = ["LONGEST_NAME", "LONGEST_TEXT", "Field", "Shape"]


LONGEST_FUNCTION = 1000
"""Bytes of a function's name; a longer one travels by value."""
MOST_NAMES = 4096
MOST_NUMBERS = 4096
"""Tasks in one list of their numbers."""
MOST_NATURAL = (1 << 63) - 1
AGENT, CLIENT = "agent", "client"
"""The roles of a peer, in HELLO."""


class Field(NamedTuple):
    """One field: the types of its values, the bounds of a number or of a length, and a further check."""

    types: frozenset[type]
    least: float = 0
    most: float = inf
    also: Callable[[Any], bool] | None = None

    def holds_in(self, column: Sequence[Any]) -> bool:
        """True if each value of a column is valid for this field."""
        types, least, most, also = self
        if not types.issuperset(map(type, column)):
            return False
        if (least, most) != (0, inf):
            if types <= _NUMBERS:
                measured = column
            elif NoneType in types:
                measured = [value for value in column if value is not None]
            else:
                measured = [*map(len, column)]
            if measured and not least <= min(measured) <= max(measured) <= most:
                return False
            if float in types and any(value != value for value in measured):  # NaN, which min ignores
                return False
        return also is None or all(map(also, column))


class Shape:
    """Several fields in a row; their types are compared at once."""

    __slots__ = ("_also", "_lengths", "_numbers", "_types", "count", "fields")

    def __init__(self, *fields: Field) -> None:
        self.fields = fields
        self.count = len(fields)
        self._types = frozenset(product(*(field.types for field in fields)))
        bounded = [
            (place, field) for place, field in enumerate(fields) if (field.least, field.most) != (0, inf)
        ]
        self._numbers = [(p, f.least, f.most) for p, f in bounded if f.types & _NUMBERS]
        self._lengths = [(p, f.least, f.most) for p, f in bounded if not f.types & _NUMBERS]
        self._also = [(place, field.also) for place, field in enumerate(fields) if field.also is not None]

    def holds(self, values: Sequence[Any]) -> bool:
        """True if there is one value for each field, and each is valid for its field."""
        if tuple(map(type, values)) not in self._types:
            return False
        for place, least, most in self._numbers:
            value = values[place]
            if value is not None and not least <= value <= most:
                return False
        for place, least, most in self._lengths:
            if not least <= len(values[place]) <= most:
                return False
        for place, also in self._also:  # noqa: SIM110  # a generator costs as much as the rest
            if not also(values[place]):
                return False
        return True


_NUMBERS = frozenset((int, float))


def _batches_fit(value: list[Any]) -> bool:
    return all(
        type(each) is list
        and len(each) == 2
        and name(each[0])
        and type(each[1]) is list
        and 0 < len(each[1]) <= MOST_NUMBERS
        and NATURAL.holds_in(each[1])
        for each in value
    )


def _names_fit(value: list[Any]) -> bool:
    return all(map(name, value))


def _table_fits(value: dict[Any, Any]) -> bool:
    return len(value) <= 32 and all(type(key) is str for key in value)


def _counts_fit(value: dict[Any, Any]) -> bool:
    return _table_fits(value) and all(map(natural, value.values()))


def _facts_fit(value: dict[Any, Any]) -> bool:
    return (
        _table_fits(value)
        and all(key in value and field.holds_in((value[key],)) for key, field in _FACTS.items())
        and natural(value.get("largest", 0))  # bytes that one task or one answer may have; 0: any number
    )


def _about_fits(value: dict[Any, Any]) -> bool:
    return _table_fits(value) and all(
        field.holds_in((value[key],)) for key, field in _ABOUT.items() if key in value
    )


def _is_role(value: str) -> bool:
    return value in (AGENT, CLIENT)


_INT, _STR, _BYTES, _LIST = frozenset((int,)), frozenset((str,)), frozenset((bytes,)), frozenset((list,))
_DICT = frozenset((dict,))

NATURAL = Field(_INT, 0, MOST_NATURAL)
POSITIVE = Field(_INT, 1, MOST_NATURAL)
SECONDS = Field(_NUMBERS, 0, 1.7976931348623157e308)
TIMEOUT = SECONDS._replace(types=_NUMBERS | {NoneType})
FLAG = Field(frozenset((bool,)))
NAME = Field(_STR, 1, LONGEST_NAME, str.isprintable)
TEXT = Field(_STR, 0, LONGEST_TEXT)
FUNCTION = Field(_BYTES, 0, LONGEST_FUNCTION)
CALL_MODE = Field(_INT, 0, int(Mode.PREPARE) - 1)
MODE = Field(_INT, 0, int(Mode.PREPARE))
STATUS = Field(_INT, 0, int(TaskStatus.TOO_LARGE))
OUTCOME = Field(_INT, 0, int(TaskOutcome.FAILED))
PART = Field(frozenset((bytes, memoryview)))
PARTS = Field(_LIST)
"""Its contents are checked where the large parts are put in their places."""
ROLE = Field(_STR, also=_is_role)
NAMES = Field(_LIST, 0, MOST_NAMES, _names_fit)
BATCHES = Field(_LIST, 0, MOST_NAMES, _batches_fit)
COUNTS = Field(_DICT, also=_counts_fit)
FACTS = Field(_DICT, also=_facts_fit)
"""The coordinator's facts in WELCOME."""
ABOUT = Field(_DICT, also=_about_fits)
"""The peer's facts in HELLO; other entries are ignored."""

_FACTS: dict[str, Field] = {
    "epoch": NAME,  # of this run of the coordinator
    "lease": Field(_NUMBERS, SHORTEST_LEASE, LONGEST_LEASE),
    "workers": NATURAL,
}
_ABOUT: dict[str, Field] = {
    "pid": NATURAL,
    "machine": TEXT,  # net.process.machine_id
    "host": NAME,
    "python": TEXT,  # net.process.PYTHON
    "bytecode": TEXT,  # net.process.BYTECODE
    "slots": NATURAL,  # an agent's processes
    "quota": NATURAL,  # tasks after which an agent replaces a process; 0: none
    "bytes": NATURAL,  # of answers that an agent may keep; 0: any number
}


LARGE = 32 * 1024
"""Bytes: a longer part travels in a frame of its own, and is not copied."""
MOST_PARTS = 1024
"""Frames of large parts in one message; further parts stay in the row."""
MOST_ROWS = 4096
MOST_BUFFERS = 1 << 20
"""Parts of one row."""
TOGETHER = 1 << 20
"""Bytes of parts after which a message is full."""
AT_ONCE = 2 << 20
"""Bytes of rows that are unpacked without checking each value first: empty lists, a byte each, would take
sixty times as much memory."""

Row = tuple[Any, ...]


class Columns(NamedTuple):
    """The fields of a row. Unless `blob` is negative, the field there is a part, the next a list of parts."""

    shape: Shape
    blob: int = -1


def shares(rows: Sequence[Row], blob: int) -> list[Sequence[Row]]:
    """`rows` cut into messages, none empty; `blob` is the index of their parts.

    A row of more than `TOGETHER` bytes is a message of its own.
    """
    if len(rows) == 1:
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
    size = 0
    beside = blob + 1
    for row in rows:
        size += len(row[blob])
        if row[beside]:
            size += sum(map(_size, row[beside]))
    return size


def size_of(blob: Any, buffers: Sequence[Any]) -> int:
    """Bytes of one row's parts."""
    return len(blob) + sum(map(_size, buffers)) if buffers else len(blob)


def pack(rows: Sequence[Row], form: Columns) -> tuple[list[Any], list[Any]]:
    """The number of `rows` and their columns, and the frames of their large parts. A part is bytes, or any
    buffer; a large one must not change until it is sent."""
    large: list[Any] = []
    count, blob = len(rows), form.blob
    if count == 1:
        row = rows[0]
        if blob >= 0 and (row[blob + 1] or len(row[blob]) > LARGE):
            placed = _place(row[blob], large), [_place(each, large) for each in row[blob + 1]]
            row = (*row[:blob], *placed, *row[blob + 2 :])
        return [1, *row], large
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    if count and blob >= 0:
        blobs, buffers = columns[blob : blob + 2]
        if any(buffers) or max(map(len, blobs)) > LARGE:
            both = [
                (_place(part, large), [_place(each, large) for each in beside])
                for part, beside in zip(blobs, buffers, strict=True)
            ]
            columns[blob : blob + 2] = zip(*both, strict=True)
    return [count, *(_told(column, place, blob) for place, column in enumerate(columns))], large


def read(frame: Any, fields: int, form: Columns) -> list[Any]:
    """The values in the long first frame of a message that has `fields` values, including the kind, before
    its rows. Raises msgpack's errors, and ValueError."""
    if len(frame) <= AT_ONCE:
        words: list[Any] = bounded_msgpack.unpack(frame, MOST_BUFFERS)
        return words
    return _read_singly(frame, fields, form)


def unpack(words: list[Any], large: Sequence[Any], form: Columns) -> list[Row]:
    """The rows from their number and columns (`words`) and the frames of their large parts (`large`). Their
    parts are bytes, or the frames themselves. Raises `ProtocolError`."""
    shape, blob = form
    count, *columns = words
    if type(count) is not int or not 0 <= count <= MOST_ROWS or len(large) > MOST_PARTS:
        raise ProtocolError(f"{count} rows, {len(large)} large parts")
    if len(columns) != (shape.count if count else 0):
        raise ProtocolError("rows of the wrong shape")
    if count == 1:  # the most frequent case for calls that are waited for
        if blob >= 0 and (large or columns[blob] is None or columns[blob + 1]):
            columns = _fetched(columns, large, blob)
        if not shape.holds(columns):
            raise ProtocolError("a row with a field of the wrong kind")
        return [tuple(columns)]
    if not count:
        if large:
            raise ProtocolError("a part that no row names")
        return []
    if set(map(type, columns)) != {list} or not {1, count}.issuperset(map(len, columns)):
        raise ProtocolError("rows of the wrong shape")
    if blob >= 0:
        if len(columns[blob]) != count:
            raise ProtocolError("rows that share their blob")
        _fetch(columns, blob, large)
    for field, column in zip(shape.fields, columns, strict=True):
        if not field.holds_in(column):
            raise ProtocolError("rows with a field of the wrong kind")
    spread = [column if len(column) == count else repeat(column[0], count) for column in columns]
    return list(zip(*spread, strict=True))


def _fetched(values: list[Any], large: Sequence[Any], blob: int) -> list[Any]:
    """The values of the only row of a message, with its large parts in their places."""
    columns = [[value] for value in values]
    _fetch(columns, blob, large)
    return [value for (value,) in columns]


def _fetch(columns: list[Any], blob: int, frames: Sequence[Any]) -> None:
    """Replace the references to large parts by the parts, row by row."""
    large = iter(frames)
    blobs, buffers = columns[blob : blob + 2]
    if set(map(type, buffers)) != {list}:
        raise ProtocolError("a row without parts")
    if not any(buffers):
        if None in blobs:
            columns[blob] = [next(large, None) if part is None else part for part in blobs]
    elif len(buffers) != len(blobs):
        raise ProtocolError("rows that share their parts")
    else:
        for place, beside in enumerate(buffers):
            if blobs[place] is None:
                blobs[place] = next(large, None)
            buffers[place] = [next(large, None) if part is None else part for part in beside]
            if not _PART_TYPES.issuperset(map(type, buffers[place])):
                raise ProtocolError("an invalid part")
    if next(large, None) is not None:
        raise ProtocolError("a part that no row names")


_PART_TYPES = {bytes, memoryview}


def _read_singly(frame: Any, fields: int, form: Columns) -> list[Any]:
    """The values of a long frame, read one by one: lists only where lists are expected."""
    unpacker = msgpack.Unpacker(
        max_buffer_size=len(frame), max_array_len=0, max_map_len=0, max_ext_len=0, max_str_len=AT_ONCE
    )
    unpacker.feed(frame)
    if unpacker.read_array_header() != fields + 1 + form.shape.count:
        raise ValueError("rows of the wrong shape")
    words: list[Any] = [unpacker.unpack() for _ in range(fields + 1)]
    single = words[-1] == 1
    for place in range(form.shape.count):
        beside = form.blob >= 0 and place == form.blob + 1
        read = partial(_beside, unpacker) if beside else unpacker.unpack
        words.append(read() if single else [read() for _ in range(_length(unpacker, MOST_ROWS))])
    return words


def _beside(unpacker: msgpack.Unpacker) -> list[Any]:
    read: list[Any] = []
    for _ in range(_length(unpacker, MOST_BUFFERS)):
        part = unpacker.unpack()
        if part is not None and type(part) is not bytes:  # fail at the first: there may be many empty lists
            raise ValueError("an invalid part")
        read.append(part)
    return read


def _length(unpacker: msgpack.Unpacker, most: int) -> int:
    count: int = unpacker.read_array_header()
    if count > most:
        raise ValueError(f"a list of {count}")
    return count


def _told(column: Sequence[Any], place: int, blob: int) -> Sequence[Any]:
    """A column as sent: one value for all rows if they are the same; parts are always one for each row."""
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
