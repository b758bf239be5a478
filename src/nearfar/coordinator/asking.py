"""Asks a coordinator elsewhere how it stands."""

from __future__ import annotations

import secrets
import select
import time
from typing import Any, NamedTuple

from nearfar.coordinator.caller import Caller
from nearfar.coordinator.wire import Envelope, Kind, Message
from nearfar.errors import CoordinatorLost
from nearfar.net.addresses import Address
from nearfar.net.complaints import shown

AGAIN = 0.5
"""Seconds after which the question is asked again."""


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


def ask(address: Address, wait: float) -> Status:
    """The status of the coordinator at `address`.

    Raises `CoordinatorLost` if there is no answer within `wait` seconds.
    """
    caller = Caller(address.seen_from_here())
    try:
        descriptor = caller.open(f"asking-{secrets.token_hex(8)}")
        deadline = time.monotonic() + wait
        while (now := time.monotonic()) < deadline:
            caller.send(Envelope(0, 0, Message(Kind.QUERY)))
            found = _listen(caller, descriptor, min(deadline, now + AGAIN))
            if found is not None:
                return found
    finally:
        caller.close()
    raise CoordinatorLost(f"no coordinator has answered at {address} for {wait:g} s")


def _listen(caller: Caller, descriptor: int, deadline: float) -> Status | None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        for envelope in caller.receive():
            if envelope.message.kind is Kind.STATUS:
                return _read(envelope.message)
            if envelope.message.kind is Kind.REFUSED:
                raise CoordinatorLost(f"refused: {shown(envelope.message.fields[0])}")
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        if not caller.pending():
            poll.poll(int(left * 1000) + 1)


def _read(message: Message) -> Status:
    counts: dict[str, int] = message.fields[0]
    rows: list[Any] = list(message.rows or ())
    return Status(counts, [_shown(WorkerStatus(*row)) for row in rows])


def _shown(status: WorkerStatus) -> WorkerStatus:
    return status._replace(host=shown(status.host), runs=shown(status.runs))
