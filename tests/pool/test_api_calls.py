"""`apply` and `apply_async`, over every pool."""

from __future__ import annotations

import multiprocessing
import re
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from tests.pool import tasks
from tests.pool.pools import Maker
from tests.support.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def test_apply_returns_the_value(pool: Any) -> None:
    assert pool.apply(tasks.square, (3,)) == 9
    assert pool.apply(tasks.square, [3], {"plus": 1}) == 10
    assert pool.apply(tasks.square, (), {"x": 4}) == 16


def test_apply_raises_the_error_with_the_workers_traceback(pool: Any, maker: Maker) -> None:
    with pytest.raises(maker.trouble) as caught:
        pool.apply(tasks.fail, ("here",))
    assert caught.value.args[-1] == "here"
    if maker.name not in ("threads", "shared"):
        assert type(caught.value.__cause__) is multiprocessing.pool.RemoteTraceback
        assert "raise Trouble(x)" in str(caught.value.__cause__)


@pytest.mark.usefixtures("ours")
def test_the_workers_traceback_shows_its_place(pool: Any, maker: Maker) -> None:
    if not (maker.kills or maker.name == "dask"):
        pytest.skip("the workers of foreign executors do not know their names")
    with pytest.raises(maker.trouble) as caught:
        pool.apply(tasks.fail, ("here",))
    with pytest.raises(maker.trouble) as in_map:
        pool.map(tasks.fail, ("here",))
    for error in (caught.value, in_map.value):
        assert re.search(r"In worker \S+ \(pid \d+ on \S+\):\nTraceback ", str(error.__cause__))


def test_a_call_that_cannot_be_pickled_is_its_own_error_and_the_pool_goes_on(pool: Any, maker: Maker) -> None:
    if maker.name not in ("threads", "shared"):
        with pytest.raises(Exception, match=r"pickle|lock"):
            pool.apply(tasks.square, (threading.Lock(),))
    assert pool.apply(tasks.square, (2,)) == 4


def test_a_result_reports_its_state(pool: Any, gate: Path) -> None:
    result = pool.apply_async(tasks.wait_for, (str(gate), 7))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.01)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0)
    result.wait(0.01)
    gate.touch()
    result.wait()
    assert result.ready()
    assert result.successful()
    assert result.get() == result.get(timeout=0) == 7


def test_a_failed_result_is_not_successful_and_raises_each_time(pool: Any, trouble: type[Exception]) -> None:
    result = pool.apply_async(tasks.fail)
    for _ in range(2):
        with pytest.raises(trouble):
            result.get(10)
    assert not result.successful()


def test_a_callback_has_run_when_get_returns(pool: Any) -> None:
    for number in range(50):
        seen: list[int] = []
        assert pool.apply_async(tasks.square, (number,), callback=seen.append).get() == number**2
        assert seen == [number**2]


def test_an_error_goes_to_its_callback_only(pool: Any, trouble: type[Exception]) -> None:
    values: list[Any] = []
    errors: list[Any] = []
    result = pool.apply_async(tasks.fail, ("x",), {}, values.append, errors.append)
    with pytest.raises(trouble):
        result.get()
    assert values == []
    assert [type(error) for error in errors] == [trouble]


def test_many_calls_at_once(pool: Any) -> None:
    results = [pool.apply_async(tasks.square, (number,)) for number in range(200)]
    assert [result.get() for result in results] == [number**2 for number in range(200)]


@pytest.mark.usefixtures("ours")
def test_a_callback_that_raises_is_logged_and_later_results_arrive(
    pool: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert pool.apply_async(tasks.square, (2,), callback=tasks.fail).get() == 4
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [tasks.Trouble]
    assert pool.apply(tasks.square, (3,)) == 9


@pytest.mark.usefixtures("ours")
def test_a_callback_may_ask_for_its_own_result(pool: Any, gate: Path) -> None:
    seen = []
    result = pool.apply_async(
        tasks.wait_for, (str(gate), 25), callback=lambda _value: seen.append(result.get())
    )
    gate.touch()
    assert result.get(10) == 25
    assert seen == [25]


@pytest.mark.usefixtures("ours")
def test_a_callback_that_waits_for_another_call_works_or_fails_at_once(pool: Any, gate: Path) -> None:
    outcome: list[Any] = []

    def callback(_value: int) -> None:
        late = pool.apply_async(tasks.square, (6,))
        try:
            outcome.append(late.get())
        except RuntimeError as error:
            outcome.append(error)

    pool.apply_async(tasks.square, (5,), callback=callback).get(10)
    assert outcome[0] == 36 or "for ever" in str(outcome[0])


@pytest.mark.usefixtures("ours")
def test_the_result_of_cancel_is_reliable(pool: Any, gate: Path, tmp_path: Path) -> None:
    errors: list[Any] = []
    marks = [tmp_path / str(number) for number in range(40)]
    results = [
        pool.apply_async(tasks.leave_then_wait_for, (str(mark), str(gate)), error_callback=errors.append)
        for mark in marks
    ]
    assert eventually(marks[0].exists)
    assert not results[0].cancel()
    cancelled = [result.cancel() for result in results]
    assert any(cancelled)
    gate.touch()
    for result, mark, gone in zip(results, marks, cancelled, strict=True):
        if gone:
            with pytest.raises(CancelledError):
                result.get(10)
        else:
            result.get(10)
        assert mark.exists() is not gone
        assert result.cancelled() is gone
        assert not result.cancel()
    assert errors == []


@pytest.mark.usefixtures("ours")
def test_an_unknown_option_is_refused(pool: Any) -> None:
    with pytest.raises(TypeError, match="progress"):
        pool.apply_async(tasks.square, (1,), progress=True)
    with pytest.raises(TypeError, match="chunk"):
        pool.map(tasks.square, [1], chunk=2)
