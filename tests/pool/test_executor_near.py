"""The executor with its own workers behaves as programs for the standard library's expect."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from nearfar import Executor, Pool, WorkerLost
from nearfar.coordinator.scheduler import Scheduler
from nearfar.coordinator.server import LocalWorkers
from nearfar.coordinator.status import idle
from nearfar.worker.supervisor import Supervisor
from tests.pool import tasks
from tests.support.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(2, mp_context=get_context("fork")) as made:
        yield made


def test_it_has_the_private_attributes_for_workers_and_processes(executor: Executor) -> None:
    assert executor._max_workers == 2
    processes = executor._processes
    assert len(processes) == 2
    assert executor.submit(os.getpid).result(10) in processes
    executor.shutdown()
    assert [process.join(10) or process.exitcode for process in processes.values()] == [0, 0]


def test_a_lost_worker_raises_broken_process_pool_and_the_executor_continues(executor: Executor) -> None:
    for kind in (BrokenProcessPool, BrokenExecutor, WorkerLost):
        with pytest.raises(kind, match="exited with code 3"):
            executor.submit(tasks.die).result(10)
    assert executor.submit(tasks.square, 3).result(10) == 9


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_result_that_cannot_be_sent_raises_its_pickling_error(
    executor: Executor, error: type[BaseException]
) -> None:
    with pytest.raises(error, match="cannot be sent") as caught:
        executor.submit(tasks.Unpicklable, error).result(10)
    assert "__reduce__" in str(caught.value.__cause__)
    with pytest.raises(error, match="cannot be sent"):
        list(executor.map(tasks.Unpicklable, [error]))


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_result_that_cannot_be_read_ends_no_thread(executor: Executor, error: type[BaseException]) -> None:
    told: list[Any] = []
    with Pool(executor=executor) as pool:
        pool.apply_async(tasks.Unreadable, (error,), None, told.append, told.append)
        future = executor.submit(tasks.Unreadable, error)
        seen: list[BaseException | None] = []
        future.add_done_callback(lambda done: seen.append(done.exception()))
        assert eventually(lambda: bool(told and seen))  # by the thread in the background
    assert [type(each) for each in told + seen] == [error, error]
    for _ in range(2):
        with pytest.raises(error, match="cannot be read"):
            future.result(10)
    assert executor.submit(tasks.square, 3).result(10) == 9


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_callback_that_raises_ends_no_thread(
    executor: Executor, error: type[BaseException], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"

    def leave(*_: object) -> None:
        assert threading.current_thread() is not threading.main_thread()
        raise error

    executor.submit(tasks.wait_for, str(gate)).add_done_callback(leave)
    with Pool(executor=executor) as pool:
        pool.apply_async(tasks.wait_for, (str(gate),), callback=leave)
        pool.map_async(tasks.wait_for, [str(gate)], progress=leave)
        gate.touch()
        assert eventually(lambda: executor.engine.counts()["done"] == 3)
        told = threading.Event()
        pool.apply_async(tasks.square, (3,), callback=lambda _: told.set())
        assert told.wait(10)


@pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
def test_workers_can_be_ended_as_in_python_3_14(executor: Executor, method: str, tmp_path: Path) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    running = executor.submit(tasks.leave_then_wait_for, str(mark), str(gate))
    waiting = [executor.submit(tasks.wait_for, str(gate)) for _ in range(50)]
    assert eventually(mark.exists)
    processes = executor._processes
    getattr(executor, method)()
    signalled = signal.SIGTERM if method == "terminate_workers" else signal.SIGKILL
    with pytest.raises(BrokenProcessPool, match=signalled.name):
        running.result(10)
    for future in waiting[2:]:
        with pytest.raises(CancelledError):
            future.result(10)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(tasks.square, 3)
    executor.shutdown()
    assert not any(process.is_alive() for process in processes.values())
    getattr(executor, method)()  # once more does nothing


def test_a_worker_that_is_ready_after_all_were_ended_gets_no_call() -> None:
    scheduler = Scheduler()
    local = LocalWorkers(scheduler, partial(Supervisor, count=1, context=get_context("fork")), pytest.fail)
    supervisor = local.supervisor
    supervisor.start()
    [member] = supervisor.members.values()
    assert select.select([member.end.fileno()], [], [], 10)[0], "it never becomes ready"
    local.end(signal.SIGTERM)  # before that was read
    while supervisor.members:
        supervisor.dispatch(supervisor.poll(10))
        assert scheduler.workers == {}
    assert idle(scheduler)
    supervisor.close()


def test_the_workers_of_another_executor_are_not_ended(executor: Executor) -> None:
    with Executor(executor=executor) as shared:
        with pytest.raises(RuntimeError, match="belong to the executor that was given"):
            shared.kill_workers()
        assert shared.submit(tasks.square, 3).result(10) == 9


def test_no_two_calls_share_an_error_object(tmp_path: Path) -> None:
    pool = Pool(1, context=get_context("fork"))
    results = [pool.apply_async(tasks.wait_for, (str(tmp_path / "gate"),)) for _ in range(20)]
    pool.terminate()
    pool.join()
    errors = []
    for result in results:
        with pytest.raises(CancelledError) as caught:
            result.get(10)
        errors.append(caught.value)
    assert len(set(map(id, errors))) == len(errors)


def test_a_broken_pool_raises_a_new_error_for_each_call() -> None:
    with Executor(1, mp_context=get_context("fork"), initializer=tasks.fail) as broken:
        errors = set()
        for _ in range(3):
            try:
                broken.submit(tasks.square, 1).result(10)
            except BrokenProcessPool as error:
                errors.add(error)
                assert isinstance(error.__cause__, tasks.Trouble)
        assert len(errors) == 3
        assert broken._broken


def test_an_interrupted_map_is_dropped_at_once_though_the_coordinator_is_away() -> None:
    """As after Ctrl-C: `obtain` drops the chunks without waiting for an answer."""
    from tests.pool.pools import coordinated

    with coordinated(1) as address:
        pool = Pool.connect(address)
        assert pool.apply(tasks.square, (3,)) == 9
        result = pool.map_async(time.sleep, [20.0] * 500, 1)
        assert eventually(lambda: pool._engine.counts()["waiting"] > 0)
    before = time.monotonic()
    result.drop()
    pool.terminate()
    pool.join()
    assert time.monotonic() - before < 15


@pytest.mark.parametrize("address", [None, "tcp://127.0.0.1:*"])
def test_a_terminated_pool_is_not_a_broken_one(address: str | None) -> None:
    """Given running calls when a pool is terminated, I expect later calls to be refused as closed."""
    pool = Pool(1, address=address, context=get_context("fork"))
    assert pool.apply(abs, (-1,)) == 1
    engine: Any = pool._engine
    running = [pool.apply_async(signal.pause) for _ in range(3)]
    pool.terminate()
    for _ in range(3):
        engine.turn([])
    pool.join()
    assert engine.broken is None
    for result in running:
        with pytest.raises(CancelledError):
            result.get(5)
