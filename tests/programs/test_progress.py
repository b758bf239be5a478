"""Progress tells the truth, when it is due, to whom it suits."""

from __future__ import annotations

import io
import sys
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nearfar.programs import progress
from nearfar.programs.bars import Bars
from nearfar.programs.counts import Counts, Pace, describe, describe_pace, duration, size
from nearfar.programs.progress import Lines, Silent, make_progress


def test_every_ending_is_counted_and_named() -> None:
    counts = Counts(1200, 30, Counter({"http-4xx": 1, "dns": 3}), 26_123_000, 5000)
    assert describe(counts) == (
        "1,234 of 5,000: 1,200 saved, 30 already there, 4 failed (dns 3, http-4xx 1), 26.1 MB"
    )


def test_an_unknown_total_is_not_invented() -> None:
    pace = Pace()
    pace.note(Counts(), 0)
    counts = Counts(saved=7, bytes=999)
    assert describe(counts) == "7: 7 saved, 999 B"
    assert describe_pace(pace, counts, 2) == "3.5 files/s, 500 B/s"


def test_the_pace_is_that_of_the_last_seconds() -> None:
    """Given 100 files a second for 10 s and 10 a second since, I expect 10, and the rest at that."""
    pace = Pace(window=10)
    for second in range(31):
        counts = Counts(saved=100 * min(second, 10) + 10 * max(second - 10, 0), total=1300)
        pace.note(counts, second)
    assert pace.rates(counts, 30) == (10, 0)
    assert pace.left(counts, 30) == 10


def test_a_pace_of_nothing_promises_no_end() -> None:
    pace = Pace()
    assert pace.rates(Counts(total=5), 1) == (0, 0)
    pace.note(Counts(total=5), 1)
    assert pace.left(Counts(total=5), 60) is None


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(0, 1000)), min_size=1))
def test_no_history_gives_a_negative_pace(steps: list[tuple[float, int]]) -> None:
    pace, counts, now = Pace(), Counts(total=10**6), 0.0
    for pause, files in steps:
        now += pause
        counts.saved += files
        pace.note(counts, now)
        assert pace.rates(counts, now)[0] >= 0
        assert (pace.left(counts, now) or 0) >= 0


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_999, "1.0 MB"),
        (2**31, "2.1 GB"),
        (10**16, "10,000.0 TB"),
    ],
)
def test_sizes_are_in_powers_of_a_thousand(count: int, said: str) -> None:
    assert size(count) == said


@pytest.mark.parametrize(("seconds", "said"), [(28.4, "0:28"), (725, "12:05"), (10_800, "3:00:00")])
def test_durations_are_read_like_a_clock(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_lines_come_when_due_and_no_sooner() -> None:
    said: list[str] = []
    lines = Lines(every=10, say=said.append)
    for now in range(26):
        lines.show(Counts(saved=now * 20, bytes=now * 2_000_000, total=1000), now)
    lines.close(Counts(), 26)
    assert said == [
        "200 of 1,000: 200 saved, 20.0 MB; 20 files/s, 2.0 MB/s, 0:40 left",
        "400 of 1,000: 400 saved, 40.0 MB; 20 files/s, 2.0 MB/s, 0:30 left",
    ]


def test_bars_draw_the_counts_without_a_thread() -> None:
    screen = io.StringIO()
    threads = threading.active_count()
    bars = Bars(Console(file=screen, force_terminal=True, width=120))
    bars.show(Counts(total=None), 0)
    bars.show(Counts(saved=5, bytes=5000, total=10), 1)
    assert threading.active_count() == threads
    bars.show(Counts(saved=6, bytes=6000, total=10), 1.01)
    bars.close(Counts(saved=10, bytes=10_000, total=10), 2)
    drawn = screen.getvalue()
    assert "5 of 10: 5 saved, 5.0 kB; 5.0 files/s, 5.0 kB/s, 0:01 left" in drawn
    assert "6 of 10" not in drawn
    assert "10 of 10: 10 saved" in drawn


def test_bars_that_never_showed_leave_the_terminal_alone() -> None:
    screen = io.StringIO()
    Bars(Console(file=screen, force_terminal=True)).close(Counts(), 1)
    assert screen.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_who_gets_to_see_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(make_progress(quiet=True), Silent)
    assert isinstance(make_progress(quiet=False), Bars)
    assert isinstance(make_progress(quiet=False, log_format="json"), Lines)
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    assert isinstance(make_progress(quiet=False), Lines)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(make_progress(quiet=False), Lines)
