"""A live queue, with an attacker on each of its sockets, and honest clients that are not affected."""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from random import Random
from typing import Any

import msgpack
import pytest
import zmq

from nearfar.errors import QueueLost
from nearfar.net import sockets
from nearfar.net.process import about_me
from nearfar.queues import messages
from nearfar.queues.far import FarQueue
from nearfar.queues.messages import VERSION, QueueMessage, QueueMessageType
from tests.queues.hostile import Hostile
from tests.support.hostile import announce, memory, raw, rubbish
from tests.support.waiting import eventually


@pytest.fixture
def queue() -> Iterator[FarQueue]:
    with FarQueue(50, "tcp://127.0.0.1:*", producers=99, insecure=True, wait=20.0) as queue:
        yield queue


def inbox_of(queue: FarQueue) -> str:
    assert queue._host is not None
    return str(queue._host.address.beside(queue._host._inbox_place))


def lanes_of(queue: FarQueue) -> list[str]:
    assert queue._host is not None
    return [str(queue._host.address.beside(lane.place)) for lane in list(queue._host._lanes.values())]


def faults(log: pytest.LogCaptureFixture) -> list[str]:
    """The errors that the host reported as its own."""
    return [record.getMessage() for record in log.records if record.levelno >= logging.ERROR]


def test_honest_clients_are_served_while_garbage_arrives_at_every_socket(
    queue: FarQueue, caplog: pytest.LogCaptureFixture
) -> None:
    random = Random(4)
    hostile = Hostile(random, consumes=False, shuts=False)

    def real() -> list[bytes]:
        return messages.pack(*hostile.word()[1])

    with FarQueue.connect(queue.address, insecure=True) as other, ExitStack() as stack:
        other.put(0)
        assert queue.get() == 0
        control = stack.enter_context(raw(zmq.DEALER, queue.address, identity=b"evil-0.secret.0"))
        nameless = stack.enter_context(raw(zmq.DEALER, queue.address))
        inbox = stack.enter_context(raw(zmq.PUSH, inbox_of(queue)))
        wrong = stack.enter_context(raw(zmq.PUSH, *lanes_of(queue), queue.address))
        got = []
        for number, frames in enumerate(rubbish(real, random, 300)):
            for each in (control, nameless):
                each.send_multipart(frames)
            inbox.send_multipart([b"evil-0.secret.0", b"no ticket", *frames] if number % 2 else frames)
            with contextlib.suppress(zmq.Again):  # it is cut off again and again
                wrong.send_multipart(frames, zmq.NOBLOCK)
            if number % 3 == 0:
                other.put(number)
                got.append(queue.get(timeout=20))
        assert got == [number for number in range(number + 1) if number % 3 == 0]
        assert eventually(lambda: queue.counts()["unsettled"] <= 1)
    assert queue._host is not None
    counts = queue._host.counts()
    assert counts["malformed"] > 300 and counts["nameless"] > 250
    assert not faults(caplog)
    said = [record.getMessage() for record in caplog.records]
    assert all(line.isprintable() for line in said) and len(said) < 50


def test_no_client_can_put_in_the_name_of_another(queue: FarQueue) -> None:
    """Given the name of a producer's session, I expect what comes to the inbox in it to be dropped."""
    with FarQueue.connect(queue.address, insecure=True) as other:
        other.put("mine")
        assert queue.get() == "mine"
        assert other._end is not None and queue._host is not None
        session = other._end.machine.session_name.encode()
        put = messages.pack(3, 0, QueueMessage(QueueMessageType.PUT, (2, 1, None), b"\x07"))
        with raw(zmq.PUSH, inbox_of(queue)) as inbox:
            inbox.send_multipart([session, b"guess", *put])
            assert eventually(lambda: queue._host is not None and queue._host.counts()["malformed"] == 1)
        other.put("mine, too")
        assert queue.get(timeout=20) == "mine, too"
        assert queue.counts()["stored"] == 2


def test_invented_pids_and_many_sessions_leave_no_descriptor_open(queue: FarQueue) -> None:
    """Given clients that name any process as theirs and leave, I expect no descriptor to stay open."""
    queue.put(1)
    assert queue.get() == 1
    with raw(zmq.DEALER, queue.address, identity=b"evil.s.1") as control:
        for number in range(300):
            about = about_me() | {"pid": (1 << 62) if number % 10 else 1}
            hello = QueueMessage(QueueMessageType.HELLO, (VERSION, f"evil-{number}", about))
            control.send_multipart(messages.pack(0, 0, hello))
            control.send_multipart(messages.pack(1, 0, QueueMessage(QueueMessageType.BYE)))
        for _ in range(300):
            assert control.poll(5000)
            control.recv_multipart()
    queue.put(2)
    assert queue.get(timeout=20) == 2
    assert eventually(lambda: queue._host is not None and len(queue._host._watch) <= 3)


