"""Errors as text, if they cannot be sent as themselves; tracebacks; and copies of an error for many calls."""

from __future__ import annotations

import copy
import struct
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from typing import Any


def described(error: Any) -> tuple[str, str]:
    """The kind of an error (``module.name``) and its message."""
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    # join: str() may return a subclass of str, which could not be sent.
    return kind, "".join(quietly(lambda: str(error), "<its str() raises>"))


_place = ""


def set_place(place: str) -> None:
    """Set the text that tells where tracebacks come from. Called once, by a worker's process."""
    global _place
    _place = f"In {place}:\n"


def traceback_of(error: BaseException) -> str:
    """The traceback of `error` as Python prints it; empty if it cannot be formatted. Never raises.

    In a worker, a line with its place precedes it. Warnings of the formatting itself are dropped: Python 3.15
    issues one about the main module of a spawned process.
    """
    with warnings.catch_warnings() if sys.version_info >= (3, 15) else nullcontext():
        if sys.version_info >= (3, 15):
            warnings.simplefilter("ignore")
        text = quietly(lambda: "".join(traceback.format_exception(error)), "")
    return f"{_place}{text}" if text else ""


def with_traceback(error: BaseException, text: Any) -> BaseException:
    """`error`, whose `__cause__` shows the traceback `text`, if any, as in `multiprocessing.Pool`."""
    if isinstance(text, str) and text:
        cause = RemoteTraceback(f'\n"""\n{text}"""')
        quietly(lambda: setattr(error, "__cause__", cause), None)
    return error


_HEAD = struct.Struct("!?I")
"""Before the pickle of an error: whether the text that follows is a traceback, and its bytes."""


def prefixed(error: BaseException, traceback_text: str, blob: bytes) -> bytes:
    """`blob` after the traceback of `error`; if that is empty, after its kind and message.

    So what only reports errors, such as a coordinator's dashboard, reads no pickle (`text_of`).
    """
    text = (traceback_text or ": ".join(described(error))).encode(errors="surrogatepass")
    return b"".join((_HEAD.pack(bool(traceback_text), len(text)), text, blob))


def split(blob: bytes | memoryview) -> tuple[str, bytes | memoryview]:
    """The traceback, or nothing, and the blob that `prefixed` got. Raises `ValueError` for anything else."""
    if len(blob) < _HEAD.size:
        raise ValueError("too short")
    is_traceback, size = _HEAD.unpack_from(blob)
    text, rest = blob[_HEAD.size : _HEAD.size + size], blob[_HEAD.size + size :]
    if len(text) != size:
        raise ValueError("cut off")
    return bytes(text).decode(errors="surrogatepass") if is_traceback else "", rest


def text_of(blob: bytes | memoryview, longest: int = 20_000) -> str:
    """The text in front of an error, for a report; of a long one, the end. Never raises."""
    try:
        _, size = _HEAD.unpack_from(blob)
    except struct.error:
        return "an error that cannot be read"
    text = blob[_HEAD.size : _HEAD.size + size]
    return bytes(text[-longest:]).decode(errors="replace") or "an error without a text"


def anew(error: BaseException) -> BaseException:
    """A copy of the exception, for one more call.

    Each `raise` of an exception object adds to its traceback, which keeps the objects in the callers' frames
    alive: so no two calls get the same object. One that cannot be copied is returned itself.
    """
    made = quietly(lambda: copy.copy(error), None)
    if type(made) is not type(error):
        return error
    made.__cause__, made.__suppress_context__ = error.__cause__, error.__suppress_context__
    return made


def quietly(do: Callable[[], Any], otherwise: Any) -> Any:
    """What `do` returns, or `otherwise` if the user's code that it runs raises."""
    try:
        return do()
    except (Exception, SystemExit):
        return otherwise
