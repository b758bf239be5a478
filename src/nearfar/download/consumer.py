"""The consumer: receives files, stores them, and answers once they are safe."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from nearfar.download.messages import (
    Abandon,
    AlreadySaved,
    Answer,
    ChunkAck,
    File,
    Files,
    Finish,
    Offer,
    Open,
    Request,
    StreamAccepted,
    StreamChunk,
    StreamLost,
    Verdict,
    Verdicts,
    decode,
    encode_answer,
)
from nearfar.download.model import Failure, Reason, Saved, StoreError, Underway
from nearfar.download.store.draft import Draft
from nearfar.download.store.store import Store
from nearfar.download.transport import IncomingRequest, RequestReceiver
from nearfar.errors import ProtocolError, ShutDown

FORGOTTEN = 900.0
"""Seconds without a word after which a stream's producer counts as gone. Were it only slow, it would hear
`StreamLost` and send the file again."""


@dataclass(slots=True)
class _Stream:
    draft: Draft
    heard: float


class Streams:
    """Open streams by their id. `now` is a time in seconds of any one clock."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._streams: dict[str, _Stream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, stream: str) -> bool:
        return stream in self._streams

    @property
    def size(self) -> int:
        """Bytes that have come of all."""
        return sum(stream.draft.size for stream in self._streams.values())

    @property
    def files(self) -> float:
        """How many whole files they amount to, where lengths are announced."""
        drafts = [stream.draft for stream in self._streams.values()]
        return sum(min(1.0, each.size / each.head.length) for each in drafts if each.head.length)

    def open(self, request: Open, now: float) -> Failure | None:
        """Start a draft; None if that went well. A second request for the same stream starts it afresh."""
        self.abandon(request.stream)
        try:
            draft = self._store.open(request.job, request.head)
        except StoreError as error:
            return error.failure
        self._streams[request.stream] = _Stream(draft, now)
        return None

    def write(self, request: StreamChunk, now: float) -> ChunkAck | StreamLost | Failure:
        stream = self._streams.get(request.stream)
        if stream is None:
            return StreamLost()
        stream.heard = now
        if request.offset != stream.draft.size:
            self.abandon(request.stream)
            detail = f"{stream.draft.size} bytes came, the next say they follow {request.offset}"
            return Failure(Reason.TRUNCATED, detail)
        try:
            stream.draft.write(request.data)
        except StoreError as error:
            del self._streams[request.stream]
            return error.failure
        return ChunkAck()

    def finish(self, request: Finish) -> Draft | StreamLost | Failure:
        """Hand out the draft, finished: the stream is over."""
        stream = self._streams.pop(request.stream, None)
        if stream is None:
            return StreamLost()
        try:
            stream.draft.finish(request.body)
        except StoreError as error:
            return error.failure
        return stream.draft

    def abandon(self, stream: str) -> None:
        """Drop a stream and what came of it."""
        known = self._streams.pop(stream, None)
        if known is not None:
            known.draft.discard()

    def forget_silent(self, now: float) -> None:
        """Abandon the streams that were not heard of for `FORGOTTEN` seconds."""
        silent = [name for name, stream in self._streams.items() if now - stream.heard > FORGOTTEN]
        for name in silent:
            self.abandon(name)


