"""Ctrl-C held back for a moment, so that it never tears what a thread is in the middle of."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Shield:
    """A context manager: inside, SIGINT waits until its end. Not reentrant; only the main thread needs it.

    Python runs signal handlers in the main thread, between any two steps of it; the usual one of SIGINT
    raises KeyboardInterrupt there. Once `signal.signal` has returned, a signal that came before runs the
    new handler.
    """

    __slots__ = ("_before", "_came")

    def __init__(self) -> None:
        self._before: Any = None
        self._came: tuple[FrameType | None] | None = None

    def __enter__(self) -> None:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is not None
        ):
            self._came = None
            self._before = signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        before = self._before
        if before is None:
            return
        self._before = None
        signal.signal(signal.SIGINT, before)
        if self._came is not None:
            if callable(before):  # not sent again: whoever listens with `set_wakeup_fd` has heard of it
                before(signal.SIGINT, *self._came)
            else:
                signal.raise_signal(signal.SIGINT)

    def forget_parent(self) -> None:
        """In a child that was forked meanwhile: its main thread may be another, which never comes out."""
        before, self._before = self._before, None
        if before is not None:
            signal.signal(signal.SIGINT, before)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._came = (frame,)
