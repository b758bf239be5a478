"""Pools over a network, with programs that are killed, frozen and restarted."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from nearfar import CoordinatorLost, InitializerFailed, TaskTimeout, WorkerLost
from nearfar.net import timers
from nearfar.pool import far_engine
from tests.pool import far_tasks, tasks
from tests.pool.places import LEASE, Place, joined, traced, traces
from tests.support.processes import freeze
from tests.support.shell import alive, ended
from tests.support.waiting import eventually

LIMIT = 60.0
Opener = Callable[..., Place]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Makes the test's place."""
    places: list[Place] = []

    def make(kind: str, transport: str = "tcp") -> Place:
        places.append(Place(kind, transport, tmp_path))
        return places[-1]

    yield make
    for place in places:
        place.close()


@pytest.fixture(params=["hosted", "far"])
def place(request: pytest.FixtureRequest, opened: Opener) -> Place:
    return opened(request.param)


@pytest.fixture
def far(opened: Opener) -> Place:
    return opened("far")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A file to which each task adds a line."""
    return tmp_path / "trace"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that tasks wait for; it exists at the end of the test at the latest."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def outcomes(results: list[Any]) -> tuple[list[Any], list[WorkerLost]]:
    """The values and the losses."""
    values, losses = [], []
    for result in results:
        try:
            values.append(result.get(LIMIT))
        except WorkerLost as error:
            losses.append(error)
    return values, losses


@pytest.mark.parametrize("kind", ["hosted", "far"])
@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_task_that_kills_its_worker_is_the_only_one_lost(opened: Opener, kind: str, transport: str) -> None:
    place = opened(kind, transport)
    pool = place.pool()
    place.agent(2)
    assert joined(pool, 2)
    results = [pool.apply_async(far_tasks.die_of_7, (number,)) for number in range(60)]
    values, (lost,) = outcomes(results)
    assert sorted(values) == [number**2 for number in range(60) if number != 7]
    assert (lost.host, lost.how) == (socket.gethostname(), "was killed by SIGKILL")
    assert lost.task == "tests.pool.far_tasks:die_of_7"
    assert lost.worker and lost.pid > 1 and not alive(lost.pid)
    assert pool.map(tasks.square, range(100)) == [n * n for n in range(100)]


@pytest.mark.slow
def test_idle_workers_may_be_killed_again_and_again(place: Place) -> None:
    pool = place.pool()
    place.agent(2)
    assert joined(pool, 2)
    killed = set()
    for _ in range(20):
        pid = pool.apply(os.getpid, retries=3)  # it may go to one that is just being killed
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda pid=pid: not alive(pid))
    assert len(killed) == 20
    assert pool.map(tasks.square, range(20), 1, retries=3) == [n * n for n in range(20)]


def test_of_a_killed_agent_only_running_tasks_are_lost(place: Place, trace: Path, gate: Path) -> None:
    pool = place.pool()
    first = place.agent(2)
    assert joined(pool, 2)
    results = [pool.apply_async(far_tasks.note_then_wait, (str(trace), n, str(gate))) for n in range(10)]
    assert traced(trace, 2)
    first.kill()
    pids = [int(line.split()[1]) for line in traces(trace)]
    assert eventually(lambda: not any(map(alive, pids)), within=10.0), "orphans live on"
    place.agent(2)
    gate.touch()
    values, losses = outcomes(results)
    assert len(values) == 8 and len(losses) == 2
    assert {error.pid for error in losses} == set(pids)
    assert all(error.how == f"was lost with its agent: process {first.pid} ended" for error in losses)
    assert len(traces(trace)) == 10


@pytest.mark.slow
def test_a_frozen_agent_is_lost_and_its_later_answers_are_dropped(
    place: Place, trace: Path, gate: Path
) -> None:
    """Given an agent that is stopped for longer than the lease, with an answer to send."""
    pool = place.pool()
    frozen = place.agent(1)
    pool.apply(os.getpid)
    result = pool.apply_async(far_tasks.note_then_wait, (str(trace), 3, str(gate)))
    assert traced(trace, 1)
    freeze(frozen.pid)
    gate.touch()  # its worker goes on, and finishes
    with pytest.raises(WorkerLost, match=f"silent for {LEASE:g} s while it ran"):
        result.get(LIMIT)
    other = place.agent(1)
    pid = pool.apply(os.getpid)
    other.send_signal(signal.SIGTERM)
    assert ended(other)[0] == 0
    frozen.send_signal(signal.SIGCONT)
    assert pool.apply(tasks.square, (5,)) == 25  # it is back
    again = pool.apply(os.getpid)
    assert again not in (pid, int(traces(trace)[0].split()[1]))
    assert pool.map(tasks.square, range(50), 1) == [n * n for n in range(50)]
    assert len(traces(trace)) == 1


def test_a_restarted_coordinator_loses_no_task_and_runs_none_twice(
    far: Place, trace: Path, gate: Path
) -> None:
    pool, other = far.pool(), far.pool()
    far.agent(2)
    assert joined(pool, 2)
    results = [
        client.apply_async(far_tasks.note_then_wait, (str(trace), number, str(gate)))
        for number, client in enumerate([pool, other] * 10)
    ]
    assert traced(trace, 2)
    far.kill_coordinator()
    gate.touch()  # the running task is answered while no coordinator is there
    late = pool.apply_async(far_tasks.note, (str(trace), 100))
    far.coordinate()
    assert [result.get(LIMIT) for result in results] == [n * n for n in range(20)]
    assert late.get(LIMIT) == 10_000
    began = [int(line.split()[0]) for line in traces(trace)]
    assert sorted(began) == [*range(20), 100]


@pytest.mark.slow
def test_a_coordinator_restarted_while_tasks_run_waits_for_them(far: Place, trace: Path, gate: Path) -> None:
    pool = far.pool()
    far.agent(2)
    assert joined(pool, 2)
    results = [pool.apply_async(far_tasks.note_then_wait, (str(trace), n, str(gate))) for n in range(6)]
    assert traced(trace, 2)
    for _ in range(2):
        far.kill_coordinator()
        far.coordinate()
        assert joined_again(far, 2)
    gate.touch()
    assert [result.get(LIMIT) for result in results] == [n * n for n in range(6)]
    assert sorted(int(line.split()[0]) for line in traces(trace)) == list(range(6))


def joined_again(far: Place, workers: int) -> bool:
    """Wait until the agents have reconnected to a coordinator, without a client; returns whether they did."""
    from nearfar.coordinator.status import ask
    from nearfar.net.addresses import Address

    return eventually(lambda: ask(Address.parse(far.address), 5.0).counts["workers"] == workers, 10)


@pytest.mark.slow
def test_a_coordinator_that_does_not_return_is_lost(far: Place, trace: Path, gate: Path) -> None:
    pool = far.pool(wait=2.0)
    far.agent(1)
    pool.apply(os.getpid)
    results = [pool.apply_async(far_tasks.note_then_wait, (str(trace), n, str(gate))) for n in range(3)]
    assert traced(trace, 1)
    far.kill_coordinator()
    for result in results:
        with pytest.raises(CoordinatorLost, match=f"no coordinator has answered at {far.address} for 2 s"):
            result.get(LIMIT)
    with pytest.raises(CoordinatorLost):
        pool.apply(os.getpid)


def test_a_killed_client_leaves_the_workers_to_others(far: Place, trace: Path, gate: Path) -> None:
    far.agent(2)
    pool = far.pool()
    assert joined(pool, 2)
    client = far.shell.python("-m", "tests.pool.far_tasks", far.address, str(trace), str(gate))
    assert traced(trace, 2)
    mine = pool.map_async(tasks.square, range(20), 1)
    pids = [int(line.split()[1]) for line in traces(trace)]
    client.kill()
    assert mine.get(LIMIT) == [n * n for n in range(20)]
    assert eventually(lambda: not any(map(alive, pids))), "what it ran runs on"
    assert len(traces(trace)) == 2, "its tasks are run for nobody"


def test_clients_share_fairly(far: Place, trace: Path) -> None:
    """Given a client with hundreds of waiting tasks, I expect another's few to be done before half of
    them."""
    far.agent(2)
    pool, other = far.pool(), far.pool()
    assert joined(pool, 2)
    assert joined(other, 2)
    many = [pool.apply_async(nap, (0.02,)) for _ in range(200)]
    assert eventually(lambda: many[0].ready(), LIMIT)
    few = [other.apply_async(nap, (0.02,)) for _ in range(10)]
    for result in few:
        result.get(LIMIT)
    assert sum(result.ready() for result in many) < 100


def nap(seconds: float) -> None:
    import select

    select.poll().poll(int(seconds * 1000))


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_leaves_a_long_map_and_nothing_is_lost_or_run_twice(
    place: Place, trace: Path, signum: signal.Signals
) -> None:
    pool = place.pool()
    first = place.agent(2)
    assert joined(pool, 2)
    result = pool.starmap_async(note_slowly, [(str(trace), n) for n in range(150)], 1)
    assert traced(trace, 20)
    place.agent(1)
    os.killpg(first.pid, signum) if signum == signal.SIGINT else first.send_signal(signum)
    assert ended(first)[0] == 0
    assert not result.ready()
    assert result.get(LIMIT) == list(range(150))
    assert sorted(map(int, traces(trace))) == list(range(150))


def note_slowly(path: str, number: int) -> int:
    far_tasks.append(path, number)
    nap(0.02)
    return number


@pytest.mark.slow
def test_agents_may_join_during_a_map(place: Place, trace: Path) -> None:
    pool = place.pool()
    result = pool.starmap_async(note_worker, [(str(trace), n) for n in range(150)], 1)
    place.agent(1)
    assert traced(trace, 5)
    place.agent(1)
    assert result.get(LIMIT) == list(range(150))
    assert len(set(traces(trace))) == 2


def note_worker(path: str, number: int) -> int:
    far_tasks.append(path, os.getpid())
    nap(0.02)
    return number


def test_retries_limit_the_number_of_runs(place: Place, tmp_path: Path, trace: Path) -> None:
    pool = place.pool()
    place.agent(2)
    assert joined(pool, 2)
    assert pool.apply(far_tasks.die_once, (str(tmp_path / "mark"),), retries=1) > 1
    with pytest.raises(WorkerLost, match="SIGKILL"):
        pool.apply(far_tasks.die_each_time, (str(trace),), retries=2)
    assert len(set(traces(trace))) == 3


def test_a_timeout_kills(place: Place, trace: Path, gate: Path) -> None:
    pool = place.pool()
    place.agent(1)
    pool.apply(os.getpid)
    with pytest.raises(TaskTimeout, match=r"longer than 0\.3 s"):
        pool.apply(far_tasks.note_then_wait, (str(trace), 1, str(gate)), timeout=0.3)
    assert eventually(lambda: not alive(int(traces(trace)[0].split()[1])))
    assert pool.apply(tasks.square, (5,)) == 25


def test_the_result_of_cancel_is_reliable(place: Place, trace: Path, gate: Path) -> None:
    pool = place.pool()
    place.agent(1)
    pool.apply(os.getpid)
    results = [pool.apply_async(far_tasks.note_then_wait, (str(trace), n, str(gate))) for n in range(4)]
    assert traced(trace, 1)
    cancelled = [pool._engine.cancel(result) for result in results]
    gate.touch()
    assert cancelled == [False, True, True, True]
    assert results[0].get(LIMIT) == 0
    assert pool.apply(tasks.square, (5,)) == 25
    assert len(traces(trace)) == 1


def test_a_failing_initializer_breaks_only_its_own_client(far: Place, trace: Path) -> None:
    far.agent(2)
    other = far.pool(initializer=far_tasks.remember, initargs=(str(trace),))
    assert other.apply(tasks.square, (3,)) == 9
    pool = far.pool(initializer=far_tasks.refuse)
    results = [pool.apply_async(tasks.square, (n,)) for n in range(20)]
    for result in results:
        with pytest.raises(InitializerFailed) as caught:
            result.get(LIMIT)
        assert isinstance(caught.value.__cause__, ArithmeticError)
    assert other.map(tasks.square, range(20), 1, retries=2) == [n * n for n in range(20)]
    assert len(traces(trace)) == len(set(traces(trace)))


SCRIPT = """
import sys
from nearfar import Pool