@pytest.mark.parametrize("size", [1 << 62, 3 << 30, sockets.LARGEST_CONTROL + 1])
def test_a_frame_that_is_too_large_is_not_read(queue: FarQueue, size: int) -> None:
    before = memory()
    announce(queue._place.port, b"DEALER", size)
    assert memory() - before < 50 << 20
    queue.put(1)
    assert queue.get(timeout=20) == 1


def test_the_inbox_refuses_frames_larger_than_the_queue() -> None:
    with FarQueue(0, "tcp://127.0.0.1:*", maxbytes=3 << 20, insecure=True) as queue:
        assert queue._host is not None and isinstance(queue._host._inbox_place, int)
        announce(queue._host._inbox_place, b"PUSH", (3 << 20) + 1)
        queue.put(bytes(2 << 20))
        assert len(queue.get(timeout=20)) == 2 << 20


@pytest.mark.slow
def test_unread_messages_do_not_accumulate(queue: FarQueue) -> None:
    """Given a client that asks and never reads, I expect the answers to take a bounded amount of memory."""
    hello = messages.pack(0, 0, QueueMessage(QueueMessageType.HELLO, (VERSION, "deaf", {})))
    before = memory()
    with raw(zmq.DEALER, queue.address, identity=b"deaf.s.1") as control:
        control.setsockopt(zmq.RCVHWM, 1)
        for _ in range(60_000):
            control.send_multipart(hello)
        queue.put(1)
        assert queue.get(timeout=40) == 1
        assert memory() - before < 60 << 20


@pytest.mark.slow
def test_silent_connections_are_closed() -> None:
    """Given as many silent connections as the process may have descriptors, I expect connected clients to be
    served meanwhile, and new ones soon after."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with FarQueue(5, "tcp://127.0.0.1:*", insecure=True, wait=30.0) as queue, ExitStack() as stack:
        queue.put(1)
        assert queue.get() == 1
        silent = [stack.enter_context(socket.socket()) for _ in range(120)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (silent[-1].fileno() + 30, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        for each in silent:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", queue._place.port))
        began = time.monotonic()
        queue.put(2)
        assert queue.get(timeout=20) == 2
        assert time.monotonic() - began < 15
        silent[0].setblocking(True)
        silent[0].settimeout(15)
        while silent[0].recv(100):
            pass
        assert sockets.most_peers(4) < 120


def test_a_missing_lane_is_reported_and_affects_no_other(
    queue: FarQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.put(1)
    assert queue.get() == 1

    def none(host: Any, session: str) -> None:
        raise zmq.ZMQError(errno.EMFILE)

    monkeypatch.setattr("nearfar.queues.broker.server.Broker._make_lane", none)
    with (
        FarQueue.connect(queue.address, insecure=True) as other,
        pytest.raises(QueueLost, match="the host cannot open a lane for it"),
    ):
        other.get(timeout=20)
    queue.put(2)
    assert queue.get(timeout=20) == 2


# -- a host that is none -------------------------------------------------------------------------------


def meet(words: list[list[bytes]]) -> str:
    """The error of a client whose host greets it correctly, and then sends `words`."""
    facts = {"epoch": "e", "inbox": 1, "lease": 10, "stored": 0, "shut": False, "trusted": False}
    facts |= {"maxsize": 5, "maxbytes": 0, "ticket": "t", "machine": ""}
    with sockets.context().socket(zmq.ROUTER) as host, ThreadPoolExecutor(1) as pool:
        host.setsockopt(zmq.LINGER, 0)
        port = host.bind_to_random_port("tcp://127.0.0.1")
        with FarQueue.connect(f"tcp://127.0.0.1:{port}", insecure=True, wait=20.0) as queue:
            queue.cancel_join_thread()
            asked = pool.submit(queue.qsize)
            assert host.poll(5000)
            session, _ = host.recv_multipart()
            for frames in (
                [msgpack.packb([QueueMessageType.WELCOME, 0, 0, session.decode(), facts])],
                *words,
            ):
                host.send_multipart([session, *frames])
            with pytest.raises(QueueLost) as error:
                asked.result(20)
            return str(error.value)


def said(kind: QueueMessageType, *fields: Any, number: int = 1) -> list[bytes]:
    return [msgpack.packb([kind, number, 0, *fields])]


def test_a_client_survives_garbage_from_its_host() -> None:
    random = Random(5)
    words = [
        *rubbish(lambda: said(QueueMessageType.ROOM, 1, 1), random, 50),
        said(QueueMessageType.REFUSED, "enough\n\x1b[2J", number=0),
    ]
    assert meet(words).endswith("refused this client: enough\\n\\x1b[2J")


@pytest.mark.parametrize(
    "words",
    [
        [said(QueueMessageType.ROOM, 1 << 62, 1)] * 1 + [said(QueueMessageType.ROOM, 1 << 62, 1, number=2)],
        [[*said(QueueMessageType.LEND, 7, 1, 1, False), b"\x01"]],
    ],
    ids=["more room than there can be", "an item out of turn"],
)
def test_a_client_leaves_a_host_that_breaks_the_protocol(words: list[list[bytes]]) -> None:
    assert "its host broke the protocol" in meet(words)
