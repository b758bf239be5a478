"""The account of a download: every line of input ends exactly once; where jobs come from, and the failures
file."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple, Protocol

from nearfar.download.input import LONGEST_LINE, Bad, Intake, Seen, digest_of, failed_line
from nearfar.download.model import Ending, Failure, Job, Reason, Saved, Underway
from nearfar.download.patterns import compile_lazily
from nearfar.download.redact import redact_url
from nearfar.download.store.names import is_page, promised
from nearfar.download.urls import resource
from nearfar.output import Output, check, open_planted, special, sweep


class Ended(NamedTuple):
    """How one job ended. `what` is its Failure exactly when `ending` is FAILED."""

    ending: Ending
    what: Saved | Failure


class Summary:
    """The counts of a run; `str` is the sentence that a person reads at its end."""

    __slots__ = ("already", "failed", "left", "saved", "size", "urls")

    def __init__(self) -> None:
        self.urls = 0
        """Every line of input that was read, duplicates and bad ones included."""
        self.saved = 0
        self.already = 0
        self.failed: Counter[Reason] = Counter()
        self.left = 0
        """Read and not ended, when a run was stopped before its end."""
        self.size = 0
        """Bytes of the files saved by this run."""

    @property
    def ended(self) -> int:
        return self.saved + self.already + self.failed.total()

    @property
    def complete(self) -> bool:
        """True if nothing failed and nothing is left."""
        return self.ended == self.urls and not self.failed

    def __str__(self) -> str:
        failed = f"{self.failed.total():,} failed"
        if self.failed:
            failed += f" ({', '.join(f'{reason} {count:,}' for reason, count in self.failed.most_common())})"
        noun = "url" if self.urls == 1 else "urls"
        text = f"{self.urls:,} {noun}: {self.saved:,} saved, {self.already:,} already there, {failed}"
        return f"{text}, {self.left:,} left" if self.left else text


class Account:
    """Keeps every job from its line to its end. Pure: no I/O, no clock.

    A line that repeats an earlier one is not fetched again. It ends as that one did: failed for the same
    reason, or already there, since one file is saved and not two.
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
        """Enter `job`; its number, or None when it repeats an earlier one and there is nothing to do."""
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
        """Enter a line that is no job: it ends at once."""
        self._counts.urls += 1
        self._counts.failed[bad.failure.reason] += 1

    def pass_by(self, lines: int) -> None:
        """Count lines that will not be processed, because the run was stopped."""
        self._counts.urls += lines
        self._passed += lines

    def end(self, number: int, ended: Ended) -> Job:
        """End the job `number`. Raises `KeyError` when it is not open, and then changes nothing."""
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
        """The counts as they are now, jobs that are open counted as left."""
        now = copy(self._counts)
        now.failed = Counter(now.failed)
        now.left = now.urls - now.ended
        return now

    def check(self) -> None:
        """Raise `AssertionError` unless what was not ended is exactly what is open, with its repeats."""
        left = self._counts.urls - self._counts.ended
        held = len(self.open) + sum(self._twins.values()) + self._passed
        if left != held or set(self._digests) != set(self.open) or len(self._twins) != len(self.open):
            raise AssertionError(f"{left} not ended, but {held} open or passed by")


_FAILED = compile_lazily(rb"([^\r\n]*\t)?# (%s): [^\r\n]*\n" % "|".join(map(re.escape, Reason)).encode())


