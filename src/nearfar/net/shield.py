"""Ctrl-C and SIGTERM held back for a moment, so that it never tears what a thread is in the middle of."""

from __future__ import annotations

import signal
import sys
import threading
from _signal import getsignal as get_handler
from _signal import signal as set_handler
from types import FrameType
from typing import Any, Self

# Straight from C, in every step of every pool: what `signal` adds is to make enums of numbers, at 1 us each.

_SIGINT = int(signal.SIGINT)
_SIGNALS = (_SIGINT, int(signal.SIGTERM))
_main_thread = threading.main_thread
_ident = threading.get_ident


class Shield:
    """A context manager: inside, SIGINT and SIGTERM wait until its end. Only the main thread needs it.

    Python runs signal handlers in the main thread, between any two steps of it; the usual one of SIGINT
    raises KeyboardInterrupt there. Once `signal.signal` has returned, a signal that came before runs the
    new handler. A SIGTERM that nobody handles is not held back: it ends the process.
    """

    __slots__ = ("_before", "_came", "_depth")

    def __init__(self) -> None:
        self._before: list[tuple[int, Any]] = []
        self._came: list[int] = []
        self._depth = 0

    def __enter__(self) -> Self:
        if _ident() != _main_thread().ident:
            return self
        self._depth += 1
        if self._depth > 1:
            return self
        for number in _SIGNALS:
            handler = get_handler(number)
            if callable(handler) or (number == _SIGINT and handler is not None):
                self._before.append((number, handler))
                set_handler(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._depth or _ident() != _main_thread().ident:
            return
        self._depth -= 1
        if self._depth:
            return
        before, self._before = self._before, []
        for number, handler in before:
            set_handler(number, handler)
        if self._came:
            came, self._came = self._came, []
            self._deliver(dict(before), came)

    def lower(self) -> int:
        """Let signals through until `lift`, however deep this is; raises what their handlers raise."""
        if not self._depth or _ident() != _main_thread().ident:
            return 0
        depth, self._depth = self._depth, 1
        try:
            self.__exit__()
        except BaseException:
            self.lift(depth)
            raise
        return depth

    def lift(self, depth: int) -> None:
        """Hold signals back again, as before `lower` gave this."""
        if depth:
            self.__enter__()
            self._depth = depth

    def forget_parent(self) -> None:
        """In a child that was forked meanwhile: its main thread may be another, which never comes out."""
        before, self._before, self._depth = self._before, [], 0
        for number, handler in before:
            set_handler(number, handler)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if signum not in self._came:
            self._came.append(signum)

    @staticmethod
    def _deliver(handlers: dict[int, Any], came: list[int]) -> None:
        """As if they came behind the shield: the frame they came in would keep alive all it had in hand."""
        for number in came:
            if callable(handlers[number]):  # not sent again: a `set_wakeup_fd` has heard of it
                handlers[number](number, sys._getframe(2))
            else:
                signal.raise_signal(number)
