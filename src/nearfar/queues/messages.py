"""The messages between a far queue's broker and its clients, and their encoding in frames. Pure.

A message is one msgpack array, ``[kind, number, ack, *fields]``; PUT and LEND carry items in a second frame.
The messages sent for every batch of items (a PUT without a tag, LEND, a REPORT of one range that is done,
SETTLED of one range) have a fixed binary header instead, which begins with the kind. Between processes of one
machine and user, the second frame may hold the place of the items in shared memory
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
     | BYE --------------------------------->  |   PART -> the goodbye is counted

A session has several connections. One of them may be dead while the others work, without notice: behind a
proxy or a tunnel, not even the kernel detects it. Messages sent again on it do not arrive, and later ones
wait behind them. `broken` detects such a session, although its peer is still heard; only a new session, with
new connections, helps.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from struct import Struct
from typing import Any, NamedTuple

import msgpack

from nearfar.errors import ProtocolError
from nearfar.net.addresses import LONGEST_SUFFIX
from nearfar.net.reliable import SendWindow
from nearfar.net.validation import flag, lease, name, natural, positive, text
from nearfar.serialization.item_codec import LARGEST_ITEM
from nearfar.serialization.shared_ring import Place, Reference

VERSION = 4
LONGEST_CONTROL = 1 << 20
"""Bytes of a control frame: longer ones are not read."""
MOST_RANGES = 4_000
"""Ranges, rows or names in one field, at most: those of a REPORT, with its answers, fit into a frame."""
MOST_TAGS = 64
"""Tags of one consumer, in addition to its own name."""
MOST_ITEMS = 4096
"""Items of one batch: the broker may have to cut it between any two."""
LARGEST_BATCH = 1 << 20
"""Bytes of a batch. A larger item is sent alone, up to `LARGEST_ITEM`, and is never cut."""
LONGEST_MACHINE = 256
"""Characters of the id of a machine."""
LONGEST_ANSWER = 512 * 1024
"""Bytes of a consumer's answer to one item, at most."""
ANSWERS_TOGETHER = 128 * 1024
"""Bytes of answers after which a message is full."""


class QueueMessageType(IntEnum):
    """The kind of a message."""

    # unnumbered, both ways
    BEAT = 1
    # unnumbered, client to broker
    HELLO = 2
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


class QueueMessage(NamedTuple):
    """A message with its fields; `body` holds items, or the place of them (PUT and LEND only)."""

    kind: QueueMessageType
    fields: tuple[Any, ...] = ()
    body: bytes | Place | None = None


class QueueFrame(NamedTuple):
    """A message with its number and ack, as sent."""

    number: int
    ack: int
    message: QueueMessage


