"""An item that a program received, until it says what came of it."""

from __future__ import annotations

from nearfar.queues.base import Delivery
from nearfar.queues.ends.end import End
from nearfar.queues.ends.loans import Taken

DELIVERY = 0
"""The holder of items taken by `receive`: no thread's next `get` settles them."""


class FarDelivery(Delivery):
    """An item of a far queue in hand."""

    def __init__(self, end: End, taken: Taken) -> None:
        self.item = taken.item
        self.attempt = taken.attempt
        self._end = end
        self._session = taken.session
        self._position = taken.position

    def let_go(self) -> None:
        """It never reached who asked for it."""
        self._end.let_go([(self._session, self._position, self._position)])

    def ack(self) -> None:
        self._end.done(self._session, self._position)

    def nack(self) -> None:
        self._end.failed(self._session, self._position)
