"""Sinks that record a fetcher's calls, and a loop that drives a fetcher to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nearfar.download.fetch.base import Fetcher
from nearfar.download.model import Body, Failure, Head, Job


@dataclass
class Remembered:
    """A sink; `calls` has the names of the calls, adjacent equal ones once."""

    data: bytearray = field(default_factory=bytearray)
    calls: list[str] = field(default_factory=list)
    head: Head | None = None
    body: Body | None = None
    failure: Failure | None = None
    pause_after: int | None = None
    """Ask for one pause, once this many bytes are there."""

    def begin(self, head: Head) -> None:
        self._note("begin")
        self.head = head

    def chunk(self, data: bytes) -> bool:
        self._note("chunk")
        self.data += data
        if self.pause_after is not None and len(self.data) >= self.pause_after:
            self.pause_after = None
            return False
        return True

    def restart(self) -> None:
        self._note("restart")
        self.data.clear()

    def done(self, body: Body) -> None:
        self._note("done")
        self.body = body

    def failed(self, failure: Failure) -> None:
        self._note("failed")
        self.failure = failure

    @property
    def ended(self) -> bool:
        return self.body is not None or self.failure is not None

    def _note(self, name: str) -> None:
        assert not self.ended, f"{name} after the end"
        if self.calls[-1:] != [name]:
            self.calls.append(name)


def poll_until(fetcher: Fetcher, reached: Callable[[], bool], seconds: float = 20.0) -> None:
    """Poll until `reached`; fails when `seconds` have passed before."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "not reached in time"
        fetcher.poll(0.2)


def fetch_all(fetcher: Fetcher, *jobs: Job | str) -> list[Remembered]:
    """Fetch `jobs` (or URLs) to their end, one sink each."""
    sinks = [Remembered() for _ in jobs]
    for job, sink in zip(jobs, sinks, strict=True):
        fetcher.add(Job(job) if isinstance(job, str) else job, sink)
    poll_until(fetcher, lambda: fetcher.in_flight == 0)
    return sinks
