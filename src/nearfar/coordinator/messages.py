"""The messages between a coordinator, its agents and its clients, and how they stand in frames.

The words between a coordinator, its agents and its clients, and how they stand in frames.

A message is one msgpack array, ``[kind, number, ack, *fields]``; some have rows after their fields,
``number of rows, *columns``, and further frames for large parts of these (`nearfar.coordinator.columns`).
Both directions are lines (`nearfar.net.reliable`): `number` counts the messages of a session, `ack` says what
arrived. A number of 0 is for the words that open, keep and end a session, and for asking after the status.

::

    agent                                coordinator                                client
     | HELLO ---------------------------> | | <------------------------------------ HELLO |
     | <------------------------- WELCOME | | WELCOME ----------------------------------> |
     | CAME ----------------------------> | | <------------------------------------- JOIN |  its initializer
     |                                    | | <==================================  SUBMIT |
     | <============================ WORK | | <----------------------------------- CANCEL |
     | ANSWERS =========================> | | CANCELLED --------------------------------> |
     | DIED ----------------------------> | | OUTCOMES =================================> |
     | <---------- RECALL - RETURNED ---> | | WORKERS ----------------------------------> |  how many
     | <-------------------- KILL, RETIRE | |                                             |
     | <------------------------- RELEASE | |                                             |  the client has it
     | <------------- FETCH - KEPT =====> | |                                             |  there is room now
     | LEAVING -------------------------> | |                                             |  give me no more
     | BYE -----------------------------> | | <-------------------------------------- BYE |
     | <---------------------------- PART | | PART -------------------------------------> |

A session is a socket's identity, new each time: whoever is told STRANGER begins another. An *epoch* names one
life of a coordinator.

A task's name is that of its client and its number there, which outlast sessions and coordinators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from itertools import product
from math import inf
from types import NoneType
from typing import Any, NamedTuple

import msgpack

from nearfar.coordinator import columns as parts
from nearfar.coordinator.columns import Columns, Row
from nearfar.coordinator.task import Mode, TaskOutcome, TaskStatus
from nearfar.errors import ProtocolError
from nearfar.net import frames as announced
from nearfar.net.frames import LONGEST_LEASE, LONGEST_NAME, LONGEST_TEXT, SHORTEST_LEASE, name, natural

__all__ = [
    "AGENT",
    "CLIENT",
    "FORMS",
    "LONGEST_FUNCTION",
    "LONGEST_NAME",
    "LONGEST_TEXT",
    "VERSION",
    "Field",
    "PoolFrame",
    "PoolMessage",
    "PoolMessageType",
    "Shape",
    "TaskOutcome",
    "pack",
    "unpack",
]


LONGEST_FUNCTION = 1000
"""Bytes of a function's name; a longer one travels by value."""
MOST_NAMES = 4096
MOST_NUMBERS = 4096
"""Tasks in one list of their numbers."""
MOST_NATURAL = (1 << 63) - 1
AGENT, CLIENT = "agent", "client"
"""What HELLO says its sender is."""


class Field(NamedTuple):
    """One field: the types of its values, the least and the most of a number or of a length, and what else
    must be true."""

    types: frozenset[type]
    least: float = 0
    most: float = inf
    also: Callable[[Any], bool] | None = None

    def holds_in(self, column: Sequence[Any]) -> bool:
        """True if each value of a column is what this may be."""
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
            if float in types and any(value != value for value in measured):  # NaN, which min passes over
                return False
        return also is None or all(map(also, column))


class Shape:
    """Several fields in a row: their types are compared at once."""

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
        """True if `values` are as many as there are fields, and each is what its field may be."""
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
"""What stands in it is looked at where the large parts are put in their places."""
ROLE = Field(_STR, also=_is_role)
NAMES = Field(_LIST, 0, MOST_NAMES, _names_fit)
BATCHES = Field(_LIST, 0, MOST_NAMES, _batches_fit)
COUNTS = Field(_DICT, also=_counts_fit)
FACTS = Field(_DICT, also=_facts_fit)
"""What WELCOME tells of the coordinator."""
ABOUT = Field(_DICT, also=_about_fits)
"""What HELLO tells of a peer; other entries are not read."""

_FACTS: dict[str, Field] = {
    "epoch": NAME,  # of this life of the coordinator
    "lease": Field(_NUMBERS, SHORTEST_LEASE, LONGEST_LEASE),
    "workers": NATURAL,
}
_ABOUT: dict[str, Field] = {
    "pid": NATURAL,
    "machine": TEXT,  # net.here.machine_id
    "host": NAME,
    "python": TEXT,  # net.here.PYTHON
    "bytecode": TEXT,  # net.here.BYTECODE
    "slots": NATURAL,  # an agent's processes
    "quota": NATURAL,  # tasks after which an agent replaces a process; 0: none
    "bytes": NATURAL,  # of answers that an agent may keep; 0: any number
}


