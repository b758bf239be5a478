"""`Timers` returns the timers that are due, and no others."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.coordinator.large_parts import AGENT
from nearfar.coordinator.messages import open_channel
from nearfar.coordinator.sessions import PeerSession
from nearfar.net.timers import FEW, Timers

pytestmark = pytest.mark.pure

times = st.integers(0, 20).map(float)


def session(number: int = 0) -> PeerSession:
    return PeerSession(f"a-{number}.1", AGENT, f"a-{number}", {}, open_channel(10.0, 0.0))


def test_the_earliest_time_of_a_session_counts() -> None:
    timers, one, other = Timers(), session(1), session(2)
    for who, when in ((one, 5.0), (other, 4.0), (one, 3.0), (other, 6.0)):
        timers.set(who, when)
    assert timers.deadline() == 3.0
    assert timers.ring(2.9) == []
    assert timers.ring(3.0) == [one]
    assert timers.ring(9.0) == [other]
    assert timers.deadline() is None


def test_a_timer_that_fired_must_be_set_again() -> None:
    timers, one = Timers(), session()
    timers.set(one, 5.0)
    timers.set(one, 1.0)
    assert timers.ring(5.0) == [one]
    assert timers.ring(99.0) == []
    timers.set(one, 100.0)
    assert timers.ring(100.0) == [one]


def test_stale_entries_do_not_accumulate() -> None:
    timers, one = Timers(), session()
    for when in range(20 * FEW, 0, -1):
        timers.set(one, float(when))
    assert len(timers._heap) <= 2 * FEW
    assert timers.ring(1.0) == [one]


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 4), times)), st.lists(times))
def test_each_timer_fires_once_at_its_earliest_time(
    sets: list[tuple[int, float]], looks: list[float]
) -> None:
    timers, sessions = Timers(), [session(number) for number in range(5)]
    earliest: dict[str, float] = {}
    for number, when in sets:
        timers.set(sessions[number], when)
        name = sessions[number].name
        earliest[name] = min(when, earliest.get(name, when))
    for now in [*sorted(looks), 20.0]:
        due = {name for name, when in earliest.items() if when <= now}
        rung = [each.name for each in timers.ring(now)]
        assert (set(rung), len(rung)) == (due, len(due))
        for name in due:
            del earliest[name]
    assert not earliest
