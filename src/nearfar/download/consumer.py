"""The consumer: receives files, stores them, and answers once they are synced to the disk."""

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
from nearfar.download.model import Failure, LargeFile, Reason, Report, Saved, StoreError, Underway
from nearfar.download.store.draft import Draft
from nearfar.download.store.store import Store
from nearfar.download.transport import IncomingRequest, RequestReceiver
from nearfar.download.watched import large_files, report
from nearfar.errors import ProtocolError, ShutDown

FORGOTTEN = 900.0
"""Seconds without a message after which a stream counts as abandoned. A producer that is only slow receives
`StreamLost`, and sends the file again."""


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
        """Bytes received of all streams."""
        return sum(stream.draft.size for stream in self._streams.values())

    @property
    def files(self) -> float:
        """The progress in whole files, where lengths are announced."""
        drafts = [stream.draft for stream in self._streams.values()]
        return sum(min(1.0, each.size / each.head.length) for each in drafts if each.head.length)

    @property
    def large(self) -> tuple[LargeFile, ...]:
        """The large files among them."""
        drafts = (stream.draft for stream in self._streams.values())
        return large_files((draft.job, draft.head, draft.size) for draft in drafts)

    def report(self) -> Report:
        """The files that are being received, for a dashboard."""
        drafts = (stream.draft for stream in self._streams.values())
        return report(None, ((draft.job, draft.head, draft.size) for draft in drafts))

    def open(self, request: Open, now: float) -> Failure | None:
        """Start a draft; return None on success. A second request for the same stream starts it again."""
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
        """Return the finished draft, and remove the stream."""
        stream = self._streams.pop(request.stream, None)
        if stream is None:
            return StreamLost()
        try:
            stream.draft.finish(request.body)
        except StoreError as error:
            return error.failure
        return stream.draft

    def abandon(self, stream: str) -> None:
        """Discard a stream and its draft."""
        known = self._streams.pop(stream, None)
        if known is not None:
            known.draft.discard()

    def forget_silent(self, now: float) -> None:
        """Abandon the streams without a message for `FORGOTTEN` seconds."""
        silent = [name for name, stream in self._streams.items() if now - stream.heard > FORGOTTEN]
        for name in silent:
            self.abandon(name)


GROUP = 256
"""Files of a commit at most; each keeps a descriptor open until then."""
GROUP_SIZE = 8 * 1024 * 1024
"""Bytes of a commit of small files: half of a producer's unanswered bytes, so that it need not pause."""
COMPANY = 0.05
"""Seconds that a file waits for others to be committed with it: a commit costs as much as six files."""
LONGEST_WAIT = 1.0
"""Seconds between two iterations when nothing arrives, to check for a stop and to show the progress."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Received:
    """What one consumer did; `str` is the summary at its end."""

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
    """Connects one store with one request receiver, in one thread. Closes neither.

    A group of files is committed, and answered, when it is large, when its first file has waited for
    `COMPANY`, or when no other file can come soon. A file that fails is answered with its failure, and the
    consumer continues.
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
        """When the present group must be committed, if a request waits for that."""
        self._kept_back: list[IncomingRequest] = []
        self._stopping = False

    def stop(self) -> None:
        """Finish the files being received; `run` returns then. From another thread or a signal handler.

        Other messages stay unanswered, so that they go to another consumer.
        """
        self._stopping = True

    @property
    def in_hand(self) -> int:
        """Large files being received."""
        return len(self._streams)

    @property
    def underway(self) -> Underway:
        """Progress of unsaved files; of a large one, the producer has to send the rest."""
        size = self._streams.size + sum(draft.size for draft, _, _ in self._group)
        waits_for = "producer" if len(self._streams) else ""
        return Underway(size, self._streams.files, waits_for, self._streams.large)

    def report(self) -> Report:
        """The files that are being received, for a dashboard."""
        return self._streams.report()

    def run(self) -> None:
        """Work until the end of the queue, or `stop`.

        Raises what the receiver raises: `ProducerLost` if a producer ended without announcing it,
        `QueueLost`. Files that were received whole before are saved first.
        """
        try:
            while not self._stopping or self._streams:
                self.turn()
        except ShutDown:
            log.debug("every producer said goodbye")
        finally:
            self._commit()

    def turn(self) -> None:
        """Receive one message and process it; commit when due. Raises as `run`, and `ShutDown`."""
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
        """True for a request about a stream that is open here."""
        return isinstance(request, StreamChunk | Finish | Abandon) and request.stream in self._streams

    def _reply(self, request: Offer | Open | StreamChunk | Abandon) -> Answer:
        """The answer to a request that can be answered at once."""
        match request:
            case Offer(jobs):
                try:
                    return AlreadySaved(tuple(self._store.known(jobs)))
                except StoreError as error:
                    return error.failure
            case Open():
                # The name may have changed: a consumer that reconnects gets a new one.
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
        """The files of a message that are saved already: another consumer may have received it before."""
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
        """Delay the answer to `incoming` until its files are committed."""
        if not self._incoming:
            self._due = self._clock() + COMPANY
        waiting = _Waiting(incoming, [None] * files)
        self._incoming.append(waiting)
        return waiting

    def _commit(self) -> None:
        """Commit the group, then answer."""
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
