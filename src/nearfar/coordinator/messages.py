"""The messages between a coordinator, its agents and its clients, and how they stand in frames.

The words between a coordinator, its agents and its clients, and how they stand in frames.

A message is one msgpack array, ``[kind, number, ack, *fields]``; some carry rows in further frames.
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

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from nearfar.coordinator import columns
from nearfar.coordinator.columns import Check, Columns, Row
from nearfar.coordinator.task import Mode, TaskOutcome, TaskStatus
from nearfar.errors import ProtocolError
from nearfar.net.frames import LONGEST_NAME, LONGEST_TEXT, flag, lease, name, natural, positive, text

__all__ = [
    "AGENT",
    "CLIENT",
    "FORMS",
    "LONGEST_FUNCTION",
    "LONGEST_NAME",
    "LONGEST_TEXT",
    "VERSION",
    "PoolFrame",
    "PoolMessage",
    "PoolMessageType",
    "TaskOutcome",
    "flag",
    "lease",
    "name",
    "natural",
    "pack",
    "positive",
    "text",
    "unpack",
]


LONGEST_FUNCTION = 1000
"""Bytes of a function's name; a longer one travels by value."""
MOST_NAMES = 4096
AGENT, CLIENT = "agent", "client"
"""What HELLO says its sender is."""
# As numbers, for these are compared in every row: an attribute of an enum costs eight times a global.
_PREPARE, _TOO_LARGE, _FAILED = int(Mode.PREPARE), int(TaskStatus.TOO_LARGE), int(TaskOutcome.FAILED)


def seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def timeout(value: Any) -> bool:
    return value is None or seconds(value)


def function(value: Any) -> bool:
    return type(value) is bytes and len(value) <= LONGEST_FUNCTION


def call_mode(value: Any) -> bool:
    return type(value) is int and 0 <= value < _PREPARE


