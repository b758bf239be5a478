"""The producer: takes jobs, queries the stores, fetches what they lack, and sends it to the consumers.

::

    JobSource --jobs--> SavedLookup --ready--> Fetcher --bytes--> Upload --> Batcher --> RequestQueue
        ^                   |                                       ^                      |     |
        +----- endings -----+---------------------------------------+------- verdicts -----+     v
                                                                                           RequestSender
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial

from nearfar.download.account import Ended, JobSource, ending_of
from nearfar.download.fetch.base import Fetcher
from nearfar.download.messages import AlreadySaved, Answer, File, Offer, StreamLost, Verdict
from nearfar.download.model import (
    CONTINUABLE,
    Body,
    Ending,
    Failure,
    Head,
    Job,
    Partial,
    Reason,
    Report,
    Saved,
    Underway,
)
from nearfar.download.outgoing import BEAT, SLOW, Batcher, RequestQueue, Upload
from nearfar.download.redact import redact_url
from nearfar.download.transport import RequestSender
from nearfar.download.watched import report, underway

Numbered = tuple[int, Job]


@dataclass(slots=True)
class _Round:
    """One batch, while stores are queried about it."""

    batch: Sequence[Numbered]
    asked: set[str | None] = field(default_factory=set)
    waiting: int = 0
    heard: bool = False
    """A consumer has answered."""
    missed: set[str] = field(default_factory=set)
    """Stores without a consumer when the query was sent."""
    saved: dict[int, tuple[str | None, Saved]] = field(default_factory=dict)
    """The file, and the store that has it, if it was addressed."""
    partials: dict[int, tuple[str, Partial]] = field(default_factory=dict)
    """The longest beginning of a file, and the store that has it."""


class SavedLookup:
    """Queries the stores about jobs between the input and the fetcher.

    A store that joins late is queried about the jobs in `ready`; those being fetched by then may be fetched
    although it has them.
    """

    def __init__(
        self,
        post: RequestQueue,
        stores: Callable[[], frozenset[str]],
        on_saved: Callable[[int, Job, Saved], bool],
        *,
        refresh: bool = False,
    ) -> None:
        """`on_saved` returns whether the job has ended; if not, its file may be fetched again (`refresh`)."""
        self._post = post
        self._stores = stores
        self._on_saved = on_saved
        self._refresh = refresh
        self._known: frozenset[str] = frozenset()
        self.ready: deque[Numbered] = deque()
        """Jobs that no store has."""
        self.partials: dict[int, tuple[str, Partial]] = {}
        """What stores have of ready jobs, by the job's number, with the addressee of a `Resume`."""
        self.saved: dict[int, tuple[str | None, Saved]] = {}
        """The files of ready jobs that may be fetched again, by the job's number, each with its store."""
        self.pending = 0
        """Jobs whose query is not answered yet."""

    def offer(self, batch: Sequence[Numbered]) -> None:
        """Query the known stores; if there is none, the first that joins."""
        self.pending += len(batch)
        self._ask(_Round(batch), self._stores() or {None})

    def turn(self) -> None:
        """Query stores that have just joined about the ready jobs."""
        stores = self._stores()
        new, self._known = stores - self._known, stores
        if new and self.ready:
            batch = tuple(self.ready)
            self.ready.clear()
            self.pending += len(batch)
            self._ask(_Round(batch), new)

    def _ask(self, asking: _Round, stores: Set[str | None]) -> None:
        asking.asked |= stores
        asking.waiting = len(stores)
        request = Offer(tuple(job for _, job in asking.batch), self._refresh)
        for store in stores:
            self._post.send(request, partial(self._answered, asking, store), to=store)

    def _answered(self, asking: _Round, store: str | None, answer: Answer) -> None:
        asking.waiting -= 1
        if isinstance(answer, StreamLost) and store is not None:
            asking.missed.add(store)
        else:
            asking.heard = True
        if isinstance(answer, AlreadySaved) and len(answer.saved) == len(asking.batch):
            for (number, _), saved in zip(asking.batch, answer.saved, strict=True):
                if isinstance(saved, Saved):
                    asking.saved[number] = store, saved
                elif saved is not None:
                    known = asking.partials.get(number)
                    if known is None or known[1].size < saved.size:
                        asking.partials[number] = (store or saved.store, saved)
        if asking.waiting:
            return
        if left := self._left(asking):
            self._ask(asking, left)
        else:
            self._conclude(asking)

    def _left(self, asking: _Round) -> set[str | None]:
        """The stores still to query: after a host's return, consumers may rejoin after the query was sent."""
        stores = self._stores()
        left: set[str | None] = set(stores & asking.missed)
        asking.missed.clear()
        if None in asking.asked:
            left |= stores - asking.asked
        return left if left or asking.heard else {None}

    def _conclude(self, asking: _Round) -> None:
        self.pending -= len(asking.batch)
        for number, job in asking.batch:
            if number in asking.saved and self._on_saved(number, job, asking.saved[number][1]):
                self.partials.pop(number, None)
                self.saved.pop(number, None)
                continue
            if number in asking.saved:
                self.saved[number] = asking.saved[number]
            if number in asking.partials:
                self.partials[number] = asking.partials[number]
            self.ready.append((number, job))


