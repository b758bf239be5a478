"""A fetcher without a network: bodies come from a dictionary, a piece for each transfer and poll."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from nearfar.download.fetch.base import Sink
from nearfar.download.model import Body, Failure, Head, HostNow, Job, Partial, Reason, Saved

PIECE = 64 * 1024


@dataclass(eq=False)
class _Transfer:
    job: Job
    sink: Sink
    sent: int = -1
    paused: bool = False


@dataclass
class FakeFetcher:
    """A `Fetcher`. A URL that `bodies` has not fails with 404; one in `hiccups` restarts once, half-way."""

    bodies: dict[str, bytes]
    hiccups: set[str] = field(default_factory=set)
    meanwhile: Callable[[], None] = lambda: None
    """Called in each poll: the rest of the world."""
    held: set[str] = field(default_factory=set)
    """URLs whose host asks for patience: they wait."""
    places: int = 0
    """Transfers that can run at a time: while there are fewer that do not wait, it is hungry."""
    asked: Counter[str] = field(default_factory=Counter)
    """How often each URL was fetched."""
    validator: str | None = None
    """Of every file."""
    continued: dict[str, int] = field(default_factory=dict)
    """How much of a URL's file was there before its last transfer."""

    def __post_init__(self) -> None:
        self._transfers: list[_Transfer] = []
        self.most_in_flight = 0

    @property
    def has_capacity(self) -> bool:
        return sum(transfer.job.url not in self.held for transfer in self._transfers) < self.places

    def give_back(self) -> list[Sink]:
        back = [transfer.sink for transfer in self._transfers if transfer.job.url in self.held]
        self._transfers = [transfer for transfer in self._transfers if transfer.sink not in back]
        return back

    @property
    def in_flight(self) -> int:
        return len(self._transfers)

    def add(self, job: Job, sink: Sink, partial: Partial | None = None, saved: Saved | None = None) -> None:
        self.asked[job.url] += 1
        transfer = _Transfer(job, sink)
        if partial is not None:
            transfer.sent = partial.size
            self.continued[job.url] = partial.size
        self._transfers.append(transfer)
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def resume(self, sink: Sink) -> None:
        for transfer in self._transfers:
            transfer.paused = transfer.paused and transfer.sink is not sink

    def hosts(self) -> list[HostNow]:
        return []

    def drop(self, sink: Sink) -> None:
        self._transfers = [transfer for transfer in self._transfers if transfer.sink is not sink]

    def poll(self, timeout: float) -> None:
        for transfer in list(self._transfers):
            if not (transfer.paused or transfer.job.url in self.held) and self._step(transfer):
                self._transfers.remove(transfer)
        self.meanwhile()

    def _step(self, transfer: _Transfer) -> bool:
        """Move one transfer on; True at its end."""
        url, sink = transfer.job.url, transfer.sink
        body = self.bodies.get(url)
        if body is None:
            sink.failed(Failure(Reason.HTTP_4XX, "404 Not Found"))
            return True
        if transfer.sent < 0:
            sink.begin(Head(url, 200, "text/plain", len(body), validator=self.validator))
            transfer.sent = 0
        elif url in self.hiccups and transfer.sent > len(body) // 2:
            self.hiccups.remove(url)
            sink.restart()
            transfer.sent = -1
        elif transfer.sent < len(body):
            piece = body[transfer.sent : transfer.sent + PIECE]
            transfer.sent += len(piece)
            transfer.paused = not sink.chunk(piece)
        else:
            known = None if url in self.continued else hashlib.sha256(body).hexdigest()
            sink.done(Body(len(body), known))
            return True
        return False

    def wake(self) -> None:
        """Does nothing: no thread sleeps here."""

    def cancel(self) -> None:
        self._transfers.clear()

    def close(self) -> None:
        self.cancel()
