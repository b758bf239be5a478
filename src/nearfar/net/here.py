"""Which process this is, and on which machine: so that a host can see a death next to it at once."""

from __future__ import annotations

import os
import platform
import secrets
import socket
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

from nearfar.net.shapes import LONGEST_NAME

PYTHON = f"{platform.python_implementation()} {platform.python_version()}".replace("CPython", "Python")
"""This interpreter, for a person: ``Python 3.11.7``."""
BYTECODE = f"{platform.python_implementation()}-{int.from_bytes(MAGIC_NUMBER[:2], 'little')}"
"""The format of this interpreter's bytecode. Code of another format would run here and give wrong answers."""


def about_me() -> dict[str, Any]:
    """What HELLO says of this process.

    The boot, the pid namespace and the pid let a host see whether this process is on its machine; ``python``
    and ``bytecode`` say which functions by value it can run.
    """
    return {"pid": os.getpid(), "machine": machine_id(), "python": PYTHON, "bytecode": BYTECODE}


def new_name() -> str:
    """A name for something of this process, like no other: ``host-pid-suffix``."""
    host = socket.gethostname()[: LONGEST_NAME // 2]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


def new_session_stem(name: str) -> str:
    """What the names of the sessions of `name` begin with: its secret, so that nobody else can call by them.

    ``stem.1``, ``stem.2`` are then the sessions. A host or a coordinator lets nobody take the place of `name`
    whose session has another `stem`.
    """
    return f"{name}.{secrets.token_hex(8)}"


def stem(session: str) -> str:
    """What all sessions of one end, agent or client have in common."""
    return session.rpartition(".")[0]


def machine_id() -> str:
    """Names this boot of this machine and this pid namespace; empty where neither can be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
