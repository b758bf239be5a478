"""Where jobs come from and endings go: the seam between a producer and whoever keeps the account."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from nearfar.download.account import Account, Ended
from nearfar.download.failures import Failures
from nearfar.download.intake import Intake
from nearfar.download.kinds import is_page, promised
from nearfar.download.lines import Bad
from nearfar.download.model import Ending, Failure, Job, Saved, Underway
from nearfar.download.redact import redact_url
from nearfar.download.urls import resource

TOLD = 5
"""Pages in place of files that are told one by one; the others are counted."""

log = logging.getLogger(__name__)


class Desk(Protocol):
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


class InputDesk:
    """The desk that reads the input itself, keeps the account, and writes down failures."""

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
        """As `Desk.take`. Raises `OSError` when the input cannot be read."""
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
