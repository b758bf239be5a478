"""The words between a coordinator, its agents and its clients, and how they stand in frames.

A message is one msgpack array, ``[kind, number, ack, *fields]``; some have rows after their fields,
``number of rows, *columns``, and further frames for large parts of these (`nearfar.coordinator.parts`).
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

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from nearfar.coordinator import parts, shapes
from nearfar.coordinator.parts import Form, Row
from nearfar.coordinator.shapes import (
    AGENT,
    CLIENT,
    LONGEST_FUNCTION,
    LONGEST_NAME,
    MOST_NAMES,
    Shape,
)
from nearfar.coordinator.tasks import Outcome
from nearfar.errors import ProtocolError
from nearfar.net import announced

__all__ = [
    "AGENT",
    "CLIENT",
    "FORMS",
    "LONGEST_FUNCTION",
    "LONGEST_NAME",
    "VERSION",
    "Envelope",
    "Kind",
    "Message",
    "Outcome",
    "pack",
    "unpack",
]

VERSION = 3
LONGEST_CONTROL = 1 << 20
"""Bytes of a control frame: longer ones are not read."""


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


class Message(NamedTuple):
    """A word with its fields; `rows` for the kinds in `FORMS` only, and for those always."""

    kind: Kind
    fields: tuple[Any, ...] = ()
    rows: Sequence[Row] | None = None


class WrongHello(ProtocolError):
    """A HELLO that cannot be read: its sender is to be told `why`."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what)
        self.why = why


class Envelope(NamedTuple):
    """A message under way."""

    number: int
    ack: int
    message: Message


_SHAPES: dict[Kind, Shape] = {
    Kind.BEAT: Shape(),
    Kind.HELLO: Shape(
        shapes.NATURAL,
        shapes.ROLE,
        shapes.NAME,
        shapes.ABOUT,
    ),  # version, what, its name, about its process
    Kind.QUERY: Shape(),
    Kind.WELCOME: Shape(shapes.NAME, shapes.FACTS),  # session
    Kind.STRANGER: Shape(),
    Kind.REFUSED: Shape(shapes.TEXT),  # why
    Kind.STATUS: Shape(shapes.COUNTS),  # see FORMS
    Kind.BYE: Shape(),
    # worker, pid, tasks answered so far; and if it is older than the session: the clients whose initializer
    # it has run, and what it was given and has not answered, as [client, [task numbers, 0 an initializer]]
    Kind.CAME: Shape(shapes.NAME, shapes.NATURAL, shapes.NATURAL, shapes.NAMES, shapes.BATCHES),
    Kind.ANSWERS: Shape(
        shapes.NAME,
        shapes.POSITIVE,
        shapes.SECONDS,
    ),  # worker, number of the first (from 1), seconds in all
    # worker, how, batches unread, batches given to it in this session: what is under way was not read, either
    Kind.DIED: Shape(shapes.NAME, shapes.TEXT, shapes.NATURAL, shapes.NATURAL),
    Kind.RETURNED: Shape(shapes.NAME, shapes.NATURAL),  # worker, batches
    Kind.LEAVING: Shape(),
    Kind.KEPT: Shape(),  # answers that an earlier coordinator had not released, or that are fetched
    Kind.JOIN: Shape(shapes.FLAG),  # the initializer runs in every worker at once; its row, or none
    Kind.SUBMIT: Shape(shapes.FLAG),  # an earlier coordinator may have had them
    Kind.CANCEL: Shape(shapes.POSITIVE),  # task
    Kind.PART: Shape(),
    Kind.WORK: Shape(shapes.NAME, shapes.NAME),  # worker, client
    Kind.RECALL: Shape(shapes.NAME),
    Kind.KILL: Shape(shapes.NAME),
    Kind.RETIRE: Shape(shapes.NAME),
    Kind.RELEASE: Shape(shapes.BATCHES),  # [client, [task numbers]]: the clients have these answers
    Kind.FETCH: Shape(
        shapes.BATCHES
    ),  # [client, [task numbers]]: there was no room for these answers; there is
    Kind.OUTCOMES: Shape(),
    Kind.CANCELLED: Shape(shapes.POSITIVE, shapes.FLAG),  # task, it will never run
    Kind.WORKERS: Shape(shapes.NATURAL),
}

