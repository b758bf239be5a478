"""A large file on its way, in chunks, to the one consumer that took it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nearfar.download.model import Body, Failure, Head, Job, Reason
from nearfar.download.post import OnAnswer, Post
from nearfar.download.words import (
    Abandon,
    Answer,
    Chunk,
    Finish,
    Known,
    Lost,
    Open,
    Request,
    Taken,
    Verdict,
    Verdicts,
    Written,
)

CHUNK = 1024 * 1024
"""Bytes of a message: large enough that its overhead does not show, small beside `STREAM_ROOM`."""
STREAM_ROOM = 8 * 1024 * 1024
"""Bytes on their way, of one file."""


class Upload:
    """Sends one body. `settle` is called once, with its verdict, or with `Lost` if it must start again.

    Requests wait here until somebody has taken the stream, since before that nobody can be addressed.
    """

    def __init__(
        self, post: Post, stream: str, job: Job, head: Head, settle: Callable[[Verdict | Lost], None]
    ) -> None:
        self._post = post
        self._stream = stream
        self._settle = settle
        self._taker: str | None = None
        self._early: list[tuple[Request, OnAnswer, int]] = []
        self._gathered: list[bytes] = []
        self._gathered_size = 0
        self._offset = 0
        self._on_way = 0
        self._over = False
        post.send(Open(stream, job, head), self._opened)

    @property
    def roomy(self) -> bool:
        return self._on_way < STREAM_ROOM and self._post.roomy

    def write(self, data: bytes) -> None:
        """Send `data` after what came before; in small pieces, it waits for more."""
        if self._over:
            return
        self._gathered.append(data)
        self._gathered_size += len(data)
        self._on_way += len(data)
        self._post.hold(len(data))
        if self._gathered_size >= CHUNK:
            self.push()

    def push(self) -> None:
        """Send what waits for more. A source that pauses must call this, or nothing may ever make room."""
        if self._gathered:
            data, self._gathered = b"".join(self._gathered), []
            self._gathered_size = 0
            self._send(Chunk(self._stream, self._offset, data), partial(self._written, len(data)), len(data))
            self._offset += len(data)

    def finish(self, body: Body) -> None:
        """Say that all was written."""
        self.push()
        self._send(Finish(self._stream, body), self._finished)

    def abandon(self) -> None:
        """Give the file up; `settle` will not be called."""
        if self._over:
            return
        self._give_up()
        if self._taker is not None:
            self._post.send(Abandon(self._stream), _ignore, to=self._taker)

    def _send(self, request: Request, on_answer: OnAnswer, size: int = 0) -> None:
        if self._over:
            self._post.hold(-size)
        elif self._taker is None:
            self._early.append((request, on_answer, size))
        else:
            self._post.send(request, on_answer, to=self._taker, size=size)

    def _opened(self, answer: Answer) -> None:
        match answer:
            case Taken(by) if self._over:
                self._post.send(Abandon(self._stream), _ignore, to=by)
            case Taken(by):
                self._taker = by
                early, self._early = self._early, []
                for request, on_answer, size in early:
                    self._send(request, on_answer, size)
            case _:
                self._end(answer)

    def _written(self, size: int, answer: Answer) -> None:
        self._on_way -= size
        if not isinstance(answer, Written):
            self._end(answer)

    def _finished(self, answer: Answer) -> None:
        match answer:
            case Verdicts((verdict,)):
                self._end(verdict)
            case _:
                self._end(answer)

    def _end(self, answer: Answer | Verdict) -> None:
        if self._over:
            return
        self._give_up()
        self._settle(verdict_of(answer))

    def _give_up(self) -> None:
        self._over = True
        self._post.hold(-self._gathered_size - sum(size for _, _, size in self._early))
        self._gathered, self._early, self._gathered_size = [], [], 0


def verdict_of(answer: Answer | Verdict) -> Verdict | Lost:
    """`answer` where a verdict was due; one that makes no sense is a failure."""
    match answer:
        case Known() | Verdicts() | Taken() | Written():
            return Failure(Reason.REFUSED, f"a consumer answered {type(answer).__name__} out of turn")
    return answer


def _ignore(_: Answer) -> None:
    """Nothing hangs on this answer."""
