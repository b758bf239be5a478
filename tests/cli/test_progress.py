"""Progress is shown correctly, at the right times, in the form that suits the output."""

from __future__ import annotations

import io
import re
import sys
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nearfar.cli import display
from nearfar.cli.bars import ProgressBars
from nearfar.cli.display import NoProgress, ProgressLines, make_progress
from nearfar.cli.progress import (
    Counts,
    TransferRate,
    describe,
    describe_briefly,
    describe_rate,
    duration,
    size,
)


def test_every_ending_is_counted_and_named() -> None:
    counts = Counts(1200, 30, Counter({"http-4xx": 1, "dns": 3}), 26_123_000, 5000)
    assert describe(counts) == (
        "1,234 of 5,000: 1,200 saved, 30 already there, 4 failed (dns 3, http-4xx 1), 26.1 MB"
    )


def test_an_unknown_total_is_not_invented() -> None:
    pace = TransferRate()
    pace.note(Counts(), 0)
    counts = Counts(saved=7, size=999)
    assert describe(counts) == "7: 7 saved, 999 B"
    assert describe_rate(pace, counts, 2) == "3.5 files/s, 500 B/s"


def test_the_rate_is_that_of_the_last_seconds() -> None:
    """Given 100 files a second for 10 s and 10 a second since, I expect 10, and the rest at that."""
    pace = TransferRate(window=10)
    for second in range(31):
        counts = Counts(saved=100 * min(second, 10) + 10 * max(second - 10, 0), total=1300)
        pace.note(counts, second)
    assert pace.rates(counts, 30) == (10, 0)
    assert pace.left(counts, 30) == 10


def test_a_rate_of_zero_shows_no_time_left() -> None:
    pace = TransferRate()
    assert pace.rates(Counts(total=5), 1) == (0, 0)
    pace.note(Counts(total=5), 1)
    assert pace.left(Counts(total=5), 60) is None


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(0, 1000)), min_size=1))
def test_no_history_gives_a_negative_rate(steps: list[tuple[float, int]]) -> None:
    pace, counts, now = TransferRate(), Counts(total=10**6), 0.0
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
    lines = ProgressLines(every=10, say=said.append)
    for now in range(26):
        lines.show(Counts(saved=now * 20, size=now * 2_000_000, total=1000), now)
    lines.close(Counts(), 26)
    assert said == [
        "200 of 1,000: 200 saved, 20.0 MB; 20 files/s, 2.0 MB/s, 0:40 left",
        "400 of 1,000: 400 saved, 40.0 MB; 20 files/s, 2.0 MB/s, 0:30 left",
    ]


def test_bars_draw_the_counts_without_a_thread() -> None:
    screen = io.StringIO()
    threads = threading.active_count()
    bars = ProgressBars(Console(file=screen, force_terminal=True, width=120))
    bars.show(Counts(total=None), 0)
    bars.show(Counts(saved=5, size=5000, total=10), 1)
    assert threading.active_count() == threads
    bars.show(Counts(saved=6, size=6000, total=10), 1.01)
    bars.close(Counts(saved=10, size=10_000, total=10), 2)
    drawn = screen.getvalue()
    assert "5 of 10: 5 saved, 5.0 kB; 5.0 files/s, 5.0 kB/s, 0:01 left" in drawn
    assert "6 of 10" not in drawn
    assert "10 of 10: 10 saved" in drawn


def test_bars_that_were_never_shown_leave_the_terminal_alone() -> None:
    screen = io.StringIO()
    ProgressBars(Console(file=screen, force_terminal=True)).close(Counts(), 1)
    assert screen.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_form_of_progress_depends_on_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(make_progress(quiet=True), NoProgress)
    assert isinstance(make_progress(quiet=False), ProgressBars)
    assert isinstance(make_progress(quiet=False, log_format="json"), ProgressLines)
    monkeypatch.setattr(display.importlib.util, "find_spec", lambda name: None)
    assert isinstance(make_progress(quiet=False), ProgressLines)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(make_progress(quiet=False), ProgressLines)


def test_parts_of_files_count_for_the_rate_and_the_time_left() -> None:
    """Given one large file at a steady rate, I expect bytes, rate and time left from the beginning."""
    pace = TransferRate()
    for second in range(6):
        counts = Counts(size=300_000 * second, total=1, underway=second / 20, waits_for="host")
        pace.note(counts, second)
    assert describe(counts) == "0 of 1: 0 saved, 1.5 MB"
    assert describe_rate(pace, counts, 5) == "0.1 files/s, 300.0 kB/s, 0:15 left"


def test_an_outage_is_shown_without_a_time_left() -> None:
    pace, counts = TransferRate(), Counts(saved=0, total=1000, waits_for="host")
    for second in range(10):
        counts.saved, counts.bytes = 10 * second, 1000 * second
        pace.note(counts, second)
    said = []
    for second in range(10, 40):
        pace.note(counts, second)
        said.append(describe_rate(pace, counts, second))
    assert all("left" in each and "answered" not in each for each in said[:4])
    assert all("left" not in each for each in said[4:])
    assert said[4].endswith("no host has answered for 5 s") and said[-1].endswith("answered for 30 s")
    assert said[-1].startswith("0.0 files/s, 0 B/s, ")
    counts.saved += 1
    pace.note(counts, 40)
    assert "answered" not in describe_rate(pace, counts, 40)


