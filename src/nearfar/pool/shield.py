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
        self._came = False

    def __enter__(self) -> None:
        if _ident() == _main_thread().ident and get_handler(_SIGINT) is not None:
            self._came = False
            self._before = set_handler(_SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        before = self._before
        if before is not None:
            self._before = None
            set_handler(_SIGINT, before)
            if self._came:
                signal.raise_signal(_SIGINT)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._came = True
