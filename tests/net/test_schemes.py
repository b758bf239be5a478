"""The scheme of an address chooses the transport; other packages add theirs by entry points."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from nearfar import JoinableQueue, Pool, Queue
from nearfar.errors import AddressError
from nearfar.net import schemes
from nearfar.queues.base import Transport
from nearfar.queues.far import FarJoinableQueue, FarQueue

MODULE = """
from nearfar.queues.base import Transport

class Lone:
    def __init__(self, maxsize, address, **options):
        self.made = ("made", maxsize, address, options)

    @classmethod
    def connect(cls, address, **options):
        return cls(None, address, **options)

class Joint(Lone):
    pass

LONE = Transport(Lone, Joint)

def pool(address, initializer, initargs, **options):
    raise RuntimeError(f"a pool at {address}, {sorted(options)}")
"""
ENTRY_POINTS = """
[nearfar.queues]
lone = lone_transport:LONE
broken = lone_transport:NOTHING

[nearfar.pools]
lone = lone_transport:pool
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An installed package that adds the scheme ``lone``."""
    (tmp_path / "lone_transport.py").write_text(MODULE)
    about = tmp_path / "lone_transport-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lone-transport\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("lone_transport", None)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:5555", "ipc:///run/queue"])
def test_addresses_of_hosts_are_built_in(address: str) -> None:
    assert schemes.load(schemes.QUEUES, address) == Transport(FarQueue, FarJoinableQueue)


def test_an_entry_point_adds_a_queue(added: None) -> None:
    queue: Any = Queue(5, "lone://there", depth=2)
    assert queue.made == ("made", 5, "lone://there", {"depth": 2})
    connected: Any = JoinableQueue.connect("lone://there", wait=1.0)
    assert type(connected).__name__ == "Joint"
    assert connected.made[3] == {"keys": None, "insecure": False, "wait": 1.0}


def test_an_entry_point_adds_a_pool(added: None) -> None:
    with pytest.raises(RuntimeError, match=r"a pool at lone://there, .*'insecure', 'keys', 'plain', 'wait'"):
        Pool.connect("lone://there")


def test_an_entry_point_that_cannot_be_loaded_is_named(added: None) -> None:
    with pytest.raises(AddressError, match="broken:// cannot be used: lone_transport:NOTHING raised"):
        Queue.connect("broken://there")


def test_an_unknown_scheme_lists_the_known_ones(added: None) -> None:
    known = "broken, ipc, lone, redis, rediss, tcp, valkey, valkeys"
    with pytest.raises(AddressError, match=f"'kafka://there': its scheme is none of {known}$"):
        Queue(5, "kafka://there")
    with pytest.raises(
        AddressError, match=r"'kafka://there': its scheme is none of dask, ipc, lone, ray, tcp$"
    ):
        Pool.connect("kafka://there")


def test_a_text_that_is_no_address_gets_an_example() -> None:
    with pytest.raises(AddressError, match=r"expected tcp://host:port"):
        Queue.connect("storage:5555")


def test_a_password_is_not_repeated() -> None:
    for address in ("kafka://user:secret@host/0", "kafka://user:se@cret@host", "tcp://u:secret@host:5"):
        with pytest.raises(AddressError) as caught:
            Queue.connect(address)
        assert "cret" not in str(caught.value)


def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "nearfar.queues.redis.client", raising=False)
    monkeypatch.delitem(sys.modules, "nearfar.queues.redis.queue", raising=False)
    with pytest.raises(AddressError) as caught:
        Queue.connect("redis://127.0.0.1/0/q")
    assert str(caught.value) == "redis:// needs the package redis: pip install 'nearfar[redis]'"
