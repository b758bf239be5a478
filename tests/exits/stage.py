"""The environment of one cell: a folder, an address, its processes; and its leftovers.

Every process started here has a mark in its environment, which its descendants inherit, so that all are
found. Their output goes to files. Times are for an idle machine: `SLACK` is added.
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.download.trade.gate import Gate
from tests.support.routes import content
from tests.support.shell import ROOT, alive
from tests.support.web import Web

SLACK = 8.0
"""Seconds that a busy machine may add to any deadline."""
PATIENCE = 80.0
"""Seconds until a phase must be reached."""
GONE_WITHIN = 2.0
"""Seconds after the end of a program until none of its children may be there, however it ended."""
FILES = 60
BEFORE_GATE = 30
"""Of the files, those that are served before the gate."""
MARK = "NEARFAR_CELL"
MANIFEST = ".nearfar.sqlite"


QUIET = ("-W", "ignore:This process:DeprecationWarning")
"""From Python 3.12 on, a fork beside threads warns; some scripts do just that."""


class Actor:
    """A process of the cell, and its output."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], said: Path) -> None:
        self.name = name
        self.process = process
        self.pid = process.pid
        self._said = said
        self._caught = False

    def text(self, which: str) -> str:
        """Its output to ``out`` or ``err``; a terminal gets both."""
        path = self._said.with_suffix(f".{which}")
        return path.read_text(errors="replace") if path.exists() else ""

    def says(self, words: str) -> None:
        """Wait until it has printed these words, anywhere."""
        assert until(lambda: words in self.text("out") + self.text("err") or not self.runs(), PATIENCE)
        assert words in self.text("out") + self.text("err"), self.report()

    def runs(self) -> bool:
        return self.process.poll() is None

    def has_started(self) -> bool:
        """Whether Python has started: it catches SIGINT until the program, which then loads more, changes
        that."""
        with suppress(OSError):
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            masks = [int(line.partition(":")[2], 16) for line in lines if line.startswith("SigCgt")]
            catches = bool(masks[0] >> (signal.SIGINT - 1) & 1)
            self._caught |= catches
            return (self._caught and not catches) or "/_json." in Path(f"/proc/{self.pid}/maps").read_text()
        return False

    def signal(self, signum: int, *, group: bool = False) -> None:
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, signum)

    def ends_within(self, seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return not self.runs()

    def dump(self) -> None:
        """End it with every thread's stack in its output."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGABRT)
        self.ends_within(5.0)

    def report(self) -> str:
        said = "".join(f"\n  {which}| {line}" for which in ("out", "err") for line in self._lines(which))
        return f"{self.name}: exit code {self.process.poll()}{said}"

    def _lines(self, which: str) -> list[str]:
        return self.text(which).splitlines()[-60:]


class Stage:
    """A context manager, which kills all its processes and removes its folder."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(8)
        self.folder = Path(tempfile.mkdtemp(prefix="x"))
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()
        self.queue = f"ipc://{self.folder}/q"
        self.pool = f"ipc://{self.folder}/p"
        self.actors: list[Actor] = []
        self.web: Web | None = None
        self.gate: Gate | None = None

    # -- what is there ---------------------------------------------------------------------------

    def program(self, *words: str, **how: str) -> Actor:
        """``python -m nearfar`` with these words."""
        return self.python("-m", "nearfar", *words, name=words[0], **how)

    def python(self, *words: str, name: str, out: str = "", err: str = "", tty: str = "") -> Actor:
        """Python with these words; `out` and `err` may be closed, full, or broken (a pipe without a
        reader)."""
        number = len(self.actors)
        said = self.folder / f"{number}-{name}"
        command = [sys.executable, "-X", "faulthandler", *QUIET, *words]
        if tty:
            command = ["setsid", "--ctty", *command]
            streams = [int(tty), int(tty)]
        else:
            streams = [
                self._stream(how, said.with_suffix(f".{of}")) for how, of in ((out, "out"), (err, "err"))
            ]
        for closed, descriptor in ((out, 1), (err, 2)):
            if closed == "closed":
                command = ["sh", "-c", f'exec "$@" {descriptor}>&-', "sh", *command]
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | {MARK: self.mark, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)},
            stdin=int(tty) if tty else subprocess.DEVNULL,
            stdout=streams[0],
            stderr=streams[1],
            process_group=None if tty else 0,
        )
        for stream in streams:
            if not tty:
                os.close(stream)
        self.actors.append(Actor(name, process, said))
        return self.actors[-1]

    def _stream(self, how: str, path: Path) -> int:
        if how == "broken":
            reading, writing = os.pipe()
            os.close(reading)
            return writing
        target = {"full": "/dev/full", "closed": os.devnull}.get(how, str(path))
        return os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def serve(self, *, held: bool = True) -> str:
        """Serve the files, and return their list; held: the rest only after `open`."""
        self.web = Web()
        for number in range(FILES):
            self.web.routes[f"/{number:02}.bin"] = content(body(number))
        if held:
            self.gate = Gate(self.web, after=BEFORE_GATE)
        links = self.folder / "urls.txt"
        links.write_text("".join(f"{self.web.url(path)}\n" for path in self.web.routes))
        return str(links)

    def is_hosted(self, place: str) -> None:
        """Wait until a queue is hosted at an address."""
        path = Path(place.removeprefix("ipc://"))
        assert until(path.exists, PATIENCE), self.report()

    def open(self) -> None:
        if self.gate is not None:
            self.gate.open()

    def in_the_middle(self) -> None:
        """Wait until some files are saved, and others are being fetched."""
        assert self.gate is not None
        assert self.gate.reached.wait(PATIENCE) and until(lambda: len(self.saved()) >= 5, PATIENCE), (
            self.report()
        )

    def saved(self) -> dict[str, bytes]:
        """The files with final names."""
        return {path.name: path.read_bytes() for path in self.folder.glob("out/*.bin")}

    # -- what is left ----------------------------------------------------------------------------

    def processes(self, but: tuple[Actor, ...] = ()) -> list[int]:
        """All processes with the mark, except those actors' groups and sessions."""
        spared = {each.pid for each in but}
        return [pid for pid in self._marked() if not spared & {pid, *_kin(pid)}]

    def _marked(self) -> Iterator[int]:
        wanted = f"{MARK}={self.mark}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if wanted in path.read_bytes().split(b"\0") and alive(int(path.parent.name)):
                    yield int(path.parent.name)

    def files(self) -> list[str]:
        """Socket files and temporary files."""
        sockets = [path for path in self.folder.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
        temporary = [path for path in self.temporary.rglob("*") if path not in sockets]
        return [str(path.relative_to(self.folder)) for path in (*sockets, *temporary)]

    def drafts(self) -> list[str]:
        """The drafts and owner files."""
        return [path.name for path in self.folder.glob("out/.*") if not path.name.startswith(MANIFEST)]

    def report(self) -> str:
        return "\n".join(actor.report() for actor in self.actors)

    def kill_all(self) -> None:
        for pid in self._marked():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for actor in self.actors:
            actor.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open()
        self.kill_all()
        while list(self._marked()):  # those that were being started meanwhile
            self.kill_all()
        if self.web is not None:
            self.web.close()
        shutil.rmtree(self.folder)


def body(number: int) -> bytes:
    return f"file {number} ".encode() * 500


WHOLE = {f"{number:02}.bin": body(number) for number in range(FILES)}


def until(holds: Callable[[], bool], within: float, every: float = 0.02) -> bool:
    """Call `holds` `every` so many seconds, for up to `within` seconds, until it is true."""
    end = time.monotonic() + within
    while not holds():
        if time.monotonic() >= end:
            return False
        pause(every)
    return True


def pause(seconds: float) -> None:
    """Wait for a time that is part of the test, such as that between two signals."""
    select.poll().poll(int(seconds * 1000))


def _kin(pid: int) -> Iterator[int]:
    """The ancestors of a process, and its group."""
    with suppress(OSError):
        yield os.getpgid(pid)
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return
        yield pid
