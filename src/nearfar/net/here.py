"""Which process this is, and on which machine: so that a host can see a death next to it at once."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Any

from nearfar.net.shapes import LONGEST_NAME


def about_me() -> dict[str, Any]:
    """What lets a host see whether this process is on its machine: the boot, the pid namespace, the pid."""
    return {"pid": os.getpid(), "machine": machine_id()}


def new_name() -> str:
    """A name for something of this process, like no other: ``host-pid-suffix``."""
    host = socket.gethostname()[: LONGEST_NAME // 2]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


def machine_id() -> str:
    """Names this boot of this machine and this pid namespace; empty where neither can be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
