"""What tasks have come to, on the way from the machine to those who wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from nearfar.coordinator.tasks import Task
from nearfar.net.telling import anew

Outcomes = deque[tuple[Task, Sequence[Any] | BaseException]]


def tell(outcomes: Outcomes, loud: Outcomes | None = None) -> bool:
    """Tell each task its outcome, which may run callers' callbacks: hold no lock that one of them may want.
    With `loud`, those that would run them are put there instead.

    Several threads may do so at once, and a signal may interrupt it: nothing is told twice, or lost. An error
    that ends many tasks reaches each as an object of its own. Returns whether anything was told.
    """
    told = False
    while outcomes:
        try:
            one = outcomes.popleft()
        except IndexError:  # another thread tells, too
            break
        task, outcome = one
        if loud is not None and task.loud:
            loud.append(one)
            continue
        told = True
        try:
            if isinstance(outcome, BaseException):
                task.failed(anew(outcome))
            elif len(outcome) == 1:
                task.returned(outcome[0])
            else:
                task.answered(*outcome)
        except BaseException:
            if not task.told:
                outcomes.appendleft(one)
            raise
    return told
