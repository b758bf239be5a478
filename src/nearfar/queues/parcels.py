"""What travels through a near queue's pipe, and an item in a consumer's hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

from nearfar.net import pickles
from nearfar.queues.base import Delivery
from nearfar.queues.frames import Message, Raw

__all__ = ["NearDelivery", "Parcel", "item_in", "message_of"]

LARGE = 4096
"""Bytes of an item from which it travels as it is: a pickle would be one more copy at each end."""


class _Again(NamedTuple):
    """Travels for an item that was given back: its message as it was first sent, and which attempt comes."""

    message: Message
    attempt: int


class Parcel(NamedTuple):
    """An opened message."""

    item: Any
    attempt: int
    message: Message

    @classmethod
    def open(cls, message: Message) -> Self:
        """Read `message`. Raises what unpickling its item raises."""
        item = _read(message)
        if type(item) is _Again:
            return cls(_read(item.message), item.attempt, item.message)
        return cls(item, 1, message)

    def again(self) -> bytes:
        """The message for the next attempt. The item is not pickled anew, so this cannot fail."""
        return pickles.dumps_for_family(_Again(self.message, self.attempt + 1))


def message_of(item: Any) -> Message:
    """`item` as it is now, to be sent. Raises what pickling it raises."""
    if type(item) is bytes and len(item) >= LARGE:
        return Raw(item)
    return pickles.dumps_for_family(item)


def item_in(message: Message) -> Any:
    """As `Parcel.open`, of which nothing but the item is wanted."""
    item = _read(message)
    return _read(item.message) if type(item) is _Again else item


def _read(message: Message) -> Any:
    return message.body if isinstance(message, Raw) else pickles.loads(message)


class NearDelivery(Delivery):
    """An item of a near queue in hand: the queue's `settle` or `give_back` is called once, or neither."""

    def __init__(
        self, parcel: Parcel, settle: Callable[[], None], give_back: Callable[[Message], None]
    ) -> None:
        self.item = parcel.item
        self.attempt = parcel.attempt
        self._settle = settle
        self._give_back = give_back
        self._parcel: Parcel | None = parcel

    def ack(self) -> None:
        if self._let_go():
            self._settle()

    def nack(self) -> None:
        if parcel := self._let_go():
            self._give_back(parcel.again())

    def _let_go(self) -> Parcel | None:
        parcel, self._parcel = self._parcel, None
        return parcel