FACTOR = 3

class Pair:
    def __init__(self, a, b):
        self.a, self.b = a, b

def triple(x):
    return FACTOR * x

def swap(pair):
    return Pair(pair.b, pair.a)

def main(offset):
    with Pool.connect(sys.argv[1]) as pool:
        print(pool.map(triple, range(4)))
        print(pool.map(lambda x: x + 1, range(4)))
        print(pool.map(lambda x: triple(x) + offset, range(4)))
        swapped = pool.apply(swap, (Pair(1, 2),))
        print(type(swapped) is Pair, swapped.a, swapped.b)

if __name__ == "__main__":
    main(100)
"""
SAID = "[0, 3, 6, 9]\n[1, 2, 3, 4]\n[100, 103, 106, 109]\nTrue 2 1\n"


def test_a_script_may_send_its_own_functions_and_classes(far: Place, tmp_path: Path) -> None:
    far.agent(2)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    programs = [
        far.shell.python(str(script), far.address),
        far.shell.python("-", far.address, stdin=SCRIPT),
        far.shell.python("-c", SCRIPT, far.address),
    ]
    for program in programs:
        assert ended(program) == (0, SAID, "")


def test_a_pool_whose_coordinator_is_gone_ends_at_once(far: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given Ctrl-C while a coordinator is away, I expect no BYE while no coordinator can receive it."""
    monkeypatch.setattr(far_engine, "FAREWELL", 60.0)
    pool = far.pool()
    far.agent(1)
    pool.apply(os.getpid)
    far.kill_coordinator()
    result = pool.apply_async(os.getpid)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(LEASE)
    began = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - began < LIMIT / 2
    with pytest.raises(CancelledError):
        result.get(0)


