"""A producer, consumers with real stores, and a transport and a fetcher in memory, in one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from nearfar.download.account import Account, Ended, Summary
from nearfar.download.consumer import Consumer
from nearfar.download.model import Failure, Job, Report, Underway
from nearfar.download.producer import Producer
from nearfar.download.remote_stores import RemoteStores
from nearfar.download.store.store import Store
from tests.support.fetcher import FakeFetcher
from tests.support.transport import Inbox, Outbox, Post


class ListDesk:
    """A `JobSource` over a list."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.on_event: Callable[[], None] = lambda: None
        self.underway: Callable[[], Underway] = Underway
        self.report: Callable[[], Report] = Report
        self.account = Account()
        self.failures: dict[str, Failure] = {}
        self._jobs = list(jobs)

    @property
    def exhausted(self) -> bool:
        return not self._jobs

    def take(self, most: int) -> list[tuple[int, Job]]:
        taken, self._jobs = self._jobs[:most], self._jobs[most:]
        begun = [(self.account.begin(job), job) for job in taken]
        return [(number, job) for number, job in begun if number is not None]

    def end(self, number: int, ended: Ended) -> None:
        job = self.account.end(number, ended)
        if isinstance(ended.what, Failure):
            self.failures[job.url] = ended.what
        self.account.check()

    def turn(self) -> None:
        self.account.check()


class World:
    """Consumers live as long as the world, unless killed; each `fetch` is a command of its own."""

    def __init__(self, bodies: dict[str, bytes], room: int = 1000) -> None:
        self.post = Post(room)
        self.fetcher = FakeFetcher(bodies, meanwhile=self.step)
        self.consumers: dict[str, Consumer] = {}
        self.stores: dict[str, Store] = {}
        self.events: list[Callable[[], bool]] = []
        """Each is tried in every step until it says that it happened."""
        self.producer: Producer | None = None
        self._ticks = count()

    def clock(self) -> float:
        """Four milliseconds pass between two looks."""
        return next(self._ticks) * 0.004

    def consumer(self, name: str, directory: Path) -> None:
        store = self.stores[name] = Store(directory)
        self.consumers[name] = Consumer(Inbox(self.post, name), store)
        self.post.join(name, store.id)

    def kill(self, name: str) -> None:
        """As kill -9: its drafts are dropped, its requests are not answered."""
        del self.consumers[name]
        self.stores.pop(name).close()
        self.post.kill(name)

    def step(self) -> None:
        for consumer in list(self.consumers.values()):
            consumer.turn()
        self.events = [event for event in self.events if not event()]

    def fetch(self, *jobs: Job | str, at_once: int = 4, refresh: bool = False) -> Summary:
        job_source = self.job_source = ListDesk([Job(job) if isinstance(job, str) else job for job in jobs])
        stores = RemoteStores(Outbox(self.post), clock=self.clock)
        self.producer = Producer(
            job_source, self.fetcher, stores, jobs=at_once, refresh=refresh, clock=self.clock
        )
        self.producer.run()
        while self.post.waiting or self.post.answered:
            self.step()
            self.producer.turn()
        assert stores.post.held == 0
        return job_source.account.summary()

    def close(self) -> None:
        for store in self.stores.values():
            store.close()
