"""Fetches and saves in one process and one thread: bytes go directly from libcurl to the file.

::

    JobSource --jobs--> Store.known --ready--> Fetcher --bytes--> FileSink --drafts--> Store.commit
        ^                    |                    |                                        |
        +---- already there -+------ failures ----+-------------- verdicts ----------------+
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

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
    StoreError,
    Underway,
)
from nearfar.download.redact import redact_url
from nearfar.download.store.draft import Draft
from nearfar.download.store.partials import Resumption
from nearfar.download.store.store import Store
from nearfar.download.watched import report, underway

SMALL = 512 * 1024
"""Bytes up to which a file is buffered until it is complete, so that its temporary is written once."""
SLOW = 0.5
"""Seconds after which even a small file is written as it arrives: a kill must not cost more."""
GATHERING = 8 * 1024 * 1024
"""Bytes of all buffered files; above, even a small one is written as it arrives."""
GROUP = 256
"""Files of a commit at most; each keeps a descriptor open until then."""
GROUP_SIZE = 8 * 1024 * 1024
"""Bytes of a commit of small files."""
COMPANY = 0.2
"""Seconds that a file waits for others to be committed with it, while others are being fetched."""
UNSETTLED = 4096
"""Files fetched or being fetched, without a verdict: limits memory when hosts delay their files."""
LONGEST_WAIT = 1.0
"""Seconds between two iterations when nothing happens, for the progress display."""

log = logging.getLogger(__name__)


class FileSink:
    """The `Sink` of one transfer: buffers a small file, writes a large one as it arrives."""

    __slots__ = (
        *("_begun", "_owner", "_parts", "_size", "came", "draft", "fetched", "head", "job", "number"),
        *("over", "partial", "saved"),
    )

    def __init__(self, number: int, job: Job, owner: Downloader) -> None:
        self.number = number
        self.job = job
        self.head: Head | None = None
        self.draft: Draft | None = None
        """The draft of a large file, or of a complete one."""
        self.came = 0
        """Bytes of the present attempt."""
        self.fetched = False
        """The fetcher has ended the transfer."""
        self.over = False
        """The file has ended, although bytes may still arrive."""
        self.partial: Partial | None = None
        """The file that this transfer continues, or could continue."""
        self.saved: Saved | None = None
        """The file of an earlier download, which this transfer may replace."""
        self._owner = owner
        self._parts: list[bytes] = []
        self._size = 0
        self._begun = 0.0

    def resume(self, draft: Draft) -> None:
        """Before the transfer: continue `draft`."""
        self.draft, self.head, self.came = draft, draft.head, draft.size

    def begin(self, head: Head) -> None:
        self.head = head
        self._begun = self._owner.clock()

    def chunk(self, data: bytes) -> bool:
        size = len(data)
        self.came += size
        if self.draft is None:
            owner = self._owner
            self._parts.append(data)
            self._size += size
            owner.gathered += size
            if self._size <= SMALL and owner.gathered <= GATHERING and owner.clock() - self._begun < SLOW:
                return True
            data = self._ungather()
        return not self.over and self._write(data)

    def _write(self, data: bytes) -> bool:
        """False if that failed: the file has ended, and needs no more bytes."""
        try:
            if self.draft is None:
                assert self.head is not None, "a fetcher begins before it brings bytes"
                self.draft = self._owner.store.open(self.job, self.head)
            self.draft.write(data)
        except StoreError as error:
            self.over = True
            self._owner.fail(self, error.failure)
        return not self.over

    def _ungather(self) -> bytes:
        parts, self._parts = self._parts, []
        self._owner.gathered -= self._size
        self._size = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def restart(self) -> None:
        self.came = 0
        self._ungather()
        if self.draft is not None:
            self.draft.discard()
            self.draft = None

    def done(self, body: Body) -> None:
        self.fetched = True
        if self.over:
            return
        try:
            if self.draft is None:
                assert self.head is not None, "a fetcher begins before it is done"
                self.draft = self._owner.store.put(self.job, self.head, body, self._ungather())
            else:
                self.draft.finish(body)
        except StoreError as error:
            self.over = True
            if error.reason is Reason.CHECKSUM and body.checks is not None:
                self._owner.again(self)
            else:
                self._owner.fail(self, error.failure)
        else:
            self._owner.whole(self)

    @property
    def continuable(self) -> bool:
        """If the transfer were dropped now, another one could continue the file."""
        return self.draft is not None and self.draft.keeps and not (self.fetched or self.over)

    def leave(self) -> None:
        """The transfer was dropped: keep what another one can continue."""
        if self.draft is not None:
            self.draft.release()
            self.draft = None
        self.restart()

    def unchanged(self) -> None:
        self.fetched = True
        self.restart()
        self._owner.unchanged(self)

    def failed(self, failure: Failure) -> None:
        self.fetched = True
        if failure.reason in CONTINUABLE:
            self.leave()
        else:
            self.restart()
        if not self.over:
            self.over = True
            self._owner.fail(self, failure)


class Downloader:
    """Connects one fetcher with one store, in one thread. Closes neither.

    `jobs` transfers run at a time; more wait in the fetcher if their hosts delay them. About `ahead` jobs are
    taken in advance, so that one query asks the store about many. `refresh`: files that are saved already are
    fetched again if their servers have another version.
    """

    def __init__(
        self,
        job_source: JobSource,
        fetcher: Fetcher,
        store: Store,
        *,
        jobs: int = 16,
        ahead: int = 256,
        refresh: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.gathered = 0
        """Bytes of buffered small files."""
        self._job_source = job_source
        self._fetcher = fetcher
        self._jobs = jobs
        self._ahead = ahead
        self._refresh = refresh
        self.clock = clock
        self._ready: deque[tuple[int, Job]] = deque()
        self._partials: dict[int, Partial] = {}
        """The partial files of jobs that are ready, by the job's number."""
        self._saved: dict[int, Saved] = {}
        """The files of earlier downloads that ready jobs may replace, by the job's number."""
        self._resuming: dict[FileSink, Resumption] = {}
        """Transfers that start once their partial file was read again."""
        self._fetching: set[FileSink] = set()
        self._spoilt: list[FileSink] = []
        self._group: dict[Draft, FileSink] = {}
        self._group_size = 0
        self._due = 0.0
        """When the present group must be committed, if there is one."""
        self._stopping = self._leaving = False
        job_source.on_event = fetcher.wake
        job_source.underway = self.underway
        job_source.report = self.report

    def stop(self) -> None:
        """Start nothing more; `run` returns when the files being fetched are saved. From any thread.

        Jobs that only wait for their host are dropped, and files that another run can continue where they
        are: these have no ending then.
        """
        self._stopping = self._leaving = True
        self._fetcher.wake()

    def underway(self) -> Underway:
        """Progress of the files without a verdict."""
        sinks = (*self._fetching, *self._group.values())
        return underway(
            [(each.job, each.head, each.came) for each in sinks], "host" if self._fetching else ""
        )

    def report(self) -> Report:
        """What is under way, for a dashboard."""
        sinks = self._fetching
        return report(self._fetcher, ((sink.job, sink.head, sink.came) for sink in sinks))

    def run(self) -> None:
        """Work until every job has ended, or after `stop` until the started ones have."""
        while self.turn():
            patience = self._due - self.clock() if self._group else LONGEST_WAIT
            self._fetcher.poll(max(0.0, patience))

    def turn(self) -> bool:
        """Do what can be done now, without waiting; False when all is done."""
        if self._spoilt:
            self._drop()
        if self._leaving:
            self._leave()
        self._take()
        self._fetch()
        if self._resuming:
            self._resume()
        if self._group and self._must_commit():
            self._commit()
        self._job_source.turn()
        working = self._fetching or self._group or self._resuming
        return bool(working) or not (self._stopping or self._all_taken())

    def whole(self, sink: FileSink) -> None:
        """All bytes of a file are in its draft."""
        assert sink.draft is not None
        self._fetching.discard(sink)
        if not self._group:
            self._due = self.clock() + COMPANY
        self._group[sink.draft] = sink
        self._group_size += sink.came

    def fail(self, sink: FileSink, failure: Failure) -> None:
        """The file failed."""
        if not sink.fetched:
            self._spoilt.append(sink)
        self._fetching.discard(sink)
        self._job_source.end(sink.number, Ended(Ending.FAILED, failure))

    def unchanged(self, sink: FileSink) -> None:
        """The file of an earlier download is what the server has."""
        assert sink.saved is not None
        self._fetching.discard(sink)
        self._job_source.end(sink.number, Ended(Ending.ALREADY, sink.saved))

    def again(self, sink: FileSink) -> None:
        """A file that began with a partial one has not the digest that it must have: fetch all of it."""
        log.warning("%s: fetched from the start, its parts do not fit together", redact_url(sink.job.url))
        self._fetching.discard(sink)
        self._ready.append((sink.number, sink.job))

    def _all_taken(self) -> bool:
        return self._job_source.exhausted and not self._ready

    def _take(self) -> None:
        """Keep enough unsaved jobs ready to use all transfers."""
        while not self._stopping and len(self._ready) < self._ahead:
            batch = self._job_source.take(self._ahead)
            if not batch:
                return
            try:
                known = self.store.known([job for _, job in batch])
            except StoreError as error:
                log.warning("cannot tell what is saved already: %s", error)
                self._ready.extend(batch)
                continue
            missing = list[tuple[int, Job]]()
            for numbered, saved in zip(batch, known, strict=True):
                number, job = numbered
                if saved is not None and not (self._refresh and job.checksum is None):
                    self._job_source.end(number, Ended(Ending.ALREADY, saved))
                    continue
                missing.append(numbered)
                if saved is not None:
                    self._saved[number] = saved
            self._ready.extend(missing)
            self._look_for_partials(missing)

    def _look_for_partials(self, jobs: list[tuple[int, Job]]) -> None:
        try:
            found, _ = self.store.unfinished([job for _, job in jobs])
        except StoreError as error:
            log.warning("cannot tell what is begun already: %s", error)
            return
        for (number, _), partial in zip(jobs, found, strict=True):
            if partial is not None:
                self._partials[number] = partial

    def _fetch(self) -> None:
        ready, fetching = self._ready, self._fetching
        while (
            ready
            and not self._stopping
            and (len(fetching) + len(self._resuming) < self._jobs or self._fetcher.has_capacity)
            and len(fetching) + len(self._resuming) < UNSETTLED
        ):
            sink = FileSink(*ready.popleft(), self)
            if self._partials and (partial := self._partials.pop(sink.number, None)) is not None:
                self._begin_to_resume(sink, partial)
                continue
            fetching.add(sink)
            if self._saved:
                sink.saved = self._saved.pop(sink.number, None)
            self._fetcher.add(sink.job, sink, None, sink.saved)

    def _begin_to_resume(self, sink: FileSink, partial: Partial) -> None:
        try:
            resumption = self.store.resume(sink.job, partial.file, self._fetcher.wake)
        except StoreError as error:
            log.warning("%s cannot be continued: %s", redact_url(sink.job.url), error)
            resumption = None
        if resumption is None:
            self._fetching.add(sink)
            self._fetcher.add(sink.job, sink)
        else:
            sink.partial = partial
            self._resuming[sink] = resumption

    def _resume(self) -> None:
        """Start the transfers whose partial files were read again."""
        for sink, resumption in [each for each in self._resuming.items() if each[1].done]:
            del self._resuming[sink]
            draft = None
            try:
                draft = self.store.resumed(sink.job, resumption)
            except StoreError as error:
                log.warning("%s cannot be continued: %s", redact_url(sink.job.url), error)
            if draft is None:
                sink.partial = None
            elif sink.partial is not None:
                sink.resume(draft)
                log.info("continuing %s", sink.partial.told_of(redact_url(sink.job.url)))
            self._fetching.add(sink)
            self._fetcher.add(sink.job, sink, sink.partial)

    def _drop(self) -> None:
        """Drop the transfers whose files have failed."""
        spoilt, self._spoilt = self._spoilt, []
        for sink in spoilt:
            if not sink.fetched:
                self._fetcher.drop(sink)

    def _leave(self) -> None:
        """Drop the jobs that only wait, since a host may have asked for minutes, and the files that another
        run can continue."""
        self._resuming.clear()  # closing the store releases their files
        waiting = set(map(id, self._fetcher.give_back()))
        for sink in list(self._fetching):
            if id(sink) not in waiting:
                if not sink.continuable:
                    continue
                self._fetcher.drop(sink)
                log.info("%s: stopped, and kept to be continued", redact_url(sink.job.url))
            self._fetching.discard(sink)
            sink.leave()

    def _must_commit(self) -> bool:
        """Whether the group is large, or due, or no other file can join it."""
        full = len(self._group) >= GROUP or self._group_size >= GROUP_SIZE
        return full or not self._fetching or self.clock() >= self._due

    def _commit(self) -> None:
        group, self._group, self._group_size = self._group, {}, 0
        for draft, verdict in self.store.commit(group):
            sink = group[draft]
            self._job_source.end(sink.number, Ended(ending_of(verdict, sink.saved), verdict))