def mode(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _PREPARE


def status(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _TOO_LARGE


def outcome(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _FAILED


def role(value: Any) -> bool:
    return value in (AGENT, CLIENT)


def names(value: Any) -> bool:
    return type(value) is list and len(value) <= MOST_NAMES and all(map(name, value))


def batches(value: Any) -> bool:
    return type(value) is list and len(value) <= MOST_NAMES and all(map(batch, value))


def batch(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 2
        and name(value[0])
        and type(value[1]) is list
        and 0 < len(value[1]) <= columns.MOST_ROWS
        and all(map(natural, value[1]))
    )


def table(value: Any) -> bool:
    return type(value) is dict and len(value) <= 32 and all(type(key) is str for key in value)


def counts(value: Any) -> bool:
    return table(value) and all(map(natural, value.values()))


def about_coordinator(value: Any) -> bool:
    return (
        table(value)
        and all(key in value and check(value[key]) for key, check in _FACTS.items())
        and natural(value.get("largest", 0))  # bytes that one task or one answer may have; 0: any number
    )


def about_peer(value: Any) -> bool:
    return table(value) and all(check(value[key]) for key, check in _ABOUT.items() if key in value)


_FACTS: dict[str, Check] = {
    "epoch": name,  # of this life of the coordinator
    "lease": lease,
    "workers": natural,
}
_ABOUT: dict[str, Check] = {
    "pid": natural,
    "machine": text,  # net.here.machine_id
    "host": name,
    "python": text,  # net.here.PYTHON
    "bytecode": text,  # net.here.BYTECODE
    "slots": natural,  # an agent's processes
    "quota": natural,  # tasks after which an agent replaces a process; 0: none
    "bytes": natural,  # of answers that an agent may keep; 0: any number
}
"""What HELLO may say; other entries are not read."""


VERSION = 2
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


_SHAPES: dict[PoolMessageType, tuple[Check, ...]] = {
    PoolMessageType.BEAT: (),
    PoolMessageType.HELLO: (
        natural,
        role,
        name,
        about_peer,
    ),  # version, what, its name, about its process
    PoolMessageType.QUERY: (),
    PoolMessageType.WELCOME: (name, about_coordinator),  # session
    PoolMessageType.STRANGER: (),
    PoolMessageType.REFUSED: (text,),  # why
    PoolMessageType.STATUS: (counts,),  # see FORMS
    PoolMessageType.BYE: (),
    # worker, pid, tasks answered so far; and if it is older than the session: the clients whose initializer
    # it has run, and what it was given and has not answered, as [client, [task numbers, 0 an initializer]]
    PoolMessageType.CAME: (name, natural, natural, names, batches),
    PoolMessageType.ANSWERS: (
        name,
        positive,
        seconds,
    ),  # worker, number of the first (from 1), seconds in all
    # worker, how, batches unread, batches given to it in this session: what is under way was not read, either
    PoolMessageType.DIED: (name, text, natural, natural),
    PoolMessageType.RETURNED: (name, natural),  # worker, batches
    PoolMessageType.LEAVING: (),
    PoolMessageType.KEPT: (),  # answers that an earlier coordinator had not released, or that are fetched
    PoolMessageType.JOIN: (flag,),  # the initializer runs in every worker at once; its row, or none
    PoolMessageType.SUBMIT: (flag,),  # an earlier coordinator may have had them
    PoolMessageType.CANCEL: (positive,),  # task
    PoolMessageType.PART: (),
    PoolMessageType.WORK: (name, name),  # worker, client
    PoolMessageType.RECALL: (name,),
    PoolMessageType.KILL: (name,),
    PoolMessageType.RETIRE: (name,),
    PoolMessageType.RELEASE: (batches,),  # [client, [task numbers]]: the clients have these answers
    PoolMessageType.FETCH: (
        batches,
    ),  # [client, [task numbers]]: there was no room for these answers; there is
    PoolMessageType.OUTCOMES: (),
    PoolMessageType.CANCELLED: (positive, flag),  # task, it will never run
    PoolMessageType.WORKERS: (natural,),
}

_PARTS = (columns.is_part, columns.are_parts)
FORMS: dict[PoolMessageType, Columns] = {
    PoolMessageType.WORK: Columns(
        (natural, mode, function, *_PARTS), blob=3
    ),  # task, mode, function, blob, buffers
    PoolMessageType.ANSWERS: Columns((status, *_PARTS), blob=1),  # status, blob, buffers
    PoolMessageType.KEPT: Columns(
        (name, positive, status, *_PARTS), blob=3
    ),  # client, task, status, blob, buffers
    PoolMessageType.JOIN: Columns((function, *_PARTS), blob=1),  # function, blob, buffers
    # task, mode, function, blob, buffers, timeout (seconds or None), retries
    PoolMessageType.SUBMIT: Columns((positive, call_mode, function, *_PARTS, timeout, natural), blob=3),
    PoolMessageType.OUTCOMES: Columns((positive, outcome, *_PARTS), blob=2),  # task, outcome, blob, buffers
    # worker, host, pid, tasks answered, what runs there (or nothing), for how many seconds
    PoolMessageType.STATUS: Columns((name, text, natural, natural, text, seconds)),
}
"""The rows of the kinds that have some."""

_KINDS: dict[int, PoolMessageType] = {int(kind): kind for kind in PoolMessageType}


def pack(number: int, ack: int, message: PoolMessage) -> list[Any]:
    """The frames of a message, the large ones as the buffers that they are."""
    kind, fields, rows = message
    header = msgpack.packb((kind, number, ack, *fields))
    return [header] if rows is None else [header, *columns.pack(rows, FORMS[kind])]


def unpack(frames: Sequence[Any]) -> PoolFrame:
    """The message that `frames` (bytes or memoryviews) hold; raises `ProtocolError` for anything else."""
    if not frames or len(frames[0]) > LONGEST_CONTROL:
        raise ProtocolError(f"{len(frames)} frames, the first of {len(frames[0]) if frames else 0} bytes")
    try:
        words = msgpack.unpackb(frames[0], max_array_len=MOST_NAMES)
    except (ValueError, TypeError, MemoryError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not a message: {error!r}") from error
    if type(words) is not list or len(words) < 3 or type(words[0]) is not int or words[0] not in _KINDS:
        raise ProtocolError("not a message")
    code, number, ack, *fields = words
    kind = _KINDS[code]
    shape = _SHAPES[kind]
    if not (natural(number) and natural(ack)) or len(fields) != len(shape):
        raise _misfit(kind, fields, "of the wrong shape")
    for check, value in zip(shape, fields, strict=True):
        if not check(value):
            raise _misfit(kind, fields, "with a field of the wrong kind")
    if (len(frames) > 1) is not (kind in FORMS):
        raise ProtocolError(f"{kind.name} with {len(frames)} frames")
    rows = columns.unpack(frames[1:], FORMS[kind]) if kind in FORMS else None
    return PoolFrame(number, ack, PoolMessage(kind, tuple(fields), rows))


def _misfit(kind: PoolMessageType, fields: list[Any], what: str) -> ProtocolError:
    """A HELLO is looked at once more: whoever speaks another version, or means a queue, is to be told so."""
    if kind is not PoolMessageType.HELLO:
        return ProtocolError(f"{kind.name} {what}")
    version = fields[0] if fields and natural(fields[0]) else None
    return WrongPoolHello(f"{kind.name} {what}", refusal(version))


def refusal(version: int | None) -> str:
    """What is told to somebody whose HELLO is of `version`, or of none."""
    if version is not None and version != VERSION:
        return f"the coordinator speaks version {VERSION} of the protocol, this peer version {version}"
    return "there is a pool here, and what called is neither an agent nor a client of one"
