"""The ledger: the state and the holder of every item of a hosted queue, and which producers came and left.

Pure: no clock, no sockets.

::

              store          lend            took          settle
    producer ------> WAITING -----> LENT ----------> HELD ------> DONE ----> the producer's news
                        ^             |  give back     | lost, nacked
                        +-------------+----------------+----> DEAD after `max_attempts` strikes

The queue's size counts WAITING and LENT: items put that no program has taken. Cost is per run, not per item.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf, nextafter

from nearfar.net.resources import Budget
from nearfar.queues.broker.records import (
    DEAD_BYTES_KEPT,
    DEAD_LETTERS_KEPT,
    ConsumerRecord,
    DeadLetter,
    ItemRange,
    News,
    ProducerRecord,
    ProducerState,
    ReadyList,
    Settlement,
)
from nearfar.serialization.shared_ring import Body, whole

MOST_LOST = 10_000
"""Names of lost producers that are kept."""
MOST_ARRIVALS = 10_000
"""New producers that are remembered. Beyond that, the replacements by the earlier half become final."""


class ProducerRegistry:
    """Counts producers: once `expected` of them have come and all have left, the queue's round is over.

    A new producer replaces one that was lost, and the two count as one. It may come before the loss is seen,
    which may take a lease: so any producer that came after the last message of the lost one may replace it.
    The pairs are not stored, but computed from these times: a producer that was taken for lost and returns
    may have been paired with the replacement of another.

    Helpers are not counted. The producer that vouches for them stays connected for as long as they may put,
    and sends again what they lose.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self.here = 0
        """Producers that came and did not leave."""
        self._came = self._round = 0
        self._arrivals: list[float] = []
        """When each new producer came: no two at the same time, so that none replaces itself."""
        self._absent: dict[str, float] = {}
        """Producers that were lost and did not return, and from when on a new producer may replace each."""
        self._lost: list[str] | None = []
        """Those of them that were not replaced; None: to be computed again."""

    @property
    def lost(self) -> list[str]:
        """The names of producers that died or fell silent and were not replaced, the first lost first."""
        if self._lost is None:
            replaced = self._replaced_by(self._arrivals)
            self._lost = [name for name in self._absent if name not in replaced]
        return self._lost

    def enter(self, producer: ProducerRecord, now: float) -> None:
        """Count a producer that comes, or comes back."""
        if producer.helper:
            producer.state = ProducerState.OPEN
            return
        if self._absent.pop(producer.name, None) is not None:
            self._lost = None
        elif producer.round < 0:
            self._arrive(producer, now)
        self._came += producer.round != self._round
        producer.round = self._round
        self.here += producer.state is not ProducerState.OPEN
        producer.state = ProducerState.OPEN

    def leave(self, producer: ProducerRecord, state: ProducerState, heard: float | None) -> None:
        """Count a producer that left (GONE), or was lost (LOST) and last `heard` then, if that is known."""
        if producer.helper:
            producer.state = state
        elif producer.state is ProducerState.OPEN:
            producer.state = state
            self.here -= 1
            if state is ProducerState.LOST and len(self._absent) < MOST_LOST:
                later = nextafter(producer.arrived, inf)
                self._absent[producer.name] = self._next_arrival() if heard is None else max(heard, later)
                self._lost = None

    def over(self) -> bool:
        """True if all expected producers came and left."""
        return self.here == 0 and self._came - len(self._absent) + len(self.lost) >= self._expected

    def begin_anew(self) -> None:
        """Start a new round: count from 0."""
        self._round += 1
        self._came = 0
        self._arrivals.clear()
        self._absent.clear()
        self._lost = []

    def _arrive(self, producer: ProducerRecord, now: float) -> None:
        producer.arrived = max(now, self._next_arrival())
        self._arrivals.append(producer.arrived)
        if self._lost:
            del self._lost[0]
        if len(self._arrivals) > MOST_ARRIVALS:
            half = MOST_ARRIVALS // 2
            for name in self._replaced_by(self._arrivals[:half]):
                del self._absent[name]
                self._came -= 1
            del self._arrivals[:half]

    def _next_arrival(self) -> float:
        return nextafter(self._arrivals[-1], inf) if self._arrivals else -inf

    def _replaced_by(self, arrivals: Sequence[float]) -> set[str]:
        """The absent producers that new ones replace: as many as possible, and of these the first lost.

        If a new producer may replace an absent one, so may all later ones. So each can take any that it may
        replace, without leaving too little choice for the later ones.
        """
        replaced: set[str] = set()
        coming = sorted((since, order, name) for order, (name, since) in enumerate(self._absent.items()))
        eligible: list[tuple[int, str]] = []
        place = 0
        for arrived in arrivals[bisect_left(arrivals, coming[0][0]) :] if coming else ():
            while place < len(coming) and coming[place][0] <= arrived:
                heappush(eligible, coming[place][1:])
                place += 1
            if eligible:
                replaced.add(heappop(eligible)[1])
        return replaced


