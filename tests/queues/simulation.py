"""A far queue without sockets, threads or a clock: the real protocols over a simulated network.

Each socket is a channel: it keeps its order, but may be slow, and loses what a broken connection would lose.
All randomness comes from one seeded generator, so that a failure can be reproduced.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nearfar.net.session import Connect, SendMessage, SessionStage
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.broker.sessions import CloseLane, OpenLane
from nearfar.queues.client.producer import PutRequest
from nearfar.queues.client.protocol import ClientProtocol
from nearfar.queues.client.session import Close, ConnectInbox, ConnectLane
from nearfar.queues.messages import QueueFrame, pack, unpack
from nearfar.serialization import item_codec

LEASE = 10.0


class World:
    """The simulated time and its events."""

    def __init__(self, seed: int, *, loss: float = 0.0, slowest: float = 0.05, **ledger: Any) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.loss = loss
        self.slowest = slowest
        self.ledger_options = ledger
        self.ends: dict[str, SimEnd] = {}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._last_arrival: dict[tuple[str, str], float] = {}
        self.cut_off: set[str] = set()
        self.deaf: set[tuple[str, str]] = set()
        """Channels on which nothing arrives any more, without an error on either side."""
        self.host = SimHost(self, epoch=1)

    def later(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + delay, next(self._order), action))

    def run(self, *, until: Callable[[], bool] = lambda: False, most: float = 3600.0) -> None:
        """Let time pass until `until`, or until nothing more happens within `most` seconds."""
        end = self.now + most
        while self._agenda and not until():
            when, _, action = heapq.heappop(self._agenda)
            if when > end:
                self.now = end
                return
            self.now = max(self.now, when)
            action()

    def carry(
        self, channel: tuple[str, str], end: str, frames: list[bytes], arrive: Callable[[QueueFrame], None]
    ):
        """Take a message over the network: late, in the order of its channel, or not at all."""
        if end in self.cut_off or channel in self.deaf or self.random.random() < self.loss:
            return
        when = self.now + self.random.uniform(0.0001, self.slowest)
        when = max(when, self._last_arrival.get(channel, 0.0))
        self._last_arrival[channel] = when
        envelope = unpack(frames)
        self.later(when - self.now, lambda: arrive(envelope))

    def restart_host(self) -> None:
        """The host is killed and restarted empty."""
        self.host.alive = False
        self.host = SimHost(self, epoch=self.host.epoch + 1)


class SimHost:
    """Does what the host's loop does."""

    def __init__(self, world: World, epoch: int) -> None:
        self.world = world
        self.epoch = epoch
        self.alive = True
        self.ledger = Ledger(**world.ledger_options)
        self.lanes: set[str] = set()
        about = {
            "epoch": str(epoch),
            "inbox": 1,
            "maxsize": self.ledger.maxsize,
            "maxbytes": self.ledger.maxbytes,
            "lease": LEASE,
            "trusted": True,
        }
        self.machine = BrokerProtocol(self.ledger, about, lease=LEASE)
        self._tick()

    def receive(self, session: str, envelope: QueueFrame) -> None:
        if self.alive:
            self.machine.receive(session, envelope, self.world.now)
            assert not self.machine.table.take_complaints(), "an honest end was taken for a hostile one"
            self._act()

    def dead(self, session: str) -> None:
        """The process of a session on this machine ended."""
        if self.alive:
            self.machine.table.dead(session, "it ended", self.world.now)
            self._act()

    def _tick(self) -> None:
        if not self.alive:
            return
        self.machine.tick(self.world.now)
        self._act()
        when = min(self.machine.deadline(self.world.now), self.machine.flush_due)
        delay = max(0.001, when - self.world.now)
        self.world.later(min(delay, 1.0), self._tick)

    def _act(self) -> None:
        while actions := self.machine.flush(self.world.now):
            for action in actions:
                if isinstance(action, OpenLane):
                    self.lanes.add(action.session)
                    self.machine.lane_opened(action.session, action.ask, 2, self.world.now)
                elif isinstance(action, CloseLane):
                    self.lanes.discard(action.session)
                else:
                    self._send(action.session, action.envelope)
        bounded = self.ledger.maxsize
        assert not bounded or self.ledger.size <= bounded, "more in the queue than its bound"
        most = self.ledger.maxbytes
        assert not most or self.ledger.size_bytes <= most, "more bytes in the queue than its bound"

    def _send(self, session: str, envelope: QueueFrame) -> None:
        end = self.world.ends.get(session.rpartition(".")[0])
        if end is None:
            return
        socket = "control" if envelope.message.body is None else "lane"
        self.world.carry(
            (session, socket + " down"), end.name, pack(*envelope), lambda e: end.receive(session, e)
        )


