"""Workers die, tasks are cancelled or too slow, clients leave."""

from __future__ import annotations

from concurrent.futures import CancelledError

import pytest

from nearfar.coordinator.registry import POISON
from nearfar.coordinator.state import Client
from nearfar.coordinator.task import TaskState
from nearfar.errors import TaskTimeout, WorkerLost
from tests.coordinator.fakes import Job, Stage, answers_to, given, held

pytestmark = pytest.mark.pure

NOW_AND_LATER = pytest.mark.parametrize("prompt", [True, False], ids=["at once", "later"])
LONG = 10.0


def batched(*, clients: tuple[str, ...] = ("c",)) -> Stage:
    """A stage where `m:f` was measured as fast, and worker w0 has run it."""
    stage = Stage(*map(Client, clients))
    stage.worker("w0")
    for name in clients:
        stage.jobs(1, name)
        stage.work_all()
    stage.told.clear()
    return stage


# -- death ---------------------------------------------------------------------------------------


def test_only_the_task_that_ran_is_lost_with_its_worker() -> None:
    stage = batched()
    worker = stage.machine.workers["w0"]
    stage.jobs(300)
    assert len(worker.batches) == 2
    stage.work(worker, most=2)
    stage.die(worker)
    assert list(stage.errors()) == ["c2"]
    error = stage.errors()["c2"]
    assert isinstance(error, WorkerLost)
    assert (error.worker, error.host, error.pid, error.how) == ("w0", "here", 1, "killed by SIGKILL")
    assert error.task == "m:f"
    stage.worker("w1")
    stage.work_all()
    assert stage.values() == [f"c{n}" for n in range(300) if n != 2]


def test_a_worker_that_dies_before_it_reads_harms_nothing() -> None:
    stage = batched()
    stage.jobs(10)
    stage.die(stage.machine.workers["w0"])
    stage.worker("w1")
    stage.work_all()
    assert stage.values() == [f"c{n}" for n in range(10)]


def test_an_idle_worker_may_die() -> None:
    stage = batched()
    stage.die(stage.machine.workers["w0"])
    assert stage.told == [] and stage.machine.workers == {}


def test_a_death_may_be_reported_twice() -> None:
    stage = batched()
    worker = stage.machine.workers["w0"]
    stage.jobs(1)
    worker.link.read()
    stage.die(worker)
    stage.die(worker)
    assert list(stage.errors()) == ["c0"]


def test_a_dead_worker_with_more_unread_than_it_was_given() -> None:
    stage = batched()
    worker = stage.machine.workers["w0"]
    stage.jobs(10)
    stage.machine.died(worker, "killed", 3)
    stage.after()
    stage.worker("w1")
    stage.work_all()
    assert stage.values() == [f"c{n}" for n in range(10)]


def test_the_tasks_of_several_clients_move_on_each_in_its_order() -> None:
    stage = batched(clients=("a", "b"))
    worker = stage.machine.workers["w0"]
    stage.jobs(6, "a")
    stage.jobs(6, "b")
    assert {batch.client for batch in worker.batches} == {"a", "b"}
    stage.work(worker, most=1)
    stage.die(worker)
    assert list(stage.errors()) == ["a1"]
    stage.worker("w1")
    stage.work_all()
    assert [v for v in stage.values() if v.startswith("a")] == ["a0", "a2", "a3", "a4", "a5"]
    assert [v for v in stage.values() if v.startswith("b")] == [f"b{n}" for n in range(6)]


def test_all_tasks_of_a_silent_machine_count_as_lost() -> None:
    stage = batched()
    worker = stage.machine.workers["w0"]
    stage.jobs(10)
    holds = held(worker)
    stage.die(worker, "silent for 10 s", silent=True)
    assert sorted(stage.errors()) == sorted(holds)
    stage.worker("w1")
    stage.work_all()
    assert len(stage.told) == 10


def test_a_task_with_retries_runs_again_and_first() -> None:
    stage = Stage()
    worker = stage.worker("w0")
    stage.submit(Job("again", retries=2), Job("next"), Job("last"))
    worker.link.read()
    stage.die(worker)
    second = stage.worker("w1")
    stage.work_all()
    assert given(second)[0] == ["again"]
    assert stage.values() == ["again", "next", "last"]


def test_retries_end() -> None:
    stage = Stage()
    job = Job("cursed", retries=2)
    stage.submit(job)
    for n in range(3):
        assert stage.told == []
        worker = stage.worker(f"w{n}")
        worker.link.read()
        stage.die(worker)
    assert isinstance(stage.errors()["cursed"], WorkerLost)


