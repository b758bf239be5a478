"""Raises at a chosen bytecode of nearfar's code in this thread, as another thread or a signal may."""

from __future__ import annotations

import ctypes
import dis
import gc
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import nearfar
from nearfar.net import deputy

SOURCE = str(Path(nearfar.__file__).parent)


class Struck(Exception):
    """What strikes. An `Exception`, as `TimeoutError` is: no `except Exception` may take it for its own."""


class Where(NamedTuple):
    """A bytecode, before which something was raised."""

    function: str
    line: int
    opcode: str


class Strike:
    """A trace function that calls `act` before the `nth` bytecode, from 1, of nearfar's code."""

    def __init__(self, nth: int, act: Callable[[], object]) -> None:
        self.left = nth
        self.where = Where("", 0, "")
        self._act = act

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> Strike | None:
        if event == "call":
            if not frame.f_code.co_filename.startswith(SOURCE):
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode":
            self.left -= 1
            if self.left == 0:
                code = frame.f_code
                opcode = dis.opname[code.co_code[frame.f_lasti]]
                self.where = Where(code.co_qualname, frame.f_lineno, opcode)
                sys.settrace(None)
                self._act()
        return self


def strike() -> None:
    """What `PyThreadState_SetAsyncExc` does, at any bytecode."""
    raise Struck


def alarm() -> None:
    """A signal comes, whose handler raises (see `alarmed`)."""
    signal.raise_signal(signal.SIGALRM)


def struck(nth: int, act: Callable[[], object], do: Callable[[], object]) -> tuple[bool, Strike]:
    """Call `do`, with a strike at its `nth` bytecode: whether `Struck` came out of it."""
    blow = Strike(nth, act)
    before = sys.gettrace()
    gc.disable()  # or it might strike in a finalizer, which would swallow it
    sys.settrace(blow)
    try:
        do()
    except Struck:
        return True, blow
    finally:
        sys.settrace(before)
        gc.enable()
    return False, blow


def every(stride: int, act: Callable[[], object], do: Callable[[], object]) -> Iterator[tuple[bool, Where]]:
    """Call `do` again and again, with a strike at each `stride`th bytecode of it, to the last."""
    nth = 1
    while True:
        came, blow = struck(nth, act, do)
        if blow.left > 0:
            return
        yield came, blow.where
        nth += stride


def raise_in(thread: int, error: type[BaseException]) -> None:
    """Have `error` raised in another thread, wherever that is."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


def handle_alarm(*_: object) -> None:
    raise Struck


def hide_tracer(monkeypatch: Any) -> None:
    """Have code that is traced do what it does untraced: signals, which it holds back, are to strike."""
    monkeypatch.setattr(deputy, "_tracer", lambda: None)
    monkeypatch.setattr(deputy, "_WAYS", frozenset())
