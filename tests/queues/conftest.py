"""Factories of queues, each closed after its test, and a check for what a test leaves behind."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.context import BaseContext
from typing import Any

import pytest

from nearfar.queues.client import producer, session
from nearfar.serialization import shared_ring
from tests.queues.contract import LIMIT
from tests.queues.transports import REFERENCES, START_METHODS, TRANSPORTS, Transport
from tests.support import redis_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deselect tests over ipc for every start method: they differ from tcp only by their sockets."""
    for item in items:
        call = getattr(item, "callspec", None)
        chosen = call.params if call is not None else {}
        if str(chosen.get("transport")) == "ipc" and "every_context" in chosen:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def share_all_items() -> Iterator[None]:
    """Where memory is shared, all items are there, not only those of long messages; children that are
    spawned share as the package does. The allocator stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(producer, "PLACED", 1)
        patch.setattr(producer, "PLACED_EACH", 1)
        patch.setattr(session, "MUCH", 1)
        patch.setattr(shared_ring, "keep_freed_memory", lambda: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def redis() -> Iterator[None]:
    """A Redis server for this process's tests, where there is one."""
    with redis_server.for_all_tests():
        yield


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread (a feeder's, say) or a child process."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(LIMIT)
        assert not thread.is_alive(), f"leaked {thread}"
    assert multiprocessing.active_children() == []


@pytest.fixture(params=TRANSPORTS, ids=str)
def transport(request: pytest.FixtureRequest) -> Transport:
    return request.param


@pytest.fixture(params=[*TRANSPORTS, *REFERENCES], ids=str)
def any_transport(request: pytest.FixtureRequest) -> Transport:
    return request.param


@pytest.fixture
def context() -> BaseContext:
    """The fastest start method, for tests in which it does not matter."""
    return multiprocessing.get_context("fork")


@pytest.fixture(params=START_METHODS)
def every_context(request: pytest.FixtureRequest) -> BaseContext:
    return multiprocessing.get_context(request.param)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _maker(stack: ExitStack, transport: Transport, context: BaseContext) -> Callable[..., Any]:
    def make(maxsize: int = 0, joinable: bool = False, context: BaseContext = context) -> Any:
        queue = transport.make(maxsize, joinable, context)
        if hasattr(queue, "close"):
            stack.callback(_put_away, queue)
        return queue

    return make


def _put_away(queue: Any) -> None:
    queue.close()
    queue.cancel_join_thread()  # Items that a test left need not be sent to anybody.
    queue.join_thread()
    if hasattr(queue, "stop_hosting"):
        queue.stop_hosting()


@pytest.fixture
def make_queue(stack: ExitStack, transport: Transport, context: BaseContext) -> Callable[..., Any]:
    """``make_queue(maxsize=0, joinable=False, context=...)``: a queue of each transport."""
    return _maker(stack, transport, context)


@pytest.fixture
def make_any(stack: ExitStack, any_transport: Transport, context: BaseContext) -> Callable[..., Any]:
    """As `make_queue`, also with the standard library's queues."""
    return _maker(stack, any_transport, context)


@pytest.fixture(params=[*TRANSPORTS, *(one for one in REFERENCES if one.has_shutdown)], ids=str)
def make_ending(stack: ExitStack, context: BaseContext, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """As `make_any`, over those that can be shut down."""
    return _maker(stack, request.param, context)
