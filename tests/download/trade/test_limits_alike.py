"""The limits per host that a Redis server keeps are those of `SharedLimits`: both are told the same random
histories, with times of their own, and every grant is the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import msgpack
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nearfar.download.redis_limits import SCRIPT
from nearfar.net.timers import Timers
from nearfar.queues.limits import Claim, Grant, SharedLimits
from nearfar.queues.redis.address import RedisAddress
from tests.support import redis_server

pytestmark = redis_server.needed
REPLACED = {
    b"call('TIME')": b"{ARGV[9], ARGV[10]}",
    b"call('ZRANGEBYSCORE', DUE, '-inf', seconds(horizon), 'LIMIT', 0, 1000)": b"cmsgpack.unpack(ARGV[11])",
}
"""In the script: the time, and the hosts that are due, are arguments."""
LEASE = 100
"""Seconds; many more than a history takes: by its own clock, the server drops grants that nobody fetched."""
SECOND = 1_000_000
Claims = Sequence[Claim]


class Both:
    """A server and a `SharedLimits`. Each looks at all hosts when a member speaks, first at those it claims:
    when else they look differs, since a server acts only when it is asked."""

    def __init__(self, server: redis.Redis) -> None:
        script = SCRIPT
        for text, other in REPLACED.items():
            assert script.count(text) == 1
            script = script.replace(text, other)
        self.server = server
        self.script = server.register_script(script)
        self.limits = SharedLimits()
        self.now = 1_000 * SECOND
        self.dies: dict[str, int] = {}
        """When each member counts as dead, in microseconds."""
        self.doubtful_until = 0
        self.sent: defaultdict[str, list[Grant]] = defaultdict(list)
        """The grants of `SharedLimits` for members that have not spoken since."""

    def speak(self, op: str, member: str, claims: Claims, *, first: bool, former: str) -> list[Grant] | None:
        """The grants of both for `member`, which must be the same; None if it counts as dead."""
        found, expected = [
            each(op, member, claims, first, former) for each in (self._server, self._shared_limits)
        ]
        if expected is None or op == "depart":  # which does not read its grants
            assert (found is None) == (expected is None)
            return expected
        assert found is not None
        assert by_key(found) == by_key(expected)
        return expected

    def _server(self, op: str, member: str, claims: Claims, first: bool, former: str) -> list[Grant] | None:
        claimed = [claim.key for claim in claims]
        hosts = [host.decode() for host in self.server.hkeys("L:limits")]
        others = [host for host in hosts if host not in claimed]
        args = [op, "client", 0, member, int(first), former, LEASE, msgpack.packb(claims)]
        args += [*divmod(self.now, SECOND), msgpack.packb(others)]
        status, *rest = self.script(keys=["L"], args=args)
        return None if status == b"unknown" else [Grant(*msgpack.unpackb(grant)) for grant in rest[1]]

    def _shared_limits(
        self, op: str, member: str, claims: Claims, first: bool, former: str
    ) -> list[Grant] | None:
        now = self.now // SECOND + self.now % SECOND / SECOND
        for dead in [each for each, when in self.dies.items() if when <= self.now]:
            self._leave(dead)
        if op == "depart":
            self._leave(member)
        elif first:
            doubtful = not self.dies and self.now >= self.doubtful_until
            if doubtful and any(claim.held for claim in claims):
                self.doubtful_until = self.now + LEASE * SECOND
                self.limits.doubt(now + LEASE)
            self._leave(former)
        elif member not in self.dies:
            return None
        if op != "depart":
            self.dies[member] = self.now + LEASE * SECOND
            self.limits.claim(member, claims, now, anew=first)
        claimed = [claim.key for claim in claims]
        self._look(claimed, now)
        self._look([key for key in self.limits._keys if key not in claimed], now)
        return self.sent.pop(member, [])

    def _leave(self, member: str) -> None:
        if self.dies.pop(member, None) is not None:
            self.limits.leave(member)
            self.sent.pop(member, None)

    def _look(self, keys: list[str], now: float) -> None:
        self.limits._timers = Timers()
        self.limits._changed = dict.fromkeys(keys)
        for member, grants in self.limits.flush(now):
            self.sent[member] += grants


def by_key(grants: list[Grant]) -> dict[str, list[tuple[Any, ...]]]:
    found = defaultdict(list)
    for key, permits, target, tokens, park in grants:
        found[key].append((permits, target, tokens, pytest.approx(park, abs=1e-6)))
    return found


class Producer:
    """One that claims, returns and declares what a producer may, and sometimes returns a permit too many."""

    def __init__(self, both: Both, name: str) -> None:
        self.both, self.name = both, name
        self.session = 0
        self.entered = False
        self.permits: dict[str, int] = {}

    @property
    def member(self) -> str:
        return f"{self.name} {self.session}"

    def claim(self, wishes: list[dict[str, Any]]) -> None:
        claims = []
        for wish in wishes:
            has = self.permits.get(wish["key"], 0)
            if self.entered:
                wish = wish | {"returned": min(wish["returned"], max(0, has) + 1), "held": 0}
                self.permits[wish["key"]] = has - wish["returned"]
            else:
                wish = wish | {"returned": 0, "held": max(0, has)}
            claims.append(Claim(**wish))
        former, first = self.member, not self.entered
        self.session += first
        self._told(self.both.speak("limits", self.member, claims, first=first, former=former))

    def depart(self) -> None:
        if self.entered:
            self.both.speak("depart", self.member, [], first=False, former="")
        self.entered = False
        self.permits.clear()

    def forget(self) -> None:
        """Begin a new session, with what it has."""
        self.entered = False

    def _told(self, grants: list[Grant] | None) -> None:
        self.entered = grants is not None
        for grant in grants or ():
            self.permits[grant.key] = self.permits.get(grant.key, 0) + grant.permits


wishes = st.fixed_dictionaries(
    {
        "limit": st.integers(1, 6),
        "rate": st.sampled_from([0.0, 0.0, 3.0, 50.0]),
        "want": st.integers(0, 8),
        "returned": st.integers(0, 3),
        "tokens": st.integers(0, 6),
        "park": st.sampled_from([0.0, 0.0, 0.0, 0.5, 3.0]),
        "slow": st.sampled_from([False, False, False, True]),
    }
)
steps = st.tuples(
    st.sampled_from([0, 0, 1_000, 20_000, 100_000, 333_333, SECOND, 1_500_000, 4 * SECOND, 120 * SECOND]),
    st.integers(0, 2),
    st.sampled_from(["claim"] * 8 + ["depart", "forget"]),
    st.dictionaries(st.sampled_from(["one", "two"]), wishes, max_size=2),
)


@pytest.fixture(scope="module")
def server() -> Iterator[redis.Redis]:
    with redis.Redis(port=RedisAddress.parse(redis_server.address()).port, db=7) as server:
        server.ping()  # its connection is kept for all tests
        yield server
        server.flushdb()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=40))
def test_both_grant_the_same(server: redis.Redis, history: list[Any]) -> None:
    server.flushdb()
    both = Both(server)
    producers = [Producer(both, name) for name in ("a", "b", "c")]
    for pause, who, what, wanted in history:
        both.now += pause
        if what == "claim":
            producers[who].claim([wish | {"key": key} for key, wish in wanted.items()])
        elif what == "depart":
            producers[who].depart()
        else:
            producers[who].forget()
    for producer in producers:
        producer.claim([])
