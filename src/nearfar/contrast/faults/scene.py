"""One producer, one queue, two consumers, and what has come of the items so far."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nearfar.contrast import diary
from nearfar.contrast.cast import Cast, strike
from nearfar.contrast.diary import Entry
from nearfar.contrast.faults.roles import Handle, Numbered, consume, produce
from nearfar.contrast.transports.base import FORK, Link

LOOK_EVERY = 0.005


@dataclass(frozen=True, slots=True)
class Plan:
    """What is put, how it is handled, and the flaws that are built in."""

    parts: Sequence[Numbered]
    handle: Handle
    count: int
    """Of all parts together."""
    quiet: float
    most: int | None = None
    """Items after which the victim reads no more."""
    die_after: int | None = None
    """Puts after which the producer kills itself."""


class Scene:
    """Starts the processes; the consumer number `victim` (0 or 1) is the one that suffers."""

    def __init__(self, link: Link, cast: Cast, folder: Path, plan: Plan, victim: int) -> None:
        self.link = link
        self.plan = plan
        self._victim = victim
        self._sent = folder / "sent"
        self._got = [folder / "first", folder / "second"]
        self._cue, cue = FORK.Pipe()
        self._consumers = [
            cast.start(consume, link, got, plan.handle, plan.most if index == victim else None)
            for index, got in enumerate(self._got)
        ]
        cast.start(produce, link, self._sent, self._got, plan.parts, cue, plan.die_after)

    def sent(self) -> list[Entry]:
        """Every put that returned."""
        return [entry for entry in diary.read(self._sent) if entry.number >= 0]

    def begun(self) -> float:
        """When everybody was there, and the first put began."""
        return next(entry.time for entry in diary.read(self._sent) if entry.number == diary.START)

    def received(self) -> list[Entry]:
        """What both consumers handled to the end, in the order of time."""
        entries = [entry for got in self._got for entry in diary.read(got) if entry.number >= 0]
        return sorted(entries, key=lambda entry: entry.time)

    def await_begun(self) -> None:
        """Wait until everybody is there."""
        self._until(lambda: diary.length(self._sent) > 0)

    def await_victim(self, count: int) -> None:
        """Wait until the victim has handled so many."""
        got = self._got[self._victim]
        self._until(lambda: sum(entry.number >= 0 for entry in diary.read(got)) >= count)

    def await_received(self, count: int) -> None:
        """Wait until both together have handled so many."""
        self._until(lambda: len(self.received()) >= count)

    def _until(self, holds: Callable[[], bool]) -> None:
        """No limit: the stage has one."""
        while not holds():
            time.sleep(LOOK_EVERY)

    def watch(self) -> None:
        """Wait until everything has arrived, or nothing did for the quiet time."""
        last, since = -1, time.monotonic()
        whole = self.plan.die_after or self.plan.count
        while time.monotonic() - since < self.plan.quiet:
            count = sum(map(diary.length, (self._sent, *self._got)))
            if count != last:
                last, since = count, time.monotonic()
                if len(distinct(self.received())) == whole == len(self.sent()):
                    return
            time.sleep(0.02)

    def strike(self, signum: signal.Signals) -> None:
        """Send the victim a signal."""
        strike(self._consumers[self._victim], signum)

    def go_on(self) -> None:
        """Let the producer begin its next part."""
        self._cue.send("go on")


def distinct(entries: Sequence[Entry]) -> set[int]:
    return {entry.number for entry in entries}
