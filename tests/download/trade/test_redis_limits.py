"""Limits per host that producers share over a real Redis server, with lost replies, deaths, and a server that
forgets."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from threading import Event

import pytest
import redis

from nearfar.download import redis_limits, redis_transport
from nearfar.download.fetch.schedule import Schedule
from nearfar.download.redis_transport import RedisRequestSender
from nearfar.download.transport import Endpoint
from nearfar.errors import QueueLost
from nearfar.queues.limits import Claim
from tests.download.trade.test_redis import shake
from tests.support import redis_server
from tests.support.waiting import eventually

pytest.importorskip("pycurl", reason="the fetcher needs pycurl")
from nearfar.download.fetch.shared_hosts import SharedHosts

pytestmark = redis_server.needed
LIMIT = 20.0
TOTAL = 8
"""Items that one member runs at a time."""


class Member:
    """A producer: its part of the limits, its schedule, and its running items."""

    def __init__(self, address: str, most: int) -> None:
        self.sender = RedisRequestSender(Endpoint(address=address, insecure=True, wait=LIMIT), helper=True)
        assert self.sender.reach(LIMIT)
        self.sender.attend()
        assert self.sender.limits is not None
        self.limits = self.sender.limits
        self.schedule: Schedule[int] = Schedule(TOTAL, most)
        self.hosts = SharedHosts(self.schedule, self.limits)
        self.active: list[tuple[str, int]] = []

    def turn(self) -> None:
        """Exchange what there is, break off what must be, and begin what may be."""
        now = time.monotonic()
        for host, count in self.hosts.exchange((), now):
            for _ in range(count):
                broken = next(each for each in reversed(self.active) if each[0] == host)
                self.active.remove(broken)
                self.schedule.release(host)
                self.schedule.add(*broken, first=True)
        while (taken := self.schedule.take(time.monotonic())) is not None:
            self.active.append(taken)

    def end(self, which: int) -> int:
        host, item = self.active.pop(which % len(self.active))
        self.schedule.release(host)
        return item


class World:
    """The members of one test."""

    def __init__(self, stack: ExitStack) -> None:
        self.address = redis_server.address()
        self._stack = stack

    def member(self, most: int) -> Member:
        member = Member(self.address, most)

        def close() -> None:
            with suppress(QueueLost):
                member.sender.close(LIMIT)

        self._stack.callback(close)
        return member

    def forget(self) -> None:
        """The server forgets everything, as one without a disk that is started again."""
        place = redis_transport.RedisAddress.parse(self.address)
        with closing(redis.Redis(port=place.port)) as server:
            server.delete(*server.keys(f"nearfar:{{{place.name}}}*"))


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


def check(members: list[Member], most: int) -> None:
    used = Counter(host for member in members for host, _ in member.active)
    assert max(used.values(), default=0) <= most, used


@pytest.mark.parametrize("seed", range(4))
def test_lost_replies_exceed_no_limit_and_lose_no_permit(world: World, seed: int) -> None:
    """Given members with more work than permits, and connections that break after one of four calls."""
    dice = random.Random(seed)
    most = dice.choice([1, 2, 5])
    members = [world.member(most) for _ in range(3)]
    for number, member in enumerate(members):
        for item in range(40):
            member.schedule.add(f"h{item % 3}", number * 40 + item)
        if seed % 2:
            shake(member.sender, dice)
    done: list[int] = []

    def work() -> bool:
        for member in members:
            member.turn()
            check(members, most)
        busy = [member for member in members if member.active and dice.random() < 0.3]
        done.extend(member.end(dice.randrange(TOTAL)) for member in busy)
        return len(done) == 120

    assert eventually(work, 60.0), len(done)
    assert sorted(done) == list(range(120))


def test_members_divide_the_permits_of_a_host(world: World) -> None:
    one, other = world.member(6), world.member(6)
    for item in range(20):
        one.schedule.add("host", item)
    assert eventually(lambda: one.turn() is None and len(one.active) == 6)
    for item in range(20):
        other.schedule.add("host", item)

    def divided() -> bool:
        for member in (one, other):
            member.turn()
        check([one, other], 6)
        if len(one.active) > 3:
            one.end(0)
        return len(one.active) == len(other.active) == 3

    assert eventually(divided)


def test_the_permits_of_a_dead_member_come_back_after_its_lease(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_limits, "LEASE", 3)  # they look at their permits every second
    dead, alive = world.member(2), world.member(2)
    for item in range(4):
        dead.schedule.add("host", item)
        alive.schedule.add("host", item)
    assert eventually(lambda: dead.turn() is None and len(dead.active) == 2)
    expired: list[bool] = []

    def both() -> bool:
        expired.append(dead.limits.expired())
        alive.turn()
        return len(alive.active) == 2

    with dead.sender._client._lock:  # it says nothing any more
        assert eventually(both)
        assert expired[-1], "it knew that it has none, before another one had it"
    assert eventually(lambda: dead.turn() is None and not dead.active), "they are not its any more"
    alive.schedule.take_back()
    alive.end(0)
    assert eventually(lambda: dead.turn() is None and alive.turn() is None and bool(dead.active))
    check([dead, alive], 2)


def test_a_member_that_leaves_returns_its_permits_at_once(world: World) -> None:
    leaving, waiting = world.member(1), world.member(1)
    leaving.schedule.add("host", 1)
    assert eventually(lambda: leaving.turn() is None and len(leaving.active) == 1)
    waiting.schedule.add("host", 2)
    waiting.turn()
    leaving.sender.close(LIMIT)
    assert eventually(lambda: waiting.turn() is None and len(waiting.active) == 1, redis_limits.LEASE / 2)


def test_a_server_that_forgets_them_exceeds_no_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_limits, "LEASE", 3)
    members = [world.member(4) for _ in range(2)]
    for member in members:
        for item in range(30):
            member.schedule.add("host", item)
    done = 0

    def work(count: int) -> bool:
        nonlocal done
        for member in members:
            member.turn()
            check(members, 4)
        for member in members:
            if member.active:
                member.end(0)
                done += 1
        return done >= count

    assert eventually(lambda: work(10))
    world.forget()
    assert eventually(lambda: work(60)), done


def test_all_members_wait_for_a_host_that_asked_one_for_patience(world: World) -> None:
    asked, other = world.member(1), world.member(1)
    asked.schedule.add("host", 1)
    assert eventually(lambda: asked.turn() is None and bool(asked.active))
    other.schedule.add("host", 2)
    until = time.monotonic() + 2.0
    asked.schedule.put_off("host", until - 2.0, 2.0)
    asked.turn()  # that goes first
    asked.end(0)
    assert eventually(lambda: asked.turn() is None and other.turn() is None and bool(other.active))
    assert time.monotonic() > until - 0.1


def test_a_session_whose_lease_ends_before_it_is_declared_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a reply that gets lost when the lease is over: it gives up its permits, and begins anew."""
    member = world.member(1)
    member.schedule.add("host", 1)
    assert eventually(lambda: member.turn() is None and bool(member.active))
    attempt, lost = member.sender._client.attempt, Event()

    def lose(*_: object) -> None:
        member.limits._until = 0.0  # type: ignore[attr-defined]
        monkeypatch.setattr(member.sender._client, "attempt", attempt)
        lost.set()

    monkeypatch.setattr(member.sender._client, "attempt", lose)
    member.sender._stirred.set()
    assert lost.wait(LIMIT)
    assert eventually(lambda: member.turn() is None and not member.active)
    assert eventually(lambda: member.turn() is None and bool(member.active))


def test_a_claim_of_an_ended_session_is_dropped(world: World) -> None:
    member = world.member(1)
    limits = member.limits
    limits.claim(limits.session() + 1, [Claim("host", 1, want=1)])
    member.sender._trade()
    assert not limits._declared  # type: ignore[attr-defined]
