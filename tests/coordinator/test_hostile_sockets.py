"""A live coordinator under attack; and agents and clients that connect to something else."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Any

import msgpack
import pytest
import zmq

from nearfar.coordinator import messages
from nearfar.coordinator import status as asking
from nearfar.coordinator.messages import VERSION, PoolMessage, PoolMessageType
from nearfar.coordinator.server import MAX_BYTES, StandaloneCoordinator
from nearfar.errors import CoordinatorLost, QueueLost
from nearfar.net import sockets
from nearfar.net.addresses import Address
from nearfar.net.auth import Access
from nearfar.pool.pool import Pool
from nearfar.queues.far import FarQueue
from nearfar.worker.agent import Agent
from tests.coordinator.hostile import Hostile
from tests.coordinator.test_server import Hired, Running
from tests.support.hostile import announce, memory, raw, rubbish
from tests.support.pool_client import PoolClient

OPEN = Access(insecure=True)
HERE = Address.parse("tcp://127.0.0.1:*")


@contextmanager
def coordinating() -> Iterator[StandaloneCoordinator]:
    coordinator = StandaloneCoordinator(HERE, access=OPEN, lease=5.0)
    try:
        yield coordinator
    finally:
        coordinator.stop(0)
        assert coordinator.join(10)


def test_honest_peers_are_served_while_garbage_arrives(caplog: pytest.LogCaptureFixture) -> None:
    random = Random(6)
    hostile = Hostile(random, works=False)

    def real() -> list[bytes]:
        return [bytes(frame) for frame in messages.pack(*hostile.word()[1])]

    with coordinating() as coordinator:
        agent = Running(coordinator.address, access=OPEN)
        client = PoolClient(str(coordinator.address), access=OPEN)
        address = str(coordinator.address)
        try:
            with (
                raw(zmq.DEALER, address, identity=b"evil-1.secret.1") as evil,
                raw(zmq.DEALER, address) as nameless,
                raw(zmq.PUSH, address) as wrong,
            ):
                numbers = []
                for turn, frames in enumerate(rubbish(real, random, 300)):
                    evil.send_multipart(frames)
                    nameless.send_multipart(frames)
                    if turn < 20:
                        wrong.setsockopt(zmq.SNDTIMEO, 0)
                        try_to_send(wrong, frames)
                    numbers += client.submit(b"%d" % turn)
                assert client.until(client.done)
                assert [client.outcomes[number][1] for number in numbers] == [
                    (b"%d" % turn)[::-1] for turn in range(len(numbers))
                ]
                status = asking.ask(coordinator.address, 5.0, OPEN)
                assert status.counts["malformed"] > 150 and status.counts["nameless"] > 250
        finally:
            client.close()
            agent.end()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    said = [record.getMessage() for record in caplog.records]
    assert all(line.isprintable() for line in said) and len(said) < 60


def try_to_send(wrong: zmq.Socket[bytes], frames: list[bytes]) -> None:
    with contextlib.suppress(zmq.Again):  # cut off
        wrong.send_multipart(frames)


@pytest.mark.parametrize("size", [1 << 62, (1 << 31) + 1])
def test_a_frame_that_is_too_large_is_not_read(size: int) -> None:
    with coordinating() as coordinator:
        before = memory()
        announce(coordinator.address.port, b"DEALER", size)
        assert memory() - before < 50 << 20
        assert asking.ask(coordinator.address, 5.0, OPEN).counts["agents"] == 0


def test_an_announced_large_frame_takes_no_memory_before_it_arrives() -> None:
    """Given the largest frame that may come, and a thousand bytes of it, I expect no more than those to be
    kept; here `announce` is let wait in vain, as the connection is a good one."""
    with coordinating() as coordinator:
        before = memory()
        with pytest.raises(TimeoutError):
            announce(coordinator.address.port, b"DEALER", MAX_BYTES // 4, patience=0.5)
        assert memory() - before < 50 << 20


# -- who calls at the wrong door, or in another version ------------------------------------------------


def test_an_agent_of_another_version_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with coordinating() as coordinator:
        monkeypatch.setattr("nearfar.coordinator.sessions.VERSION", VERSION + 1)
        hired = Hired(1)
        with pytest.raises(
            CoordinatorLost, match=f"speaks version {VERSION} .* this peer version {VERSION + 1}"
        ):
            Agent(coordinator.address, hired, 1, access=OPEN, wait=20.0).run()


def test_a_queue_client_that_connects_to_a_pool_is_refused_with_the_reason() -> None:
    with (
        coordinating() as coordinator,
        FarQueue.connect(str(coordinator.address), insecure=True, wait=20.0) as queue,
    ):
        queue.cancel_join_thread()
        with pytest.raises(QueueLost, match="this is a pool's coordinator"):
            queue.put(1)


def test_an_agent_that_connects_to_a_queue_is_refused_with_the_reason() -> None:
    with (
        FarQueue(0, "tcp://127.0.0.1:*", insecure=True) as queue,
        pytest.raises(CoordinatorLost, match="there is a queue here"),
    ):
        Agent(Address.parse(queue.address), Hired(1), 1, access=OPEN, wait=20.0).run()


# -- a coordinator that is none ------------------------------------------------------------------------

FACTS = {"epoch": "e", "lease": 10, "workers": 1}


def serve(host: zmq.Socket[bytes], words: list[list[bytes]]) -> None:
    """Welcome a client, wait for its first message, and send `words`."""
    assert host.poll(10_000)
    session, *_ = host.recv_multipart()
    host.send_multipart([session, msgpack.packb([PoolMessageType.WELCOME, 0, 0, session.decode(), FACTS])])
    for frames in words:
        host.send_multipart([session, *frames])


def words_of(kind: PoolMessageType, *fields: Any, number: int = 1, rows: Any = None) -> list[bytes]:
    return [bytes(frame) for frame in messages.pack(number, 0, PoolMessage(kind, fields, rows))]


@contextmanager
def impostor(words: list[list[bytes]]) -> Iterator[Address]:
    with sockets.context().socket(zmq.ROUTER) as host, ThreadPoolExecutor(1) as pool:
        host.setsockopt(zmq.LINGER, 0)
        port = host.bind_to_random_port("tcp://127.0.0.1")
        served = pool.submit(serve, host, words)
        yield Address.parse(f"tcp://127.0.0.1:{port}")
        served.result(10)


def test_an_agent_and_a_client_survive_garbage_from_their_coordinator() -> None:
    random = Random(7)
    junk = list(rubbish(lambda: words_of(PoolMessageType.RETIRE, "a/0.1"), random, 60))
    end = words_of(PoolMessageType.REFUSED, "go\nhome\x1b[2J", number=0)
    with impostor([*junk, end]) as address, pytest.raises(CoordinatorLost, match=r"go\\nhome\\x1b"):
        Agent(address, Hired(1), 1, access=OPEN, wait=20.0).run()
    with impostor([*junk, end]) as address, Pool.connect(str(address), insecure=True) as pool:
        with pytest.raises(Exception, match=r"the coordinator refused: go\\nhome\\x1b"):
            pool.apply(abs, (-1,))
        pool.terminate()


def test_status_text_is_escaped() -> None:
    row = ("agent/0.1", "ho\x1b[2Jst", 1, 0, "m:f\nforged", 0.0)
    status = words_of(PoolMessageType.STATUS, {"agents": 1}, number=0, rows=[row])
    with impostor([status]) as address:
        (worker,) = asking.ask(address, 10.0, OPEN).workers
    assert (worker.host, worker.runs) == ("ho\\x1b[2Jst", "m:f\\nforged")


def test_an_agent_leaves_a_coordinator_that_breaks_the_protocol() -> None:
    """Given a batch of two functions, or of none, which no coordinator gives, I expect it to say so."""

    class Named(Agent):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._machine.came("0.1", 1, 0.0)
            self.worker = f"{self.name}/0.1"

    for rows in ([], [(1, 0, b"m:f", b"", []), (2, 0, b"m:g", b"", [])]):
        with sockets.context().socket(zmq.ROUTER) as host, ThreadPoolExecutor(1) as pool:
            host.setsockopt(zmq.LINGER, 0)
            port = host.bind_to_random_port("tcp://127.0.0.1")
            agent = Named(Address.parse(f"tcp://127.0.0.1:{port}"), Hired(1), 1, access=OPEN, wait=20.0)
            served = pool.submit(
                serve, host, [words_of(PoolMessageType.WORK, agent.worker, "client", rows=rows)]
            )
            with pytest.raises(CoordinatorLost, match="it broke the protocol"):
                agent.run()
            served.result(10)
