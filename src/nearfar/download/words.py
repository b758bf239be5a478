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
from typing import NamedTuple

from nearfar.download.model import Body, Failure, Head, Job, Saved

Verdict = Saved | Failure
Data = bytes | memoryview
"""A consumer may be given views, good until it answers."""


class File(NamedTuple):
    """A whole file in one piece."""

    job: Job
    head: Head
    body: Body
    data: Data


class Offer(NamedTuple):
    """Jobs about to be fetched: which of them need not be?"""

    jobs: tuple[Job, ...]


class Files(NamedTuple):
    """Small files, many in one message."""

    files: tuple[File, ...]


class Open(NamedTuple):
    """A large file begins. `stream` is new in the world for each attempt to send one."""

    stream: str
    job: Job
    head: Head


class Chunk(NamedTuple):
    """The bytes of a stream from `offset` on."""

    stream: str
    offset: int
    data: Data


class Finish(NamedTuple):
    """All bytes of a stream were sent; `body` is what they must amount to."""

    stream: str
    body: Body


class Abandon(NamedTuple):
    """Nothing more comes of a stream."""

    stream: str


class Known(NamedTuple):
    """The answer to an offer: what was saved of each job before, in the offer's order."""

    saved: tuple[Saved | None, ...]


class Verdicts(NamedTuple):
    """What became of each file of a message, in its order."""

    verdicts: tuple[Verdict, ...]


class Taken(NamedTuple):
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
