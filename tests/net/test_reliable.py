"""The windows deliver every message once and in order, over a network that loses, repeats and reorders."""

from __future__ import annotations

from collections import Counter
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.net.reliable import FURTHEST_AHEAD, ReceiveWindow, SendWindow
from nearfar.net.resources import Budget

pytestmark = pytest.mark.pure

PATIENCE = 1.0


def outgoing(*messages: str, now: float = 0.0) -> SendWindow[str]:
    line: SendWindow[str] = SendWindow(PATIENCE)
    for message in messages:
        line.send(message, now)
    return line


# -- out ---------------------------------------------------------------------------------------------


def test_messages_are_numbered_from_one() -> None:
    line = outgoing()
    assert [line.send("a", 0.0), line.send("b", 0.0)] == [1, 2]
    assert line.sent == 2


def test_an_ack_covers_all_before_it() -> None:
    line = outgoing("a", "b", "c")
    line.acked(2, 0.1)
    assert line.unacked() == [(3, "c")]
    assert len(line) == 1


@pytest.mark.parametrize("upto", [0, 1, 2, -1, 4, 1 << 62])
def test_an_old_or_impossible_ack_changes_nothing(upto: int) -> None:
    """Given a send window whose first two of three messages are acked,

    If a number comes that is older, or that was never sent,
    I expect the third to be kept, and its deadline to stand.
    """
    line = outgoing("a", "b", "c")
    line.acked(2, 0.5)
    line.acked(upto, 0.9)
    assert line.unacked() == [(3, "c")]
    assert line.when == 0.5 + PATIENCE


def test_nothing_is_overdue_while_nothing_is_unacked() -> None:
    line = outgoing("a")
    line.acked(1, 0.2)
    assert line.when == inf
    assert line.overdue(1e9) == []


def test_all_unacked_messages_are_sent_again_at_the_deadline_and_not_before() -> None:
    line = outgoing("a", "b")
    assert line.overdue(PATIENCE - 0.01) == []
    assert line.overdue(PATIENCE) == [(1, "a"), (2, "b")]
    assert line.overdue(PATIENCE) == []


def test_the_deadline_doubles_without_progress_up_to_eight_times() -> None:
    line = outgoing("a")
    waits, last = [], 0.0
    for _ in range(6):
        now = line.when
        assert now < inf
        waits.append(now - last)
        assert line.overdue(now)
        last = now
    assert waits == [1, 2, 4, 8, 8, 8]


def test_progress_ends_the_back_off() -> None:
    line = outgoing("a", "b")
    for now in (1.0, 3.0, 7.0):
        assert line.overdue(now)
    line.acked(1, 8.0)
    assert line.when == 8.0 + PATIENCE


def test_a_message_after_a_pause_gets_the_full_deadline() -> None:
    line = outgoing("a")
    assert line.overdue(1.0)
    line.acked(1, 1.5)
    line.send("b", 100.0)
    assert line.when == 100.0 + PATIENCE


def test_a_channel_is_stuck_since_its_last_progress_however_often_it_resends() -> None:
    line = outgoing("a", "b")
    assert line.stuck(3.0) == 3.0
    line.overdue(3.0)
    assert line.stuck(4.0) == 4.0
    line.acked(1, 5.0)
    assert line.stuck(6.0) == 1.0
    line.postpone(0.5)
    assert line.stuck(6.0) == 0.5
    line.acked(2, 7.0)
    assert line.stuck(100.0) == 0.0
    line.send("c", 200.0)
    assert line.stuck(201.0) == 1.0


# -- in ----------------------------------------------------------------------------------------------


def test_an_early_message_waits_for_its_turn() -> None:
    line: ReceiveWindow[str] = ReceiveWindow()
    assert line.accept(3, "c") == []
    assert line.accept(2, "b") == []
    assert line.received == 0
    assert line.accept(1, "a") == ["a", "b", "c"]
    assert line.received == 3


def test_a_duplicate_message_is_counted_and_not_delivered() -> None:
    line: ReceiveWindow[str] = ReceiveWindow()
    line.accept(1, "a")
    line.accept(3, "c")
    assert line.accept(1, "a") == [] == line.accept(3, "another")
    assert line.repeated == 2
    assert line.accept(2, "b") == ["b", "c"]


@pytest.mark.parametrize("number", [0, -5, FURTHEST_AHEAD + 1, 1 << 62])
def test_an_impossible_number_is_not_kept(number: int) -> None:
    line: ReceiveWindow[str] = ReceiveWindow()
    assert line.accept(number, "x") == []
    assert (line.received, line.repeated) == (0, 1)


