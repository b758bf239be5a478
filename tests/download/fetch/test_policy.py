"""When to try again, what may start, and how fast: without waiting for any of it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.download.fetch.base import Trouble, from_curl, from_status
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.fetch.schedule import REMEMBERED, Schedule
from nearfar.download.fetch.transfer import (
    DNS_TRIES,
    Gains,
    HostConcurrency,
    Throttle,
    backoff,
    park,
    worth_another,
)
from nearfar.download.model import Reason

pytestmark = pytest.mark.pure


@pytest.mark.parametrize("tried", [1, 2, 5, 10, 5000])
def test_backoff_doubles_up_to_its_cap_with_full_jitter(tried: int) -> None:
    options = FetchOptions(backoff=0.5, backoff_cap=60)
    rng = Random(tried)
    waits = [backoff(tried, options, rng) for _ in range(500)]
    ceiling = min(60, 0.5 * 2 ** min(tried - 1, 20))
    assert min(waits) < 0.05 * ceiling and 0.95 * ceiling < max(waits) <= ceiling


def test_backoff_repeats_with_its_seed() -> None:
    options = FetchOptions()
    assert backoff(3, options, Random(1)) == backoff(3, options, Random(1))


def test_tries_are_counted_and_a_name_gets_fewer() -> None:
    options = FetchOptions(tries=4)
    passing = Trouble(Reason.HTTP_5XX, "", transient=True)
    assert [worth_another(passing, n, options) for n in (1, 3, 4)] == [True, True, False]
    name = Trouble(Reason.DNS, "", transient=True)
    assert [worth_another(name, n, options) for n in (DNS_TRIES - 1, DNS_TRIES)] == [True, False]
    assert not worth_another(Trouble(Reason.TLS, ""), 1, options)


def test_gains_must_be_worth_their_while() -> None:
    options, cut = FetchOptions(), Trouble(Reason.TRUNCATED, "", transient=True)
    slow = Trouble(Reason.TIMEOUT, "", transient=True)
    assert Gains().note(1, cut, options) and not Gains().note(0, cut, options)
    assert not Gains().note(2999, slow, options) and Gains().note(3000, slow, options)
    assert not Gains().note(10**6, Trouble(Reason.CHECKSUM, ""), options)
    gains = Gains()
    assert [gains.note(came, cut, options) for came in (10, 10, 5, 11)] == [True, False, False, True]


def test_a_host_is_parked_as_long_as_it_asked_up_to_the_cap() -> None:
    options = FetchOptions(retry_after_cap=10)
    assert [park(from_status(503, "", wait), options) for wait in (None, 3.0, 99.0)] == [0.0, 3.0, 10.0]


@pytest.mark.parametrize(
    ("code", "answered", "reason", "transient"),
    [
        (5, False, Reason.DNS, True),
        (6, False, Reason.DNS, True),
        (7, False, Reason.CONNECT, True),
        (28, True, Reason.TIMEOUT, True),
        (35, False, Reason.TLS, True),
        (60, False, Reason.TLS, False),
        (77, False, Reason.TLS, False),
        (18, True, Reason.TRUNCATED, True),
        (18, False, Reason.TRUNCATED, True),
        (52, False, Reason.CONNECT, True),
        (56, False, Reason.CONNECT, True),
        (56, True, Reason.TRUNCATED, True),
        (92, True, Reason.TRUNCATED, True),
        (1, False, Reason.REJECTED, False),
        (8, False, Reason.REJECTED, False),
    ],
)
def test_codes_of_libcurl_by_reason(code: int, answered: bool, reason: Reason, transient: bool) -> None:
    trouble = from_curl(code, "", answered)
    assert (trouble.reason, trouble.transient) == (reason, transient)
    assert trouble.detail == f"libcurl error {code}"


def test_nonsense_is_tried_again_only_behind_another_answer() -> None:
    """It may be the rest of an answer that was longer than its server said."""
    for code, reused, transient in ((1, True, True), (8, True, True), (1, False, False), (3, True, False)):
        trouble = from_curl(code, "", answered=False, reused=reused)
        assert (trouble.reason, trouble.transient) == (Reason.REJECTED, transient)


def test_a_field_without_end_is_too_large() -> None:
    trouble = from_curl(100, "", answered=False)
    assert (trouble.reason, trouble.transient) == (Reason.TOO_LARGE, False)


def test_a_phrase_of_the_server_is_shown_on_one_short_line() -> None:
    detail = from_status(404, "No\x1b[31m\r\n" + "x" * 500, None).failure().detail
    assert detail.isprintable() and len(detail) <= 100


def test_the_throttle_makes_up_for_what_came() -> None:
    throttle = Throttle(100, now=0.0)
    throttle.spend(50)
    assert throttle.wait(0.0) == pytest.approx(0.5)
    assert throttle.wait(0.3) == pytest.approx(0.2)
    throttle.spend(100)
    assert throttle.wait(0.5) == pytest.approx(1.0)
    assert throttle.wait(9.0) == 0.0
    throttle.spend(100)
    assert throttle.wait(9.0) == pytest.approx(1.0), "an idle time allows no burst"
    assert Throttle(None, now=0.0).wait(1.0) == 0.0


def take_all(schedule: Schedule[str], now: float) -> list[str]:
    taken = []
    while (found := schedule.take(now)) is not None:
        taken.append(found[1])
    return taken


def test_hosts_take_turns_within_the_limits() -> None:
    schedule: Schedule[str] = Schedule(total=5, per_host=3)
    for item in ("a1", "a2", "a3", "a4", "b1", "b2"):
        schedule.add(item[0], item)
    assert take_all(schedule, 1.0) == ["a1", "b1", "a2", "b2", "a3"]
    schedule.release("b")
    assert take_all(schedule, 1.0) == []
    schedule.release("a")
    assert take_all(schedule, 1.0) == ["a4"]


def test_a_parked_host_waits_and_others_do_not() -> None:
    schedule: Schedule[str] = Schedule(total=9, per_host=9)
    schedule.add("a", "a1")
    schedule.add("b", "b1")
    schedule.park("a", 5.0)
    schedule.park("a", 3.0)
    assert take_all(schedule, 1.0) == ["b1"]
    schedule.add("a", "a2")
    assert take_all(schedule, 4.9) == []
    assert schedule.deadline() == 5.0
    assert take_all(schedule, 5.0) == ["a1", "a2"]
    assert schedule.deadline() is None


def test_what_waits_for_its_time_goes_before_what_is_new() -> None:
    schedule: Schedule[str] = Schedule(total=9, per_host=9)
    schedule.add_later("a", "again", 2.0)
    schedule.add("a", "new")
    schedule.add("a", "hop", first=True)
    assert schedule.deadline() == 2.0
    assert take_all(schedule, 1.0) == ["hop", "new"]
    schedule.add("a", "newer")
    assert take_all(schedule, 2.0) == ["again", "newer"]


def test_a_host_that_complains_gets_half_and_then_one_more_a_round() -> None:
    pace = HostConcurrency(8)
    pace.slow_down()
    assert pace.window == 4
    for _ in range(4):
        pace.answered()
    assert pace.window == 4, "a round is as many answers as there are requests"
    pace.answered()
    assert pace.window == 5
    for _ in range(20):
        pace.slow_down()
    assert pace.window == 1 and not pace.calm
    for _ in range(100):
        pace.answered()
    assert pace.window == 8 and pace.calm


def test_one_burst_of_complaints_halves_once() -> None:
    schedule: Schedule[str] = Schedule(total=20, per_host=8)
    for n in range(20):
        schedule.add("a", f"a{n}")
    assert len(take_all(schedule, 1.0)) == 8
    for _ in range(8):
        schedule.put_off("a", 1.0, 2.0)
        schedule.release("a")
    assert take_all(schedule, 2.9) == [] and schedule.deadline() == 3.0
    assert len(take_all(schedule, 3.0)) == 4
    schedule.put_off("a", 3.5, 1.0)
    for _ in range(4):
        schedule.release("a")
    assert len(take_all(schedule, 4.5)) == 2


def test_the_patience_of_a_host_is_counted_from_its_last_answer() -> None:
    schedule: Schedule[str] = Schedule(total=20, per_host=8)
    for n in range(9):
        schedule.add("a", f"a{n}")
    take_all(schedule, 1.0)
    assert [schedule.put_off("a", at, 2.0) for at in (1.0, 3.0, 5.0)] == [2.0, 4.0, 6.0]
    schedule.release("a", answered=True)
    assert schedule.put_off("a", 9.0, 2.0) == 2.0


def test_an_idle_host_is_remembered_for_a_while() -> None:
    schedule: Schedule[str] = Schedule(total=20, per_host=8)
    schedule.add("a", "first")
    take_all(schedule, 1.0)
    schedule.put_off("a", 1.0, 1.0)
    schedule.release("a")
    schedule.take(2.0)
    for n in range(8):
        schedule.add("a", f"a{n}")
    assert len(take_all(schedule, 2.0)) == 4
    for _ in range(4):
        schedule.release("a")
    take_all(schedule, 2.0)
    for _ in range(4):
        schedule.release("a")
    assert schedule._hosts
    schedule.take(2.0 + REMEMBERED)
    assert not schedule._hosts


def test_a_schedule_is_hungry_only_where_more_would_help() -> None:
    schedule: Schedule[str] = Schedule(total=3, per_host=2)
    assert schedule.has_capacity
    for n in range(4):
        schedule.add("a", f"a{n}")
    assert not schedule.has_capacity, "something can start"
    assert take_all(schedule, 1.0) == ["a0", "a1"] and schedule.has_capacity
    schedule.add("b", "b0")
    assert take_all(schedule, 1.0) == ["b0"] and not schedule.has_capacity, "every place is taken"
    schedule.release("b")
    schedule.park("b", 9.0)
    schedule.add("b", "b1")
    assert schedule.has_capacity


def test_what_waits_is_taken_back_and_what_runs_is_not() -> None:
    schedule: Schedule[str] = Schedule(total=3, per_host=1)
    for item in ("a0", "a1", "b0"):
        schedule.add(item[0], item)
    schedule.add_later("c", "c0", 5.0)
    schedule.park("b", 9.0)
    assert take_all(schedule, 1.0) == ["a0"]
    assert sorted(schedule.take_back()) == ["a1", "b0", "c0"]
    schedule.release("a")
    assert take_all(schedule, 99.0) == [] and not schedule._hosts


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["add", "first", "later", "park", "take", "release", "put off", "slow down", "answered"]
        ),
        st.integers(0, 3),
    )
)


@given(STEPS, st.integers(1, 4), st.integers(1, 3))
def test_any_history_keeps_the_limits_and_loses_nothing(
    steps: list[tuple[str, int]], total: int, per_host: int
) -> None:
    schedule: Schedule[int] = Schedule(total, per_host)
    active: list[str] = []
    parked: dict[str, float] = {}
    added, started, now = 0, set[int](), 1.0
    for step, number in steps:
        host = f"host {number}"
        now += 0.5
        if step in ("add", "first"):
            schedule.add(host, added, first=step == "first")
            added += 1
        elif step == "later":
            schedule.add_later(host, added, now + number)
            added += 1
        elif step == "park":
            schedule.park(host, now + number)
            parked[host] = max(parked.get(host, 0.0), now + number)
        elif step == "put off":
            schedule.put_off(host, now, number)
            parked[host] = max(parked.get(host, 0.0), now + number)
        elif step == "slow down":
            schedule.slow_down(host, now)
        elif step in ("answered", "release") and active:
            schedule.release(active.pop(number % len(active)), answered=step == "answered")
        elif step == "take" and (taken := schedule.take(now)) is not None:
            assert taken[1] not in started
            assert parked.get(taken[0], 0.0) <= now
            started.add(taken[1])
            active.append(taken[0])
            assert len(active) <= total and active.count(taken[0]) <= per_host
    while len(started) < added:
        now += 10
        while active:
            schedule.release(active.pop())
        taken = schedule.take(now)
        assert taken is not None, "an item is stuck"
        started.add(taken[1])
        active.append(taken[0])
    while active:
        schedule.release(active.pop())
    schedule.take(now + 10 + REMEMBERED)
    assert not schedule._hosts, "an idle host stays in memory"


@pytest.mark.parametrize(
    "settings",
    [
        {"connections": 0},
        {"connections": 501},
        {"per_host": 0},
        {"tries": 0},
        {"connect_timeout": 0},
        {"rate": 0},
        {"max_size": -1},
        {"redirects": -1},
        {"retry_after_cap": -1},
        {"wait_for_host": -1},
        {"http": "3"},
        {"headers": (("Bad Name", "x"),)},
        {"headers": (("X", "a\r\nY: b"),)},
        {"headers": (("X", "€"),)},
        {"headers": (("Range", "bytes=0-"),)},
        {"headers": (("accept-encoding", "gzip"),)},
        {"user_agent": "a\nb"},
    ],
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        FetchOptions(**settings)  # type: ignore[arg-type]
