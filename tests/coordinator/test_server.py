"""A coordinator, agents and clients over real sockets; the workers are fakes in threads."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from nearfar.coordinator.messages import PoolFrame, PoolMessage, PoolMessageType
from nearfar.coordinator.server import StandaloneCoordinator
from nearfar.coordinator.state import WorkerStage
from nearfar.coordinator.task import TaskOutcome
from nearfar.errors import AddressError, CoordinatorLost, PoolBroken
from nearfar.net.addresses import Address
from nearfar.net.auth import OWN, Access
from nearfar.net.handshake import Connection
from nearfar.worker.agent import Agent
from tests.support.pool_client import PoolClient
from tests.support.supervisor import FakeCrew
from tests.support.waiting import eventually

LEASE = 2.0


class Hired:
    """Makes fake supervisors, and keeps the last one."""

    def __init__(self, count: int, *, shut: bool = False) -> None:
        self.count = count
        self.shut = shut
        self.supervisor: FakeCrew

    def __call__(self, listener: Any) -> FakeCrew:
        self.supervisor = FakeCrew(listener, self.count)
        if self.shut:
            self.supervisor.gate.clear()
        return self.supervisor


class Running:
    """An agent in a thread of its own."""

    def __init__(
        self,
        address: Address,
        count: int = 2,
        *,
        shut: bool = False,
        wait: float = 20.0,
        access: Access = OWN,
    ) -> None:
        self.hired = Hired(count, shut=shut)
        self.agent = Agent(address, self.hired, count, access=access, wait=wait)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    @property
    def supervisor(self) -> FakeCrew:
        return self.hired.supervisor

    def run(self) -> None:
        try:
            self.agent.run()
        except Exception as error:
            self.error = error

    def end(self) -> None:
        self.agent.leave()
        self.agent.leave()
        self.thread.join(10)
        assert not self.thread.is_alive()


Keep = Callable[[Any], Any]


@pytest.fixture
def keep() -> Iterator[Keep]:
    """Closes the given objects, the last first."""
    kept: list[Any] = []

    def note(thing: Any) -> Any:
        kept.append(thing)
        return thing

    yield note
    for thing in reversed(kept):
        if isinstance(thing, StandaloneCoordinator):
            thing.stop(0)
            assert thing.join(10)
        elif isinstance(thing, Running):
            thing.end()
        else:
            thing.close()


@pytest.fixture(params=["tcp://127.0.0.1:*", "ipc"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    return Address.parse(f"ipc://{tmp_path}/pool" if request.param == "ipc" else request.param)


@pytest.fixture
def coordinator(address: Address, keep: Keep) -> Any:
    return keep(StandaloneCoordinator(address, lease=LEASE))


def test_tasks_run_at_agents_and_in_local_workers(address: Address, keep: Keep) -> None:
    local = Hired(1)
    coordinator = keep(StandaloneCoordinator(address, local, lease=LEASE))
    agents = [keep(Running(coordinator.address)) for _ in range(2)]
    client = keep(PoolClient(str(coordinator.address)))
    assert client.until(lambda: client.workers == 5)
    blobs = [b"task %d" % n for n in range(500)]
    numbers = client.submit(*blobs)
    assert client.until(client.done)
    assert [client.outcomes[number][1] for number in numbers] == [blob[::-1] for blob in blobs]
    supervisors = [local.supervisor, *(agent.supervisor for agent in agents)]
    assert sorted(blob for supervisor in supervisors for blob in supervisor.ran) == sorted(blobs)
    assert all(supervisor.ran for supervisor in supervisors)


def test_large_parts_are_sent_both_ways(coordinator: StandaloneCoordinator, keep: Keep) -> None:
    keep(Running(coordinator.address))
    client = keep(PoolClient(str(coordinator.address)))
    big = bytes(range(256)) * 20_000
    (number,) = client.submit(big, buffers=(big, b"small", big[:100_000]))
    assert client.until(client.done)
    assert client.outcomes[number] == (TaskOutcome.VALUE, big[::-1], [big, b"small", big[:100_000]])


def test_a_crashed_worker_fails_its_task_and_is_replaced(
    coordinator: StandaloneCoordinator, keep: Keep
) -> None:
    agent = keep(Running(coordinator.address, 1, shut=True))
    client = keep(PoolClient(str(coordinator.address)))
    first, second = client.submit(b"1", b"2")
    assert client.until(agent.supervisor.busy)
    agent.supervisor.crash()
    assert client.until(lambda: first in client.outcomes)
    agent.supervisor.open()
    assert client.until(client.done)
    assert client.outcomes[first][0] == TaskOutcome.FAILED and client.outcomes[second][1] == b"2"


def restarted(place: Address) -> StandaloneCoordinator:
    """Another coordinator at `place`, once ZeroMQ has released the address."""
    made: list[StandaloneCoordinator] = []

    def free() -> bool:
        with contextlib.suppress(AddressError):
            made.append(StandaloneCoordinator(place, lease=LEASE))
        return bool(made)

    assert eventually(free)
    return made[0]


@pytest.mark.slow
def test_running_tasks_survive_a_restart(address: Address, keep: Keep) -> None:
    coordinator = StandaloneCoordinator(address, lease=LEASE)
    place = coordinator.address
    agent = keep(Running(place, 1, shut=True))
    client = keep(PoolClient(str(place)))
    numbers = client.submit(b"1", b"2", b"3")
    assert client.until(agent.supervisor.busy)
    coordinator.stop()
    assert coordinator.join(10)
    agent.supervisor.open()
    again = keep(restarted(place))
    assert client.until(client.done, 15)
    assert [client.outcomes[number][1] for number in numbers] == [b"1", b"2", b"3"]
    assert agent.supervisor.ran == [b"1", b"2", b"3"]
    assert again.counts()["lost"] == 0


def test_an_agent_ends_when_it_has_answered(coordinator: StandaloneCoordinator, keep: Keep) -> None:
    agent = keep(Running(coordinator.address, 1, shut=True))
    client = keep(PoolClient(str(coordinator.address)))
    first, second = client.submit(b"1", b"2")
    assert client.until(agent.supervisor.busy)
    agent.agent.leave()
    workers = coordinator._coordinator.workers.values()
    assert client.until(lambda: [worker.stage for worker in list(workers)] == [WorkerStage.DRAINING])
    agent.supervisor.open()
    assert client.until(lambda: not agent.thread.is_alive())
    assert agent.error is None and agent.supervisor.closed
    assert client.outcomes[first][1] == b"1" and second not in client.outcomes
    keep(Running(coordinator.address))
    assert client.until(client.done)
    assert coordinator.counts()["lost"] == 0


def test_an_agent_stopped_twice_kills_running_tasks_and_reports_them(address: Address, keep: Keep) -> None:
    coordinator = keep(StandaloneCoordinator(address, lease=20.0))
    agent = keep(Running(coordinator.address, 1, shut=True))
    client = keep(PoolClient(str(coordinator.address)))
    (number,) = client.submit(b"1")
    assert client.until(agent.supervisor.busy)
    agent.agent.leave()
    agent.agent.leave()
    assert client.until(client.done)
    assert client.outcomes[number][0] == TaskOutcome.FAILED
    agent.thread.join(5)
    assert not agent.thread.is_alive() and agent.error is None and agent.supervisor.ran == []
    assert coordinator.counts()["agents"] == 0


def test_an_agent_without_a_coordinator_gives_up(tmp_path: Path) -> None:
    agent = Running(Address.parse(f"ipc://{tmp_path}/nobody"), wait=0.3)
    agent.thread.join(10)
    assert isinstance(agent.error, CoordinatorLost) and agent.supervisor.closed


def test_an_agent_whose_coordinator_is_lost_gives_up(tmp_path: Path) -> None:
    coordinator = StandaloneCoordinator(Address.parse(f"ipc://{tmp_path}/pool"), lease=0.5)
    agent = Running(coordinator.address, wait=1.0)
    assert eventually(lambda: coordinator.counts()["workers"] == 2)
    coordinator.stop()
    assert coordinator.join(10)
    agent.thread.join(10)
    assert isinstance(agent.error, CoordinatorLost) and agent.supervisor.closed


def test_an_agent_whose_processes_cannot_start_gives_up(coordinator: StandaloneCoordinator) -> None:
    agent = Running(coordinator.address)
    assert eventually(lambda: coordinator.counts()["workers"] == 2)
    agent.agent.hopeless("no python")
    agent.thread.join(10)
    assert coordinator.counts()["agents"] == 0
    assert isinstance(agent.error, PoolBroken) and str(agent.error) == "no python"


def test_local_workers_finish_before_a_coordinator_stops(address: Address, keep: Keep) -> None:
    local = Hired(1, shut=True)
    coordinator = keep(StandaloneCoordinator(address, local, lease=LEASE))
    client = keep(PoolClient(str(coordinator.address)))
    first, second = client.submit(b"1", b"2")
    assert client.until(lambda: coordinator.counts()["running"] == 1)
    coordinator.stop(20)
    assert not client.until(client.done, 0.2)
    local.supervisor.open()
    assert client.until(lambda: first in client.outcomes)
    assert client.until(lambda: coordinator.join(0))
    assert local.supervisor.closed and second not in client.outcomes


def test_a_coordinator_told_to_stop_twice_stops_at_once(address: Address, keep: Keep) -> None:
    local = Hired(1, shut=True)
    coordinator = keep(StandaloneCoordinator(address, local, lease=LEASE))
    client = keep(PoolClient(str(coordinator.address)))
    client.submit(b"1")
    assert client.until(lambda: coordinator.counts()["running"] == 1)
    coordinator.stop(100)
    coordinator.stop(100)
    assert coordinator.join(5)


CLIENT_PROCESS = """
import sys
from tests.support.pool_client import PoolClient
client = PoolClient(sys.argv[1])
client.submit(b"1")
client.until(lambda: client.workers and not client.talk.unacked())
print("submitted", flush=True)
client.until(client.done, 60)
"""


def test_a_killed_client_on_this_machine_is_seen_at_once(keep: Keep, tmp_path: Path) -> None:
    coordinator = keep(StandaloneCoordinator(Address.parse(f"ipc://{tmp_path}/pool"), lease=60))
    agent = keep(Running(coordinator.address, 1, shut=True))
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT_PROCESS, str(coordinator.address)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"submitted\n"
        assert coordinator.counts()["clients"] == 1
        process.kill()
    assert eventually(lambda: coordinator.counts()["clients"] == 0)
    assert eventually(lambda: [row[0][-4:] for row in coordinator.status()] == ["/0.2"])
    assert agent.supervisor.ran == []


def test_any_admitted_peer_gets_the_status(coordinator: StandaloneCoordinator, keep: Keep) -> None:
    agent = keep(Running(coordinator.address, 1, shut=True))
    client = keep(PoolClient(str(coordinator.address)))
    client.submit(b"1")
    assert client.until(agent.supervisor.busy)
    asker = keep(PoolClient(str(coordinator.address)))
    asker.send(PoolFrame(0, 0, PoolMessage(PoolMessageType.QUERY)))
    assert asker.until(lambda: asker.status is not None)
    ((worker, _, pid, ran, running, since),) = asker.status.rows
    assert (worker, pid, ran, running) == (f"{agent.agent.name}/0.1", 4001, 0, "m:f")
    assert 0 <= since < 20


def test_malformed_messages_are_counted_and_dropped(coordinator: StandaloneCoordinator, keep: Keep) -> None:
    for name in ("a.1", ""):
        socket = keep(Connection(zmq.DEALER, coordinator.address, OWN, identity=name)).socket
        for frames in ([b""], [b"\xc1"], [b"x", b"y", b"z"]):
            socket.send_multipart(frames)
    assert eventually(lambda: coordinator.counts()["malformed"] == 3)
    assert eventually(lambda: coordinator.counts()["nameless"] == 3)
    keep(Running(coordinator.address))
    client = keep(PoolClient(str(coordinator.address)))
    client.submit(b"1")
    assert client.until(client.done)


def test_a_public_address_needs_keys_or_insecure(caplog: pytest.LogCaptureFixture, keep: Keep) -> None:
    with pytest.raises(AddressError, match="other machines: give keys"):
        StandaloneCoordinator(Address.parse("tcp://0.0.0.0:*"))
    with caplog.at_level(logging.WARNING):
        keep(StandaloneCoordinator(Address.parse("tcp://0.0.0.0:*"), access=Access(insecure=True)))
    assert "run any code" in caplog.text


def test_an_address_in_use_is_reported(coordinator: StandaloneCoordinator) -> None:
    with pytest.raises(AddressError, match="in use"):
        StandaloneCoordinator(coordinator.address)
