"""Every measurement once over every contestant, with few items, in process groups as in a real run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nearfar import Queue
from nearfar.contrast import settings as names
from nearfar.contrast.faults import FAULTS
from nearfar.contrast.pools import WORKER_DEATHS
from nearfar.contrast.redis_server import redis_server
from nearfar.contrast.runner import MeasurementGroup, MeasurementOutcome, MeasurementRunner, perform, plan
from nearfar.contrast.settings import KIB, QUICK, Measurement, Settings
from nearfar.contrast.transports import TRANSPORTS, contestants
from nearfar.contrast.workloads import batch_of, put_modes
from nearfar.queues.redis import promises_of

TINY = replace(
    QUICK,
    rounds=1,
    trials=1,
    sizes=(100, 100 * KIB),
    traffic=0.02,
    trips=20,
    waiting=500,
    items=200,
    quiet=2.5,
    pictures=16,
    tasks=100,
    ints=1000,
    calls=50,
    doomed=12,
    patience=4.0,
    limit=50.0,
)

PATIENT = replace(TINY, quiet=30.0)
"""For trials of which every item arrives, and which end then, however slow the machine is."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a path short enough for an ipc address."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


QUEUES = contestants()
HOSTED = {name for name in QUEUES if TRANSPORTS[name].hosted}
needs_redis = pytest.mark.skipif(
    names.REDIS not in QUEUES, reason="there is no redis-server, or nearfar[redis] is not installed"
)


def here(job: Measurement, folder: Path) -> Any:
    """Measure in this process, which saves the start of another."""
    place = folder / job.contestant.replace("/", "-")
    place.mkdir()
    told: list[Any] = []
    perform(job, TINY, place, told.append)
    [result] = told
    return result


def by_queue(part: str, work: str, folder: Path) -> dict[str, Any]:
    return {name: here(Measurement(part, work, name, 0), folder) for name in QUEUES}


def in_sandboxes(*jobs: Measurement, settings: Settings = TINY) -> dict[Measurement, Any]:
    """Measure in parallel processes: for measurements that mostly wait, or may hang."""
    told: list[MeasurementOutcome] = []
    with MeasurementRunner(settings, told.append) as runner:
        outcomes = runner.run(MeasurementGroup(jobs, parallel=6))
    assert outcomes == told
    assert [outcome for outcome in outcomes if outcome.trouble] == []
    return {outcome.measurement: outcome.result for outcome in outcomes}


@pytest.mark.slow
def test_all_items_arrive_in_every_mode(folder: Path) -> None:
    for name, rows in by_queue("queue", "throughput", folder).items():
        assert [(row["mode"], row["size"], row["batch"]) for row in rows] == [
            ("singly", 100, 1),
            ("singly", 100 * KIB, 1),
            ("batched", 100, 64),
            ("batched", 100 * KIB, 10),
            ("bounded", 100, 1),
        ], name
        for row in rows:
            assert row["sent"] == row["received"] > 0, (name, row)
            assert row["rate"] > 0


def test_round_trips_take_time_and_have_a_tail(folder: Path) -> None:
    for name, result in by_queue("queue", "latency", folder).items():
        assert 0 < result["microseconds"]["50"] <= result["microseconds"]["99.9"], name


@pytest.mark.slow
def test_items_that_wait_in_the_queue_are_in_the_memory_of_a_process(folder: Path) -> None:
    for name, result in by_queue("queue", "memory", folder).items():
        assert result.keys() == {"producer", "consumer"} | ({"host"} if name in HOSTED else set())
        assert 0.5 * KIB < sum(result.values()) < 20 * KIB, (name, result)


@pytest.mark.slow
def test_the_first_item_takes_longer_than_the_interpreter(folder: Path) -> None:
    for name, result in by_queue("queue", "start-up", folder).items():
        assert 0 < result["interpreter"] < result["milliseconds"], name


def test_pictures_are_saved_as_they_were_drawn(folder: Path) -> None:
    for name, result in by_queue("download", "getfile", folder).items():
        assert (result["good"], result["torn"], result["missing"]) == (16, 0, 0), name
        assert result["rate"] > 0


@pytest.mark.slow
def test_a_killed_getfile_costs_the_hosted_queues_no_file() -> None:
    raw, *jobs = [Measurement("download", "getfile killed", name, 1) for name in (names.RAW, *HOSTED)]
    found = in_sandboxes(raw) | in_sandboxes(*jobs, settings=PATIENT)
    for job, result in found.items():
        assert result["good"] + result["torn"] + result["missing"] == result["wanted"] == 16
        if job.contestant in HOSTED:
            assert (result["torn"], result["missing"]) == (0, 0), job


