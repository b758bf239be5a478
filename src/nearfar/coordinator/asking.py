"""Asks a coordinator elsewhere how it stands."""

from __future__ import annotations

import secrets
import select
import time
from typing import Any, NamedTuple

from nearfar.coordinator.caller import Caller
from nearfar.coordinator.wire import Envelope, Kind, Message
from nearfar.errors import CoordinatorLost, NotAdmitted
from nearfar.net.access import OWN, Access
from nearfar.net.addresses import Address
from nearfar.net.complaints import shown
from nearfar.net.refusals import Refusals

AGAIN = 1.0
"""Seconds after which the question is asked again."""
LOOK = 100
"""Milliseconds between two looks whether it was let in."""


class WorkerStatus(NamedTuple):
    """One worker."""

    name: str
    host: str
    pid: int
    answered: int
    """Tasks."""
    runs: str
    """``module:function``, or nothing."""
    since: float
    """Seconds that it has been running this."""


class Status(NamedTuple):
    """A coordinator in figures, and each of its workers."""

    counts: dict[str, int]
    workers: list[WorkerStatus]


def ask(address: Address, wait: float, access: Access = OWN) -> Status:
    """The status of the coordinator at `address`.

    Raises `NotAdmitted` if it does not let this side in, `CoordinatorLost` if there is no answer within
    `wait` seconds, `KeysError`.
    """
    caller = Caller(address.seen_from_here(), access)
    refusals = Refusals()
    try:
        name = f"asking-{secrets.token_hex(8)}"
        deadline = time.monotonic() + wait
        while (now := time.monotonic()) < deadline:
            descriptor = caller.open(name)
            caller.send(Envelope(0, 0, Message(Kind.QUERY)))
            found = _listen(caller, descriptor, min(deadline, now + AGAIN), refusals)
            if found is not None:
                return found
            if why := refusals.believed(time.monotonic()):
                raise NotAdmitted(f"cannot ask the coordinator at {address}: {why}")
    finally:
        caller.close()
    raise CoordinatorLost(f"no coordinator has answered at {address} for {wait:g} s")


def _listen(caller: Caller, descriptor: int, deadline: float, refusals: Refusals) -> Status | None:
    poll = select.poll()
    if descriptor >= 0:
        poll.register(descriptor, select.POLLIN)
    while True:
        heard, why = caller.receive()
        if why:
            refusals.failed(why, time.monotonic())
        for envelope in heard:
            if envelope.message.kind is Kind.STATUS:
                return _read(envelope.message)
            if envelope.message.kind is Kind.REFUSED:
                raise CoordinatorLost(f"refused: {shown(envelope.message.fields[0])}")
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        if not caller.pending():
            poll.poll(min(LOOK, int(left * 1000) + 1))


def _read(message: Message) -> Status:
    counts: dict[str, int] = message.fields[0]
    rows: list[Any] = list(message.rows or ())
    return Status(counts, [_shown(WorkerStatus(*row)) for row in rows])


def _shown(status: WorkerStatus) -> WorkerStatus:
    return status._replace(host=shown(status.host), runs=shown(status.runs))