class WrongQueueHello(ProtocolError):
    """A HELLO that cannot be read; `why` is sent to its sender."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what)
        self.why = why


Check = Callable[[Any], bool]


def _name_or_none(value: Any) -> bool:
    return value is None or name(value)


def share_of_answers(rows: list[Any], most: int) -> int:
    """How many of `rows`, each with an answer (bytes or None) last, fit into one message."""
    size = 0
    for count, row in enumerate(rows[:most]):
        if size >= ANSWERS_TOGETHER:
            return count
        size += len(row[-1] or b"")
    return min(len(rows), most)


def _names(value: Any) -> bool:
    return type(value) is list and len(value) <= MOST_RANGES and all(map(name, value))


def _ranges(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) <= MOST_RANGES
        and all(
            type(pair) is list and len(pair) == 2 and all(map(positive, pair)) and pair[0] <= pair[1]
            for pair in value
        )
    )


def _answers(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) <= MOST_RANGES
        and all(type(row) is list and len(row) == 2 and positive(row[0]) and _answer(row[1]) for row in value)
    )


def _answer(value: Any) -> bool:
    return type(value) is bytes and len(value) <= LONGEST_ANSWER


def _tags(value: Any) -> bool:
    return _names(value) and len(value) <= MOST_TAGS


def _anything(value: Any) -> bool:
    return True


def _argument(value: Any) -> bool:
    return value is None or type(value) is bool or natural(value) or _reference(value)


def _reference(value: Any) -> bool:
    try:
        Reference.read(value)
    except ProtocolError:
        return False
    return True


def _reference_or_none(value: Any) -> bool:
    return value is None or _reference(value)


def _count(value: Any) -> bool:
    return type(value) is int and 0 < value <= MOST_ITEMS


def _table(value: Any) -> bool:
    return type(value) is dict and len(value) <= 32 and all(type(key) is str for key in value)


def _about_queue(value: Any) -> bool:
    return _table(value) and all(key in value and check(value[key]) for key, check in _FACTS.items())


def place(value: Any) -> bool:
    """True for an argument that `Address.beside` accepts, if it fits the kind of address."""
    return (type(value) is int and 0 < value < 65536) or (
        type(value) is str and len(value) <= LONGEST_SUFFIX and name(value) and "/" not in value
    )


def _rows(value: Any) -> bool:
    return type(value) is list and len(value) <= MOST_RANGES and all(map(_row, value))


def _row(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 4
        and positive(value[0])
        and positive(value[1])
        and natural(value[2])
        and (value[3] is None or _answer(value[3]))
    )


def machine(value: Any) -> bool:
    """True for the id of a machine; it may be empty."""
    return type(value) is str and len(value) <= LONGEST_MACHINE


_FACTS: dict[str, Check] = {
    "epoch": name,
    "inbox": place,
    "lease": lease,
    "machine": machine,
    "maxbytes": natural,
    "maxsize": natural,
    "shut": flag,
    "stored": natural,  # the number of this client's last item that the broker had
    "ticket": name,  # comes with this client's items, so that no other client can send any in its name
    "trusted": flag,
}


_SHAPES: dict[QueueMessageType, tuple[Check, ...]] = {
    QueueMessageType.BEAT: (),
    QueueMessageType.HELLO: (natural, name, _table),  # version, the client's name, about the process
    QueueMessageType.WELCOME: (name, _about_queue),  # session, about the queue
    QueueMessageType.STRANGER: (),
    QueueMessageType.REFUSED: (text,),  # why
    QueueMessageType.JOIN: (
        flag,
        flag,
        _tags,
        flag,
    ),  # as producer, as consumer, tags; as a producer's helper
    QueueMessageType.PUT: (positive, _count, _name_or_none),  # first, count, to
    # items, bytes, and bytes with which the next item fits, each in total since the session began; items and
    # bytes of room returned, because that item does not fit into them; ask or 0
    QueueMessageType.NEED: (natural, natural, natural, natural, natural, natural),
    # window in items, in bytes, ask or 0; taken up to, done, failed, unreadable, returned, answers
    QueueMessageType.REPORT: (
        natural,
        natural,
        natural,
        natural,
        _ranges,
        _ranges,
        _ranges,
        _ranges,
        _answers,
    ),
    QueueMessageType.ASK: (positive, name, _argument),  # ask, what, argument
    QueueMessageType.SYNCED: (positive, natural, natural),  # round; items and bytes of room returned
    QueueMessageType.BYE: (),
    QueueMessageType.LEND: (positive, _count, positive),  # position, count, attempt
    QueueMessageType.ROOM: (natural, natural),  # items, bytes more
    QueueMessageType.SETTLED: (_rows,),  # [first, count, outcome, answer]
    QueueMessageType.SYNC: (positive, flag),  # round; whether to give back items that no call waits for
    QueueMessageType.ANSWER: (positive, _anything),  # ask, value
    QueueMessageType.OVER: (flag, _names),  # no more items will come; the producers that were lost
    QueueMessageType.SHUT: (flag,),  # immediate
    QueueMessageType.PART: (),
    QueueMessageType.TAGS: (_names,),  # the tags by which consumers can be addressed now
    QueueMessageType.RING: (positive, _reference_or_none),  # a ring's number, how to open it; None: it ended
}


BATCH = Struct("<BBHIQQQ")
"""The header of PUT and LEND: kind, whether the body is a `Place`, items, attempt (LEND), number, ack, first
item. In a SETTLED, the number of items is in the place of the attempt."""
DONE = Struct("<BxxxIQQQQQQ")
"""The header of a REPORT: kind, window in items, number, ack, window in bytes, taken up to, first and last
done."""
_PUT, _LEND, _REPORT, _SETTLED = (
    int(QueueMessageType.PUT),
    int(QueueMessageType.LEND),
    int(QueueMessageType.REPORT),
    int(QueueMessageType.SETTLED),
)
_SMALL = 1 << 32
"""Larger numbers do not fit into the smaller fields of a fixed header."""

_KINDS: dict[int, QueueMessageType] = {int(kind): kind for kind in QueueMessageType}


def pack(number: int, ack: int, message: QueueMessage) -> list[bytes]:
    """The frames of a message."""
    kind, fields, body = message
    placed = type(body) is Place
    if kind is QueueMessageType.LEND and fields[2] < _SMALL:
        header = BATCH.pack(_LEND, placed, fields[1], fields[2], number, ack, fields[0])
    elif kind is QueueMessageType.PUT and fields[2] is None:
        header = BATCH.pack(_PUT, placed, fields[1], 0, number, ack, fields[0])
    elif kind is QueueMessageType.REPORT and _reports_one_range(fields):
        first, last = fields[4][0] if fields[4] else (0, 0)
        header = DONE.pack(_REPORT, fields[0], number, ack, fields[1], fields[3], first, last)
    elif kind is QueueMessageType.SETTLED and len(fields[0]) == 1 and _is_simply_done(fields[0][0]):
        header = BATCH.pack(_SETTLED, 0, 0, fields[0][0][1], number, ack, fields[0][0][0])
    else:
        header = msgpack.packb((kind, number, ack, *fields, True) if placed else (kind, number, ack, *fields))
    if body is None:
        return [header]
    return [header, body.encode() if isinstance(body, Place) else body]


def _reports_one_range(fields: tuple[Any, ...]) -> bool:
    window, _, ask, _, done, *others = fields
    return not ask and len(done) < 2 and window < _SMALL and not any(others)


def _is_simply_done(row: list[Any]) -> bool:
    return not row[2] and row[3] is None and row[1] < _SMALL


def unpack(frames: list[bytes]) -> QueueFrame:
    """The message in `frames`; raises `ProtocolError` if they hold none."""
    if not 1 <= len(frames) <= 2 or len(frames[0]) > LONGEST_CONTROL:
        raise ProtocolError(f"{len(frames)} frames, the first of {len(frames[0]) if frames else 0} bytes")
    if frames[0] and frames[0][0] in _FIXED:
        return _unpack_fixed(frames)
    try:
        # only text and bytes as keys: the hashes of others can be made to collide
        words = msgpack.unpackb(frames[0], max_array_len=MOST_RANGES)
    except (ValueError, TypeError, MemoryError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not a message: {error!r}") from error
    if type(words) is not list or len(words) < 3 or type(words[0]) is not int or words[0] not in _KINDS:
        raise ProtocolError("not a message")
    number, ack, *fields = words[1:]
    kind = _KINDS[words[0]]
    shape = _SHAPES[kind]
    placed = len(frames) == 2 and len(fields) == len(shape) + 1 and fields[-1] is True
    if placed:
        fields.pop()
    if not (natural(number) and natural(ack)) or len(fields) != len(shape):
        raise _misfit(kind, fields, "of the wrong shape")
    for check, value in zip(shape, fields, strict=True):
        if not check(value):
            raise _misfit(kind, fields, "with a field of the wrong kind")
    body: bytes | Place | None = None
    if len(frames) == 2:
        body = Place.decode(frames[1]) if placed else frames[1]
    if (body is not None) is not (kind in (QueueMessageType.PUT, QueueMessageType.LEND)):
        raise ProtocolError(f"{kind.name} with {len(frames)} frames")
    if body is not None:
        _check_body(kind, fields[0], fields[1], len(body))
    return QueueFrame(number, ack, QueueMessage(kind, tuple(fields), body))


def _unpack_fixed(frames: list[bytes]) -> QueueFrame:
    """The message of a fixed header, whose first byte is one of `_FIXED`."""
    header = frames[0]
    kind = header[0]
    layout = DONE if kind == _REPORT else BATCH
    carries = kind in (_PUT, _LEND)
    if len(header) != layout.size or len(frames) != 1 + carries:
        raise ProtocolError(f"a header of {len(header)} bytes, with {len(frames)} frames, for kind {kind}")
    if kind == _REPORT:
        _, window, number, ack, size, taken, first, last = DONE.unpack(header)
        if (
            (number | ack | size | taken | first | last) >> 63
            or first > last
            or bool(first) is not bool(last)
        ):
            raise ProtocolError("REPORT with a field of the wrong kind")
        done = [[first, last]] if last else []
        return QueueFrame(
            number, ack, QueueMessage(QueueMessageType.REPORT, (window, size, 0, taken, done, [], [], [], []))
        )
    _, placed, count, more, number, ack, first = BATCH.unpack(header)
    if (number | ack | first) >> 63 or not first or placed > carries:
        raise ProtocolError(f"{_KINDS[kind].name} with a field of the wrong kind")
    if kind == _SETTLED:
        if not more or count:
            raise ProtocolError("SETTLED with a field of the wrong kind")
        return QueueFrame(number, ack, QueueMessage(QueueMessageType.SETTLED, ([[first, more, 0, None]],)))
    body = Place.decode(frames[1]) if placed else frames[1]
    if not 0 < count <= MOST_ITEMS or bool(more) is not (kind == _LEND):
        raise ProtocolError(f"{_KINDS[kind].name} with a field of the wrong kind")
    if count > 1 or len(body) > LARGEST_BATCH:
        _check_body(_KINDS[kind], first, count, len(body))
    if kind == _LEND:
        return QueueFrame(number, ack, QueueMessage(QueueMessageType.LEND, (first, count, more), body))
    return QueueFrame(number, ack, QueueMessage(QueueMessageType.PUT, (first, count, None), body))


_FIXED = frozenset({_PUT, _LEND, _REPORT, _SETTLED})


def _check_body(kind: QueueMessageType, first: int, count: int, size: int) -> None:
    if first + count > 1 << 63:
        raise ProtocolError(f"{kind.name} of {count} items from {first} on")
    if kind is QueueMessageType.PUT and count > size:
        raise ProtocolError(f"{kind.name} of {count} items in {size} bytes")
    if size > (LARGEST_ITEM if count == 1 else LARGEST_BATCH):
        raise ProtocolError(f"{kind.name} of {count} items in {size} bytes, which is too much")


def _misfit(kind: QueueMessageType, fields: list[Any], what: str) -> ProtocolError:
    """The error for a misshapen message. For a HELLO of another version, or to a pool, it holds a refusal."""
    if kind is not QueueMessageType.HELLO:
        return ProtocolError(f"{kind.name} {what}")
    of_a_pool = [type(field) for field in fields] == [int, str, str, dict]
    version = fields[0] if fields and natural(fields[0]) and not of_a_pool else None
    return WrongQueueHello(f"{kind.name} {what}", refusal(version))


def refusal(version: int | None) -> str:
    """The text sent to a peer whose HELLO has this `version` (None: no valid one)."""
    if version is not None and version != VERSION:
        return f"the host uses version {VERSION} of the protocol, this client version {version}"
    return "there is a queue here, and what connected is not a client of a queue"


LEASES = 3
"""Leases without progress after which a session is broken, if little is under way."""
SLOWEST = 20_000
"""The lowest expected rate, in bytes per second: large messages get that much more time."""


def broken(line: SendWindow[QueueMessage], lease: float, now: float) -> bool:
    """True if the peer has acked nothing new for too long. `lease` is in seconds."""
    stuck = line.stuck(now) - LEASES * lease
    return stuck >= 0 and stuck >= sum(len(message.body or b"") for _, message in line.unacked()) / SLOWEST
