"""What runs in the workers of other engines, and how their engine uses an executor that outlives a death."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.pool import MaybeEncodingError, RemoteTraceback
from pathlib import Path
from typing import Any

import pytest

from nearfar import AddressError, CoordinatorLost, Pool, TaskTimeout, WorkerInfo, WorkerLost, current_worker
from nearfar.coordinator.task import Mode
from nearfar.net import schemes
from nearfar.pool import limited_calls
from nearfar.pool.call import Call
from nearfar.pool.cluster_executor import foreign_address
from nearfar.pool.codec import pickled
from nearfar.pool.engine import PoolPromises
from nearfar.pool.engine_worker import EngineAnswer, PackedCall, enter, prepare, run_packed
from nearfar.pool.executor_engine import ForeignEngine, Packing
from nearfar.pool.limited_calls import Failed, run_call
from nearfar.pool.near_engine import NearEngine
from nearfar.pool.results import AsyncResult
from nearfar.serialization import tracebacks
from nearfar.worker import lifetime
from tests.pool import tasks
from tests.support.shell import alive
from tests.support.waiting import eventually

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


ME = WorkerInfo(-1, "w7", "desk", 12)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[NearEngine]]:
    """The children of calls with a timeout, ended with the test."""
    idle: list[NearEngine] = []
    monkeypatch.setattr(limited_calls, "_idle", idle)
    yield idle
    for child in idle:
        child.terminate()
        child.join()


def limited(timeout: float, func: Callable[..., Any], *args: Any, initializer: Any = None) -> Any:
    """The value of a call with a timeout; raises its error."""
    packed = PackedCall("me", Mode.CALL, *PACKING.codec.dump_call(func, args, None), timeout)
    first = PackedCall("me", Mode.PREPARE, *PACKING.codec.dump_call(initializer, (), None))
    answer = run_call(packed, ME, None if initializer is None else lambda: first)
    if isinstance(answer, Failed):
        raise answer.error
    assert isinstance(answer, EngineAnswer)
    call = Call(func, args, None, Mode.CALL)
    call.take()
    call.answered(*answer)
    return call.result()


def test_a_call_with_a_timeout_runs_in_a_child_which_is_killed(
    children: list[NearEngine], tmp_path: Path
) -> None:
    pid = limited(60, os.getpid)
    assert pid not in (os.getpid(), 12)
    assert limited(60, current_worker) == WorkerInfo(-1, "w7", "desk", pid)
    with pytest.raises(tasks.Trouble) as caught:
        limited(60, tasks.fail)
    assert f"In worker w7 (pid {pid} on desk):" in str(caught.value.__cause__)
    with pytest.raises(TaskTimeout, match=r"ran longer than 0\.2 s, and was killed"):
        limited(0.2, tasks.wait_for, str(tmp_path / "never"))
    assert eventually(lambda: not alive(pid))
    assert limited(60, os.getpid) != pid
    assert len(children) == 1


def test_the_death_of_its_child_is_that_of_a_worker(children: list[NearEngine]) -> None:
    with pytest.raises(WorkerLost, match=r"worker w7 \(pid \d+ on desk\) exited with code 3"):
        limited(60, tasks.die)
    assert limited(60, tasks.square, 3) == 9


def test_calls_of_several_threads_have_a_child_each(children: list[NearEngine], tmp_path: Path) -> None:
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(limited, 60, tasks.say_pid_then_wait_for, str(mark), str(gate))
        assert eventually(mark.exists, 20)
        limited(60, gate.touch)
        waiting.result()
    assert len(children) == 2


_begun: list[int] = []


def begin_here() -> None:
    _begun.append(1)


def times_begun() -> int:
    return len(_begun)


def test_each_child_runs_the_initializer_once(children: list[NearEngine]) -> None:
    for _ in range(2):
        assert limited(60, times_begun, initializer=begin_here) == 1
    with pytest.raises(WorkerLost):
        limited(60, tasks.die, initializer=begin_here)
    assert limited(60, times_begun, initializer=begin_here) == 1


def test_a_daemonic_worker_may_have_such_a_child() -> None:
    """As those of Dask's nannies are. The child ends with it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=tell_its_child, args=(theirs,), daemon=True)
    worker.start()
    pid = ours.recv()
    assert alive(pid)
    worker.kill()
    worker.join()
    worker.close()
    assert eventually(lambda: not alive(pid))
    ours.close()
    theirs.close()


def tell_its_child(told: Connection) -> None:
    told.send(limited(60, os.getpid))
    threading.Event().wait()


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