def test_a_crashing_task_kills_only_a_few_workers() -> None:
    stage = Stage()
    stage.submit(Job("poison", retries=1000))
    deaths = 0
    while not stage.told:
        worker = stage.worker(f"w{deaths}")
        worker.link.read()
        stage.die(worker)
        deaths += 1
    assert deaths == POISON


def test_lost_machines_are_not_a_tasks_fault() -> None:
    stage = Stage()
    stage.submit(Job("unlucky", retries=20))
    for n in range(20):
        worker = stage.worker(f"w{n}")
        worker.link.read()
        stage.die(worker, silent=True)
    assert stage.told == []
    stage.worker("last")
    stage.work_all()
    assert stage.values() == ["unlucky"]


# -- time ----------------------------------------------------------------------------------------


def test_a_task_that_exceeds_its_timeout_is_killed_and_fails() -> None:
    stage = Stage()
    worker = stage.worker()
    stage.submit(Job("slow", timeout=5.0, retries=3), Job("next"))
    worker.link.read()
    assert stage.machine.deadline() == 5.0
    stage.machine.tick(4.9)
    assert not worker.link.killed
    stage.machine.tick(5.0)
    assert worker.link.killed and stage.told == []
    stage.die(worker)
    error = stage.errors()["slow"]
    assert isinstance(error, TaskTimeout) and "5 s" in str(error)
    stage.worker("w1")
    stage.work_all()
    assert stage.values() == ["next"]


def test_an_answer_just_before_the_kill_counts() -> None:
    stage = Stage()
    worker = stage.worker()
    stage.submit(Job("slow", timeout=5.0), Job("next"))
    worker.link.read()
    stage.machine.tick(5.0)
    stage.work(worker)
    stage.die(worker)
    stage.worker("w1")
    stage.work_all()
    assert stage.values() == ["slow", "next"] and stage.errors() == {}


def test_a_timeout_counts_from_the_start_of_a_task() -> None:
    stage = Stage()
    worker = stage.worker()
    stage.submit(Job("long"), Job("timed", timeout=5.0))
    assert held(worker) == ["long", "timed"]
    stage.now = 100.0
    stage.machine.tick(stage.now)
    assert not worker.link.killed
    stage.work(worker)
    assert stage.machine.deadline() == 105.0


def test_no_batch_is_sent_ahead_of_a_task_with_a_timeout() -> None:
    """It could have ended, and the next begun, when the kill arrives."""
    stage = Stage()
    worker = stage.worker()
    stage.submit(Job("timed", timeout=5.0), Job("next"))
    assert held(worker) == ["timed"]


# -- cancel --------------------------------------------------------------------------------------


def test_cancel_of_a_task_that_waits() -> None:
    stage = Stage()
    jobs = stage.jobs(3)
    assert stage.machine.cancel(jobs[1]) is True
    assert stage.machine.cancel(jobs[1]) is False, "it has been settled by that"
    stage.worker()
    stage.work_all()
    assert stage.values() == ["c0", "c2"] and stage.errors() == {}


def test_cancel_of_a_task_given_and_unread_nearby() -> None:
    stage = Stage()
    worker = stage.worker()
    jobs = stage.jobs(3)
    worker.link.read()
    assert stage.machine.cancel(jobs[1]) is True
    stage.after()
    stage.work_all()
    assert stage.values() == ["c0", "c2"]


@pytest.mark.parametrize("began", [False, True], ids=["unread", "begun"])
def test_cancel_of_a_task_at_a_far_worker_is_answered_later(began: bool) -> None:
    stage = Stage()
    worker = stage.worker(prompt=False)
    jobs = stage.jobs(3)
    worker.link.read()
    assert stage.machine.cancel(jobs[1]) is None
    assert stage.machine.cancel(jobs[1]) is None
    stage.after()
    done = worker.link.run()
    if began:
        worker.link.read()
    worker.link.settle(worker)
    stage.machine.answered(worker, answers_to(done), LONG, stage.now)
    stage.after()
    stage.work_all()
    assert stage.values() == (["c0", "c1", "c2"] if began else ["c0", "c2"])
    assert stage.cancelled() == ([] if began else ["c1"])


def test_a_failed_cancel_still_counts_if_the_task_is_returned() -> None:
    stage = Stage()
    worker = stage.worker(prompt=False)
    jobs = stage.jobs(3)
    assert stage.machine.cancel(jobs[1]) is None
    stage.die(worker)
    assert stage.cancelled() == ["c1"]
    stage.worker("w1")
    stage.work_all()
    assert stage.values() == ["c0", "c2"]


