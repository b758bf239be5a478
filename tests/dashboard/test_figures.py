"""Durations in buckets, and failures in groups."""

from __future__ import annotations

import pytest

from nearfar.dashboard.figures import (
    BOUNDS,
    LONGEST_TEXT,
    MOST_EXAMINED,
    MOST_GROUPS,
    FailureGroups,
    Histogram,
    percentile,
    without_secrets,
)

pytestmark = pytest.mark.pure

TRACEBACK = """In worker 0.1 (pid 17 on desk):
Traceback (most recent call last):
  File "job.py", line {line}, in resize
    raise ValueError(path)
ValueError: {said}
"""


def traceback(said: str, line: int = 3) -> str:
    return TRACEBACK.format(said=said, line=line)


@pytest.mark.parametrize("seconds", [2e-5, 0.001, 0.3, 7.0, 1000.0])
def test_a_percentile_is_exact_to_a_bucket(seconds: float) -> None:
    found = Histogram()
    found.add(seconds, 1000)
    for part in (0.01, 0.5, 0.99):
        assert seconds / 2**0.5 <= percentile(found.buckets, part) <= seconds * 2**0.5


def test_percentiles_of_different_tasks_are_in_order() -> None:
    found = Histogram()
    found.add(0.001, 900)
    found.add(1.0, 90)
    found.add(60.0, 10)
    p50, p90, p99 = (percentile(found.buckets, part) for part in (0.5, 0.9, 0.99))
    assert p50 < 0.0015
    assert p50 < p90 < 0.0015
    assert 0.7 < p99 < 1.5
    assert percentile(found.buckets, 1.0) > 40
    assert found.sum == pytest.approx(0.9 + 90 + 600)


def test_durations_beyond_the_buckets_count() -> None:
    found = Histogram()
    found.add(0.0, 1)
    found.add(1e9, 1)
    assert (found.buckets[0], found.buckets[-1], len(found.buckets)) == (1, 1, len(BOUNDS) + 1)
    assert percentile([0] * len(found.buckets), 0.5) == 0.0


def test_a_snapshot_does_not_change() -> None:
    found = Histogram()
    before = found.status()
    found.add(1.0, 5)
    assert sum(before["buckets"]) == 0


def test_failures_at_one_place_are_one_group_whatever_they_say() -> None:
    groups = FailureGroups()
    for number in range(5):
        groups.add(traceback(f"no file {number}"), when=float(number))
    groups.add(traceback("no file 1", line=9), when=9.0)
    groups.add("WorkerLost: worker 0.1 (pid 17) was killed", when=10.0)
    groups.add("WorkerLost: worker 0.2 (pid 18) was killed", when=11.0)
    lost, other, first = groups.status()
    assert groups.count == 8
    assert (first["count"], first["last"], first["title"]) == (5, 4.0, "ValueError: no file 4")
    assert (other["count"], lost["count"]) == (1, 2)
    assert "line 3, in resize" in first["traceback"]
    assert "In worker" not in first["traceback"], "the process differs, and is no cause"


def test_the_same_text_counts_in_its_group_again() -> None:
    groups = FailureGroups()
    for number in range(1000):
        groups.add(traceback("always the same"), when=float(number))
    (only,) = groups.status()
    assert (only["count"], only["last"]) == (1000, 999.0)


def test_the_number_of_groups_and_their_length_are_bounded() -> None:
    groups = FailureGroups()
    for number in range(3 * MOST_GROUPS):
        groups.add(traceback("x" * 50_000, line=number), when=float(number))
    found = groups.status()
    assert len(found) == MOST_GROUPS
    assert found[0]["last"] == 3 * MOST_GROUPS - 1, "the latest stay"
    assert all(len(row["traceback"]) < LONGEST_TEXT + 100 for row in found)


def test_a_flood_of_different_texts_is_counted_and_not_examined() -> None:
    groups = FailureGroups()
    for number in range(10 * MOST_EXAMINED):
        groups.add(traceback(f"file {number}"), when=1.0)
    rest, examined = groups.status()
    assert examined["count"] == MOST_EXAMINED
    assert rest["count"] == 9 * MOST_EXAMINED
    assert "not examined" in rest["title"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://me:pass@host/a", "GET https://***@host/a"),
        ("token=abc123&x=1", "token=***&x=1"),
        ("{'api_key': 'abc', 'n': 1}", "{'api_key': '***', 'n': 1}"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("PASSWORD = hunter2", "PASSWORD = ***"),
        ("File 'a.py', line 3: 17 items", "File 'a.py', line 3: 17 items"),
    ],
)
def test_secrets_are_not_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize("text", ["", "\n", "   ", "a", "Traceback (most recent call last):"])
def test_odd_texts_are_counted(text: str) -> None:
    groups = FailureGroups()
    groups.add(text, 1.0)
    assert groups.status()[0]["count"] == 1
