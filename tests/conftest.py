"""Every test leaves nothing behind, keeps its temporary files to itself, and can be repeated."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import util
from pathlib import Path

import pytest
import zmq
from hypothesis import settings

from nearfar.net import sockets
from nearfar.net.access import VARIABLE
from tests.support.interpreters import is_between
from tests.support.keys import make_keys
from tests.support.leaks import Belongings, leaks_since, watch_shared_memory

settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("local", deadline=None, print_blob=True)
watch_shared_memory()
TESTS = Path(__file__).parent
EDGES = {"chaos", "contrast", "demo", "deploy", "download", "examples", "exits", "programs"}
"""Folders whose tests are of our own programs, files and connections, above what interpreters do differently:
they show all that they can show under the oldest and the newest Python."""
LONGEST_ROOT = 20
"""Characters of a temporary folder in which the path of a Unix socket stays below the system's limit of 107,
with what pytest and pytest-xdist add to it."""
if len(tempfile.gettempdir()) > LONGEST_ROOT and os.access("/tmp", os.W_OK):
    os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"
settings.load_profile("ci" if os.environ.get("CI") else "local")

if sys.dont_write_bytecode:
    # Containers forbid it, to stay small. Then every process of a run compiles the tests, and every program
    # that a test starts compiles the package: half of the processor time.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs so, and the programs that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Processes for ``-n auto``: twice as many as cores and one, since most tests wait for others."""
    return 2 * len(os.sched_getaffinity(0)) + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--between",
        action="store_true",
        help="leave out what is marked pure or edges if an older and a newer Python are on this machine",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the folders of `EDGES`; under a Python between others, leave out what those run."""
    for item in items:
        if item.path.relative_to(TESTS).parts[0] in EDGES:
            item.add_marker(pytest.mark.edges)
    if config.getoption("--between") and is_between():
        marks = ("pure", "edges")
        left_out = [item for item in items if any(map(item.get_closest_marker, marks))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not any(map(item.get_closest_marker, marks))]


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
