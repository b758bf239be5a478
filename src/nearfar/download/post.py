"""The producer's post: requests go out, each answer finds who asked, and the bytes between are counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from nearfar.download.courier import Outbound, Undeliverable
from nearfar.download.model import Failure, Reason
from nearfar.download.spelling import decode_answer, encode
from nearfar.download.words import Answer, Lost, Request
from nearfar.errors import ProtocolError

ROOM = 16 * 1024 * 1024
"""Bytes on their way, of one producer: enough to keep consumers busy, little enough for any machine."""

OnAnswer = Callable[[Answer], None]


@dataclass(frozen=True, slots=True)
class _Parcel:
    request: Request
    to: str | None
    size: int
    on_answer: OnAnswer


class Post:
    """Sends requests in order and hands each answer to who asked.

    `held` counts the bytes from the moment they are held here until their request is answered. Nothing is
    ever refused: who brings bytes looks at `roomy` first, and pauses its source.
    """

    def __init__(self, outbound: Outbound, room: int = ROOM) -> None:
        self._outbound = outbound
        self._room = room
        self._waiting: dict[str | None, deque[_Parcel]] = {}
        self._asked: dict[int, _Parcel] = {}
        self.held = 0

    @property
    def roomy(self) -> bool:
        return self.held < self._room

    @property
    def idle(self) -> bool:
        """True if every request was answered."""
        return not self._asked and not self._waiting

    def hold(self, size: int) -> None:
        """Count `size` bytes (negative: count them no more) that will be sent, or were given up."""
        self.held += size

    def send(self, request: Request, on_answer: OnAnswer, *, to: str | None = None, size: int = 0) -> None:
        """Send when there is room. `size` bytes held for it are let go with its answer.

        An addressee that is gone answers `Lost`. An answer that cannot be read becomes a `Failure`.
        """
        parcel = _Parcel(request, to, size, on_answer)
        if to in self._waiting or not self._hand_over(parcel):
            self._waiting.setdefault(to, deque()).append(parcel)

    def turn(self) -> None:
        """Hand on the answers that came, then send what waited for room."""
        for ticket, value in self._outbound.answers():
            parcel = self._asked.pop(ticket, None)
            if parcel is not None:
                self.held -= parcel.size
                parcel.on_answer(_read(value))
        for to, queue in list(self._waiting.items()):
            while queue and self._hand_over(queue[0]):
                queue.popleft()
            if not queue:
                del self._waiting[to]

    def _hand_over(self, parcel: _Parcel) -> bool:
        ticket = self._outbound.send(encode(parcel.request), to=parcel.to)
        if ticket is None:
            return False
        self._asked[ticket] = parcel
        return True


def _read(value: object) -> Answer:
    if isinstance(value, Undeliverable):
        return Lost()
    try:
        return decode_answer(value)
    except ProtocolError as error:
        return Failure(Reason.REFUSED, f"a consumer's answer cannot be read: {error}")
