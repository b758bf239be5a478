"""Every system call of the broker's loop fails once: the queue continues."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearfar import Queue
from nearfar.errors import QueueLost
from nearfar.net import auth, sockets
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.far import FarQueue
from tests.support.failing import ERRORS, Failing, failing

ANYWHERE = "tcp://127.0.0.1:*"
MOST = 400
"""Calls in one go, at most."""


@pytest.fixture(params=["keys", "own", "ipc", "insecure"])
def access(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """An address, and the access to it."""
    if request.param == "keys":
        auth.init(tmp_path / "keys")
        return ANYWHERE, {"keys": tmp_path / "keys"}
    if request.param == "ipc":
        return f"ipc://{tmp_path}/q", {}
    return ANYWHERE, {"insecure": True} if request.param == "insecure" else {}


@pytest.fixture
def host(
    access: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FarQueue, Failing]]:
    """A queue whose host's thread is watched, and that thread's calls."""
    address, how = access
    monkeypatch.setattr(sockets, "HANDSHAKE", 300)  # one that a failure has spoiled is made again after that
    with failing(monkeypatch) as calls:
        queue = FarQueue(0, address, lease=0.5, wait=20, **how)
        threading.setprofile(None)
    yield queue, calls
    queue.close()
    queue.join_thread()
    queue.stop_hosting()


def go(address: str, how: dict[str, Any], number: int) -> None:
    """A client connects, puts, gets, asks, and leaves."""
    with Queue.connect(address, wait=20, **how) as end:
        end.put(number)
        assert end.get(timeout=20) == number
        assert end.qsize() == 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_host_survives_the_failure_of_each_system_call(
    host: tuple[FarQueue, Failing], access: tuple[str, dict[str, Any]]
) -> None:
    """I expect no item to be lost, and each client to be served, or refused with a reason."""
    queue, calls = host
    _, how = access
    calls.arm(0, 0)
    go(queue.address, how, -1)
    most = min(calls.count, MOST)
    assert most > 30
    names = set()
    for at in range(1, most + 1):
        calls.arm(at, ERRORS[at % len(ERRORS)])
        try:
            go(queue.address, how, at)
        except QueueLost as error:
            assert "refused" in str(error)
        names.add(calls.failed)
        assert queue._host is not None
        assert queue._host.failure is None
    assert {"poll", "recv", "getsockopt"} <= names
    assert names & {"send", "send_multipart"}
    calls.arm(0, 0)
    go(queue.address, how, 0)


def test_a_bug_in_the_loop_is_reported_and_ends_the_hosting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a bug, not a failure of a system call."""
    queue = Queue(0, ANYWHERE)
    assert queue._host is not None
    queue.put(1)
    assert queue.qsize() == 1

    def fail(machine: BrokerProtocol, now: float) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(BrokerProtocol, "tick", fail)
    queue._host.driver.rouse()
    assert queue._host.driver.join(20)
    with pytest.raises(QueueLost, match=r"the hosting of .* has failed: KeyError"):
        queue.qsize()
    queue.close()
    with pytest.raises(QueueLost, match="has failed: KeyError"):
        queue.join_thread()
    queue.stop_hosting()
    assert "failed" in caplog.text