class TransferSink:
    """The `Sink` of one transfer: buffers a small file, sends a large one as a stream.

    `on_end` is called once: with a verdict, with the fetcher's failure, or with `StreamLost` if the file must
    be fetched again. That may be before the transfer has ended; its owner drops the transfer then.
    """

    def __init__(
        self,
        number: int,
        job: Job,
        batcher: Batcher,
        on_end: Callable[[TransferSink, Verdict | StreamLost], None],
        clock: Callable[[], float] = time.monotonic,
        saved: Saved | None = None,
        to: str | None = None,
    ) -> None:
        """`saved`: the file of an earlier download, which this transfer may replace, in the store `to`."""
        self.number = number
        self.job = job
        self.fetched = False
        """True once the fetcher has ended the transfer."""
        self.paused = False
        self.came = 0
        """Bytes of the present attempt."""
        self.head: Head | None = None
        self.saved = saved
        self._to = to
        self._batcher = batcher
        self._on_end = on_end
        self._parts: list[bytes] = []
        self._size = 0
        self._upload: Upload | None = None
        self._clock = clock
        self._begun = 0.0

    def resume(
        self, partial: Partial, to: str, start: Callable[[TransferSink, Partial | None], None]
    ) -> None:
        """Before the transfer: ask the store `to` to continue a partial file. `start` is called then, with
        the file, or with None if it cannot be continued."""

        def opened(accepted: bool) -> None:
            if accepted:
                self.came = partial.size
                self.head = Head(
                    self.job.url,
                    200,
                    None,
                    partial.length,
                    partial.etag,
                    partial.modified,
                    validator=partial.validator,
                )
            else:
                self._upload = None
            start(self, partial if accepted else None)

        self._upload = self._batcher.resume(self.job, partial, to, self._settle, opened)

    @property
    def free_slots(self) -> bool:
        return self._upload.free_slots if self._upload else self._batcher.post.free_slots

    def begin(self, head: Head) -> None:
        self.head = head
        self._begun = self._clock()

    def chunk(self, data: bytes) -> bool:
        self.came += len(data)
        if self._upload is None:
            self._gather(data)
        else:
            self._upload.write(data)
        self.paused = not self.free_slots
        if self.paused and self._upload is not None:
            self._upload.push()
        return not self.paused

    def _gather(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        self._batcher.gathered += len(data)
        if not self._batcher.fits(self._size) or self._clock() - self._begun >= SLOW:
            assert self.head is not None, "a fetcher begins before it brings bytes"
            self._upload = self._batcher.upload(self.job, self.head, self._settle, to=self._to)
            for part in self._ungather():
                self._upload.write(part)

    def _ungather(self) -> list[bytes]:
        parts, self._parts = self._parts, []
        self._batcher.gathered -= self._size
        self._size = 0
        return parts

    def restart(self) -> None:
        self._give_up(keep=False)

    def _give_up(self, *, keep: bool) -> None:
        self.came = 0
        self._ungather()
        if self._upload is not None:
            self._upload.abandon(keep=keep)
            self._upload = None

    @property
    def continuable(self) -> bool:
        """If the transfer were dropped now, another one could continue the file."""
        kept = self.head is not None and self.head.validator is not None and self._upload is not None
        return kept and not self.fetched

    def leave(self) -> None:
        """The transfer was dropped; a consumer keeps what another transfer can continue."""
        self.fetched = True
        self._give_up(keep=True)

    def done(self, body: Body) -> None:
        self.fetched = True
        if self._upload is not None:
            self._upload.finish(body)
            return
        assert self.head is not None, "a fetcher begins before it is done"
        parts = self._ungather()
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._batcher.send(File(self.job, self.head, body, data), self._settle, to=self._to)

    def unchanged(self) -> None:
        assert self.saved is not None
        self.fetched = True
        self._give_up(keep=False)
        self._on_end(self, self.saved)

    def failed(self, failure: Failure) -> None:
        self.fetched = True
        self._give_up(keep=failure.reason in CONTINUABLE)
        self._on_end(self, failure)

    def _settle(self, verdict: Verdict | StreamLost) -> None:
        self._ungather()
        self._on_end(self, verdict)


BATCH = 500
"""Jobs of one offer."""
UNSETTLED = 4096
"""Files fetched or being fetched, without a verdict: limits memory when files are tiny."""
TRIES = 5
"""Times that a file is fetched if its consumer is lost each time."""
LONELY = 5.0
"""Seconds without any consumer after which a warning is logged."""
LONGEST_WAIT = 1.0
"""Seconds between two iterations when nothing happens, for the progress display."""

log = logging.getLogger(__name__)


class Producer:
    """Runs one fetcher, in one thread. Closes neither the fetcher nor the request sender.

    `jobs` transfers run at a time; more wait in the fetcher if their hosts delay them. About `ahead` jobs are
    taken in advance, to query the stores about them. `refresh`: files that are saved already are fetched
    again if their servers have another version.
    """

    def __init__(
        self,
        job_source: JobSource,
        fetcher: Fetcher,
        request_sender: RequestSender,
        *,
        jobs: int = 16,
        ahead: int = BATCH,
        refresh: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job_source = job_source
        self._fetcher = fetcher
        self._jobs = jobs
        self._ahead = ahead
        self._refresh = refresh
        self._clock = clock
        self._stores = request_sender.stores
        self._post = RequestQueue(request_sender)
        self._batcher = Batcher(self._post)
        self._offers = SavedLookup(self._post, request_sender.stores, self._known, refresh=refresh)
        self._transfer_sinks: set[TransferSink] = set()
        self._fetching: set[TransferSink] = set()
        self._resuming: set[TransferSink] = set()
        """Transfers that start once a store has read their partial file again."""
        self._losses: dict[int, int] = {}
        """How often a job's consumer was lost since its file got further, by the job's number."""
        self._furthest: dict[int, int] = {}
        """The bytes of it that were durable then."""
        self._before: dict[int, Saved] = {}
        """The files of jobs that have not ended, as they were before this run, by the job's number."""
        self._stopping = self._leaving = False
        self._alone_since: float | None = clock()
        """Since when there is no consumer; None if there was one, or the warning was logged."""
        request_sender.on_event = job_source.on_event = fetcher.wake
        job_source.underway = self.underway
        job_source.report = self.report

    @property
    def on_way(self) -> int:
        """Bytes waiting to be sent, or sent and not answered."""
        return self._post.held

    def underway(self) -> Underway:
        """Progress of the files without a verdict."""
        if self._resuming or any(
            not (transfer_sink.paused or transfer_sink.fetched) for transfer_sink in self._fetching
        ):
            waits_for = "host"
        else:
            waits_for = "consumer" if self._transfer_sinks or self._offers.pending else ""
        return underway([(each.job, each.head, each.came) for each in self._transfer_sinks], waits_for)

    def report(self) -> Report:
        """What is under way, for a dashboard."""
        sinks = self._transfer_sinks
        return report(self._fetcher, ((sink.job, sink.head, sink.came) for sink in sinks))

    def stop(self) -> None:
        """As `finish`, and drop the jobs that only wait for their host, and the files that another run can
        continue where they are: these have no ending then."""
        self._leaving = True
        self.finish()

    def finish(self) -> None:
        """Start nothing more; `run` returns when the started files have their verdicts.

        May be called from another thread, or from a signal handler; so may `stop`.
        """
        self._stopping = True
        self._fetcher.wake()

    def run(self) -> None:
        """Work until every job has ended, or after `stop` until the started ones have.

        Raises what the request sender raises (`QueueLost`); jobs without an ending are still open then.
        """
        while self.turn():
            self._fetcher.poll(self._patience())

    def turn(self) -> bool:
        """Do what can be done now, without waiting; False when all is done. Raises as `run`."""
        self._look_for_company()
        self._post.turn()
        self._offers.turn()
        self._resume()
        if self._leaving:
            self._leave()
        self._take()
        self._fetch()
        self._batcher.turn(self._clock(), last=not self._fetching)
        self._job_source.turn()
        return bool(self._transfer_sinks) or not (self._stopping or self._all_taken())

    def _look_for_company(self) -> None:
        if self._alone_since is None:
            return
        if self._stores():
            self._alone_since = None
        elif self._clock() - self._alone_since >= LONELY:
            self._alone_since = None
            fields = {"waits_for": "consumer"}
            log.warning(
                "no consumer has come to the queue yet: waiting for one",
                extra={"event": "waiting", "fields": fields},
            )

    def _all_taken(self) -> bool:
        return self._job_source.exhausted and not self._offers.ready and not self._offers.pending

    def _patience(self) -> float:
        deadline, longest = self._batcher.deadline(), BEAT if self._batcher.has_uploads else LONGEST_WAIT
        return longest if deadline is None else max(0.0, min(longest, deadline - self._clock()))

    def _take(self) -> None:
        """Keep an offer ahead of the fetcher, so that it never waits for a query."""
        while not self._stopping and len(self._offers.ready) + self._offers.pending < self._ahead:
            batch = self._job_source.take(self._ahead)
            if not batch:
                return
            self._offers.offer(batch)

    def _fetch(self) -> None:
        while (
            self._offers.ready
            and not self._stopping
            and (len(self._fetching) + len(self._resuming) < self._jobs or self._fetcher.has_capacity)
            and len(self._transfer_sinks) < UNSETTLED
            and self._post.free_slots
        ):
            number, job = self._offers.ready.popleft()
            to, saved = self._offers.saved.pop(number, (None, None))
            if len(self._stores()) < 2:
                to = None
            transfer_sink = TransferSink(
                number, job, self._batcher, self._ended, self._clock, saved=saved, to=to
            )
            self._transfer_sinks.add(transfer_sink)
            if number in self._offers.partials:
                to, partial_file = self._offers.partials.pop(number)
                self._note_progress(number, partial_file)
                self._resuming.add(transfer_sink)
                transfer_sink.resume(partial_file, to, self._start)
            else:
                self._start(transfer_sink, None)

    def _note_progress(self, number: int, partial_file: Partial) -> None:
        """A file that gets further between two losses of a consumer is not given up."""
        if number in self._losses and partial_file.size > self._furthest.get(number, 0):
            self._losses[number] = 1
            self._furthest[number] = partial_file.size

    def _start(self, transfer_sink: TransferSink, partial_file: Partial | None) -> None:
        self._resuming.discard(transfer_sink)
        if partial_file is not None:
            log.info("continuing %s", partial_file.told_of(redact_url(transfer_sink.job.url)))
        if transfer_sink in self._transfer_sinks:
            self._fetching.add(transfer_sink)
            self._fetcher.add(transfer_sink.job, transfer_sink, partial_file, transfer_sink.saved)

    def _leave(self) -> None:
        """Drop the jobs that only wait, since a host may have asked for minutes, and the files that another
        run can continue."""
        waiting = set(map(id, self._fetcher.give_back()))
        for transfer_sink in (*self._fetching, *self._resuming):
            if transfer_sink in self._fetching and id(transfer_sink) not in waiting:
                if not transfer_sink.continuable:
                    continue
                self._fetcher.drop(transfer_sink)
                log.info("%s: stopped, and kept to be continued", redact_url(transfer_sink.job.url))
            self._resuming.discard(transfer_sink)
            self._fetching.discard(transfer_sink)
            self._transfer_sinks.discard(transfer_sink)
            transfer_sink.leave()

    def _resume(self) -> None:
        done = [transfer_sink for transfer_sink in self._fetching if transfer_sink.fetched]
        self._fetching.difference_update(done)
        for transfer_sink in self._fetching:
            if transfer_sink.paused and transfer_sink.free_slots:
                transfer_sink.paused = False
                self._fetcher.resume(transfer_sink)

    def _known(self, number: int, job: Job, saved: Saved) -> bool:
        """A store has the file; returns whether that ends the job."""
        lost = number in self._losses  # the consumer may have saved it nevertheless
        if self._refresh and job.checksum is None and not (lost and saved != self._before.get(number)):
            self._before[number] = saved
            return False
        self._losses.pop(number, None)
        self._before.pop(number, None)
        self._job_source.end(number, Ended(Ending.SAVED if lost else Ending.ALREADY, saved))
        return True

    def _ended(self, transfer_sink: TransferSink, verdict: Verdict | StreamLost) -> None:
        self._transfer_sinks.discard(transfer_sink)
        if not transfer_sink.fetched:
            self._fetching.discard(transfer_sink)
            self._fetcher.drop(transfer_sink)
        if isinstance(verdict, StreamLost):
            self._again(transfer_sink)
        else:
            self._losses.pop(transfer_sink.number, None)
            self._furthest.pop(transfer_sink.number, None)
            before = self._before.pop(transfer_sink.number, None)
            self._job_source.end(transfer_sink.number, Ended(ending_of(verdict, before), verdict))

    def _again(self, transfer_sink: TransferSink) -> None:
        """The consumer was lost before it confirmed the file: it is fetched again unless it is saved."""
        losses = self._losses[transfer_sink.number] = self._losses.get(transfer_sink.number, 0) + 1
        url = redact_url(transfer_sink.job.url)
        log.warning(
            "lost with its consumer, to be fetched again: %s",
            url,
            extra={"event": "lost", "fields": {"url": url, "attempt": losses}},
        )
        if losses < TRIES:
            self._offers.offer([(transfer_sink.number, transfer_sink.job)])
        else:
            failure = Failure(Reason.DISK, f"lost with its consumer {losses} times")
            self._job_source.end(transfer_sink.number, Ended(Ending.FAILED, failure))
