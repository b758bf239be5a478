"""The messages between producer and consumer, and their encoding as rows of msgpack.

::

    producer                                     consumer
    offer   jobs                            ->   known     what is saved already, job by job
    refresh the same, if saved files may be fetched again
    files   (job, head, body, data)...      ->   verdicts  one for each
    last    the same, when nothing else is on its way from this producer
    open    stream, job, head               ->   taken     by which consumer: the rest goes to that one
    chunk   stream, offset, data            ->   written
    finish  stream, body                    ->   verdicts  one
    resume  stream, job, partial file       ->   taken     once the file was read again; then as after open
    abandon stream, whether to keep it      ->   written

Any request may be answered by `failed` (it cannot be carried out) or, about a stream, by `lost` (this
consumer does not have it; the file must start again).

`encode` and `decode` turn messages into flat rows of msgpack types, and back. Decoding validates the shape of
all data, since a peer may have another version, or be hostile. A message of many files is validated column by
column, so that a file costs no call of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nearfar.download.model import Body, Checksum, Failure, Head, Job, Partial, Reason, Saved, StreamLost
from nearfar.errors import ProtocolError

Verdict = Saved | Failure
Data = bytes | memoryview
"""A consumer may receive views, valid until it answers."""


class File(NamedTuple):
    """A complete file in one piece."""

    job: Job
    head: Head
    body: Body
    data: Data


class Offer(NamedTuple):
    """Jobs about to be fetched: asks which of them are saved already."""

    jobs: tuple[Job, ...]
    refresh: bool = False
    """Whether saved files may be fetched again: of one that was begun, its partial file is told."""


class Files(NamedTuple):
    """Small files, many in one message."""

    files: tuple[File, ...]
    last: bool = False
    """The producer sends nothing else for now: a commit should not wait for more."""


class Open(NamedTuple):
    """A large file begins. `stream` is a new globally unique id for each attempt to send one."""

    stream: str
    job: Job
    head: Head


class Resume(NamedTuple):
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


class Finish(NamedTuple):
    """All bytes of a stream were sent; `body` has the size and digest that they must have."""

    stream: str
    body: Body


class Abandon(NamedTuple):
    """The producer sends nothing more of a stream."""

    stream: str
    keep: bool = False
    """Another transfer may continue the file."""


class AlreadySaved(NamedTuple):
    """The answer to an offer: what is saved already of each job, or begun, in the offer's order."""

    saved: tuple[Saved | Partial | None, ...]


class Verdicts(NamedTuple):
    """The result of each file of a message, in its order."""

    verdicts: tuple[Verdict, ...]


class StreamAccepted(NamedTuple):
    """A stream was opened by the consumer called `by`."""

    by: str


@dataclass(frozen=True, slots=True)
class ChunkAck:
    """A chunk is in the temporary file (only a verdict confirms that it is safe), or a stream was dropped."""


Request = Offer | Files | Open | Resume | StreamChunk | Finish | Abandon
Answer = AlreadySaved | Verdicts | StreamAccepted | ChunkAck | StreamLost | Failure


LONG = 4096
"""Bytes of a body that transports carry beside its message: copying a smaller one costs less."""


def long_bodies(message: list[Any]) -> list[tuple[int, bytes]]:
    """The long bodies in a message, each with its index: that of the body itself, or of the row whose last
    field it is."""
    found = []
    for index, part in enumerate(message):
        body = part[-1] if type(part) is list and part else part
        if type(body) is bytes and len(body) >= LONG:
            found.append((index, body))
    return found


def set_body(message: list[Any], index: int, body: Data | None) -> None:
    """Put `body` in the place of the one that `long_bodies` found with `index`."""
    part = message[index]
    if type(part) is list:
        part[-1] = body
    else:
        message[index] = body


Row = Sequence[Any]
Kinds = frozenset[type]

_SEQUENCES: Kinds = frozenset({tuple, list})
_TEXT, _COUNT, _BYTES = frozenset({str}), frozenset({int}), frozenset({bytes, memoryview})
_MAYBE: Kinds = frozenset({str, type(None)})
_MAYBE_COUNT: Kinds = frozenset({int, type(None)})
_TIME: Kinds = frozenset({int, float})
_YES: Kinds = frozenset({bool})

_JOB = (_TEXT, _MAYBE, _MAYBE, _MAYBE)
_HEAD = (_TEXT, _COUNT, _MAYBE, _MAYBE_COUNT, _MAYBE, _MAYBE, _MAYBE, _MAYBE)
_BODY = (_COUNT, _MAYBE, _COUNT, _MAYBE)
_FILE = (*_JOB, *_HEAD, *_BODY, _BYTES)
_SAVED = (_TEXT, _TEXT, _TEXT, _COUNT, _TEXT, _MAYBE, _MAYBE, _TIME, _COUNT, _MAYBE)
_PARTIAL = (_TEXT, _TEXT, _COUNT, _MAYBE_COUNT, _TEXT, _TEXT, _BYTES, _BYTES)
_FAILURE = (_TEXT, _TEXT)


def encode(request: Request) -> list[Any]:
    """A request as a message for the transport."""
    match request:
        case Files(files, last):
            rows = [[*_job(job), *head, *body, data] for job, head, body, data in files]
            return ["last" if last else "files", *rows]
        case Offer(jobs, refresh):
            return ["refresh" if refresh else "offer", *map(_job, jobs)]
        case Open(stream, job, head):
            return ["open", stream, *_job(job), *head]
        case Resume(stream, job, file):
            return ["resume", stream, *_job(job), file]
        case StreamChunk(stream, offset, data):
            return ["chunk", stream, offset, data]
        case Finish(stream, body):
            return ["finish", stream, *body]
        case Abandon(stream, keep):
            return ["abandon", stream, keep]


