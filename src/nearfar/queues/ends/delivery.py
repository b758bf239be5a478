"""An item that a program received, until it says what came of it."""

from __future__ import annotations

from nearfar.queues.base import Delivery
from nearfar.queues.ends.end import End
from nearfar.queues.ends.loans import Taken


class FarDelivery(Delivery):
    """An item of a far queue in hand."""

    def __init__(self, end: End, taken: Taken) -> None:
        _, self.item, self.attempt, _ = self._taken = taken
        self._end = end

    def let_go(self) -> None:
        """It never reached who asked for it."""
        one = self._taken
        self._end.let_go([(one.session, one.position, one.position)])

    def ack(self) -> None:
        hand = self._end.hand
        hand.acks.append(self._taken)
        if not hand.called or not hand.receiving[1]:  # nobody looks soon, or it was the last that is here
            self._end.tell_of_acks()

    def nack(self) -> None:
        self._end.failed(self._taken.session, self._taken.position)
