"""Ctrl-C held back for a moment, so that it never tears what a thread is in the middle of."""

from __future__ import annotations

import signal
import threading
from _signal import getsignal as get_handler
from _signal import signal as set_handler
from types import FrameType
from typing import Any

# Straight from C, in every step of every pool: what `signal` adds is to make enums of numbers, at 1 us each.

_SIGINT = int(signal.SIGINT)
_main_thread = threading.main_thread
_ident = threading.get_ident


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
        if _ident() == _main_thread().ident and get_handler(_SIGINT) is not None:
            self._came = None
            self._before = set_handler(_SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        before = self._before
        if before is None:
            return
        self._before = None
        set_handler(_SIGINT, before)
        if self._came is not None:
            if callable(before):  # not sent again: whoever listens with `set_wakeup_fd` has heard of it
                before(_SIGINT, *self._came)
            else:
                signal.raise_signal(_SIGINT)

    def forget_parent(self) -> None:
        """In a child that was forked meanwhile: its main thread may be another, which never comes out."""
        before, self._before = self._before, None
        if before is not None:
            set_handler(_SIGINT, before)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._came = (frame,)
