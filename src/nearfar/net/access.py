"""Who may connect to a queue or a pool, and how each side knows: decided once, from address and options.

=========  =================================  =========================================================
access     where                              who gets in
=========  =================================  =========================================================
own        loopback and ipc, without keys     processes of the same user on this machine: the kernel says
keys       anywhere                           who has a key that the service lets in, and knows its key
open       anywhere, if `insecure` is said    everyone who can reach it
=========  =================================  =========================================================
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nearfar.errors import AddressError, KeysError
from nearfar.net.addresses import Address
from nearfar.net.keys import CLIENT, SERVER, Clients, read_pair, read_server_key

VARIABLE = "NEARFAR_KEYS"
"""The environment variable that names the folder of keys where none is given."""


@dataclass(frozen=True, slots=True)
class Access:
    """`keys` is a folder (or empty); `insecure`: let everyone in. Neither: this user's processes only.

    It holds no secret: it may be pickled, and the keys are read where sockets are made.
    """

    keys: str = ""
    insecure: bool = False

    @property
    def trusted(self) -> bool:
        """Whether pickle may be read from who got in."""
        return not self.insecure

    @property
    def own(self) -> bool:
        """Whether only this user's processes may connect."""
        return not (self.keys or self.insecure)


OWN = Access()
"""This user's processes only."""


def admit(address: Address, keys: str | os.PathLike[str] | None, *, insecure: bool) -> Access:
    """How a service at `address` guards its sockets.

    Raises `AddressError` where other machines could reach it and neither is given, and `KeysError`.
    """
    access = _choose(keys, insecure)
    check_guarded(address, access)
    if access.keys:
        read_pair(Path(access.keys), SERVER)
        Clients(Path(access.keys))
    return access


def check_guarded(address: Address, access: Access) -> None:
    """Raises `AddressError` where others could reach what is bound at `address`, and nothing stops them."""
    if access.own and not address.local:
        raise AddressError(
            f"{address} can be reached from other machines: give keys, so that it is known who comes in"
            " (keys=DIR, --keys DIR; `nearfar keys init` makes them), or say insecure=True (--insecure) if"
            " you trust everyone who can reach it"
        )


def approach(address: Address, keys: str | os.PathLike[str] | None, *, insecure: bool) -> Access:
    """How to connect to the service at `address`.

    Raises `AddressError` where nothing would tell who answers there, and `KeysError`.
    """
    access = _choose(keys, insecure)
    if access.keys:
        read_pair(Path(access.keys), CLIENT)
        read_server_key(Path(access.keys))
    elif access.own and not address.local:
        raise AddressError(
            f"nothing tells who answers at {address}: give the keys that its owner made for you (keys=DIR,"
            " --keys DIR), or say insecure=True (--insecure) if you trust the network"
        )
    return access


def _choose(keys: str | os.PathLike[str] | None, insecure: bool) -> Access:
    if keys is not None and insecure:
        raise KeysError("give keys, or say insecure: not both")
    if insecure:
        return Access(insecure=True)
    folder = keys or os.environ.get(VARIABLE) or ""
    try:
        return Access(keys=str(Path(folder).expanduser().absolute()) if folder else "")
    except RuntimeError as error:  # of a user who has none
        raise KeysError(f"cannot read the keys in {folder}: {error}") from None
