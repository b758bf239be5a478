"""Which process this is, and on which machine: so that a host can see a death next to it at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def about_me() -> dict[str, Any]:
    """What lets a host see whether this process is on its machine: the boot, the pid namespace, the pid."""
    return {"pid": os.getpid(), "machine": machine_id()}


def machine_id() -> str:
    """Names this boot of this machine and this pid namespace; empty where neither can be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
