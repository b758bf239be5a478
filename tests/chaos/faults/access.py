"""How the chaos suite's roles are let in at addresses: in one place, so that it can be changed in one.

ipc and 127.0.0.1 are for the same user; namespaces, and the addresses about the fault proxy, ask for keys.
"""

from __future__ import annotations

import os
from typing import Any

from nearfar.net.auth import Access

VARIABLE = "NEARFAR_CHAOS_KEYS"
"""Names the folder of keys to the roles, which are processes of their own."""


def hosting(address: str) -> dict[str, Any]:
    """Options of `FarQueue` and `Pool` for one who binds `address`."""
    return {} if _local(address) else {"keys": os.environ[VARIABLE]}


def connecting(address: str) -> dict[str, Any]:
    """Options of their `connect`."""
    return hosting(address)


def access(address: str) -> Access:
    """For who calls a coordinator by itself."""
    return Access(**hosting(address))


def binding(address: str) -> list[str]:
    """Options of a program that binds `address`."""
    return [] if _local(address) else ["--keys", os.environ[VARIABLE]]


def calling(address: str) -> list[str]:
    """Options of a program that connects to `address`."""
    return binding(address)


def _local(address: str) -> bool:
    return address.startswith(("ipc://", "tcp://127.0.0.1:"))
