"""How an end is left when its program ends, or forgets its queue."""

from __future__ import annotations

import logging
import weakref
from multiprocessing import util
from typing import Any

from nearfar.errors import QueueLost
from nearfar.queues.ends.end import End

log = logging.getLogger("nearfar.queues.far")

_leaving: set[End] = set()
"""Ends of forgotten queues that have not said goodbye yet."""


def finish(end: End, owner: weakref.ref[Any]) -> None:
    """At the normal end of the process, or when the queue is forgotten: what was put must arrive.

    A queue is forgotten wherever its last reference goes, perhaps by a garbage collection: nothing is waited
    for there. Its end says goodbye in the background, and only the end of the process waits for that.
    """
    queue = owner()
    if queue is not None:
        queue._settle_rest(end)
    for each in [each for each in _leaving if each.gone]:
        _leaving.discard(each)
    if not end.waited_for:
        end.abandon()
        return
    end.close()
    if queue is not None or util.is_exiting():
        _join(end)
    elif not end.gone:
        _leaving.add(end)


def _finish_rest() -> None:
    while _leaving:
        _join(_leaving.pop())


def _join(end: End) -> None:
    try:
        end.join()
    except QueueLost as error:
        log.error("items may be lost: %s", error)


util.Finalize(None, _finish_rest, exitpriority=10)
