"""How an end is left when its program ends, or forgets its queue."""

from __future__ import annotations

import logging
import weakref
from typing import Any

from nearfar.errors import QueueLost
from nearfar.queues.ends.end import End

log = logging.getLogger("nearfar.queues.far")


def finish(end: End, owner: weakref.ref[Any]) -> None:
    """At the normal end of the process, or when the queue is forgotten: what was put must arrive."""
    queue = owner()
    if queue is not None:
        queue._settle_rest(end)
        if not queue._join_at_exit:
            end.abandon()
            return
    end.close()
    try:
        end.join()
    except QueueLost as error:
        log.error("items may be lost: %s", error)
