"""The messages between a far queue's broker and its clients, and their encoding in frames. Pure.

A message is one msgpack array, ``[kind, number, ack, *fields]``; PUT and LEND carry items in a second frame.
The classes below declare the fields of each kind (`nearfar.net.frames`). Between processes of one machine
and user, the second frame may hold the place of the items in shared memory
(`nearfar.serialization.shared_ring`).
Both directions are reliable (`nearfar.net.reliable`): `number` counts the messages of a session over all its
sockets, and `ack` is the last number that arrived. Messages that open, keep and end a session have number 0.

::

    client                                   broker
     | HELLO --------------------------------> |   begins a session; WELCOME gives the place of the inbox
     | <------------------------------ WELCOME |
     | NEED -------------------------------->  |   bounded queues: the room that is needed, and unused room
     | <--------------------------------- ROOM |
     | PUT  ==items========================>   |
     | REPORT ------------------------------>  |   how much may wait in this client's buffer;
     | <=========================items== LEND  |   what was taken, what is done, what is given back
     | <------------------------------ SETTLED |   the outcomes of items that were put
     | ASK --------------------------------->  |   qsize, join, shutdown, a get or put that cannot wait
     | <--------------------------------- RING |   how to open the shared memory in which lent items are
     | <--------------------------------- SYNC |   before a "no": report everything, return what is unused
     | SYNCED ------------------------------>  |
     | <------------------------------- ANSWER |
     | CLAIM ------------------------------->  |   limits that clients share: see `nearfar.queues.limits`
     | <-------------------------------- GRANT |
     | BYE --------------------------------->  |   PART -> the goodbye is counted
     | QUERY ------------------------------->  |   what coordinators are asked: REFUSED
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, NamedTuple, TypeAlias, TypedDict

from msgspec import Meta

from nearfar.errors import ProtocolError
from nearfar.net import frames
from nearfar.net.addresses import LONGEST_SUFFIX
from nearfar.net.frames import Lease, Message, Name, Natural, Positive, Process, Protocol, Seconds, Text
from nearfar.net.reliable import Frame, ReliableChannel
from nearfar.net.validation import name
from nearfar.serialization.item_codec import LARGEST_ITEM
from nearfar.serialization.shared_ring import REFERENCE, Place

VERSION = frames.VERSION
MOST_RANGES = 4_000
"""Ranges, rows or names in one field, at most: those of a REPORT, with its answers, fit into a frame."""
MOST_TAGS = 64
"""Tags of one consumer, in addition to its own name."""
MOST_ITEMS = 4096
"""Items of one batch: the broker may have to cut it between any two."""
LARGEST_BATCH = 1 << 20
"""Bytes of a batch. A larger item is sent alone, up to `LARGEST_ITEM`, and is never cut."""
LONGEST_KEY = 280
"""Characters of the name of a resource whose use is limited: a host name and a port fit."""
MOST_PERMITS = 1 << 30
MOST_CLAIMS = 1000
"""Claims, or grants, of one message."""
LONGEST_ANSWER = 512 * 1024
"""Bytes of a consumer's answer to one item, at most."""
ANSWERS_TOGETHER = 128 * 1024
"""Bytes of answers after which a message is full."""


class QueueMessageType(IntEnum):
    """The kind of a message."""

    # unnumbered, both ways
    HEARTBEAT = 1
    # unnumbered, client to broker
    HELLO = 2
    QUERY = 3  # what a coordinator is asked: a queue refuses it
    # unnumbered, broker to client
    WELCOME = 10
    STRANGER = 11
    REFUSED = 12
    # numbered, client to broker
    PUT = 20
    NEED = 21
    REPORT = 22
    ASK = 23
    SYNCED = 24
    BYE = 25
    JOIN = 26
    CLAIM = 27
    # numbered, broker to client
    LEND = 40
    ROOM = 41
    SETTLED = 42
    SYNC = 43
    ANSWER = 44
    OVER = 45
    SHUT = 46
    PART = 47
    TAGS = 48
    RING = 49
    GRANT = 50


class QueueMessage(NamedTuple):
    """A message with its fields; `body` holds items, or the place of them (PUT and LEND only)."""

    kind: QueueMessageType
    fields: tuple[Any, ...] = ()
    body: bytes | Place | None = None


QueueFrame: TypeAlias = Frame[QueueMessage]
QueueChannel: TypeAlias = ReliableChannel[QueueMessage]


