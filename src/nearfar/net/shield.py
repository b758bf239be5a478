"""Signals held back for a moment, so that no handler tears what the main thread is in the middle of."""

from __future__ import annotations

import os
import signal
import sys
import threading
from _signal import getsignal as get_handler
from _signal import signal as set_handler
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any, Self, TypeVar

T = TypeVar("T")

# Straight from C, in every step of every pool: what `signal` adds is to make enums of numbers, at 1 us each.

_SIGINT = int(signal.SIGINT)
_NUMBERS = sorted(int(number) for number in signal.valid_signals())
_SYSTEMS = frozenset((None, int(signal.SIG_DFL), int(signal.SIG_IGN)))
"""What stands in place of a handler that is not Python's."""
_ident = threading.get_ident


class _Guard:
    """Stands in place of one signal's handler: notes the signal while the shield is up, and else hands it on.

    A guard that an exception left in its place is therefore as good as the handler itself.
    """

    __slots__ = ("handler", "number")

    def __init__(self, number: int, handler: Any) -> None:
        self.number = number
        self.handler = handler

    def __call__(self, signum: int, frame: FrameType | None) -> object:
        if _state.up:
            if self not in _state.came:
                _state.came.append(self)
            return None
        _state.complete = False  # the handler may set other handlers
        if get_handler(signum) is self:
            set_handler(signum, self.handler)
        return self.run(frame)

    def run(self, frame: FrameType | None) -> object:
        """Do what the signal is there for, whose turn it is now."""
        if callable(self.handler):  # not sent again: a `set_wakeup_fd` has heard of it
            return self.handler(self.number, frame)
        signal.raise_signal(self.number)
        return None


class _State:
    """Of the main thread; there is only one."""

    __slots__ = ("came", "complete", "depth", "found", "guards", "thread", "up")

    def __init__(self) -> None:
        self.thread = threading.main_thread().ident
        self.up = False
        """Whether signals are noted. From when this is set, nothing can be raised by a handler."""
        self.depth = 0
        self.complete = False
        """Whether every handler has a guard in its place."""
        self.found: list[Any] = []
        """The handlers as they were when the guards were made: while they stay, the guards do."""
        self.guards: tuple[_Guard, ...] = ()
        self.came: deque[_Guard] = deque()


_state = _State()


class Shield:
    """A context manager: inside, the handlers of all signals wait until its end. For the main thread.

    Python runs signal handlers in the main thread, between any two steps of it, and each may raise. A signal
    that nobody handles is not held back: it does what the system does with it. An exception of a handler
    comes before the first step inside, or after the last one; all shields are one, however many objects.
    """

    __slots__ = ()

    def __enter__(self) -> Self:
        if _ident() == _state.thread:
            if _state.up:
                _state.depth += 1
            else:
                _raise_shield(1)
        return self

    def __exit__(self, *_: object) -> None:
        if _state.up and _ident() == _state.thread:
            if _state.depth > 1:
                _state.depth -= 1
            else:
                _drop_shield(sys._getframe(1))

    def lower(self) -> int:
        """Let signals through until `lift`, however deep this is; raises what their handlers raise."""
        if not _state.up or _ident() != _state.thread:
            return 0
        depth = _state.depth
        _state.up = False
        if _state.came:
            try:
                _deliver(sys._getframe(1))
            except BaseException:
                self.lift(depth)
                raise
        return depth

    def lift(self, depth: int) -> None:
        """Hold signals back again, as before `lower` gave this; so it is, too, when a handler raises here."""
        if depth:
            try:
                _raise_shield(depth)
            finally:
                if not _state.up:
                    self.lift(depth)

    def let_through(self, do: Callable[..., T], *given: object) -> T:
        """What `do` returns; meanwhile signals come through, and what their handlers raise is raised.

        A function of its own: where one `try` stands in another, the step at which the inner one begins
        belongs to neither, and an exception there would leave out what the outer one has to do.
        """
        depth = self.lower()
        try:
            return do(*given)
        finally:
            self.lift(depth)

    def forget_parent(self) -> None:
        """In a child that was forked meanwhile: its main thread may be another, which never comes out."""
        _forget_parent()


def _raise_shield(depth: int) -> None:
    try:
        if not _state.complete:
            _place_guards()
        _state.depth = depth
        _state.up = True
    except BaseException:
        if not _state.up:
            _remove_guards()
        raise


def _drop_shield(frame: FrameType) -> None:
    # Of what follows, anything may be left undone by what a handler raises: the rest is done all the same.
    _state.up = False
    try:
        _remove_guards()
    finally:
        if _state.came:
            _deliver(frame)


def _place_guards() -> None:
    found = list(map(get_handler, _NUMBERS))
    if found != _state.found:  # seldom: programs set their handlers once
        _state.guards = tuple(
            _Guard(number, handler.handler if type(handler) is _Guard else handler)
            for number, handler in zip(_NUMBERS, found, strict=True)
            if handler not in _SYSTEMS or (number == _SIGINT and handler is not None)
        )
        _state.found = found
    for guard in _state.guards:
        set_handler(guard.number, guard)
    _state.complete = True


def _remove_guards() -> None:
    _state.complete = False
    for guard in _state.guards:
        if get_handler(guard.number) is guard:
            set_handler(guard.number, guard.handler)


def _deliver(frame: FrameType | None) -> None:
    """As if they came behind the shield: the frame they came in would keep alive all it had in hand."""
    while _state.came:
        guard = _state.came.popleft()
        try:
            guard.run(frame)
        finally:
            _deliver(frame)


def _forget_parent() -> None:
    _state.thread = threading.main_thread().ident
    _state.up, _state.depth = False, 0
    _state.came.clear()
    _remove_guards()


os.register_at_fork(after_in_child=_forget_parent)
