"""The queues over which the contract's tests run, and the standard library's as the reference."""

from __future__ import annotations

import multiprocessing
import os
import queue
import secrets
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

import pytest

from nearfar import JoinableQueue, Queue
from nearfar.net.schemes import QUEUES, load
from nearfar.queues.far import FarJoinableQueue, FarQueue
from nearfar.queues.near import NearJoinableQueue, NearQueue
from nearfar.serialization.shared_ring import SWITCH
from tests.support import redis_server
from tests.support.keys import keys


@dataclass(frozen=True)
class Transport:
    """How a test makes a queue of one kind: ``make(maxsize, joinable, context)``."""

    name: str
    make: Callable[[int, bool, BaseContext], Any]
    has_shutdown: bool = True
    make_far: Callable[[int, bool, int], Any] | None = None
    """``make_far(maxsize, joinable, maxbytes)``, where bytes can be bounded."""

    def __str__(self) -> str:
        return self.name


def _near(maxsize: int, joinable: bool, context: BaseContext) -> NearQueue:
    return (NearJoinableQueue if joinable else NearQueue)(maxsize, ctx=context)


def _threads(maxsize: int, _joinable: bool, _context: BaseContext) -> queue.Queue[Any]:
    return queue.Queue(maxsize)


def _processes(maxsize: int, joinable: bool, context: BaseContext) -> Any:
    return context.JoinableQueue(maxsize) if joinable else context.Queue(maxsize)


def _tcp(maxsize: int, joinable: bool, maxbytes: int) -> FarQueue:
    """With keys: without them, loopback is not TCP (`nearfar.net.addresses`). Memory is not shared, as with
    another machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "0")
        return _hosted(maxsize, joinable, "tcp://127.0.0.1:*", maxbytes=maxbytes, keys=keys())


def _ipc(maxsize: int, joinable: bool, maxbytes: int) -> FarQueue:
    """A client as any other, though the host is in this process."""
    folder = tempfile.mkdtemp(prefix="nearfar-")
    host = _hosted(maxsize, joinable, f"ipc://{folder}/queue", maxbytes=maxbytes)
    made = type(host).connect(host.address, wait=20.0)
    made.stop_hosting = host.stop_hosting  # type: ignore[method-assign]
    weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
    return made


def _hosted(maxsize: int, joinable: bool, address: str, **options: Any) -> FarQueue:
    return (FarJoinableQueue if joinable else FarQueue)(maxsize, address, wait=20.0, **options)


def _far(name: str, make: Callable[[int, bool, int], Any]) -> Transport:
    return Transport(name, lambda maxsize, joinable, _: make(maxsize, joinable, 0), make_far=make)


def _redis(maxsize: int, joinable: bool, maxbytes: int) -> Any:
    """With keys, so that all objects can be sent. Skips the test where there is no server."""
    address = redis_server.address()
    transport = load(QUEUES, address)
    kind = transport.joinable if joinable else transport.queue
    return kind(maxsize, address, maxbytes=maxbytes, keys=keys(), lease=3.0, wait=20.0)


TRANSPORTS = [Transport("near", _near), _far("ipc", _ipc), _far("tcp", _tcp), _far("redis", _redis)]
"""Offer the whole of `BaseQueue`, and cross processes."""

OTHER = os.environ.get("NEARFAR_TEST_TRANSPORT", "")
"""The address of another package's queues, such as ``name://{name}``, over which the contract runs instead:
docs/transports.md."""


def _other(maxsize: int, joinable: bool, maxbytes: int) -> Any:
    make = JoinableQueue if joinable else Queue
    return make(maxsize, OTHER.format(name=secrets.token_hex(8)), maxbytes=maxbytes, wait=20.0)


if OTHER:
    TRANSPORTS = [_far(OTHER.partition("://")[0], _other)]

REFERENCES = [
    Transport("queue.Queue", _threads, has_shutdown=sys.version_info >= (3, 13)),
    Transport("multiprocessing", _processes, has_shutdown=False),
]
"""The standard's: what they do is what a test of the standard's methods asks for."""

START_METHODS = multiprocessing.get_all_start_methods()
