"""Imported by the fork server of a program: it and the workers it forks ignore SIGTERM and SIGHUP.

Service managers, and timeout(1), send SIGTERM to every process of a program, and the kernel sends SIGHUP when
a terminal is closed. The program then finishes its running tasks, and needs its workers for that.
"""

from __future__ import annotations

import os
import signal

UNHEARD = (signal.SIGTERM, signal.SIGHUP)

for _signum in UNHEARD:
    signal.signal(_signum, signal.SIG_IGN)


def stay_deaf() -> None:
    """In a worker: keep ignoring them, but with the usual effect in its children."""
    for signum in UNHEARD:
        # A handler that does nothing: exec resets it in a child, where SIG_IGN would stay.
        signal.signal(signum, lambda signum, frame: None)
    os.register_at_fork(after_in_child=_hear_again)


def _hear_again() -> None:
    for signum in UNHEARD:
        signal.signal(signum, signal.SIG_DFL)
