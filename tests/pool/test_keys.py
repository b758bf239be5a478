"""A pool with keys: agents, clients and status requests that are admitted, refused or revoked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from nearfar import NotAdmitted, Pool, WorkerLost
from nearfar.coordinator.server import StandaloneCoordinator
from nearfar.coordinator.status import ask
from nearfar.net import auth
from nearfar.net.addresses import Address
from nearfar.net.auth import CLIENT, Access, read_pair, read_server_key
from tests.pool import tasks
from tests.pool.pools import agent
from tests.support.attack import gets_in, listening_ports, strangers
from tests.support.waiting import eventually

SOON = 5.0 + 8.0
"""Seconds within which a refused peer is told the reason, and those that a busy machine may add."""
ANYWHERE = Address.parse("tcp://127.0.0.1:*")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    auth.init(made)
    return made


def stranger_keys(folder: Path) -> Path:
    auth.init_client(folder.parent / "unknown", folder / "server.key")
    return folder.parent / "unknown"


def other_keys(folder: Path) -> Path:
    auth.init(folder.parent / "others")
    return folder.parent / "others"


ACCESSES = [
    pytest.param(lambda folder: {}, "it asks for keys", id="no key"),
    pytest.param(lambda folder: {"insecure": True}, "not open to everyone", id="plain"),
    pytest.param(lambda folder: {"keys": other_keys(folder)}, "it has another key than", id="other server"),
    pytest.param(lambda folder: {"keys": stranger_keys(folder)}, "does not admit the key", id="unknown"),
]


@pytest.fixture
def coordinator(folder: Path) -> Any:
    made = StandaloneCoordinator(ANYWHERE, access=Access(str(folder)), lease=2.0)
    yield made
    made.stop(0)
    assert made.join(SOON)


@pytest.mark.slow
@pytest.mark.parametrize(("access", "said"), ACCESSES)
def test_a_refused_peer_gets_the_reason_within_seconds(
    folder: Path, coordinator: StandaloneCoordinator, access: Callable[[Path], dict[str, Any]], said: str
) -> None:
    """A client's tasks, an agent's `run`, and a status request end with the reason."""
    options = access(folder)
    address = coordinator.address
    began = time.monotonic()
    pool = Pool.connect(str(address), **options)
    first, second = pool.apply_async(abs, (-1,)), pool.apply_async(abs, (-2,))
    with pytest.raises(NotAdmitted, match=said):
        first.get(2 * SOON)
    with pytest.raises(NotAdmitted, match=said):
        second.get(2 * SOON)
    assert time.monotonic() - began < SOON
    pool.terminate()
    pool.join()
    began = time.monotonic()
    refused = Access(str(options.get("keys", "")), options.get("insecure", False))
    with pytest.raises(NotAdmitted, match=said):
        ask(address, 2 * SOON, refused)
    assert time.monotonic() - began < SOON
    assert coordinator.counts()["clients"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("access", "said"), ACCESSES)
def test_a_refused_agent_ends_with_the_reason(
    folder: Path,
    coordinator: StandaloneCoordinator,
    access: Callable[[Path], dict[str, Any]],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from nearfar.cli.exits import Exit
    from nearfar.cli.worker import main

    options = access(folder)
    words = ["--no-keys"] if "insecure" in options else []
    words += ["--keys", str(options["keys"])] if "keys" in options else []
    before = os.environ.get("NEARFAR_KEYS")
    try:
        assert main(["--connect", str(coordinator.address), "--processes", "1", *words]) == Exit.UNTRUSTED
    finally:
        if before is None:
            os.environ.pop("NEARFAR_KEYS", None)
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("nearfar worker: cannot work for the coordinator at tcp://")
    assert said in err
    assert coordinator.counts()["agents"] == 0


def test_the_coordinator_admits_no_peer_without_a_known_key(folder: Path) -> None:
    with Pool(1, address=str(ANYWHERE), keys=folder) as pool:
        (port,) = listening_ports()
        server = read_server_key(folder)
        for name, key in strangers(server).items():
            assert not gets_in(port, zmq.DEALER, key), name
        assert gets_in(port, zmq.DEALER, (*read_pair(folder, CLIENT), server))
        assert pool.apply(abs, (-1,)) == 1


def test_workers_with_keys_join_a_pool_and_run(folder: Path) -> None:
    with Pool(0, address=str(ANYWHERE), keys=folder) as pool:
        access = Access(str(auth.add(folder, "laptop")))
        with agent(pool.address or "", 2, access):
            assert pool.map(tasks.square, range(20), 1) == [n * n for n in range(20)]
            assert pool.apply(len, (bytes(1 << 20),)) == 1 << 20
        pool.terminate()


def test_an_agent_with_a_revoked_key_counts_as_dead(folder: Path, tmp_path: Path) -> None:
    """Given an agent in the middle of a task,
    If its key is revoked,
    I expect that the task ends with `WorkerLost`, that the agent is told and ends, and that others go on."""
    made = auth.add(folder, "laptop")
    assert made is not None
    kept = made.rename(tmp_path / "laptop")
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    ended: list[BaseException] = []
    with Pool(0, address=str(ANYWHERE), keys=folder, lease=2.0) as pool:
        with agent(pool.address or "", 1, Access(str(kept)), ended.append):
            running = pool.apply_async(tasks.leave_then_wait_for, (str(mark), str(gate)))
            assert eventually(mark.exists, 20)
            auth.revoke(folder, "laptop")
            with pytest.raises(WorkerLost, match="key was revoked"):
                running.get(SOON)
            gate.touch()
            assert eventually(lambda: bool(ended), 2 * SOON)
        assert isinstance(ended[0], NotAdmitted)
        with agent(pool.address or "", 1, Access(str(folder))):
            assert pool.apply(tasks.square, (3,)) == 9
        pool.terminate()


def test_a_client_with_a_revoked_key_is_ignored(
    folder: Path, coordinator: StandaloneCoordinator, tmp_path: Path
) -> None:
    made = auth.add(folder, "laptop")
    assert made is not None
    kept = made.rename(tmp_path / "laptop")
    with agent(str(coordinator.address), 1, Access(str(folder))):
        pool = Pool.connect(str(coordinator.address), keys=kept)
        assert pool.apply(tasks.square, (2,)) == 4
        auth.revoke(folder, "laptop")
        assert eventually(lambda: coordinator.counts()["clients"] == 0, SOON)
        with pytest.raises(NotAdmitted, match="does not admit the key"):
            pool.apply_async(tasks.square, (3,)).get(2 * SOON)
        pool.terminate()
        pool.join()
        with Pool.connect(str(coordinator.address), keys=folder) as other:
            assert other.apply(tasks.square, (4,)) == 16
