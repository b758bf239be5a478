"""What a fault did, from the diaries. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nearfar.contrast.diary import Entry


@dataclass(frozen=True, slots=True)
class Verdict:
    """Every item that was sent is `received`, `lost` or `stuck`: the three add up to `sent`."""

    sent: int
    """Puts that returned."""
    received: int
    """In good time, once or more."""
    lost: int
    """Never, though nothing was left that could have brought them."""
    stuck: int
    """Not while the fault lasted, or not for as long as was watched; still held somewhere."""
    duplicated: int
    """Handled more often than once."""
    pause: float
    """The longest time without any arrival, from the fault on, in seconds."""
    stuck_for: float
    """Seconds from the fault until the stuck ones came, or until the end of watching."""

    def __post_init__(self) -> None:
        if self.received + self.lost + self.stuck != self.sent:
            raise ValueError(f"the counts do not add up: {self}")


def judge(
    sent: Sequence[Entry],
    in_time: Sequence[Entry],
    received: Sequence[Entry],
    *,
    struck: float,
    ended: float,
    held: int,
) -> Verdict:
    """`in_time`: what had come when watching ended, or before a frozen one was thawed; `received`: all in
    all.

    `struck`, `ended`: when the fault happened, and when nobody watched any more. `held`: how many of the
    missing are known to lie somewhere still.
    """
    numbers = {entry.number for entry in sent}
    early = {entry.number for entry in in_time} & numbers
    ever = {entry.number for entry in received} & numbers
    late = ever - early
    missing = len(numbers - ever)
    held = min(missing, held)
    arrivals = [entry.time for entry in received if entry.number in late]
    last = ended if held else max(arrivals, default=struck)
    return Verdict(
        sent=len(numbers),
        received=len(early),
        lost=missing - held,
        stuck=len(late) + held,
        duplicated=len(received) - len({entry.number for entry in received}),
        pause=longest_pause(in_time, struck),
        stuck_for=last - struck if late or held else 0.0,
    )


def longest_pause(received: Sequence[Entry], since: float) -> float:
    """Between two arrivals, of which the later is after `since`."""
    pairs = pairwise(sorted(entry.time for entry in received))
    return max((after - max(before, since) for before, after in pairs if after > since), default=0.0)
