"""Socket files that a killed host left beside its address: the next host there removes them."""

from __future__ import annotations

import contextlib
import re
import socket
import stat
from pathlib import Path

from nearfar.net.addresses import Address


def clear_lanes(address: Address) -> None:
    """Remove the lanes of `address` at which nobody listens. Only who has bound `address` may call this.

    A frozen host's sockets still listen, and stay.
    """
    if not address.path:
        return
    place = Path(address.path)
    lane = re.compile(re.escape(place.name) + r"\.lane-\d+")
    with contextlib.suppress(OSError):
        for path in [path for path in place.parent.iterdir() if lane.fullmatch(path.name)]:
            if stat.S_ISSOCK(path.lstat().st_mode) and not _listens(path):
                path.unlink()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True
