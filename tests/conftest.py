"""Every test leaves nothing behind, keeps its temporary files to itself, and can be repeated."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing import util
from pathlib import Path

import pytest
import zmq
from hypothesis import settings

from nearfar.net import sockets
from nearfar.net.access import VARIABLE
from tests.support.keys import make_keys
from tests.support.leaks import Belongings, leaks_since, watch_shared_memory

settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("local", deadline=None, print_blob=True)
watch_shared_memory()
LONGEST_ROOT = 20
"""Characters of a temporary folder in which the path of a Unix socket stays below the system's limit of 107,
with what pytest and pytest-xdist add to it."""
if len(tempfile.gettempdir()) > LONGEST_ROOT and os.access("/tmp", os.W_OK):
    os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_xdist_auto_num_workers() -> int:
    """Processes for ``-n auto``: one more than there are cores, since many tests wait for other processes."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_finish() -> None:
    """What thousands of tests are made of stays, and is not worth a look in each collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def temporary_folder() -> Iterator[None]:
    """A temporary folder of this run's own, so that a file left in it is known to be ours."""
    outside = tempfile.gettempdir()
    util.get_temp_dir()  # multiprocessing keeps one for the whole process, and removes it at exit
    folder = tempfile.mkdtemp(prefix="nearfar-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DEBUG_TEMPROOT", outside)
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        patch.delenv(VARIABLE, raising=False)
        make_keys()
        yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def zeromq() -> None:
    """ZeroMQ's own threads and files are made once for the whole process, with its first socket, and pyzmq's
    with the first message that is sent without copying it."""
    with sockets.make(zmq.PAIR) as here, sockets.make(zmq.PAIR) as there:
        here.bind("inproc://once")
        there.connect("inproc://once")
        here.send(bytes(1 << 20), copy=False)
        there.recv()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for that of a Unix socket, as `tmp_path` of a parallel run may not."""
    with tempfile.TemporaryDirectory(prefix="s") as name:
        yield Path(name)


@pytest.fixture(autouse=True)
def nothing_left_behind(temporary_folder: None, zeromq: None) -> Iterator[None]:
    """Threads, child processes, open files, shared memory and temporary files end with the test."""
    before = Belongings.now()
    yield
    leaks = leaks_since(before)
    assert not leaks, f"left behind: {'; '.join(leaks)}"