class Failures:
    """Collects failed lines beside `path`, and gives them its name at the end.

    It has whole URLs, secrets included, since it is input again: only its owner may read it.

    Until `close`, a file of an earlier run keeps its content, so that it can be this run's input. When
    nothing failed, `close` removes it if it is a failures file (`is_own`): it speaks of a run that is over.
    Any other file stays, as does one that another run put there in the meantime. What a killed run had begun
    is removed: run again, it meets the same failures. A device, FIFO or socket gets each line at once.
    """

    def __init__(self, path: Path) -> None:
        """Raises `OSError` if `path` cannot be a file, or is a FIFO without a reader."""
        check(path)
        self.path = path
        self.count = 0
        self.trouble: OSError | None = None
        """Why the file could not be written, or an old one not be removed."""
        self._target = Path(os.path.realpath(path))
        self.passing = special(path)
        """What is written does not stay in a file."""
        self._output = Output(path, private=True) if self.passing else None
        self._earlier = _identity(path)
        if not self.passing:
            sweep(self._target)

    def add(self, entry: Job | Bad, failure: Failure) -> None:
        """Write one line. Raises nothing: what cannot be written is counted, and `trouble` says why."""
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
        """Put the file in its place, or remove an old one. One that could not be written leaves it there."""
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
    """Whether a file is a failures file and nothing else: regular, this user's alone, and every line in it
    says after its URL why that failed, as only this program writes it."""
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
    """What tells this file from another that takes its name; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


TOLD = 5
"""Pages in place of files that are told one by one; the others are counted."""

log = logging.getLogger(__name__)


class JobSource(Protocol):
    """Where a producer takes its jobs, and says how each one ended. One thread uses it."""

    on_event: Callable[[], None]
    """Called, from any thread, when there may be jobs again, or no more."""

    underway: Callable[[], Underway]
    """Set by the producer: what has come of jobs that have no ending."""

    def take(self, most: int) -> Sequence[tuple[int, Job]]:
        """Up to `most` jobs with their numbers: those that are there. Never waits."""

    @property
    def exhausted(self) -> bool:
        """True if `take` will never give another job."""

    def end(self, number: int, ended: Ended) -> None:
        """Say how a job that was taken ended."""

    def turn(self) -> None:
        """Called once in each turn of the loop, for whatever is done in batches."""


class InputJobs:
    """The `JobSource` that reads the input itself, keeps the account, and writes down failures."""

    def __init__(
        self,
        intake: Intake,
        account: Account,
        failures: Failures,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_turn` is called in each turn, for the progress."""
        self.underway: Callable[[], Underway] = Underway
        self._intake = intake
        self._account = account
        self._failures = failures
        self._on_turn = on_turn
        self.pages: Counter[str] = Counter()
        """Web pages that were saved where the name of the file promises another kind, by what it promises."""

    @property
    def on_event(self) -> Callable[[], None]:
        return self._intake.on_event

    @on_event.setter
    def on_event(self, callback: Callable[[], None]) -> None:
        self._intake.on_event = callback

    @property
    def exhausted(self) -> bool:
        return self._intake.exhausted

    def waiting(self) -> int:
        """How many lines could be taken now."""
        return self._intake.waiting()

    def take(self, most: int) -> list[tuple[int, Job]]:
        """As `JobSource.take`. Raises `OSError` when the input cannot be read."""
        jobs: list[tuple[int, Job]] = []
        while not jobs and (entries := self._intake.take(most)):
            for entry in entries:
                if isinstance(entry, Bad):
                    self._account.refuse(entry)
                    self._fail(entry, entry.failure)
                elif (number := self._account.begin(entry)) is not None:
                    jobs.append((number, entry))
        return jobs

    def end(self, number: int, ended: Ended) -> None:
        job = self._account.end(number, ended)
        if isinstance(ended.what, Failure):
            self._fail(job, ended.what)
            return
        if ended.ending is Ending.SAVED and is_page(ended.what.type):
            self._doubt(job, ended.what)
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "%s: %s as %s",
                ended.ending,
                redact_url(job.url),
                ended.what.name,
                extra={"event": "saved", "fields": {"name": ended.what.name, "size": ended.what.size}},
            )

    def turn(self) -> None:
        self._on_turn()

    def _doubt(self, job: Job, saved: Saved) -> None:
        """A page came with a status that says all is well: often that of a login, or of an error."""
        kind = promised(job.name or resource(job.url).partition("?")[0])
        if kind is None:
            return
        self.pages[kind] += 1
        if self.pages.total() <= TOLD:
            log.warning(
                "%s: a web page (%s) was saved as %s (--expect '%s' would refuse it)",
                redact_url(job.url),
                saved.type,
                saved.name,
                kind,
                extra={"event": "page"},
            )

    def _fail(self, entry: Job | Bad, failure: Failure) -> None:
        self._failures.add(entry, failure)
        # What is not written down is at least said, however quiet it is to be.
        level = logging.INFO if self._failures.trouble is None else logging.WARNING
        what = redact_url(entry.text if isinstance(entry, Bad) else entry.url)
        log.log(level, "failed (%s): %s: %s", failure.reason, what, failure.detail, extra={"event": "failed"})
