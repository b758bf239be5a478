"""The producer: takes jobs, asks the stores, fetches what they lack, and sends it to the consumers.

::

    desk --jobs--> Offers --ready--> Fetcher --bytes--> Passage --> Dock --> Post --> courier
      ^               |                                    ^                  |
      +--- endings ---+------------------------------------+---- verdicts ----+
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from nearfar.download.account import Ended
from nearfar.download.courier import Outbound
from nearfar.download.desk import Desk
from nearfar.download.dock import Dock
from nearfar.download.fetch.base import Fetcher
from nearfar.download.model import Ending, Failure, Reason, Saved, Underway
from nearfar.download.offers import Offers
from nearfar.download.passage import Passage
from nearfar.download.post import Post
from nearfar.download.redact import redact_url
from nearfar.download.words import Lost, Verdict

BATCH = 500
"""Jobs of one offer."""
UNSETTLED = 4096
"""Files fetched or being fetched, without a verdict: bounds memory when files are tiny."""
TRIES = 5
"""Times that a file lost with its consumer is fetched."""
LONELY = 5.0
"""Seconds without any consumer after which that is said."""
LONGEST_WAIT = 1.0
"""Seconds between two turns when nothing happens, for whoever watches the progress."""

log = logging.getLogger(__name__)


class Producer:
    """Drives one fetcher, in one thread. Closes neither the fetcher nor the outbound.

    `jobs` transfers run at a time, and others wait in the fetcher where hosts hold those up. About `ahead`
    jobs are taken before their time, to ask stores about.
    """

    def __init__(
        self,
        desk: Desk,
        fetcher: Fetcher,
        outbound: Outbound,
        *,
        jobs: int = 16,
        ahead: int = BATCH,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._desk = desk
        self._fetcher = fetcher
        self._jobs = jobs
        self._ahead = ahead
        self._clock = clock
        self._stores = outbound.stores
        self._post = Post(outbound)
        self._dock = Dock(self._post)
        self._offers = Offers(self._post, outbound.stores, self._known)
        self._passages: set[Passage] = set()
        self._fetching: set[Passage] = set()
        self._losses: dict[int, int] = {}
        self._stopping = self._leaving = False
        self._alone_since: float | None = clock()
        """Since when a consumer is waited for; None when one has come, or its absence was said."""
        outbound.on_event = desk.on_event = fetcher.wake
        desk.underway = self.underway

    @property
    def on_way(self) -> int:
        """Bytes handed over to be sent, or sent and not answered."""
        return self._post.held

    def underway(self) -> Underway:
        """What has come of the files that have no verdict."""
        size, files = 0, 0.0
        for passage in self._passages:
            if came := passage.came:
                size += came
                files += came / passage.length if passage.length else 0.0
        if any(not (passage.paused or passage.fetched) for passage in self._fetching):
            waits_for = "host"
        else:
            waits_for = "consumer" if self._passages or self._offers.pending else ""
        return Underway(size, min(files, len(self._passages)), waits_for)

    def stop(self) -> None:
        """As `finish`, and leave alone what only waits for its host: it has no ending then."""
        self._leaving = True
        self.finish()

    def finish(self) -> None:
        """Begin nothing more; `run` returns when what is in hand has its verdict.

        May be called from another thread, or from a signal handler; so may `stop`.
        """
        self._stopping = True
        self._fetcher.wake()

    def run(self) -> None:
        """Work until every job has ended, or those in hand after `stop`.

        Raises what the outbound raises (`QueueLost`); jobs without an ending are still open then.
        """
        while self.turn():
            self._fetcher.poll(self._patience())

    def turn(self) -> bool:
        """Do what can be done now, without waiting; False when all is done. Raises as `run`."""
        self._look_for_company()
        self._post.turn()
        self._offers.turn()
        self._resume()
        if self._leaving:
            self._leave()
        self._take()
        self._fetch()
        self._dock.turn(self._clock())
        self._desk.turn()
        return bool(self._passages) or not (self._stopping or self._all_taken())

    def _look_for_company(self) -> None:
        if self._alone_since is None:
            return
        if self._stores():
            self._alone_since = None
        elif self._clock() - self._alone_since >= LONELY:
            self._alone_since = None
            log.warning("no consumer has come to the queue yet: waiting for one")

    def _all_taken(self) -> bool:
        return self._desk.exhausted and not self._offers.ready and not self._offers.pending

    def _patience(self) -> float:
        deadline = self._dock.deadline()
        return LONGEST_WAIT if deadline is None else max(0.0, min(LONGEST_WAIT, deadline - self._clock()))

    def _take(self) -> None:
        """Keep an offer ahead of the fetcher, so that it never waits for stores."""
        while not self._stopping and len(self._offers.ready) + self._offers.pending < self._ahead:
            batch = self._desk.take(self._ahead)
            if not batch:
                return
            self._offers.offer(batch)

    def _fetch(self) -> None:
        while (
            self._offers.ready
            and not self._stopping
            and (len(self._fetching) < self._jobs or self._fetcher.hungry)
            and len(self._passages) < UNSETTLED
            and self._post.roomy
        ):
            passage = Passage(*self._offers.ready.popleft(), self._dock, self._ended)
            self._passages.add(passage)
            self._fetching.add(passage)
            self._fetcher.add(passage.job, passage)

    def _leave(self) -> None:
        """Give up what only waits: a host may have asked for minutes."""
        waiting = set(map(id, self._fetcher.give_back()))
        for passage in [passage for passage in self._fetching if id(passage) in waiting]:
            self._fetching.discard(passage)
            self._passages.discard(passage)
            passage.leave()

    def _resume(self) -> None:
        done = [passage for passage in self._fetching if passage.fetched]
        self._fetching.difference_update(done)
        for passage in self._fetching:
            if passage.paused and passage.roomy:
                passage.paused = False
                self._fetcher.resume(passage)

    def _known(self, number: int, saved: Saved) -> None:
        lost = self._losses.pop(number, 0)
        self._desk.end(number, Ended(Ending.SAVED if lost else Ending.ALREADY, saved))

    def _ended(self, passage: Passage, verdict: Verdict | Lost) -> None:
        self._passages.discard(passage)
        if not passage.fetched:
            self._fetching.discard(passage)
            self._fetcher.drop(passage)
        if isinstance(verdict, Lost):
            self._again(passage)
        else:
            self._losses.pop(passage.number, None)
            ending = Ending.FAILED if isinstance(verdict, Failure) else Ending.SAVED
            self._desk.end(passage.number, Ended(ending, verdict))

    def _again(self, passage: Passage) -> None:
        """The consumer was lost before it said that the file is safe: it is fetched again unless it is."""
        losses = self._losses[passage.number] = self._losses.get(passage.number, 0) + 1
        log.warning("lost with its consumer, to be fetched again: %s", redact_url(passage.job.url))
        if losses < TRIES:
            self._offers.offer([(passage.number, passage.job)])
        else:
            failure = Failure(Reason.DISK, f"lost with its consumer {losses} times")
            self._desk.end(passage.number, Ended(Ending.FAILED, failure))
