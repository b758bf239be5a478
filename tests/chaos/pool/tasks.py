"""The task of a run's workers, which records a line when it begins."""

from __future__ import annotations

import threading

from tests.chaos.faults.journal import Journal


def work(journal: str, client: str, number: int, seconds: float) -> int:
    """Record the run, take a while, and return the square."""
    Journal(journal, "task").note("ran", client=client, number=number)
    threading.Event().wait(seconds)
    return number * number
