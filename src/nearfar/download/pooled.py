"""One list of URLs fetched by the workers of a pool, here or on other machines, in shares of jobs.

::

    input --> Pooled --shares--> workers (fetch_share) ==files==> far queue ==> consumers
                ^                   |
                +---- reports ------+

A share is one task of the pool: `fetch_share` takes an `Order` (jobs, the queue, how to fetch) and returns a
`ShareReport` (how the jobs ended). The worker joins the queue as a helper of the order's sender: consumers
neither wait for it nor report its loss.

`Pooled` keeps the account only: no file content passes through it. A share whose worker died is handed out
again; the stores are queried first, so nothing saved is fetched twice. It is split before that, so that a job
that kills its workers is soon alone in a share, and only that job fails.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol

from nearfar import Executor
from nearfar.download.account import Ended, InputJobs
from nearfar.download.fetch.base import Fetcher
from nearfar.download.fetch.factory import make_fetcher
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.model import Ending, Failure, HostNow, Reason, Report, Saved, Underway
from nearfar.download.producer import Numbered, Producer
from nearfar.download.remote_stores import RemoteStores, WaitWarning, no_consumer
from nearfar.download.transport import Endpoint, RequestSender, open_request_sender
from nearfar.download.watched import MOST_HOSTS, host_of
from nearfar.errors import AddressError, KeysError, NotAdmitted, PoolBroken, QueueLost

LONGEST = 5.0
"""Seconds after which a share starts no more jobs: the rest is handed back, so that a stop is not delayed."""
TOLD_EVERY = 0.5
"""Seconds between two progress messages."""
FAREWELL = 30.0
"""Seconds to hand over the sent requests, when all of them were answered."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to fetch, how, and where to save it."""

    queue: str
    """The queue's address, as reachable by the workers."""
    wait: float
    """Seconds that the queue's host may be absent."""
    fetching: FetchOptions
    at_once: int
    """Concurrent transfers."""
    jobs: tuple[Numbered, ...]
    refresh: bool = False
    """Whether saved files are fetched again if their servers have another version."""
    insecure: bool = False
    """Whether the queue is open to everyone; otherwise a worker uses the keys that its environment names."""


class ShareReport(NamedTuple):
    """How the jobs of a share ended. Jobs not listed were not started."""

    ended: list[tuple[int, Ended]]
    seconds: float


class Unfit(PoolBroken):
    """A worker can fetch nothing: it lacks pycurl, or cannot reach the queue. The message has the reason."""


class ShareJobs:
    """A producer's `JobSource` with a fixed list of jobs."""

    def __init__(
        self,
        jobs: Sequence[Numbered],
        deadline: float,
        on_late: Callable[[], None],
        tell: Callable[[Underway], None] = lambda underway: None,
    ) -> None:
        """`on_late` is called in each iteration after `deadline` (of `time.monotonic`), `tell` every
        `TOLD_EVERY` seconds, if something has changed."""
        self.underway: Callable[[], Underway] = Underway
        self.report: Callable[[], Report] = Report
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
            size, files, waits_for, _ = self.underway()
            # Ended jobs are in progress, too: the account learns of them from the report.
            underway = Underway(size + self._size, files + len(self.ended), waits_for)
            if underway != self._told:
                self._told = underway
                self._tell(underway)


def fetch_share(order: Order) -> ShareReport:
    """Fetch, and return once each started job has ended. Raises `Unfit`."""
    started = time.monotonic()
    job_source = ShareJobs(
        order.jobs,
        started + LONGEST,
        lambda: producer.finish(),
        lambda told: request_sender.tell_underway(told),
    )
    try:
        fetcher = _kept_fetcher(order.fetching)
        endpoint = Endpoint(address=order.queue, insecure=order.insecure, wait=order.wait)
        request_sender = open_request_sender(endpoint, helper=True)
        try:
            if request_sender.limits is not None:
                fetcher.share(request_sender.limits)
            stores = RemoteStores(request_sender)
            producer = Producer(job_source, fetcher, stores, jobs=order.at_once, refresh=order.refresh)
            producer.run()
        finally:
            fetcher.cancel()
            request_sender.close(FAREWELL)
    except (ImportError, QueueLost, NotAdmitted, AddressError, KeysError) as error:
        raise Unfit(f"the worker process {os.getpid()} on {socket.gethostname()}: {error}") from error
    return ShareReport(job_source.ended, time.monotonic() - started)


