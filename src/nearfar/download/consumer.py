"""The consumer: receives files, stores them, and answers once they are synced to the disk."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

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
from nearfar.download.model import Failure, Reason, Report, Saved, StoreError, StreamLost, Underway
from nearfar.download.store.partials import Resumption
from nearfar.download.store.store import Group, Store
from nearfar.download.streams import SILENT, Streams
from nearfar.download.transport import IncomingRequest, RequestReceiver
from nearfar.download.watched import report, underway
from nearfar.errors import ProtocolError, ShutDown

COMPANY = 0.05
"""Seconds that a file waits for others to be committed with it: a commit costs as much as six files."""
LONGEST_WAIT = 1.0
"""Seconds between two iterations when nothing arrives, to check for a stop and to show the progress."""

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
    verdicts: list[Verdict | None]

    def answer(self) -> None:
        verdicts = tuple(verdict for verdict in self.verdicts if verdict is not None)
        assert len(verdicts) == len(self.verdicts), "a commit gives every draft a verdict"
        self.incoming.answer(encode_answer(Verdicts.of(verdicts)))


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
        self._group = Group(store)
        self._incoming: list[_Waiting] = []
        self._due = 0.0
        """When the present group must be committed, if a request waits for that."""
        self._kept_back: list[IncomingRequest] = []
        self._deferred: list[tuple[float, IncomingRequest, Offer]] = []
        """Offers to be answered at this time at the latest."""
        self._resuming: list[tuple[IncomingRequest, Resume, Resumption]] = []
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
        waits_for = "producer" if len(self._streams) else ""
        whole = ((draft.job, draft.head, draft.size) for draft in self._group)
        return underway([*self._streams.transfers(), *whole], waits_for)

    def report(self) -> Report:
        """The files that are being received, for a dashboard."""
        return report(None, self._streams.transfers())

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
            self._streams.release_kept()
        incoming = self._request_receiver.receive(self._patience())
        if incoming is not None:
            self._handle(incoming)
        else:
            self._let_go_of_streams()
        if self._resuming:
            self._go_on_to_resume()
        if self._deferred:
            self._answer_deferred()
        idle = incoming is None and not (self._resuming or self._deferred)
        if idle or self._group.full or (self._incoming and self._clock() >= self._due):
            self._commit()

    def _patience(self) -> float:
        longest = LOOK if self._resuming or self._deferred else LONGEST_WAIT
        return min(longest, max(0.0, self._due - self._clock())) if self._incoming else longest

    def _let_go_of_streams(self) -> None:
        """Nothing waits to be received: end the streams of producers that are silent for too long."""
        now = self._clock()
        self._streams.forget_silent(now)
        if self._streams.silent(now):
            try:
                self._streams.let_go(self._store.wanted(), now)
            except StoreError as error:
                log.warning("cannot tell which files are asked for: %s", error)

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
            files = {(self._store.key(job), job.name) for job in jobs} if len(self._streams) else set()
            self._streams.let_go_of(self._streams.of(files), self._clock())
            partials, busy = self._store.unfinished(jobs)
            busy += self._streams.of(files)
        except StoreError as error:
            return error.failure, []
        begun = {index: each for index, each in zip(missing, partials, strict=True) if each is not None}
        saved = tuple(None if index in begun else each for index, each in enumerate(found))
        return AlreadySaved(saved, tuple(begun.items())), busy

    def _resume(self, incoming: IncomingRequest, request: Resume) -> None:
        self._streams.abandon(request.stream)
        try:
            resumption = self._store.resume(request.job, request.file, lambda: None)
        except StoreError as error:
            log.warning("a file cannot be continued: %s", error)
            resumption = None
        if resumption is None:
            incoming.answer(encode_answer(StreamLost()))
        else:
            self._resuming.append((incoming, request, resumption))

    def _go_on_to_resume(self) -> None:
        """Accept the streams whose partial files were read again."""
        for each in [each for each in self._resuming if each[2].done]:
            self._resuming.remove(each)
            incoming, request, resumption = each
            try:
                draft = self._store.resumed(request.job, resumption)
            except StoreError as error:
                log.warning("a file cannot be continued: %s", error)
                draft = None
            if draft is None:
                incoming.answer(encode_answer(StreamLost()))
            else:
                self._streams.adopt(request.stream, draft, self._clock())
                incoming.answer(encode_answer(StreamAccepted(self._request_receiver.name)))

    def _reply(self, request: Open | StreamChunk | Abandon) -> Answer:
        """The answer to a request that can be answered at once."""
        match request:
            case Open():
                # The name may have changed: a consumer that reconnects gets a new one.
                return self._streams.open(request, self._clock()) or StreamAccepted(
                    self._request_receiver.name
                )
            case StreamChunk():
                return self._streams.write(request, self._clock())
            case Abandon(stream, keep):
                self._streams.abandon(stream, keep=keep)
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
            self._group.add(draft, partial(self._count, waiting, index), len(file.data))

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
                incoming.answer(encode_answer(Verdicts.of((failure,))))
            case draft:
                self._group.add(draft, partial(self._count, self._wait(incoming, 1), 0), 0)

    def _wait(self, incoming: IncomingRequest, files: int) -> _Waiting:
        """Delay the answer to `incoming` until its files are committed."""
        if not self._incoming:
            self._due = self._clock() + COMPANY
        waiting = _Waiting(incoming, [None] * files)
        self._incoming.append(waiting)
        return waiting

    def _commit(self) -> None:
        """Commit the group, then answer."""
        waiting_requests, self._incoming = self._incoming, []
        self._group.commit()
        for waiting in waiting_requests:
            waiting.answer()

    def _count(self, waiting: _Waiting, index: int, verdict: Verdict) -> None:
        waiting.verdicts[index] = verdict
        self.received.count(verdict)