_PARTS = (shapes.PART, shapes.PARTS)
FORMS: dict[Kind, Form] = {
    Kind.WORK: Form(
        Shape(shapes.NATURAL, shapes.MODE, shapes.FUNCTION, *_PARTS), blob=3
    ),  # task, mode, function, blob, buffers
    Kind.ANSWERS: Form(Shape(shapes.STATUS, *_PARTS), blob=1),  # status, blob, buffers
    Kind.KEPT: Form(
        Shape(shapes.NAME, shapes.POSITIVE, shapes.STATUS, *_PARTS), blob=3
    ),  # client, task, status, blob, buffers
    Kind.JOIN: Form(Shape(shapes.FUNCTION, *_PARTS), blob=1),  # function, blob, buffers
    # task, mode, function, blob, buffers, timeout (seconds or None), retries
    Kind.SUBMIT: Form(
        Shape(shapes.POSITIVE, shapes.CALL_MODE, shapes.FUNCTION, *_PARTS, shapes.TIMEOUT, shapes.NATURAL),
        blob=3,
    ),
    Kind.OUTCOMES: Form(
        Shape(shapes.POSITIVE, shapes.OUTCOME, *_PARTS), blob=2
    ),  # task, outcome, blob, buffers
    # worker, host, pid, tasks answered, what runs there (or nothing), for how many seconds
    Kind.STATUS: Form(
        Shape(shapes.NAME, shapes.TEXT, shapes.NATURAL, shapes.NATURAL, shapes.TEXT, shapes.SECONDS)
    ),
}
"""The rows of the kinds that have some."""

_KINDS: dict[int, Kind] = {int(kind): kind for kind in Kind}
_LENGTHS: dict[Kind, int] = {kind: 3 + shape.count for kind, shape in _SHAPES.items()}
"""Values before the rows: the kind, both numbers, the fields."""
BLOBS: dict[Kind, int] = {kind: form.blob for kind, form in FORMS.items() if form.blob >= 0}
"""Where the parts stand in rows that have some."""
_MOST = shapes.MOST_NATURAL
_FIXARRAY = 0x90
"""The first byte of a msgpack array of fewer than 16 values, but for their number."""


def pack(number: int, ack: int, message: Message) -> list[Any]:
    """The frames of a message, the large parts as the buffers that they are."""
    kind, fields, rows = message
    if rows is None:
        return [msgpack.packb((kind, number, ack, *fields))]
    columns, large = parts.pack(rows, FORMS[kind])
    return [msgpack.packb((kind, number, ack, *fields, *columns)), *large]


def unpack(frames: Sequence[Any]) -> Envelope:
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
    return Envelope(number, ack, Message(kind, fields, rows))


def _misfit(kind: Kind, fields: list[Any], what: str) -> ProtocolError:
    """A HELLO is looked at once more: who speaks another version, or means a queue, is to be told so."""
    if kind is not Kind.HELLO:
        return ProtocolError(f"{kind.name} {what}")
    of_a_queue = [type(field) for field in fields] == [int, str, dict]
    version = fields[0] if fields and shapes.NATURAL.holds_in(fields[:1]) and not of_a_queue else None
    return WrongHello(f"{kind.name} {what}", refusal(version))


def refusal(version: int | None) -> str:
    """What is told to somebody whose HELLO is of `version`, or of none."""
    if version is not None and version != VERSION:
        return f"the coordinator speaks version {VERSION} of the protocol, this peer version {version}"
    return "there is a pool here, and what called is neither an agent nor a client of one"