NO_PRODUCER = ""
"""Stands for the producer of an item that was a dead letter."""
UNBOUNDED = 1 << 62
"""Bytes: more than there ever are."""


class Ledger:
    """See the module. Methods raise `KeyError` for a consumer that is not registered: check first."""

    def __init__(
        self,
        maxsize: int = 0,
        maxbytes: int = 0,
        *,
        max_attempts: int = 5,
        expected: int = 1,
        standing: bool = False,
        max_unsettled: int = 0,
    ) -> None:
        """`max_unsettled`: unsettled bytes that all consumers together may have, also on their way (0: no
        bound). A consumer may have as many bytes as it leaves free (`Budget`), and always one batch."""
        self.maxsize = maxsize
        self.maxbytes = maxbytes
        self.max_attempts = max_attempts
        self.standing = standing
        self.shut = self._drops = False
        self.producers: dict[str, ProducerRecord] = {}
        self.newsworthy: set[str] = set()
        """Producers with news not sent yet."""
        self.consumers: dict[str, ConsumerRecord] = {}
        self.bearers: dict[str, set[str]] = {}
        self.dead: deque[DeadLetter] = deque()
        self.dead_bytes = 0
        self.lent = Budget(max_unsettled or UNBOUNDED)
        """Bytes that consumers have, by consumer name."""
        self.stored = self.settled = self.died = self.dropped = self.undeliverable = self.late = 0
        self.redelivered = 0
        """Items that wait for another attempt, or had one, after their consumer failed."""
        self.waiting = ReadyList()
        """Items that any consumer may have."""
        self._addressed: dict[str, ReadyList] = {}
        self.size = self.size_bytes = 0
        """Items put and not taken (the value of `qsize`), and their bytes."""
        self.shared_tags: list[str] = []
        """The tags by which consumers can be addressed, in addition to their own names."""
        self._granted_items = self._granted_bytes = 0
        self.producer_registry = ProducerRegistry(expected)
        """Which producers came and left."""

    # -- state -----------------------------------------------------------------------------------

    @property
    def lost(self) -> list[str]:
        """Names of producers that died or fell silent and were not replaced."""
        return self.producer_registry.lost

    @property
    def unsettled(self) -> int:
        """Items stored and not settled, dead, dropped or undeliverable yet."""
        return self.stored - self.settled - self.died - self.dropped - self.undeliverable

    def oldest(self) -> int | None:
        """The order (from 1) of the oldest item that is not settled; None if there is none. Of each consumer,
        only the item that it has had for the longest time is compared."""
        lists = [each.oldest for each in (self.waiting, *self._addressed.values()) if each]
        lists += [first for each in self.consumers.values() if (first := each.leases.oldest) is not None]
        return min(lists, default=None)

    def requeue_dead(self) -> int:
        """Store every dead letter that is kept again, as a new item of no producer; returns their number.

        They may exceed the bound, like items that were given back. Nothing is reported to their producers,
        which were told that they are dead.
        """
        letters = list(self.dead)
        self.dead.clear()
        self.dead_bytes = 0
        for letter in letters:
            run = ItemRange(NO_PRODUCER, 1, letter.count, letter.body, self.stored + 1)
            self.stored += letter.count
            self._shelve(run)
        return sum(letter.count for letter in letters)

    # -- producers -------------------------------------------------------------------------------

    def enter(self, name: str, now: float = 0.0, *, helper: bool = False) -> ProducerRecord:
        """Register a producer that comes, or comes back; another producer vouches for a helper."""
        producer = self.producers.setdefault(name, ProducerRecord(name, ProducerState.GONE, helper=helper))
        self.producer_registry.enter(producer, now)
        return producer

    def room(self) -> tuple[int, int]:
        """The items and bytes that may still be granted. Meaningless without a bound."""
        items = self.maxsize - self.size - self._granted_items
        return items, self.maxbytes - self.size_bytes - self._granted_bytes

    def grant(self, name: str, items: int, size: int) -> None:
        """Grant a producer credit for `items` and `size` bytes (negative numbers take it back)."""
        producer = self.producers[name]
        producer.granted = (producer.granted[0] + items, producer.granted[1] + size)
        self._granted_items += items
        self._granted_bytes += size

    def store(self, name: str, first: int, count: int, body: Body, to: str | None) -> bool:
        """Store a run. Returns False for a run that was already stored, in an earlier session."""
        producer = self.producers[name]
        if self.maxsize or self.maxbytes:
            used = (min(count, producer.granted[0]), min(len(body), producer.granted[1]))
            self.grant(name, -used[0], -used[1])
        if first <= producer.stored:
            return False
        producer.stored = first + count - 1
        run = ItemRange(name, first, count, body, self.stored + 1, to)
        self.stored += count
        self._shelve(run)
        return True

    def revoke(self, name: str) -> None:
        """Free the unused credit of a producer whose session ended."""
        items, size = self.producers[name].granted
        self.grant(name, -items, -size)

    def leave(self, name: str, state: ProducerState, heard: float | None = None) -> None:
        """Record that a producer left (GONE) or was lost (LOST), last `heard` then."""
        self.revoke(name)
        self.producer_registry.leave(self.producers[name], state, heard)
        if state is ProducerState.GONE and self.producers[name].helper:
            del self.producers[name]  # there may be one for each task of a pool

    def part(self) -> None:
        """Note that no producer or consumer is connected. If every item is settled, a standing queue then
        starts a new round."""
        if self.standing and self.finished() and not self.unsettled:
            self.producer_registry.begin_anew()

    # -- consumers -------------------------------------------------------------------------------

    def admit(self, name: str, tags: frozenset[str]) -> ConsumerRecord:
        """Register a consumer. Its own name is one of its tags."""
        consumer = self.consumers[name] = ConsumerRecord(name, tags | {name})
        for tag in consumer.tags:
            self.bearers.setdefault(tag, set()).add(name)
        self._note_tags()
        return consumer

    def lend(self, name: str) -> tuple[int, ItemRange] | None:
        """The position and the next run for a consumer with capacity; None if no run waits for it."""
        consumer = self.consumers[name]
        leases = consumer.leases
        ready_list = self._next_ready_list(consumer.tags) if self._addressed else self.waiting
        if ready_list is None or not ready_list.items or not consumer.has_capacity or self.at_share(name):
            return None
        run = ready_list.take(
            consumer.window_items - leases.untaken_items, consumer.window_bytes - leases.untaken_bytes
        )
        self.lent.add(name, len(run.body))
        return leases.lend(run), run

    def at_share(self, name: str) -> bool:
        """True if a consumer has as many bytes as it may: it gets no more until it or another one settles."""
        lent = self.lent
        if 2 * lent.used <= lent.most:  # then no consumer has
            return False
        leases = self.consumers[name].leases
        return leases.untaken_items + leases.held_items > 0 and not self.lent.fits(name, 0)

    def took(self, name: str, upto: int) -> None:
        """Record that the consumer's program has every item up to position `upto`."""
        leases = self.consumers[name].leases
        items, size = leases.untaken_items, leases.untaken_bytes
        leases.take(upto)
        self.size -= items - leases.untaken_items
        self.size_bytes -= size - leases.untaken_bytes

    def settle(self, name: str, first: int, last: int, answer: bytes | None = None) -> None:
        """Settle positions `first` to `last` of the consumer; those it no longer holds are late."""
        runs = self._remove(name, first, last)
        for run in runs:
            self._tell(run, Settlement.DONE if answer is None else Settlement.ANSWERED, answer)
        done = sum(run.count for run in runs)
        self.settled += done
        self.late += last - first + 1 - done

    def give_back(self, name: str, first: int, last: int) -> None:
        """Take back items that the consumer's program did not see; that does not count as an attempt."""
        for run in self._remove(name, first, last):
            self._shelve(run)

    def fail(self, name: str, first: int, last: int, why: str, *, guilty: bool = True) -> None:
        """Redeliver positions `first` to `last`, which the consumer failed. If `guilty`, the items get a
        strike."""
        runs = self._remove(name, first, last)
        self.late += last - first + 1 - sum(run.count for run in runs)
        for run in runs:
            self._again(run, why, guilty)

    def dead_letter(self, name: str, first: int, last: int, why: str) -> None:
        """Make positions `first` to `last` dead letters: the consumer cannot read them, nor could another."""
        for run in self._remove(name, first, last):
            run.strikes = self.max_attempts
            self._again(run, why, guilty=True)

    def dismiss(self, name: str, why: str, *, cleanly: bool = False) -> None:
        """Remove a consumer that is gone and redeliver its items.

        Its program may have seen any of them, so each counts as another attempt; but only the items that the
        program is known to have taken, and the next one, get a strike. After a clean goodbye no item gets a
        strike, and for items never taken it does not count as an attempt.
        """
        consumer = self.consumers[name]
        held, last = consumer.leases.taken, consumer.leases.last
        if cleanly:
            self.give_back(name, held + 1, last)
        for run in self._remove(name, 1, held + 1):
            self._again(run, why, guilty=not cleanly)
        for run in self._remove(name, 1, last):
            self._again(run, why, guilty=False)
        del self.consumers[name]
        for tag in consumer.tags:
            self.bearers[tag].discard(name)
            if not self.bearers[tag]:
                self._forget(tag)
        self._note_tags()

    # -- the end ---------------------------------------------------------------------------------

    def close(self, *, immediate: bool) -> None:
        """Shut down: expect no more items; with `immediate`, drop those that no consumer holds."""
        self.shut = True
        if immediate:
            self._drops = True
            for ready_list in (self.waiting, *self._addressed.values()):
                for run in self._clear(ready_list):
                    self._drop(run)

    def finished(self) -> bool:
        """True if no producer will put again: shut down, or all expected producers came and left."""
        return self.shut or self.producer_registry.over()

    def over(self, name: str) -> bool:
        """True if no more items will come for this consumer.

        After a shutdown, that holds as soon as the queue is empty, as with `queue.Queue`. At the counted end,
        this consumer must hold all unsettled items: those that others hold may be redelivered.
        """
        if self.shut:
            return self.size == 0
        return self.finished() and self.unsettled == self.consumers[name].leases.held_items

    # -- inside ----------------------------------------------------------------------------------

    def _drop(self, run: ItemRange) -> None:
        self.dropped += run.count
        self._tell(run, Settlement.DROPPED, None)

    def _shelve(self, run: ItemRange) -> None:
        if self._drops:
            self._drop(run)
            return
        if run.to is None:
            ready_list = self.waiting
        elif self.bearers.get(run.to):
            ready_list = self._addressed.setdefault(run.to, ReadyList())
        else:
            self._undeliverable(run)
            return
        ready_list.add(run)
        self.size += run.count
        self.size_bytes += len(run.body)

    def _clear(self, ready_list: ReadyList) -> list[ItemRange]:
        self.size -= ready_list.items
        self.size_bytes -= ready_list.bytes
        return ready_list.clear()

    def _next_ready_list(self, tags: frozenset[str]) -> ReadyList | None:
        ready_lists = [self.waiting] if self.waiting.items else []
        ready_lists += [self._addressed[tag] for tag in tags if self._addressed.get(tag)]
        return min(ready_lists, key=lambda ready_list: ready_list.oldest, default=None)

    def _remove(self, name: str, first: int, last: int) -> list[ItemRange]:
        leases = self.consumers[name].leases
        items, size = leases.untaken_items, leases.untaken_bytes
        runs = leases.remove(first, last)
        self.size -= items - leases.untaken_items
        self.size_bytes -= size - leases.untaken_bytes
        self.lent.add(name, -sum([len(run.body) for run in runs]))
        return runs

    def _again(self, run: ItemRange, why: str, guilty: bool) -> None:
        run.attempt += 1
        run.history = (*run.history, why)[-20:]
        run.strikes += guilty
        if run.strikes < self.max_attempts:
            self.redelivered += run.count
            self._shelve(run)
            return
        self.died += run.count
        self.dead.append(DeadLetter(run.count, whole(run.body), run.producer, run.attempt - 1, run.history))
        self.dead_bytes += len(self.dead[-1].body)
        while len(self.dead) > DEAD_LETTERS_KEPT or (
            self.dead_bytes > DEAD_BYTES_KEPT and len(self.dead) > 1
        ):
            self.dead_bytes -= len(self.dead.popleft().body)
        self._tell(run, Settlement.DEAD, None)

    def _forget(self, tag: str) -> None:
        del self.bearers[tag]
        for run in self._clear(self._addressed.pop(tag, ReadyList())):
            self._undeliverable(run)

    def _note_tags(self) -> None:
        self.shared_tags = sorted(self.bearers.keys() - self.consumers.keys())

    def _undeliverable(self, run: ItemRange) -> None:
        self.undeliverable += run.count
        self._tell(run, Settlement.UNDELIVERABLE, None)

    def _tell(self, run: ItemRange, outcome: Settlement, answer: bytes | None) -> None:
        producer = self.producers.get(run.producer)
        if producer is not None and producer.state is not ProducerState.GONE:
            self.newsworthy.add(run.producer)
            producer.note(News(run.first, run.count, outcome, answer))
