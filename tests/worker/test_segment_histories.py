"""Random histories of a channel of segments, with what must hold after each event."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nearfar.serialization.shared_memory import SMALLEST, SegmentReceiver, SegmentSender, size_class
from tests.worker.channels import mapped

IDLE = 4 * SMALLEST
USES = 6
LENGTHS = st.lists(st.sampled_from([0, 1, 63, 64, 5000, SMALLEST - 100, SMALLEST, 3 * SMALLEST]), max_size=3)
PICK = st.integers(0, 2**16)


class Message(NamedTuple):
    descriptor: bytes
    fds: list[int]
    parts: list[bytes]


class History(RuleBasedStateMachine):
    """Payloads are placed, sent, read back, mapped and dropped, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.sender = SegmentSender(IDLE)
        self.receiver = SegmentReceiver(IDLE, USES)
        self.wire: list[Message] = []
        self.answers: list[list[int]] = []
        self.seen: list[tuple[memoryview, bytes]] = []
        self.filling = 0

    @rule(lengths=LENGTHS)
    def place(self, lengths: list[int]) -> None:
        self.filling = (self.filling + 1) % 256
        parts = [bytes([self.filling]) * length for length in lengths]
        self.wire.append(Message(*self.sender.place(parts), parts))

    @precondition(lambda self: self.wire)
    @rule(which=PICK)
    def receive(self, which: int) -> None:
        message = self.wire.pop(which % len(self.wire))
        views = self.receiver.map(message.descriptor, message.fds)
        self.seen += zip(views, message.parts, strict=True)

    @precondition(lambda self: self.wire)
    @rule(count=PICK, backwards=st.booleans())
    def read_back(self, count: int, backwards: bool) -> None:
        """The messages from some point on were not sent, or were read back."""
        keep = count % len(self.wire)
        lost, self.wire = self.wire[keep:], self.wire[:keep]
        for message in reversed(lost) if backwards else lost:
            self.sender.unplace(message.descriptor, message.fds)

    @precondition(lambda self: self.seen)
    @rule(which=PICK)
    def let_go(self, which: int) -> None:
        del self.seen[which % len(self.seen)]

    @precondition(lambda self: self.seen)
    @rule(which=PICK)
    def write(self, which: int) -> None:
        """The holder of a payload may change it."""
        place = which % len(self.seen)
        view, expected = self.seen[place]
        view[:] = expected[::-1].swapcase()
        self.seen[place] = view, bytes(view)

    @rule()
    def answer(self) -> None:
        self.answers.append(self.receiver.take_released())

    @precondition(lambda self: self.answers)
    @rule()
    def hear(self) -> None:
        self.sender.released(self.answers.pop(0))

    @invariant()
    def no_view_changes(self) -> None:
        for view, expected in self.seen:
            assert view == expected

    @invariant()
    def idle_memory_is_bounded(self) -> None:
        under_way = sum(size_class(3 * (3 * SMALLEST + 64)) for _ in self.wire)
        assert self.sender.idle <= IDLE
        assert self.receiver.idle <= IDLE + USES * 16 * SMALLEST + under_way
        if not self.wire and not self.answers:
            self.sender.released(self.receiver.take_released())
            assert self.receiver.idle <= IDLE

    @invariant()
    def uses_are_bounded(self) -> None:
        assert self.receiver.uses <= USES

    def teardown(self) -> None:
        while self.wire:
            self.read_back(0, True)
        self.seen.clear()
        while self.answers:
            self.hear()
        self.sender.released(self.receiver.take_released())
        assert self.receiver.uses == 0
        assert self.sender.idle <= IDLE
        self.sender.close()
        self.receiver.close()
        assert mapped() == 0


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=60, stateful_step_count=60)
