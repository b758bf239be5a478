"""What the pools run: a module that workers elsewhere can import."""

from __future__ import annotations

import os
import signal
import time


def same(value: int) -> int:
    """The cheapest call there is."""
    return value


def pid(value: int) -> int:
    """Which process this is; slow enough that every idle worker gets one."""
    time.sleep(0.02)
    return os.getpid()


def work_or_die(number: int) -> int:
    """Ten milliseconds of work; 7 kills its worker in the middle."""
    time.sleep(0.005)
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.005)
    return number
