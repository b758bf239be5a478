"""What a fault did, judged from event logs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nearfar.contrast.processes import Event


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the items. Each one that was sent is received, lost or stuck."""

    sent: int
    """Puts that returned."""
    received: int
    """Items that arrived in time, once or more."""
    lost: int
    """Items that never arrived, and that no process holds any more."""
    stuck: int
    """Items that did not arrive while the fault lasted, or while the trial was watched, but are held
    somewhere."""
    duplicated: int
    """Items handled more than once."""
    pause: float
    """The longest time without any arrival, from the fault on, in seconds."""
    stuck_for: float
    """Seconds from the fault until the stuck items arrived, or until the end of the trial."""

    def __post_init__(self) -> None:
        if self.received + self.lost + self.stuck != self.sent:
            raise ValueError(f"the counts do not add up: {self}")


def judge(
    sent: Sequence[Event],
    in_time: Sequence[Event],
    received: Sequence[Event],
    *,
    happened: float,
    ended: float,
    held: int,
) -> Verdict:
    """Compare what was sent with what was `received`.

    `in_time`: the arrivals before the end of watching, or before the victim was resumed. `happened`, `ended`:
    the time of the fault, and of the end of the trial. `held`: how many missing items are known to be held
    somewhere.
    """
    numbers = distinct(sent)
    early = distinct(in_time) & numbers
    ever = distinct(received) & numbers
    late = ever - early
    missing = len(numbers - ever)
    held = min(missing, held)
    arrivals = [event.time for event in received if event.number in late]
    last = ended if held else max(arrivals, default=happened)
    return Verdict(
        sent=len(numbers),
        received=len(early),
        lost=missing - held,
        stuck=len(late) + held,
        duplicated=len(received) - len(distinct(received)),
        pause=longest_pause(in_time, happened),
        stuck_for=last - happened if late or held else 0.0,
    )


def longest_pause(received: Sequence[Event], since: float) -> float:
    """The longest time between two arrivals of which the later one is after `since`."""
    pairs = pairwise(sorted(event.time for event in received))
    return max((after - max(before, since) for before, after in pairs if after > since), default=0.0)


def distinct(events: Sequence[Event]) -> set[int]:
    """The numbers of the items, each once."""
    return {event.number for event in events}
