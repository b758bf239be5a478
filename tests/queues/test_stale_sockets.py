"""Socket files that a killed host left next to its ipc address."""

from __future__ import annotations

import socket
from pathlib import Path

from nearfar.net.addresses import Address
from nearfar.queues.broker.server import clear_lanes
from nearfar.queues.far import FarQueue


def bound(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    return made


def test_the_next_host_removes_the_lanes_of_a_killed_one(tmp_path: Path) -> None:
    """Given socket files of a killed host, and other files with similar names, I expect only the former
    removed."""
    bound(tmp_path / "queue.lane-7").close()
    theirs = [tmp_path / name for name in ("queue.lane-8", "queue.lane-x", "other.lane-7")]
    for path in theirs:
        path.touch()
    FarQueue(0, f"ipc://{tmp_path}/queue").close()
    assert sorted(tmp_path.iterdir()) == sorted(theirs)


def test_a_frozen_hosts_lanes_stay(tmp_path: Path) -> None:
    with bound(tmp_path / "queue.lane-7") as frozen:
        frozen.listen()
        clear_lanes(Address(path=f"{tmp_path}/queue"))
        assert (tmp_path / "queue.lane-7").exists()