GROUP = 256
"""Files of a commit at most; each keeps a descriptor open until then."""
GROUP_SIZE = 8 * 1024 * 1024
"""Bytes of a commit of small files: half of what a producer sends unanswered, so that it need not pause."""
COMPANY = 0.05
"""Seconds that a file waits for others to be committed with: a commit itself costs as much as six files."""
LONGEST_WAIT = 1.0
"""Seconds between two turns when nothing comes, for a stop and for the progress display."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Received:
    """What one consumer did; `str` is the sentence for its end."""

    saved: int = 0
    size: int = 0
    """Bytes of the saved files."""
    failed: Counter[Reason] = field(default_factory=Counter)

    def count(self, verdict: Verdict) -> None:
        if isinstance(verdict, Failure):
            self.failed[verdict.reason] += 1
        else:
            self.saved += 1
            self.size += verdict.size

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.failed.most_common())
        failed = f", {self.failed.total():,} failed ({reasons})" if self.failed else ""
        return f"{self.saved:,} saved ({self.size:,} bytes){failed}"


@dataclass(slots=True)
class _Waiting:
    """A request whose files are in the present group: answered when each has its verdict."""

    incoming: IncomingRequest
    verdicts: list[Verdict | None]

    def answer(self) -> None:
        verdicts = tuple(verdict for verdict in self.verdicts if verdict is not None)
        assert len(verdicts) == len(self.verdicts), "a commit gives every draft a verdict"
        self.incoming.answer(encode_answer(Verdicts(verdicts)))


class Consumer:
    """Drives one store from one inbound, in one thread. Closes neither.

    A group of files is committed, and answered, when it is large, when its first file has waited for
    `COMPANY`, or when no other file can come soon. What fails is answered with its failure, and the
    consumer goes on.
    """

    def __init__(
        self,
        request_receiver: RequestReceiver,
        store: Store,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self.received = Received()
        self._request_receiver = request_receiver
        self._store = store
        self._clock = clock
        self._on_turn = on_turn
        self._streams = Streams(store)
        self._group: list[tuple[Draft, _Waiting, int]] = []
        self._group_size = 0
        self._incoming: list[_Waiting] = []
        self._due = 0.0
        """When the present group must be committed, if a request waits for it."""
        self._kept_back: list[IncomingRequest] = []
        self._stopping = False

    def stop(self) -> None:
        """Finish the files in hand; `run` returns then. From another thread or a signal handler.

        Other messages are kept back without an answer, so that they go to another consumer.
        """
        self._stopping = True

    @property
    def in_hand(self) -> int:
        """Large files that are coming in."""
        return len(self._streams)

    @property
    def underway(self) -> Underway:
        """What has come of the files that are not saved yet; of a large one, whose producer has to go on."""
        size = self._streams.size + sum(draft.size for draft, _, _ in self._group)
        return Underway(size, self._streams.files, "producer" if len(self._streams) else "")

    def run(self) -> None:
        """Work until the counted end, or `stop`.

        Raises what the inbound raises: `ProducerLost` at an end that was not announced by all, `QueueLost`.
        What was received whole before is saved first.
        """
        try:
            while not self._stopping or self._streams:
                self.turn()
        except ShutDown:
            log.debug("every producer said goodbye")
        finally:
            self._commit()

    def turn(self) -> None:
        """Receive one message and act on it; commit when it is time. Raises as `run`, and `ShutDown`."""
        self._on_turn()
        incoming = self._request_receiver.receive(self._patience())
        if incoming is not None:
            self._handle(incoming)
        else:
            self._streams.forget_silent(self._clock())
        full = len(self._group) >= GROUP or self._group_size >= GROUP_SIZE
        if incoming is None or full or not self._patience():
            self._commit()

    def _patience(self) -> float:
        return max(0.0, self._due - self._clock()) if self._incoming else LONGEST_WAIT

    def _handle(self, incoming: IncomingRequest) -> None:
        try:
            request = decode(incoming.message)
        except ProtocolError as error:
            log.warning("dropped a message: %s", error)
            incoming.answer(encode_answer(Failure(Reason.REFUSED, f"the consumer cannot read it: {error}")))
            return
        if self._stopping and not self._in_hand(request):
            self._kept_back.append(incoming)
            return
        match request:
            case Files(files, last):
                self._keep(incoming, files)
                if last:
                    self._due = self._clock()
            case Finish():
                self._finish(incoming, request)
                if not self._streams:
                    self._due = self._clock()
            case _:
                incoming.answer(encode_answer(self._reply(request)))

    def _in_hand(self, request: Request) -> bool:
        """True for what concerns a stream that is open here."""
        return isinstance(request, StreamChunk | Finish | Abandon) and request.stream in self._streams

    def _reply(self, request: Offer | Open | StreamChunk | Abandon) -> Answer:
        """What can be answered at once."""
        match request:
            case Offer(jobs):
                try:
                    return AlreadySaved(tuple(self._store.known(jobs)))
                except StoreError as error:
                    return error.failure
            case Open():
                # The name may be another than before: a consumer that was cut off comes back under a new one.
                return self._streams.open(request, self._clock()) or StreamAccepted(
                    self._request_receiver.name
                )
            case StreamChunk():
                return self._streams.write(request, self._clock())
            case Abandon(stream):
                self._streams.abandon(stream)
                return ChunkAck()

    def _keep(self, incoming: IncomingRequest, files: tuple[File, ...]) -> None:
        waiting = self._wait(incoming, len(files))
        for index, (file, saved) in enumerate(zip(files, self._before(incoming, files), strict=True)):
            if saved is not None:
                waiting.verdicts[index] = saved
                continue
            try:
                draft = self._store.put(file.job, file.head, file.body, file.data)
            except StoreError as error:
                self._count(waiting, index, error.failure)
                continue
            self._group.append((draft, waiting, index))
            self._group_size += len(file.data)

    def _before(self, incoming: IncomingRequest, files: tuple[File, ...]) -> list[Saved | None]:
        """The files of a message that are saved already: another consumer may have had it before."""
        if incoming.attempt > 1:
            try:
                return self._store.known([file.job for file in files])
            except StoreError as error:
                log.warning("cannot tell what is saved already: %s", error)
        return [None] * len(files)

    def _finish(self, incoming: IncomingRequest, request: Finish) -> None:
        match self._streams.finish(request):
            case StreamLost() as lost:
                incoming.answer(encode_answer(lost))
            case Failure() as failure:
                self.received.count(failure)
                incoming.answer(encode_answer(Verdicts((failure,))))
            case draft:
                self._group.append((draft, self._wait(incoming, 1), 0))

    def _wait(self, incoming: IncomingRequest, files: int) -> _Waiting:
        """Delay the answer to `letter` until its files are committed."""
        if not self._incoming:
            self._due = self._clock() + COMPANY
        waiting = _Waiting(incoming, [None] * files)
        self._incoming.append(waiting)
        return waiting

    def _commit(self) -> None:
        """Make the group safe, then answer."""
        group, self._group, self._group_size = self._group, [], 0
        incoming_requests, self._incoming = self._incoming, []
        verdicts = dict(self._store.commit([draft for draft, _, _ in group])) if group else {}
        for draft, waiting, index in group:
            self._count(waiting, index, verdicts[draft])
        for waiting in incoming_requests:
            waiting.answer()

    def _count(self, waiting: _Waiting, index: int, verdict: Verdict) -> None:
        waiting.verdicts[index] = verdict
        self.received.count(verdict)
