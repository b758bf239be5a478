"""What pools, queues and programs publish: the figures are true, and have the documented form."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest

from nearfar import Executor, Pool, Queue
from nearfar.dashboard import model
from nearfar.dashboard.board import Board
from nearfar.dashboard.model import COUNTERS, GAUGES, Status
from nearfar.demo.gallery import Gallery
from nearfar.demo.server import GalleryServer
from nearfar.errors import AddressError
from tests.dashboard.web import ask
from tests.pool import tasks
from tests.support.shell import ANYWHERE, Program, Shell, ended
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
HERE = "127.0.0.1:*"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.close()


def checked(status: dict[str, Any]) -> dict[str, Any]:
    """`status`, which has the documented fields, of the documented types, and no others."""
    msgspec.convert(status, Status, strict=True)
    assert set(status) <= set(get_type_hints(Status))
    for section, kind in (
        ("workers", model.WorkerRow),
        ("failures", model.FailureRow),
        ("hosts", model.HostRow),
        ("files", model.FileRow),
    ):
        for row in status.get(section, ()):
            assert set(row) == set(get_type_hints(kind)), section
    queue = status.get("queue", {"counts": {}})
    assert set(queue) <= set(get_type_hints(model.QueueStatus))
    known = COUNTERS.keys() | GAUGES.keys()
    assert set(status["counts"]) | set(queue["counts"]) <= known, "each count is explained, and in /metrics"
    return status


def until(url: str, met: Any, within: float = 20.0) -> dict[str, Any]:
    """The first status for which `met` holds."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        answer = ask(url, "/api/status")
        if answer.status == 200:
            found[:] = [json.loads(answer.body)]
        return bool(found) and bool(met(found[0]))

    assert eventually(look, within), found
    return checked(found[0])


def fail(number: int) -> None:
    raise ValueError(f"no {number}, with token=hunter2")


# -- pools -----------------------------------------------------------------------------------------


def test_a_pool_shows_its_workers_tasks_and_failures(tmp_path: Path) -> None:
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    with Pool(2, dashboard=HERE) as pool:
        url = str(pool.dashboard_url)
        assert pool.map(tasks.square, range(10), 1) == [n * n for n in range(10)]
        failures = [pool.apply_async(fail, (number,)) for number in range(3)]
        for each in failures:
            with pytest.raises(ValueError, match="hunter2"):
                each.get(20)
        running = pool.apply_async(tasks.leave_then_wait_for, (str(mark), str(gate)))
        found = until(url, lambda status: status["counts"]["done"] == 13 and status["counts"]["running"])
        gate.touch()
        running.get(20)
    assert (found["program"], found["pid"], found["ready"]) == ("pool", os.getpid(), True)
    assert (found["counts"]["workers"], found["counts"]["raised"], found["counts"]["lost"]) == (2, 3, 0)
    busy, idle = sorted(found["workers"], key=lambda worker: not worker["runs"])
    assert (busy["runs"], idle["runs"]) == ("tests.pool.tasks:leave_then_wait_for", "")
    assert busy["tasks"] + idle["tasks"] == 13
    assert busy["memory"] > 1_000_000 and idle["memory"] > 1_000_000
    assert sum(found["task_seconds"]["buckets"]) == 13
    (group,) = found["failures"]
    assert group["count"] == 3
    assert re.fullmatch(r"ValueError: no \d, with token=\*\*\*", group["title"])
    assert "in fail\n" in group["traceback"] and "hunter2" not in group["traceback"]
    with pytest.raises(OSError):
        ask(url, "/health")


def test_a_pool_that_only_waits_publishes_every_second() -> None:
    with Pool(1, dashboard=HERE) as pool:
        url = str(pool.dashboard_url)
        first = until(url, lambda status: status["ready"])
        until(url, lambda status: status["time"] >= first["time"] + 2)
        assert pool.apply(tasks.square, (3,)) == 9


def test_a_lost_worker_is_shown_with_the_task_that_it_ran() -> None:
    with Pool(1, dashboard=HERE) as pool:
        pool.apply_async(os.kill, (0, 0)).wait(20)
        with pytest.raises(Exception, match="exited with code 3"):
            pool.apply(tasks.die, ())
        found = until(str(pool.dashboard_url), lambda status: status["counts"]["lost"] == 1)
    assert any("WorkerLost" in group["title"] and "die" in group["title"] for group in found["failures"])


def test_a_pool_s_dashboard_ends_with_it_however_it_ends() -> None:
    pool = Pool(1, dashboard=HERE)
    url = str(pool.dashboard_url)
    assert pool.apply(tasks.square, (3,)) == 9
    pool.close()
    pool.join()
    with pytest.raises(OSError):
        ask(url, "/health")


