"""The questions of an end to its host: each is asked in every session until it is answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nearfar.queues.wire import Kind

TOLD = frozenset({"underway bytes", "underway parts"})
"""No questions, but figures that the host adds up; see `Connection.mention`."""
UNATTENDED = frozenset({"lane", "fence", "late"}) | TOLD
Ask = tuple[int, Kind, str, Any]


class Asks:
    """Numbers the questions and keeps the answers until somebody takes them."""

    def __init__(self) -> None:
        self._last = 0
        self._open: dict[int, Ask] = {}
        self._unsent: list[int] = []
        self.any_unsent = False
        """Something may have to be asked."""
        self._answers: dict[int, Any] = {}

    def add(self, kind: Kind, what: str = "", argument: Any = None) -> int:
        """Ask: by itself (ASK), or along with a NEED or REPORT that wants a "no" rather than to wait."""
        self._last += 1
        self._open[self._last] = (self._last, kind, what, argument)
        self._unsent.append(self._last)
        self.any_unsent = True
        return self._last

    def unsent(self, *, lane: bool) -> Iterator[Ask]:
        """What has to be asked now; a REPORT can only go once there is a lane."""
        later = []
        for number in self._unsent:
            ask = self._open.get(number)
            if ask is None:
                continue
            if ask[1] is Kind.REPORT and not lane:
                later.append(number)
            else:
                yield ask
        self._unsent = later
        self.any_unsent = bool(later)

    def again(self) -> None:
        """A new session: the host knows of no question."""
        self._open = {number: ask for number, ask in self._open.items() if ask[2] not in ("lane", "fence")}
        self._unsent = list(self._open)
        self.any_unsent = bool(self._unsent)

    def answer(self, number: int, value: Any) -> None:
        """The host answered; what the end itself asked (a lane, say) nobody comes to take."""
        ask = self._open.pop(number, None)
        if ask is not None and ask[2] not in UNATTENDED:
            self._answers[number] = value

    def unanswered(self, number: int) -> bool:
        return number in self._open

    def answered(self, number: int) -> bool:
        return number in self._answers

    def take(self, number: int) -> Any:
        """The answer, once; None for a question that was not answered."""
        self._open.pop(number, None)
        return self._answers.pop(number, None)
