"""The initializer that a worker runs before a client's first task."""

from __future__ import annotations

import pytest

from nearfar.coordinator.registry import START_FAILURES
from nearfar.coordinator.state import Client
from nearfar.coordinator.task import TaskStatus
from nearfar.errors import InitializerFailed, WorkerLost
from tests.coordinator.fakes import Job, Stage, given, held, prepared_client

pytestmark = pytest.mark.pure


def fail(stage: Stage, worker) -> None:
    """The initializer raises in `worker`."""
    worker.link.read()
    assert [getattr(task, "name", None) for task in worker.link.run()] == [None]
    stage.machine.answered(worker, [(TaskStatus.ERROR, "no GPU", ())], 0.0, stage.now)
    stage.after()


def test_it_runs_once_in_each_worker_and_before_anything_else() -> None:
    stage = Stage(prepared_client())
    workers = [stage.worker(f"w{n}") for n in range(2)]
    stage.jobs(50)
    stage.work_all()
    assert stage.values() == [f"c{n}" for n in range(50)]
    for worker in workers:
        batches = given(worker)
        assert batches[0] == ["prepare"] and batches.count(["prepare"]) == 1


def test_a_lazy_one_runs_only_where_a_task_goes() -> None:
    stage = Stage(prepared_client())
    workers = [stage.worker(f"w{n}") for n in range(5)]
    assert all(given(worker) == [] for worker in workers)
    stage.jobs(2)
    assert [given(worker) for worker in workers] == [[["prepare"]], [["prepare"]], [], [], []]
    stage.work_all()
    assert sum(bool(given(worker)) for worker in workers) == 2
    assert len(stage.values()) == 2


def test_an_eager_one_runs_in_every_worker_at_once() -> None:
    stage = Stage()
    early = stage.worker("early")
    stage.client(prepared_client("eager", eager=True))
    late = stage.worker("late")
    assert given(early) == given(late) == [["prepare"]]
    stage.work_all()
    stage.jobs(2, "eager")
    stage.work_all()
    assert given(early).count(["prepare"]) == given(late).count(["prepare"]) == 1
    assert len(stage.values()) == 2


def test_an_eager_one_is_not_given_to_a_worker_that_gets_no_more() -> None:
    stage = Stage()
    worker = stage.worker()
    stage.jobs(1)
    worker.link.read()
    stage.machine.drain(worker)
    stage.client(prepared_client("eager", eager=True))
    assert held(worker) == ["c0"]


def test_each_client_has_its_own() -> None:
    stage = Stage(prepared_client("a"), prepared_client("b"), Client("c"))
    worker = stage.worker()
    for name in "abc":
        stage.jobs(2, name)
    stage.work_all()
    assert given(worker).count(["prepare"]) == 2
    assert sorted(stage.values()) == ["a0", "a1", "b0", "b1", "c0", "c1"]


def test_no_task_of_its_client_is_sent_before_it_succeeded() -> None:
    stage = Stage(prepared_client())
    worker = stage.worker()
    stage.jobs(2)
    assert given(worker) == [["prepare"]] and held(worker) == ["prepare", "c0"]
    stage.work(worker)
    assert given(worker) == [["prepare"], ["c0"], ["c1"]]


def test_no_task_of_its_client_is_sent_behind_an_eager_one_either() -> None:
    stage = Stage(prepared_client(eager=True), Client("other"))
    worker = stage.worker()
    stage.jobs(2)
    stage.jobs(2, "other")
    assert given(worker) == [["prepare"]]
    fail(stage, worker)
    stage.work_all()
    assert stage.values() == ["other0", "other1"] and sorted(stage.errors()) == ["c0", "c1"]


def test_a_task_does_not_wait_for_it_while_a_prepared_worker_is_idle() -> None:
    stage = Stage(prepared_client())
    first = stage.worker("w0")
    stage.jobs(1)
    stage.work_all()
    stage.jobs(1)
    first.link.read()
    second = stage.worker("w1")
    stage.submit(Job("next"))
    assert held(second) == ["prepare", "next"]
    stage.work(first)
    assert held(first) == ["next"] and held(second) == ["prepare"]


def test_it_counts_nothing_against_the_quota() -> None:
    stage = Stage(prepared_client())
    for n in range(3):
        worker = stage.worker(f"w{n}", quota=1)
        stage.jobs(1)
        stage.work_all()
        assert given(worker) == [["prepare"], ["c0"]]
        assert worker.link.retired
    assert len(stage.values()) == 3


