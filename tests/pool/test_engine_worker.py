"""What runs in the workers of other engines, and how their engine uses an executor that outlives a death."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.pool import MaybeEncodingError, RemoteTraceback
from typing import Any

import pytest

from nearfar import AddressError, CoordinatorLost, Pool, WorkerInfo, WorkerLost, current_worker
from nearfar.coordinator.task import Mode
from nearfar.net import schemes
from nearfar.pool.call import Call
from nearfar.pool.cluster_executor import foreign_address
from nearfar.pool.codec import pickled
from nearfar.pool.engine import PoolPromises
from nearfar.pool.engine_worker import PackedCall, enter, prepare, run_packed
from nearfar.pool.executor_engine import ForeignEngine, Packing
from nearfar.pool.results import AsyncResult
from nearfar.serialization import tracebacks
from nearfar.worker import lifetime
from tests.pool import tasks

PACKING = Packing("me", pickled(far=True, main={}))


def answered(func: Callable[..., Any], *args: Any, mode: int = Mode.CALL) -> Call:
    call = Call(func, args, None, mode)
    packed = PACKING.pack(call)
    call.take()
    call.answered(*run_packed(packed))
    return call


def test_a_call_is_packed_run_and_answered() -> None:
    assert answered(tasks.square, 7).result() == 49
    assert answered(tasks.square, 1, 2, 3, mode=Mode.MAP).result() == [1, 4, 9]
    assert answered(tasks.add, (1, 2), (3, 4), mode=Mode.STARMAP).result() == [3, 7]
    assert answered(lambda: "by value").result() == "by value"
    big = bytes(1 << 20)
    assert answered(tasks.capture, big).result() == ((big,), {})


def test_its_error_is_an_answer_with_its_traceback() -> None:
    with pytest.raises(tasks.Trouble) as caught:
        answered(tasks.fail, 8).result()
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "raise Trouble(x)" in str(caught.value.__cause__)
    with pytest.raises(SystemExit):
        answered(os.sys.exit, 3).result()  # type: ignore[attr-defined]
    with pytest.raises(BrokenExecutor, match="the task's own"):
        answered(tasks.fail_as_broken).result()
    with pytest.raises(MaybeEncodingError):
        answered(threading.Lock).result()


def test_an_initializer_runs_once_though_threads_ask_at_once() -> None:
    asked: list[int] = []
    packed = PackedCall("many", Mode.PREPARE, *PACKING.codec.dump_call(len, ("",), None))

    def read() -> PackedCall:
        asked.append(1)
        return packed

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda _: prepare("many", read), range(50))) == [None] * 50
    assert asked == [1]


def test_an_initializer_that_failed_does_not_run_again() -> None:
    packed = PackedCall("failing", Mode.PREPARE, *PACKING.codec.dump_call(tasks.fail, (), None))
    first = prepare("failing", lambda: packed)
    assert first is not None
    assert isinstance(PACKING.codec.load_error(first), tasks.Trouble)
    assert prepare("failing", lambda: pytest.fail("it is read again")) == first


def test_the_worker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime, "_current", None)
    monkeypatch.setattr(tracebacks, "_place", "")
    enter(WorkerInfo(-1, "w7", "desk", 12))
    assert current_worker() == WorkerInfo(-1, "w7", "desk", 12)
    with pytest.raises(tasks.Trouble) as caught:
        answered(tasks.fail).result()
    assert "In worker w7 (pid 12 on desk):" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("dask://scheduler:8786", ("scheduler:8786", None)),
        ("dask://10.0.0.1:8786?window=64", ("10.0.0.1:8786", 64)),
        ("dask://[::1]:8786", ("[::1]:8786", None)),
    ],
)
def test_addresses(address: str, found: Any) -> None:
    assert foreign_address("dask", address, {"keys": None, "plain": False, "insecure": False}) == found


@pytest.mark.parametrize(
    "address",
    ["dask://", "dask://host", "dask://host:x", "dask://host:1/", "dask://h:1?window=0", "ray://h:1"],
)
def test_an_address_that_cannot_be_read(address: str) -> None:
    with pytest.raises(AddressError, match=r"expected dask://HOST:PORT, or dask://HOST:PORT\?window=CALLS"):
        foreign_address("dask", address, {})


@pytest.mark.parametrize("option", ["plain", "keys", "insecure"])
def test_options_of_nearfars_own_pools_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}= is for nearfar's own pools"):
        foreign_address("dask", "dask://host:1", {option: "yes"})


@pytest.mark.parametrize(("scheme", "package"), [("dask", "distributed"), ("ray", "grpc")])
def test_a_missing_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, scheme: str, package: str
) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(schemes, "import_module", missing)
    for make in (Pool.connect, partial(schemes.load, schemes.POOLS)):
        with pytest.raises(
            AddressError, match=rf"needs the package {package}: pip install 'nearfar\[{scheme}\]'"
        ):
            make(f"{scheme}://head:1")


class Mortal(Executor):
    """Runs calls at once, after the deaths that a test has planned."""

    promises = PoolPromises("mortal", reports_losses=True, retries=True)
    _max_workers = 3

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.runs = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.runs += 1
        if self.errors:
            future.set_exception(self.errors.pop(0))
        else:
            future.set_result(fn(*args, **kwargs))
        return future


def death(number: int = 1) -> WorkerLost:
    return WorkerLost(f"w{number}", "desk", number, "was lost")


def engine_over(executor: Executor) -> ForeignEngine:
    return ForeignEngine(executor, packing=PACKING)


def sent(engine: ForeignEngine, retries: int = 0) -> AsyncResult:
    result = AsyncResult(engine, None, tasks.square, (4,), None, None, (None, retries))
    engine.submit(result)
    return result


def test_a_death_ends_one_call_and_the_others_go_on() -> None:
    executor = Mortal(death())
    engine = engine_over(executor)
    with pytest.raises(
        WorkerLost, match=r"worker w1 \(pid 1 on desk\) was lost while it ran tests.pool.tasks:square"
    ):
        sent(engine).get(0)
    assert sent(engine).get(0) == 16
    assert executor.runs == 2
    assert engine.promises().engine == "mortal"
    assert (engine.size, engine.counts()["done"]) == (3, 2)


def test_retries_submit_it_again_so_often_and_no_more() -> None:
    executor = Mortal(death(1), death(2), death(3))
    assert sent(engine_over(executor), retries=3).get(0) == 16
    assert executor.runs == 4
    executor = Mortal(death(1), death(2), death(3))
    with pytest.raises(WorkerLost, match="worker w3"):
        sent(engine_over(executor), retries=2).get(0)
    assert executor.runs == 3


def test_a_lost_scheduler_ends_the_pool() -> None:
    engine = engine_over(Mortal(CoordinatorLost("gone")))
    with pytest.raises(CoordinatorLost, match="gone"):
        sent(engine, retries=5).get(0)
    with pytest.raises(CoordinatorLost, match="gone"):
        sent(engine)


def test_the_window_is_apart_from_the_size_and_follows_it() -> None:
    class Keeper(Mortal):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            self.runs += 1
            return Future()

    executor = Keeper()
    for engine, expected in (
        (ForeignEngine(executor, window=5), 5),
        (ForeignEngine(executor, ahead=4), 12),
        (ForeignEngine(executor, 2, ahead=4), 8),
    ):
        executor.runs = 0
        for _ in range(40):
            sent(engine)
        assert executor.runs == expected
        engine.terminate()


def test_without_workers_there_are_none_but_chunks_have_a_size() -> None:
    executor = Mortal()
    executor._max_workers = 0
    engine = engine_over(executor)
    assert (engine.size, engine.counts()["workers"]) == (1, 0)
