"""What tasks took, and how they failed: for a dashboard, counted only while there is one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from nearfar.coordinator.task import TaskStatus
from nearfar.dashboard.figures import FailureGroups, Histogram
from nearfar.serialization import plain
from nearfar.serialization.tracebacks import text_of

_ERROR = int(TaskStatus.ERROR)
_first = itemgetter(0)


class TaskStatistics:
    """The durations of tasks, and their failures."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds since the epoch, for the times of failures."""
        self.durations = Histogram()
        self.failures = FailureGroups()
        self.raised = 0
        """Tasks that raised an error."""
        self._clock = clock

    def answered(self, answers: Sequence[Any], spent: float) -> None:
        """A worker has answered tasks, which took `spent` seconds together."""
        count = len(answers)
        self.durations.add(spent / count, count)
        if count == 1:  # this is called for each message of a worker: no loop for a single task
            if len(answer := answers[0]) > 1 and answer[0] == _ERROR:
                self._raised(answer[1])
        elif _ERROR in map(_first, answers):  # which may also be a bare value
            for answer in answers:
                if len(answer) > 1 and answer[0] == _ERROR:
                    self._raised(answer[1])

    def _raised(self, blob: bytes | memoryview) -> None:
        self.raised += 1
        text = plain.text_of(blob) if blob[:1] == plain.PLAIN else text_of(blob)
        self.failures.add(text, self._clock())

    def failed(self, error: BaseException) -> None:
        """A task, or an initializer, failed without an answer of its worker."""
        self.failures.add(f"{type(error).__name__}: {error}", self._clock())
