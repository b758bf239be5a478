"""Runs jobs, each in a stage of its own and in bounded time, so that what hangs is reported, and not
suffered."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nearfar.contrast.job import Job
from nearfar.contrast.jobs import Batch
from nearfar.contrast.settings import Settings
from nearfar.contrast.stage import RESULT
from nearfar.demo.commands import postponed_signals
from nearfar.worker.life import lifeline

GRACE = 2.0
"""Seconds that a stage has to end once it has told its result."""
LOOK_EVERY = 0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: with a `result`, or with a `trouble`, which says what went wrong."""

    job: Job
    result: Any = None
    trouble: str = ""


@dataclass(slots=True)
class Stage:
    """One running job. Everything that it starts is in its process group."""

    job: Job
    folder: Path
    process: subprocess.Popen[bytes]
    ended: int
    """Readable when the process has ended."""
    lifeline: int
    until: float
    told: bool = field(default=False)

    def look(self, now: float) -> bool:
        """Whether it is over: ended, or out of time."""
        if not self.told and (self.folder / RESULT).exists():
            self.told = True
            self.until = min(self.until, now + GRACE)
        return now >= self.until or bool(select.select([self.ended], [], [], 0)[0])

    def clear(self) -> None:
        """Kill what is left of it, and remove its files."""
        # Before its leader is waited for: from then on, the group's number might be another one's.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.ended)
        os.close(self.lifeline)
        shutil.rmtree(self.folder, ignore_errors=True)

    def outcome(self, limit: float) -> Outcome:
        """What it said, before it is cleared."""
        with suppress(FileNotFoundError):
            return Outcome(self.job, json.loads((self.folder / RESULT).read_text(encoding="utf-8")))
        said = (self.folder / "said").read_text(encoding="utf-8", errors="replace").strip()
        last = f": {said.splitlines()[-1]}" if said else ""
        if select.select([self.ended], [], [], 0)[0]:
            return Outcome(self.job, trouble=f"failed{last}")
        return Outcome(self.job, trouble=f"stuck for {limit:g} s{last}")


class Runner:
    """Use it as a context manager, in the main thread; leaving it kills what still runs.

    If it is itself killed, the kernel kills its stages; their temporary folders stay.
    """

    def __init__(self, settings: Settings, note: Callable[[Outcome], None]) -> None:
        """`note` is told each outcome as it comes."""
        self._settings = settings
        self._note = note
        self._running: list[Stage] = []

    def run(self, batch: Batch) -> list[Outcome]:
        """All jobs of the batch, in its width."""
        waiting = deque(batch.jobs)
        outcomes = []
        while waiting or self._running:
            while waiting and len(self._running) < batch.width:
                with postponed_signals():  # or one would fall between a process and the note of it
                    self._running.append(self._start(waiting.popleft()))
            select.select([stage.ended for stage in self._running], [], [], LOOK_EVERY)
            now = time.monotonic()
            for stage in [stage for stage in self._running if stage.look(now)]:
                outcomes.append(stage.outcome(self._settings.limit))
                with postponed_signals():
                    self._running.remove(stage)
                    stage.clear()
                self._note(outcomes[-1])
        return outcomes

    def _start(self, job: Job) -> Stage:
        folder = Path(tempfile.mkdtemp(prefix="nearfar-contrast-"))
        theirs, ours = lifeline()
        order = {
            "job": asdict(job),
            "settings": asdict(self._settings),
            "folder": str(folder),
            "lifeline": theirs,
        }
        with (folder / "said").open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "nearfar.contrast.stage", json.dumps(order)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=[theirs],
                start_new_session=True,
            )
        os.close(theirs)
        until = time.monotonic() + self._settings.limit
        return Stage(job, folder, process, os.pidfd_open(process.pid), ours, until)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with postponed_signals():
            while self._running:
                self._running.pop().clear()
