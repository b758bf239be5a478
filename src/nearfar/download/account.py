"""The account of a download: every line of input ends exactly once. Also job sources and the failures
file."""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple, Protocol

from nearfar.download.input import LONGEST_LINE, Bad, Intake, Seen, digest_of, failed_line
from nearfar.download.model import Ending, Failure, Job, Reason, Report, Saved, Underway
from nearfar.download.patterns import compile_lazily
from nearfar.download.redact import redact_url
from nearfar.download.store.names import is_page, promised
from nearfar.download.urls import resource
from nearfar.output import Output, check, open_planted, special, sweep


class Ended(NamedTuple):
    """How one job ended. `what` is its `Failure` exactly when `ending` is FAILED."""

    ending: Ending
    what: Saved | Failure


def ending_of(verdict: Saved | Failure, before: Saved | None) -> Ending:
    """The ending of a job with this verdict, whose file was `before` already."""
    if isinstance(verdict, Failure):
        return Ending.FAILED
    return Ending.ALREADY if verdict == before else Ending.SAVED


class Summary:
    """The counts of a run; `str` is the summary printed at its end."""

    __slots__ = ("already", "failed", "left", "saved", "size", "urls")

    def __init__(self) -> None:
        self.urls = 0
        """Lines of input that were read, duplicates and invalid ones included."""
        self.saved = 0
        self.already = 0
        self.failed: Counter[Reason] = Counter()
        self.left = 0
        """Lines that were read and had not ended when a run was stopped."""
        self.size = 0
        """Bytes of the files saved by this run."""

    @property
    def ended(self) -> int:
        return self.saved + self.already + self.failed.total()

    @property
    def complete(self) -> bool:
        """True if nothing failed and every line has ended."""
        return self.ended == self.urls and not self.failed

    def __str__(self) -> str:
        failed = f"{self.failed.total():,} failed"
        if self.failed:
            failed += f" ({', '.join(f'{reason} {count:,}' for reason, count in self.failed.most_common())})"
        noun = "url" if self.urls == 1 else "urls"
        text = f"{self.urls:,} {noun}: {self.saved:,} saved, {self.already:,} already there, {failed}"
        return f"{text}, {self.left:,} left" if self.left else text


class Account:
    """Tracks every job from its line to its end. Pure: no I/O, no clock.

    A line that repeats an earlier one is not fetched again. It ends as that one did: failed for the same
    reason, or already there, since only one file is saved.
    """

    def __init__(self) -> None:
        self.open: dict[int, Job] = {}
        """Jobs begun and not ended, by number."""
        self._digests: dict[int, bytes] = {}
        self._twins: dict[bytes, int] = {}
        self._failed: dict[bytes, Reason] = {}
        self._seen = Seen()
        self._counts = Summary()
        self._passed = 0
        self._next = 0

    def begin(self, job: Job) -> int | None:
        """Add `job`; return its number, or None if it repeats an earlier one and needs no work."""
        self._counts.urls += 1
        digest = digest_of(job)
        if not self._seen.add(digest):
            self._repeat(digest)
            return None
        self._next += 1
        self.open[self._next] = job
        self._digests[self._next] = digest
        self._twins[digest] = 0
        return self._next

    def _repeat(self, digest: bytes) -> None:
        if digest in self._twins:
            self._twins[digest] += 1
        elif digest in self._failed:
            self._counts.failed[self._failed[digest]] += 1
        else:
            self._counts.already += 1

    def refuse(self, bad: Bad) -> None:
        """Add a line that is no job: it ends at once."""
        self._counts.urls += 1
        self._counts.failed[bad.failure.reason] += 1

    def pass_by(self, lines: int) -> None:
        """Count lines that are not processed because the run was stopped."""
        self._counts.urls += lines
        self._passed += lines

    def end(self, number: int, ended: Ended) -> Job:
        """End the job `number`. Raises `KeyError`, without a change, if it is not open."""
        job = self.open.pop(number)
        digest = self._digests.pop(number)
        twins = self._twins.pop(digest)
        counts = self._counts
        if isinstance(ended.what, Failure):
            counts.failed[ended.what.reason] += 1 + twins
            self._failed[digest] = ended.what.reason
        elif ended.ending is Ending.SAVED:
            counts.saved += 1
            counts.already += twins
            counts.size += ended.what.size
        else:
            counts.already += 1 + twins
        return job

    def summary(self) -> Summary:
        """The present counts; open jobs are counted as left."""
        now = copy(self._counts)
        now.failed = Counter(now.failed)
        now.left = now.urls - now.ended
        return now

    def check(self) -> None:
        """Raise `AssertionError` unless the lines without an ending are the open jobs and their repeats."""
        left = self._counts.urls - self._counts.ended
        held = len(self.open) + sum(self._twins.values()) + self._passed
        if left != held or set(self._digests) != set(self.open) or len(self._twins) != len(self.open):
            raise AssertionError(f"{left} not ended, but {held} open or passed by")


