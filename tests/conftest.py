"""Every test leaves no resources behind, has its own temporary files, and can be repeated."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import suppress
from itertools import dropwhile
from multiprocessing import util
from pathlib import Path
from types import CodeType

import pytest
import zmq
from hypothesis import HealthCheck, settings

from nearfar.net import sockets
from tests.support.interpreters import is_between
from tests.support.keys import make_keys
from tests.support.leaks import Belongings, leaks_since, watch_shared_memory

LOAD = [HealthCheck.too_slow]
"""Checks of hypothesis that depend on how busy the machine is."""
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True, suppress_health_check=LOAD)
settings.register_profile("local", deadline=None, print_blob=True, suppress_health_check=LOAD)
watch_shared_memory()
TESTS = Path(__file__).parent
EDGES = {"chaos", "contrast", "demo", "deploy", "download", "examples", "exits", "cli"}
"""Folders whose tests are of our own programs, files and connections, above what interpreters do differently:
they show all that they can show under the oldest and the newest Python."""
OF_TESTS = tuple(
    f"NEARFAR_{name}" for name in ("CELL", "CHAOS_", "COMPOSE", "FAILPOINT", "HOSTILE_", "SEED", "TEST_")
)
"""How the variables that tests read begin; all others are settings of the user, which tests do not follow."""
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
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    # Background jobs of a shell ignore the one, those of nohup the other, and programs would inherit it.
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


def pytest_xdist_auto_num_workers() -> int:
    """Processes for ``-n auto``: twice as many as cores and one, since most tests wait for others."""
    return 2 * len(os.sched_getaffinity(0)) + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--between",
        action="store_true",
        help="leave out pure tests and those of programs if there is an older and a newer Python here",
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """Each process of xdist starts importing at another module, so that each module is compiled by only
    one."""
    name, count = (os.environ.get(f"PYTEST_XDIST_WORKER{more}", "") for more in ("", "_COUNT"))
    if name and session.config.args == session.config.getini("testpaths"):
        paths = [path for path in sorted(TESTS.rglob("test_*.py")) if path.with_name("__init__.py").exists()]
        first = len(paths) * int(name.removeprefix("gw")) // int(count)
        for path in paths[first:] + paths[:first]:
            with suppress(Exception, pytest.skip.Exception):  # the collection comes to it, and tells
                importlib.import_module(".".join(path.relative_to(TESTS.parent).with_suffix("").parts))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.parent == TESTS and collection_path.name in EDGES and leaves_out(config):
        return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if leaves_out(config):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("pure")])
        items[:] = [item for item in items if not item.get_closest_marker("pure")]


def leaves_out(config: pytest.Config) -> bool:
    """Whether this Python skips the pure tests and those of `EDGES`: the oldest and the newest run them."""
    return bool(config.getoption("--between")) and is_between()


def pytest_collection_finish() -> None:
    """Exclude the objects of the collected tests from garbage collections."""
    gc.collect()
    gc.freeze()


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> pytest.TestReport:
    """Report a failure that pytest cannot print as one of this test alone.

    An error while pytest prints a traceback ends the whole run with INTERNALERROR. It raises one where an
    exception came at a bytecode without a line, as interrupts of tests do; and `ast.parse`, which it calls,
    may fail in old releases of CPython when two threads print tracebacks at once.
    """
    try:
        return pytest.TestReport.from_item_and_call(item, call)
    except Exception as error:
        assert call.excinfo is not None, "only a failure has a traceback to print"
        told = "\n".join([*described(call.excinfo.value), f"(pytest cannot print this traceback: {error!r})"])
        with pytest.raises(pytest.fail.Exception) as call.excinfo:
            pytest.fail(told, pytrace=False)
        return pytest.TestReport.from_item_and_call(item, call)


def described(error: BaseException) -> Iterator[str]:
    """What was raised and where, from the test's own code on; then the same of what was handled meanwhile."""
    for each in (error, error.__context__):
        if each is not None:
            yield f"{type(each).__qualname__}: {each}"
            places = [(frame.f_code, line or "?") for frame, line in traceback.walk_tb(each.__traceback__)]
            for code, line in dropwhile(lambda place: not is_test(place[0]), places):
                yield f"  {code.co_filename}:{line}, in {code.co_qualname}"


def is_test(code: CodeType) -> bool:
    return code.co_filename.startswith(str(TESTS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name each run that failed and was repeated, and why it failed: `.ci/run` repeats these lines."""
    for report in terminalreporter.stats.get("rerun", []):
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = report.longreprtext.splitlines()[-1] if crash is None else crash.message.splitlines()[0]
        terminalreporter.write_line(f"RERUN {report.nodeid} - {reason}")


@pytest.fixture(scope="session", autouse=True)
def temporary_folder() -> Iterator[None]:
    """This run's own temporary folder, so that files left in it are known to be from this run."""
    outside = tempfile.gettempdir()
    util.get_temp_dir()  # multiprocessing keeps one for the whole process, and removes it at exit
    folder = tempfile.mkdtemp(prefix="nearfar-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DEBUG_TEMPROOT", outside)
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        for name in os.environ:
            if name.startswith("NEARFAR_") and not name.startswith(OF_TESTS):
                patch.delenv(name)
        patch.setenv("NEARFAR_CONFIG", "")
        make_keys()
        yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def zeromq() -> None:
    """Start ZeroMQ's threads, which are made once in a process with the first socket, and pyzmq's, made with
    the first message that is sent without a copy."""
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
