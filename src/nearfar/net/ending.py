"""The end of the program, for threads that are left behind; and the end of a service, for its program."""

from __future__ import annotations

import threading
from collections.abc import Callable


def left_behind() -> bool:
    """Whether this is a daemon thread of a program that has ended: only `atexit` still runs, elsewhere.

    What it waits for may never come, and nobody wants to hear of that: a call raises `SystemExit` then, which
    ends the thread without a word, and lets go of what it holds.
    """
    main = threading.main_thread()
    return not main.is_alive() and threading.current_thread() is not main


def on_service_failure(tell: Callable[[str], object]) -> None:
    """Have `tell` called with a sentence when the loop of any service in this process has ended by an error,
    in that service's thread."""
    _told.append(tell)


def service_failed(sentence: str) -> None:
    """The loop of a service has ended by an error."""
    for tell in _told:
        tell(sentence)


_told: list[Callable[[str], object]] = []
