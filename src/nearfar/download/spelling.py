"""How the words travel: as tuples of what msgpack knows.

Decoding checks the shape of everything, since a peer may be of another version, or no friend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from nearfar.download.model import Body, Checksum, Failure, Head, Job, Reason, Saved
from nearfar.download.words import (
    Abandon,
    Answer,
    Chunk,
    File,
    Files,
    Finish,
    Known,
    Lost,
    Offer,
    Open,
    Request,
    Taken,
    Verdict,
    Verdicts,
    Written,
)
from nearfar.errors import ProtocolError

Noun = TypeVar("Noun", Head, Body, Saved)
Plain = TypeVar("Plain", str, int, bytes)

_TEXT, _COUNT, _MAYBE = (str,), (int,), (str, type(None))
_SHAPES: dict[type, tuple[tuple[type, ...], ...]] = {
    Head: (_TEXT, _COUNT, _MAYBE, (int, type(None)), _MAYBE, _MAYBE, _MAYBE),
    Body: (_COUNT, _TEXT, _COUNT),
    Saved: (_TEXT, _TEXT, _TEXT, _COUNT, _TEXT, _MAYBE, _MAYBE, (int, float), _COUNT),
}
_FIELDS = {noun: tuple(field.name for field in fields(noun)) for noun in _SHAPES}


def encode(request: Request) -> tuple[Any, ...]:
    """A request as a message for the courier."""
    match request:
        case Files(files):
            return "files", tuple((_job(f.job), _plain(f.head), _plain(f.body), f.data) for f in files)
        case Offer(jobs):
            return "offer", tuple(map(_job, jobs))
        case Open(stream, job, head):
            return "open", stream, _job(job), _plain(head)
        case Chunk(stream, offset, data):
            return "chunk", stream, offset, data
        case Finish(stream, body):
            return "finish", stream, _plain(body)
        case Abandon(stream):
            return "abandon", stream


def decode(message: Any) -> Request:
    """The request in a message. Raises `ProtocolError` for anything else."""
    word, rest = _word(message)
    match word, len(rest):
        case "files", 1:
            return Files(tuple(map(_file, _sequence(rest[0]))))
        case "offer", 1:
            return Offer(tuple(map(_read_job, _sequence(rest[0]))))
        case "open", 3:
            return Open(_a(str, rest[0]), _read_job(rest[1]), _read(Head, rest[2]))
        case "chunk", 3:
            return Chunk(_a(str, rest[0]), _a(int, rest[1]), _a(bytes, rest[2]))
        case "finish", 2:
            return Finish(_a(str, rest[0]), _read(Body, rest[1]))
        case "abandon", 1:
            return Abandon(_a(str, rest[0]))
    raise ProtocolError(f"no request: {word[:20]!r} with {len(rest)} fields")


def encode_answer(answer: Answer) -> tuple[Any, ...]:
    """An answer as a value for the courier."""
    match answer:
        case Verdicts(verdicts):
            return "verdicts", tuple(map(_plain_verdict, verdicts))
        case Known(saved):
            return "known", tuple(row and _plain(row) for row in saved)
        case Taken(by):
            return "taken", by
        case Written():
            return ("written",)
        case Lost():
            return ("lost",)
        case Failure(reason, detail):
            return "failed", str(reason), detail


def decode_answer(value: Any) -> Answer:
    """The answer in a value. Raises `ProtocolError` for anything else."""
    word, rest = _word(value)
    match word, len(rest):
        case "verdicts", 1:
            return Verdicts(tuple(map(_verdict, _sequence(rest[0]))))
        case "known", 1:
            return Known(tuple(None if row is None else _read(Saved, row) for row in _sequence(rest[0])))
        case "taken", 1:
            return Taken(_a(str, rest[0]))
        case "written", 0:
            return Written()
        case "lost", 0:
            return Lost()
        case "failed", 2:
            return _failure(rest)
    raise ProtocolError(f"no answer: {word[:20]!r} with {len(rest)} fields")


def _plain(noun: Head | Body | Saved) -> tuple[Any, ...]:
    return tuple([getattr(noun, name) for name in _FIELDS[type(noun)]])


def _plain_verdict(verdict: Verdict) -> tuple[Any, ...]:
    return (str(verdict.reason), verdict.detail) if isinstance(verdict, Failure) else _plain(verdict)


def _job(job: Job) -> tuple[Any, ...]:
    checksum = job.checksum
    return job.url, job.name, checksum and (checksum.algorithm, checksum.digest)


def _word(value: Any) -> tuple[str, Sequence[Any]]:
    fields = _sequence(value)
    if not fields:
        raise ProtocolError("an empty message")
    return _a(str, fields[0]), fields[1:]


def _sequence(value: Any) -> Sequence[Any]:
    if not isinstance(value, (tuple, list)):
        raise ProtocolError(f"{type(value).__name__} where a sequence was due")
    return value


def _a(kind: type[Plain], value: Any) -> Plain:
    if not isinstance(value, kind):
        raise ProtocolError(f"{type(value).__name__} where {kind.__name__} was due")
    return value


def _read(noun: type[Noun], value: Any) -> Noun:
    shape = _SHAPES[noun]
    plain = _sequence(value)
    if len(plain) != len(shape) or not all(map(isinstance, plain, shape)):
        raise ProtocolError(f"no {noun.__name__}: {len(plain)} fields")
    return noun(*plain)


def _read_job(value: Any) -> Job:
    plain = _sequence(value)
    if len(plain) != 3 or not isinstance(plain[0], str) or not isinstance(plain[1], _MAYBE):
        raise ProtocolError("no Job")
    if plain[2] is None:
        return Job(plain[0], plain[1])
    checksum = _sequence(plain[2])
    if len(checksum) != 2:
        raise ProtocolError("no Checksum")
    return Job(plain[0], plain[1], Checksum(_a(str, checksum[0]), _a(str, checksum[1])))


def _file(value: Any) -> File:
    plain = _sequence(value)
    if len(plain) != 4:
        raise ProtocolError(f"no File: {len(plain)} fields")
    job, head, body, data = plain
    return File(_read_job(job), _read(Head, head), _read(Body, body), _a(bytes, data))


def _verdict(value: Any) -> Verdict:
    plain = _sequence(value)
    return _failure(plain) if len(plain) == 2 else _read(Saved, plain)


def _failure(plain: Sequence[Any]) -> Failure:
    reason, detail = plain
    try:
        return Failure(Reason(reason), _a(str, detail))
    except ValueError as error:
        raise ProtocolError(str(error)) from None
