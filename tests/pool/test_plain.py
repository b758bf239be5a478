"""Pools without pickle: what works, and what is refused with which message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from nearfar import Executor, InitializerFailed, ItemError, Pool, RemoteError, Untrusted
from tests.pool import offered

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

DOUBLE = b"tests.pool.offered:double"
TRAPS = ["tests.pool.trap", "tests.pool.offered._corner"]
WITHOUT = r"reads no pickle: make the pool with plain=True"


Maker = Callable[..., Pool]


@pytest.fixture(params=["plain", "usual", "near"])
def make(request: pytest.FixtureRequest, plain_workers: str, usual_workers: str) -> Maker:
    """Makes a pool that sends and reads no pickle, with workers of each kind."""
    if request.param == "near":
        return partial(Pool, 1, plain=True)
    address = plain_workers if request.param == "plain" else usual_workers
    return partial(Pool.connect, address, plain=True)


@pytest.fixture
def pool(make: Maker) -> Iterator[Pool]:
    with make() as made:
        yield made
    made.join()


# -- what works ------------------------------------------------------------------------------------


def test_named_functions_run_with_plain_data(pool: Pool) -> None:
    assert pool.apply(offered.double, (3,), {"plus": 1}) == 7
    assert pool.map(offered.double, range(50)) == [2 * n for n in range(50)]
    assert pool.starmap(offered.back, [(1, "a"), (b"b", None)], 1) == [(1, "a"), (b"b", None)]
    assert sorted(pool.imap_unordered(offered.cached, range(9), 2)) == [3 * n for n in range(9)]
    data = [(1, 2.5), {"k": {1, 2}}, frozenset(), bytearray(b"x"), 1 << 99, None, True]
    assert pool.apply(offered.back, data, {"more": "yes"}) == (tuple(data), {"more": "yes"})


def test_large_bytes_are_sent_both_ways(pool: Pool) -> None:
    large = bytes(range(256)) * 8192
    assert pool.apply(offered.back, (large, 1, large)) == (large, 1, large)
    assert pool.map(offered.back, [large, b""], 2) == [(large,), (b"",)]


def test_an_error_arrives_as_text_with_its_traceback(pool: Pool) -> None:
    with pytest.raises(RemoteError, match="KeyError: 'lost'") as caught:
        pool.apply(offered.complain, ("lost",))
    assert "in complain" in str(caught.value.__cause__)
    assert "\nIn worker " in str(caught.value.__cause__)
    with pytest.raises(RemoteError, match="SystemExit: 5"):
        pool.apply(offered.leave)


def test_a_result_that_is_not_plain_data_is_that_tasks_error(pool: Pool) -> None:
    with pytest.raises(ItemError, match="the result, of type Door, is or holds what does not travel without"):
        pool.apply(offered.itself)
    assert pool.apply(offered.double, (1,)) == 2


@pytest.mark.parametrize("func", [lambda: 1, offered.Door, offered.Door.knock, offered.enter, len.__call__])
def test_a_function_without_a_name_is_refused_before_it_is_sent(pool: Pool, func: Any) -> None:
    with pytest.raises(ItemError, match="a plain pool calls functions by their names"):
        pool.apply(func)


def test_an_argument_that_is_not_plain_data_is_refused_before_it_is_sent(pool: Pool) -> None:
    with pytest.raises(ItemError, match=r"argument 1 of tests\.pool\.offered:double, of type Door"):
        pool.apply(offered.double, (offered.Door(),))
    with pytest.raises(ItemError, match="argument 2 of"):
        pool.map(offered.double, [1, offered.Door()], 2)


def test_an_initializer_runs_once_by_name(make: Maker) -> None:
    with make(initializer=offered.prepare, initargs=("once",)) as pool:
        for _ in range(2):
            assert pool.apply(offered.preparations).count("once") == 1
    pool.join()


@pytest.mark.parametrize("initializer", [lambda: None, offered.Door])
def test_an_initializer_without_a_name_is_refused_at_once(initializer: Any) -> None:
    for make in (lambda **all_: Pool(1, **all_), lambda **all_: Pool.connect("tcp://127.0.0.1:9", **all_)):
        with pytest.raises(ItemError, match="a plain pool calls functions by their names"):
            make(initializer=initializer, plain=True)


def test_the_executor_is_plain_too(plain_workers: str) -> None:
    with Executor.connect(plain_workers, plain=True) as executor:
        assert executor.submit(offered.double, 4).result(20) == 8
        assert list(executor.map(offered.double, [1, 2])) == [2, 4]
        assert isinstance(executor.submit(lambda: 1).exception(20), ItemError)
    with Executor(1, plain=True) as near, Pool(executor=near) as pool:
        assert pool.apply(offered.double, (4,)) == 8
        with pytest.raises(ItemError):
            pool.apply(lambda: 1)


def test_plain_is_refused_over_another_executor() -> None:
    with Executor(1) as executor, pytest.raises(ValueError, match="plain= would be for the executor itself"):
        Pool(executor=executor, plain=True)


# -- a usual client and plain workers --------------------------------------------------------------


@pytest.mark.parametrize(("func", "args"), [(offered.double, (1,)), (lambda: 1, ()), (abs, (1,))])
def test_calls_of_a_usual_client_fail_with_a_hint(plain_workers: str, func: Any, args: Any) -> None:
    with Pool.connect(plain_workers) as pool:
        with pytest.raises(Untrusted, match=WITHOUT):
            pool.apply(func, args)
        with pytest.raises(Untrusted, match=WITHOUT):
            pool.map(func, [args], 1)
    pool.join()


def test_an_initializer_of_a_usual_client_fails_with_a_hint(plain_workers: str) -> None:
    with Pool.connect(plain_workers, plain=True) as witness:
        before = witness.apply(offered.pid)
        with (
            Pool.connect(plain_workers, initializer=offered.prepare, initargs=("x",)) as pool,
            pytest.raises(InitializerFailed, match=WITHOUT),
        ):
            pool.apply(offered.double, (1,))
        pool.join()
        assert witness.apply(offered.pid) == before
    witness.join()


def test_an_initializers_error_is_sent_as_text(plain_workers: str) -> None:
    with (
        Pool.connect(plain_workers, initializer=offered.prepare, initargs=("fail",), plain=True) as pool,
        pytest.raises(InitializerFailed, match="ValueError: no such word"),
    ):
        pool.apply(offered.double, (1,))
    pool.join()