VERSION = 3
LONGEST_CONTROL = 1 << 20
"""Bytes of a control frame: longer ones are not read."""


class PoolMessageType(IntEnum):
    """What a message is."""

    # unnumbered, both ways
    BEAT = 1
    # unnumbered, to the coordinator
    HELLO = 2
    QUERY = 3
    # unnumbered, from the coordinator
    WELCOME = 10
    STRANGER = 11
    REFUSED = 12
    STATUS = 13
    # numbered, both from agents and clients
    BYE = 20
    # numbered, from agents
    CAME = 21
    ANSWERS = 22
    DIED = 23
    RETURNED = 24
    LEAVING = 25
    KEPT = 26
    # numbered, from clients
    JOIN = 30
    SUBMIT = 31
    CANCEL = 32
    # numbered, to both
    PART = 40
    # numbered, to agents
    WORK = 41
    RECALL = 42
    KILL = 43
    RETIRE = 44
    RELEASE = 45
    FETCH = 46
    # numbered, to clients
    OUTCOMES = 50
    CANCELLED = 51
    WORKERS = 52


class PoolMessage(NamedTuple):
    """A word with its fields; `rows` for the kinds in `FORMS` only, and for those always."""

    kind: PoolMessageType
    fields: tuple[Any, ...] = ()
    rows: Sequence[Row] | None = None


