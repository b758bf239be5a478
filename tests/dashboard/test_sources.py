"""The parts of which snapshots are made, by themselves."""

from __future__ import annotations

import pickle

import pytest

from nearfar.coordinator.statistics import TaskStatistics
from nearfar.coordinator.task import TaskStatus
from nearfar.download.account import Ended
from nearfar.download.fetch.schedule import Schedule
from nearfar.download.model import Ending, Failure, FileNow, Head, HostNow, Job, Reason, Report, Saved
from nearfar.download.watched import MOST_HOSTS, OTHERS, HostTally, file_rows, merged, report
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.records import Settlement
from nearfar.queues.broker.status import MOST_SAMPLES, Ages
from nearfar.serialization import plain
from nearfar.serialization.pickles.results import dump_error, dump_unsendable
from nearfar.serialization.tracebacks import prefixed, text_of

pytestmark = pytest.mark.pure


# -- queues ----------------------------------------------------------------------------------------


def with_items(count: int, **options: int) -> Ledger:
    ledger = Ledger(**options)  # type: ignore[arg-type]
    ledger.enter("p")
    for number in range(1, count + 1):
        ledger.store("p", number, 1, b"\xc0", None)
    return ledger


def take_all(ledger: Ledger) -> None:
    consumer = ledger.consumers.get("c") or ledger.admit("c", frozenset())
    consumer.window_items, consumer.window_bytes = 100, 10_000
    while ledger.lend("c") is not None:
        pass


def test_the_oldest_item_waits_or_is_in_hand() -> None:
    ledger = with_items(3)
    assert ledger.oldest() == 1
    take_all(ledger)
    assert ledger.oldest() == 1
    ledger.took("c", 3)
    ledger.settle("c", 1, 1)
    assert ledger.oldest() == 2
    ledger.give_back("c", 3, 3)
    ledger.settle("c", 2, 2)
    assert ledger.oldest() == 3
    take_all(ledger)
    ledger.took("c", 4)
    ledger.settle("c", 4, 4)
    assert ledger.oldest() is None


def test_an_age_is_that_of_the_oldest_item() -> None:
    ledger, ages = Ledger(), Ages()
    ledger.enter("p")
    assert ages.age(ledger, 0.0) == 0.0
    for second in range(1, 11):
        ledger.store("p", second, 1, b"\xc0", None)
        assert ages.age(ledger, float(second)) == second - 1
    take_all(ledger)
    ledger.took("c", 10)
    ledger.settle("c", 1, 4)
    assert ages.age(ledger, 11.0) == 6.0
    ledger.settle("c", 5, 10)
    assert ages.age(ledger, 12.0) == 0.0
    ledger.store("p", 11, 1, b"\xc0", None)
    assert ages.age(ledger, 13.0) == 0.0
    assert ages.age(ledger, 14.0) == 1.0


def test_a_very_old_item_costs_no_more_memory() -> None:
    ledger, ages = with_items(1), Ages()
    for second in range(3 * MOST_SAMPLES):
        assert ages.age(ledger, float(second)) == second
    assert len(ages._samples) <= MOST_SAMPLES + 1


def test_dead_letters_are_stored_again_and_counted_as_new() -> None:
    ledger = with_items(2, max_attempts=1)
    take_all(ledger)
    ledger.took("c", 2)
    ledger.fail("c", 1, 2, "it fell")
    assert (ledger.died, ledger.unsettled, len(ledger.dead), ledger.redelivered) == (2, 0, 2, 0)
    news = list(ledger.producers["p"].news)
    assert [each.outcome for each in news] == [Settlement.DEAD, Settlement.DEAD]
    assert ledger.requeue_dead() == 2
    assert (ledger.stored, ledger.died, ledger.unsettled, ledger.size, ledger.dead_bytes) == (4, 2, 2, 2, 0)
    assert ledger.requeue_dead() == 0
    take_all(ledger)
    ledger.took("c", 4)
    ledger.settle("c", 3, 4)
    assert ledger.unsettled == 0
    assert ledger.producers["p"].news == news, "their producer was told already"


def test_redeliveries_are_counted() -> None:
    ledger = with_items(3, max_attempts=3)
    take_all(ledger)
    ledger.took("c", 3)
    ledger.fail("c", 1, 2, "it fell")
    assert ledger.redelivered == 2
    ledger.dismiss("c", "it was lost")
    assert ledger.redelivered == 3


# -- pools -----------------------------------------------------------------------------------------


