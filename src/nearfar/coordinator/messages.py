"""The messages between a coordinator, its agents and its clients, and their encoding in frames.

A message is one msgpack array, ``[kind, number, ack, *fields]``. The classes below declare the fields of each
kind (`nearfar.net.frames`). Some messages have rows before their other fields, and further frames for large
parts of these rows (`nearfar.coordinator.large_parts`).
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
     | MEMORY --------------------------> | |                                             |
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
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    NotRequired,
    TypeAlias,
    TypedDict,
    TypeVar,
)

from msgspec import Meta

from nearfar.coordinator import large_parts
from nearfar.coordinator.large_parts import MOST_BUFFERS, MOST_PARTS, MOST_ROWS, Row
from nearfar.coordinator.task import Mode, TaskOutcome, TaskStatus
from nearfar.errors import ProtocolError
from nearfar.net import frames
from nearfar.net.frames import Lease, Message, Name, Natural, Positive, Process, Protocol, Seconds, Text
from nearfar.net.reliable import Frame, ReliableChannel

VERSION = frames.VERSION
LONGEST_FUNCTION = 1000
"""Bytes of a function's name; a longer one travels by value."""
LARGEST_FRAME = 1 << 31
"""Bytes of a frame with rows."""
MOST_NAMES = 4096
MOST_NUMBERS = 4096
"""Tasks in one list of their numbers."""


class PoolMessageType(IntEnum):
    """What a message is."""

    # unnumbered, both ways
    HEARTBEAT = 1
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
    MEMORY = 27
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
    size: int = -1
    """The bytes of its frames, if it was received; else -1."""


LOOSE = frozenset((PoolMessageType.WELCOME, PoolMessageType.REFUSED, PoolMessageType.STRANGER))
"""Messages of a coordinator outside of a session."""
FAREWELL = 3.0
"""Seconds of silence after which a closing peer, with nothing left to send, stops waiting for an answer."""
PoolFrame: TypeAlias = Frame[PoolMessage]
PoolChannel: TypeAlias = ReliableChannel[PoolMessage]


Function = Annotated[bytes, Meta(max_length=LONGEST_FUNCTION)]
Buffers = Annotated[tuple[bytes, ...], Meta(max_length=MOST_BUFFERS)]
AnyMode = Annotated[int, Meta(ge=0, le=int(Mode.PREPARE))]
CallMode = Annotated[int, Meta(ge=0, le=int(Mode.PREPARE) - 1)]
StatusCode = Annotated[int, Meta(ge=0, le=int(TaskStatus.TOO_LARGE))]
Outcome = Annotated[int, Meta(ge=0, le=int(TaskOutcome.FAILED))]
Names = Annotated[list[Name], Meta(max_length=MOST_NAMES)]
Numbers = Annotated[list[Natural], Meta(min_length=1, max_length=MOST_NUMBERS)]
Batches = Annotated[list[tuple[Name, Numbers]], Meta(max_length=MOST_NAMES)]
"""Numbers of tasks, by client; 0 is the client's initializer."""
Places = Annotated[list[tuple[Natural, Natural]], Meta(max_length=MOST_PARTS)]

SubmitRow = tuple[
    Positive,  # number of the task
    CallMode,
    Function,
    bytes,
    Buffers,
    Seconds | None,  # timeout
    Natural,  # retries
]
WorkRow = tuple[Natural, AnyMode, Function, bytes, Buffers]
AnswerRow = tuple[StatusCode, bytes, Buffers]
KeptRow = tuple[Name, Positive, StatusCode, bytes, Buffers]  # of a client's task
InitializerRow = tuple[Function, bytes, Buffers]
OutcomeRow = tuple[Positive, Outcome, bytes, Buffers]
# worker, host, pid, number of tasks answered, the running function or "", its seconds
StatusRow = tuple[Name, Text, Natural, Natural, Text, Seconds]
R = TypeVar("R")


class About(Process, total=False):
    """Facts about an agent or a client, in HELLO."""

    host: Name
    python: Text  # net.process.PYTHON
    bytecode: Text  # net.process.BYTECODE
    slots: Natural  # an agent's processes
    quota: Natural  # tasks after which an agent replaces a process; 0: none
    bytes: Natural  # of answers that an agent may keep; 0: any number


class PoolFacts(TypedDict):
    """Facts about the coordinator, in WELCOME."""

    epoch: Name  # of this run of the coordinator
    lease: Lease
    workers: Natural
    largest: NotRequired[Natural]  # bytes that one task or one answer may have; 0: any number


class _PoolMessage(Message):
    """The base of the messages below. Each line is a field, in the order in which it is sent."""


class MessageWithRows(_PoolMessage, Generic[R]):
    longest: ClassVar[int] = LARGEST_FRAME
    blob: ClassVar[int] = -1
    """The index of the parts in a row, if it has some: bytes there, and buffers after them."""

    large: Places
    rows: Annotated[list[R], Meta(max_length=MOST_ROWS)]


class PoolHello(_PoolMessage, tag=int(PoolMessageType.HELLO)):
    version: Natural
    role: Literal["agent", "client"]
    name: Name
    about: About


class PoolWelcome(_PoolMessage, tag=int(PoolMessageType.WELCOME)):
    session: Name
    facts: PoolFacts


class PoolRefused(_PoolMessage, tag=int(PoolMessageType.REFUSED)):
    why: Text


class PoolStatus(MessageWithRows[StatusRow], tag=int(PoolMessageType.STATUS)):
    counts: Annotated[dict[Text, Natural], Meta(max_length=32)]


class PoolCame(_PoolMessage, tag=int(PoolMessageType.CAME)):
    worker: Name
    pid: Natural
    ran: Natural  # tasks answered so far
    # if the worker is older than the session:
    prepared: Names  # clients whose initializer it has run
    given: Batches  # tasks that it has not answered


