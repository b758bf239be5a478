"""The scheduler: which worker gets which tasks, and when."""

from __future__ import annotations

import sys

import pytest

from nearfar.coordinator.placement import MOST_BYTES, MOST_TASKS
from nearfar.coordinator.state import Client
from nearfar.errors import ProtocolError
from tests.coordinator.fakes import Job, Stage, answers_to, given, held

pytestmark = pytest.mark.pure

LONG = 10.0


def test_the_first_task_goes_to_an_idle_worker_at_once() -> None:
    stage = Stage()
    worker = stage.worker()
    stage.submit(Job("a"))
    assert given(worker) == [["a"]]
    stage.work(worker)
    assert stage.values() == ["a"]


def test_tasks_wait_for_the_first_worker() -> None:
    stage = Stage()
    stage.jobs(2)
    assert stage.told == []
    stage.worker()
    stage.work_all()
    assert stage.values() == ["c0", "c1"]


def test_idle_workers_come_before_busy_ones() -> None:
    stage = Stage()
    workers = [stage.worker(f"w{n}") for n in range(3)]
    stage.jobs(3)
    assert [held(worker) for worker in workers] == [["c0"], ["c1"], ["c2"]]


def test_the_worker_idle_for_longest_is_next() -> None:
    stage = Stage()
    first, second = stage.worker("w0"), stage.worker("w1")
    stage.submit(Job("a"), Job("b"))
    stage.work(second)
    stage.work(first)
    stage.submit(Job("c"))
    assert (held(first), held(second)) == ([], ["c"])


def test_batches_grow_if_tasks_are_short() -> None:
    stage = Stage()
    worker = stage.worker()
    stage.jobs(2000)
    stage.work_all(cost=0.00001)
    sizes = [len(batch) for batch in given(worker)]
    assert sizes[:2] == [1, 1]
    assert max(sizes) == 100
    assert stage.values() == [f"c{n}" for n in range(2000)]