def test_a_peer_that_does_not_answer_is_named_if_the_job_waits_for_it() -> None:
    for waits_for, expected in (("consumer", True), ("worker", True), ("", False)):
        pace, counts = TransferRate(), Counts(total=5, waits_for=waits_for)
        pace.note(counts, 0)
        pace.note(counts, 7)
        assert (f"no {waits_for} has answered for 7 s" in describe_rate(pace, counts, 7)) is expected


def test_a_meaningless_time_left_is_not_shown() -> None:
    pace, counts = TransferRate(window=100), Counts(total=10**6)
    pace.note(counts, 0)
    counts.saved = 1
    pace.note(counts, 50)
    assert pace.left(counts, 50) is None


def test_bytes_of_a_file_that_failed_make_no_negative_rate() -> None:
    pace = TransferRate()
    pace.note(Counts(size=1000, underway=0.5), 0)
    assert pace.rates(Counts(size=0), 1) == (0, 0)


def test_a_bar_grows_with_parts_of_files() -> None:
    screen = io.StringIO()
    bars = ProgressBars(Console(file=screen, force_terminal=True, width=120, color_system=None))
    bars.show(Counts(total=1), 0)
    bars.show(Counts(size=500, total=1, underway=0.5, waits_for="host"), 1)
    assert screen.getvalue().rpartition("\r")[2].count("━") == 24 // 2
    bars.show(Counts(size=500, total=1, underway=0.5, waits_for="host"), 8)
    bars.close(Counts(saved=1, size=1000, total=1), 9)
    assert "no host has answered for 7 s" in screen.getvalue()


def drawn(width: int, counts: Counts, height: int = 25) -> list[str]:
    """The lines of a drawing on a terminal of this size, without control sequences."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, height=height, color_system=None)
    bars = ProgressBars(console)
    bars.show(Counts(), 0)
    bars.show(counts, 1)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    return text.rpartition("\r")[2].splitlines()


FULL = Counts(
    1200,
    30,
    Counter({"http-4xx": 1, "dns": 3, "connect": 4, "timeout": 20}),
    26_123_000_000,
    5000,
    2.5,
    "host",
    [(f"a-rather-long-folder/file-{number}.iso", 5_000_000 * number, 10**8) for number in range(7)]
    + [("\x1b[2Junknown\n.bin", 5_000_000, None)],
)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("stopping", [False, True])
def test_no_line_of_the_bars_is_wider_than_the_terminal(width: int, stopping: bool) -> None:
    FULL.stopping = stopping
    lines = drawn(width, FULL)
    assert len(lines) == 9
    assert all(len(f"{line}^C") < width for line in lines)
    assert ("stopping" in lines[0]) is stopping or width == 20
    assert "1,258 of 5,000" in lines[0] or width == 20
    assert all("MB" in line or "B of" in line for line in lines[1:]) or width == 20


def test_a_large_file_has_a_bar_with_its_size_and_name() -> None:
    lines = drawn(80, FULL)
    assert lines[3].rstrip().endswith("10.0 MB of 100.0 MB  a-rather-long-folder/file-2.iso")
    assert lines[8].rstrip().endswith(r"5.0 MB  \x1b[2Junknown\n.bin")


def test_a_low_terminal_shows_fewer_files() -> None:
    assert len(drawn(80, FULL, height=6)) == 4


@given(st.integers(1, 120), st.booleans())
def test_a_description_is_the_longest_that_fits(room: int, stopping: bool) -> None:
    rate = TransferRate()
    rate.note(Counts(), 0)
    FULL.stopping = stopping
    said = describe_briefly(rate, FULL, 2, room)
    assert len(said) <= room or said.endswith("1,258 of 5,000")
    wider = describe_briefly(rate, FULL, 2, room + 40)
    assert len(wider) >= len(said)


def test_the_cursor_stays_visible() -> None:
    screen = io.StringIO()
    bars = ProgressBars(Console(file=screen, force_terminal=True, width=80))
    assert not bars.live
    bars.show(Counts(), 0)
    assert bars.live
    assert screen.getvalue().rfind("\x1b[?25h") > screen.getvalue().rfind("\x1b[?25l")
    bars.close(Counts(), 1)
    assert not bars.live


@pytest.mark.parametrize(
    ("how", "quiet", "kind"),
    [
        ("off", False, NoProgress),
        ("plain", True, ProgressLines),
        ("plain", False, ProgressLines),
        ("bar", True, ProgressBars),
        ("bar", False, ProgressBars),
        ("auto", True, NoProgress),
        ("auto", False, ProgressLines),
    ],
)
def test_the_user_chooses_the_form_of_progress(how: str, quiet: bool, kind: type) -> None:
    assert isinstance(make_progress(how, quiet=quiet), kind)


def test_a_bar_without_rich_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--progress bar needs rich: pip install 'nearfar\[download\]'"):
        make_progress("bar")
