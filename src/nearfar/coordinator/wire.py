"""The words between a coordinator, its agents and its clients, and how they stand in frames.

A message is one msgpack array, ``[kind, number, ack, *fields]``; some carry rows in further frames.
Both directions are lines (`nearfar.net.line`): `number` counts the messages of a session, `ack` says what
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

from nearfar.coordinator import parts
from nearfar.coordinator.parts import Check, Form, Row
from nearfar.coordinator.tasks import Mode
from nearfar.errors import ProtocolError

VERSION = 1
LONGEST_NAME = 200
LONGEST_TEXT = 10_000
LONGEST_CONTROL = 1 << 20
"""Bytes of a control frame: longer ones are not read."""
LONGEST_FUNCTION = 1000
"""Bytes of a function's name; a longer one travels by value."""
MOST_NAMES = 4096
AGENT, CLIENT = "agent", "client"
"""What HELLO says its sender is."""


class Kind(IntEnum):
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
    # numbered, to clients
    OUTCOMES = 50
    CANCELLED = 51
    WORKERS = 52


class Outcome(IntEnum):
    """What became of a task, as a client is told: the first two are `tasks.Status`."""

    VALUE = 0
    ERROR = 1
    FAILED = 2
    """No worker answered; the blob is a failure's description (`coordinator.failures`)."""


class Message(NamedTuple):
    """A word with its fields; `rows` for the kinds in `FORMS` only, and for those always."""

    kind: Kind
    fields: tuple[Any, ...] = ()
    rows: Sequence[Row] | None = None


