"""What the workers of a run run: each call leaves a line when it begins."""

from __future__ import annotations

import threading

from tests.chaos.faults.journal import Journal


def work(journal: str, client: str, number: int, seconds: float) -> int:
    """Note that it runs, take a while, and return the square."""
    Journal(journal, "task").note("ran", client=client, number=number)
    threading.Event().wait(seconds)
    return number * number
