"""Which producers came and which left: what the counted end is counted by."""

from __future__ import annotations

from nearfar.queues.host.records import Producer, State

MOST_LOST = 10_000
"""Names of lost producers that are kept."""


class Attendance:
    """`expected` producers make a round: when as many have come and none is left, nobody will put again.

    A new one stands in for one that was lost, and the two count as one. It may come before the loss is seen,
    which may take a lease: so whoever came after the lost one last said anything stands in for it, too; where
    the host stood still, and found the words of both together, it takes the one for the other's. Should that
    one return after all, both count.

    Helpers are not counted. Who sent them stays for as long as they may put, and makes good what they lose.
    """

    def __init__(self, expected: int) -> None:
        self.lost: list[str] = []
        """The names of those who died or fell silent, and were not replaced."""
        self._expected = expected
        self._here = self._came = self._round = 0
        self._replaced: set[str] = set()
        """Those for whom another stands in."""
        self._free: dict[str, float] = {}
        """When each came that stands in for nobody."""

    def enter(self, producer: Producer, now: float) -> None:
        """A producer comes, or comes back."""
        if producer.helper:
            producer.state = State.OPEN
            return
        name, counts = producer.name, producer.round != self._round
        if name in self.lost:
            self.lost.remove(name)
        elif name in self._replaced:
            self._replaced.remove(name)
            counts = True
        elif producer.round < 0 and self.lost:
            self._replaced.add(self.lost.pop(0))
            counts = False
        elif producer.round < 0:
            self._free[name] = now
        self._came += counts
        producer.round = self._round
        self._here += producer.state is not State.OPEN
        producer.state = State.OPEN

    def leave(self, producer: Producer, state: State, heard: float | None) -> None:
        """A producer has said goodbye (GONE), or was lost (LOST) and last heard then, if that is known."""
        if producer.helper:
            producer.state = state
        elif producer.state is State.OPEN:
            producer.state = state
            self._here -= 1
            if state is State.LOST:
                self._miss(producer.name, heard)

    def over(self) -> bool:
        """True if all that were expected came and went."""
        return self._here == 0 and self._came >= self._expected

    def begin_anew(self) -> None:
        """Count from nought."""
        self._round += 1
        self._came = 0
        self.lost.clear()
        self._replaced.clear()
        self._free.clear()

    def _miss(self, name: str, heard: float | None) -> None:
        stand_in = None
        if heard is not None:
            later = (other for other, came in self._free.items() if came >= heard and other != name)
            stand_in = next(later, None)
        if stand_in is None:
            if len(self.lost) < MOST_LOST:
                self.lost.append(name)
        else:
            del self._free[stand_in]
            self._replaced.add(name)
            self._came -= 1
