"""The processes of one measurement."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from nearfar.contrast.transports.base import FORK


class Cast:
    """Started by fork; what is left of them at the end of the ``with`` block is killed, frozen or not."""

    def __init__(self) -> None:
        self._processes: list[BaseProcess] = []

    def start(self, role: Callable[..., object], *arguments: Any) -> int:
        """Run ``role(*arguments)`` in a process of its own, and return its pid."""
        process = FORK.Process(target=role, args=arguments, daemon=True)
        process.start()
        self._processes.append(process)
        assert process.pid is not None
        return process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


def strike(pid: int, signum: signal.Signals) -> None:
    """Send a signal to a process that may have gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signum)
