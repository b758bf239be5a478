"""The producer: takes jobs, asks where files go which are saved already, fetches the others, and sends them.

::

    JobSource --jobs--> Destination --ready--> Fetcher --bytes--> TransferSink --files--> Destination
        ^                    |                                         |                       |
        +---- already there -+----------------- failures --------------+------- verdicts ------+

The destination is the store of this process (`local_store`), or the stores of consumers (`remote_stores`).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from nearfar.download.account import Ended, JobSource, ending_of
from nearfar.download.fetch.base import Fetcher
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
    StreamLost,
    Underway,
)
from nearfar.download.redact import redact_url
from nearfar.download.watched import report, underway

Numbered = tuple[int, Job]
Settle = Callable[[Saved | Failure | StreamLost], None]


class OpenFile(Protocol):
    """A large file on its way to a destination."""

    @property
    def free_slots(self) -> bool:
        """Whether it takes more bytes now."""

    @property
    def keeps(self) -> bool:
        """Whether `abandon` can keep its bytes, if its server sent a validator."""

    def write(self, data: bytes) -> None:
        """Append `data`."""

    def push(self) -> None:
        """Process the buffered bytes. A source that pauses must call this, or room may never become free."""

    def finish(self, body: Body) -> None:
        """Mark the end of the body."""

    def abandon(self, *, keep: bool = False) -> None:
        """Give up the file: it is not settled. `keep`: another transfer may continue it."""


class Destination(Protocol):
    """Where the files of a producer go. Each `settle` is called once: with a verdict, or with `StreamLost` if
    the file must be fetched again. Inside `OpenFile.write`, `upload` and `resume` it is not called.
    """

    waits_for: str
    """See `Underway.waits_for`; empty if nothing is waited for."""
    ready: deque[Numbered]
    """Jobs that no store has."""
    partials: dict[int, tuple[str, Partial]]
    """What stores have of ready jobs, by the job's number, with the `to` of `resume`."""
    saved: dict[int, tuple[str, Saved]]
    """The files of ready jobs that may be fetched again, by the job's number, with the `to` of `send` and
    `upload`."""

    @property
    def pending(self) -> int:
        """Jobs offered that are neither ready nor saved yet."""

    @property
    def free_slots(self) -> bool:
        """Whether it takes more files now."""

    def begin(
        self,
        on_event: Callable[[], None],
        on_saved: Callable[[int, Job, Saved], bool],
        *,
        refresh: bool = False,
    ) -> None:
        """`on_event` is called, from any thread, when `turn` has something to do; `on_saved` inside `offer`
        and `turn`, with each offered job that is saved. It returns whether the job has ended: always, without
        `refresh`."""

    def offer(self, batch: Sequence[Numbered]) -> None:
        """Find out which jobs are saved or begun already."""

    def send(self, job: Job, head: Head, body: Body, data: bytes, settle: Settle, *, to: str = "") -> None:
        """Save a small file, in the store `to` if one is named."""

    def upload(self, job: Job, head: Head, settle: Settle, *, to: str = "") -> OpenFile:
        """Open a large file, in the store `to` if one is named."""

    def resume(
        self, job: Job, partial_file: Partial, to: str, settle: Settle, on_opened: Callable[[bool], None]
    ) -> OpenFile:
        """Open a partial file again. `on_opened` is told whether it can be continued; if not, nothing else
        follows."""

    def turn(self) -> None:
        """Process what has arrived. Raises `QueueLost`."""

    def flush(self, *, last: bool = False) -> None:
        """Pass on, or commit, what was sent, if it is time; `last`: nothing is being fetched."""

    def patience(self) -> float:
        """Seconds after which `flush` must be called even if nothing happens."""


SMALL = 512 * 1024
"""Bytes up to which a file is buffered until it is complete, and sent in one piece."""
SLOW = 0.5
"""Seconds after which even an unfinished small file is sent as it arrives: a kill must not cost more."""
GATHERING = 8 * 1024 * 1024
"""Bytes of unfinished small files in one producer; above, even they are sent as they arrive."""


