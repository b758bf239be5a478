"""`Deliveries` identifies an attempt at an item by its position and holder."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.queues.broker.records import Deliveries, ItemRange
from tests.queues.ledger_check import body_of, check_leases, items_of

pytestmark = pytest.mark.pure


def lend(leases: Deliveries, count: int) -> int:
    """Lend `count` items, each of which contains its position."""
    position = leases.last + 1
    body = body_of(range(position, position + count))
    return leases.lend(ItemRange("p", position, count, body, position))


def test_positions_rise_and_are_never_used_twice() -> None:
    leases = Deliveries()
    assert [lend(leases, 3), lend(leases, 1)] == [1, 4]
    leases.remove(1, 4)
    assert lend(leases, 2) == 5
    assert leases.last == 6


def test_removed_items_cannot_be_removed_again() -> None:
    leases = Deliveries()
    lend(leases, 5)
    assert [items_of(run) for run in leases.remove(2, 3)] == [[2, 3]]
    assert [items_of(run) for run in leases.remove(1, 4)] == [[1], [4]]
    assert leases.remove(1, 4) == []
    assert leases.remove(6, 1 << 60) == []


def test_taking_never_goes_back_and_never_beyond_what_was_lent() -> None:
    leases = Deliveries()
    lend(leases, 4)
    leases.take(3)
    leases.take(1)
    assert (leases.taken, leases.held_items, leases.untaken_items) == (3, 3, 1)
    leases.take(1 << 60)
    assert (leases.taken, leases.held_items, leases.untaken_items) == (4, 4, 0)
    lend(leases, 1)
    assert leases.untaken_items == 1


@dataclass
class Model:
    """The same as a model of single items."""

    last: int = 0
    taken: int = 0
    here: set[int] = field(default_factory=set)

    def remove(self, first: int, last: int) -> list[int]:
        gone = sorted(position for position in self.here if first <= position <= last)
        self.here -= set(gone)
        return gone


spans = st.tuples(st.integers(1, 60), st.integers(0, 20))
steps = st.one_of(
    st.tuples(st.just("lend"), st.tuples(st.integers(1, 8), st.just(0))),
    st.tuples(st.just("take"), st.tuples(st.integers(0, 60), st.just(0))),
    st.tuples(st.just("remove"), spans),
)


@settings(max_examples=150)
@given(st.lists(steps, max_size=40))
def test_deliveries_behave_like_a_set_of_positions(
    history: list[tuple[str, tuple[int, int]]],
) -> None:
    leases, model = Deliveries(), Model()
    for step, (number, more) in history:
        if step == "lend":
            assert lend(leases, number) == model.last + 1
            model.here |= set(range(model.last + 1, model.last + number + 1))
            model.last += number
        elif step == "take":
            leases.take(number)
            model.taken = max(model.taken, min(number, model.last))
        else:
            removed = leases.remove(number, number + more)
            assert [item for run in removed for item in items_of(run)] == model.remove(number, number + more)
        check_leases(leases)
        untaken = {position for position in model.here if position > model.taken}
        assert (leases.last, leases.taken) == (model.last, model.taken)
        assert (leases.untaken_items, leases.held_items) == (len(untaken), len(model.here - untaken))
        assert leases.untaken_bytes == len(body_of(untaken))
