"""What an item costs the host of a far queue by the number of its ends: the machine alone, without sockets.

Half of the ends put and half of them get, one item each in turn; each is heard and acked as it would be. What
is measured is everything that the host's machine does for an item, from its PUT to the news that it is done.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence

from benchmarks import tables
from nearfar.net.session import SendTo
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.messages import VERSION, QueueFrame, QueueMessage, QueueMessageType
from nearfar.serialization import item_codec

PEERS = (10, 100, 1000, 4000)
LEASE = 10.0
PACE = 0.2
"""Seconds of simulated time between two messages of one end, however many there are: what an end costs by
itself (acks that cannot wait, beats) is then the same for each item."""


class Sim:
    """An end, as far as the host can tell."""

    def __init__(self, host: Simulated, name: str, *, produces: bool) -> None:
        self.session = f"{name}.1"
        self._host = host
        self._sent = self._stored = self._taken = 0
        self.heard = 0
        self.lent: list[int] = []
        host.ends[self.session] = self
        host.hear(self.session, QueueFrame(0, 0, QueueMessage(QueueMessageType.HELLO, (VERSION, name, {}))))
        self.say(QueueMessageType.JOIN, produces, not produces, [], False)

    def say(self, kind: QueueMessageType, *fields: object, body: bytes | None = None) -> None:
        self._sent += 1
        self._host.hear(self.session, QueueFrame(self._sent, self.heard, QueueMessage(kind, fields, body)))

    def put(self, body: bytes) -> None:
        self._stored += 1
        self.say(QueueMessageType.PUT, self._stored, 1, None, body=body)

    def want(self) -> None:
        """Say that the last items are done, and that another is waited for."""
        done = [[at, at] for at in self.lent]
        self._taken = max([self._taken, *self.lent])
        self.lent = []
        self.say(QueueMessageType.REPORT, 1, 1 << 20, 0, self._taken, done, [], [], [], [])


class Simulated:
    """A host's machine with `peers` ends."""

    def __init__(self, peers: int) -> None:
        about = {"epoch": "e", "inbox": 1, "maxsize": 0, "maxbytes": 0, "lease": LEASE, "trusted": False}
        self.machine = BrokerProtocol(Ledger(), about, lease=LEASE)
        self._step = PACE / peers
        self.ends: dict[str, Sim] = {}
        self.now = self.next_tick = 0.0
        self.producers = [Sim(self, f"p{n}", produces=True) for n in range(peers // 2)]
        self.consumers = [Sim(self, f"c{n}", produces=False) for n in range(peers - peers // 2)]
        for each in self.consumers:
            each.want()

    def hear(self, session: str, envelope: QueueFrame) -> None:
        """As the host's loop does with each message."""
        self.now += self._step
        self.machine.receive(session, envelope, self.now)
        if self.now >= self.next_tick:
            self.machine.tick(self.now)
        for action in self.machine.flush(self.now):
            if isinstance(action, SendTo) and action.envelope.number:
                end = self.ends[action.session]
                end.heard = action.envelope.number
                if action.envelope.message.kind is QueueMessageType.LEND:
                    end.lent.append(action.envelope.message.fields[0])
        self.next_tick = min(self.machine.deadline(self.now), self.now + LEASE / 100)

    def run(self, items: int) -> float:
        """Microseconds an item."""
        body = item_codec.encode(b"x" * 100, trusted=False)
        gc.collect()
        started = time.process_time()
        for number in range(items):
            self.producers[number % len(self.producers)].put(body)
            self.consumers[number % len(self.consumers)].want()
        took = time.process_time() - started
        if self.machine.counts()["settled"] < items - 2 * len(self.consumers):
            raise RuntimeError("items were left behind")
        return took / items * 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown table, and write both forms."""
    parser = tables.make_parser("benchmarks.ledger", __doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the items")
    options = parser.parse_args(argv)
    items = 2000 if options.quick else 20_000
    names = {f"{count:,} ends": count for count in PEERS}
    values: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, count in names.items():
            values[name].append(Simulated(count).run(items))
    first = next(iter(names))
    row = tables.figure("an item", "us", values, first, rate=False)
    made = tables.result([row], list(names), first, options.rounds)
    tables.publish(made, options.output, "ledger", "CPU of the host's machine alone; less is better.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
