"""How the chaos suite's roles are let in at addresses: in one place, so that it can be changed in one.

ipc and 127.0.0.1 are for the same user; namespaces, and the addresses about the fault proxy, for anybody.
"""

from __future__ import annotations

from typing import Any


def hosting(address: str) -> dict[str, Any]:
    """Options of `FarQueue` and `Pool` for one who binds `address`."""
    return {} if _local(address) else {"insecure": True}


def connecting(address: str) -> dict[str, Any]:
    """Options of their `connect`."""
    return {}


def binding(address: str) -> list[str]:
    """Options of a program that binds `address`."""
    return [] if _local(address) else ["--insecure"]


def calling(address: str) -> list[str]:
    """Options of a program that connects to `address`."""
    return []


def _local(address: str) -> bool:
    return address.startswith(("ipc://", "tcp://127.0.0.1:"))