class TransferSink:
    """The `Sink` of one transfer: buffers a small file, sends a large one as it arrives.

    The file may end before the transfer: its owner drops the transfer then.
    """

    __slots__ = (
        *("_begun", "_owner", "_parts", "_size", "_to", "_upload", "came", "fetched", "head", "job"),
        *("number", "saved", "__weakref__"),
    )

    def __init__(
        self, number: int, job: Job, owner: Producer, saved: Saved | None = None, to: str = ""
    ) -> None:
        """`saved`: the file of an earlier download, which this transfer may replace, in the store `to`."""
        self.number = number
        self.job = job
        self.fetched = False
        """True once the fetcher has ended the transfer."""
        self.came = 0
        """Bytes of the present attempt."""
        self.head: Head | None = None
        self.saved = saved
        self._to = to
        self._owner = owner
        self._parts: list[bytes] = []
        self._size = 0
        self._upload: OpenFile | None = None
        self._begun = 0.0

    def resume(self, partial: Partial, to: str) -> None:
        """Before the transfer: ask the destination to continue a partial file. The owner starts the transfer
        then, with the file, or without it if it cannot be continued."""

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
            self._owner.start(self, partial if accepted else None)

        self._upload = self._owner.destination.resume(self.job, partial, to, self.settle, opened)

    @property
    def free_slots(self) -> bool:
        return self._upload.free_slots if self._upload else self._owner.destination.free_slots

    def begin(self, head: Head) -> None:
        self.head = head
        self._begun = self._owner.clock()

    def chunk(self, data: bytes) -> bool:
        self.came += len(data)
        if self._upload is None:
            self._gather(data)
        else:
            self._upload.write(data)
        if self.free_slots:
            return True
        self._owner.pause(self)
        if self._upload is not None:
            self._upload.push()
        return False

    def _gather(self, data: bytes) -> None:
        owner, size = self._owner, len(data)
        self._parts.append(data)
        self._size += size
        owner.gathered += size
        if self._size > SMALL or owner.gathered > GATHERING or owner.clock() - self._begun >= SLOW:
            assert self.head is not None, "a fetcher begins before it brings bytes"
            self._upload = owner.destination.upload(self.job, self.head, self.settle, to=self._to)
            self._upload.write(self._ungather())

    def _ungather(self) -> bytes:
        parts, self._parts = self._parts, []
        self._owner.gathered -= self._size
        self._size = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

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
        head, upload = self.head, self._upload
        return head is not None and head.validator is not None and upload is not None and upload.keeps

    def leave(self) -> None:
        """The transfer was dropped; the destination keeps what another transfer can continue."""
        self.fetched = True
        self._give_up(keep=True)

    def done(self, body: Body) -> None:
        self.fetched = True
        self._owner.stop_fetching(self)
        if self._upload is not None:
            self._upload.finish(body)
            return
        assert self.head is not None, "a fetcher begins before it is done"
        self._owner.destination.send(self.job, self.head, body, self._ungather(), self.settle, to=self._to)

    def unchanged(self) -> None:
        assert self.saved is not None, "a fetcher was told what is saved"
        self.fetched = True
        self._owner.stop_fetching(self)
        self._give_up(keep=False)
        self.settle(self.saved)

    def failed(self, failure: Failure) -> None:
        self.fetched = True
        self._owner.stop_fetching(self)
        self._give_up(keep=failure.reason in CONTINUABLE)
        self.settle(failure)

    def settle(self, verdict: Saved | Failure | StreamLost) -> None:
        """The file has ended so."""
        self._owner.ended(self, verdict)


BATCH = 500
"""Jobs of one offer."""
UNSETTLED = 4096
"""Files fetched or being fetched, without a verdict: limits memory when files are tiny."""
TRIES = 5
"""Times that a file is fetched if its consumer is lost each time."""

log = logging.getLogger(__name__)


