"""Fetched bytes to be sent: small files in batches, large ones in streams, and the answers to requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nearfar.download.messages import (
    Abandon,
    AlreadySaved,
    Answer,
    ChunkAck,
    Finish,
    Open,
    Request,
    Resume,
    StreamAccepted,
    StreamChunk,
    Verdict,
    Verdicts,
    decode_answer,
    encode,
)
from nearfar.download.model import Body, Failure, Reason, StreamLost
from nearfar.download.transport import RequestSender, Undeliverable
from nearfar.errors import ProtocolError

ROOM = 16 * 1024 * 1024
"""Bytes in flight of one producer: enough to keep consumers busy, and little for any machine."""

OnAnswer = Callable[[Answer], None]


@dataclass(frozen=True, slots=True)
class _PendingRequest:
    request: Request
    to: str | None
    size: int
    on_answer: OnAnswer


class RequestQueue:
    """Sends requests in order, and passes each answer to the callback of its request.

    `held` counts bytes from the moment they are stored here until their request is answered. No bytes are
    refused: the caller checks `free_slots` first, and pauses its source.
    """

    def __init__(self, request_sender: RequestSender, room: int = ROOM) -> None:
        self._request_sender = request_sender
        self._room = room
        self._waiting: dict[str | None, deque[_PendingRequest]] = {}
        self._asked: dict[int, _PendingRequest] = {}
        self.held = 0

    @property
    def free_slots(self) -> bool:
        return self.held < self._room

    def hold(self, size: int) -> None:
        """Count `size` bytes that will be sent (negative: that were given up)."""
        self.held += size

    def send(self, request: Request, on_answer: OnAnswer, *, to: str | None = None, size: int = 0) -> None:
        """Send when there is room. `size` bytes counted for it are released with its answer.

        An unreachable addressee yields the answer `StreamLost`. An invalid answer becomes a `Failure`.
        """
        parcel = _PendingRequest(request, to, size, on_answer)
        if to in self._waiting or not self._hand_over(parcel):
            self._waiting.setdefault(to, deque()).append(parcel)

    def turn(self) -> None:
        """Process the answers received, then send what waited for room."""
        for ticket, value in self._request_sender.answers():
            parcel = self._asked.pop(ticket, None)
            if parcel is not None:
                self.held -= parcel.size
                parcel.on_answer(_read(value))
        for to, queue in list(self._waiting.items()):
            while queue and self._hand_over(queue[0]):
                queue.popleft()
            if not queue:
                del self._waiting[to]

    def _hand_over(self, parcel: _PendingRequest) -> bool:
        ticket = self._request_sender.send(encode(parcel.request), to=parcel.to)
        if ticket is None:
            return False
        self._asked[ticket] = parcel
        return True


def _read(value: object) -> Answer:
    if isinstance(value, Undeliverable):
        return StreamLost()
    try:
        return decode_answer(value)
    except ProtocolError as error:
        return Failure(Reason.REJECTED, f"a consumer's answer cannot be read: {error}")


CHUNK = 1024 * 1024
"""Bytes of a message: large compared with its overhead, small compared with `STREAM_ROOM`."""
STREAM_ROOM = 8 * 1024 * 1024
"""Bytes in flight of one file."""
KEEPALIVE = 0.25
"""Seconds after which less than a `CHUNK` is sent, or no bytes at all: a kill of the producer must not cost
more, and the consumer can tell a slow server from a killed producer."""


class Upload:
    """Sends one body. `settle` is called once, with its verdict, or with `StreamLost` if it must start again.

    Requests wait here until a consumer has accepted the stream: before that, their addressee is unknown.
    """

    def __init__(
        self,
        post: RequestQueue,
        stream: str,
        opening: Open | Resume,
        settle: Callable[[Verdict | StreamLost], None],
        *,
        to: str | None = None,
        offset: int = 0,
        on_opened: Callable[[bool], None] | None = None,
    ) -> None:
        """`to`: the store that must accept it; `offset`: the position of the first byte in the file.

        `on_opened` is told whether the stream was accepted; if not, nothing else follows.
        """
        self._post = post
        self._stream = stream
        self._settle = settle
        self._taker: str | None = None
        self._early: list[tuple[Request, OnAnswer, int]] = []
        self._gathered: list[bytes] = []
        self._gathered_size = 0
        self._offset = offset
        self._on_opened = on_opened
        self._on_way = 0
        self._unanswered = 0
        self._sent_at: float | None = None
        """When the last chunk was sent; None: since the last `turn`."""
        self.over = False
        post.send(opening, self._opened, to=to)

    keeps = True

    @property
    def free_slots(self) -> bool:
        return self._on_way < STREAM_ROOM and self._post.free_slots

    def write(self, data: bytes) -> None:
        """Send `data` after the previous bytes; small pieces are buffered."""
        if self.over:
            return
        self._gathered.append(data)
        self._gathered_size += len(data)
        self._on_way += len(data)
        self._post.hold(len(data))
        if self._gathered_size >= CHUNK:
            self.push()

    def push(self) -> None:
        """Send the buffered bytes. A source that pauses must call this, or room may never become free."""
        if self._gathered:
            data, self._gathered = b"".join(self._gathered), []
            self._gathered_size = 0
            self._send_chunk(data)

    def _send_chunk(self, data: bytes) -> None:
        size = len(data)
        self._sent_at = None
        self._unanswered += 1
        self._send(StreamChunk(self._stream, self._offset, data), partial(self._written, size), size)
        self._offset += size

    def turn(self, now: float) -> None:
        """Send what has waited for `KEEPALIVE` seconds, or else, if none is in flight, an empty chunk."""
        if self._taker is None or self.over:
            return
        if self._sent_at is None:
            self._sent_at = now
        elif now - self._sent_at >= KEEPALIVE:
            self.push()
            if not self._unanswered:
                self._send_chunk(b"")

    def finish(self, body: Body) -> None:
        """Mark the end of the body."""
        self.push()
        # Until the answer, `turn` sends no empty chunk: the consumer would take it for one of a lost stream.
        self._unanswered += 1
        self._send(Finish(self._stream, body), self._finished)

    def abandon(self, *, keep: bool = False) -> None:
        """Give up the file; `settle` will not be called. `keep`: another transfer may continue it."""
        if self.over:
            return
        if keep:
            self.push()
        self._give_up()
        if self._taker is not None:
            self._post.send(Abandon(self._stream, keep), _ignore, to=self._taker)

    def _send(self, request: Request, on_answer: OnAnswer, size: int = 0) -> None:
        if self.over:
            self._post.hold(-size)
        elif self._taker is None:
            self._early.append((request, on_answer, size))
        else:
            self._post.send(request, on_answer, to=self._taker, size=size)

    def _opened(self, answer: Answer) -> None:
        match answer:
            case StreamAccepted(by) if self.over:
                # What it resumed may be resumed once more.
                self._post.send(Abandon(self._stream, self._on_opened is not None), _ignore, to=by)
            case StreamAccepted(by):
                self._taker = by
                if self._on_opened is not None:
                    self._on_opened(True)
                early, self._early = self._early, []
                for request, on_answer, size in early:
                    self._send(request, on_answer, size)
            case _ if self._on_opened is not None:
                if not self.over:
                    self._give_up()
                    self._on_opened(False)
            case _:
                self._end(answer)

    def _written(self, size: int, answer: Answer) -> None:
        self._on_way -= size
        self._unanswered -= 1
        if not isinstance(answer, ChunkAck):
            self._end(answer)

    def _finished(self, answer: Answer) -> None:
        match answer:
            case Verdicts(verdicts=(verdict,)):
                self._end(verdict)
            case _:
                self._end(answer)

    def _end(self, answer: Answer | Verdict) -> None:
        if self.over:
            return
        self._give_up()
        self._settle(verdict_of(answer))

    def _give_up(self) -> None:
        self.over = True
        self._post.hold(-self._gathered_size - sum(size for _, _, size in self._early))
        self._gathered, self._early, self._gathered_size = [], [], 0


def verdict_of(answer: Answer | Verdict) -> Verdict | StreamLost:
    """`answer` as a verdict; any other kind of answer is a failure."""
    match answer:
        case AlreadySaved() | Verdicts() | StreamAccepted() | ChunkAck():
            return Failure(Reason.REJECTED, f"a consumer answered {type(answer).__name__} out of turn")
    return answer


def _ignore(_: Answer) -> None:
    """Ignore an answer that has no effect."""
