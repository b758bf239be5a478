"""Where ``nearfar top`` reads a status: a dashboard, or a queue or coordinator by its own messages."""

from __future__ import annotations

import argparse
import http.client
import json
import time
from base64 import b64encode
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from nearfar.coordinator.status import NoCoordinator, ask
from nearfar.dashboard.board import Board
from nearfar.errors import AddressError, CoordinatorLost
from nearfar.net.addresses import Address
from nearfar.net.auth import approach
from nearfar.queues.far import FarQueue
from nearfar.readable import readable

if TYPE_CHECKING:
    from nearfar.coordinator.status import CoordinatorStatus
    from nearfar.dashboard.model import Status

DEFAULT = "127.0.0.1:8787"
LARGEST = 64 << 20
"""Bytes of an answer."""
WITHIN = 5.0
"""Seconds within which a dashboard must answer."""
OF_THE_PROCESS = ("host", "pid", "version", "started")
"""What a board notes of its own process: the messages of a queue or coordinator do not say it of theirs."""


class Reader(Protocol):
    """Reads the status of a program."""

    samples: bool
    """Whether rates need a second reading, a second after the first."""

    def read(self) -> Status:
        """The present status. Raises what `errors` and `http.client` have for a program that does not answer,
        and `PermissionError` or `NotAdmitted` if it refuses."""

    def close(self) -> None:
        """Disconnect."""


def reader_of(options: argparse.Namespace) -> Reader:
    """The reader for ``options.address``. Raises `AddressError`, `KeysError`, `NotAdmitted`,
    `CoordinatorLost` and `QueueLost`."""
    if not options.address.startswith(("tcp://", "ipc://")):
        return DashboardReader(options.address, options.token)
    if options.token is not None:
        raise AddressError("--token is for dashboards; queues and coordinators admit by --keys")
    address = Address.parse_remote(options.address)
    coordinator = CoordinatorReader(address, options)
    try:
        coordinator.read()
    except NoCoordinator:
        return QueueReader(options)
    except CoordinatorLost:
        said = f"no queue and no coordinator has answered at {address} for {options.wait:g} s"
        raise CoordinatorLost(said) from None
    return coordinator


class DashboardReader:
    """Reads the status from a dashboard."""

    samples = False

    def __init__(self, address: str, token_file: str | None) -> None:
        """Raises `AddressError` and `KeysError`."""
        from nearfar.dashboard.server import parse, read_token

        named = urlsplit(address if "//" in address else f"//{address}")
        if named.scheme not in ("", "http", "https") or named.path not in ("", "/"):
            raise AddressError(
                f"{address} is neither the address of a dashboard, such as {DEFAULT}, nor that of a queue or"
                " coordinator, such as tcp://127.0.0.1:5555"
            )
        self._secure = named.scheme == "https"  # a proxy before the dashboard
        self._place = named.netloc
        if not self._secure:
            parse(named.netloc)
        self._headers = {}
        if token_file is not None:
            token = b64encode(f"top:{read_token(token_file)}".encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"

    def read(self) -> Status:
        """Raises `OSError`, `http.client.HTTPException`, and `ValueError` for an answer that is none;
        `PermissionError` if the token is wrong."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._place, timeout=WITHIN)
        try:
            connection.request("GET", "/api/status", headers=self._headers)
            answer = connection.getresponse()
            body = answer.read(LARGEST)
        finally:
            connection.close()
        if answer.status in (401, 403):
            said = readable(body.decode(errors="replace").strip())
            raise PermissionError(f"the dashboard at {self._place} refuses: {said}")
        if answer.status != http.client.OK:
            raise ValueError(readable(f"{answer.status} {body[:200].decode(errors='replace')}".strip()))
        status = json.loads(body)
        if not isinstance(status, dict) or "counts" not in status:
            raise ValueError("what it answers is not a status")
        found: Status = status  # type: ignore[assignment]  # of our own dashboard
        return found

    def close(self) -> None:
        """Nothing stays open."""


class CoordinatorReader:
    """Asks a coordinator."""

    samples = True

    def __init__(self, address: Address, options: argparse.Namespace) -> None:
        """Raises `KeysError`."""
        self._address, self._wait = address, options.wait
        self._access = approach(address, options.keys, insecure=options.no_keys)
        self._board = Board("coordinator", str(address))

    def read(self) -> Status:
        """Raises `CoordinatorLost`, `NotAdmitted` and `KeysError`."""
        return _published(self._board, _of_coordinator(ask(self._address, self._wait, self._access)))

    def close(self) -> None:
        """Nothing stays open."""


class QueueReader:
    """Asks the host of a queue, as one of its clients."""

    samples = True

    def __init__(self, options: argparse.Namespace) -> None:
        """Raises `AddressError` and `KeysError`."""
        self._queue = FarQueue.connect(
            options.address, keys=options.keys, insecure=options.no_keys, wait=options.wait
        )
        self._board = Board("queue", options.address)

    def read(self) -> Status:
        """Raises `QueueLost` and `NotAdmitted`."""
        found: Status = {
            "ready": True,
            "counts": {},
            "queue": {"address": self._queue.address, "counts": self._queue.counts()},
        }
        return _published(self._board, found)

    def close(self) -> None:
        """Leave the queue."""
        self._queue.close()


def _of_coordinator(found: CoordinatorStatus) -> Status:
    return {
        "ready": True,
        "counts": found.counts,
        "workers": [
            {
                "name": worker.name,
                "host": worker.host,
                "pid": worker.pid,
                "tasks": worker.answered,
                "runs": worker.runs,
                "seconds": worker.since,
                "memory": None,
            }
            for worker in found.workers
        ],
    }


def _published(board: Board, status: Status) -> Status:
    """`status` with the rates since the earlier ones."""
    board.publish(status, time.monotonic())
    snapshot = board.latest()
    assert snapshot is not None
    derived: Status = {key: value for key, value in snapshot.status.items() if key not in OF_THE_PROCESS}  # type: ignore[assignment]
    return derived
