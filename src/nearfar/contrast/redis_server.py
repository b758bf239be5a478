"""Private Redis servers: each is started for one measurement, at a free port, with its files in a folder."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

PROGRAM = "redis-server"
PATIENCE = 20.0
"""Seconds that a server may take to start."""
ATTEMPTS = 5
"""Ports to try: another program may take one after it was found free."""


def version() -> str:
    """The version of the server; empty if it cannot be measured: the server or redis-py is not installed."""
    if shutil.which(PROGRAM) is None or find_spec("redis") is None:
        return ""
    said = subprocess.run([PROGRAM, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    found = re.search(r"\bv=(\S+)", said.stdout)
    return found[1] if found else ""


class RedisServer:
    """A server that writes each change to a file before it replies, and can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        """Start it, with its files in `folder`. Raises `RuntimeError` if it ends, and `TimeoutError`."""
        self._folder = folder
        for attempt in range(ATTEMPTS):
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._port = free.getsockname()[1]
            try:
                self.start()
                break
            except RuntimeError:
                if attempt == ATTEMPTS - 1:
                    raise

    @property
    def address(self) -> str:
        """The address of a queue in it; always the same one."""
        return f"redis://127.0.0.1:{self._port}/0/contrast"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        """Start it at its port, with the files that it had. Returns once it can be connected to."""
        command = [PROGRAM, "--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        # "no" leaves the disk to the system, but Redis writes before it replies: a kill loses nothing. With
        # "everysec" it may reply first, while an fsync is under way; with "always" disks are measured.
        command += ["--appendonly", "yes", "--appendfsync", "no", "--save", ""]
        # In the process group of this measurement, which is killed as a whole.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise RuntimeError(f"{PROGRAM} ended with {self._process.returncode} at port {self._port}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1.0):
                return
            time.sleep(0.005)
        self.kill()
        raise TimeoutError(f"{PROGRAM} did not start within {PATIENCE:g} s")

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """A server with its files in `folder`; killed in the end."""
    server = RedisServer(folder)
    try:
        yield server
    finally:
        server.kill()
