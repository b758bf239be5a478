"""Real Redis servers for tests, on free ports of loopback; what needs one is skipped where there is none.

``NEARFAR_REDIS_SERVER`` names another program, such as ``valkey-server``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.waiting import eventually

PROGRAM = os.environ.get("NEARFAR_REDIS_SERVER", "redis-server")
MISSING = [
    *([] if shutil.which(PROGRAM) else [f"there is no {PROGRAM} on this machine"]),
    *([] if find_spec("redis") and find_spec("nacl") else ["nearfar[redis] is not installed"]),
]
"""Why no server can be used here."""

needed = pytest.mark.skipif(bool(MISSING), reason="; ".join(MISSING))


class Server:
    """A server that a test can kill, and start again with its files."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.folder, self.options = folder, options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        command = [PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return [*command, "--save", "", "--loglevel", "warning", *self.options]

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        assert eventually(self._listens), f"{PROGRAM} does not listen at {self.port}"

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{PROGRAM} ended with {self.process.returncode}"
        return listens(self.port)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def address(self, name: str = "") -> str:
        """The address of a queue, of a new name if none is given."""
        return f"redis://127.0.0.1:{self.port}/0/{name or secrets.token_hex(8)}"


def listens(port: int) -> bool:
    """Whether a server accepts connections at this port of loopback."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


@contextmanager
def running(*options: str) -> Iterator[Server]:
    """A server in a folder of its own, killed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="nearfar-redis-"))
    server = Server(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
_common: list[Server] = []


@contextmanager
def for_all_tests() -> Iterator[None]:
    """The server of `address`, without a disk; nothing where there is none."""
    if MISSING:
        yield
        return
    with running() as server:
        _common.append(server)
        try:
            yield
        finally:
            _common.clear()


def address() -> str:
    """The address of a new queue; skips the test where there is no server."""
    if MISSING:
        pytest.skip("; ".join(MISSING))
    return _common[0].address()