Port = Annotated[int, Meta(ge=1, le=65535)]
Suffix = Annotated[str, Meta(min_length=1, max_length=LONGEST_SUFFIX)]
"""With a port, the arguments of `Address.beside`: see `place`."""
RingReference = Annotated[bytes, Meta(min_length=REFERENCE, max_length=REFERENCE)]
"""An encoded `shared_ring.Reference`."""
Count = Annotated[int, Meta(ge=1, le=MOST_ITEMS)]
Names = Annotated[list[Name], Meta(max_length=MOST_RANGES)]
Tags = Annotated[list[Name], Meta(max_length=MOST_TAGS)]
Answer = Annotated[bytes, Meta(max_length=LONGEST_ANSWER)]
Ranges = Annotated[list[tuple[Positive, Positive]], Meta(max_length=MOST_RANGES)]
"""Ranges of positions: first and last."""
Letter = tuple[Positive, bytes, Name, Natural, Annotated[tuple[Text, ...], Meta(max_length=64)]]
"""A dead letter: number of items, body, producer, attempts, reasons of its failures."""


class QueueFacts(TypedDict):
    """Facts about the queue, in WELCOME."""

    epoch: Name
    inbox: Port | Suffix
    lease: Lease
    machine: Text  # on which memory can be shared; empty: none can
    maxbytes: Natural
    maxsize: Natural
    shut: bool
    stored: Natural  # the number of this client's last item that the broker had
    ticket: Name  # proves that items are from this client
    trusted: bool


class ClientProcess(Process, total=False):
    """What HELLO says of the client's process."""

    shares: Text  # the machine on which it can share memory; empty: none
    epoch: Text  # of the broker with which it had its last session


class _QueueMessage(Message):
    """The base of the messages below. Each line is a field, in the order in which it is sent."""


class QueueHello(_QueueMessage, tag=int(QueueMessageType.HELLO)):
    version: Natural
    name: Name
    process: ClientProcess


class QueueWelcome(_QueueMessage, tag=int(QueueMessageType.WELCOME)):
    session: Name
    facts: QueueFacts

    def __post_init__(self) -> None:
        if not place(self.facts["inbox"]):
            raise ValueError("the place of the inbox is malformed")


class QueueRefused(_QueueMessage, tag=int(QueueMessageType.REFUSED)):
    why: Text


class QueueJoin(_QueueMessage, tag=int(QueueMessageType.JOIN)):
    produces: bool
    consumes: bool
    tags: Tags
    helper: bool  # of another producer


class QueuePut(_QueueMessage, tag=int(QueueMessageType.PUT)):
    first: Positive
    count: Count
    to: Name | None  # a tag
    placed: bool  # the second frame is a `Place`


class QueueNeed(_QueueMessage, tag=int(QueueMessageType.NEED)):
    items: Natural  # in total since the session began, as are the two below
    size: Natural
    least: Natural  # the bytes with which the next item fits
    returned: Natural  # room in items that is not used, because the next item does not fit into it
    returned_size: Natural
    ask: Natural  # or 0


class QueueReport(_QueueMessage, tag=int(QueueMessageType.REPORT)):
    window: Natural  # in items
    window_size: Natural
    ask: Natural  # or 0
    taken: Natural  # up to this position
    done: Ranges
    failed: Ranges
    unreadable: Ranges
    returned: Ranges
    answers: Annotated[list[tuple[Positive, Answer]], Meta(max_length=MOST_RANGES)]

    def __post_init__(self) -> None:
        for ranges in (self.done, self.failed, self.unreadable, self.returned):
            for first, last in ranges:
                if first > last:
                    raise ValueError(f"a range from {first} to {last}")


class QueueAsk(_QueueMessage, tag=int(QueueMessageType.ASK)):
    ask: Positive
    what: Name
    argument: bool | Natural | RingReference | None


class QueueSynced(_QueueMessage, tag=int(QueueMessageType.SYNCED)):
    round: Positive
    returned: Natural  # room in items
    returned_size: Natural


class QueueLend(_QueueMessage, tag=int(QueueMessageType.LEND)):
    position: Positive
    count: Count
    attempt: Positive
    placed: bool


class QueueRoom(_QueueMessage, tag=int(QueueMessageType.ROOM)):
    items: Natural  # more
    size: Natural


class QueueSettled(_QueueMessage, tag=int(QueueMessageType.SETTLED)):
    # first item, number of items, outcome, answer
    rows: Annotated[list[tuple[Positive, Positive, Natural, Answer | None]], Meta(max_length=MOST_RANGES)]


class QueueSync(_QueueMessage, tag=int(QueueMessageType.SYNC)):
    round: Positive
    recall: bool  # give back the items that no call waits for


class QueueAnswer(_QueueMessage, tag=int(QueueMessageType.ANSWER)):
    ask: Positive
    # nothing, yes or no, a size or a port, a suffix, counts, dead letters
    value: (
        bool
        | Natural
        | Suffix
        | Annotated[dict[Name, Natural], Meta(max_length=64)]
        | Annotated[list[Letter], Meta(max_length=MOST_RANGES)]
        | None
    )


