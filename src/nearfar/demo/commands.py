"""The commands of nearfar as child processes, as a user would start them in other terminals."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from types import TracebackType
from typing import IO, NamedTuple, Self

from nearfar.net.interrupts import Shield
from nearfar.worker.lifetime import hang_on, lifeline

LONGEST = 60.0
"""Seconds that a command of the demo may take."""
QUEUE_AT = re.compile(r"queue at ([a-z]+://[^\s,]+)")
POOL_AT = re.compile(r"(?:coordinating at|working for) ([a-z]+://[^\s,]+)")


class DemoError(Exception):
    """The demo cannot continue. Its message says why."""


class CommandResult(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


class Command:
    """A program of nearfar that runs for the time of a ``with`` block.

    The end of the block kills it, and so does the end of this process, in whatever way it comes.
    """

    def __init__(self, *words: str) -> None:
        self.words = words
        self._read = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def queue_address(self) -> str:
        """Where its queue is, once it has printed it. Raises `DemoError` if it ends before."""
        return self._wait_for("queue", self._process.stderr, QUEUE_AT)

    def pool_address(self) -> str:
        """Where its pool is, once it is ready. Raises `DemoError` if it ends before."""
        return self._wait_for("pool", self._process.stdout, POOL_AT)

    def _wait_for(self, what: str, stream: IO[str] | None, pattern: re.Pattern[str]) -> str:
        assert stream is not None
        while select.select([stream], [], [], LONGEST)[0]:
            line = stream.readline()
            self._read += line
            if found := pattern.search(line):
                return found[1]
            if not line:
                break
        raise DemoError(
            f"{typed(*self.words)}\nprinted no address of a {what}: {self._read.strip() or 'nothing'}"
        )

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self, who: str, code: int = 0) -> CommandResult:
        """Wait until it ends. Raises `DemoError` if that takes too long, or its exit code is not `code`."""
        try:
            stdout, stderr = self._process.communicate(timeout=LONGEST)
        except TimeoutExpired:
            raise DemoError(f"{typed(*self.words)}\nhas not ended within {LONGEST:g} seconds") from None
        ended = CommandResult(self._process.returncode, stdout, self._read + stderr)
        if ended.code != code:
            output = f"{ended.stdout}{ended.stderr}".rstrip()
            raise DemoError(f"{who} ended with exit code {ended.code} instead of {code}:\n{output}")
        return ended

    def kill(self) -> None:
        """Kill it with SIGKILL (kill -9): it cannot print or save anything more."""
        self._process.kill()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            with Shield():  # a signal takes effect once the process is registered with `undo`
                theirs, self._lifeline = lifeline()
                undo.callback(os.close, self._lifeline)
                try:
                    self._process = Popen(
                        [sys.executable, "-m", "nearfar", *self.words],
                        stdin=DEVNULL,
                        stdout=PIPE,
                        stderr=PIPE,
                        text=True,
                        errors="replace",
                        pass_fds=[theirs],
                        preexec_fn=partial(hang_on, theirs),
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
        with Shield():
            self._process.kill()
            self._process.communicate()
            os.close(self._lifeline)


def typed(*words: str) -> str:
    """What a user types, in this folder, to run a program of the nearfar that is running now."""
    installed = Path(sys.executable).with_name("nearfar")
    found = shutil.which("nearfar")
    if found is not None and Path(found) == installed:
        command = ["nearfar"]
    elif installed.is_file():
        here = Path.cwd()
        command = [str(installed.relative_to(here) if installed.is_relative_to(here) else installed)]
    else:
        command = [Path(sys.executable).name, "-m", "nearfar"]
    return shlex.join([*command, *words])