@dataclass(eq=False)
class SimEnd:
    """Does what a client's loop does; programs are subclasses."""

    world: World
    name: str
    alive: bool = True
    frozen: bool = False
    machine: ClientProtocol = field(init=False)

    def __post_init__(self) -> None:
        self.machine = ClientProtocol(self.name, {})
        self.world.ends[self.name] = self
        self.machine.connect(self.world.now)
        self._tick()

    def receive(self, session: str, envelope: QueueFrame) -> None:
        if self.alive and session == self.machine.session_name:
            if self.frozen:
                self.world.later(0.5, lambda: self.receive(session, envelope))
                return
            self.machine.receive(envelope, self.world.now)
            self.act()

    def kill(self, *, seen: bool) -> None:
        """The process is gone; `seen` by a host on the same machine, or only by its silence."""
        self.alive = False
        if seen:
            self.world.host.dead(self.machine.session_name)

    def freeze(self, seconds: float) -> None:
        self.frozen = True
        self.world.later(seconds, self._thaw)

    def _thaw(self) -> None:
        self.frozen = False
        self.act()

    def _tick(self) -> None:
        if not self.alive or self.machine.calling.stage is SessionStage.CLOSED:
            return
        if not self.frozen:
            self.machine.tick(self.world.now)
            self.act()
        delay = max(0.001, self.machine.deadline(self.world.now) - self.world.now)
        self.world.later(min(delay, 0.5), self._tick)

    def act(self) -> None:
        """Run the program's step, then the protocol's actions."""
        if not self.alive or self.frozen:
            return
        self.program()
        for action in self.machine.flush(self.world.now):
            match action:
                case SendMessage(envelope):
                    socket = "control" if envelope.message.body is None else "inbox"
                    session, host = self.machine.session_name, self.world.host
                    frames = pack(*envelope)
                    arrive = lambda e, s=session, h=host: h.receive(s, e)  # noqa: E731
                    self.world.carry((session, socket + " up"), self.name, frames, arrive)
                case Connect() | ConnectInbox() | ConnectLane() | Close():
                    pass

    def program(self) -> None:
        raise NotImplementedError


class SimProducer(SimEnd):
    """Puts ``(name, 1)`` to ``(name, count)``, then leaves."""

    count = 0
    _next = 1
    _entry: PutRequest | None = None

    def program(self) -> None:
        machine = self.machine
        if machine.calling.stage is not SessionStage.OPEN:
            return
        machine.roles.produces = True
        while self._next <= self.count and (self._entry is None or not self._entry.items):
            many = min(self.world.random.choice([1, 1, 1, 5, 40]), self.count - self._next + 1)
            items = [(self.name, n) for n in range(self._next, self._next + many)]
            self._next += many
            self._entry = PutRequest(deque_of(items))
            machine.sender.put(self._entry)
        if self._next > self.count and (self._entry is None or not self._entry.items):
            self.finished()

    def finished(self) -> None:
        self.machine.leave()


class SteadyProducer(SimProducer):
    """Says goodbye only when everything it put is settled, so that even the host's death costs nothing."""

    def finished(self) -> None:
        if not self.machine.sender.unsettled:
            self.machine.leave()


class SimConsumer(SimEnd):
    """Takes items, works on each for a while, acks it; leaves at the counted end."""

    slowest = 0.02
    _busy = False

    def __post_init__(self) -> None:
        self.seen: list[tuple[Any, int]] = []
        self.done: list[Any] = []
        super().__post_init__()

    def program(self) -> None:
        machine = self.machine
        if machine.calling.stage is not SessionStage.OPEN or self._busy:
            return
        machine.roles.consumes = True
        taken = machine.receiver.take(1, self.world.now)
        if taken is None:
            machine.receiver.waiters = 1
            if machine.session.over:
                machine.leave()
            return
        machine.receiver.waiters = 0
        self._busy = True
        self.seen.append((taken.item, taken.attempt))
        session = machine.calling.number
        pace = self.world.random.choice([0.0, 0.0, 0.0, self.slowest, 10 * self.slowest])
        work = self.world.random.uniform(0, pace)
        self.world.later(work, lambda: self._finish(session, taken.position, taken.item))

    def _finish(self, session: int, position: int, item: Any) -> None:
        if self.frozen:
            self.world.later(0.5, lambda: self._finish(session, position, item))
            return
        self._busy = False
        if self.alive:
            self.done.append(item)
            if session == self.machine.calling.number:
                self.machine.receiver.done(position)
            self.act()


def deque_of(items: list[Any]) -> deque[bytes]:
    return deque(item_codec.encode(item, trusted=True) for item in items)
