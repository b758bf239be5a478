"""Every system call that moves a pool's tasks fails once: the pool continues.

Watched are, one after the other, a coordinator with workers of its own, an agent, and a pool on this machine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from nearfar import Pool, WorkerLost
from nearfar.coordinator.server import StandaloneCoordinator
from nearfar.errors import NearfarError
from nearfar.net.addresses import Address
from nearfar.worker.agent import Agent
from nearfar.worker.supervisor import Supervisor
from tests.support.failing import ERRORS, Failing, failing

HERE = Address.parse("tcp://127.0.0.1:*")
LARGE = bytes(1 << 20)
"""It travels in shared memory."""
WAIT = 20.0


def outcome(pool: Any, function: Callable[..., Any], *words: Any) -> Any:
    """The outcome of a call, while this thread does none of the pool's work."""
    told: SimpleQueue[Any] = SimpleQueue()
    pool.apply_async(function, words, callback=told.put, error_callback=told.put)
    try:
        return told.get(timeout=WAIT)
    except Empty:
        return "no outcome"


def refused(found: Any) -> bool:
    """Whether a task could not be sent to a worker for lack of resources; the error may come from
    elsewhere."""
    return isinstance(found, OSError) or type(found) is NearfarError


def agent_at(address: Address, stack: ExitStack) -> Agent:
    """An agent with one worker, in a thread of its own."""
    agent = Agent(address, partial(Supervisor, count=1), 1, wait=WAIT)
    thread = threading.Thread(target=agent.run)
    thread.start()
    stack.callback(thread.join, WAIT)
    stack.callback(agent.leave)
    return agent


@pytest.fixture(params=["coordinator", "agent", "near"])
def watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Failing]]:
    """A pool, and the system calls of its watched part."""
    with ExitStack() as stack:
        if request.param == "near":
            with failing(monkeypatch) as calls:
                pool = stack.enter_context(Pool(1))
                threading.setprofile(None)
            yield pool, calls
            calls.arm(0, 0)
            return
        with failing(monkeypatch) as calls:
            alone = request.param == "coordinator"
            if not alone:
                threading.setprofile(None)
            coordinator = StandaloneCoordinator(
                HERE, partial(Supervisor, count=1) if alone else None, lease=1.0
            )
            stack.callback(coordinator.join, WAIT)
            stack.callback(coordinator.stop, 0.0)
            if not alone:
                threading.setprofile(calls.profile)
                agent_at(coordinator.address, stack)
            threading.setprofile(None)
        pool = stack.enter_context(Pool.connect(str(coordinator.address), wait=WAIT))
        yield pool, calls
        calls.arm(0, 0)
        assert coordinator.failure is None


def calls_of(calls: Failing, do: Callable[[], object]) -> int:
    """How many calls that takes."""
    do()
    calls.arm(0, 0)
    do()
    return min(calls.count, 150)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_pool_survives_the_failure_of_each_system_call(watched: tuple[Any, Failing]) -> None:
    """Given small and large tasks, I expect each to be done, or refused for lack of resources; and the next
    to be done."""
    pool, calls = watched
    for words in ((b"small",), (LARGE,)):
        most = calls_of(calls, lambda words=words: outcome(pool, len, *words))  # type: ignore[misc]
        for at in range(1, most + 10):
            calls.arm(at, ERRORS[at % len(ERRORS)])
            found = outcome(pool, len, *words)
            assert found == len(words[0]) or refused(found), (at, calls.failed, found)
            calls.arm(0, 0)
            assert outcome(pool, abs, -at) == at, (at, calls.failed)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_dead_worker_is_replaced_even_if_a_system_call_fails(watched: tuple[Any, Failing]) -> None:
    pool, calls = watched
    most = calls_of(calls, lambda: outcome(pool, os._exit, 3))
    assert most > 10
    for at in range(1, most + 5):
        calls.arm(at, ERRORS[at % len(ERRORS)])
        found = outcome(pool, os._exit, 3)
        assert isinstance(found, WorkerLost) or refused(found), (at, calls.failed, found)
        calls.arm(0, 0)
        assert outcome(pool, abs, -at) == at, (at, calls.failed)
