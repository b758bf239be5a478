"""When each session wants to be looked at next, so that an idle one costs nothing."""

from __future__ import annotations

import heapq

from nearfar.queues.host.peers import Peer


class Alarms:
    """A heap with at least one entry for each session that was `set`, none later than it is due.

    What is due later than was thought is found out when the alarm rings.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._heap: list[tuple[float, int, Peer]] = []
        self._serial = 0

    def set(self, peer: Peer) -> None:
        """Look when `peer` is due; call whenever it was spoken with."""
        due = min(peer.heard + self._lease, peer.voice.deadline())
        overdue = peer.out.deadline()
        if overdue is not None and overdue < due:
            due = overdue
        if due < peer.alarm:
            peer.alarm = due
            self._serial += 1
            heapq.heappush(self._heap, (due, self._serial, peer))

    def ring(self, now: float) -> list[Peer]:
        """Those who may be due: each is to be `set` again if it lives on."""
        rung = []
        while self._heap and self._heap[0][0] <= now:
            due, _, peer = heapq.heappop(self._heap)
            if due == peer.alarm:
                peer.alarm = NEVER
                rung.append(peer)
        return rung

    def deadline(self, otherwise: float) -> float:
        """When to `ring` next."""
        return min(self._heap[0][0], otherwise) if self._heap else otherwise


NEVER = float("inf")
