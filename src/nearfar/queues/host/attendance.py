"""Which producers came and which left: what the counted end is counted by."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf, nextafter

from nearfar.queues.host.records import Producer, State

MOST_LOST = 10_000
"""Names of lost producers that are kept."""
MOST_ARRIVALS = 10_000
"""Newcomers that are remembered; for whom the earlier half of more stands in is settled for good."""


class Attendance:
    """`expected` producers make a round: when as many have come and none is left, nobody will put again.

    A new one stands in for one that was lost, and the two count as one. It may come before the loss is seen,
    which may take a lease: so whoever came after the lost one last said anything may stand in for it, too.
    It is not held who stands in for whom, but found anew from these times: one that was taken for lost and
    returns may have been paired with somebody else's successor.

    Helpers are not counted. Who sent them stays for as long as they may put, and makes good what they lose.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self.here = 0
        """Those who came and did not leave."""
        self._came = self._round = 0
        self._arrivals: list[float] = []
        """When each newcomer came: no two at the same time, so that none comes after itself."""
        self._absent: dict[str, float] = {}
        """Those who were lost and did not return, and from when on a newcomer may stand in for each."""
        self._lost: list[str] | None = []
        """Those of them for whom nobody does; None where that has to be found anew."""

    @property
    def lost(self) -> list[str]:
        """The names of those who died or fell silent, and were not replaced, the first lost first."""
        if self._lost is None:
            replaced = self._replaced_by(self._arrivals)
            self._lost = [name for name in self._absent if name not in replaced]
        return self._lost

    def enter(self, producer: Producer, now: float) -> None:
        """A producer comes, or comes back."""
        if producer.helper:
            producer.state = State.OPEN
            return
        if self._absent.pop(producer.name, None) is not None:
            self._lost = None
        elif producer.round < 0:
            self._arrive(producer, now)
        self._came += producer.round != self._round
        producer.round = self._round
        self.here += producer.state is not State.OPEN
        producer.state = State.OPEN

    def leave(self, producer: Producer, state: State, heard: float | None) -> None:
        """A producer has said goodbye (GONE), or was lost (LOST) and last heard then, if that is known."""
        if producer.helper:
            producer.state = state
        elif producer.state is State.OPEN:
            producer.state = state
            self.here -= 1
            if state is State.LOST and len(self._absent) < MOST_LOST:
                later = nextafter(producer.arrived, inf)
                self._absent[producer.name] = self._next_arrival() if heard is None else max(heard, later)
                self._lost = None

    def over(self) -> bool:
        """True if all that were expected came and went."""
        return self.here == 0 and self._came - len(self._absent) + len(self.lost) >= self._expected

    def begin_anew(self) -> None:
        """Count from nought."""
        self._round += 1
        self._came = 0
        self._arrivals.clear()
        self._absent.clear()
        self._lost = []

    def _arrive(self, producer: Producer, now: float) -> None:
        producer.arrived = max(now, self._next_arrival())
        self._arrivals.append(producer.arrived)
        if self._lost:
            del self._lost[0]
        if len(self._arrivals) > MOST_ARRIVALS:
            half = MOST_ARRIVALS // 2
            for name in self._replaced_by(self._arrivals[:half]):
                del self._absent[name]
                self._came -= 1
            del self._arrivals[:half]

    def _next_arrival(self) -> float:
        return nextafter(self._arrivals[-1], inf) if self._arrivals else -inf

    def _replaced_by(self, arrivals: Sequence[float]) -> set[str]:
        """Those of the absent that newcomers stand in for: as many as can be, and of these the first lost.

        Whom a newcomer may stand in for, all after it may, too: so each takes any of them, and none of the
        later has less to choose from than it needs.
        """
        replaced: set[str] = set()
        coming = sorted((since, order, name) for order, (name, since) in enumerate(self._absent.items()))
        eligible: list[tuple[int, str]] = []
        place = 0
        for arrived in arrivals[bisect_left(arrivals, coming[0][0]) :] if coming else ():
            while place < len(coming) and coming[place][0] <= arrived:
                heappush(eligible, coming[place][1:])
                place += 1
            if eligible:
                replaced.add(heappop(eligible)[1])
        return replaced
