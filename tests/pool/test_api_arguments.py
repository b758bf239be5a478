"""Invalid and unused arguments are refused with a reason: by pools, executors, queues, calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import pytest

from nearfar import Executor, JoinableQueue, Pool, Queue
from tests.pool import tasks
from tests.pool.pools import processes_executor, threads_executor

PLACE = "tcp://127.0.0.1:5555"
MAKERS: list[Callable[..., Any]] = [
    Pool,
    Executor,
    Queue,
    JoinableQueue,
    lambda **options: Pool.connect(PLACE, **options),
    lambda **options: Executor.connect(PLACE, **options),
    lambda **options: Queue.connect(PLACE, **options),
    lambda **options: JoinableQueue.connect(PLACE, **options),
    lambda **options: Queue(0, "tcp://127.0.0.1:*", **options),
    lambda **options: Pool(2, address="tcp://127.0.0.1:*", **options),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", ["adress", "nonsense", "retry"])
def test_no_constructor_accepts_an_unknown_keyword(make: Callable[..., Any], name: str) -> None:
    with pytest.raises(TypeError, match=name):
        make(**{name: 3})


@pytest.fixture(scope="module")
def threads() -> Iterator[Pool]:
    with threads_executor(1) as inner, Pool(executor=inner) as pool:
        yield pool


METHODS = ["apply", "apply_async", "map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered"]


@pytest.mark.parametrize("method", METHODS)
def test_no_method_accepts_an_unknown_keyword(threads: Pool, method: str) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        getattr(threads, method)(tasks.square, [1], nonsense=1)


@pytest.mark.parametrize("make", [Pool, Executor])
def test_an_address_in_the_place_of_a_number_gets_a_hint(make: Any) -> None:
    with pytest.raises(TypeError, match=rf"{make.__name__}\.connect\('{PLACE}'\)"):
        make(PLACE)
    for nonsense in ("4", 2.5, True):
        with pytest.raises(TypeError, match="is a number of workers or None, not"):
            make(nonsense)


@pytest.mark.parametrize("make", [Queue, JoinableQueue])
def test_a_queue_gives_the_same_hint(make: Any) -> None:
    with pytest.raises(TypeError, match=rf"\.connect\('{PLACE}'\)"):
        make(PLACE)
    with pytest.raises(TypeError, match="maxsize is a number of items, not"):
        make("7")


def test_an_object_that_cannot_be_called_is_an_error_at_once_or_as_the_outcome(pool: Any, maker: Any) -> None:
    match = "is the function to call; 5 cannot be called" if maker.ours else "not callable"
    for method, given in (("map", [1]), ("starmap", [(1,)]), ("apply", (1,))):
        with pytest.raises(TypeError, match=match):
            getattr(pool, method)(5, given)
    for method in ("map_async", "apply_async"):
        with pytest.raises(TypeError, match=match):
            getattr(pool, method)(5, [1]).get(10)
    with pytest.raises(TypeError, match=match):
        next(pool.imap(5, [1]))


@pytest.mark.parametrize("options", [{"timeout": -1}, {"retries": -1}])
def test_negative_limits_are_refused(options: dict[str, Any]) -> None:
    for make in (Pool, Executor):
        with pytest.raises(ValueError, match="must not be negative"):
            make(1, **options)
    for options_of in ({"timeout": "1"}, {"retries": 1.5}):
        with pytest.raises(TypeError, match="is a"):
            Pool(1, **options_of)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"lease": 3.0}, {"keys": "k"}, {"insecure": True}])
def test_options_for_an_address_are_refused_without_one(options: dict[str, Any]) -> None:
    for make in (Pool, Executor):
        with pytest.raises(ValueError, match=f"{next(iter(options))}= would mean nothing"):
            make(1, **options)


REFUSED: list[dict[str, Any]] = [
    {"retries": 1},
    {"timeout": 1.0},
    {"initializer": print},
    {"initargs": (1,)},
    {"lease": 3.0},
    {"keys": "k"},
    {"insecure": True},
    {"plain": True},
    {"address": PLACE},
]


@pytest.mark.parametrize("options", REFUSED, ids=lambda options: next(iter(options)))
@pytest.mark.parametrize("make", [Pool, Executor])
@pytest.mark.parametrize("shared", [False, True])
def test_no_argument_is_ignored_over_a_foreign_executor(
    make: Any, options: dict[str, Any], shared: bool
) -> None:
    with (
        threads_executor(1) as inner,
        Executor(executor=inner) as outer,
        pytest.raises(ValueError, match="executor"),
    ):
        make(executor=outer if shared else inner, **options)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("inner", [threads_executor, processes_executor])
def test_calls_over_a_foreign_executor_have_no_limits(inner: Callable[[int], futures.Executor]) -> None:
    with inner(1) as given, Pool(executor=given) as pool, Executor(executor=given) as executor:
        for options in ({"retries": 1}, {"timeout": 1.0}):
            for method in METHODS:
                with pytest.raises(ValueError, match="foreign executor"):
                    getattr(pool, method)(tasks.square, [1], **options)
            with pytest.raises(ValueError, match="foreign executor"):
                executor.options(**options)  # type: ignore[arg-type]
        assert pool.map(tasks.square, [3], retries=0) == [9]


@pytest.mark.parametrize("make", [Pool, Executor])
def test_the_window_is_a_number_of_calls_of_an_executor(make: Any) -> None:
    with threads_executor(1) as inner, Executor(executor=inner) as outer:
        for window in (0, -1, "4"):
            with pytest.raises(ValueError, match="window must be a number of calls, 1 or more"):
                make(executor=inner, window=window)
        with pytest.raises(ValueError, match="window= would be for the executor itself"):
            make(executor=outer, window=4)
    with pytest.raises(ValueError, match="window= would mean nothing without executor="):
        make(1, window=4)


def test_a_pool_may_be_made_over_an_executor_only() -> None:
    with pytest.raises(TypeError, match=r"takes a concurrent\.futures\.Executor"):
        Pool(executor=4)  # type: ignore[arg-type]