def test_a_batch_has_a_bound_in_tasks_and_in_bytes() -> None:
    stage = Stage()
    worker = stage.worker()
    stage.jobs(1000)
    stage.work_all()
    assert max(len(batch) for batch in given(worker)) == MOST_TASKS
    stage.submit(*(Job(n, size=MOST_BYTES // 3) for n in range(20)))
    before = len(given(worker))
    stage.work_all()
    assert max(len(batch) for batch in given(worker)[before:]) == 3


def test_long_tasks_go_one_by_one() -> None:
    stage = Stage()
    worker = stage.worker()
    stage.jobs(20)
    stage.work_all(cost=LONG)
    assert all(len(batch) == 1 for batch in given(worker))


def test_one_slow_task_shrinks_batches_at_once_and_they_grow_again_gradually() -> None:
    stage = Stage()
    worker = stage.worker()
    stage.jobs(500)
    stage.work_all()
    stage.jobs(1)
    stage.work(worker, cost=0.1)
    before = len(given(worker))
    stage.jobs(3000)
    stage.work_all()
    sizes = [len(batch) for batch in given(worker)[before:]]
    assert sizes[:10] == [1] * 10
    assert max(sizes) > 100


def test_a_batch_has_tasks_of_one_function() -> None:
    stage = Stage()
    worker = stage.worker()
    stage.jobs(10, function=b"m:f")
    stage.jobs(10, function=b"m:g")
    stage.work_all()
    stage.submit(*(Job(n, function=b"m:f" if n < 5 else b"m:g") for n in range(10)))
    stage.work_all()
    assert all(len({name < 5 for name in batch}) == 1 for batch in given(worker) if isinstance(batch[0], int))
    assert stage.values()[-10:] == list(range(10))


def test_waiting_tasks_are_spread_over_the_workers() -> None:
    stage = Stage()
    workers = [stage.worker(f"w{n}") for n in range(4)]
    stage.jobs(100)
    stage.work_all()
    before = [sum(map(len, given(worker))) for worker in workers]
    stage.submit(*(Job(n) for n in range(40)))
    assert all(1 <= len(held(worker)) <= 20 for worker in workers)
    stage.work_all()
    assert all(sum(map(len, given(w))) - b >= 4 for w, b in zip(workers, before, strict=True))


def test_a_near_worker_has_a_batch_ahead_even_behind_a_long_task() -> None:
    stage = Stage()
    worker = stage.worker()
    stage.jobs(4)
    stage.work(worker, cost=LONG)
    assert held(worker) == ["c1", "c2"]


def test_a_remote_worker_has_one_ahead_only_behind_short_tasks() -> None:
    stage = Stage()
    worker = stage.worker(ahead=False)
    stage.jobs(300)
    assert held(worker) == ["c0"], "nobody knows yet how long it takes"
    stage.work(worker, cost=0.00001)
    assert len(worker.batches) == 2
    stage.work(worker, cost=LONG)
    stage.work(worker, cost=LONG)
    stage.work(worker, cost=LONG)
    assert len(worker.batches) == 1


@pytest.mark.parametrize("prompt", [True, False], ids=["at once", "later"])
def test_unread_tasks_go_to_an_idle_worker(prompt: bool) -> None:
    stage = Stage()
    busy = stage.worker("w0", prompt=prompt)
    stage.jobs(2)
    busy.link.read()
    idle = stage.worker("w1")
    if not prompt:
        assert (held(busy), held(idle)) == (["c0", "c1"], [])
        busy.link.settle(busy)
        stage.after()
    assert (held(busy), held(idle)) == (["c0"], ["c1"])


def test_a_failed_recall_is_not_repeated_before_the_next_batch_begins() -> None:
    stage = Stage()
    busy = stage.worker("w0", prompt=False)
    stage.jobs(2)
    busy.link.read()
    stage.worker("w1")
    done = busy.link.run()
    busy.link.read()
    busy.link.settle(busy)
    for _ in range(3):
        stage.after()
    assert busy.link.asked == 0
    stage.machine.answered(busy, answers_to(done), 0.0, stage.now)
    stage.after()
    assert held(busy) == ["c1"]


def test_a_worker_with_a_pending_recall_gets_no_batch() -> None:
    """Or the answer, how many it returns, would count a batch that it had not seen when it answered."""
    stage = Stage()
    busy = stage.worker("w0", prompt=False)
    first = stage.jobs(2)
    busy.link.read()
    idle = stage.worker("w1")
    assert busy.link.asked == 1
    done = busy.link.run()
    stage.machine.answered(busy, answers_to(done), 0.0, stage.now)
    stage.jobs(3, function=b"m:g")
    assert held(busy) == ["c1"]
    busy.link.settle(busy)
    stage.after()
    stage.work(idle)
    stage.work_all()
    began = [task for worker in (busy, idle) for batch in worker.link.given for task in batch]
    assert stage.values().count("c1") >= 1 and began.count(first[1]) == 2, "given, returned unread, given"
    assert len(stage.told) == 5


def test_answers_come_in_order_and_in_parts() -> None:
    stage = Stage()
    worker = stage.worker()
    stage.jobs(100)
    stage.work_all()
    stage.told.clear()
    stage.jobs(64)
    while stage.work(worker, most=3):
        pass
    assert stage.values() == [f"c{n}" for n in range(64)]


def test_one_message_may_answer_several_batches() -> None:
    stage = Stage()
    worker = stage.worker()
    stage.jobs(2)
    worker.link.read()
    done = worker.link.run()
    worker.link.read()
    stage.machine.answered(worker, answers_to(done + worker.link.run()), 0.0, stage.now)
    stage.after()
    assert stage.values() == ["c0", "c1"]


def test_surplus_answers_of_a_worker_change_nothing() -> None:
    stage = Stage()
    worker = stage.worker()
    jobs = stage.jobs(1)
    with pytest.raises(ProtocolError, match="more tasks than it has"):
        stage.machine.answered(worker, answers_to(jobs * 2), 0.0, stage.now)
    stage.after()
    assert stage.told == [] and held(worker) == ["c0"]
    stage.work(worker)
    assert stage.values() == ["c0"]


def test_names_of_clients_and_workers_must_be_new() -> None:
    stage = Stage()
    stage.worker("w")
    with pytest.raises(ProtocolError, match="worker w already"):
        stage.worker("w")
    with pytest.raises(ProtocolError, match="client c already"):
        stage.client(Client("c"))


def test_a_worker_ends_when_it_has_run_its_quota_and_is_never_given_more() -> None:
    stage = Stage()
    worker = stage.worker(quota=7)
    stage.jobs(100)
    while stage.work(worker):
        pass
    assert sum(map(len, given(worker))) == 7
    assert worker.link.retired and "w" not in stage.machine.workers
    stage.worker("next", quota=93)
    stage.work_all()
    assert stage.values() == [f"c{n}" for n in range(100)]


def test_a_draining_worker_finishes_what_it_runs_and_is_retired() -> None:
    stage = Stage()
    worker = stage.worker("w0")
    stage.jobs(3)
    worker.link.read()
    stage.machine.drain(worker)
    stage.after()
    assert held(worker) == ["c0"]
    stage.work(worker)
    assert worker.link.retired
    stage.worker("w1")
    stage.work_all()
    assert stage.values() == ["c0", "c1", "c2"]


def test_an_idle_worker_is_retired_as_soon_as_it_drains() -> None:
    stage = Stage()
    worker = stage.worker()
    stage.machine.drain(worker)
    assert worker.link.retired and stage.machine.workers == {}


def test_tasks_that_a_draining_far_worker_returns_keep_their_order() -> None:
    stage = Stage()
    worker = stage.worker("w0", prompt=False)
    stage.jobs(4)
    stage.machine.drain(worker)
    worker.link.settle(worker)
    stage.after()
    assert worker.link.retired, "it had not even read the first"
    stage.worker("w1")
    stage.work_all()
    assert stage.values() == ["c0", "c1", "c2", "c3"]


def test_a_client_with_short_tasks_is_not_starved_by_one_with_long_ones() -> None:
    stage = Stage(Client("long"), Client("short"))
    workers = [stage.worker(f"w{n}") for n in range(2)]
    stage.jobs(50, "long", function=b"m:slow")
    for worker in workers:
        stage.work(worker, cost=LONG)
    stage.jobs(1000, "short", function=b"m:quick")
    for worker in (workers[0], workers[0], workers[1], workers[1]):
        stage.work(worker, cost=LONG)
    mine = next(worker for worker in workers if held(worker)[0].startswith("short"))
    for _ in range(30):
        stage.work(mine)
    assert sum(value.startswith("short") for value in stage.values()) == 1000


def test_one_worker_serves_many_clients_in_turn() -> None:
    names = [f"client{n} " for n in range(5)]
    stage = Stage(*map(Client, names))
    worker = stage.worker()
    for name in names:
        stage.jobs(4, name)
    while stage.work(worker, cost=LONG):
        pass
    order = [value.split()[0] for value in stage.values()]
    assert all(len(set(order[turn : turn + 5])) >= 4 for turn in range(0, 20, 5))


def test_the_cost_of_a_task_does_not_grow_with_the_clients() -> None:
    def steps(clients: int) -> int:
        stage = Stage(*(Client(f"{n} ") for n in range(clients)))
        machine, worker = stage.machine, stage.worker()
        for name in list(machine.book.clients):
            machine.submit(Job(0, name))
        count = 0

        def trace(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(trace)
        try:
            for _ in range(8):
                machine.flush(0.0)
                worker.link.read()
                machine.answered(worker, answers_to(worker.link.run()), LONG, 0.0)
        finally:
            sys.setprofile(None)
        return count

    assert steps(1000) <= steps(10) * 1.2


def test_no_data_structure_grows_under_steady_load() -> None:
    stage = Stage(Client("a"), Client("b"))
    machine = stage.machine
    workers = [stage.worker(f"w{n}") for n in range(3)]
    for turn in range(3000):
        for name in "ab":
            machine.submit(Job(turn, name, timeout=1e6))
            machine.submit(Job(turn, name, function=b"m:g"))
        machine.flush(stage.now)
        for worker in workers[: 2 if turn < 20 else 3]:
            worker.link.read()
            machine.answered(worker, answers_to(worker.link.run()), LONG, stage.now)
            machine.flush(stage.now)
        machine.outcomes.clear()
    assert len(machine.book._turns._heap) < 200
    assert len(machine._alarms._heap) < 200