class PoolAnswers(MessageWithRows[AnswerRow], tag=int(PoolMessageType.ANSWERS)):
    blob = 1
    worker: Name
    first: Positive  # number of the first of the worker's answers, from 1
    spent: Seconds  # for all


class PoolDied(_PoolMessage, tag=int(PoolMessageType.DIED)):
    worker: Name
    how: Text
    unread: Natural  # batches
    given: Natural  # batches in this session: those under way were not read, either


class PoolReturned(_PoolMessage, tag=int(PoolMessageType.RETURNED)):
    worker: Name
    batches: Natural


class PoolMemory(_PoolMessage, tag=int(PoolMessageType.MEMORY)):
    """The resident memory of workers, in bytes; sent from time to time."""

    workers: Annotated[list[tuple[Name, Natural]], Meta(max_length=MOST_NAMES)]


class PoolKept(MessageWithRows[KeptRow], tag=int(PoolMessageType.KEPT)):
    """Answers that an earlier coordinator had not released, or that were fetched."""

    blob = 3


class PoolJoin(MessageWithRows[InitializerRow], tag=int(PoolMessageType.JOIN)):
    """The row is the client's initializer, if it has one."""

    blob = 1
    eager: bool  # run it in every worker at once


class PoolSubmit(MessageWithRows[SubmitRow], tag=int(PoolMessageType.SUBMIT)):
    blob = 3
    again: bool  # an earlier coordinator may have had them


class PoolCancel(_PoolMessage, tag=int(PoolMessageType.CANCEL)):
    task: Positive


class PoolWork(MessageWithRows[WorkRow], tag=int(PoolMessageType.WORK)):
    blob = 3
    worker: Name
    client: Name


class PoolRecall(_PoolMessage, tag=int(PoolMessageType.RECALL)):
    worker: Name


class PoolKill(_PoolMessage, tag=int(PoolMessageType.KILL)):
    worker: Name


class PoolRetire(_PoolMessage, tag=int(PoolMessageType.RETIRE)):
    worker: Name


class PoolRelease(_PoolMessage, tag=int(PoolMessageType.RELEASE)):
    answers: Batches  # the clients have these


class PoolFetch(_PoolMessage, tag=int(PoolMessageType.FETCH)):
    answers: Batches  # there was no room for these; there is


class PoolOutcomes(MessageWithRows[OutcomeRow], tag=int(PoolMessageType.OUTCOMES)):
    blob = 2


class PoolCancelled(_PoolMessage, tag=int(PoolMessageType.CANCELLED)):
    task: Positive
    never: bool  # it will never run


class PoolWorkers(_PoolMessage, tag=int(PoolMessageType.WORKERS)):
    count: Natural


def pack(number: int, ack: int, message: PoolMessage) -> list[Any]:
    """The frames of a message, the large parts as the buffers that they are."""
    kind, fields, rows, _ = message
    if rows is None:
        return [frames.pack((kind, number, ack, *fields))]
    places: list[large_parts.Place] = []
    large: list[Any] = []
    if kind in BLOBS:
        rows, places, large = large_parts.take_out(rows, BLOBS[kind])
    return [frames.pack((kind, number, ack, places, rows, *fields)), *large]


def unpack(parts: Sequence[Any]) -> PoolFrame:
    """The message that the frames `parts` (bytes or memoryviews) hold; raises `ProtocolError` for anything
    else."""
    if not parts:
        raise ProtocolError("a message without a frame")
    kind, words = _protocol.unpack(parts[0])
    if kind in FORMS:
        number, ack, places, rows = words[:4]
        size = len(parts[0])
        if places or len(parts) > 1:
            large_parts.put_back(rows, FORMS[kind].blob, places, parts[1:])
            size = sum(map(len, parts))
        return Frame(number, ack, PoolMessage(kind, words[4:], rows, size))
    if len(parts) > 1:
        raise ProtocolError(f"{kind.name} with {len(parts)} frames")
    return Frame(words[0], words[1], PoolMessage(kind, words[2:]))


def refusal(version: int | None) -> str:
    """The reason for refusing a HELLO of `version` (None: of none)."""
    if version is not None and version != VERSION:
        return f"the coordinator speaks version {VERSION} of the protocol, this peer version {version}"
    return "this is a pool's coordinator; the peer is neither an agent nor a client of a pool"


_protocol = Protocol(PoolMessageType, _PoolMessage, refusal)
FORMS: dict[PoolMessageType, type[MessageWithRows[Any]]] = {
    kind: message for kind, message in _protocol.messages.items() if issubclass(message, MessageWithRows)
}
"""The messages with rows."""
BLOBS: dict[PoolMessageType, int] = {kind: form.blob for kind, form in FORMS.items() if form.blob >= 0}
"""The index of the parts in rows that have some."""

HEAVIEST_AHEAD = 4 << 20
"""Bytes of messages of one session that came out of order. A session's only socket keeps the order, unless
a connection broke: then all is sent again."""
_HEARTBEAT = PoolMessage(PoolMessageType.HEARTBEAT)


def weigh(message: PoolMessage) -> int:
    """Bytes of its rows; of a received message, of its frames."""
    if message.size >= 0:
        return message.size
    rows = message.rows
    if not rows:
        return 0
    blob = BLOBS.get(message.kind)
    return 0 if blob is None else large_parts.weight(rows, blob)


def open_channel(lease: float, now: float) -> PoolChannel:
    """The channel of a session. `lease` is in seconds."""
    return ReliableChannel(lease, now, _HEARTBEAT, weigh, HEAVIEST_AHEAD)