class Envelope(NamedTuple):
    """A message under way."""

    number: int
    ack: int
    message: Message


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _positive(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 63


def _flag(value: Any) -> bool:
    return type(value) is bool


def _seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _positive_seconds(value: Any) -> bool:
    return _seconds(value) and value > 0


def _timeout(value: Any) -> bool:
    return value is None or _seconds(value)


def _name(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= LONGEST_NAME and value.isprintable()


def _text(value: Any) -> bool:
    return type(value) is str and len(value) <= LONGEST_TEXT


def _function(value: Any) -> bool:
    return type(value) is bytes and len(value) <= LONGEST_FUNCTION


def _call_mode(value: Any) -> bool:
    return type(value) is int and 0 <= value < Mode.PREPARE


def _mode(value: Any) -> bool:
    return type(value) is int and 0 <= value <= Mode.PREPARE


def _status(value: Any) -> bool:
    return type(value) is int and 0 <= value <= Outcome.ERROR


def _outcome(value: Any) -> bool:
    return type(value) is int and 0 <= value <= Outcome.FAILED


def _role(value: Any) -> bool:
    return value in (AGENT, CLIENT)


def _names(value: Any) -> bool:
    return type(value) is list and len(value) <= MOST_NAMES and all(map(_name, value))


def _batches(value: Any) -> bool:
    return type(value) is list and len(value) <= 64 and all(map(_batch, value))


def _batch(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 2
        and _name(value[0])
        and type(value[1]) is list
        and 0 < len(value[1]) <= parts.MOST_ROWS
        and all(map(_natural, value[1]))
    )


def _table(value: Any) -> bool:
    return type(value) is dict and len(value) <= 32 and all(type(key) is str for key in value)


def _about_coordinator(value: Any) -> bool:
    return _table(value) and all(key in value and check(value[key]) for key, check in _FACTS.items())


def _about_peer(value: Any) -> bool:
    return _table(value) and all(check(value[key]) for key, check in _ABOUT.items() if key in value)


def _counts(value: Any) -> bool:
    return _table(value) and all(map(_natural, value.values()))


_FACTS: dict[str, Check] = {
    "epoch": _name,  # of this life of the coordinator
    "lease": _positive_seconds,
    "workers": _natural,
}
_ABOUT: dict[str, Check] = {
    "pid": _natural,
    "machine": _text,  # net.here.machine_id
    "host": _name,
    "slots": _natural,  # an agent's processes
    "quota": _natural,  # tasks after which an agent replaces a process; 0: none
}
"""What HELLO may say; other entries are not read."""

_SHAPES: dict[Kind, tuple[Check, ...]] = {
    Kind.BEAT: (),
    Kind.HELLO: (_natural, _role, _name, _about_peer),  # version, what, its name, about its process
    Kind.QUERY: (),
    Kind.WELCOME: (_name, _about_coordinator),  # session
    Kind.STRANGER: (),
    Kind.REFUSED: (_text,),  # why
    Kind.STATUS: (_counts,),  # see FORMS
    Kind.BYE: (),
    # worker, pid, tasks answered so far; and if it is older than the session: the clients whose initializer
    # it has run, and what it was given and has not answered, as [client, [task numbers, 0 an initializer]]
    Kind.CAME: (_name, _natural, _natural, _names, _batches),
    Kind.ANSWERS: (_name, _positive, _seconds),  # worker, number of the first (from 1), seconds in all
    Kind.DIED: (_name, _text, _natural),  # worker, how, batches unread
    Kind.RETURNED: (_name, _natural),  # worker, batches
    Kind.LEAVING: (),
    Kind.JOIN: (_flag,),  # the initializer runs in every worker at once; its row, or none
    Kind.SUBMIT: (_flag,),  # an earlier coordinator may have had them
    Kind.CANCEL: (_positive,),  # task
    Kind.PART: (),
    Kind.WORK: (_name, _name),  # worker, client
    Kind.RECALL: (_name,),
    Kind.KILL: (_name,),
    Kind.RETIRE: (_name,),
    Kind.OUTCOMES: (),
    Kind.CANCELLED: (_positive, _flag),  # task, it will never run
    Kind.WORKERS: (_natural,),
}

_PARTS = (parts.is_part, parts.are_parts)
FORMS: dict[Kind, Form] = {
    Kind.WORK: Form((_natural, _mode, _function, *_PARTS), blob=3),  # task, mode, function, blob, buffers
    Kind.ANSWERS: Form((_status, *_PARTS), blob=1),  # status, blob, buffers
    Kind.JOIN: Form((_function, *_PARTS), blob=1),  # function, blob, buffers
    # task, mode, function, blob, buffers, timeout (seconds or None), retries
    Kind.SUBMIT: Form((_positive, _call_mode, _function, *_PARTS, _timeout, _natural), blob=3),
    Kind.OUTCOMES: Form((_positive, _outcome, *_PARTS), blob=2),  # task, outcome, blob, buffers
    # worker, host, pid, tasks answered, what runs there (or nothing), for how many seconds
    Kind.STATUS: Form((_name, _text, _natural, _natural, _text, _seconds)),
}
"""The rows of the kinds that have some."""

_KINDS = frozenset(map(int, Kind))


def pack(number: int, ack: int, message: Message) -> list[Any]:
    """The frames of a message, the large ones as the buffers that they are."""
    kind, fields, rows = message
    header = msgpack.packb((kind, number, ack, *fields))
    return [header] if rows is None else [header, *parts.pack(rows, FORMS[kind])]


def unpack(frames: Sequence[Any]) -> Envelope:
    """The message that `frames` (bytes or memoryviews) hold; raises `ProtocolError` for anything else."""
    if not frames or len(frames[0]) > LONGEST_CONTROL:
        raise ProtocolError(f"{len(frames)} frames, the first of {len(frames[0]) if frames else 0} bytes")
    try:
        words = msgpack.unpackb(frames[0], strict_map_key=False, max_array_len=MOST_NAMES)
    except (ValueError, TypeError, MemoryError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not a message: {error!r}") from error
    if type(words) is not list or len(words) < 3 or type(words[0]) is not int or words[0] not in _KINDS:
        raise ProtocolError("not a message")
    number, ack, *fields = words[1:]
    kind = Kind(words[0])
    shape = _SHAPES[kind]
    if not (_natural(number) and _natural(ack)) or len(fields) != len(shape):
        raise ProtocolError(f"{kind.name} of the wrong shape")
    if not all(check(value) for check, value in zip(shape, fields, strict=True)):
        raise ProtocolError(f"{kind.name} with a field of the wrong kind")
    if (len(frames) > 1) is not (kind in FORMS):
        raise ProtocolError(f"{kind.name} with {len(frames)} frames")
    rows = parts.unpack(frames[1:], FORMS[kind]) if kind in FORMS else None
    return Envelope(number, ack, Message(kind, tuple(fields), rows))
