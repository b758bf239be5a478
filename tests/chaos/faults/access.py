"""Access options of the chaos tests' roles, in a single place.

ipc and 127.0.0.1 need no keys; network namespaces, and the addresses around the fault proxy, do.
"""

from __future__ import annotations

import os
from typing import Any

from nearfar.net.auth import Access

VARIABLE = "NEARFAR_CHAOS_KEYS"
"""Names the folder of keys to the roles, which are processes of their own."""


def hosting(address: str) -> dict[str, Any]:
    """Options of `FarQueue` and `Pool` for binding `address`."""
    return {} if _local(address) else {"keys": os.environ[VARIABLE]}


def connecting(address: str) -> dict[str, Any]:
    """Options of their `connect`."""
    return hosting(address)


def access(address: str) -> Access:
    """The access for connecting to a coordinator directly."""
    return Access(**hosting(address))


def binding(address: str) -> list[str]:
    """Options of a program that binds `address`."""
    return [] if _local(address) else ["--keys", os.environ[VARIABLE]]


def calling(address: str) -> list[str]:
    """Options of a program that connects to `address`."""
    return binding(address)


def _local(address: str) -> bool:
    return address.startswith(("ipc://", "tcp://127.0.0.1:"))