class QueueOver(_QueueMessage, tag=int(QueueMessageType.OVER)):
    over: bool  # no more items will come
    lost: Names  # producers


class QueueShut(_QueueMessage, tag=int(QueueMessageType.SHUT)):
    immediate: bool


class QueueTags(_QueueMessage, tag=int(QueueMessageType.TAGS)):
    tags: Names  # by which consumers can be addressed now


Key = Annotated[str, Meta(min_length=1, max_length=LONGEST_KEY)]
Few = Annotated[int, Meta(ge=0, le=MOST_PERMITS)]


class QueueClaim(_QueueMessage, tag=int(QueueMessageType.CLAIM)):
    anew: bool  # the claims are all that the client has
    # the fields of `limits.Claim`
    claims: Annotated[
        list[tuple[Key, Few, Seconds, Few, Few, Few, Few, Seconds, bool]], Meta(max_length=MOST_CLAIMS)
    ]


class QueueGrant(_QueueMessage, tag=int(QueueMessageType.GRANT)):
    # the fields of `limits.Grant`
    grants: Annotated[
        list[tuple[Key, Annotated[int, Meta(ge=-MOST_PERMITS, le=MOST_PERMITS)], Few, Few, Seconds]],
        Meta(max_length=MOST_CLAIMS),
    ]


class QueueRing(_QueueMessage, tag=int(QueueMessageType.RING)):
    ring: Positive
    reference: RingReference | None  # how to open it; None: it has ended


def share_of_answers(rows: list[Any], most: int) -> int:
    """How many of `rows`, each with an answer (bytes or None) last, fit into one message."""
    size = 0
    for count, row in enumerate(rows[:most]):
        if size >= ANSWERS_TOGETHER:
            return count
        size += len(row[-1] or b"")
    return min(len(rows), most)


def place(value: Any) -> bool:
    """True for an argument that `Address.beside` accepts, if it fits the kind of address."""
    if type(value) is int:
        return 0 < value < 65536
    return type(value) is str and len(value) <= LONGEST_SUFFIX and "/" not in value and name(value)


def pack(number: int, ack: int, message: QueueMessage) -> list[bytes]:
    """The frames of a message."""
    kind, fields, body = message
    if body is None:
        return [frames.pack((kind, number, ack, *fields))]
    placed = type(body) is Place
    header = frames.pack((kind, number, ack, *fields, placed))
    return [header, body.encode() if placed else body]  # type: ignore[list-item, union-attr]  # as `placed` says


def unpack(parts: list[bytes]) -> QueueFrame:
    """The message in the frames `parts`; raises `ProtocolError` if they hold none."""
    if not parts:
        raise ProtocolError("a message without a frame")
    kind, words = _protocol.unpack(parts[0])
    number, ack, fields = words[0], words[1], words[2:]
    carries = kind is QueueMessageType.PUT or kind is QueueMessageType.LEND
    if len(parts) != 1 + carries:
        raise ProtocolError(f"{kind.name} with {len(parts)} frames")
    if not carries:
        return Frame(number, ack, QueueMessage(kind, fields))
    first, count, other, placed = fields
    body = Place.decode(parts[1]) if placed else parts[1]
    if count != 1 or not 0 < len(body) <= LARGEST_BATCH:
        _check_body(kind, first, count, len(body))
    return Frame(number, ack, QueueMessage(kind, (first, count, other), body))


def _check_body(kind: QueueMessageType, first: int, count: int, size: int) -> None:
    if first + count > 1 << 63:
        raise ProtocolError(f"{kind.name} of {count} items from {first} on")
    if kind is QueueMessageType.PUT and count > size:
        raise ProtocolError(f"{kind.name} of {count} items in {size} bytes")
    if size > (LARGEST_ITEM if count == 1 else LARGEST_BATCH):
        raise ProtocolError(f"{kind.name} of {count} items in {size} bytes, which is too much")


def refusal(version: int | None) -> str:
    """The text sent to a peer whose HELLO has this `version` (None: no valid one)."""
    if version is not None and version != VERSION:
        return f"the host uses version {VERSION} of the protocol, this client version {version}"
    return "there is a queue here, and what connected is not a client of a queue"


NO_COORDINATOR = "this is a queue, and not the coordinator of a pool"
"""The reason that is sent to a peer that asks for the status of a pool."""

_protocol = Protocol(QueueMessageType, _QueueMessage, refusal)
_HEARTBEAT = QueueMessage(QueueMessageType.HEARTBEAT)


def open_channel(lease: float, now: float) -> QueueChannel:
    """The channel of a session. `lease` is in seconds."""
    return ReliableChannel(lease, now, _HEARTBEAT, _weigh)


def _weigh(message: QueueMessage) -> int:
    return len(message.body or b"")
