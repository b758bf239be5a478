"""The effects of a fault, computed from event logs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.contrast.processes import GREETED, Event, EventLog, count_events, read_events
from nearfar.contrast.verdict import Verdict, judge, longest_pause

pytestmark = pytest.mark.pure

NUMBERS = st.lists(st.integers(0, 30), max_size=40)


def events(*numbers: int, since: float = 0.0) -> list[Event]:
    """One a second."""
    return [Event(number, since + index) for index, number in enumerate(numbers)]


def test_what_never_came_is_lost() -> None:
    got = events(0, 2)
    verdict = judge(events(0, 1, 2), got, got, happened=0.5, ended=9.0, held=0)
    assert (verdict.received, verdict.lost, verdict.stuck, verdict.duplicated) == (2, 1, 0, 0)
    assert verdict.stuck_for == 0.0


def test_what_came_after_the_victim_was_resumed_was_stuck_until_then() -> None:
    early, late = events(0, 1), events(2, 3, since=7.0)
    verdict = judge(events(0, 1, 2, 3), early, early + late, happened=1.0, ended=20.0, held=0)
    assert (verdict.received, verdict.lost, verdict.stuck, verdict.stuck_for) == (2, 0, 2, 7.0)


def test_what_is_still_held_is_stuck_to_the_end_of_watching() -> None:
    verdict = judge(events(0, 1, 2), events(0), events(0), happened=1.0, ended=4.5, held=1 << 60)
    assert (verdict.lost, verdict.stuck, verdict.stuck_for) == (0, 2, 3.5)


def test_a_queue_that_counts_too_many_holds_no_more_than_is_missing() -> None:
    verdict = judge(events(0, 1, 2), events(0, 1), events(0, 1), happened=0.0, ended=1.0, held=50)
    assert (verdict.lost, verdict.stuck) == (0, 1)


def test_an_item_handled_twice_is_received_once() -> None:
    got = events(0, 1, 1)
    verdict = judge(events(0, 1), got, got, happened=0.0, ended=3.0, held=0)
    assert (verdict.received, verdict.duplicated) == (2, 1)


@given(NUMBERS, NUMBERS, NUMBERS, st.integers(0, 50))
def test_every_item_is_received_or_lost_or_stuck(
    sent: list[int], early: list[int], late: list[int], held: int
) -> None:
    verdict = judge(events(*sent), events(*early), events(*early, *late), happened=0.0, ended=99.0, held=held)
    assert verdict.received + verdict.lost + verdict.stuck == verdict.sent == len(set(sent))
    assert min(verdict.received, verdict.lost, verdict.stuck, verdict.duplicated) >= 0


def test_counts_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="do not add up"):
        Verdict(sent=3, received=1, lost=1, stuck=0, duplicated=0, pause=0.0, stuck_for=0.0)


def test_a_pause_is_counted_from_the_fault_on() -> None:
    arrivals = [Event(0, 0.0), Event(1, 10.0), Event(2, 11.0)]
    assert longest_pause(arrivals, since=0.0) == 10.0
    assert longest_pause(arrivals, since=8.0) == 2.0
    assert longest_pause(arrivals, since=12.0) == 0.0


def test_an_event_log_can_be_read_while_it_is_written_and_ignores_half_a_record(tmp_path: Path) -> None:
    path = tmp_path / "events"
    assert (read_events(path), count_events(path)) == ([], 0)
    log = EventLog(path)
    log.write(7)
    log.write(GREETED)
    with path.open("ab") as file:
        file.write(b"half")
    log.close()
    assert [event.number for event in read_events(path)] == [7, GREETED]
    assert count_events(path) == 2