@pytest.mark.slow
def test_a_faults_counts_add_up_and_far_queues_lose_no_item() -> None:
    """A far queue promises nothing for items that had not left a killed producer."""
    jobs = [
        *(Measurement("faults", name, names.FAR_TCP, 0) for name in FAULTS),
        Measurement("faults", "host killed and restarted", names.FAR_IPC, 0),
    ]
    for job, result in in_sandboxes(*jobs).items():
        assert result["received"] + result["lost"] + result["stuck"] == result["sent"]
        if job.work == "producer killed":
            assert result["sent"] == TINY.items // 2
        else:
            assert (result["sent"], result["lost"], result["stuck"]) == (TINY.items, 0, 0), job


@pytest.mark.slow
def test_losses_of_the_other_queues_are_detected() -> None:
    killed = Measurement("faults", "consumer killed at work", names.RAW, 0)
    frozen = Measurement("faults", "consumer frozen", names.RAW, 1)
    deaf = Measurement("faults", "consumer stops reading", names.RAW, 0)
    found = in_sandboxes(killed, frozen, deaf)
    assert found[killed]["lost"] > 0
    assert found[killed]["stuck"] == 0
    assert found[frozen]["stuck"] > 0
    assert found[frozen]["lost"] == 0
    assert found[frozen]["stuck_for"] > TINY.quiet
    assert found[deaf]["stuck"] > TINY.items // 4


@needs_redis
@pytest.mark.slow
def test_what_is_in_redis_survives_its_server_and_its_producer() -> None:
    restarted = Measurement("faults", "host killed and restarted", names.REDIS, 0)
    killed = Measurement("faults", "producer killed", names.REDIS, 0)
    found = in_sandboxes(restarted, killed, settings=PATIENT)
    for job, sent in ((restarted, TINY.items), (killed, TINY.items // 2)):
        assert (found[job]["sent"], found[job]["received"]) == (sent, sent), found[job]


@needs_redis
def test_a_queue_in_a_server_of_this_comparison_promises_what_the_page_says(folder: Path) -> None:
    with redis_server(folder) as server:
        assert Queue.connect(server.address, insecure=True).promises() == promises_of(durable=True)


def test_redis_is_measured_only_with_its_server(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PATH", str(folder))
    assert contestants() == [name for name in names.QUEUES if name != names.REDIS]


def test_a_host_is_killed_only_where_there_is_one() -> None:
    groups = plan(["faults"], TINY, QUEUES)
    jobs = [job for group in groups for job in group.measurements if job.work == "host killed and restarted"]
    assert {job.contestant for job in jobs} == HOSTED


@pytest.mark.slow
def test_every_pool_gives_the_right_answers(folder: Path) -> None:
    for name in names.POOLS:
        result = here(Measurement("pool", "speed", name, 0), folder)
        assert min(result["start"], result["singly"], result["map"]) > 0, name
        assert result["microseconds"]["50"] > 0


@pytest.mark.slow
def test_a_killed_worker_hangs_the_standard_pool_breaks_the_executor_and_costs_ours_its_own_task() -> None:
    contestants = (names.POOL, names.EXECUTOR, names.NEAR, names.FAR_TCP)
    found = in_sandboxes(
        *(Measurement("pool", work, name, 0) for work in WORKER_DEATHS for name in contestants)
    )
    for job, result in found.items():
        assert result["answered"] + result["failed"] + result["hung"] == result["tasks"], job
        guilty = int(job.work == "worker killed at work")
        if job.contestant == names.POOL and guilty:
            assert (result["failed"], result["hung"]) == (0, 1)
        elif job.contestant == names.EXECUTOR:
            assert result["error"] == "BrokenProcessPool"
        elif job.contestant != names.POOL:
            assert (result["failed"], result["hung"]) == (guilty, 0), (job, result)


def test_rounds_take_all_contestants_and_begin_with_another_one() -> None:
    group = next(plan(["queue"], replace(TINY, rounds=3), names.QUEUES))
    turns = [[job.contestant for job in group.measurements if job.turn == turn] for turn in range(3)]
    assert all(sorted(turn) == sorted(names.QUEUES) for turn in turns)
    assert [turn[0] for turn in turns] == list(names.QUEUES[:3])


def test_a_batch_is_of_at_most_64_items_and_a_mebibyte() -> None:
    assert [batch_of(size) for size in (100, 10 * KIB, 100 * KIB, KIB * KIB)] == [64, 64, 10, 1]
    assert {mode.size for mode in put_modes((100, KIB * KIB)) if mode.name == "batched"} == {100}
