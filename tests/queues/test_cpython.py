"""CPython's own tests of its queues, as the interpreter ships them, run over every transport."""

from __future__ import annotations

import multiprocessing
import unittest
from collections.abc import Mapping
from typing import Any, ClassVar
from unittest import mock

import pytest

from nearfar import errors
from tests.queues.transports import TRANSPORTS, Transport

REASON = "this interpreter ships no `test` package"
of_processes = pytest.importorskip("test._test_multiprocessing", reason=REASON)
of_threads = pytest.importorskip("test.test_queue", reason=REASON)

# CPython's tests fork while feeder threads run, which is what some of them are about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

NOT_OF_PROCESSES = {
    "test_queue_feeder_donot_stop_onexc": "what cannot be pickled raises at put here (see the contract)",
    "test_queue_feeder_on_queue_feeder_error": "tests a private hook of the standard's feeder thread",
    "test_closed_queue_empty_exceptions": "expects `empty` to fail on a closed pipe, if one was opened",
}
NOT_OF_THREADS = {
    "test_negative_timeout_raises_exception": "multiprocessing, too, takes a negative timeout for none",
    "test_nowait": "as with multiprocessing, get_nowait just after put may find the item on its way",
    "test_shrinking_queue": "sets the attribute `maxsize`, which no process queue has",
    "test_shutdown_allowed_transitions": "reads `queue.Queue.is_shutdown`, which no process queue has",
    "test_shutdown_put_join": "reads `queue.Queue.unfinished_tasks`, which no process queue has",
    "test_shutdown_immediate_put_join": "reads `queue.Queue.unfinished_tasks`, which no process queue has",
    "test_shutdown_get_task_done_join": "reads `queue.Queue.unfinished_tasks`, which no process queue has",
}


MANY_ITEMS = (
    "test_shutdown_all_methods_in_many_threads",
    "test_shutdown_immediate_all_methods_in_many_threads",
)
"""They put up to 65,536 items one by one: each is an exchange with the server of a queue in Redis."""


class OverTransport:
    """Makes the queues of one transport, and closes them after each test."""

    transport: ClassVar[Transport]

    def setUp(self: Any) -> None:
        super().setUp()
        # A few of the tests do not ask their class for a queue.
        for name in ("Queue", "JoinableQueue"):
            self.enterContext(mock.patch.object(multiprocessing, name, getattr(self, name)))

    def make(self: Any, maxsize: int, joinable: bool) -> Any:
        queue = self.transport.make(maxsize, joinable, multiprocessing.get_context())
        if hasattr(queue, "stop_hosting"):
            self.addCleanup(queue.stop_hosting)
        self.addCleanup(queue.join_thread)
        self.addCleanup(queue.close)
        self.addCleanup(queue.cancel_join_thread)
        return queue

    def Queue(self, maxsize: int = 0) -> Any:  # noqa: N802 - the name that the tests ask for
        return self.make(maxsize, joinable=False)

    def JoinableQueue(self, maxsize: int = 0) -> Any:  # noqa: N802
        return self.make(maxsize, joinable=True)


class OverThreads(OverTransport):
    """The attributes that the tests of `queue.Queue` need: class name, `maxsize`, and module of errors."""

    queue = errors

    def type2test(self, maxsize: int = 0) -> Any:
        made = self.make(maxsize, joinable=True)

        class Queue:
            def __getattr__(self, name: str) -> Any:
                return getattr(made, name)

        Queue.maxsize = maxsize
        return Queue()


def _copied(case: Any, method: str) -> Any:
    """A method of its own, whose marks are not those of other transports."""

    def copied(self: Any) -> None:
        getattr(super(case, self), method)()

    copied.__name__ = method
    return copied


def _cases(name: str, bases: tuple[type, ...], skipped: Mapping[str, str]) -> dict[str, type]:
    """A test case of `bases` for each transport, without the methods in `skipped`."""
    cases = {}
    for transport in TRANSPORTS:
        title = f"{name}_{transport.name}"
        case = type(title, (*bases, unittest.TestCase), {"transport": transport, "__module__": __name__})
        if transport.name == "ipc":  # as tcp, with other sockets
            case = pytest.mark.slow(case)
        for method in MANY_ITEMS if transport.name == "redis" else ():
            if hasattr(case, method):
                setattr(case, method, pytest.mark.slow(pytest.mark.timeout(300)(_copied(case, method))))
        for method, reason in skipped.items():
            if hasattr(case, method):
                setattr(case, method, unittest.skip(reason)(getattr(case, method)))
        cases[title] = case
    return cases


globals().update(
    _cases(
        "TestProcesses",
        (OverTransport, of_processes.ProcessesMixin, of_processes._TestQueue),
        NOT_OF_PROCESSES,
    )
)
globals().update(_cases("TestThreads", (OverThreads, of_threads.BaseQueueTestMixin), NOT_OF_THREADS))