_here = threading.local()  # a worker of another engine may run two shares at once, in two threads


def _kept_fetcher(options: FetchOptions) -> Fetcher:
    """This thread's fetcher of the previous share, with its connections, if `options` are equal.

    Raises `ImportError`.
    """
    kept: tuple[FetchOptions, Fetcher] | None = getattr(_here, "kept", None)
    if kept is None or kept[0] != options:
        if kept is not None:
            del _here.kept
            kept[1].close()
        _here.kept = kept = options, make_fetcher(options)
    return kept[1]


AHEAD = 2
"""Shares per worker: one that it runs, and one that it has queued."""
PIECES = 8
"""Pieces in which a share that failed is handed out again."""
TRIES = 3
"""Times that a job is tried alone before it fails with its worker's error."""
FRUITLESS = 20
"""Consecutive shares that may fail before the pool is given up."""
LONGEST_WAIT = 0.5
"""Seconds between two iterations when nothing happens, for the progress display."""

Share = Sequence[Numbered]

log = logging.getLogger(__name__)


class Watched(RequestSender, Protocol):
    """A request sender that sends nothing, and reads the progress of others."""

    def underway(self) -> tuple[int, float]:
        """Bytes and files in progress. Never waits."""


class ShareSizer:
    """The number of jobs in a share: a second's work, fewer when few are left, to spread them evenly."""

    SECONDS = 1.0
    FIRST, LEAST, MOST = 64, 8, 1000

    def __init__(self) -> None:
        self._most = float(self.FIRST)

    def note(self, ended: int, seconds: float) -> None:
        """A worker ended `ended` jobs of a share in `seconds`."""
        if ended:
            now = min(float(self.MOST), ended / max(seconds, 0.001) * self.SECONDS)
            self._most = max(self.LEAST, (self._most + now) / 2)

    def share(self, waiting: int, workers: int) -> int:
        """The number of jobs of the next share, when `waiting` jobs wait."""
        return max(self.LEAST, min(int(self._most), waiting // (2 * workers)))


class Pooled:
    """Runs the shares of one download until every job of its `InputJobs` has ended."""

    def __init__(
        self,
        job_source: InputJobs,
        executor: Executor,
        request_sender: Watched,
        make_order: Callable[[tuple[Numbered, ...]], Order],
    ) -> None:
        """`request_sender` sends nothing: it is the producer that the queue counts, and it shows the stores
        present."""
        self._job_source = job_source
        self._executor = executor
        self._request_sender = request_sender
        self._make_order = make_order
        self._events: SimpleQueue[Future[ShareReport] | None] = SimpleQueue()
        self._out: dict[Future[ShareReport], Share] = {}
        self._pieces: deque[Share] = deque()
        """What is handed out again: of shares that failed."""
        self._failures: Counter[int] = Counter()
        self._fruitless = 0
        self._pace = ShareSizer()
        self._no_worker = WaitWarning("worker", "no worker has come to the pool yet: waiting for one")
        self._no_consumer = no_consumer()
        self._stopping = self._called_back = False
        request_sender.on_event = job_source.on_event = self.wake
        job_source.underway = self._underway
        job_source.report = self._report

    def wake(self) -> None:
        """Make `run` check its state now. From any thread or signal handler."""
        self._events.put(None)

    def stop(self) -> None:
        """Hand out no more; `run` returns when the jobs that the workers have started have ended."""
        self._stopping = True
        self.wake()

    def run(self) -> None:
        """Work to the end, or to `stop`. Jobs without an ending are still open then.

        Raises `QueueLost`, and `PoolBroken` if the pool is lost, if a worker cannot work at all (`Unfit`), or
        if too many consecutive shares fail.
        """
        try:
            while self._turn():
                with suppress(Empty):
                    self._settled(self._events.get(timeout=LONGEST_WAIT))
        finally:
            self._job_source.on_event = self._request_sender.on_event = _nothing

    def _underway(self) -> Underway:
        """The progress reported to the queue's host, by workers of other pools, too."""
        size, files = self._request_sender.underway()
        waits_for = "host" if self._out else ""
        if not self._request_sender.stores():
            waits_for = "consumer"
        elif not self._executor.engine.counts()["workers"]:
            waits_for = "worker"
        return Underway(size, min(files, sum(map(len, self._out.values()))), waits_for)

    def _report(self) -> Report:
        """The jobs of each host that workers have, for a dashboard."""
        jobs = Counter(host_of(job.url) for share in self._out.values() for _, job in share)
        return Report(tuple(HostNow(host, count, 0, 0.0) for host, count in jobs.most_common(MOST_HOSTS)))

    def _turn(self) -> bool:
        with suppress(Empty):
            while True:
                self._settled(self._events.get_nowait())
        self._request_sender.answers()  # there are none; but it raises when the queue is lost
        self._job_source.turn()
        if not self._stopping:
            self._hand_out()
        elif not self._called_back:
            self._called_back = True
            for future in list(self._out):
                future.cancel()
        return bool(self._out) or not (self._stopping or self._all_given_back())

    def _all_given_back(self) -> bool:
        return self._job_source.exhausted and not self._pieces

    # -- out -----------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Give each worker a share, and one to follow it; none while there is no consumer."""
        engine = self._executor.engine
        consumers_here = bool(self._request_sender.stores())
        self._no_consumer.look(lambda: consumers_here)
        workers = engine.counts()["workers"]
        self._no_worker.look(lambda: workers > 0)
        if not consumers_here:
            return
        # While no worker is known, a first share is submitted to find the pool: waiting would block the loop.
        while len(self._out) < (AHEAD * workers or 1) and (share := self._next_share(workers)):
            future = self._executor.submit(fetch_share, self._make_order(tuple(share)))
            self._out[future] = share
            future.add_done_callback(self._events.put)

    def _next_share(self, workers: int) -> Share:
        if self._pieces:
            return self._pieces.popleft()
        waiting = self._job_source.waiting()
        return self._job_source.take(self._pace.share(waiting, workers) if workers else self._pace.LEAST)

    # -- back ----------------------------------------------------------------------------------------

    def _settled(self, future: Future[ShareReport] | None) -> None:
        if future is None:
            return
        share = self._out.pop(future)
        if future.cancelled():
            self._job_source.give_back(share)
            return
        error = future.exception()
        if error is None:
            self._end(share, future.result())
        elif isinstance(error, PoolBroken):
            raise error
        else:
            self._fail(share, error)

    def _end(self, share: Share, report: ShareReport) -> None:
        self._fruitless = 0
        self._pace.note(len(report.ended), report.seconds)
        for number, ended in report.ended:
            self._job_source.end(number, ended)
        done = {number for number, _ in report.ended}
        self._job_source.give_back(job for job in share if job[0] not in done)

    def _fail(self, share: Share, error: BaseException) -> None:
        self._fruitless += 1
        if self._fruitless >= FRUITLESS:
            raise PoolBroken(f"{FRUITLESS} shares in a row failed, the last one: {_line(error)}") from error
        reason = _line(error)
        fields = {"reason": reason, "urls": len(share)}
        log.warning("%s", reason, extra={"event": "lost", "fields": fields})
        self._job_source.handed_twice.update(number for number, _ in share)
        if len(share) > 1:
            size = max(1, len(share) // PIECES)
            self._pieces.extend(share[first : first + size] for first in range(0, len(share), size))
            return
        [(number, _)] = share
        self._failures[number] += 1
        if self._failures[number] < TRIES:
            self._pieces.append(share)
        else:
            failure = Failure(Reason.WORKER, f"tried {TRIES} times by itself; the last time, {_line(error)}")
            self._job_source.end(number, Ended(Ending.FAILED, failure))


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _nothing() -> None:
    """The default callback: does nothing."""
