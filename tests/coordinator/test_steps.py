"""How many functions the coordinator enters for its tasks: a budget, which keeps the way of a task short."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import pytest

from nearfar.coordinator import wire
from nearfar.coordinator.endings import tell
from nearfar.coordinator.tasks import Mode, Status
from nearfar.coordinator.wire import Envelope, Kind
from nearfar.worker.actions import Give, Send
from tests.coordinator.world import FakeAgent, FakeClient, World

pytestmark = pytest.mark.pure

Frames = list[tuple[str, list[Any]]]

ALONE = 150
"""Calls for one task alone in its messages, which takes two turns."""
EACH = 3
"""Calls for each task of many."""


def calls_of(do: Callable[[], object]) -> int:
    """How many calls of functions of nearfar there are while `do` runs."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call" and "/nearfar/" in frame.f_code.co_filename

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        do()
    finally:
        sys.setprofile(before)
    return count


class Story:
    """A client, an agent with one worker, and a coordinator that is counted."""

    def __init__(self) -> None:
        self.world = World(most_bytes=1 << 30)
        self.agent: FakeAgent = self.world.agent()
        self.client: FakeClient = self.world.client()
        self.calls = 0

    def run(self, count: int) -> int:
        """Have so many tasks run; returns how many calls that took the coordinator."""
        self.calls = 0
        first = self.client.number + 1
        self.client.number += count
        rows = [(number, Mode.CALL, b"m:f", b"x", [], None, 0) for number in range(first, first + count)]
        self.client.say(Kind.SUBMIT, False, rows=rows)
        assert self.client.talk is not None
        told: list[int] = []
        said = pack(self.client.socket, self.client.talk.flush(self.world.now))
        while said:
            heard = self._turn(said)
            said = []
            for name, envelope in heard:
                if name == self.agent.socket:
                    self.agent.machine.receive(envelope, self.world.now)
                else:
                    for message in self.client.talk.hear(envelope, self.world.now):
                        told += [row[0] for row in message.rows or ()]
            said += pack(self.agent.socket, self._work())
        assert told == [row[0] for row in rows]
        return self.calls

    def _work(self) -> list[Envelope]:
        machine, now = self.agent.machine, self.world.now
        actions = list(machine.flush(now))
        for action in actions:
            if isinstance(action, Give):
                machine.answered(action.worker, [(Status.VALUE, b"y", [])] * len(action.rows), 1e-6, now)
        actions += machine.flush(now)
        return [action.envelope for action in actions if isinstance(action, Send)]

    def _turn(self, said: Frames) -> list[tuple[str, Envelope]]:
        """As a coordinator's loop has it; only this is counted."""
        peers, coordinator, now = self.world.peers, self.world.coordinator, self.world.now
        packed: Frames = []

        def turn() -> None:
            for name, frames in said:
                peers.receive(name, wire.unpack(frames), now)
            coordinator.flush(now)
            tell(coordinator.outcomes)
            for name, envelope in peers.flush(now):
                packed.append((name, wire.pack(*envelope)))
            peers.deadline(now)

        self.calls += calls_of(turn)
        return [(name, wire.unpack([bytes(frame) for frame in frames])) for name, frames in packed]


def pack(name: str, envelopes: Iterable[Envelope]) -> Frames:
    return [(name, [bytes(frame) for frame in wire.pack(*envelope)]) for envelope in envelopes]


def test_a_task_alone_and_each_of_many_are_within_their_budgets() -> None:
    story = Story()
    for _ in range(3):
        story.run(1)
    assert story.run(1) <= ALONE
    assert story.run(200) <= ALONE + 200 * EACH
