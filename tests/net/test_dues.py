"""The clock looks at those whose time has come, and at nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.coordinator.desk import Session
from nearfar.coordinator.talk import Talk
from nearfar.coordinator.wire import AGENT
from nearfar.net.dues import FEW, Dues

pytestmark = pytest.mark.pure

times = st.integers(0, 20).map(float)


def session(number: int = 0) -> Session:
    return Session(f"a-{number}.1", AGENT, f"a-{number}", {}, Talk(10.0, 0.0))


def test_the_earliest_time_of_a_session_counts() -> None:
    dues, one, other = Dues(), session(1), session(2)
    for who, when in ((one, 5.0), (other, 4.0), (one, 3.0), (other, 6.0)):
        dues.set(who, when)
    assert dues.deadline() == 3.0
    assert dues.ring(2.9) == []
    assert dues.ring(3.0) == [one]
    assert dues.ring(9.0) == [other]
    assert dues.deadline() is None


def test_who_rang_rings_again_only_when_it_is_set_anew() -> None:
    dues, one = Dues(), session()
    dues.set(one, 5.0)
    dues.set(one, 1.0)
    assert dues.ring(5.0) == [one]
    assert dues.ring(99.0) == []
    dues.set(one, 100.0)
    assert dues.ring(100.0) == [one]


def test_stale_entries_do_not_pile_up() -> None:
    dues, one = Dues(), session()
    for when in range(20 * FEW, 0, -1):
        dues.set(one, float(when))
    assert len(dues._heap) <= 2 * FEW
    assert dues.ring(1.0) == [one]


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 4), times)), st.lists(times))
def test_everybody_rings_at_its_earliest_time_and_once(
    sets: list[tuple[int, float]], looks: list[float]
) -> None:
    dues, sessions = Dues(), [session(number) for number in range(5)]
    earliest: dict[str, float] = {}
    for number, when in sets:
        dues.set(sessions[number], when)
        name = sessions[number].name
        earliest[name] = min(when, earliest.get(name, when))
    for now in [*sorted(looks), 20.0]:
        due = {name for name, when in earliest.items() if when <= now}
        rung = [each.name for each in dues.ring(now)]
        assert (set(rung), len(rung)) == (due, len(due))
        for name in due:
            del earliest[name]
    assert not earliest
