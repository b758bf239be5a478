"""A fetcher whose permits come from elsewhere: it starts nothing without one, and keeps no connection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

import pytest

from nearfar.download.model import Job
from nearfar.queues.limits import Claim, Grant
from tests.download.fetch.conftest import MakeFetcher
from tests.support.counting import Counting
from tests.support.routes import content, cut
from tests.support.sinks import Remembered, poll_until
from tests.support.waiting import eventually
from tests.support.web import Web

BODY = bytes(range(256)) * 400


@dataclass
class Told:
    """A `HostLimits` that grants what the test says."""

    number: int = 1
    over: bool = False
    grants: list[Grant] = field(default_factory=list)
    claims: list[tuple[int, Claim]] = field(default_factory=list)

    def session(self) -> int:
        return self.number

    def expired(self) -> bool:
        return self.over

    def receive(self) -> Sequence[Grant]:
        grants, self.grants = self.grants, []
        return grants

    def claim(self, session: int, claims: Sequence[Claim]) -> None:
        self.claims += [(session, claim) for claim in claims]

    def due(self) -> float:
        return inf

    def last(self) -> Claim:
        return self.claims[-1][1]


@pytest.fixture
def counting() -> Iterator[Counting]:
    with Counting() as server:
        yield server


def test_nothing_starts_without_a_permit(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["*"] = content(b"x")
    engine, told = fetcher(connections=4, per_host=3), Told()
    engine.share(told)
    sinks = [Remembered() for _ in range(9)]
    for number, sink in enumerate(sinks):
        engine.add(Job(web.url(f"/{number}")), sink)
    for _ in range(5):
        engine.poll(0.01)
    assert not web.log
    host = told.last().key
    assert told.last() == Claim(host, limit=3, want=3)
    told.grants.append(Grant(host, 1, 1))
    poll_until(engine, lambda: all(sink.ended for sink in sinks))
    assert web.most_at_once == 1 and web.connections == 1
    poll_until(engine, lambda: told.last() == Claim(host, limit=3, want=0, returned=1))


def test_an_idle_connection_is_closed_before_its_permit_is_returned(
    counting: Counting, fetcher: MakeFetcher
) -> None:
    engine, told = fetcher(connections=4, per_host=4), Told()
    engine.share(told)
    host = f"127.0.0.1:{counting.port}"
    sinks = [Remembered() for _ in range(40)]
    counting.delay = 0.01
    for number, sink in enumerate(sinks):
        engine.add(Job(counting.url(f"/{number}")), sink)
    engine.poll(0)
    told.grants.append(Grant(host, 4, 4))
    poll_until(engine, lambda: counting.open == 4)
    told.grants.append(Grant(host, 0, 1))  # others wait for three of them
    poll_until(engine, lambda: sum(claim.returned for _, claim in told.claims) == 3)
    assert eventually(lambda: counting.open == 1)
    poll_until(engine, lambda: all(sink.body for sink in sinks))
    poll_until(engine, lambda: sum(claim.returned for _, claim in told.claims) == 4)
    assert eventually(lambda: counting.open == 0)


def test_a_cancelled_fetcher_leaves_no_connection_to_a_host_that_it_shares(
    counting: Counting, fetcher: MakeFetcher
) -> None:
    """As between two shares of a pool's work."""
    engine = fetcher()
    for _ in range(3):
        told, sink = Told(), Remembered()
        engine.share(told)
        engine.add(Job(counting.url("/a")), sink)
        engine.poll(0)
        told.grants.append(Grant(f"127.0.0.1:{counting.port}", 1, 1))
        poll_until(engine, lambda sink=sink: bool(sink.body))
        assert counting.open == 1
        engine.cancel()
        assert eventually(lambda: counting.open == 0)


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_transfer_whose_permit_is_taken_back_stops_and_goes_on_later(
    web: Web, fetcher: MakeFetcher, how: str
) -> None:
    engine, told = fetcher(stall_timeout=60, tries=1), Told()
    engine.share(told)
    web.routes["/a"] = cut(BODY, 50_000, by="stall", etag='"1"')
    sink = Remembered()
    engine.add(Job(web.url("/a")), sink)
    engine.poll(0.01)
    host = told.last().key
    told.grants.append(Grant(host, 1, 1))
    poll_until(engine, lambda: len(sink.data) == 50_000)
    web.routes["/a"] = content(BODY, etag='"1"')
    if how == "revoked":
        told.grants.append(Grant(host, -1, 0))
    else:
        told.over = True
    for _ in range(5):
        engine.poll(0.01)
    assert len(web.log) == 1 and engine.in_flight == 1
    if how == "expired":
        told.over, told.number = False, 2
        poll_until(engine, lambda: told.claims[-1] == (2, Claim(host, limit=16, want=1)))
    told.grants.append(Grant(host, 1, 1))
    poll_until(engine, lambda: sink.ended)
    assert sink.body is not None and bytes(sink.data) == BODY
    assert len(web.log) == 2 and "range" in web.log[1].fields