def test_cancel_of_a_running_or_ended_task_is_refused() -> None:
    stage = Stage()
    worker = stage.worker()
    (job,) = stage.jobs(1)
    worker.link.read()
    assert stage.machine.cancel(job) is False
    stage.work(worker)
    assert stage.machine.cancel(job) is False
    assert stage.values() == ["c0"]


def test_a_task_to_be_retried_that_was_cancelled_is_not_retried() -> None:
    stage = Stage()
    worker = stage.worker(prompt=False)
    jobs = [Job("first"), Job("cancelled", retries=5)]
    stage.submit(*jobs)
    worker.link.read()
    assert stage.machine.cancel(jobs[1]) is None
    stage.die(worker, silent=True)
    assert isinstance(stage.errors()["cancelled"], CancelledError)


# -- clients that leave --------------------------------------------------------------------------


@NOW_AND_LATER
def test_a_client_that_leaves_takes_its_tasks_along_and_what_runs_is_killed(prompt: bool) -> None:
    stage = Stage(Client("a"), Client("b"))
    worker = stage.worker(prompt=prompt)
    jobs = stage.jobs(1, "a") + stage.jobs(3, "b") + stage.jobs(3, "a")
    worker.link.read()
    assert held(worker) == ["a0", "b0"]
    stage.machine.client_gone("a")
    if not prompt:
        assert not worker.link.killed, "the other's task could have begun by now"
        worker.link.settle(worker)
    stage.after()
    assert worker.link.killed
    stage.die(worker)
    stage.worker("w1")
    stage.work_all()
    assert stage.values() == ["b0", "b1", "b2"] and stage.errors() == {}
    assert all(job.state is TaskState.SETTLED for job in jobs)


@NOW_AND_LATER
def test_a_client_that_leaves_harms_nothing_that_runs_before_its_own(prompt: bool) -> None:
    stage = Stage(Client("a"), Client("b"))
    worker = stage.worker(prompt=prompt)
    stage.jobs(1, "a")
    stage.jobs(1, "b")
    worker.link.read()
    stage.machine.client_gone("b")
    if not prompt:
        worker.link.settle(worker)
    stage.after()
    stage.work_all()
    assert not worker.link.killed and stage.values() == ["a0"]


def test_a_task_that_began_meanwhile_is_not_killed_for_the_one_before_it() -> None:
    """The gone client's task has ended, and its worker runs another's: the recall shows it."""
    stage = Stage(Client("a"), Client("b"))
    worker = stage.worker()
    stage.jobs(1, "a")
    stage.jobs(1, "b")
    worker.link.read()
    done = worker.link.run()
    worker.link.read()
    stage.machine.client_gone("a")
    stage.after()
    assert not worker.link.killed
    stage.machine.answered(worker, answers_to(done), 0.0, stage.now)
    stage.after()
    stage.work_all()
    assert stage.values() == ["b0"] and stage.machine.book.stale == 1


def test_a_task_of_a_client_that_left_is_killed_when_it_begins() -> None:
    stage = Stage(Client("a"), Client("b"))
    worker = stage.worker()
    stage.jobs(1, "a")
    stage.jobs(1, "b")
    worker.link.read()
    done = worker.link.run()
    worker.link.read()
    stage.machine.client_gone("b")
    assert not worker.link.killed
    stage.machine.answered(worker, answers_to(done), 0.0, stage.now)
    stage.after()
    assert worker.link.killed and stage.values() == ["a0"]


def test_a_cancelled_task_of_a_client_that_left_has_no_outcome() -> None:
    stage = Stage(Client("a"))
    worker = stage.worker(prompt=False)
    jobs = stage.jobs(2, "a")
    worker.link.read()
    assert stage.machine.cancel(jobs[1]) is None
    stage.machine.client_gone("a")
    worker.link.settle(worker)
    stage.after()
    stage.die(worker)
    assert stage.told == []


def test_another_client_may_use_the_name_of_one_that_left() -> None:
    stage = Stage(Client("a"))
    worker = stage.worker()
    stage.jobs(3, "a")
    worker.link.read()
    stage.machine.client_gone("a")
    stage.client(Client("a"))
    stage.submit(Job("new", "a"))
    assert worker.link.killed
    stage.die(worker)
    stage.worker("w1")
    stage.work_all()
    assert stage.values() == ["new"] and stage.errors() == {}


def test_a_client_may_leave_twice_or_without_having_connected() -> None:
    stage = Stage()
    stage.machine.client_gone("c")
    stage.machine.client_gone("c")
    stage.machine.client_gone("nobody")
    stage.after()
