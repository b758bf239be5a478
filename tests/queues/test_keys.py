"""A far queue with keys: clients that are admitted, refused with a reason, or revoked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from nearfar import Empty, ItemError, NotAdmitted, Queue
from nearfar.net import auth
from nearfar.net.addresses import Address
from nearfar.net.auth import CLIENT, Access, read_pair, read_server_key
from nearfar.net.handshake import Connection
from nearfar.queues import messages
from nearfar.queues.far import FarQueue
from nearfar.queues.messages import VERSION, QueueFrame, QueueMessage, QueueMessageType
from tests.support.attack import gets_in, listening_ports, strangers
from tests.support.keys import keys
from tests.support.waiting import eventually

SOON = 5.0 + 8.0
"""Seconds within which a refused client is told the reason, and those that a busy machine may add."""
ANYWHERE = "tcp://127.0.0.1:*"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    auth.init(made)
    return made


@pytest.fixture
def host(folder: Path) -> Iterator[FarQueue]:
    with Queue(0, ANYWHERE, keys=folder, lease=2.0) as queue:
        yield queue


Connect = Callable[..., FarQueue]


@pytest.fixture
def connect() -> Iterator[Connect]:
    made: list[FarQueue] = []

    def connect(address: str, **access: Any) -> FarQueue:
        made.append(Queue.connect(address, wait=20.0, **access))
        return made[-1]

    yield connect
    for queue in made:
        queue.close()
        queue.cancel_join_thread()
        if queue._end is not None:
            queue._end.abandon()
            queue._end.need_driver().join(5.0)


def other_keys(folder: Path) -> Path:
    auth.init(folder.parent / "others")
    return folder.parent / "others"


def revoked_keys(folder: Path) -> Path:
    made = auth.add(folder, "laptop")
    assert made is not None
    kept = made.rename(folder.parent / "laptop")
    auth.revoke(folder, "laptop")
    return kept


def unknown_keys(folder: Path) -> Path:
    auth.init_client(folder.parent / "unknown", folder / "server.key")
    return folder.parent / "unknown"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("access", "said"),
    [
        (lambda folder: {}, "it asks for keys"),
        (lambda folder: {"insecure": True}, "not open to everyone: give keys"),
        (lambda folder: {"keys": other_keys(folder)}, "it has another key than .*others says"),
        (lambda folder: {"keys": unknown_keys(folder)}, "does not admit the key of .*unknown"),
        (lambda folder: {"keys": revoked_keys(folder)}, "does not admit the key of .*laptop"),
    ],
    ids=["no key", "plain", "wrong server key", "unknown key", "revoked key"],
)
@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_refused_client_gets_the_reason_within_seconds(
    folder: Path, connect: Connect, access: Callable[[Path], dict[str, Any]], said: str, transport: str
) -> None:
    address = ANYWHERE if transport == "tcp" else f"ipc://{folder}/queue"
    with Queue(0, address, keys=folder) as host:
        stranger = connect(host.address, **access(folder))
        began = time.monotonic()
        with pytest.raises(NotAdmitted, match=said):
            stranger.put("hello")
        assert time.monotonic() - began < SOON
        with pytest.raises(NotAdmitted, match=said):
            stranger.get()
        host.put("the service goes on")
        assert host.get() == "the service goes on"
        assert host.counts()["stored"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("access", "said"),
    [({}, "it is open to everyone"), ({"keys": True}, "it uses no keys, so it cannot be verified")],
)
def test_a_client_with_keys_refuses_a_service_without_keys(
    connect: Connect, access: dict[str, Any], said: str
) -> None:
    with Queue(0, ANYWHERE, insecure=True) as host:
        end = connect(host.address, **({"keys": keys()} if access else {}))
        with pytest.raises(NotAdmitted, match=said):
            end.put("secret")
        assert host.counts()["stored"] == 0


def test_a_client_with_keys_at_a_service_without_keys_gets_the_reason(connect: Connect) -> None:
    """Its port admits no client, which looks like another key."""
    with Queue(0, ANYWHERE) as host:
        end = connect(host.address, keys=keys())
        with pytest.raises(NotAdmitted, match=r"another key than .*, or runs without keys"):
            end.put("hello")


def test_no_bound_socket_admits_a_peer_without_a_known_key(
    folder: Path, host: FarQueue, connect: Connect
) -> None:
    """Given a queue with its control socket, its inbox and a lane: at each port the handshake fails for
    strangers, and succeeds with a key."""
    consumer = connect(host.address, keys=folder)
    host.put("item")
    assert consumer.get(timeout=SOON) == "item"
    ports = listening_ports()
    assert len(ports) >= 3
    server = read_server_key(folder)
    mine = read_pair(folder, CLIENT)
    for port in ports:
        for kind in (zmq.DEALER, zmq.PUSH, zmq.PULL):
            for name, key in strangers(server).items():
                assert not gets_in(port, kind, key), (port, kind, name)
    dealing = [port for port in ports if gets_in(port, zmq.DEALER, (*mine, server))]
    assert int(host.address.rpartition(":")[2]) in dealing


def test_a_lane_accepts_only_its_consumers_key(folder: Path, host: FarQueue, connect: Connect) -> None:
    laptop, mine = auth.add(folder, "laptop"), read_pair(folder, CLIENT)
    assert laptop is not None
    before = listening_ports()
    host.put("item")
    assert connect(host.address, keys=laptop).get(timeout=SOON) == "item"
    (lane,) = listening_ports() - before
    server = read_server_key(folder)
    assert not gets_in(lane, zmq.PULL, (*mine, server))
    assert gets_in(lane, zmq.PULL, (*read_pair(laptop, CLIENT), server))


def test_an_added_client_is_admitted_without_a_restart(
    folder: Path, host: FarQueue, connect: Connect
) -> None:
    made = auth.add(folder, "laptop")
    laptop = connect(host.address, keys=made)
    laptop.put("hello")
    assert host.get(timeout=SOON) == "hello"


def test_a_revoked_client_is_disconnected_at_once_and_its_items_are_redelivered(
    folder: Path, host: FarQueue, connect: Connect
) -> None:
    made = auth.add(folder, "laptop")
    assert made is not None
    laptop = connect(host.address, keys=made.rename(folder.parent / "laptop"))
    host.put("item")
    delivery = laptop.receive(timeout=SOON)
    assert delivery.item == "item"
    with pytest.raises(Empty):
        host.get_nowait()
    auth.revoke(folder, "laptop")
    again = host.receive(timeout=SOON)
    assert (again.item, again.attempt) == ("item", 2)
    again.ack()
    with pytest.raises(NotAdmitted, match="does not admit"):
        laptop.get(timeout=SOON)
    assert host.counts()["unsettled"] == 0


def test_messages_of_a_revoked_key_are_ignored(folder: Path, host: FarQueue) -> None:
    """Given a raw socket that was admitted with its key, and stays connected,
    If the key is revoked,
    I expect that no HELLO over it begins a session."""
    made = auth.add(folder, "laptop")
    dialed = Connection(zmq.DEALER, Address.parse(host.address), Access(str(made)), identity="raw")
    try:
        assert welcomed(dialed, "raw")
        auth.revoke(folder, "laptop")
        assert eventually(lambda: host.counts()["ends"] == 1)  # the host's own
        assert not welcomed(dialed, "raw")
        assert host.counts()["ends"] == 1
    finally:
        dialed.close()


def test_no_client_can_use_the_session_of_another(folder: Path, host: FarQueue, connect: Connect) -> None:
    """Given an admitted client, and a client with another key that uses its session's name,
    I expect that its messages are dropped."""
    victim = connect(host.address, keys=folder)
    victim.put("mine")
    assert host.get(timeout=SOON) == "mine"
    assert victim._end is not None
    session = victim._end.machine.session_name
    dialed = Connection(zmq.PUSH, inbox_of(victim), Access(str(auth.add(folder, "laptop"))), identity="other")
    try:
        forged = messages.pack(2, 0, QueueMessage(QueueMessageType.PUT, (2, 1, None), b"\xa6forged"))
        assert dialed.socket.poll(5000, zmq.POLLOUT)
        assert host._host is not None
        ticket = host._host._machine.peers[session].ticket  # though it had learned that, too
        assert ticket is not None
        dialed.socket.send_multipart([session.encode(), ticket.encode(), *forged])
        assert eventually(lambda: host._host.counts()["malformed"] > 0)
        victim.put("mine, too")
        assert host.get(timeout=SOON) == "mine, too"
        assert host.counts()["stored"] == 2
    finally:
        dialed.close()


@pytest.mark.slow
def test_a_host_restarted_with_other_keys_is_refused(folder: Path, connect: Connect) -> None:
    host = Queue(0, ANYWHERE, keys=folder, lease=1.0)
    address = host.address
    end = connect(address, keys=folder)
    end.put("one")
    host.stop_hosting()
    host.close()
    host.join_thread()
    with Queue(0, address, keys=other_keys(folder)) as impostor:
        with pytest.raises(NotAdmitted, match="another key"):
            end.qsize()
        with pytest.raises(NotAdmitted, match="another key"):
            end.put("two")
        assert impostor.counts()["stored"] == 0


def test_an_open_queue_accepts_only_plain_data(connect: Connect) -> None:
    with Queue(0, ANYWHERE, insecure=True) as host:
        end = connect(host.address, insecure=True)
        end.put({"plain": [1, (2, {3})]})
        assert host.get(timeout=SOON) == {"plain": [1, (2, {3})]}
        for queue in (host, end):
            with pytest.raises(ItemError, match="not trusted with pickle"):
                queue.put(object())


def test_a_client_reads_no_pickle_from_an_open_host(connect: Connect) -> None:
    """Given a host that is open to everyone and claims to be trusted,
    I expect that a client sends it no pickle, and reads none."""
    with Queue(0, ANYWHERE, insecure=True) as host:
        assert host._host is not None
        host._host._machine._about["trusted"] = True
        end = connect(host.address, insecure=True)
        with pytest.raises(ItemError, match="not trusted with pickle"):
            end.put(object())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_nothing_is_sent_to_a_socket_file_of_another_user(
    connect: Connect, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Given a folder where everybody may bind, and a host of another user in the place of ours,
    I expect that the end says whose it is, and has sent nothing."""
    shared = Path(f"/tmp/nearfar-test-{os.getpid()}")
    shared.mkdir()
    shared.chmod(0o1777)
    place = shared / "queue"
    ready, gone = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.setgid(4711)
        os.setuid(4711)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        rogue = context.socket(zmq.ROUTER)
        rogue.bind(f"ipc://{place}")
        place.chmod(0o777)
        os.write(ready[1], b"1")
        heard = rogue.poll(20_000) if not os.read(gone[0], 1) else 0
        os._exit(int(bool(heard)))
    try:
        os.read(ready[0], 1)
        end = connect(f"ipc://{place}")
        with pytest.raises(NotAdmitted, match="its socket file is user 4711's"):
            end.put("secret")
    finally:
        os.write(gone[1], b"1")
        os.waitpid(child, 0)
        for descriptor in (*ready, *gone):
            os.close(descriptor)
        place.unlink(missing_ok=True)
        shared.rmdir()


def welcomed(dialed: Connection, session: str) -> bool:
    about = {"pid": os.getpid(), "machine": ""}
    hello = QueueFrame(0, 0, QueueMessage(QueueMessageType.HELLO, (VERSION, "laptop-1-1", about)))
    dialed.socket.send_multipart(messages.pack(*hello))
    while dialed.socket.poll(500):
        envelope = messages.unpack(dialed.socket.recv_multipart())
        if envelope.message.kind is QueueMessageType.WELCOME:
            return bool(envelope.message.fields[0] == session)
    return False


def inbox_of(queue: FarQueue) -> Address:
    assert queue._end is not None
    return Address.parse(queue.address).beside(queue._end.facts["inbox"])