_REASONS = "|".join(map(re.escape, (*Reason, "refused")))  # earlier versions wrote "refused" for "rejected"
_FAILED = compile_lazily(rb"([^\r\n]*\t)?# (%s): [^\r\n]*\n" % _REASONS.encode())


class Failures:
    """Collects failed lines in a temporary beside `path`, and renames it to `path` at the end.

    The file has whole URLs, secrets included, since it can be used as input: only its owner may read it.

    Until `close`, a file of an earlier run keeps its content, so that it can be this run's input. If no line
    failed, `close` removes it if it is a failures file (`is_own`), since it describes an earlier run. Any
    other file stays, as does one that another run put there in the meantime. The unfinished file of a killed
    run is removed: the next run writes its own. A device, FIFO or socket gets each line at once.
    """

    def __init__(self, path: Path) -> None:
        """Raises `OSError` if `path` cannot be a file, or is a FIFO without a reader."""
        check(path)
        self.path = path
        self.count = 0
        self.trouble: OSError | None = None
        """Why the file could not be written, or an old one could not be removed."""
        self._target = Path(os.path.realpath(path))
        self.passing = special(path)
        """`path` is a device, FIFO or socket: what is written is not stored in a file."""
        self._output = Output(path, private=True) if self.passing else None
        self._earlier = _identity(path)
        if not self.passing:
            sweep(self._target)

    def add(self, entry: Job | Bad, failure: Failure) -> None:
        """Write one line. Never raises: a line that cannot be written is counted, and sets `trouble`."""
        self.count += 1
        if self.trouble is not None:
            return
        try:
            if self._output is None:
                self._output = Output(self.path, private=True)
            self._output.file.write(failed_line(entry, failure))
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Rename the file to `path`, or remove an old one. After a write error, an old one stays."""
        try:
            if self._output is not None:
                self._output.commit()
            elif not self.count and _identity(self.path) == self._earlier and is_own(self._target):
                self._target.unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.trouble = error
        if self._output is not None:
            self._output.discard()
            self._output = None


def is_own(path: Path) -> bool:
    """Whether a file is a failures file: regular, accessible to this user only, and each line has the reason
    of the failure after its URL, in the form that this program writes."""
    try:
        with open_planted(path) as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                return False
            lines = 0
            while line := file.readline(4 * LONGEST_LINE):
                if not _FAILED.fullmatch(line):
                    return False
                lines += 1
            return lines > 0
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, int] | None:
    """Inode and modification time, which identify this file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


TOLD = 5
"""Pages in place of files that are logged individually; the others are counted."""

log = logging.getLogger(__name__)


class JobSource(Protocol):
    """Where a producer takes its jobs from, and reports how each one ended. One thread uses it."""

    on_event: Callable[[], None]
    """Called, from any thread, when there may be new jobs, or no more."""

    underway: Callable[[], Underway]
    """Set by the producer: returns the progress of the jobs that have not ended."""

    report: Callable[[], Report]
    """Set by the producer: returns what is under way, for a dashboard."""

    def take(self, most: int) -> Sequence[tuple[int, Job]]:
        """Up to `most` available jobs with their numbers. Never waits."""

    @property
    def exhausted(self) -> bool:
        """True if `take` will never return another job."""

    def end(self, number: int, ended: Ended) -> None:
        """Report how a job that was taken ended."""

    def turn(self) -> None:
        """Called once per iteration of the loop, for work that is done in batches."""


