"""How a list is cut into shares, and what becomes of those that fail: without processes or a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nearfar.download import pooled, remote_stores
from nearfar.download import pooled as share
from nearfar.download.account import Account, Ended, Failures, InputJobs
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.input import Arguments, Intake
from nearfar.download.model import Ending, Failure, Job, Reason, Saved
from nearfar.download.pooled import (
    TRIES,
    Order,
    Pooled,
    ShareJobs,
    ShareReport,
    ShareSizer,
    Unfit,
    fetch_share,
)
from nearfar.errors import PoolBroken, QueueLost, WorkerLost
from tests.support import transport
from tests.support.waiting import eventually

STARTED = 1000.0
Work = Callable[[Order], ShareReport]


def url(number: int) -> str:
    return f"http://h/{number}"


def saved(job: Job, at: float = STARTED + 1) -> Saved:
    return Saved(job.url, job.url, job.url[9:], 10, "0" * 64, None, None, at, 1)


def save_all(order: Order) -> ShareReport:
    return ShareReport([(number, Ended(Ending.SAVED, saved(job))) for number, job in order.jobs], 0.1)


def find_all(order: Order) -> ShareReport:
    return ShareReport([(number, Ended(Ending.ALREADY, saved(job))) for number, job in order.jobs], 0.1)


def lost() -> WorkerLost:
    return WorkerLost("w", "here", 1, "was killed by SIGKILL", "share:fetch_share")


class Hands:
    """An executor that works when its future is handed over; `work` may raise."""

    def __init__(self, work: Work, workers: int = 2) -> None:
        self.work = work
        self.shares: list[list[str]] = []
        self.engine = SimpleNamespace(size=workers, counts=lambda: {"workers": workers})
        self.idle = False
        """Begin nothing: what is handed in waits."""

    def submit(self, func: Callable[[Order], ShareReport], order: Order) -> Future[ShareReport]:
        assert func is fetch_share
        self.shares.append([job.url for _, job in order.jobs])
        future: Future[ShareReport] = Future()
        if not self.idle:
            try:
                future.set_result(self.work(order))
            except Exception as error:
                future.set_exception(error)
        return future


class Story:
    """A download by a pool, of numbered URLs."""

    def __init__(self, folder: Path, count: int, work: Work) -> None:
        self.hands = Hands(work)
        self.account = Account()
        self.intake = Intake(Arguments([url(number) for number in range(count)]))
        self.intake.begin()
        self.failures = Failures(folder / "failures")
        self.post = transport.Post()
        self.post.join("consumer", "store")
        job_source = InputJobs(self.intake, self.account, self.failures, clock=lambda: STARTED)
        executor: Any = self.hands
        self.pooled = Pooled(job_source, executor, transport.Outbox(self.post), order_of)

    def run(self) -> str:
        assert eventually(lambda: self.intake.ended)
        self.pooled.run()
        self.account.check()
        return str(self.account.summary())

    def close(self) -> None:
        self.intake.close()
        self.failures.close()


def order_of(jobs: tuple[tuple[int, Job], ...]) -> Order:
    return Order("tcp://h:1", 1.0, FetchOptions(), 16, jobs)


@pytest.fixture
def tell(tmp_path: Path) -> Iterator[Callable[..., Story]]:
    stories: list[Story] = []

    def make(count: int, work: Work = save_all) -> Story:
        stories.append(Story(tmp_path, count, work))
        return stories[-1]

    yield make
    for story in stories:
        story.close()


def test_a_list_is_cut_into_shares_that_get_smaller(tell: Callable[..., Story]) -> None:
    story = tell(500)
    assert story.run() == "500 urls: 500 saved, 0 already there, 0 failed"
    assert list(chain(*story.hands.shares)) == [url(number) for number in range(500)]
    assert len(story.hands.shares[0]) == ShareSizer.FIRST
    assert len(story.hands.shares[-1]) <= ShareSizer.LEAST


def test_what_was_not_begun_is_handed_out_again(tell: Callable[..., Story]) -> None:
    story = tell(50, lambda order: ShareReport(save_all(order).ended[:5], 5.0))
    assert story.run() == "50 urls: 50 saved, 0 already there, 0 failed"


def test_a_job_that_kills_its_workers_fails_alone(tell: Callable[..., Story]) -> None:
    def work(order: Order) -> ShareReport:
        if any(job.url == url(3) for _, job in order.jobs):
            raise lost()
        return save_all(order)

    story = tell(400, work)
    assert story.run() == "400 urls: 399 saved, 0 already there, 1 failed (worker 1)"
    assert story.hands.shares.count([url(3)]) == TRIES
    story.failures.close()
    assert "was killed by SIGKILL" in story.failures.path.read_text()


def test_what_a_dead_worker_saved_counts_as_saved_by_this_run(tell: Callable[..., Story]) -> None:
    """Given files of an earlier run, and a worker that dies after it saved others,

    If the share is handed out again, and all of it is there,
    I expect only the earlier ones to be counted as already there.
    """
    told: list[int] = []

    def work(order: Order) -> ShareReport:
        if not told:
            told.append(1)
            raise lost()
        ended = [
            (n, Ended(Ending.ALREADY, saved(job, STARTED - 1 if job.url == url(0) else STARTED)))
            for n, job in order.jobs
        ]
        return ShareReport(ended, 0.1)

    assert tell(8, work).run() == "8 urls: 7 saved, 1 already there, 0 failed"
    assert tell(8, find_all).run() == "8 urls: 0 saved, 8 already there, 0 failed"


def test_a_pool_that_gets_nothing_done_is_given_up(tell: Callable[..., Story]) -> None:
    def work(order: Order) -> ShareReport:
        raise ModuleNotFoundError("no module named 'nearfar.download.pooled'")

    story = tell(1000, work)
    with pytest.raises(PoolBroken, match="shares in a row failed, the last one: ModuleNotFoundError: no mod"):
        story.run()
    story.account.check()


@pytest.mark.parametrize("error", [Unfit("the worker process 5 on h: install pycurl"), PoolBroken("gone")])
def test_a_worker_that_cannot_work_or_no_pool_ends_the_run(
    tell: Callable[..., Story], error: PoolBroken
) -> None:
    def work(order: Order) -> ShareReport:
        raise error

    with pytest.raises(PoolBroken, match=str(error)):
        tell(10, work).run()


def test_a_stop_takes_back_what_no_worker_has_begun(tell: Callable[..., Story]) -> None:
    story = tell(100)
    story.hands.idle = True
    submit = story.hands.submit

    def submit_and_stop(func: Callable[[Order], ShareReport], order: Order) -> Future[ShareReport]:
        story.pooled.stop()
        return submit(func, order)

    story.hands.submit = submit_and_stop  # type: ignore[method-assign]
    said = story.run()
    handed_out = sum(map(len, story.hands.shares))
    assert 0 < handed_out < 100
    assert said == f"{handed_out} urls: 0 saved, 0 already there, 0 failed, {handed_out} left"


def test_nothing_is_handed_out_before_a_consumer_is_there(
    tell: Callable[..., Story], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_stores, "LONELY", 0.0)
    monkeypatch.setattr(pooled, "LONGEST_WAIT", 0.01)
    story = tell(10)
    story.post.kill("consumer")
    looks = iter(range(5))
    turn = story.pooled._job_source.turn

    def count_turns() -> None:
        turn()
        if next(looks) == 3:
            assert story.hands.shares == []
            story.post.join("consumer", "store")

    monkeypatch.setattr(story.pooled._job_source, "turn", count_turns)
    assert story.run() == "10 urls: 10 saved, 0 already there, 0 failed"
    assert [record.getMessage() for record in caplog.records] == [
        "no consumer has come to the queue yet: waiting for one"
    ]


def test_a_share_is_about_a_second_of_work_and_less_when_few_are_left() -> None:
    pace = ShareSizer()
    assert [pace.share(waiting, 2) for waiting in (2000, 100, 3)] == [ShareSizer.FIRST, 25, ShareSizer.LEAST]
    for _ in range(20):
        pace.note(100, 0.5)
    assert 190 <= pace.share(2000, 2) <= 200
    for _ in range(20):
        pace.note(1, 10.0)
    assert pace.share(2000, 2) == ShareSizer.LEAST
    pace.note(0, 5.0)
    pace.note(1000, 0.0)
    assert ShareSizer.LEAST <= pace.share(100_000, 2) <= ShareSizer.MOST


# -- in the worker -----------------------------------------------------------------------------------------


def test_a_share_hands_back_what_it_could_not_begin_in_time() -> None:
    late: list[str] = []
    jobs = [(number, Job(url(number))) for number in range(5)]
    job_source = ShareJobs(jobs, float("-inf"), lambda: late.append("late"))
    assert (job_source.take(2), job_source.exhausted) == (jobs[:2], False)
    assert (job_source.take(9), job_source.exhausted) == (jobs[2:], True)
    failure = Ended(Ending.FAILED, Failure(Reason.DNS, "no such host"))
    job_source.end(1, failure)
    job_source.turn()
    assert (job_source.ended, late) == ([(1, failure)], ["late"])


def test_a_worker_without_pycurl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(options: FetchOptions) -> None:
        raise ImportError("downloading needs pycurl: pip install 'nearfar[download]'")

    monkeypatch.setattr(share, "_here", SimpleNamespace())
    monkeypatch.setattr(share, "make_fetcher", make)
    with pytest.raises(Unfit, match=r"worker process \d+ on .*: downloading needs pycurl: pip install"):
        fetch_share(order_of(()))


def test_a_worker_that_finds_no_queue_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_request_sender(*_: object, **__: object) -> None:
        raise QueueLost("no host has answered at tcp://h:1 for 1 s")

    monkeypatch.setattr(share, "_here", SimpleNamespace(kept=(FetchOptions(), None)))
    monkeypatch.setattr(share, "open_request_sender", open_request_sender)
    with pytest.raises(Unfit, match="no host has answered at tcp://h:1"):
        fetch_share(order_of(()))
