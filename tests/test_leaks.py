"""The leak check detects each kind of leak, and does not report resources that ended."""

from __future__ import annotations

import multiprocessing
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from tests.support.leaks import Belongings, leaks_since
from tests.support.waiting import eventually


@contextmanager
def running_thread() -> Iterator[None]:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="straggler", daemon=True)
    thread.start()
    yield
    end.set()
    thread.join()


@contextmanager
def child_process() -> Iterator[None]:
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            yield
        finally:
            child.kill()


@contextmanager
def open_socket() -> Iterator[None]:
    with socket.socket():
        yield


@contextmanager
def shared_memory() -> Iterator[None]:
    memory = SharedMemory(create=True, size=16)
    yield
    memory.close()
    memory.unlink()


@contextmanager
def semaphore() -> Iterator[None]:
    """A semaphore with a name, so that a spawned process can find it."""
    held = multiprocessing.get_context("spawn").Semaphore()
    yield
    del held


@contextmanager
def temporary_file() -> Iterator[None]:
    file = Path(tempfile.gettempdir(), "forgotten")
    file.touch()
    yield
    file.unlink()


@pytest.mark.parametrize(
    ("leak", "phrase"),
    [
        (running_thread, "thread 'straggler'"),
        (child_process, "(sleep 60)"),
        (open_socket, "-> socket:"),
        (shared_memory, "shared memory 'psm_"),
        (semaphore, "shared memory 'sem."),
        (temporary_file, "temporary file 'forgotten'"),
    ],
)
def test_a_leak_is_seen_while_it_lasts(leak: Callable[[], AbstractContextManager[None]], phrase: str) -> None:
    before = Belongings.now()
    with leak():
        assert eventually(lambda: any(phrase in each for each in leaks_since(before, grace=0)))
    assert leaks_since(before) == []


def test_a_child_that_was_not_waited_for_is_a_leak() -> None:
    before = Belongings.now()
    child = subprocess.Popen(["true"])
    assert any("child process" in each for each in leaks_since(before, grace=0.1))
    child.wait()
