"""The words of producer and consumer: what is asked, and what is answered. `spelling.py` writes them down.

::

    producer                                     consumer
    offer   jobs                            ->   known     what is saved already, job by job
    files   (job, head, body, data)...      ->   verdicts  one for each
    open    stream, job, head               ->   taken     by whom: the rest goes to that one
    chunk   stream, offset, data            ->   written
    finish  stream, body                    ->   verdicts  one
    abandon stream                          ->   written

Any request may be answered by `failed` (its work cannot be done) or, about a stream, by `lost` (this consumer
has it no longer; the file must start again).
"""

from __future__ import annotations

from dataclasses import dataclass

from nearfar.download.model import Body, Failure, Head, Job, Saved

Verdict = Saved | Failure


@dataclass(frozen=True, slots=True)
class File:
    """A whole file in one piece."""

    job: Job
    head: Head
    body: Body
    data: bytes


@dataclass(frozen=True, slots=True)
class Offer:
    """Jobs about to be fetched: which of them need not be?"""

    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Files:
    """Small files, many in one message."""

    files: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class Open:
    """A large file begins. `stream` is new in the world for each attempt to send one."""

    stream: str
    job: Job
    head: Head


@dataclass(frozen=True, slots=True)
class Chunk:
    """The bytes of a stream from `offset` on."""

    stream: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Finish:
    """All bytes of a stream were sent; `body` is what they must amount to."""

    stream: str
    body: Body


@dataclass(frozen=True, slots=True)
class Abandon:
    """Nothing more comes of a stream."""

    stream: str


@dataclass(frozen=True, slots=True)
class Known:
    """The answer to an offer: what was saved of each job before, in the offer's order."""

    saved: tuple[Saved | None, ...]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What became of each file of a message, in its order."""

    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """A stream was opened by the consumer called `by`."""

    by: str


@dataclass(frozen=True, slots=True)
class Written:
    """A chunk is in the temporary file (not yet safe: only a verdict says that), or a stream was dropped."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream is not known here."""


Request = Offer | Files | Open | Chunk | Finish | Abandon
Answer = Known | Verdicts | Taken | Written | Lost | Failure