class InputJobs:
    """The `JobSource` that reads the input, keeps the account, and writes failures."""

    def __init__(
        self,
        intake: Intake,
        account: Account,
        failures: Failures,
        on_turn: Callable[[], None] = lambda: None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_turn` is called in each iteration, to show the progress. `clock`: seconds since the epoch, for
        the time at which files were saved."""
        self.underway: Callable[[], Underway] = Underway
        self.report: Callable[[], Report] = Report
        self.on_end: Callable[[Job, Ended], object] | None = None
        """Called with each job that has ended; set while a dashboard shows the hosts."""
        self._intake = intake
        self._account = account
        self._failures = failures
        self._on_turn = on_turn
        self._started = clock()
        self._again: deque[tuple[int, Job]] = deque()
        """Jobs that were given back."""
        self.handed_twice: set[int] = set()
        """The numbers of jobs that were given back, or that the caller hands out again itself."""
        self.pages: Counter[str] = Counter()
        """Web pages saved under a name that implies another media type, by that type."""

    @property
    def on_event(self) -> Callable[[], None]:
        return self._intake.on_event

    @on_event.setter
    def on_event(self, callback: Callable[[], None]) -> None:
        self._intake.on_event = callback

    @property
    def exhausted(self) -> bool:
        return self._intake.exhausted and not self._again

    def waiting(self) -> int:
        """How many jobs can be taken now, about."""
        return self._intake.waiting() + len(self._again)

    def give_back(self, jobs: Iterable[tuple[int, Job]]) -> None:
        """These jobs were taken and have not ended, because a process died: `take` returns them again."""
        for number, job in jobs:
            self._again.append((number, job))
            self.handed_twice.add(number)

    def take(self, most: int) -> list[tuple[int, Job]]:
        """As `JobSource.take`. Raises `OSError` if the input cannot be read."""
        jobs = [self._again.popleft() for _ in range(min(most, len(self._again)))]
        while not jobs and (entries := self._intake.take(most)):
            for entry in entries:
                if isinstance(entry, Bad):
                    self._account.refuse(entry)
                    self._fail(entry, entry.failure)
                elif (number := self._account.begin(entry)) is not None:
                    jobs.append((number, entry))
        return jobs

    def end(self, number: int, ended: Ended) -> None:
        if number in self.handed_twice and isinstance(ended.what, Saved) and ended.what.time >= self._started:
            # A process saved the file, and died before it reported that.
            ended = Ended(Ending.SAVED, ended.what)
        job = self._account.end(number, ended)
        if self.on_end is not None:
            self.on_end(job, ended)
        if isinstance(ended.what, Failure):
            self._fail(job, ended.what)
            return
        if ended.ending is Ending.SAVED and is_page(ended.what.type):
            self._doubt(job, ended.what)
        if log.isEnabledFor(logging.DEBUG):
            url, saved = redact_url(job.url), ended.what
            fields = {"url": url, "name": saved.name, "size": saved.size, "attempts": saved.attempts}
            event = "saved" if ended.ending is Ending.SAVED else "already"
            log.debug("%s: %s as %s", ended.ending, url, saved.name, extra={"event": event, "fields": fields})

    def turn(self) -> None:
        self._on_turn()

    def _doubt(self, job: Job, saved: Saved) -> None:
        """Warn of a page that came with a success status: it is often a login or error page."""
        kind = promised(job.name or resource(job.url).partition("?")[0])
        if kind is None:
            return
        self.pages[kind] += 1
        if self.pages.total() <= TOLD:
            url = redact_url(job.url)
            log.warning(
                "%s: a web page (%s) was saved as %s (--expect '%s' would refuse it)",
                url,
                saved.type,
                saved.name,
                kind,
                extra={"event": "page", "fields": {"url": url, "name": saved.name, "type": saved.type}},
            )

    def _fail(self, entry: Job | Bad, failure: Failure) -> None:
        self._failures.add(entry, failure)
        # A failure that cannot be written to the file is logged, however quiet the run is.
        level = logging.INFO if self._failures.trouble is None else logging.WARNING
        url = redact_url(entry.text if isinstance(entry, Bad) else entry.url)
        log.log(
            level,
            "failed (%s): %s: %s",
            failure.reason,
            url,
            failure.detail,
            extra={"event": "failed", "fields": {"url": url, **failure._asdict()}},
        )
