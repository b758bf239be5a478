"""The consumer: receives files, stores them, and answers once they are synced to the disk."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from nearfar.download.local_store import DraftFile, LocalStore
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
    Resume,
    StreamAccepted,
    StreamChunk,
    Verdict,
    Verdicts,
    decode,
    encode_answer,
)
from nearfar.download.model import Failure, Job, Reason, Report, Saved, StoreError, StreamLost, Underway
from nearfar.download.store.draft import Draft
from nearfar.download.store.store import Store
from nearfar.download.transport import IncomingRequest, RequestReceiver
from nearfar.download.watched import Transfer, report, underway
from nearfar.errors import ProtocolError, ShutDown

COMPANY = 0.05
"""Seconds that a file waits for others to be committed with it: a commit costs as much as six files."""
FORGOTTEN = 900.0
"""Seconds without a message after which a stream counts as abandoned. A producer that is only slow receives
`StreamLost`, and sends the file again."""
SILENT = 3.0
"""Seconds without a message after which another producer may continue the file of a stream. A producer that
lives sends one more often (`outgoing.KEEPALIVE`), except over a line that needs longer for a chunk."""
LOOK = 0.1
"""Seconds between two iterations while a partial file is read again, or an offer is not answered yet."""
DEFERRED = SILENT + 2.0
"""Seconds, at most, for which an offer is not answered, because another producer may be dead that was sending
one of its files."""

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
    verdicts: list[Verdict | StreamLost | None]

    def answer(self) -> None:
        rows = [verdict for verdict in self.verdicts if isinstance(verdict, Saved | Failure)]
        lost = [verdict for verdict in self.verdicts if isinstance(verdict, StreamLost)]
        assert len(rows) + len(lost) == len(self.verdicts), "a commit gives every file a verdict"
        self.incoming.answer(encode_answer(lost[0] if lost else Verdicts.of(rows)))


@dataclass(slots=True)
class _Stream:
    """A large file that is being received."""

    file: DraftFile
    draft: Draft
    heard: float
    """When its producer was last heard."""


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
        self._files = LocalStore(store, company=COMPANY, clock=clock)
        self._streams: dict[str, _Stream] = {}
        self._incoming: list[_Waiting] = []
        """The requests about the files of the present group."""
        self._kept_back: list[IncomingRequest] = []
        self._deferred: list[tuple[float, IncomingRequest, Offer]] = []
        """Offers to be answered at this time at the latest."""
        self._stopping = False

    def stop(self) -> None:
        """Finish the files being received, and keep those that can be continued where they are; `run` returns
        then. From another thread or a signal handler.

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
        waits_for = "producer" if self._streams else ""
        whole = ((draft.job, draft.head, draft.size) for draft in self._files.group)
        return underway([*self._transfers(), *whole], waits_for)

    def report(self) -> Report:
        """The files that are being received, for a dashboard."""
        return report(None, self._transfers())

    def _transfers(self) -> list[Transfer]:
        drafts = (stream.draft for stream in self._streams.values())
        return [(draft.job, draft.head, draft.size) for draft in drafts]

    def run(self) -> None:
        """Work until the end of the queue, or `stop`.

        Raises what the receiver raises: `ProducerLost` if a producer ended without announcing it,
        `QueueLost`. Files that were received whole before are saved first.
        """
        try:
            while not self._stopping or self._streams:  # other requests stay unanswered
                self.turn()
        except ShutDown:
            log.debug("every producer said goodbye")
        finally:
            self._commit()

    def turn(self) -> None:
        """Receive one message and process it; commit when due. Raises as `run`, and `ShutDown`."""
        self._on_turn()
        if self._stopping:
            self._release([name for name, stream in self._streams.items() if stream.draft.keeps])
        incoming = self._request_receiver.receive(self._patience())
        if incoming is not None:
            self._handle(incoming)
        elif self._streams:
            self._release_silent()
        self._files.turn()
        if self._deferred:
            self._answer_deferred()
        if self._incoming and (incoming is None or self._files.due):
            self._commit()

    def _patience(self) -> float:
        patience = self._files.patience()
        return min(LOOK, patience) if self._deferred or self._files.looks else patience

    def _release_silent(self) -> None:
        """Nothing waits to be received: end the streams of producers that are silent for too long."""
        now = self._clock()
        silent = {name: each for name, each in self._streams.items() if now - each.heard > SILENT}
        if not silent:
            return
        wanted: set[str] = set()
        try:
            wanted = self._store.wanted()
        except StoreError as error:
            log.warning("cannot tell which files are asked for: %s", error)
        for name, each in silent.items():
            if each.draft.recorded in wanted or now - each.heard > FORGOTTEN:
                self._release([name])

    def _release(self, streams: Iterable[str]) -> None:
        """End these streams: another transfer may continue their files."""
        for stream in streams:
            self._streams.pop(stream).file.abandon(keep=True)

    def _handle(self, incoming: IncomingRequest) -> None:
        try:
            request = decode(incoming.message)
        except ProtocolError as error:
            log.warning("dropped a message: %s", error)
            incoming.answer(encode_answer(Failure(Reason.REJECTED, f"the consumer cannot read it: {error}")))
            return
        if self._stopping and not self._in_hand(request):
            self._kept_back.append(incoming)
            return
        match request:
            case Offer():
                self._answer_offer(incoming, request)
            case Resume():
                self._resume(incoming, request)
            case Files(files, last):
                self._keep(incoming, files)
                if last:
                    self._commit()
            case Finish():
                self._finish(incoming, request)
                if not self._streams:
                    self._commit()
            case _:
                incoming.answer(encode_answer(self._reply(request)))

    def _in_hand(self, request: Request) -> bool:
        """True for a request about a stream that is open here."""
        return isinstance(request, StreamChunk | Finish | Abandon) and request.stream in self._streams

    def _answer_offer(self, incoming: IncomingRequest, request: Offer) -> None:
        answer, busy = self._look_up(request)
        if not busy:
            incoming.answer(encode_answer(answer))
            return
        self._deferred.append((self._clock() + DEFERRED, incoming, request))
        try:
            self._store.want(busy)
        except StoreError as error:
            log.warning("cannot ask for a partial file: %s", error)

    def _answer_deferred(self) -> None:
        now, deferred = self._clock(), self._deferred
        self._deferred = []
        for deadline, incoming, request in deferred:
            answer, busy = self._look_up(request)
            if busy and now < deadline:
                self._deferred.append((deadline, incoming, request))
            else:
                incoming.answer(encode_answer(answer))

    def _look_up(self, request: Offer) -> tuple[AlreadySaved | Failure, list[str]]:
        """What is saved or begun of the offered jobs; and their partial files that are being written."""
        try:
            found = self._store.known(request.jobs)
            missing = [index for index, saved in enumerate(found) if saved is None or request.refresh]
            jobs = [request.jobs[index] for index in missing]
            live = self._live(jobs) if self._streams else []
            partials, busy = self._store.unfinished(jobs)
        except StoreError as error:
            return error.failure, []
        begun = {index: each for index, each in zip(missing, partials, strict=True) if each is not None}
        saved = tuple(None if index in begun else each for index, each in enumerate(found))
        return AlreadySaved(saved, tuple(begun.items())), busy + live

    def _live(self, jobs: Sequence[Job]) -> list[str]:
        """The streams of these files that another transfer could continue if they ended. Those whose producer
        is silent end."""
        now, live = self._clock(), list[str]()
        files = {(self._store.key(job), job.name) for job in jobs}
        for name, stream in list(self._streams.items()):
            if stream.draft.keeps and (stream.draft.key, stream.draft.job.name) in files:
                if now - stream.heard > SILENT:
                    self._release([name])
                else:
                    live.append(name)
        return live

    def _resume(self, incoming: IncomingRequest, request: Resume) -> None:
        """Continue a partial file, once it was read again."""
        self._abandon(request.stream)

        def opened(accepted: bool) -> None:
            incoming.answer(encode_answer(self._begin(request.stream, file)))

        file = self._files.reopen(request.job, request.file, _ignore, opened)

    def _reply(self, request: Open | StreamChunk | Abandon) -> Answer:
        """The answer to a request that can be answered at once."""
        match request:
            case Open(stream, job, head):
                # A second request for the same stream starts it again.
                self._abandon(stream)
                return self._begin(stream, self._files.upload(job, head, _ignore))
            case StreamChunk():
                return self._write(request)
            case Abandon(stream, keep):
                self._abandon(stream, keep=keep)
                return ChunkAck()

    def _begin(self, stream: str, file: DraftFile) -> Answer:
        """Receive a file, if it could be opened."""
        if file.draft is None:
            return file.failure or StreamLost()
        self._streams[stream] = _Stream(file, file.draft, self._clock())
        # The name may have changed: a consumer that reconnects gets a new one.
        return StreamAccepted(self._request_receiver.name)

    def _write(self, request: StreamChunk) -> Answer:
        stream = self._streams.get(request.stream)
        if stream is None:
            return StreamLost()
        stream.heard = self._clock()
        if request.offset != stream.draft.size:
            self._abandon(request.stream)
            detail = f"{stream.draft.size} bytes came, the next say they follow {request.offset}"
            return Failure(Reason.TRUNCATED, detail)
        stream.file.write(request.data)
        if (failure := stream.file.failure) is not None:
            self._abandon(request.stream)
            return failure
        return ChunkAck()

    def _abandon(self, stream: str, *, keep: bool = False) -> None:
        """End a stream. `keep`: its bytes may be continued by another one."""
        if (known := self._streams.pop(stream, None)) is not None:
            known.file.abandon(keep=keep)

    def _keep(self, incoming: IncomingRequest, files: tuple[File, ...]) -> None:
        waiting = self._wait(incoming, len(files))
        for index, (file, saved) in enumerate(zip(files, self._before(incoming, files), strict=True)):
            if saved is not None:
                waiting.verdicts[index] = saved
            else:
                self._files.send(
                    file.job, file.head, file.body, file.data, partial(self._count, waiting, index)
                )

    def _before(self, incoming: IncomingRequest, files: tuple[File, ...]) -> list[Saved | None]:
        """The files of a message that are saved already: another consumer may have received it before."""
        if incoming.attempt > 1:
            try:
                return self._store.known([file.job for file in files])
            except StoreError as error:
                log.warning("cannot tell what is saved already: %s", error)
        return [None] * len(files)

    def _finish(self, incoming: IncomingRequest, request: Finish) -> None:
        stream = self._streams.pop(request.stream, None)
        if stream is None:
            incoming.answer(encode_answer(StreamLost()))
            return
        stream.file.settle = partial(self._count, self._wait(incoming, 1), 0)
        stream.file.finish(request.body)

    def _wait(self, incoming: IncomingRequest, files: int) -> _Waiting:
        """Delay the answer to `incoming` until its files are committed."""
        waiting = _Waiting(incoming, [None] * files)
        self._incoming.append(waiting)
        return waiting

    def _commit(self) -> None:
        """Commit the group, then answer."""
        waiting_requests, self._incoming = self._incoming, []
        self._files.flush(last=True)
        for waiting in waiting_requests:
            waiting.answer()

    def _count(self, waiting: _Waiting, index: int, verdict: Verdict | StreamLost) -> None:
        waiting.verdicts[index] = verdict
        if not isinstance(verdict, StreamLost):
            self.received.count(verdict)


def _ignore(verdict: Verdict | StreamLost) -> None:
    """Of a file that has no verdict before the end of its stream."""
