"""Imported by the server that forks a program's workers: it does not hear SIGTERM, nor do they.

Service managers, and timeout(1), send that to every process of a program. It asks the program to finish what
is in hand, which it could not if its workers died of it.
"""

from __future__ import annotations

import os
import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)


def stay_deaf() -> None:
    """In a worker: go on so, but for its children, whom others may stop as they are used to."""
    # A handler that does nothing: a program that is executed is not deaf, as it would be with SIG_IGN.
    signal.signal(signal.SIGTERM, lambda signum, frame: None)
    os.register_at_fork(after_in_child=_hear_again)


def _hear_again() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
