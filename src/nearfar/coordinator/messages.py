"""The messages between a coordinator, its agents and its clients, and their encoding in frames.

A message is one msgpack array, ``[kind, number, ack, *fields]``; some have rows after their fields,
``number of rows, *columns``, and further frames for large parts of these (`nearfar.coordinator.columns`).
Both directions are reliable (`nearfar.net.reliable`): `number` counts the messages of a session, `ack` is the
last one that arrived. The number 0 is for the messages that open, keep and end a session, and for requests of
the status.

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

A session is a socket's identity, new each time: a peer that receives STRANGER begins another session. An
*epoch* names one run of a coordinator.

A task is identified by its client's name and its number there, which outlast sessions and coordinators.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from nearfar.coordinator import columns as parts
from nearfar.coordinator import columns as shapes
from nearfar.coordinator.columns import AGENT, CLIENT, LONGEST_FUNCTION, MOST_NAMES, Columns, Row, Shape
from nearfar.coordinator.task import TaskOutcome
from nearfar.errors import ProtocolError
from nearfar.net import bounded_msgpack
from nearfar.net.validation import LONGEST_NAME

__all__ = [
    "AGENT",
    "CLIENT",
    "FORMS",
    "LONGEST_FUNCTION",
    "LONGEST_NAME",
    "VERSION",
    "PoolFrame",
    "PoolMessage",
    "PoolMessageType",
    "TaskOutcome",
    "pack",
    "unpack",
]


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
    """A message's kind and fields; `rows` is set exactly for the kinds in `FORMS`."""

    kind: PoolMessageType
    fields: tuple[Any, ...] = ()
    rows: Sequence[Row] | None = None


