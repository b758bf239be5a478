"""What tasks have come to, on the way from the machine to those who wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from nearfar.coordinator.tasks import Task
from nearfar.net.telling import anew

Outcomes = deque[tuple[Task, Sequence[Any] | BaseException]]


def tell(outcomes: Outcomes) -> bool:
    """Tell each task its outcome, which may run callers' callbacks: hold no lock that one of them may want.

    Several threads may do so at once, and a signal may interrupt it: nothing is told twice, or lost. An error
    that ends many tasks reaches each as an object of its own. Returns whether there was anything to tell.
    """
    told = False
    while outcomes:
        try:
            task, outcome = outcomes.popleft()
        except IndexError:  # another thread tells, too
            break
        told = True
        try:
            tell_one(task, outcome)
        except BaseException:
            if not task.told:
                outcomes.appendleft((task, outcome))
            raise
    return told


def tell_one(task: Task, outcome: Sequence[Any] | BaseException) -> None:
    """Tell one task its outcome. An error may end many tasks: each gets an object of its own."""
    if isinstance(outcome, BaseException):
        task.failed(anew(outcome))
    else:
        task.answered(*outcome)
