"""What a host says of the items that are lost with it. A host is a thread: it says so however it ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from nearfar.net.addresses import Address

log = logging.getLogger("nearfar.queues.far")


def warn_of_losses(address: Address, counts: Mapping[str, int]) -> None:
    """Log a warning if a queue ended with something in it, by the last figures of its host."""
    if said := losses(counts):
        log.warning(
            "the queue at %s ended with %s", address, said, extra={"event": "ended", "fields": dict(counts)}
        )


def losses(counts: Mapping[str, int]) -> str:
    """``3 items waiting, 1 item in hand and not acknowledged; it is lost: …``; empty for none."""
    waiting, letters = counts["size"], counts["unread letters"]
    in_hand = counts["unsettled"] - waiting
    parts = [
        f"{number(waiting, 'item')} waiting" if waiting else "",
        f"{number(in_hand, 'item')} in hand and not acknowledged" if in_hand else "",
        f"{number(letters, 'dead letter')} that nobody read" if letters else "",
    ]
    what = ", ".join(filter(None, parts))
    if not counts["unsettled"]:
        return f"{what}; it is lost" if what else ""
    if counts["producers"]:
        return f"{what}; the producers keep what they put, and send it again to a queue at the same address"
    return f"{what}; it is lost: its producers have left"


def number(count: int, thing: str) -> str:
    """``1 item``, ``1,204 items``."""
    return f"{count:,} {thing}{'s' * (count != 1)}"