class WrongPoolHello(ProtocolError):
    """A HELLO that cannot be read: the coordinator refuses its sender, with the reason `why`."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what)
        self.why = why


class PoolFrame(NamedTuple):
    """A message with its number and ack."""

    number: int
    ack: int
    message: PoolMessage


_SHAPES: dict[PoolMessageType, Shape] = {
    PoolMessageType.BEAT: Shape(),
    PoolMessageType.HELLO: Shape(
        shapes.NATURAL,
        shapes.ROLE,
        shapes.NAME,
        shapes.ABOUT,
    ),  # version, what, its name, about its process
    PoolMessageType.QUERY: Shape(),
    PoolMessageType.WELCOME: Shape(shapes.NAME, shapes.FACTS),  # session
    PoolMessageType.STRANGER: Shape(),
    PoolMessageType.REFUSED: Shape(shapes.TEXT),  # why
    PoolMessageType.STATUS: Shape(shapes.COUNTS),  # see FORMS
    PoolMessageType.BYE: Shape(),
    # worker, pid, tasks answered so far; and if it is older than the session: the clients whose initializer
    # it has run, and what it was given and has not answered, as [client, [task numbers, 0 an initializer]]
    PoolMessageType.CAME: Shape(shapes.NAME, shapes.NATURAL, shapes.NATURAL, shapes.NAMES, shapes.BATCHES),
    PoolMessageType.ANSWERS: Shape(
        shapes.NAME,
        shapes.POSITIVE,
        shapes.SECONDS,
    ),  # worker, number of the first (from 1), seconds in all
    # worker, how, batches unread, batches given to it in this session: what is under way was not read, either
    PoolMessageType.DIED: Shape(shapes.NAME, shapes.TEXT, shapes.NATURAL, shapes.NATURAL),
    PoolMessageType.RETURNED: Shape(shapes.NAME, shapes.NATURAL),  # worker, batches
    PoolMessageType.LEAVING: Shape(),
    PoolMessageType.KEPT: Shape(),  # answers that an earlier coordinator had not released, or fetched ones
    PoolMessageType.JOIN: Shape(
        shapes.FLAG
    ),  # the initializer runs in every worker at once; its row, or none
    PoolMessageType.SUBMIT: Shape(shapes.FLAG),  # an earlier coordinator may have had them
    PoolMessageType.CANCEL: Shape(shapes.POSITIVE),  # task
    PoolMessageType.PART: Shape(),
    PoolMessageType.WORK: Shape(shapes.NAME, shapes.NAME),  # worker, client
    PoolMessageType.RECALL: Shape(shapes.NAME),
    PoolMessageType.KILL: Shape(shapes.NAME),
    PoolMessageType.RETIRE: Shape(shapes.NAME),
    PoolMessageType.RELEASE: Shape(
        shapes.BATCHES
    ),  # [client, [task numbers]]: the clients have these answers
    PoolMessageType.FETCH: Shape(
        shapes.BATCHES
    ),  # [client, [task numbers]]: there was no room for these answers; there is
    PoolMessageType.OUTCOMES: Shape(),
    PoolMessageType.CANCELLED: Shape(shapes.POSITIVE, shapes.FLAG),  # task, it will never run
    PoolMessageType.WORKERS: Shape(shapes.NATURAL),
}

_PARTS = (shapes.PART, shapes.PARTS)
FORMS: dict[PoolMessageType, Columns] = {
    PoolMessageType.WORK: Columns(
        Shape(shapes.NATURAL, shapes.MODE, shapes.FUNCTION, *_PARTS), blob=3
    ),  # task, mode, function, blob, buffers
    PoolMessageType.ANSWERS: Columns(Shape(shapes.STATUS, *_PARTS), blob=1),  # status, blob, buffers
    PoolMessageType.KEPT: Columns(
        Shape(shapes.NAME, shapes.POSITIVE, shapes.STATUS, *_PARTS), blob=3
    ),  # client, task, status, blob, buffers
    PoolMessageType.JOIN: Columns(Shape(shapes.FUNCTION, *_PARTS), blob=1),  # function, blob, buffers
    # task, mode, function, blob, buffers, timeout (seconds or None), retries
    PoolMessageType.SUBMIT: Columns(
        Shape(shapes.POSITIVE, shapes.CALL_MODE, shapes.FUNCTION, *_PARTS, shapes.TIMEOUT, shapes.NATURAL),
        blob=3,
    ),
    PoolMessageType.OUTCOMES: Columns(
        Shape(shapes.POSITIVE, shapes.OUTCOME, *_PARTS), blob=2
    ),  # task, outcome, blob, buffers
    # worker, host, pid, tasks answered, what runs there (or nothing), for how many seconds
    PoolMessageType.STATUS: Columns(
        Shape(shapes.NAME, shapes.TEXT, shapes.NATURAL, shapes.NATURAL, shapes.TEXT, shapes.SECONDS)
    ),
}
"""The rows of the kinds that have some."""

_KINDS: dict[int, PoolMessageType] = {int(kind): kind for kind in PoolMessageType}
_LENGTHS: dict[PoolMessageType, int] = {kind: 3 + shape.count for kind, shape in _SHAPES.items()}
"""Values before the rows: the kind, both numbers, the fields."""
BLOBS: dict[PoolMessageType, int] = {kind: form.blob for kind, form in FORMS.items() if form.blob >= 0}
"""The index of the parts in rows that have some."""
_MOST = shapes.MOST_NATURAL
_FIXARRAY = 0x90
"""The first byte of a msgpack array of fewer than 16 values, without their number."""


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
    # The kind is the second byte: so the limits of this kind are known before anything is read.
    kind = _KINDS.get(first[1]) if len(first) > 1 and first[0] & 0xF0 == _FIXARRAY else None
    if kind is None:
        raise ProtocolError(f"not a message: {len(frames)} frames, the first of {len(first)} bytes")
    form, length = FORMS.get(kind), _LENGTHS[kind]
    try:
        if form is not None and len(first) <= bounded_msgpack.HARMLESS:
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
    """The error for a misshapen message. For HELLO, `WrongPoolHello` names another version, or a queue."""
    if kind is not PoolMessageType.HELLO:
        return ProtocolError(f"{kind.name} {what}")
    of_a_queue = [type(field) for field in fields] == [int, str, dict]
    version = fields[0] if fields and shapes.NATURAL.holds_in(fields[:1]) and not of_a_queue else None
    return WrongPoolHello(f"{kind.name} {what}", refusal(version))


def refusal(version: int | None) -> str:
    """The reason for refusing a HELLO of `version` (None: of none)."""
    if version is not None and version != VERSION:
        return f"the coordinator speaks version {VERSION} of the protocol, this peer version {version}"
    return "this is a pool's coordinator; the peer is neither an agent nor a client of a pool"
