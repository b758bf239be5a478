"""Who hears of a crew's workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nearfar.worker.member import Answer


class Listener(Protocol):
    """Who hears of a crew. Every answer that a worker gave is told before its death."""

    def came(self, name: str, pid: int) -> None:
        """A worker is ready."""

    def answered(self, name: str, answers: Sequence[Answer], spent: float) -> None:
        """The next of the tasks that a worker was given ran, in `spent` seconds together."""

    def returned(self, name: str, batches: int) -> None:
        """What `Crew.recall` brought: the last `batches` that it was given (none: it had read them all)."""

    def died(self, name: str, how: str, unread: int) -> None:
        """A worker that came is gone. It never read the last `unread` batches that it was given."""

    def left(self, name: str) -> None:
        """A worker that was retired has ended."""

    def hopeless(self, reason: str) -> None:
        """Processes die at their start again and again: no more are started."""
