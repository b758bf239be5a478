"""A share of a download: what one task of a pool does, in its worker's process.

::

    Order: jobs, the queue, how to fetch  -->  fetch_share  -->  Report: how the jobs ended

The worker puts as a helper of whoever sent the order: the queue's consumers neither expect it nor miss it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nearfar.download.account import Ended
from nearfar.download.couriers.far import open_outbound
from nearfar.download.fetch.base import Fetcher
from nearfar.download.fetch.making import make_fetcher
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.model import Ending, Job, Saved, Underway
from nearfar.download.producer import Producer
from nearfar.errors import AddressError, KeysError, NotAdmitted, PoolBroken, QueueLost

LONGEST = 5.0
"""Seconds after which a share begins nothing more: the rest is handed back, so that a stop need not wait."""
TOLD_EVERY = 0.5
"""Seconds between two words of what is on its way, for the progress."""
FAREWELL = 30.0
"""Seconds to hand over what was sent, when all of it was answered."""

Numbered = tuple[int, Job]


@dataclass(frozen=True, slots=True)
class Order:
    """What to fetch, how, and where to put it."""

    queue: str
    """The queue's address, as its workers reach it."""
    wait: float
    """Seconds that the queue's host may be away."""
    fetching: FetchOptions
    at_once: int
    """Transfers at a time."""
    jobs: tuple[Numbered, ...]
    insecure: bool = False
    """Whether the queue is open to everyone; else a worker shows the keys that its environment names."""


class Report(NamedTuple):
    """How the jobs of a share ended. Those that are not named were not begun."""

    ended: list[tuple[int, Ended]]
    seconds: float


class Unfit(PoolBroken):
    """A worker can fetch nothing at all: it lacks pycurl, or finds no queue. The message names it."""


class ShareDesk:
    """A producer's desk whose jobs are all there from the beginning."""

    def __init__(
        self,
        jobs: Sequence[Numbered],
        deadline: float,
        on_late: Callable[[], None],
        tell: Callable[[Underway], None] = lambda underway: None,
    ) -> None:
        """`on_late` is called in each turn after `deadline` (of `time.monotonic`), `tell` every `TOLD_EVERY`
        seconds, if something has changed."""
        self.underway: Callable[[], Underway] = Underway
        self._tell = tell
        self._told = Underway()
        self._size = 0
        self._due = 0.0
        self.on_event: Callable[[], None] = lambda: None
        self.ended: list[tuple[int, Ended]] = []
        self._jobs = list(reversed(jobs))
        self._deadline = deadline
        self._on_late = on_late

    def take(self, most: int) -> list[Numbered]:
        jobs = self._jobs
        return [jobs.pop() for _ in range(min(most, len(jobs)))]

    @property
    def exhausted(self) -> bool:
        return not self._jobs

    def end(self, number: int, ended: Ended) -> None:
        self.ended.append((number, ended))
        if ended.ending is Ending.SAVED and isinstance(ended.what, Saved):
            self._size += ended.what.size

    def turn(self) -> None:
        now = time.monotonic()
        if now >= self._deadline:
            self._on_late()
        if now >= self._due:
            self._due = now + TOLD_EVERY
            size, files, waits_for = self.underway()
            # What has ended is on its way, too: the account hears of it with the report.
            underway = Underway(size + self._size, files + len(self.ended), waits_for)
            if underway != self._told:
                self._told = underway
                self._tell(underway)


def fetch_share(order: Order) -> Report:
    """Fetch, and return once each job that was begun has ended. Raises `Unfit`."""
    started = time.monotonic()
    desk = ShareDesk(
        order.jobs, started + LONGEST, lambda: producer.finish(), lambda told: outbound.tell_underway(told)
    )
    try:
        fetcher = _kept_fetcher(order.fetching)
        outbound = open_outbound(order.queue, insecure=order.insecure, wait=order.wait, helper=True)
        try:
            producer = Producer(desk, fetcher, outbound, jobs=order.at_once)
            producer.run()
        finally:
            fetcher.cancel()
            outbound.close(FAREWELL)
    except (ImportError, QueueLost, NotAdmitted, AddressError, KeysError) as error:
        raise Unfit(f"the worker process {os.getpid()} on {socket.gethostname()}: {error}") from error
    return Report(desk.ended, time.monotonic() - started)


_kept: dict[FetchOptions, Fetcher] = {}


def _kept_fetcher(options: FetchOptions) -> Fetcher:
    """The last share's fetcher, with its connections, if these were its options. Raises `ImportError`."""
    if options not in _kept:
        for other in _kept.values():
            other.close()
        _kept.clear()
        _kept[options] = make_fetcher(options)
    return _kept[options]
