"""Which producer replaces which, if a loss is detected late, or was a mistake."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.queues.broker import ledger as module
from nearfar.queues.broker.ledger import ProducerRegistry
from nearfar.queues.broker.records import ProducerRecord, ProducerState

pytestmark = pytest.mark.pure


class Hall:
    """A producer registry, its producers by name, and when each was lost."""

    def __init__(self, expected: int) -> None:
        self.producer_registry = ProducerRegistry(expected)
        self.producers: dict[str, ProducerRecord] = {}
        self.arrived: dict[str, float] = {}
        self.missing: dict[str, tuple[int, float]] = {}
        """The place of the first new producer after each, and when it was last heard."""

    def enter(self, name: str, now: float) -> None:
        self.producer_registry.enter(
            self.producers.setdefault(name, ProducerRecord(name, ProducerState.GONE)), now
        )
        self.arrived.setdefault(name, now)
        self.missing.pop(name, None)

    def leave(self, name: str, state: ProducerState, heard: float | None = None) -> None:
        if state is ProducerState.LOST and self.producers[name].state is ProducerState.OPEN:
            later = list(self.arrived).index(name) + 1
            self.missing[name] = (len(self.arrived), 0.0) if heard is None else (later, heard)
        self.producer_registry.leave(self.producers[name], state, heard)

    def most_replaced(self) -> int:
        """How many lost producers can be paired with different new producers that came after them."""
        order = list(self.arrived)
        taken: dict[str, str] = {}

        def place(name: str, tried: set[str]) -> bool:
            first, heard = self.missing[name]
            for other in order[first:]:
                if self.arrived[other] >= heard and other not in tried:
                    tried.add(other)
                    if other not in taken or place(taken[other], tried):
                        taken[other] = name
                        return True
            return False

        return sum(place(name, set()) for name in self.missing)


def test_a_producer_that_returns_frees_its_replacement_for_another() -> None:
    """Given a host that was suspended while one of two producers was killed and started again,

    If the other's old session ends first and is paired with the new one, and the other returns, I expect the
    new one to replace the killed one.
    """
    hall = Hall(expected=2)
    hall.enter("killed", 1.0)
    hall.enter("other", 1.0)
    hall.enter("again", 4.0)
    hall.leave("other", ProducerState.LOST, 2.0)
    assert hall.producer_registry.lost == []
    hall.enter("other", 4.0)
    hall.leave("killed", ProducerState.LOST, 2.0)
    assert hall.producer_registry.lost == []
    hall.leave("again", ProducerState.GONE)
    assert not hall.producer_registry.over()
    hall.leave("other", ProducerState.GONE)
    assert hall.producer_registry.over()


def test_no_producer_replaces_itself_or_a_later_one() -> None:
    hall = Hall(expected=2)
    for name in "pq":
        hall.enter(name, 1.0)
    hall.leave("q", ProducerState.LOST, 1.0)
    assert hall.producer_registry.lost == ["q"]
    assert not hall.producer_registry.over()


@given(data=st.data())
def test_as_many_are_replaced_as_can_be_whatever_the_order(data: st.DataObject) -> None:
    hall = Hall(expected=0)
    now = 0.0
    for number in range(data.draw(st.integers(1, 25), "steps")):
        now += data.draw(st.sampled_from([0.0, 1.0]), "pause")
        known = sorted(hall.producers)
        here = [name for name in known if hall.producers[name].state is ProducerState.OPEN]
        match data.draw(st.sampled_from(["new", "lost", "lost", "back", "gone"]), "what"):
            case "lost" if here:
                earlier = st.floats(0, now).map(round) | st.none()
                hall.leave(data.draw(st.sampled_from(here)), ProducerState.LOST, data.draw(earlier, "heard"))
            case "gone" if here:
                hall.leave(data.draw(st.sampled_from(here)), ProducerState.GONE)
            case "back" if known:
                hall.enter(data.draw(st.sampled_from(known)), now)
            case _:
                hall.enter(f"p{number}", now)
        lost = hall.producer_registry.lost
        assert set(lost) <= set(hall.missing)
        assert len(lost) == len(hall.missing) - hall.most_replaced()
        some = any(producer.state is ProducerState.OPEN for producer in hall.producers.values())
        assert hall.producer_registry.over() == (not some)


def test_the_memory_of_new_producers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given more new producers than are remembered, each replaced by the next one, I expect them to count as
    one."""
    monkeypatch.setattr(module, "MOST_ARRIVALS", 10)
    hall = Hall(expected=1)
    for number in range(100):
        hall.enter(f"p{number}", float(number))
        assert not hall.producer_registry.over()
        hall.leave(f"p{number}", ProducerState.GONE if number == 99 else ProducerState.LOST, float(number))
        assert len(hall.producer_registry._arrivals) <= 10
        assert len(hall.producer_registry._absent) <= 11
    assert (hall.producer_registry.lost, hall.producer_registry.over()) == ([], True)
