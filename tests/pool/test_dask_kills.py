"""A Dask cluster whose scheduler and workers are killed: no call runs twice unasked, and each has an end."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearfar import (
    CoordinatorLost,
    Executor,
    InitializerFailed,
    Pool,
    TaskTimeout,
    WorkerInfo,
    WorkerLost,
    current_worker,
)
from tests.pool import tasks
from tests.pool.places import traced, traces
from tests.support import dask_cluster
from tests.support.shell import alive
from tests.support.waiting import eventually

pytestmark = [dask_cluster.needed, pytest.mark.slow, pytest.mark.timeout(180)]


def end_late_calls(pool: Pool, tmp_path: Path) -> None:
    """Calls that run for too long end with `TaskTimeout`; the others are answered, and none begins twice."""
    path, never = tmp_path / "trace", str(tmp_path / "never")
    late = [
        pool.apply_async(note, (str(path), number, 0, never), timeout=0.5, retries=2) for number in range(4)
    ]
    others = [pool.apply_async(note, (str(path), number)) for number in range(4, 20)]
    for result in late:
        with pytest.raises(TaskTimeout, match=r"^ran longer than 0\.5 s, and was killed$"):
            result.get(100)
    assert [result.get(100) for result in others] == list(range(4, 20))
    assert max(Counter(traces(path)).values()) == 1


@pytest.fixture(scope="module", autouse=True)
def once_in_a_process() -> None:
    dask_cluster.warm_up()


@pytest.fixture
def cluster() -> Iterator[dask_cluster.Cluster]:
    """Two workers, each with one thread; Dask gives up a task at the first death that it blames on it."""
    with dask_cluster.running(2, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as cluster:
        yield cluster


@pytest.fixture
def pool(cluster: dask_cluster.Cluster) -> Iterator[Pool]:
    with Pool.connect(cluster.address) as pool:
        assert eventually(lambda: " 2 workers" in repr(pool), 40)
        yield pool
    pool.join()


def note(path: str, number: int, by: int = 0, gate: str = "") -> int:
    """Record that this call runs; then end the worker, or wait at a gate."""
    with Path(path).open("a") as file:
        file.write(f"{number}\n")
    if by:
        os.kill(os.getpid(), by)
    if gate:
        tasks.wait_for(gate)
    return number


def once(path: str, number: int) -> str:
    """Kill the first worker that runs this."""
    note(path, number, signal.SIGKILL if not traces(Path(path)) else 0)
    return "ran again"


def whoami() -> WorkerInfo | None:
    return current_worker()


def outcome(result: Any) -> Any:
    try:
        return result.get(100)
    except WorkerLost as error:
        return error


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_death_loses_what_that_worker_had_and_nothing_runs_twice(
    pool: Pool, cluster: dask_cluster.Cluster, tmp_path: Path, how: int
) -> None:
    path = tmp_path / "trace"
    results = [pool.apply_async(note, (str(path), number, how if number == 5 else 0)) for number in range(30)]
    outcomes = [outcome(result) for result in results]
    lost = outcomes[5]
    assert isinstance(lost, WorkerLost)
    assert lost.worker in ("w0", "w1")
    assert lost.pid == cluster.workers[lost.worker].pid
    assert str(lost).endswith("was lost while it ran tests.pool.test_dask_kills:note")
    # What the same worker had computed, and not yet sent, is lost with it.
    # After SIGTERM, that worker may also have been allowed to begin a call that it did not run.
    runs = Counter(traces(path))
    for number, each in enumerate(outcomes):
        if isinstance(each, WorkerLost):
            assert (each.worker, runs[str(number)] <= 1) == (lost.worker, True)
        else:
            assert (each, runs[str(number)]) == (number, 1)


def test_both_workers_killed_while_they_run_and_others_wait(
    pool: Pool, cluster: dask_cluster.Cluster, tmp_path: Path
) -> None:
    """What had begun is lost, which is said while there is no worker; the rest runs on new ones, unblamed."""
    path, gate = tmp_path / "trace", tmp_path / "gate"
    results = [pool.apply_async(note, (str(path), number, 0, str(gate))) for number in range(8)]
    assert traced(path, 2, 60)
    begun = sorted(map(int, traces(path)))
    cluster.kill_worker("w0")
    cluster.kill_worker("w1")
    lost = [outcome(results[number]) for number in begun]
    assert all(isinstance(error, WorkerLost) for error in lost)
    assert {error.worker for error in lost} == {"w0", "w1"}
    gate.touch()
    cluster.start_worker("w2")
    rest = [number for number in range(8) if number not in begun]
    assert [results[number].get(100) for number in rest] == rest
    assert Counter(traces(path)) == Counter(map(str, range(8)))


def test_a_timeout_ends_the_call_and_harms_no_other(
    pool: Pool, cluster: dask_cluster.Cluster, tmp_path: Path
) -> None:
    end_late_calls(pool, tmp_path)
    assert all(process.poll() is None for process in cluster.workers.values())
    here = pool.apply(whoami, timeout=60)
    assert here is not None
    assert here.name in cluster.workers
    assert here.pid != cluster.workers[here.name].pid


def test_a_death_of_the_worker_ends_a_call_with_a_timeout(
    pool: Pool, cluster: dask_cluster.Cluster, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    result = pool.apply_async(tasks.say_pid_then_wait_for, (str(mark), str(tmp_path / "never")), timeout=100)
    assert eventually(mark.exists, 60)
    for name in ("w0", "w1"):
        cluster.kill_worker(name)
    with pytest.raises(WorkerLost, match=r"worker w[01] "):
        result.get(100)
    assert eventually(lambda: not alive(int(mark.read_text())))


def test_retries_run_it_again_and_are_counted(
    pool: Pool, cluster: dask_cluster.Cluster, tmp_path: Path
) -> None:
    again, for_ever = tmp_path / "again", tmp_path / "ever"
    assert pool.apply(once, (str(again), 1), retries=1) == "ran again"
    assert traces(again) == ["1", "1"]
    cluster.start_worker("w2")
    with pytest.raises(WorkerLost):
        pool.apply(note, (str(for_ever), 1, signal.SIGKILL), retries=1)
    assert traces(for_ever) == ["1", "1"]


def test_a_value_lost_with_its_worker_is_not_computed_again(
    cluster: dask_cluster.Cluster, tmp_path: Path
) -> None:
    """Dask runs the call again, on the other worker, where it is refused."""
    import distributed

    from nearfar.pool.codec import pickled
    from nearfar.pool.dask_executor import run_once
    from nearfar.pool.dask_scheduler import PREFIX
    from nearfar.pool.engine_worker import PackedCall
    from nearfar.pool.limited_calls import Failed

    path = tmp_path / "trace"
    with (
        Pool.connect(cluster.address) as pool,
        distributed.Client(cluster.address.replace("dask", "tcp"), set_as_default=False) as client,
    ):
        pool.apply(int)
        call = PackedCall("me", 0, *pickled(far=True, main={}).dump_call(note, (str(path), 7)))
        key = f"{PREFIX}mine"
        future = client.submit(run_once, key, call, False, key=key, pure=False)
        assert eventually(future.done, 60)
        [[holder]] = client.who_has(future).values()
        [name] = [
            each["name"] for address, each in client.scheduler_info()["workers"].items() if address == holder
        ]
        cluster.kill_worker(name)
        value = future.result(60)
    pool.join()
    assert isinstance(value, Failed)
    assert isinstance(value.error, WorkerLost)
    assert value.error.worker == name
    assert traces(path) == ["7"]


def test_a_killed_scheduler_ends_all_calls(pool: Pool, cluster: dask_cluster.Cluster, tmp_path: Path) -> None:
    path, gate = tmp_path / "trace", tmp_path / "gate"
    results = [pool.apply_async(note, (str(path), number, 0, str(gate))) for number in range(60)]
    assert traced(path, 2, 60)
    cluster.kill_scheduler()
    for result in results:
        with pytest.raises(CoordinatorLost, match="Dask has given up the call"):
            result.get(100)
    with pytest.raises(CoordinatorLost):
        pool.apply(int)
    gate.touch()
    assert len(set(traces(path))) == len(traces(path))


def test_nobody_answers() -> None:
    from tests.support.ports import free_address

    with pytest.raises(
        CoordinatorLost, match=r"no Dask scheduler answers at dask://127\.0\.0\.1:\d+ after 0\.2 s"
    ):
        Pool.connect(free_address().replace("tcp", "dask"), wait=0.2)


def begin(path: str, number: int) -> None:
    note(path, number)


def refuse(text: str) -> None:
    raise LookupError(text)


def test_an_initializer_runs_once_in_each_process(cluster: dask_cluster.Cluster, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with Executor.connect(cluster.address, initializer=begin, initargs=(str(path), 3)) as executor:
        assert eventually(lambda: " 2 workers" in repr(executor), 40)
        seen = {future.result() for future in [executor.submit(whoami) for _ in range(40)]}
        limited = executor.options(timeout=60)
        children = {future.result() for future in [limited.submit(whoami) for _ in range(10)]}
    assert traces(path) == ["3"] * len(seen | children)
    assert {each.name for each in seen if each} <= {"w0", "w1"}
    assert {(each.name, each.pid) for each in seen if each} <= {
        (name, process.pid) for name, process in cluster.workers.items()
    }
    with Pool.connect(cluster.address, initializer=refuse, initargs=("no license",)) as pool:
        for _ in range(2):
            with pytest.raises(
                InitializerFailed, match="the initializer raised LookupError: no license"
            ) as caught:
                pool.apply(whoami)
        assert isinstance(caught.value.__cause__, LookupError)
        assert "In worker w" in str(caught.value.__cause__.__cause__)
    pool.join()


def test_what_dask_cannot_keep_is_refused_at_once(cluster: dask_cluster.Cluster) -> None:
    for options, words in (
        ({"plain": True}, "plain= is for nearfar's own pools"),
        ({"keys": "folder"}, "keys= is for nearfar's own pools"),
        ({"insecure": True}, "insecure= is for nearfar's own pools"),
    ):
        for make in (Pool.connect, Executor.connect):
            with pytest.raises(ValueError, match=words):
                make(cluster.address, **options)  # type: ignore[operator]
