"""Downloads of large files by real processes, from a server that sends at a fixed rate and counts bytes."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nearfar.cli.exits import Exit
from nearfar.download.store.partials import COMPARED
from nearfar.download.store.store import Store
from tests.download.trade.saved_at_kills import kept_bytes, saved_names
from tests.support.exchange import Reply, Request
from tests.support.programs import starter
from tests.support.redis_server import DURABLE, Server
from tests.support.web import Web

ROOT = Path(__file__).parents[3]
PIECE = 16 * 1024


@dataclass
class Response:
    """What was sent of a file: the bytes from `start` to `end`."""

    path: str
    start: int
    end: int


class LargeFiles:
    """Files by path, each with a strong tag. Ranges are answered as by a good server.

    `rate` is in bytes per second for each response.
    """

    def __init__(self, web: Web, sizes: dict[str, int], rate: float, seed: int = 1) -> None:
        dice = random.Random(seed)
        self.web = web
        self.bodies = {path: dice.randbytes(size) for path, size in sizes.items()}
        self.rate = rate
        self.responses: list[Response] = []
        self._closing = threading.Event()
        web.at_close.append(self._closing.set)
        web.routes["*"] = self._answer

    @property
    def total(self) -> int:
        """Bytes that were sent."""
        return sum(each.end - each.start for each in self.responses)

    @property
    def sent_twice(self) -> int:
        """Bytes that were sent more than once."""
        return self.total - sum(map(len, self.bodies.values()))

    def latest(self) -> dict[str, Response]:
        """The last response of each file."""
        return {each.path: each for each in self.responses}

    def _answer(self, request: Request, reply: Reply) -> None:
        body, tag = self.bodies[request.path], f'"{request.path}"'
        asked = re.fullmatch(r"bytes=(\d+)-", request.fields.get("range", ""))
        start = int(asked[1]) if asked and request.fields.get("if-range") in (None, tag) else 0
        fields = {"Content-Length": str(len(body) - start), "ETag": tag}
        if start:
            fields["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.responses.append(response := Response(request.path, start, start))
        reply.head(206 if start else 200, fields)
        began = time.monotonic()
        while response.end < len(body):
            pause = (response.end - start) / self.rate - (time.monotonic() - began)
            if pause > 0 and self._closing.wait(pause):
                reply.drop()
            piece = body[response.end : response.end + PIECE]
            reply.data(piece)
            response.end += len(piece)
        reply.end()


@dataclass
class Run:
    """The commands of a download, each of which is started again with the same line until all is saved.

    `shape`: ``direct``, ``near`` (with -P and -C), ``far``, ``redis`` (whose host is the server) or ``pool``.
    """

    shape: str
    folder: Path
    files: LargeFiles
    kills: int = 0
    starts: int = 0
    _unkept: dict[int, tuple[Response, int]] = field(default_factory=dict)
    """By identity: the responses whose file was not saved at a kill, and how much of it was kept then."""
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _said: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        nearfar, queue = [sys.executable, "-m", "nearfar"], f"ipc://{self.folder}/queue"
        urls = [self.files.web.url(path) for path in self.files.bodies]
        self.saved_in = self.folder / "saved"
        if self.shape in ("direct", "near"):
            processes = ["-P", "2", "-C", "2"] if self.shape == "near" else []
            local = ["--queue", "local", "-o", str(self.saved_in)]
            self.commands = {"producer": [*nearfar, "producer", *local, *processes, *urls]}
            return
        pool = ["--pool", "local:2"] if self.shape == "pool" else []
        host = [*nearfar, "queue", "--bind", queue]
        if self.shape == "redis":
            server = Server(self.folder, *DURABLE)
            queue, host = server.address("queue"), server.command
        self.commands = {
            "host": host,
            "consumer": [*nearfar, "consumer", "--queue", queue, "-o", str(self.saved_in)],
            "producer": [*nearfar, "producer", "--queue", queue, *pool, *urls],
        }

    def start(self) -> None:
        """Start what does not run."""
        for name, command in self.commands.items():
            if name not in self._running:
                self.starts += 1
                said = self.folder / f"{self.starts}-{name}.txt"
                self._said.append(said)
                with said.open("wb") as out:
                    self._running[name] = starter(command)(
                        command,
                        cwd=self.folder,
                        stdout=out,
                        stderr=out,
                        env={**os.environ, "PYTHONPATH": str(ROOT)},
                    )

    def victims(self) -> dict[str, list[int]]:
        """The processes that can be killed: commands by their names, and children as ``NAME's child``."""
        found: dict[str, list[int]] = {}
        for name, process in self._running.items():
            found[name] = [process.pid]
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            with suppress(OSError):
                for child in map(int, children.read_text().split()):
                    if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes():
                        found.setdefault(f"{name}'s child", []).append(child)
        return found

    def kill(self, *pids: int) -> None:
        """``kill -9``."""
        self.kills += 1
        latest, saved, kept = self.files.latest(), saved_names(self.saved_in), kept_bytes(self.saved_in)
        for path, response in latest.items():
            if path[1:] not in saved:
                _, size = self._unkept.get(id(response), (response, response.end))
                self._unkept[id(response)] = response, min(size, kept.get(self.files.web.url(path), 0))
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill every process of the download."""
        self.kill(*(pid for pids in self.victims().values() for pid in pids))

    @property
    def lost(self) -> int:
        """Bytes that were sent, and were not kept when something was killed."""
        return sum(max(0, each.end - kept) + COMPARED for each, kept in self._unkept.values())

    def run(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Restart what ends, until the producer has saved everything; fails after so many seconds."""
        end = time.monotonic() + seconds
        while True:
            assert time.monotonic() < end, self.said()
            self.start()
            meanwhile()
            with suppress(subprocess.TimeoutExpired):
                self._running["producer"].wait(0.02)
            codes = {name: process.poll() for name, process in self._running.items()}
            ended = {name: code for name, code in codes.items() if code is not None}
            for name in ended:
                del self._running[name]
            if ended.get("producer") == Exit.OK:
                return

    def said(self) -> str:
        """What the commands printed."""
        return "\n".join(f"{path.name}: {path.read_text()}" for path in self._said)

    def verify(self) -> None:
        """Each file is there, whole; only what was not kept at a kill was sent twice; nothing is left but the
        manifest, once a command has started again."""
        self.close()
        with Store(self.saved_in) as store:
            store.sweep()
        files = {path.name: path for path in self.saved_in.iterdir()}
        own = {name for name in files if name.startswith(".nearfar.sqlite")}
        assert files.keys() - own == {path[1:] for path in self.files.bodies}, (
            f"{sorted(files)} {self.said()}"
        )
        for path, body in self.files.bodies.items():
            assert files[path[1:]].read_bytes() == body
        assert "Traceback" not in self.said()
        assert self.files.sent_twice <= self.lost, f"{self.files.sent_twice} of {self.lost}: {self.said()}"

    def close(self) -> None:
        """End what runs: consumers that were started late wait for another producer."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(30)
        self._running.clear()