def test_a_task_without_a_name_is_described(far: Place) -> None:
    pool = far.pool()
    far.agent(1)
    with pytest.raises(WorkerLost, match="while it ran a function sent by value"):
        pool.apply(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_large_arguments_and_results(place: Place) -> None:
    numpy = pytest.importorskip("numpy")
    pool = place.pool()
    place.agent(2)
    arrays = [numpy.arange(1 << 20, dtype="f8") + number for number in range(6)]
    for array, result in zip(arrays, pool.map(far_tasks.reverse, arrays, 1), strict=True):
        assert (result == array[::-1]).all()


def test_an_endless_input_is_read_only_as_far_as_needed(place: Place) -> None:
    pool = place.pool()
    place.agent(2)
    read = itertools.count()
    results = pool.imap(tasks.square, read, 4)
    assert list(itertools.islice(results, 2000)) == [n * n for n in range(2000)]
    assert next(read) < 2000 + 4000
    unordered = pool.imap_unordered(tasks.square, itertools.count())
    assert len(list(itertools.islice(unordered, 100))) == 100


@pytest.mark.slow
def test_a_worker_whose_task_holds_the_gil_does_not_count_as_dead(place: Place) -> None:
    pool = place.pool()
    place.agent(1)
    assert pool.apply(far_tasks.hold_the_interpreter, (int(2 * LEASE) + 1,)) >= 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "AFTER", 0.5)


@pytest.mark.usefixtures("impatient")
def test_a_missing_worker_is_reported_once(opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    place = opened("hosted")
    pool = place.pool()
    result = pool.apply_async(tasks.square, (3,))
    assert eventually(lambda: "no worker has joined" in caplog.text, 10)
    place.agent(1)
    assert result.get(LIMIT) == 9
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith(f"start one with: nearfar worker --connect {place.address}")


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_missing_coordinator_is_reported(opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    far = opened("far")
    far.kill_coordinator()
    pool = far.pool()
    result = pool.apply_async(tasks.square, (3,))
    assert eventually(lambda: f"no coordinator answers at {far.address}" in caplog.text, 10)
    far.coordinate()
    assert eventually(lambda: f"no worker has joined {far.address} yet" in caplog.text, 10)
    far.agent(1)
    assert result.get(LIMIT) == 9
    assert len(caplog.records) == 2