def decode(message: Any) -> Request:
    """The request in a message. Raises `ProtocolError` for an invalid message."""
    word, rest = _word(message)
    match word:
        case "files" | "last":
            return Files(tuple(map(_file, _table(rest, _FILE))), word == "last")
        case "offer" | "refresh":
            return Offer(tuple(map(_read_job, _table(rest, _JOB))), word == "refresh")
        case "open":
            stream, *row = _row(rest, (_TEXT, *_JOB, *_HEAD))
            return Open(stream, _read_job(row[:4]), Head._make(row[4:]))
        case "resume":
            stream, *row, file = _row(rest, (_TEXT, *_JOB, _TEXT))
            return Resume(stream, _read_job(row), file)
        case "chunk":
            return StreamChunk._make(_row(rest, (_TEXT, _COUNT, _BYTES)))
        case "finish":
            stream, *row = _row(rest, (_TEXT, *_BODY))
            return Finish(stream, Body._make(row))
        case "abandon":
            return Abandon._make(_row(rest, (_TEXT, _YES)))
    raise ProtocolError(f"no request: {word[:20]!r}")


def encode_answer(answer: Answer) -> list[Any]:
    """An answer as a value for the transport."""
    match answer:
        case Verdicts(verdicts):
            return ["verdicts", *map(_verdict, verdicts)]
        case AlreadySaved(saved):
            return ["known", *[row and [*row] for row in saved]]
        case StreamAccepted(by):
            return ["taken", by]
        case ChunkAck():
            return ["written"]
        case StreamLost(joined):
            return ["lost", joined]
        case Failure():
            return ["failed", *_verdict(answer)]


def decode_answer(value: Any) -> Answer:
    """The answer in a value. Raises `ProtocolError` for an invalid value."""
    word, rest = _word(value)
    match word:
        case "verdicts":
            return Verdicts(_read_verdicts(rest))
        case "known":
            return AlreadySaved(_read_known(rest))
        case "taken":
            return StreamAccepted._make(_row(rest, (_TEXT,)))
        case "written" if not rest:
            return ChunkAck()
        case "lost":
            return StreamLost._make(_row(rest, (_YES,)))
        case "failed":
            return _failure(_row(rest, _FAILURE))
    raise ProtocolError(f"no answer: {word[:20]!r}")


def _job(job: Job) -> Row:
    url, name, checksum = job
    return [url, name, *checksum] if checksum else [url, name, None, None]


def _read_job(row: Row) -> Job:
    url, name, algorithm, digest = row
    if (algorithm is None) is not (digest is None):
        raise ProtocolError("half a checksum")
    return Job(url, name, None if algorithm is None else Checksum(algorithm, digest))


def _file(row: Row) -> File:
    return File(_read_job(row[:4]), Head._make(row[4:12]), Body._make(row[12:16]), row[16])


def _verdict(verdict: Verdict) -> Row:
    return [str(verdict.reason), verdict.detail] if isinstance(verdict, Failure) else [*verdict]


def _read_known(rows: Row) -> tuple[Saved | Partial | None, ...]:
    there = [row for row in rows if row is not None]
    if not _SEQUENCES.issuperset(map(type, there)):
        raise ProtocolError("a saved file that is no row")
    _table([row for row in there if len(row) == len(_PARTIAL)], _PARTIAL)
    _table([row for row in there if len(row) != len(_PARTIAL)], _SAVED)
    return tuple(row if row is None else _read_file(row) for row in rows)


def _read_file(row: Row) -> Saved | Partial:
    if len(row) == len(_SAVED):
        return Saved._make(row)
    partial = Partial._make(row)
    return partial._replace(first=bytes(partial.first), last=bytes(partial.last))


def _read_verdicts(rows: Row) -> tuple[Verdict, ...]:
    if not _SEQUENCES.issuperset(map(type, rows)):
        raise ProtocolError("a verdict that is no row")
    _table([row for row in rows if len(row) == len(_FAILURE)], _FAILURE)
    _table([row for row in rows if len(row) != len(_FAILURE)], _SAVED)
    return tuple(_failure(row) if len(row) == len(_FAILURE) else Saved._make(row) for row in rows)


def _failure(row: Row) -> Failure:
    reason, detail = row
    try:
        return Failure(Reason(reason), detail)
    except ValueError as error:
        raise ProtocolError(str(error)) from None


def _word(value: Any) -> tuple[str, Row]:
    if type(value) not in _SEQUENCES or not value or type(value[0]) is not str:
        raise ProtocolError("a message that does not begin with a word")
    return value[0], value[1:]


def _row(row: Row, shape: Sequence[Kinds]) -> Row:
    """`row` itself, if it has the shape."""
    return _table([row], shape)[0]


def _table(rows: Row, shape: Sequence[Kinds]) -> Sequence[Row]:
    """`rows` itself, if each is a sequence with a value of the right type for every column of `shape`."""
    if not _SEQUENCES.issuperset(map(type, rows)) or not {len(shape)}.issuperset(map(len, rows)):
        raise ProtocolError(f"a row that has not {len(shape)} fields")
    for kinds, column in zip(shape, zip(*rows, strict=True), strict=False):
        if not kinds.issuperset(map(type, column)):
            raise ProtocolError(f"a field is none of {', '.join(sorted(kind.__name__ for kind in kinds))}")
    return rows
