"""Raises at a chosen bytecode of nearfar's code in this thread, as another thread or a signal may."""

from __future__ import annotations

import ctypes
import dis
import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import nearfar
from nearfar.net import interrupts

set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
SOURCE = str(Path(nearfar.__file__).parent)


class Struck(Exception):
    """The injected error. An `Exception`, like `TimeoutError`: no `except Exception` may handle it as its
    own."""


class Where(NamedTuple):
    """A bytecode, before which something was raised."""

    function: str
    line: int
    opcode: str


class Strike:
    """Calls `act` before the `nth` bytecode, from 1, of nearfar's code in this thread, once it is armed.

    Since Python 3.12 by `sys.monitoring`: there a trace function sees a part of the bytecodes only.
    """

    def __init__(self, nth: int, act: Callable[[], object]) -> None:
        self.left = nth
        self.where = Where("", 0, "")
        self._act = act
        self._thread = threading.get_ident()

    def arm(self) -> None:
        gc.disable()  # or it might strike in a finalizer, which would swallow it
        if sys.version_info < (3, 12):
            sys.settrace(self._trace)
        else:
            monitoring = sys.monitoring
            monitoring.use_tool_id(TOOL, "injector")
            monitoring.register_callback(TOOL, monitoring.events.INSTRUCTION, self._instruction)
            monitoring.set_events(TOOL, monitoring.events.INSTRUCTION)

    def disarm(self) -> None:
        if sys.version_info < (3, 12):
            sys.settrace(None)
        elif sys.monitoring.get_tool(TOOL) is not None:
            sys.monitoring.set_events(TOOL, 0)
            sys.monitoring.register_callback(TOOL, sys.monitoring.events.INSTRUCTION, None)
            sys.monitoring.free_tool_id(TOOL)
        gc.enable()

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "call":
            if not frame.f_code.co_filename.startswith(SOURCE):
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode":
            self._count(frame.f_code, frame.f_lasti, frame.f_lineno)
        return self._trace

    def _instruction(self, code: CodeType, offset: int) -> Any:
        if not code.co_filename.startswith(SOURCE):
            return sys.monitoring.DISABLE  # type: ignore[attr-defined,unused-ignore]
        if threading.get_ident() == self._thread:
            self._count(code, offset, code.co_firstlineno)
        return None

    def _count(self, code: CodeType, offset: int, line: int | None) -> None:
        opcode = dis.opname[code.co_code[offset]]
        if opcode in NEVER:
            return
        self.left -= 1
        if self.left == 0:
            self.where = Where(code.co_qualname, line or 0, opcode)
            self.disarm()
            self._act()


NEVER = frozenset({"NOT_TAKEN", "PUSH_EXC_INFO", "COPY", "POP_EXCEPT"})
"""Bytecodes at which only a tracer can raise. At the first (of Python 3.14), no `except` is in force. The
others begin and end a handler: if something is raised there, CPython never frees the exception in hand."""
TOOL = 4
"""By which the injector is known to `sys.monitoring`."""


def strike() -> None:
    """What `PyThreadState_SetAsyncExc` does, at any bytecode."""
    raise Struck


def alarm() -> None:
    """Send a signal whose handler raises (see `alarmed`)."""
    signal.raise_signal(signal.SIGALRM)


def struck(nth: int, act: Callable[[], object], do: Callable[[], object]) -> tuple[bool, Strike]:
    """Call `do`, with a strike at its `nth` bytecode: whether `Struck` came out of it."""
    blow = Strike(nth, act)
    blow.arm()
    try:
        do()
    except Struck:
        return True, blow
    finally:
        blow.disarm()
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
    set_async_exc(ctypes.c_ulong(thread), ctypes.py_object(error))


def handle_alarm(*_: object) -> None:
    raise Struck


def striking(kind: str, monkeypatch: Any) -> Iterator[Callable[[], object]]:
    """For a fixture: the interruption, an exception at any bytecode, or (`kind` "signal") a signal
    handler."""
    if kind != "signal":
        yield strike
        return
    hide_tracer(monkeypatch)
    before = signal.signal(signal.SIGALRM, handle_alarm)
    yield alarm
    signal.signal(signal.SIGALRM, before)


def hide_tracer(monkeypatch: Any) -> None:
    """Have traced code behave as untraced code, so that signals, which it would delay, interrupt it."""
    monkeypatch.setattr(interrupts, "_tracer", lambda: None)
    monkeypatch.setattr(interrupts, "_HAS_MONITORING", False)
    monkeypatch.setattr(interrupts, "_raiser_is_in_use", bool)
