"""Functions of the caller's that a pool runs: what one of them raises must not end the pool's own work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["call_back", "in_main_thread"]

log = logging.getLogger("nearfar.pool")


def call_back(what: str, function: Callable[..., object], *args: Any) -> None:
    """Call ``function(*args)``, and log what it raises; `what` names it there, such as ``callback``.

    In the main thread, `KeyboardInterrupt`, `SystemExit` and the like pass: Ctrl-C and `sys.exit` are for the
    program. In another thread they are logged as well, for they would only end that thread: the one that does
    the pool's work, perhaps.
    """
    try:
        function(*args)
    except BaseException as error:
        if not isinstance(error, Exception) and in_main_thread():
            raise
        log.exception("%s %r raised", what, function)


def in_main_thread() -> bool:
    """Whether this is the thread in which Python runs the handlers of signals."""
    return threading.current_thread() is threading.main_thread()
