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
from nearfar.coordinator.parts import Check, Form, Row
from nearfar.coordinator.shapes import AGENT, CLIENT, LONGEST_FUNCTION, LONGEST_NAME, MOST_NAMES
from nearfar.coordinator.tasks import Outcome
from nearfar.errors import ProtocolError

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

VERSION = 2
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


_SHAPES: dict[Kind, tuple[Check, ...]] = {
    Kind.BEAT: (),
    Kind.HELLO: (
        shapes.natural,
        shapes.role,
        shapes.name,
        shapes.about_peer,
    ),  # version, what, its name, about its process
    Kind.QUERY: (),
    Kind.WELCOME: (shapes.name, shapes.about_coordinator),  # session
    Kind.STRANGER: (),
    Kind.REFUSED: (shapes.text,),  # why
    Kind.STATUS: (shapes.counts,),  # see FORMS
    Kind.BYE: (),
    # worker, pid, tasks answered so far; and if it is older than the session: the clients whose initializer
    # it has run, and what it was given and has not answered, as [client, [task numbers, 0 an initializer]]
    Kind.CAME: (shapes.name, shapes.natural, shapes.natural, shapes.names, shapes.batches),
    Kind.ANSWERS: (
        shapes.name,
        shapes.positive,
        shapes.seconds,
    ),  # worker, number of the first (from 1), seconds in all
    # worker, how, batches unread, batches given to it in this session: what is under way was not read, either
    Kind.DIED: (shapes.name, shapes.text, shapes.natural, shapes.natural),
    Kind.RETURNED: (shapes.name, shapes.natural),  # worker, batches
    Kind.LEAVING: (),
    Kind.KEPT: (),  # answers that an earlier coordinator had not released, or that are fetched
    Kind.JOIN: (shapes.flag,),  # the initializer runs in every worker at once; its row, or none
    Kind.SUBMIT: (shapes.flag,),  # an earlier coordinator may have had them
    Kind.CANCEL: (shapes.positive,),  # task
    Kind.PART: (),
    Kind.WORK: (shapes.name, shapes.name),  # worker, client
    Kind.RECALL: (shapes.name,),
    Kind.KILL: (shapes.name,),
    Kind.RETIRE: (shapes.name,),
    Kind.RELEASE: (shapes.batches,),  # [client, [task numbers]]: the clients have these answers
    Kind.FETCH: (shapes.batches,),  # [client, [task numbers]]: there was no room for these answers; there is
    Kind.OUTCOMES: (),
    Kind.CANCELLED: (shapes.positive, shapes.flag),  # task, it will never run
    Kind.WORKERS: (shapes.natural,),
}

_PARTS = (parts.is_part, parts.are_parts)
FORMS: dict[Kind, Form] = {
    Kind.WORK: Form(
        (shapes.natural, shapes.mode, shapes.function, *_PARTS), blob=3
    ),  # task, mode, function, blob, buffers
    Kind.ANSWERS: Form((shapes.status, *_PARTS), blob=1),  # status, blob, buffers
    Kind.KEPT: Form(
        (shapes.name, shapes.positive, shapes.status, *_PARTS), blob=3
    ),  # client, task, status, blob, buffers
    Kind.JOIN: Form((shapes.function, *_PARTS), blob=1),  # function, blob, buffers
    # task, mode, function, blob, buffers, timeout (seconds or None), retries
    Kind.SUBMIT: Form(
        (shapes.positive, shapes.call_mode, shapes.function, *_PARTS, shapes.timeout, shapes.natural), blob=3
    ),
    Kind.OUTCOMES: Form((shapes.positive, shapes.outcome, *_PARTS), blob=2),  # task, outcome, blob, buffers
    # worker, host, pid, tasks answered, what runs there (or nothing), for how many seconds
    Kind.STATUS: Form(
        (shapes.name, shapes.text, shapes.natural, shapes.natural, shapes.text, shapes.seconds)
    ),
}
"""The rows of the kinds that have some."""

_KINDS: dict[int, Kind] = {int(kind): kind for kind in Kind}


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
        words = msgpack.unpackb(frames[0], max_array_len=MOST_NAMES)
    except (ValueError, TypeError, MemoryError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not a message: {error!r}") from error
    if type(words) is not list or len(words) < 3 or type(words[0]) is not int or words[0] not in _KINDS:
        raise ProtocolError("not a message")
    code, number, ack, *fields = words
    kind = _KINDS[code]
    shape = _SHAPES[kind]
    if not (shapes.natural(number) and shapes.natural(ack)) or len(fields) != len(shape):
        raise _misfit(kind, fields, "of the wrong shape")
    for check, value in zip(shape, fields, strict=True):
        if not check(value):
            raise _misfit(kind, fields, "with a field of the wrong kind")
    if (len(frames) > 1) is not (kind in FORMS):
        raise ProtocolError(f"{kind.name} with {len(frames)} frames")
    rows = parts.unpack(frames[1:], FORMS[kind]) if kind in FORMS else None
    return Envelope(number, ack, Message(kind, tuple(fields), rows))


def _misfit(kind: Kind, fields: list[Any], what: str) -> ProtocolError:
    """A HELLO is looked at once more: whoever speaks another version, or means a queue, is to be told so."""
    if kind is not Kind.HELLO:
        return ProtocolError(f"{kind.name} {what}")
    version = fields[0] if fields and shapes.natural(fields[0]) else None
    return WrongHello(f"{kind.name} {what}", refusal(version))


def refusal(version: int | None) -> str:
    """What is told to somebody whose HELLO is of `version`, or of none."""
    if version is not None and version != VERSION:
        return f"the coordinator speaks version {VERSION} of the protocol, this peer version {version}"
    return "there is a pool here, and what called is neither an agent nor a client of one"
