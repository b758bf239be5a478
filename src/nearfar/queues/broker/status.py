"""The status of a hosted queue, for a dashboard. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

from nearfar.net.validation import shown
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.sessions import Peer

if TYPE_CHECKING:
    from nearfar.dashboard.model import ConsumerRow, LetterRow, QueueStatus

MOST_CONSUMERS = 200
MOST_LETTERS = 50
MOST_SAMPLES = 4096


class Ages:
    """How old the oldest item is, without a time for each item.

    Each snapshot notes how many items had come by then. Items are numbered in the order in which they came;
    so the first sample that counts an item shows when it had come at the latest. With one sample a second,
    the result is up to a second too low; more for a very old item, because samples are thinned out.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def age(self, ledger: Ledger, now: float) -> float:
        """Seconds since the oldest item that is not settled came; 0 if there is none."""
        samples = self._samples
        samples.append((now, ledger.stored))
        oldest = ledger.oldest()
        if oldest is None:
            samples.clear()
            return 0.0
        while samples[0][1] < oldest:
            samples.popleft()
        if len(samples) > MOST_SAMPLES:
            self._samples = deque(islice(samples, 0, None, 2))
        return now - samples[0][0]


def queue_status(
    ledger: Ledger, peers: Mapping[str, Peer], counts: Mapping[str, int], ages: Ages, now: float
) -> QueueStatus:
    """`counts`: the figures of the queue. Names of sessions are secret: those of clients are shown."""
    consumers: list[ConsumerRow] = [
        {
            "name": shown(peers[name].uid),
            "taken": consumer.leases.held_items,
            "ahead": consumer.leases.untaken_items,
            "delivered": consumer.leases.last,
        }
        for name, consumer in islice(ledger.consumers.items(), MOST_CONSUMERS)
        if name in peers
    ]
    letters: list[LetterRow] = [
        {
            "items": letter.count,
            "bytes": len(letter.body),
            "producer": shown(letter.producer),
            "attempts": letter.attempts,
            "history": [shown(line) for line in letter.history],
        }
        for letter in islice(reversed(ledger.dead), MOST_LETTERS)
    ]
    return {
        "counts": dict(counts),
        "oldest": ages.age(ledger, now),
        "consumers": consumers,
        "dead_letters": letters,
    }
