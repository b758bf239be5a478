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

`encode` and `decode` turn messages into arrays of msgpack types, and back. msgspec checks the types of all
that is decoded, since a peer may have another version, or be hostile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self, TypeVar

from msgspec import Meta, Struct, ValidationError, convert, to_builtins

from nearfar.download.model import Body, Failure, Head, Job, Partial, Saved, StreamLost
from nearfar.errors import ProtocolError
from nearfar.readable import readable

Verdict = Saved | Failure
if TYPE_CHECKING:
    Data = bytes | memoryview
else:  # msgspec has no union of both, and makes views of bytes
    Data = memoryview
"""A consumer receives views, valid until it answers."""
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


class Files(_Message, tag="files"):
    """Small files, many in one message."""

    files: Rows[File]
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


class StreamChunk(_Message, tag="chunk"):
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


class _Lost(_Message, tag="lost"):
    value: StreamLost


class _Failed(_Message, tag="failed"):
    value: Failure


Request = Offer | Files | Open | Resume | StreamChunk | Finish | Abandon
Answer = AlreadySaved | Verdicts | StreamAccepted | ChunkAck | StreamLost | Failure
_Answer = AlreadySaved | Verdicts | StreamAccepted | ChunkAck | _Lost | _Failed
_BODIES = (bytes, memoryview)


def encode(request: Request) -> list[Any]:
    """A request as a message for the transport."""
    message: list[Any] = to_builtins(request, builtin_types=_BODIES)
    if isinstance(request, Files):
        message[1] = list(map(list, message[1]))  # for `set_body`
    return message


def decode(message: Any) -> Request:
    """The request in a message. Raises `ProtocolError` for an invalid message."""
    try:
        return convert(message, Request)  # type: ignore[no-any-return]
    except (ValidationError, RecursionError) as error:
        raise _unreadable(error) from None


def encode_answer(answer: Answer) -> list[Any]:
    """An answer as a value for the transport."""
    told: Any = answer
    if isinstance(answer, StreamLost | Failure):
        told = _Lost(answer) if isinstance(answer, StreamLost) else _Failed(answer)
    value: list[Any] = to_builtins(told, builtin_types=_BODIES)
    return value


def decode_answer(value: Any) -> Answer:
    """The answer in a value. Raises `ProtocolError` for an invalid value."""
    try:
        answer: Any = convert(value, _Answer)
    except (ValidationError, RecursionError) as error:
        raise _unreadable(error) from None
    return answer.value if isinstance(answer, _Lost | _Failed) else answer


def _unreadable(error: Exception) -> ProtocolError:
    return ProtocolError(readable(str(error))[:200])


LONG = 4096
"""Bytes of a body that transports carry beside its message: copying a smaller one costs less."""


def _rows(message: Sequence[Any]) -> Sequence[Any]:
    """The parts of a message whose last member may be a body."""
    return message[1] if message[0] == "files" else [message]


def long_bodies(message: list[Any]) -> list[tuple[int, bytes]]:
    """The long bodies in an encoded request, each with an index for `set_body`."""
    rows = enumerate(_rows(message))
    return [(index, row[-1]) for index, row in rows if type(row[-1]) is bytes and len(row[-1]) >= LONG]


def set_body(message: list[Any], index: int, body: bytes | memoryview | None) -> None:
    """Put `body` in the place of the one that `long_bodies` found with `index`."""
    _rows(message)[index][-1] = body
