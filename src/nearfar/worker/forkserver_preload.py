"""Imported by the server that forks a program's workers: it hears neither SIGTERM nor SIGHUP, nor do they.

Service managers, and timeout(1), send SIGTERM to every process of a program, and the kernel SIGHUP when a
terminal is closed. It asks the program to finish what is in hand, which it could not without its workers.
"""

from __future__ import annotations

import os
import signal

UNHEARD = (signal.SIGTERM, signal.SIGHUP)

for _signum in UNHEARD:
    signal.signal(_signum, signal.SIG_IGN)


def stay_deaf() -> None:
    """In a worker: go on so, but for its children, whom others may stop as they are used to."""
    for signum in UNHEARD:
        # A handler that does nothing: a program that is executed is not deaf, as it would be with SIG_IGN.
        signal.signal(signum, lambda signum, frame: None)
    os.register_at_fork(after_in_child=_hear_again)


def _hear_again() -> None:
    for signum in UNHEARD:
        signal.signal(signum, signal.SIG_DFL)
