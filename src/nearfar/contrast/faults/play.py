"""Plays one story over one transport."""

from __future__ import annotations

import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nearfar.contrast.cast import Cast
from nearfar.contrast.faults.roles import dawdle
from nearfar.contrast.faults.scene import Plan, Scene
from nearfar.contrast.faults.stories import STORIES, Story
from nearfar.contrast.faults.verdict import judge
from nearfar.contrast.settings import Settings
from nearfar.contrast.transports.base import Link, Transport

BOUND = 1000
"""Of the queue, in items: as ZeroMQ's high-water mark is by default."""


def measure(transport: Transport, settings: Settings, folder: Path, name: str, trial: int) -> dict[str, Any]:
    """The verdict, as JSON. The victim alternates from trial to trial."""
    story = STORIES[name]
    plan = Plan(
        story.parts(settings), dawdle, settings.items, quiet=settings.quiet, **story.options(settings)
    )
    with Cast() as cast, transport.open(folder, BOUND) as link:
        scene = Scene(link, cast, folder, plan, victim=trial % 2)
        return play(scene, story)


def play(scene: Scene, story: Story) -> dict[str, Any]:
    """Let it happen, watch, and judge."""
    story.strike(scene)
    struck = time.monotonic()
    scene.watch()
    in_time = scene.received()
    if story.thaw:
        scene.strike(signal.SIGCONT)
        scene.watch()
    ended = time.monotonic()
    verdict = judge(
        scene.sent(),
        in_time,
        scene.received(),
        struck=struck,
        ended=ended,
        held=held(scene.link, story),
    )
    return asdict(verdict)


def held(link: Link, story: Story) -> int:
    """How many of what is missing may lie somewhere still.

    What a living consumer was given, it has, however many; what a producer took with it is nowhere, whatever
    the queue counts. Else the queue itself is asked.
    """
    if story.producer_dies:
        return 0
    if story.victim_lives:
        return 1 << 60
    return link.size() or 0
