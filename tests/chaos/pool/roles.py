"""The processes of a run: coordinator, worker, client; each records its actions in the journal."""

from __future__ import annotations

import json
import os
import threading
import time
from functools import partial
from typing import Any

from nearfar import Pool
from nearfar.cli import coordinator as coordinating
from nearfar.cli import worker as working
from nearfar.coordinator.protocol import CoordinatorProtocol
from nearfar.coordinator.sessions import PeerSession
from nearfar.coordinator.status import ask
from nearfar.net.addresses import Address
from nearfar.net.process import new_name
from nearfar.net.session import SessionEnd
from tests.chaos.faults.access import access, binding, calling, connecting, hosting
from tests.chaos.faults.faults import LEASE
from tests.chaos.faults.journal import Journal
from tests.chaos.faults.starting import watch_stalls
from tests.chaos.pool.points import POINTS
from tests.chaos.pool.tasks import work

__all__ = ["BUSY", "POINTS", "agent", "asker", "client", "host"]

WAIT = 20.0
BUSY = ("clients", "running", "waiting", "held")
"""What a coordinator that has nothing to do counts none of."""
LIMIT = 35.0


def host(arguments: list[str]) -> int:
    """``nearfar coordinator``, which records lost peers."""
    order = json.loads(arguments[0])
    journal = Journal(order["journal"], "host")
    _note_deaths(journal)
    watch_stalls(journal, LEASE / 4)
    address = order["address"]
    return coordinating.main(["--bind", address, "--lease", str(LEASE), "--grace", "5", *binding(address)])


def agent(arguments: list[str]) -> int:
    """``nearfar worker``."""
    order = json.loads(arguments[0])
    watch_stalls(Journal(order["journal"], order["name"]), LEASE / 4)
    address, processes = order["address"], str(order["processes"])
    return working.main(
        ["--connect", address, "--processes", processes, "--wait", str(WAIT), *calling(address)]
    )


def client(arguments: list[str]) -> int:
    """Call `work` many times, in several ways, and record the outcome of each call."""
    order = json.loads(arguments[0])
    journal = Journal(order["journal"], order["name"])
    life = new_name()
    watch_stalls(journal, LEASE / 4)
    pool = _pool(order, journal)
    journal.note("calls", life=life, pid=os.getpid())
    calls = [(order["journal"], life, number, order["seconds"]) for number in range(order["tasks"])]
    half = len(calls) // 2
    results = [pool.apply_async(work, call, retries=order["retries"]) for call in calls[:half]]
    results += [pool.apply_async(work, call, retries=order["retries"]) for call in calls[half:]]
    for number, result in enumerate(results):
        try:
            journal.note("outcome", life=life, number=number, value=result.get(LIMIT))
        except Exception as error:
            journal.note("outcome", life=life, number=number, error=type(error).__name__, told=str(error))
    journal.note("counted", counts=pool._engine.counts())
    pool.close()
    pool.join()
    return 0


def asker(arguments: list[str]) -> int:
    """Request the coordinator's status, until it has no task left or some seconds have passed."""
    order = json.loads(arguments[0])
    pause = threading.Event()
    until = time.monotonic() + 4 * LEASE
    look = partial(ask, Address.parse(order["address"]), WAIT, access(order["address"]))
    while any((counts := look().counts)[what] for what in BUSY):
        if time.monotonic() >= until:
            break
        pause.wait(0.1)
    Journal(order["journal"], "asker").note("counts", counts=counts)
    return 0


def _pool(order: dict[str, Any], journal: Journal) -> Pool:
    address = order["address"]
    if order["near"]:
        return Pool(order["processes"])
    if order["hosted"]:
        _note_deaths(journal)
        return Pool(0, address=order["binds"], lease=LEASE, **hosting(order["binds"]))
    return Pool.connect(address, wait=WAIT, **connecting(address))


def _note_deaths(journal: Journal) -> None:
    inner = CoordinatorProtocol._end

    def end(self: CoordinatorProtocol, session: PeerSession, why: str, how: SessionEnd, now: float) -> None:
        for_good = how in (SessionEnd.LEFT, SessionEnd.DIED)
        journal.note("death", role=session.role, uid=session.uid, why=why, for_good=for_good)
        inner(self, session, why, how, now)

    CoordinatorProtocol._end = end  # type: ignore[method-assign]
