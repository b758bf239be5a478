"""The faults, each a short story: when it strikes, whom, and what follows."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nearfar.contrast.faults.roles import Numbered
from nearfar.contrast.faults.scene import Scene
from nearfar.contrast.settings import Settings

Options = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Story:
    """`strike` returns when the fault has happened, or, where it is built into the plan, at once."""

    name: str
    says: str
    strike: Callable[[Scene], None] = lambda scene: None
    split: bool = False
    """All of the first half has arrived before the second half is put."""
    thaw: bool = False
    """The victim lives on in the end."""
    victim_lives: bool = False
    """It holds for as long as one watches what it was given."""
    producer_dies: bool = False
    stops_reading: bool = False
    needs_host: bool = False

    def options(self, settings: Settings) -> Options:
        """The flaws to build into a plan."""
        return {
            "most": settings.items // 100 if self.stops_reading else None,
            "die_after": settings.items // 2 if self.producer_dies else None,
        }

    def parts(self, settings: Settings) -> list[Numbered]:
        """Numbers as items."""
        numbers = range(settings.items)
        middle = settings.items // 2 if self.split else settings.items
        return [
            [(number, number) for number in part] for part in (numbers[:middle], numbers[middle:]) if part
        ]


def kill_at_work(scene: Scene) -> None:
    scene.await_victim(scene.plan.count // 20)
    scene.strike(signal.SIGKILL)


def kill_waiting(scene: Scene) -> None:
    scene.await_received(scene.plan.count // 2)
    time.sleep(0.2)  # so that both are in `get` again
    scene.strike(signal.SIGKILL)
    scene.go_on()


def freeze(scene: Scene) -> None:
    scene.await_victim(scene.plan.count // 20)
    scene.strike(signal.SIGSTOP)


def restart_host(scene: Scene) -> None:
    scene.await_received(scene.plan.count // 4)
    scene.link.kill_host()
    time.sleep(0.3)
    scene.link.start_host()


def just_begin(scene: Scene) -> None:
    scene.await_begun()


STORIES = {
    story.name: story
    for story in (
        Story(
            "consumer killed at work",
            "kill -9 one of two consumers while both have plenty to do",
            kill_at_work,
        ),
        Story(
            "consumer killed while waiting",
            "kill -9 one of two consumers that wait in get; then more is put",
            kill_waiting,
            split=True,
        ),
        Story(
            "consumer frozen",
            "SIGSTOP one of two consumers; it is thawed once nothing moves any more",
            freeze,
            thaw=True,
            victim_lives=True,
        ),
        Story(
            "consumer stops reading",
            "one of two consumers stays connected, and calls get no more",
            just_begin,
            victim_lives=True,
            stops_reading=True,
        ),
        Story(
            "producer killed",
            "kill -9 the producer right after a put has returned",
            just_begin,
            producer_dies=True,
        ),
        Story(
            "host killed and restarted",
            "kill -9 the process that holds the items; it starts again 0.3 s later",
            restart_host,
            needs_host=True,
        ),
    )
}
