"""One measurement: of what, of whom, and which time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement, for one stage."""

    part: str
    work: str
    contestant: str
    """A transport or a pool."""
    turn: int
    """Round or trial, from 0."""

    def __str__(self) -> str:
        return f"{self.part}: {self.work}, {self.contestant}"