# -- both, over a bad network --------------------------------------------------------------------------


class Network:
    """Two windows, a network between them, and a clock: messages in transit, and arrived ones."""

    def __init__(self) -> None:
        self.now = 0.0
        self.out: SendWindow[int] = SendWindow(PATIENCE)
        self.inbox: ReceiveWindow[int] = ReceiveWindow()
        self.going: list[tuple[int, int]] = []
        self.acks: list[int] = []
        self.delivered: list[int] = []
        self.transmissions: Counter[int] = Counter()

    def transmit(self, messages: list[tuple[int, int]]) -> None:
        self.going += messages
        self.transmissions.update(number for number, _ in messages)

    def send(self) -> None:
        message = self.out.sent
        self.transmit([(self.out.send(message, self.now), message)])

    def deliver(self, index: int) -> None:
        number, message = self.going[index % len(self.going)]
        self.delivered += self.inbox.accept(number, message)
        self.acks.append(self.inbox.received)

    def tick(self, passed: float) -> None:
        self.now += passed
        self.transmit(self.out.overdue(self.now))

    def act(self, action: str, index: int) -> None:
        match action:
            case "send":
                self.send()
            case "deliver" | "repeat" if self.going:
                self.deliver(index)
                if action == "deliver":
                    self.going.pop(index % len(self.going))
            case "lose" if self.going:
                self.going.pop(index % len(self.going))
            case "ack" | "lose ack" if self.acks:
                ack = self.acks.pop(index % len(self.acks))
                if action == "ack":
                    self.out.acked(ack, self.now)
            case "tick":
                self.tick(index / 10)

    def check(self) -> None:
        """Arrived messages are in order and unique; unacked ones are kept."""
        assert self.delivered == list(range(len(self.delivered)))
        assert self.inbox.received == len(self.delivered)
        first_unacked = self.out.sent - len(self.out)
        assert first_unacked <= self.inbox.received <= self.out.sent
        assert [message for _, message in self.out.unacked()] == list(range(first_unacked, self.out.sent))


steps = st.tuples(
    st.sampled_from(["send", "send", "deliver", "repeat", "lose", "ack", "lose ack", "tick"]),
    st.integers(0, 30),
)


@settings(max_examples=200)
@given(st.lists(steps, max_size=80))
def test_every_message_arrives_once_and_in_order_whatever_the_network_does(
    history: list[tuple[str, int]],
) -> None:
    network = Network()
    for action, index in history:
        network.act(action, index)
        network.check()
    sent, rounds = network.out.sent, 0
    while len(network.out):
        network.going.clear()
        network.tick(8 * PATIENCE)
        while network.going:
            network.act("deliver", -1)
        network.act("ack", -1)
        network.check()
        rounds += 1
    assert network.delivered == list(range(sent))
    assert rounds <= 1


@settings(max_examples=100)
@given(st.integers(1, 20), st.lists(st.floats(0.01, 5.0), max_size=60))
def test_a_dead_network_gets_few_retransmissions(count: int, ticks: list[float]) -> None:
    """Unacked messages are sent again rarely: three times at first, then once in eight times the deadline."""
    network = Network()
    for _ in range(count):
        network.send()
    for passed in ticks:
        network.tick(passed)
    most = 1 + 3 + network.now / (8 * PATIENCE)
    assert all(times <= most for times in network.transmissions.values())


def test_early_messages_have_a_bound_over_all_channels() -> None:
    """Given 100,000 bytes for all channels together, and ten channels with messages that come out of order,

    I expect the sum of kept bytes never to exceed that; all of it to be free again once the messages are in
    order, or the channels closed; and dropped messages to be accepted when they are sent again.
    """
    room = Budget(100_000)
    lines = []
    for name in "abcdefghij":
        line: ReceiveWindow[bytes] = ReceiveWindow(len)
        line.allowance = (room, name)
        lines.append(line)
    for number in range(2, 12):
        for line in lines:
            line.accept(number, bytes(5000))
            assert room.used <= 100_000
    assert room.used > 50_000
    assert len(lines[0].accept(1, b"")) > 1
    assert "a" not in room.held
    for number in range(1, 12):
        lines[0].accept(number, bytes(5000))
    assert lines[0].received == 11
    for line in lines:
        line.close()
    assert (room.used, room.held) == (0, {})