class Producer:
    """Connects one fetcher with one destination, in one thread. Closes neither.

    `jobs` transfers run at a time; more wait in the fetcher if their hosts delay them. About `ahead` jobs are
    taken in advance, to query the stores about them. `refresh`: files that are saved already are fetched
    again if their servers have another version.
    """

    def __init__(
        self,
        job_source: JobSource,
        fetcher: Fetcher,
        destination: Destination,
        *,
        jobs: int = 16,
        ahead: int = BATCH,
        refresh: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.destination = destination
        self.clock = clock
        self.gathered = 0
        """Bytes of unfinished small files."""
        self._job_source = job_source
        self._fetcher = fetcher
        self._jobs = jobs
        self._ahead = ahead
        self._refresh = refresh
        self._unsettled: set[TransferSink] = set()
        self._fetching: set[TransferSink] = set()
        self._paused: set[TransferSink] = set()
        """Those of them that wait for room."""
        self._resuming: set[TransferSink] = set()
        """Transfers that start once a store has read their partial file again."""
        self._losses: dict[int, int] = {}
        """How often a job's consumer was lost since its file got further, by the job's number."""
        self._furthest: dict[int, int] = {}
        """The bytes of it that were durable then."""
        self._before: dict[int, Saved] = {}
        """The files of jobs that have not ended, as they were before this run, by the job's number."""
        self._stopping = self._leaving = False
        destination.begin(fetcher.wake, self._known, refresh=refresh)
        job_source.on_event = fetcher.wake
        job_source.underway = self.underway
        job_source.report = self.report

    def underway(self) -> Underway:
        """Progress of the files without a verdict."""
        if self._resuming or len(self._fetching) > len(self._paused):
            waits_for = "host"
        else:
            waits_for = self.destination.waits_for if self._unsettled or self.destination.pending else ""
        return underway([(each.job, each.head, each.came) for each in self._unsettled], waits_for)

    def report(self) -> Report:
        """What is under way, for a dashboard."""
        return report(self._fetcher, ((sink.job, sink.head, sink.came) for sink in self._unsettled))

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

        Raises what the destination raises (`QueueLost`); jobs without an ending are still open then.
        """
        while self.turn():
            self._fetcher.poll(self.destination.patience())

    def turn(self) -> bool:
        """Do what can be done now, without waiting; False when all is done. Raises as `run`."""
        self.destination.turn()
        if self._paused:
            self._go_on()
        if self._leaving:
            self._leave()
        self._take()
        self._fetch()
        self.destination.flush(last=not self._fetching)
        self._job_source.turn()
        return bool(self._unsettled) or not (self._stopping or self._all_taken())

    def _all_taken(self) -> bool:
        return self._job_source.exhausted and not self.destination.ready and not self.destination.pending

    def _take(self) -> None:
        """Keep an offer ahead of the fetcher, so that it never waits for a query."""
        destination = self.destination
        while not self._stopping and len(destination.ready) + destination.pending < self._ahead:
            batch = self._job_source.take(self._ahead)
            if not batch:
                return
            destination.offer(batch)

    def _fetch(self) -> None:
        ready, partials, files = (
            self.destination.ready,
            self.destination.partials,
            self.destination.saved,
        )
        while (
            ready
            and not self._stopping
            and (len(self._fetching) + len(self._resuming) < self._jobs or self._fetcher.has_capacity)
            and len(self._unsettled) < UNSETTLED
            and self.destination.free_slots
        ):
            number, job = ready.popleft()
            to, saved = files.pop(number, ("", None)) if files else ("", None)
            sink = TransferSink(number, job, self, saved, to)
            self._unsettled.add(sink)
            if partials and number in partials:
                to, partial_file = partials.pop(number)
                self._note_progress(number, partial_file)
                self._resuming.add(sink)
                sink.resume(partial_file, to)
            else:
                self._fetching.add(sink)
                self._fetcher.add(job, sink, None, saved)

    def _note_progress(self, number: int, partial_file: Partial) -> None:
        """A file that gets further between two losses of a consumer is not given up."""
        if number in self._losses and partial_file.size > self._furthest.get(number, 0):
            self._losses[number] = 1
            self._furthest[number] = partial_file.size

    def start(self, sink: TransferSink, partial_file: Partial | None) -> None:
        """Start a transfer once its partial file was opened again, or cannot be."""
        self._resuming.discard(sink)
        if partial_file is not None:
            log.info("continuing %s", partial_file.told_of(redact_url(sink.job.url)))
        if sink in self._unsettled:
            self._fetching.add(sink)
            self._fetcher.add(sink.job, sink, partial_file, sink.saved)

    def pause(self, sink: TransferSink) -> None:
        """There is no room for more bytes of a transfer."""
        self._paused.add(sink)

    def _go_on(self) -> None:
        for sink in [sink for sink in self._paused if sink.free_slots]:
            self._paused.discard(sink)
            self._fetcher.resume(sink)

    def _leave(self) -> None:
        """Drop the jobs that only wait, since a host may have asked for minutes, and the files that another
        run can continue."""
        waiting = set(map(id, self._fetcher.give_back()))
        for sink in (*self._fetching, *self._resuming):
            if sink in self._fetching and id(sink) not in waiting:
                if not sink.continuable:
                    continue
                self._fetcher.drop(sink)
                log.info("%s: stopped, and kept to be continued", redact_url(sink.job.url))
            self._resuming.discard(sink)
            self.stop_fetching(sink)
            self._unsettled.discard(sink)
            sink.leave()

    def stop_fetching(self, sink: TransferSink) -> None:
        """A transfer has ended, or was dropped."""
        self._fetching.discard(sink)
        self._paused.discard(sink)

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

    def ended(self, sink: TransferSink, verdict: Saved | Failure | StreamLost) -> None:
        """A file has ended so."""
        self._unsettled.discard(sink)
        if not sink.fetched:
            self.stop_fetching(sink)
            self._fetcher.drop(sink)
        if isinstance(verdict, StreamLost):
            self._again(sink, verdict)
            return
        if self._losses:
            self._losses.pop(sink.number, None)
            self._furthest.pop(sink.number, None)
        before = self._before.pop(sink.number, None) if self._before else None
        self._job_source.end(sink.number, Ended(ending_of(verdict, before), verdict))

    def _again(self, sink: TransferSink, lost: StreamLost) -> None:
        """A file was lost before it was saved: it is fetched again, unless it is saved after all."""
        losses = self._losses[sink.number] = self._losses.get(sink.number, 0) + 1
        url = redact_url(sink.job.url)
        log.warning(
            "%s, to be fetched again: %s",
            lost.why,
            url,
            extra={"event": "lost", "fields": {"url": url, "attempt": losses}},
        )
        if losses < TRIES:
            self.destination.offer([(sink.number, sink.job)])
        else:
            failure = Failure(Reason.DISK, f"{lost.why}, {losses} times")
            self._job_source.end(sink.number, Ended(Ending.FAILED, failure))