@pytest.mark.parametrize("address", [None, ANYWHERE])
def test_an_executor_shows_what_its_pool_would(address: str | None) -> None:
    with Executor(1, address=address, dashboard=HERE) as executor:
        url = str(executor.dashboard_url)
        assert list(executor.map(tasks.square, range(5))) == [n * n for n in range(5)]
        assert executor.options(retries=1).dashboard_url == url
        found = until(url, lambda status: status["counts"]["done"] == 5)
    assert (found["program"], found["address"]) == ("pool", executor._core.engine.address or "")
    assert found["counts"]["workers"] == 1
    with pytest.raises(OSError):
        ask(url, "/health")
    assert Executor.connect("tcp://127.0.0.1:1").dashboard_url is None


def test_an_executor_s_dashboard_ends_with_its_workers() -> None:
    executor = Executor(1, dashboard=HERE)
    url = str(executor.dashboard_url)
    assert executor.submit(tasks.square, 3).result(20) == 9
    executor.kill_workers()
    with pytest.raises(OSError):
        ask(url, "/health")
    executor.shutdown()


def test_a_dashboard_that_cannot_be_made_ends_the_pool_and_the_queue() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        makers = (
            lambda: Pool(1, dashboard=busy),
            lambda: Executor(1, dashboard=busy),
            lambda: Queue(0, ANYWHERE, dashboard=busy),
        )
        for make in makers:
            with pytest.raises(AddressError, match="the dashboard cannot use"):
                make()


def test_where_nothing_could_be_shown_a_dashboard_is_refused() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as threads, pytest.raises(ValueError, match="workers of one's own"):
        Pool(executor=threads, dashboard=True)
    with ThreadPoolExecutor(1) as threads, pytest.raises(ValueError, match="workers of one's own"):
        Executor(executor=threads, dashboard=True)
    with pytest.raises(ValueError, match="dashboard= is for a queue that this process hosts"):
        Queue(5, dashboard=True)


# -- queues ----------------------------------------------------------------------------------------


def test_a_queue_shows_its_items_consumers_and_dead_letters() -> None:
    with Queue(0, ANYWHERE, max_attempts=2, dashboard=HERE) as queue:
        url = str(queue.dashboard_url)
        queue.put_many([b"poison", b"in hand", b"waits"])
        for _ in range(2):
            delivery = queue.receive(timeout=20)
            assert delivery.item == b"poison"
            delivery.nack()
        held = queue.receive(timeout=20)
        assert held.item == b"in hand"
        found = until(url, lambda status: status["queue"]["counts"]["dead"] == 1)
        older = until(url, lambda status: status["queue"]["oldest"] >= 2)
        held.ack()
        queue.receive(timeout=20).ack()
        until(url, lambda status: status["queue"]["counts"]["settled"] == 2 and not status["queue"]["oldest"])
    shown = found["queue"]
    assert shown["address"] == queue.address
    assert (shown["counts"]["redelivered"], shown["counts"]["unsettled"]) == (1, 2)
    (consumer,) = shown["consumers"]
    assert consumer["taken"] >= 1
    assert "." not in consumer["name"], "a session's name is secret"
    (letter,) = shown["dead_letters"]
    assert (letter["items"], letter["attempts"]) == (1, 2)
    assert len(letter["history"]) == 2 and "gave it up" in letter["history"][0]
    assert "poison" not in json.dumps(found), "the content of items is not shown"
    assert older["queue"]["oldest"] < 60
    with pytest.raises(OSError):
        ask(url, "/health")


def test_dead_letters_put_again_are_new_items() -> None:
    with Queue(0, ANYWHERE, max_attempts=1) as queue:
        queue.put_many([b"one", b"two"])
        for _ in range(2):
            queue.receive(timeout=20).nack()
        assert eventually(lambda: queue.counts()["dead"] == 2)
        assert queue.requeue_dead_letters() == 2
        assert queue.requeue_dead_letters() == 0
        assert queue.dead_letters() == []
        again = [queue.receive(timeout=20) for _ in range(2)]
        assert {each.item for each in again} == {b"one", b"two"}
        assert {each.attempt for each in again} == {1}
        for each in again:
            each.ack()
        assert eventually(lambda: queue.counts()["unsettled"] == 0)


# -- programs --------------------------------------------------------------------------------------


def dashboard_of(process: Program) -> str:
    """The address that a program logs."""
    assert process.stderr is not None
    while line := process.stderr.readline():
        if match := re.fullmatch(r"the dashboard is at (http://\S+)\n", line):
            return match[1]
    raise AssertionError("it has no dashboard")


