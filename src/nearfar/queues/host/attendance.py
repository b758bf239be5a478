"""Which producers came and which left: what the counted end is counted by."""

from __future__ import annotations

from nearfar.queues.host.records import Producer, State

MOST_LOST = 10_000
"""Names of lost producers that are kept."""


class Attendance:
    """`expected` producers make a round: when as many have come and none is left, nobody will put again.

    Helpers are not counted. Who sent them stays for as long as they may put, and makes good what they lose.
    """

    def __init__(self, expected: int) -> None:
        self.lost: list[str] = []
        """The names of those who died or fell silent, and were not replaced."""
        self._expected = expected
        self._here = self._came = self._round = 0

    def enter(self, producer: Producer) -> None:
        """A producer comes, or comes back. A new one stands in for one that was lost."""
        if producer.helper:
            producer.state = State.OPEN
            return
        if producer.name in self.lost:
            self.lost.remove(producer.name)
        elif producer.round < 0 and self.lost:
            self.lost.pop(0)
        self._came += producer.round != self._round
        producer.round = self._round
        self._here += producer.state is not State.OPEN
        producer.state = State.OPEN

    def leave(self, producer: Producer, state: State) -> None:
        """A producer has said goodbye (GONE) or was lost (LOST)."""
        if producer.helper:
            producer.state = state
        elif producer.state is State.OPEN:
            producer.state = state
            self._here -= 1
            if state is State.LOST and len(self.lost) < MOST_LOST:
                self.lost.append(producer.name)

    def over(self) -> bool:
        """True if all that were expected came and went."""
        return self._here == 0 and self._came >= self._expected

    def begin_anew(self) -> None:
        """Count from nought."""
        self._round += 1
        self._came = 0
        self.lost.clear()