class WrongPoolHello(ProtocolError):
    """A HELLO that cannot be read: its sender is to be told `why`."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what)
        self.why = why


class PoolFrame(NamedTuple):
    """A message under way."""

    number: int
    ack: int
    message: PoolMessage


_SHAPES: dict[PoolMessageType, Shape] = {
    PoolMessageType.BEAT: Shape(),
    PoolMessageType.HELLO: Shape(
        NATURAL,
        ROLE,
        NAME,
        ABOUT,
    ),  # version, what, its name, about its process
    PoolMessageType.QUERY: Shape(),
    PoolMessageType.WELCOME: Shape(NAME, FACTS),  # session
    PoolMessageType.STRANGER: Shape(),
    PoolMessageType.REFUSED: Shape(TEXT),  # why
    PoolMessageType.STATUS: Shape(COUNTS),  # see FORMS
    PoolMessageType.BYE: Shape(),
    # worker, pid, tasks answered so far; and if it is older than the session: the clients whose initializer
    # it has run, and what it was given and has not answered, as [client, [task numbers, 0 an initializer]]
    PoolMessageType.CAME: Shape(NAME, NATURAL, NATURAL, NAMES, BATCHES),
    PoolMessageType.ANSWERS: Shape(
        NAME,
        POSITIVE,
        SECONDS,
    ),  # worker, number of the first (from 1), seconds in all
    # worker, how, batches unread, batches given to it in this session: what is under way was not read, either
    PoolMessageType.DIED: Shape(NAME, TEXT, NATURAL, NATURAL),
    PoolMessageType.RETURNED: Shape(NAME, NATURAL),  # worker, batches
    PoolMessageType.LEAVING: Shape(),
    PoolMessageType.KEPT: Shape(),  # answers that an earlier coordinator had not released, or that are fetched
    PoolMessageType.JOIN: Shape(FLAG),  # the initializer runs in every worker at once; its row, or none
    PoolMessageType.SUBMIT: Shape(FLAG),  # an earlier coordinator may have had them
    PoolMessageType.CANCEL: Shape(POSITIVE),  # task
    PoolMessageType.PART: Shape(),
    PoolMessageType.WORK: Shape(NAME, NAME),  # worker, client
    PoolMessageType.RECALL: Shape(NAME),
    PoolMessageType.KILL: Shape(NAME),
    PoolMessageType.RETIRE: Shape(NAME),
    PoolMessageType.RELEASE: Shape(BATCHES),  # [client, [task numbers]]: the clients have these answers
    PoolMessageType.FETCH: Shape(
        BATCHES
    ),  # [client, [task numbers]]: there was no room for these answers; there is
    PoolMessageType.OUTCOMES: Shape(),
    PoolMessageType.CANCELLED: Shape(POSITIVE, FLAG),  # task, it will never run
    PoolMessageType.WORKERS: Shape(NATURAL),
}

_PARTS = (PART, PARTS)
FORMS: dict[PoolMessageType, Columns] = {
    PoolMessageType.WORK: Columns(
        Shape(NATURAL, MODE, FUNCTION, *_PARTS), blob=3
    ),  # task, mode, function, blob, buffers
    PoolMessageType.ANSWERS: Columns(Shape(STATUS, *_PARTS), blob=1),  # status, blob, buffers
    PoolMessageType.KEPT: Columns(
        Shape(NAME, POSITIVE, STATUS, *_PARTS), blob=3
    ),  # client, task, status, blob, buffers
    PoolMessageType.JOIN: Columns(Shape(FUNCTION, *_PARTS), blob=1),  # function, blob, buffers
    # task, mode, function, blob, buffers, timeout (seconds or None), retries
    PoolMessageType.SUBMIT: Columns(
        Shape(POSITIVE, CALL_MODE, FUNCTION, *_PARTS, TIMEOUT, NATURAL),
        blob=3,
    ),
    PoolMessageType.OUTCOMES: Columns(
        Shape(POSITIVE, OUTCOME, *_PARTS), blob=2
    ),  # task, outcome, blob, buffers
    # worker, host, pid, tasks answered, what runs there (or nothing), for how many seconds
    PoolMessageType.STATUS: Columns(Shape(NAME, TEXT, NATURAL, NATURAL, TEXT, SECONDS)),
}
"""The rows of the kinds that have some."""

_KINDS: dict[int, PoolMessageType] = {int(kind): kind for kind in PoolMessageType}
_LENGTHS: dict[PoolMessageType, int] = {kind: 3 + shape.count for kind, shape in _SHAPES.items()}
"""Values before the rows: the kind, both numbers, the fields."""
BLOBS: dict[PoolMessageType, int] = {kind: form.blob for kind, form in FORMS.items() if form.blob >= 0}
"""Where the parts stand in rows that have some."""
_MOST = MOST_NATURAL
_FIXARRAY = 0x90
"""The first byte of a msgpack array of fewer than 16 values, but for their number."""


def pack(number: int, ack: int, message: PoolMessage) -> list[Any]:
    """The frames of a message, the large parts as the buffers that they are."""
    kind, fields, rows = message
    if rows is None:
        return [msgpack.packb((kind, number, ack, *fields))]
    columns, large = parts.pack(rows, FORMS[kind])
    return [msgpack.packb((kind, number, ack, *fields, *columns)), *large]


def unpack(frames: Sequence[Any]) -> PoolFrame:
    """The message that `frames` (bytes or memoryviews) hold; raises `ProtocolError` for anything else."""
    first = frames[0] if frames else b""
    # The kind stands in the second byte: so it is known what may be read before anything is.
    kind = _KINDS.get(first[1]) if len(first) > 1 and first[0] & 0xF0 == _FIXARRAY else None
    if kind is None:
        raise ProtocolError(f"not a message: {len(frames)} frames, the first of {len(first)} bytes")
    form, length = FORMS.get(kind), _LENGTHS[kind]
    try:
        if form is not None and len(first) <= announced.HARMLESS:
            words = msgpack.unpackb(first)
        elif form is not None:
            words = parts.read(first, length, form)
        elif len(frames) == 1 and len(first) <= LONGEST_CONTROL:
            words = msgpack.unpackb(first, max_array_len=MOST_NAMES)
        else:
            raise ProtocolError(f"{kind.name} in {len(frames)} frames, the first of {len(first)} bytes")
    except (ValueError, TypeError, MemoryError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not a message: {error!r}") from error
    fields = tuple(words[3:length])
    if len(words) < length + (form is not None) or (form is None and len(words) > length):
        raise _misfit(kind, words[3:], "of the wrong shape")
    number, ack = words[1], words[2]
    if type(number) is not int or type(ack) is not int or not (0 <= number <= _MOST and 0 <= ack <= _MOST):
        raise ProtocolError(f"{kind.name} with a number of the wrong kind")
    if fields and not _SHAPES[kind].holds(fields):
        raise _misfit(kind, words[3:], "with a field of the wrong kind")
    rows = None if form is None else parts.unpack(words[length:], frames[1:], form)
    return PoolFrame(number, ack, PoolMessage(kind, fields, rows))


def _misfit(kind: PoolMessageType, fields: list[Any], what: str) -> ProtocolError:
    """A HELLO is looked at once more: who speaks another version, or means a queue, is to be told so."""
    if kind is not PoolMessageType.HELLO:
        return ProtocolError(f"{kind.name} {what}")
    of_a_queue = [type(field) for field in fields] == [int, str, dict]
    version = fields[0] if fields and NATURAL.holds_in(fields[:1]) and not of_a_queue else None
    return WrongPoolHello(f"{kind.name} {what}", refusal(version))


def refusal(version: int | None) -> str:
    """What is told to somebody whose HELLO is of `version`, or of none."""
    if version is not None and version != VERSION:
        return f"the coordinator speaks version {VERSION} of the protocol, this peer version {version}"
    return "there is a pool here, and what called is neither an agent nor a client of one"