def test_a_coordinator_and_a_worker_program(shell: Shell) -> None:
    """The memory of workers elsewhere comes from their agent; tracebacks without a pickle being read."""
    coordinator, address = shell.coordinator(ANYWHERE, "--lease", "1", "--dashboard", HERE)
    worker, name = shell.worker(address, 2, "--dashboard", HERE)
    coordinator_url, worker_url = dashboard_of(coordinator), dashboard_of(worker)
    until(worker_url, lambda status: status["ready"])
    with Pool.connect(address) as pool:
        assert pool.map(tasks.square, range(10), 1) == [n * n for n in range(10)]
        with pytest.raises(ValueError):
            pool.apply(fail, (7,))
        found = until(
            coordinator_url,
            lambda status: (
                status["counts"]["done"] == 11 and all(each["memory"] for each in status["workers"])
            ),
        )
        here = until(worker_url, lambda status: status["counts"]["done"] == 11)
    assert (found["program"], found["address"]) == ("coordinator", address)
    assert {each["name"] for each in found["workers"]} == {f"{name}/0.0", f"{name}/1.1"}
    assert (found["counts"]["agents"], found["counts"]["clients"], found["counts"]["raised"]) == (1, 1, 1)
    assert sum(found["task_seconds"]["buckets"]) == 11
    for status in (found, here):
        assert status["failures"][0]["title"] == "ValueError: no 7, with token=***"
        assert "in fail" in status["failures"][0]["traceback"]
    assert (here["program"], here["counts"]["workers"]) == ("worker", 2)
    assert all(each["memory"] for each in here["workers"])
    assert ask(coordinator_url, "/ready").status == ask(worker_url, "/ready").status == 200
    coordinator.kill()
    until(worker_url, lambda status: not status["ready"])
    assert ask(worker_url, "/ready").body == b"it waits for the coordinator\n"


def test_a_queue_program(shell: Shell) -> None:
    process, address = shell.queue(ANYWHERE, "--dashboard", HERE)
    url = dashboard_of(process)
    with Queue.connect(address) as queue:
        queue.put("kept")
        queue.flush(20)
        found = until(url, lambda status: status["queue"]["counts"]["size"] == 1)
    assert (found["program"], found["counts"]) == ("queue", {})
    process.send_signal(signal.SIGTERM)
    ended(process)
    with pytest.raises(OSError):
        ask(url, "/health")


@pytest.mark.parametrize("local", [False, True])
def test_a_download(shell: Shell, tmp_path: Path, local: bool) -> None:
    """Hosts, files and reasons are shown while it runs; one slow host keeps it from ending."""
    with (
        GalleryServer(Gallery(count=20, large=0, seed="dashboard")) as server,
        socket.create_server(("127.0.0.1", 0)) as slow,
    ):
        hanging = f"http://127.0.0.1:{slow.getsockname()[1]}/large?token=hunter2"
        (tmp_path / "urls.txt").write_text("\n".join([*server.urls, hanging]))
        words = ["-i", "urls.txt", "--dashboard", HERE]
        if local:
            producer = shell.start("producer", "--queue", "local", "-o", "saved", *words)
        else:
            consumer = shell.start("consumer", "--bind", ANYWHERE, "-o", "saved", "--dashboard", HERE)
            consumer_url = dashboard_of(consumer)
            address = until(consumer_url, lambda status: status.get("queue"))["queue"]["address"]
            producer = shell.start("producer", "--queue", address, *words)
        url = dashboard_of(producer)
        connection, _ = slow.accept()
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 30_000)

        def met(status: dict[str, Any]) -> bool:
            return bool(
                status["counts"]["saved"] == 21 and status["counts"]["failed"] == 1 and status["files"]
            )

        found = until(url, met)
        if not local:
            there = until(consumer_url, lambda status: status["counts"]["saved"] == 21)
            assert there["queue"]["counts"]["producers"] == 1
        connection.close()
    hosts = {row["host"]: row for row in found["hosts"]}
    gallery = hosts[f"127.0.0.1:{server.port}"]
    assert (gallery["saved"], gallery["failed"], gallery["active"]) == (21, {"http-4xx": 1}, 0)
    (file,) = found["files"]
    assert (file["size"], file["bytes"]) == (100_000, 30_000)
    assert file["name"].endswith("/large?token=***")
    other = hosts[hanging.split("/")[2]]
    assert (other["active"], other["bytes"]) == (1, 30_000)
    assert found["reasons"] == {"http-4xx": 1}
    assert (found["counts"]["expected"], found["counts"]["left"]) == (23, 1)
    assert "hunter2" not in json.dumps(found)


def test_every_field_is_documented() -> None:
    page = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8")
    kinds = [model.Status, model.Durations, model.WorkerRow, model.FailureRow, model.QueueStatus]
    kinds += [model.ConsumerRow, model.LetterRow, model.HostRow, model.FileRow]
    for kind in kinds:
        for field in get_type_hints(kind):
            assert f"`{field}`" in page, f"{kind.__name__}.{field}"
    for name in (*COUNTERS, *GAUGES):
        assert f"`{name}`" in page, name


def test_publishing_does_not_slow_down_with_waiting_tasks() -> None:
    """A snapshot of a pool with many waiting calls does not look at each of them."""
    with Pool(1) as pool:
        engine: Any = pool._engine
        board = Board("pool")
        engine.show(board)
        calls = [pool.apply_async(tasks.square, (number,)) for number in range(20_000)]
        began = time.perf_counter()
        for _ in range(20):
            engine._alone(None, lambda: board.publish(engine._status(time.monotonic()), time.monotonic()))
        assert (time.perf_counter() - began) / 20 < 0.05
        assert calls[-1].get(60) == 19_999**2
