"""The messages between producer and consumer, and their encoding as rows of msgpack.

::

    producer                                     consumer
    offer   jobs                            ->   known     what is saved already, job by job
    files   (job, head, body, data)..., last ->  verdicts  one for each
    open    stream, job, head               ->   taken     by which consumer: the rest goes to that one
    chunk   stream, offset, data            ->   written
    finish  stream, body                    ->   verdicts  one
    resume  stream, job, partial file       ->   taken     once the file was read again; then as after open
    abandon stream, whether to keep it      ->   written

Any request may be answered by `failed` (it cannot be carried out) or, about a stream, by `lost` (this
consumer does not have it; the file must start again).

A message for a transport is a list: the packed fields, then the bodies of files as they are. msgspec checks
the types of all that is decoded, since a peer may have another version, or be hostile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple, Self, TypeVar

from msgspec import Meta, MsgspecError, Struct, convert, to_builtins
from msgspec.msgpack import Decoder, Encoder

from nearfar.download.model import Body, Failure, Head, Job, Partial, Saved, StreamLost
from nearfar.errors import ProtocolError
from nearfar.readable import readable

Verdict = Saved | Failure
Data = bytes | memoryview
"""A consumer may receive views, valid until it answers."""
MOST = 1 << 16
"""Rows of a list: more are refused."""
T = TypeVar("T")
Rows = Annotated[tuple[T, ...], Meta(max_length=MOST)]
Index = Annotated[int, Meta(ge=0, lt=MOST)]


class _Message(Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """An array that begins with the tag of its class."""


class File(NamedTuple):
    """A complete file in one piece."""

    job: Job
    head: Head
    body: Body
    data: Data


class Offer(_Message, tag="offer"):
    """Jobs about to be fetched: asks which of them are saved already."""

    jobs: Rows[Job]
    refresh: bool = False
    """Whether saved files may be fetched again: of one that was begun, its partial file is told."""


class Files(NamedTuple):
    """Small files, many in one message."""

    files: tuple[File, ...]
    last: bool = False
    """The producer sends nothing else for now: a commit should not wait for more."""


class Open(_Message, tag="open"):
    """A large file begins. `stream` is a new globally unique id for each attempt to send one."""

    stream: str
    job: Job
    head: Head


class Resume(_Message, tag="resume"):
    """As `Open`, for the rest of a partial file: the stream's first chunk has its size as offset."""

    stream: str
    job: Job
    file: str
    """See `Partial.file`."""


class StreamChunk(NamedTuple):
    """The bytes of a stream from `offset` on. None say that the producer is alive."""

    stream: str
    offset: int
    data: Data


class Finish(_Message, tag="finish"):
    """All bytes of a stream were sent; `body` has the size and digest that they must have."""

    stream: str
    body: Body


class Abandon(_Message, tag="abandon"):
    """The producer sends nothing more of a stream."""

    stream: str
    keep: bool = False
    """Another transfer may continue the file."""


class AlreadySaved(_Message, tag="known"):
    """The answer to an offer: what is saved already of each job, in the offer's order, and what is begun."""

    saved: Rows[Saved | None]
    begun: Rows[tuple[Index, Partial]] = ()
    """With the index of its job."""


class Verdicts(_Message, tag="verdicts"):
    """The result of each file of a message, in its order: those that were saved, and why others were not."""

    saved: Rows[Saved | None]
    failed: Rows[tuple[Index, Failure]] = ()

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> Self:
        rows = tuple(verdicts)
        return cls(
            tuple([None if isinstance(row, Failure) else row for row in rows]),
            tuple([(index, row) for index, row in enumerate(rows) if isinstance(row, Failure)]),
        )

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One for each file. Fewer, if the message is wrong: some file has none."""
        failed = dict(self.failed)
        rows = (failed.get(index) if row is None else row for index, row in enumerate(self.saved))
        return tuple([row for row in rows if row is not None])


class StreamAccepted(_Message, tag="taken"):
    """A stream was opened by the consumer called `by`."""

    by: str


class ChunkAck(_Message, tag="written"):
    """A chunk is in the temporary file (only a verdict confirms that it is safe), or a stream was dropped."""


class _Files(_Message, tag="files"):
    rows: Rows[tuple[Job, Head, Body]]
    last: bool


class _Chunk(_Message, tag="chunk"):
    stream: str
    offset: int


class _LostAnswer(_Message, tag="lost"):
    value: StreamLost


class _FailedAnswer(_Message, tag="failed"):
    value: Failure


Request = Offer | Files | Open | Resume | StreamChunk | Finish | Abandon
Answer = AlreadySaved | Verdicts | StreamAccepted | ChunkAck | StreamLost | Failure
_Request = Offer | _Files | Open | Resume | _Chunk | Finish | Abandon
_Answer = AlreadySaved | Verdicts | StreamAccepted | ChunkAck | _LostAnswer | _FailedAnswer
_encoder = Encoder()
_requests: Decoder[_Request] = Decoder(_Request)
_answers: Decoder[_Answer] = Decoder(_Answer)
_BODIES = frozenset({bytes, memoryview})


def encode(request: Request) -> list[Any]:
    """A request as a message for the transport."""
    match request:
        case Files(files, last):
            rows = tuple([(file.job, file.head, file.body) for file in files])
            return [_pack(_Files(rows, last)), *[file.data for file in files]]
        case StreamChunk(stream, offset, data):
            return [_pack(_Chunk(stream, offset)), data]
    return [_pack(request)]


def decode(message: Any) -> Request:
    """The request in a message. Raises `ProtocolError` for an invalid message."""
    if type(message) not in (list, tuple) or not message or not _BODIES.issuperset(map(type, message[1:])):
        raise ProtocolError("a message that is no list of bytes")
    packed, *bodies = message
    request = _unpack(packed, _requests)
    match request:
        case _Files(rows, last) if len(rows) == len(bodies):
            return Files(tuple([File(*row, data) for row, data in zip(rows, bodies, strict=True)]), last)
        case _Chunk(stream, offset) if len(bodies) == 1:
            return StreamChunk(stream, offset, bodies[0])
        case _Files() | _Chunk():
            raise ProtocolError(f"a message with {len(bodies)} bodies")
    if bodies:
        raise ProtocolError("a message with a body that belongs to nothing")
    return request


def encode_answer(answer: Answer) -> Any:
    """An answer as a value for the transport."""
    if isinstance(answer, StreamLost):
        return _pack(_LostAnswer(answer))
    return _pack(_FailedAnswer(answer) if isinstance(answer, Failure) else answer)


def decode_answer(value: Any) -> Answer:
    """The answer in a value. Raises `ProtocolError` for an invalid value."""
    answer = _unpack(value, _answers)
    return answer.value if isinstance(answer, _LostAnswer | _FailedAnswer) else answer


def _pack(message: _Message) -> Any:
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError:  # a URL that is not Unicode: trusted peers pickle such a text
        return to_builtins(message)


def _unpack(packed: Any, decoder: Decoder[T]) -> T:
    try:
        if type(packed) in _BODIES:
            return decoder.decode(packed)
        found: T = convert(packed, decoder.type)
    except (MsgspecError, RecursionError, UnicodeError) as error:
        raise ProtocolError(readable(str(error))[:200]) from None
    return found


LONG = 4096
"""Bytes of a body that transports carry beside its message: copying a smaller one costs less."""


def long_bodies(message: list[Any]) -> list[tuple[int, bytes]]:
    """The long bodies in an encoded request, each with its index."""
    bodies = enumerate(message[1:], 1)
    return [(index, body) for index, body in bodies if type(body) is bytes and len(body) >= LONG]
