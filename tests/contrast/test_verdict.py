"""What a fault did, judged from diaries."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.contrast import diary
from nearfar.contrast.diary import Diary, Entry
from nearfar.contrast.faults.verdict import Verdict, judge, longest_pause

pytestmark = pytest.mark.pure

NUMBERS = st.lists(st.integers(0, 30), max_size=40)


def entries(*numbers: int, since: float = 0.0) -> list[Entry]:
    """One a second."""
    return [Entry(number, since + index) for index, number in enumerate(numbers)]


def test_what_never_came_is_lost() -> None:
    got = entries(0, 2)
    verdict = judge(entries(0, 1, 2), got, got, struck=0.5, ended=9.0, held=0)
    assert (verdict.received, verdict.lost, verdict.stuck, verdict.duplicated) == (2, 1, 0, 0)
    assert verdict.stuck_for == 0.0


def test_what_came_after_the_thaw_was_stuck_until_then() -> None:
    early, late = entries(0, 1), entries(2, 3, since=7.0)
    verdict = judge(entries(0, 1, 2, 3), early, early + late, struck=1.0, ended=20.0, held=0)
    assert (verdict.received, verdict.lost, verdict.stuck, verdict.stuck_for) == (2, 0, 2, 7.0)


def test_what_is_still_held_is_stuck_to_the_end_of_watching() -> None:
    verdict = judge(entries(0, 1, 2), entries(0), entries(0), struck=1.0, ended=4.5, held=1 << 60)
    assert (verdict.lost, verdict.stuck, verdict.stuck_for) == (0, 2, 3.5)


def test_a_queue_that_counts_too_many_holds_no_more_than_is_missing() -> None:
    verdict = judge(entries(0, 1, 2), entries(0, 1), entries(0, 1), struck=0.0, ended=1.0, held=50)
    assert (verdict.lost, verdict.stuck) == (0, 1)


def test_an_item_handled_twice_is_received_once() -> None:
    got = entries(0, 1, 1)
    verdict = judge(entries(0, 1), got, got, struck=0.0, ended=3.0, held=0)
    assert (verdict.received, verdict.duplicated) == (2, 1)


@given(NUMBERS, NUMBERS, NUMBERS, st.integers(0, 50))
def test_every_item_is_received_or_lost_or_stuck(
    sent: list[int], early: list[int], late: list[int], held: int
) -> None:
    verdict = judge(
        entries(*sent), entries(*early), entries(*early, *late), struck=0.0, ended=99.0, held=held
    )
    assert verdict.received + verdict.lost + verdict.stuck == verdict.sent == len(set(sent))
    assert min(verdict.received, verdict.lost, verdict.stuck, verdict.duplicated) >= 0


def test_counts_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="do not add up"):
        Verdict(sent=3, received=1, lost=1, stuck=0, duplicated=0, pause=0.0, stuck_for=0.0)


def test_a_pause_is_counted_from_the_fault_on() -> None:
    arrivals = [Entry(0, 0.0), Entry(1, 10.0), Entry(2, 11.0)]
    assert longest_pause(arrivals, since=0.0) == 10.0
    assert longest_pause(arrivals, since=8.0) == 2.0
    assert longest_pause(arrivals, since=12.0) == 0.0


def test_a_diary_is_there_while_it_is_written_and_ignores_half_a_record(tmp_path: Path) -> None:
    path = tmp_path / "diary"
    assert (diary.read(path), diary.length(path)) == ([], 0)
    mine = Diary(path)
    mine.write(7)
    mine.write(diary.HELLO)
    with path.open("ab") as file:
        file.write(b"half")
    mine.close()
    assert [entry.number for entry in diary.read(path)] == [7, diary.HELLO]
    assert diary.length(path) == 2
