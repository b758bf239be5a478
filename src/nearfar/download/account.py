"""The conservation law: every line of input ends exactly once, and the counts add up to the input."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from nearfar.download.lines import Bad
from nearfar.download.model import Ending, Failure, Job, Reason, Saved
from nearfar.download.seen import Seen, digest_of


class Ended(NamedTuple):
    """How one job ended. `what` is its Failure exactly when `ending` is FAILED."""

    ending: Ending
    what: Saved | Failure


@dataclass(slots=True)
class Summary:
    """The counts of a run; `str` is the sentence that a person reads at its end."""

    urls: int = 0
    """Every line of input that was read, duplicates and bad ones included."""
    saved: int = 0
    already: int = 0
    failed: Counter[Reason] = field(default_factory=Counter)
    left: int = 0
    """Read and not ended, when a run was stopped before its end."""
    size: int = 0
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
        """Enter lines of which nobody will make anything: a stopped run leaves them."""
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
        now = self._counts
        return Summary(now.urls, now.saved, now.already, Counter(now.failed), now.urls - now.ended, now.size)

    def check(self) -> None:
        """Raise `AssertionError` unless what was not ended is exactly what is open, with its repeats."""
        left = self._counts.urls - self._counts.ended
        held = len(self.open) + sum(self._twins.values()) + self._passed
        if left != held or set(self._digests) != set(self.open) or len(self._twins) != len(self.open):
            raise AssertionError(f"{left} not ended, but {held} open or passed by")
