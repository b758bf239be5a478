"""The end of the program, for threads that are left behind."""

from __future__ import annotations

import threading


def left_behind() -> bool:
    """Whether this is a daemon thread of a program that has ended: only `atexit` still runs, elsewhere.

    What it waits for may never come, and nobody wants to hear of that: a call raises `SystemExit` then, which
    ends the thread without a word, and lets go of what it holds.
    """
    main = threading.main_thread()
    return not main.is_alive() and threading.current_thread() is not main
