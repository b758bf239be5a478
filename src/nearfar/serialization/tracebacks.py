"""Errors in words, for a way on which they cannot travel as themselves; and one error for many calls."""

from __future__ import annotations

import copy
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from typing import Any


def described(error: Any) -> tuple[str, str]:
    """The kind of an error (``module.name``) and what it says."""
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    # join: what str() gives may be of a subclass of str, which would not travel.
    return kind, "".join(quietly(lambda: str(error), "<its str() raises>"))


_place = ""


def set_place(place: str) -> None:
    """Called once, by a worker's process: where the tracebacks of this process come from."""
    global _place
    _place = f"In {place}:\n"


def traceback_of(error: BaseException) -> str:
    """Its traceback as Python prints it; empty where that cannot be had. Never raises.

    In a worker, a line before it says where. Warnings of the formatting itself are dropped: Python 3.15 gives
    one about the main module of a spawned process.
    """
    with warnings.catch_warnings() if sys.version_info >= (3, 15) else nullcontext():
        if sys.version_info >= (3, 15):
            warnings.simplefilter("ignore")
        text = quietly(lambda: "".join(traceback.format_exception(error)), "")
    return f"{_place}{text}" if text else ""


def with_traceback(error: BaseException, text: Any) -> BaseException:
    """`error`, whose `__cause__` shows the traceback `text`, if there is one, as the standard's pool does."""
    if isinstance(text, str) and text:
        cause = RemoteTraceback(f'\n"""\n{text}"""')
        quietly(lambda: setattr(error, "__cause__", cause), None)
    return error


def anew(error: BaseException) -> BaseException:
    """An exception of the same type that says the same, for one more call.

    Each `raise` of an exception object adds to its traceback, which keeps alive what the callers' frames
    hold: so no two calls get the same object. One that cannot be copied is returned itself.
    """
    made = quietly(lambda: copy.copy(error), None)
    if type(made) is not type(error):
        return error
    made.__cause__, made.__suppress_context__ = error.__cause__, error.__suppress_context__
    return made


def quietly(do: Callable[[], Any], otherwise: Any) -> Any:
    """What `do` returns, or `otherwise` where the user's code, which it runs, raises."""
    try:
        return do()
    except (Exception, SystemExit):
        return otherwise
