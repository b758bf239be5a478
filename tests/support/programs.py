"""The programs of nearfar without their start: each is forked from a process that has imported them.

To start Python and to import takes longer than most of what tests do with a program. Tests of the start
itself, and of signals while a program loads, start an interpreter (`Shell.python`, `subprocess`).
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "nearfar"]
PRELOADED = (
    "nearfar.download.far_transport",
    "nearfar.download.fetch.curl",
    "nearfar.download.local",
    "nearfar.download.pooled",
    "nearfar.cli.consumer",
    "nearfar.cli.coordinator",
    "nearfar.cli.producer",
    "nearfar.cli.queue",
    "nearfar.cli.worker",
)
"""What programs will import is imported once, before they are forked."""
PDEATHSIG = 1
FIRST_OWN, MOST = 3, 1024
"""File descriptors after the standard streams, and as many as the forking process may have."""


class Program(subprocess.Popen):  # type: ignore[type-arg]
    """As `subprocess.Popen`, of a command that begins with `COMMAND`."""

    def _execute_child(  # type: ignore[no-untyped-def] # as Popen calls it, from Python 3.11 to 3.15
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *rest,
    ) -> None:  # fmt: skip
        assert args[:3] == COMMAND, args
        order = {
            "words": args[3:],
            "folder": os.fspath(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
            "group": rest[-1],
        }
        self._status, status = os.pipe2(os.O_CLOEXEC)
        streams = (p2cread, c2pwrite, errwrite)
        given = [number if stream == -1 else stream for number, stream in enumerate(streams)]
        try:
            self.pid = forker().fork(order, [*given, status])
        finally:
            os.close(status)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def poll(self) -> int | None:
        if self.returncode is None and self._has_ended(0):
            self._read_status()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not self._has_ended(timeout):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._read_status()
        return self.returncode

    def _has_ended(self, timeout: float | None) -> bool:
        poller = select.poll()
        poller.register(self._status, select.POLLIN)
        return bool(poller.poll(None if timeout is None else timeout * 1000))

    def _read_status(self) -> None:
        said = os.read(self._status, 100)
        os.close(self._status)
        assert said, "the process that forks programs has ended"
        self.returncode = int(said)


def run(*words: str, text: str | None = None, timeout: float = 90.0, **options: Any) -> Any:
    """As `subprocess.run`, of a program with these words and `text` as its input: streams are captured."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Program([*COMMAND, *words], **streams | options) as program:
        try:
            out, err = program.communicate(text, timeout)
        except BaseException:
            program.kill()
            raise
    return subprocess.CompletedProcess(program.args, program.returncode, out, err)


def starter(command: list[str]) -> type[subprocess.Popen[Any]]:
    """What starts a command: `Program`, if it can."""
    return Program if command[:3] == COMMAND else subprocess.Popen


class Forker:
    """The test's side of a process that forks programs."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.programs", str(theirs.fileno())],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self.pid, self.descriptor = self._process.pid, self._line.fileno()
        atexit.register(self.close)

    def fork(self, order: dict[str, Any], descriptors: list[int]) -> int:
        """The process id of a program: its standard streams, and where its exit status goes, are given."""
        with self._lock:
            socket.send_fds(self._line, [json.dumps(order).encode()], descriptors)
            return int(self._line.recv(100))

    def close(self) -> None:
        if _forkers.get(os.getpid()) is self:  # not in a forked child
            self._line.close()
            self._process.kill()
            self._process.wait()


_forkers: dict[int, Forker] = {}
_starting = threading.Lock()


def forker() -> Forker:
    """That of this process, which lives as long as the test run."""
    with _starting:
        if os.getpid() not in _forkers:
            _forkers[os.getpid()] = Forker()
        return _forkers[os.getpid()]


def keepers() -> tuple[set[int], set[int]]:
    """The process id of this process's forker, and its descriptor here; none if there is none."""
    found = _forkers.get(os.getpid())
    return ({found.pid}, {found.descriptor}) if found else (set(), set())


# -- in the process that forks -----------------------------------------------------------------------


def serve(line: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for each order until the line ends; returns, in a child, its order and streams."""
    poller = select.poll()
    poller.register(line, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}
    while True:
        for ready, _ in poller.poll():
            if ready in running:
                poller.unregister(ready)
                pid, status = running.pop(ready)
                os.write(status, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
                os.close(status)
                os.close(ready)
                continue
            text, descriptors, _, _ = socket.recv_fds(line, 1 << 20, 4)
            if not text:
                return None
            order = json.loads(text)
            pid = os.fork()
            if not pid:
                line.detach()
                return order, descriptors
            if order["group"] >= 0:
                os.setpgid(pid, order["group"])
            *streams, status = descriptors
            for each in streams:
                os.close(each)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = pid, status
            poller.register(pidfd, select.POLLIN)
            line.send(str(pid).encode())


def become(order: dict[str, Any], descriptors: list[int]) -> None:
    """Be the program of an order, as if an interpreter had been started for it."""
    if order["group"] >= 0:
        os.setpgid(0, order["group"])
    for number, descriptor in enumerate(descriptors[:FIRST_OWN]):
        os.dup2(descriptor, number)
    os.closerange(FIRST_OWN, MOST)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    tempfile.tempdir = None
    sys.path[0] = order["folder"]
    main = sys.modules["__main__"] = importlib.import_module("nearfar.__main__")
    sys.argv = [str(main.__file__), *order["words"]]
    main.run()


def work(descriptor: int) -> None:
    """Fork programs until the test process ends."""
    ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    forked = serve(socket.socket(fileno=descriptor))
    if forked is not None:
        ctypes.CDLL(None).prctl(PDEATHSIG, 0, 0, 0, 0)
        become(*forked)


if __name__ == "__main__":
    work(int(sys.argv[1]))