def test_errors_are_counted_with_their_text_and_values_are_not() -> None:
    statistics = TaskStatistics(lambda: 5.0)
    error = ValueError("boom")
    statistics.answered([(7,), (1,)], 0.2)  # bare values
    statistics.answered([(int(TaskStatus.VALUE), pickle.dumps(1), ())], 0.1)
    for blob in (dump_error(error), plain.dump_error(error), memoryview(dump_error(error))):
        statistics.answered([(int(TaskStatus.ERROR), blob, ())], 0.1)
    statistics.answered([(int(TaskStatus.ERROR), dump_unsendable(TypeError("no"), object()), ())], 0.1)
    statistics.answered([(int(TaskStatus.ERROR), b"\x80garbage", ())], 0.1)
    statistics.answered([(int(TaskStatus.ERROR), b"P\xff", ())], 0.1)
    assert statistics.raised == 6
    assert sum(statistics.durations.buckets) == 9
    titles = {row["title"] for row in statistics.failures.status()}
    assert "ValueError: boom" in titles
    assert any("MaybeEncodingError" in title for title in titles)


def test_the_text_of_an_error_is_read_without_its_pickle() -> None:
    blob = prefixed(ValueError("x"), "the traceback\nof \ud800", b"no pickle at all")
    assert text_of(blob).startswith("the traceback\nof ")
    assert text_of(prefixed(ValueError("x"), "", b"")) == "ValueError: x"
    assert text_of(b"") == text_of(b"12") == "an error that cannot be read"
    assert len(text_of(prefixed(ValueError(), "y" * 100_000, b""), 1000)) == 1000


# -- downloads -------------------------------------------------------------------------------------


def saved(size: int) -> Ended:
    return Ended(Ending.SAVED, Saved("u", "u", "n", size, "", None, None, 0.0, 1))


def test_a_schedule_tells_its_hosts() -> None:
    schedule: Schedule[str] = Schedule(10, 2)
    for number in range(4):
        schedule.add("a", f"a{number}")
    schedule.take(1.0)
    schedule.add_later("b", "b0", 9.0)
    schedule.park("b", 5.0)
    assert sorted(schedule.hosts(2.0)) == [("a", 1, 3, 0.0), ("b", 0, 1, 3.0)]


def test_hosts_are_counted_by_how_their_jobs_ended() -> None:
    tally = HostTally()
    tally.ended(Job("http://me:secret@a.example/1"), saved(100))
    tally.ended(Job("http://a.example/2"), Ended(Ending.FAILED, Failure(Reason.DNS, "")))
    tally.ended(Job("http://b.example:81/2"), Ended(Ending.ALREADY, saved(7).what))
    tally.ended(Job("nonsense"), saved(1))
    now = Report((HostNow("c.example", 2, 1, 4.0),), (FileNow("http://c.example/x", 50, 20),))
    rows = {row["host"]: row for row in tally.rows(now)}
    assert next(iter(rows)) == "c.example", "those with transfers come first"
    moving = rows["c.example"]
    assert (moving["active"], moving["parked"], moving["bytes"]) == (2, 4.0, 20)
    assert (rows["a.example"]["saved"], rows["a.example"]["failed"], rows["a.example"]["bytes"]) == (
        1,
        {"dns": 1},
        100,
    )
    assert (rows["b.example:81"]["saved"], rows["b.example:81"]["bytes"]) == (0, 0)
    assert "secret" not in str(rows)
    assert file_rows(now) == [{"name": "http://c.example/x", "size": 50, "bytes": 20}]


def test_a_million_hosts_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfar.download.watched.MOST_KNOWN", 150)
    tally = HostTally()
    for number in range(1000):
        tally.ended(Job(f"http://h{number}.example/"), saved(number))
    rows = tally.rows(Report())
    assert len(rows) == MOST_HOSTS
    (others,) = [row for row in rows if row["host"] == OTHERS]
    assert others["saved"] == 850


def test_reports_of_several_processes_are_added() -> None:
    one = Report((HostNow("a", 1, 2, 0.0),), (FileNow("x", 1, 1),))
    two = Report((HostNow("a", 3, 0, 5.0), HostNow("b", 1, 0, 0.0)), (FileNow("y", None, 2),))
    both = merged([one, two])
    assert set(both.hosts) == {HostNow("a", 4, 2, 5.0), HostNow("b", 1, 0, 0.0)}
    assert [file.name for file in both.files] == ["x", "y"]


def test_only_files_that_have_bytes_are_reported_the_largest_first() -> None:
    urls = {"http://a/?token=hunter2": (100, 5), "http://a/big": (9000, 1), "http://a/none": (7, 0)}
    found = report(
        None, ((Job(url), Head(url, 200, length=size), came) for url, (size, came) in urls.items())
    )
    shown = [(file.name, file.came) for file in found.files]
    assert shown == [("http://a/big", 1), ("http://a/?token=***", 5)]