def test_cancel_of_a_task_that_waits_for_it_behind_a_far_workers_task() -> None:
    stage = Stage(Client("long"), prepared_client("c"))
    worker = stage.worker(prompt=False)
    stage.jobs(1, "long")
    worker.link.read()
    (job,) = stage.jobs(1)
    assert held(worker) == ["long0", "prepare", "c0"]
    assert stage.machine.cancel(job) is True, "it was never sent"
    stage.after()
    worker.link.settle(worker)
    stage.work_all()
    assert stage.values() == ["long0"] and stage.errors() == {}


def test_one_that_was_returned_unread_runs_later() -> None:
    stage = Stage(Client("long"), prepared_client("c"))
    worker = stage.worker("w0", quota=5)
    stage.jobs(1, "long")
    worker.link.read()
    stage.jobs(1)
    assert held(worker) == ["long0", "prepare", "c0"]
    other = stage.worker("w1")
    assert held(other) == ["prepare", "c0"]
    stage.work_all()
    stage.jobs(8)
    stage.work_all()
    assert sorted(stage.values()).count("c0") == 2 and worker.ran <= 6


def test_one_that_raises_fails_all_tasks_of_its_client_and_no_others() -> None:
    stage = Stage(prepared_client("bad"), Client("good"))
    workers = [stage.worker(f"w{n}") for n in range(2)]
    stage.jobs(5, "bad")
    stage.jobs(5, "good")
    fail(stage, workers[0])
    stage.submit(Job("late", "bad"))
    stage.work_all()
    errors = stage.errors()
    assert sorted(errors) == ["bad0", "bad1", "bad2", "bad3", "bad4", "late"]
    assert all(isinstance(error, InitializerFailed) and "no GPU" in str(error) for error in errors.values())
    assert sorted(stage.values()) == [f"good{n}" for n in range(5)]


def test_tasks_returned_to_a_broken_client_fail_too() -> None:
    stage = Stage(prepared_client())
    good = stage.worker("w0", prompt=False)
    stage.jobs(3)
    stage.work(good)
    assert held(good) == ["c0", "c1"]
    bad = stage.worker("w1")
    good.link.read()
    fail(stage, bad)
    good.link.settle(good)
    stage.after()
    stage.work_all()
    assert stage.values() == ["c0"] and sorted(stage.errors()) == ["c1", "c2"]


def test_no_worker_prepares_for_a_broken_client() -> None:
    stage = Stage(prepared_client(eager=True))
    fail(stage, stage.worker("w0"))
    assert given(stage.worker("w1")) == []


def test_workers_that_die_in_it_again_and_again_break_their_client() -> None:
    stage = Stage(prepared_client("bad"))
    stage.jobs(2, "bad")
    for n in range(START_FAILURES):
        assert stage.told == []
        worker = stage.worker(f"w{n}")
        worker.link.read()
        stage.die(worker)
    errors = stage.errors()
    assert sorted(errors) == ["bad0", "bad1"]
    assert all("died in the initializer" in str(error) for error in errors.values())


@pytest.mark.parametrize("silent", [True, False], ids=["machine", "process"])
def test_a_single_death_in_it_harms_no_task(silent: bool) -> None:
    stage = Stage(prepared_client())
    stage.jobs(3)
    for n in range(6):
        worker = stage.worker(f"w{n}")
        worker.link.read()
        stage.die(worker, silent=silent or n % 2 == 1)
        if not silent:
            stage.worker(f"good{n}", quota=1)
            stage.work_all()
            stage.jobs(1)
    assert stage.errors() == {} or not any(isinstance(e, WorkerLost) for e in stage.errors().values())
    stage.worker("last")
    stage.work_all()
    assert stage.errors() == {}


def test_a_client_that_leaves_during_its_initializer() -> None:
    stage = Stage(prepared_client("a"), Client("b"))
    worker = stage.worker()
    stage.jobs(2, "a")
    worker.link.read()
    stage.machine.client_gone("a")
    stage.after()
    assert worker.link.killed
    stage.die(worker)
    stage.worker("w1")
    stage.jobs(1, "b")
    stage.work_all()
    assert stage.values() == ["b0"] and stage.errors() == {}
