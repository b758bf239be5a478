"""One run of a producer: input, account, failures file, progress, and what is said at its end."""

from __future__ import annotations

import logging
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from nearfar.download.account import Account, Summary
from nearfar.download.desk import InputDesk
from nearfar.download.failures import Failures
from nearfar.download.intake import Intake, Source
from nearfar.download.model import Underway
from nearfar.programs.common import why
from nearfar.programs.progress import Counts, make_progress, number
from nearfar.programs.streams import tell

SHOWN_EVERY = 0.1
"""Seconds between two looks at the counts."""

_NOTHING = Underway()

log = logging.getLogger("nearfar.producer")


class Run:
    """Use it as a context manager; leaving it closes everything and puts the failures file in its place."""

    def __init__(self, source: Source, failures: Path, *, quiet: bool, log_format: str) -> None:
        self.account = Account()
        self.intake = Intake(source)
        self.summary = Summary()
        """The counts, after `close`."""
        self._failures = Failures(failures)
        self.desk = InputDesk(self.intake, self.account, self._failures, self._show)
        self._progress = make_progress(quiet=quiet, log_format=log_format)
        self._shown = 0.0
        self._all_counted = True
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Count what is left, and close. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self.intake.close()
        left, self._all_counted = self.intake.rest()
        self.account.pass_by(left)
        self.account.check()
        self.summary = self.account.summary()
        self._progress.close(self._counts(self.summary), time.monotonic())
        self._failures.close()

    def report(self) -> None:
        """Print the counts, where the failures are, and how to go on."""
        tell(self.summary)
        if not self._all_counted:
            tell("the rest of the input was not read")
        if self._failures.trouble is not None:
            tell(f"failures: {self._failures.path} could not be written ({why(self._failures.trouble)})")
        elif self._failures.count and self._failures.passing:
            tell(f"failures: written to {self._failures.path}")
        elif self._failures.count:
            tell(f"failures: {self._failures.path} (try them again with -i {self._failures.path})")
        if pages := self.desk.pages:
            kind, _ = pages.most_common(1)[0]
            tell(
                f"{number(pages.total(), 'web page')} saved where a name promises another kind of file"
                f" (--expect '{kind}' would refuse such)"
            )
        if self.summary.left or not self._all_counted:
            tell("to go on, run the same command again: nothing that is saved is fetched twice")
        log.debug("%s", self.summary, extra={"event": "summary", "fields": self._fields()})

    def _fields(self) -> dict[str, object]:
        now = self.summary
        failed = {str(reason): count for reason, count in now.failed.items()}
        return {
            "urls": now.urls,
            "saved": now.saved,
            "already": now.already,
            "failed": failed,
            "left": now.left,
            "size": now.size,
        }

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown >= SHOWN_EVERY:
            self._shown = now
            self._progress.show(self._counts(self.account.summary(), self.desk.underway()), now)

    def _counts(self, summary: Summary, underway: Underway = _NOTHING) -> Counts:
        total = summary.urls + self.intake.waiting() if self.intake.ended else None
        failed = Counter({str(reason): count for reason, count in summary.failed.items()})
        size = summary.size + underway.size
        return Counts(summary.saved, summary.already, failed, size, total, underway.files, underway.waits_for)
