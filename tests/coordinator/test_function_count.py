"""The number of function calls in the coordinator for each task has a limit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import pytest

from nearfar.coordinator import messages
from nearfar.coordinator.messages import PoolFrame, PoolMessageType
from nearfar.coordinator.scheduler import tell
from nearfar.coordinator.task import Mode, TaskStatus
from nearfar.net.session import SendMessage
from nearfar.worker.agent_protocol import AssignBatch
from tests.coordinator.world import FakeAgent, FakeClient, World
from tests.support.injector import SOURCE

pytestmark = pytest.mark.pure

Frames = list[tuple[str, list[Any]]]

ALONE = 118
"""Calls for one task alone in its messages, which takes two turns."""
EACH = 1.05
"""Calls for each task of many."""


def calls_of(do: Callable[[], object]) -> int:
    """How many calls of functions of nearfar there are while `do` runs."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(SOURCE)

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
        self.client.say(PoolMessageType.SUBMIT, False, rows=rows)
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

    def _work(self) -> list[PoolFrame]:
        machine, now = self.agent.machine, self.world.now
        actions = list(machine.flush(now))
        for action in actions:
            if isinstance(action, AssignBatch):
                machine.answered(action.worker, [(TaskStatus.VALUE, b"y", [])] * len(action.rows), 1e-6, now)
        actions += machine.flush(now)
        return [action.envelope for action in actions if isinstance(action, SendMessage)]

    def _turn(self, said: Frames) -> list[tuple[str, PoolFrame]]:
        """As a coordinator's loop has it; only this is counted."""
        peers, coordinator, now = self.world.peers, self.world.coordinator, self.world.now
        packed: Frames = []

        def turn() -> None:
            for name, frames in said:
                peers.receive(name, messages.unpack(frames), now)
            coordinator.flush(now)
            tell(coordinator.outcomes)
            for name, envelope in peers.flush(now):
                packed.append((name, messages.pack(*envelope)))
            peers.deadline(now)

        self.calls += calls_of(turn)
        return [(name, messages.unpack([bytes(frame) for frame in frames])) for name, frames in packed]


def pack(name: str, envelopes: Iterable[PoolFrame]) -> Frames:
    return [(name, [bytes(frame) for frame in messages.pack(*envelope)]) for envelope in envelopes]


def test_one_task_and_each_of_many_stay_within_their_call_budgets() -> None:
    story = Story()
    for _ in range(3):
        story.run(1)
    assert story.run(1) <= ALONE
    assert story.run(200) <= ALONE + 200 * EACH
