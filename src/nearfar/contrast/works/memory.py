"""Memory: items of 1 KiB lie in an unbounded queue whose consumer is connected, and does not get."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nearfar.contrast.cast import Cast
from nearfar.contrast.settings import KIB, Settings
from nearfar.contrast.transports.base import FORK, Link, Transport

STILL = 0.3
"""Seconds without change after which nothing is under way any more: no transport says when that is."""


def measure(transport: Transport, settings: Settings, folder: Path) -> dict[str, Any]:
    """What each process holds more than before, in bytes for each item."""
    here, there = FORK.Pipe()
    with Cast() as cast, here, there, transport.open(folder, 0) as link:
        pids = {"consumer": cast.start(get_one, link, there)}
        pids["producer"] = cast.start(put_all, link, settings.lying, there)
        if link.host is not None:
            pids["host"] = link.host
        for _ in pids.keys() & {"consumer", "producer"}:
            here.recv()
        before = settled(pids)
        here.send("go on")
        here.recv()
        after = settled(pids)
    return {role: max(0.0, (after[role] - before[role]) / settings.lying) for role in pids}


def put_all(link: Link, count: int, cue: Connection) -> None:
    producer = link.producer()
    producer.put(b"first")
    cue.send("ready")
    cue.recv()
    for _ in range(count):
        producer.put(os.urandom(KIB))
    cue.send("put")
    signal.pause()


def get_one(link: Link, told: Connection) -> None:
    consumer = link.consumer()
    consumer.get()
    told.send("ready")
    signal.pause()


def settled(pids: dict[str, int]) -> dict[str, int]:
    """What each process has to itself, once that changes no more; at most 5 seconds later."""
    until = time.monotonic() + 5.0
    still_since, last = time.monotonic(), {role: private(pid) for role, pid in pids.items()}
    while time.monotonic() < until and time.monotonic() - still_since < STILL:
        time.sleep(0.05)
        now = {role: private(pid) for role, pid in pids.items()}
        if any(abs(now[role] - last[role]) > 64 * KIB for role in pids):
            still_since, last = time.monotonic(), now
    return {role: private(pid) for role, pid in pids.items()}


def private(pid: int) -> int:
    """Bytes of memory that no other process shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * KIB
