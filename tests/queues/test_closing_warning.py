"""A host that ends with items in its queue logs a warning, however it ends, and only then."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nearfar.queues.broker.server import losses
from nearfar.queues.far import FarJoinableQueue, FarQueue
from tests.queues.contract import LIMIT
from tests.support.waiting import eventually

Put = Callable[[FarQueue], None]
LOST = "it is lost: its producers have left"
COUNTS = {"size": 0, "unsettled": 0, "unread letters": 0, "producers": 0}


@pytest.fixture
def queue() -> Iterator[FarQueue]:
    queue = FarQueue(0, "tcp://127.0.0.1:*", max_attempts=1)
    yield queue
    queue.close()
    queue.stop_hosting()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of hosts, without their addresses."""
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    return [record.getMessage().partition(" ended with ")[2] for record in warned]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({}, ""),
        ({"size": 1, "unsettled": 1}, f"1 item waiting; {LOST}"),
        (
            {"size": 1200, "unsettled": 1202},
            f"1,200 items waiting, 2 items delivered and not acknowledged; {LOST}",
        ),
        ({"unsettled": 1}, f"1 item delivered and not acknowledged; {LOST}"),
        ({"unread letters": 2}, "2 dead letters unread; it is lost"),
        (
            {"size": 2, "unsettled": 2, "producers": 1},
            "2 items waiting; "
            "the producers keep what they put, and send it again to a queue at the same address",
        ),
    ],
)
def test_the_warning_counts_the_lost_items(counts: dict[str, int], words: str) -> None:
    assert losses(COUNTS | counts) == words


def put_three(queue: FarQueue) -> None:
    queue.put_many([1, 2, 3])


def nack_three(queue: FarQueue) -> None:
    put_three(queue)
    for _ in range(3):
        queue.receive(timeout=LIMIT).nack()
    assert eventually(lambda: queue.counts()["dead"] == 3)


def nack_and_read_three(queue: FarQueue) -> None:
    nack_three(queue)
    assert len(queue.dead_letters()) == 3


def drop_three(queue: FarQueue) -> None:
    put_three(queue)
    queue.shutdown(immediate=True)


def take_three(queue: FarQueue) -> None:
    put_three(queue)
    assert [queue.get(timeout=LIMIT) for _ in range(3)] == [1, 2, 3]


def hold_one(queue: FarQueue) -> None:
    put_three(queue)
    queue.receive(timeout=LIMIT)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (put_three, [f"3 items waiting; {LOST}"]),
        (hold_one, [f"3 items waiting; {LOST}"]),  # what this process held went back when it left
        (nack_three, ["3 dead letters unread; it is lost"]),
        (nack_and_read_three, []),
        (drop_three, []),
        (take_three, []),
        (lambda queue: None, []),
    ],
)
def test_a_host_that_stops_warns_of_lost_items(
    use: Put, words: list[str], queue: FarQueue, caplog: pytest.LogCaptureFixture
) -> None:
    use(queue)
    queue.close()
    queue.join_thread()
    queue.stop_hosting()
    assert said(caplog) == words


def test_the_end_of_a_with_block_warns_too(caplog: pytest.LogCaptureFixture) -> None:
    with FarQueue(0, "tcp://127.0.0.1:*") as queue:
        put_three(queue)
    assert said(caplog) == [f"3 items waiting; {LOST}"]


def test_a_garbage_collected_queue_warns_too(caplog: pytest.LogCaptureFixture) -> None:
    queue = FarQueue(0, "tcp://127.0.0.1:*")
    put_three(queue)
    del queue
    gc.collect()
    assert said(caplog) == [f"3 items waiting; {LOST}"]


def test_items_of_a_frozen_or_busy_consumer_count_as_unacknowledged(caplog: pytest.LogCaptureFixture) -> None:
    address = "tcp://127.0.0.1:*"
    with FarJoinableQueue(0, address, lease=0.5) as queue, FarJoinableQueue.connect(queue.address) as other:
        put_three(queue)
        assert other.get(timeout=LIMIT) == 1
        assert eventually(lambda: queue.qsize() == 2)
        other.cancel_join_thread()
        queue.close()
        queue.join_thread()
        queue._host.close(0.0)  # type: ignore[union-attr]
    assert said(caplog) == [f"2 items waiting, 1 item delivered and not acknowledged; {LOST}"]


SCRIPT = """
import sys
from multiprocessing import Process
from nearfar import Queue

def use(how):
    q = Queue(0, "tcp://127.0.0.1:*")
    q.put("lost")
    if how == "close":
        q.close()
    if how == "raise":
        raise LookupError
    if how == "sys.exit":
        sys.exit(5)
    globals()["kept"] = q

if __name__ == "__main__":
    if sys.argv[1] == "child":
        child = Process(target=use, args=("end",))
        child.start()
        child.join()
        sys.exit(child.exitcode)
    use(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("how", "code"), [("end", 0), ("close", 0), ("raise", 1), ("sys.exit", 5), ("child", 0)]
)
def test_a_plain_script_shows_it_on_stderr(how: str, code: int, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, script, how], capture_output=True, text=True, timeout=LIMIT, cwd=tmp_path
    )
    assert ran.returncode == code, ran.stderr
    assert ran.stderr.rstrip().endswith(f"ended with 1 item waiting; {LOST}"), ran.stderr


def test_a_program_with_logging_of_its_own_gets_it_there(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    begin = (
        "import logging\nlogging.basicConfig(filename='log', format='%(levelname)s %(name)s %(message)s')\n"
    )
    script.write_text(begin + SCRIPT)
    ran = subprocess.run(
        [sys.executable, script, "end"], capture_output=True, text=True, timeout=LIMIT, cwd=tmp_path
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    log = (tmp_path / "log").read_text()
    assert log.startswith("WARNING nearfar.queues.broker.server the queue at tcp://127.0.0.1:")
    assert log.endswith(f" ended with 1 item waiting; {LOST}\n")
