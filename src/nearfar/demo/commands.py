"""nearfar's own commands as child processes, as a user would start them in other terminals."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from types import TracebackType
from typing import IO, Self

from nearfar.demo.trouble import Trouble
from nearfar.worker import life

LONGEST = 60.0
"""Seconds that a command of the demo may take."""

PLACE = re.compile(r"queue at ([a-z]+://[^\s,]+)")
POOL = re.compile(r"(?:coordinating at|working for) ([a-z]+://[^\s,]+)")


@dataclass(frozen=True, slots=True)
class End:
    """How a command ended."""

    code: int
    printed: str
    said: str
    """What it wrote to standard error."""


class Command:
    """One program at work, for the time of a ``with`` block: whatever ends the block, or this process, kills
    it."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self._heard = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def address(self) -> str:
        """Where its queue is, once it says so. Raises `Trouble` when it ends instead."""
        return self._told("queue", self._process.stderr, PLACE)

    def pool(self) -> str:
        """Where its pool is, once it is ready. Raises `Trouble` when it ends instead."""
        return self._told("pool", self._process.stdout, POOL)

    def _told(self, what: str, stream: IO[str] | None, place: re.Pattern[str]) -> str:
        assert stream is not None
        while select.select([stream], [], [], LONGEST)[0]:
            line = stream.readline()
            self._heard += line
            if found := place.search(line):
                return found[1]
            if not line:
                break
        raise Trouble(f"{typed(*self.words)}\nnames no {what}: {self._heard.strip() or 'it says nothing'}")

    def ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> End:
        """Wait for it. Raises `Trouble` when it takes too long."""
        try:
            printed, said = self._process.communicate(timeout=LONGEST)
        except TimeoutExpired:
            raise Trouble(f"{typed(*self.words)}\nhas not ended within {LONGEST:g} seconds") from None
        return End(self._process.returncode, printed, self._heard + said)

    def kill(self) -> None:
        """``kill -9``: it gets no chance to say or save anything more."""
        self._process.kill()

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "nearfar", *self.words]
        theirs, self._lifeline = life.lifeline()
        with ExitStack() as undo:
            undo.callback(os.close, self._lifeline)
            with postponed_signals():
                try:
                    self._process = Popen(
                        command,
                        stdin=DEVNULL,
                        stdout=PIPE,
                        stderr=PIPE,
                        text=True,
                        errors="replace",
                        pass_fds=[theirs],
                        preexec_fn=partial(life.hang_on, theirs),
                    )
                finally:
                    os.close(theirs)
                undo.pop_all()
                undo.push(self)
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with postponed_signals():
            self._process.kill()
            self._process.communicate()
            os.close(self._lifeline)


@contextmanager
def postponed_signals() -> Iterator[None]:
    """Let a signal take effect at the end of the block: in the middle of it, it would leave an orphan."""
    came: list[int] = []
    before = {
        signum: signal.signal(signum, lambda signum, frame: came.append(signum))
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(signum) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    for number in came:
        signal.raise_signal(number)


def typed(*words: str) -> str:
    """What a user types, in this folder, to run a program of the nearfar that is running now."""
    installed = Path(sys.executable).with_name("nearfar")
    found = shutil.which("nearfar")
    if found is not None and Path(found) == installed:
        command = ["nearfar"]
    elif installed.is_file():
        command = [str(below_here(installed))]
    else:
        command = [Path(sys.executable).name, "-m", "nearfar"]
    return shlex.join([*command, *words])


def below_here(path: Path) -> Path:
    """`path` from the working directory, if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


class Stopwatch:
    """Seconds of a ``with`` block."""

    seconds = 0.0

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._started
