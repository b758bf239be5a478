"""The ledger: every item of a hosted queue, where it is, and whose it is. Pure: no clock, no sockets.

::

              store          lend            took          settle
    producer ------> WAITING -----> LENT ----------> HELD ------> DONE ----> the producer's news
                        ^             |  give back     | lost, nacked
                        +-------------+----------------+----> DEAD after `max_attempts` strikes

The queue's size is WAITING and LENT: what was put and no program has taken. Cost is per run, not per item.
"""

from __future__ import annotations

from collections import deque

from nearfar.net.budget import Budget
from nearfar.queues.host.attendance import Attendance
from nearfar.queues.host.records import (
    DEAD_BYTES_KEPT,
    DEAD_LETTERS_KEPT,
    Consumer,
    DeadLetter,
    News,
    Outcome,
    Producer,
    State,
)
from nearfar.queues.host.runs import Run, Shelf

UNBOUNDED = 1 << 62
"""Bytes: more than there ever are."""


class Ledger:
    """See the module. Methods raise `KeyError` for a consumer that is not there: ask first."""

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
        """`max_unsettled`: bytes that consumers may have in all and not have settled (0: no bound), those
        that are on their way to them among these. A consumer may have as many as it leaves free
        (`net.budget`), and always one batch."""
        self.maxsize = maxsize
        self.maxbytes = maxbytes
        self.max_attempts = max_attempts
        self.standing = standing
        self.shut = self._drops = False
        self.producers: dict[str, Producer] = {}
        self.newsworthy: set[str] = set()
        """Producers with news to be told."""
        self.consumers: dict[str, Consumer] = {}
        self.bearers: dict[str, set[str]] = {}
        self.dead: deque[DeadLetter] = deque()
        self.dead_bytes = 0
        self.lent = Budget(max_unsettled or UNBOUNDED)
        """What consumers have, by their names."""
        self.stored = self.settled = self.died = self.dropped = self.undeliverable = self.late = 0
        self.waiting = Shelf()
        """What any consumer may have."""
        self._addressed: dict[str, Shelf] = {}
        self.size = self.size_bytes = 0
        """Items put and not taken, what `qsize` answers; and their bytes."""
        self.shared_tags: list[str] = []
        """The tags under which consumers can be addressed, besides their own names."""
        self._granted_items = self._granted_bytes = 0
        self.attendance = Attendance(expected)
        """Which producers came and left."""

    # -- what there is ---------------------------------------------------------------------------

    @property
    def lost(self) -> list[str]:
        """Producers that died or fell silent, and were not replaced."""
        return self.attendance.lost

    @property
    def unsettled(self) -> int:
        """Items stored that have come to no end yet."""
        return self.stored - self.settled - self.died - self.dropped - self.undeliverable

    # -- producers -------------------------------------------------------------------------------

    def enter(self, name: str, now: float = 0.0, *, helper: bool = False) -> Producer:
        """A producer comes, or comes back; a helper is one that another producer vouches for."""
        producer = self.producers.setdefault(name, Producer(name, State.GONE, helper=helper))
        self.attendance.enter(producer, now)
        return producer

    def room(self) -> tuple[int, int]:
        """How many items, and bytes, may still be granted. Meaningless where there is no bound."""
        items = self.maxsize - self.size - self._granted_items
        return items, self.maxbytes - self.size_bytes - self._granted_bytes

    def grant(self, name: str, items: int, size: int) -> None:
        """Let a producer put so much (or, with negative numbers, so much less)."""
        producer = self.producers[name]
        producer.granted = (producer.granted[0] + items, producer.granted[1] + size)
        self._granted_items += items
        self._granted_bytes += size

    def store(self, name: str, first: int, count: int, body: bytes, to: str | None) -> bool:
        """Take in a run. One that was stored before, in an earlier session, is not taken again."""
        producer = self.producers[name]
        if self.maxsize or self.maxbytes:
            used = (min(count, producer.granted[0]), min(len(body), producer.granted[1]))
            self.grant(name, -used[0], -used[1])
        if first <= producer.stored:
            return False
        producer.stored = first + count - 1
        run = Run(name, first, count, body, self.stored + 1, to)
        self.stored += count
        self._shelve(run)
        return True

    def revoke(self, name: str) -> None:
        """A producer's session ended: what it was granted and did not use is free again."""
        items, size = self.producers[name].granted
        self.grant(name, -items, -size)

    def leave(self, name: str, state: State, heard: float | None = None) -> None:
        """A producer has said goodbye (GONE) or was lost (LOST), last `heard` then."""
        self.revoke(name)
        self.attendance.leave(self.producers[name], state, heard)
        if state is State.GONE and self.producers[name].helper:
            del self.producers[name]  # there may be one for each task of a pool

    def part(self) -> None:
        """No producer or consumer is left. If all is done, a standing queue counts anew for the next ones."""
        if self.standing and self.finished() and not self.unsettled:
            self.attendance.begin_anew()

    # -- consumers -------------------------------------------------------------------------------

    def admit(self, name: str, tags: frozenset[str]) -> Consumer:
        """A consumer comes. Its own name is one of its tags."""
        consumer = self.consumers[name] = Consumer(name, tags | {name})
        for tag in consumer.tags:
            self.bearers.setdefault(tag, set()).add(name)
        self._note_tags()
        return consumer

    def lend(self, name: str) -> tuple[int, Run] | None:
        """The next run for a hungry consumer and its position; None when nothing waits for it."""
        consumer = self.consumers[name]
        leases = consumer.leases
        shelf = self._next_shelf(consumer.tags)
        if shelf is None or not consumer.hungry or self.has_its_fill(name):
            return None
        run = shelf.take(
            consumer.window_items - leases.untaken_items, consumer.window_bytes - leases.untaken_bytes
        )
        self.lent.add(name, len(run.body))
        return leases.lend(run), run

    def has_its_fill(self, name: str) -> bool:
        """True if a consumer has as many bytes as it may, and gets no more until it, or another, settles."""
        leases = self.consumers[name].leases
        return leases.untaken_items + leases.held_items > 0 and not self.lent.fits(name, 0)

    def took(self, name: str, upto: int) -> None:
        """The consumer's program has every item up to position `upto`."""
        leases = self.consumers[name].leases
        items, size = leases.untaken_items, leases.untaken_bytes
        leases.take(upto)
        self.size -= items - leases.untaken_items
        self.size_bytes -= size - leases.untaken_bytes

    def settle(self, name: str, first: int, last: int, answer: bytes | None = None) -> None:
        """The consumer is done with positions `first` to `last`; those it no longer holds are late."""
        runs = self._remove(name, first, last)
        for run in runs:
            self._tell(run, Outcome.DONE if answer is None else Outcome.ANSWERED, answer)
        done = sum(run.count for run in runs)
        self.settled += done
        self.late += last - first + 1 - done

    def give_back(self, name: str, first: int, last: int) -> None:
        """The consumer returns what no program of its saw; that is no attempt."""
        for run in self._remove(name, first, last):
            self._shelve(run)

    def fail(self, name: str, first: int, last: int, why: str, *, guilty: bool = True) -> None:
        """The consumer gives up on positions `first` to `last`; a guilty one strikes the items."""
        runs = self._remove(name, first, last)
        self.late += last - first + 1 - sum(run.count for run in runs)
        for run in runs:
            self._again(run, why, guilty)

    def bury(self, name: str, first: int, last: int, why: str) -> None:
        """The consumer cannot read positions `first` to `last`: another attempt would be no better."""
        for run in self._remove(name, first, last):
            run.strikes = self.max_attempts
            self._again(run, why, guilty=True)

    def dismiss(self, name: str, why: str, *, cleanly: bool = False) -> None:
        """A consumer is gone: what it had goes to another.

        Any of it may have been seen, so all of it counts as another attempt; but only what is known to have
        been in a program's hands, or was next, is struck. After a clean goodbye nothing is struck, and what
        was never taken is no attempt.
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
        """Shut down: no item is expected any more; with `immediate`, what nobody holds is dropped."""
        self.shut = True
        if immediate:
            self._drops = True
            for shelf in (self.waiting, *self._addressed.values()):
                for run in self._clear(shelf):
                    self._drop(run)

    def finished(self) -> bool:
        """True if no producer will put again: shut down, or all that were expected came and went."""
        return self.shut or self.attendance.over()

    def over(self, name: str) -> bool:
        """True if nothing more will come for this consumer.

        After a shutdown that is so as soon as the queue is empty, as with `queue.Queue`. At the counted end
        all that is unsettled must be in its own hands: what others hold may still come back.
        """
        if self.shut:
            return self.size == 0
        return self.finished() and self.unsettled == self.consumers[name].leases.held_items

    # -- inside ----------------------------------------------------------------------------------

    def _drop(self, run: Run) -> None:
        self.dropped += run.count
        self._tell(run, Outcome.DROPPED, None)

    def _shelve(self, run: Run) -> None:
        if self._drops:
            self._drop(run)
            return
        if run.to is None:
            shelf = self.waiting
        elif self.bearers.get(run.to):
            shelf = self._addressed.setdefault(run.to, Shelf())
        else:
            self._undeliverable(run)
            return
        shelf.add(run)
        self.size += run.count
        self.size_bytes += len(run.body)

    def _clear(self, shelf: Shelf) -> list[Run]:
        self.size -= shelf.items
        self.size_bytes -= shelf.bytes
        return shelf.clear()

    def _next_shelf(self, tags: frozenset[str]) -> Shelf | None:
        if not self._addressed:
            return self.waiting if self.waiting.items else None
        shelves = [self.waiting] if self.waiting.items else []
        shelves += [self._addressed[tag] for tag in tags if self._addressed.get(tag)]
        return min(shelves, key=lambda shelf: shelf.oldest, default=None)

    def _remove(self, name: str, first: int, last: int) -> list[Run]:
        leases = self.consumers[name].leases
        items, size = leases.untaken_items, leases.untaken_bytes
        runs = leases.remove(first, last)
        self.size -= items - leases.untaken_items
        self.size_bytes -= size - leases.untaken_bytes
        self.lent.add(name, -sum([len(run.body) for run in runs]))
        return runs

    def _again(self, run: Run, why: str, guilty: bool) -> None:
        run.attempt += 1
        run.history = (*run.history, why)[-20:]
        run.strikes += guilty
        if run.strikes < self.max_attempts:
            self._shelve(run)
            return
        self.died += run.count
        self.dead.append(DeadLetter(run.count, run.body, run.producer, run.attempt - 1, run.history))
        self.dead_bytes += len(run.body)
        while len(self.dead) > DEAD_LETTERS_KEPT or (
            self.dead_bytes > DEAD_BYTES_KEPT and len(self.dead) > 1
        ):
            self.dead_bytes -= len(self.dead.popleft().body)
        self._tell(run, Outcome.DEAD, None)

    def _forget(self, tag: str) -> None:
        del self.bearers[tag]
        for run in self._clear(self._addressed.pop(tag, Shelf())):
            self._undeliverable(run)

    def _note_tags(self) -> None:
        self.shared_tags = sorted(self.bearers.keys() - self.consumers.keys())

    def _undeliverable(self, run: Run) -> None:
        self.undeliverable += run.count
        self._tell(run, Outcome.UNDELIVERABLE, None)

    def _tell(self, run: Run, outcome: Outcome, answer: bytes | None) -> None:
        producer = self.producers.get(run.producer)
        if producer is not None and producer.state is not State.GONE:
            self.newsworthy.add(run.producer)
            producer.note(News(run.first, run.count, outcome, answer))
