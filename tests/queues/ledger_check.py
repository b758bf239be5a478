"""What is true of a ledger after every event."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from nearfar.net import codec
from nearfar.queues.host.leases import Leases
from nearfar.queues.host.ledger import Ledger
from nearfar.queues.host.runs import Run, Shelf


def check(ledger: Ledger, *, honest: bool = True) -> None:
    """Every item is in one place, and every count says what is there.

    A helper that left is forgotten: one that is not `honest` may come under its name again, and number anew.
    """
    shelves = [ledger.waiting, *ledger._addressed.values()]
    for shelf in shelves:
        check_shelf(shelf)
    for consumer in ledger.consumers.values():
        check_leases(consumer.leases)
    leases = [consumer.leases for consumer in ledger.consumers.values()]
    waiting = [run for shelf in shelves for _, run in shelf._heap]
    lent = [run for lease in leases for run in lease._runs]

    orders = sorted(order for run in (*waiting, *lent) for order in range(run.order, run.order + run.count))
    assert len(set(orders)) == len(orders) == ledger.unsettled, "an item is in two places, or in none"
    assert not orders or 1 <= orders[0] <= orders[-1] <= ledger.stored
    numbers = [(run.producer, run.first + i) for run in (*waiting, *lent) for i in range(run.count)]
    assert len(set(numbers)) == len(numbers) or not honest

    ended = ledger.settled + ledger.died + ledger.dropped + ledger.undeliverable
    held = sum(lease.held_items for lease in leases)
    assert ledger.stored == ledger.size + held + ended
    assert ledger.size == sum(s.items for s in shelves) + sum(lease.untaken_items for lease in leases)
    assert ledger.size_bytes == sum(s.bytes for s in shelves) + sum(lease.untaken_bytes for lease in leases)
    assert all(run.strikes < ledger.max_attempts for run in (*waiting, *lent))
    had = {name: sum(len(run.body) for run in c.leases._runs) for name, c in ledger.consumers.items()}
    assert ledger.lent.held == {name: size for name, size in had.items() if size}
    assert ledger.lent.used == sum(had.values())
    assert ledger.dead_bytes == sum(len(letter.body) for letter in ledger.dead)
    check_names(ledger, waiting)
    check_producers(ledger)


def check_names(ledger: Ledger, waiting: list[Run]) -> None:
    """An addressed item waits where somebody who bears the name will find it."""
    for tag, bearers in ledger.bearers.items():
        assert (
            bearers == {name for name, consumer in ledger.consumers.items() if tag in consumer.tags} != set()
        )
    assert {tag for consumer in ledger.consumers.values() for tag in consumer.tags} == ledger.bearers.keys()
    assert {run.to for run in waiting} - {None} <= ledger.bearers.keys()
    assert all(run.to is None for _, run in ledger.waiting._heap)
    assert all(run.to == tag for tag, shelf in ledger._addressed.items() for _, run in shelf._heap)


def check_producers(ledger: Ledger) -> None:
    """Grants add up and are never negative; who has news is known."""
    producers = ledger.producers.values()
    assert sum(producer.granted[0] for producer in producers) == ledger._granted_items
    assert sum(producer.granted[1] for producer in producers) == ledger._granted_bytes
    assert all(min(producer.granted) >= 0 for producer in producers)
    assert (
        sum(not producer.helper and producer.state == 0 for producer in producers) == ledger.attendance.here
    )
    here = [producer for producer in producers if producer.state == 0]  # others are told when they return
    assert {producer.name for producer in here if producer.news} <= ledger.newsworthy


def check_shelf(shelf: Shelf) -> None:
    """Its counts are those of its runs."""
    runs = [run for _, run in shelf._heap]
    assert shelf.items == sum(run.count for run in runs)
    assert shelf.bytes == sum(len(run.body) for run in runs)
    assert bool(shelf) is bool(runs)
    assert all(order == run.order and run.count > 0 for order, run in shelf._heap)


def check_leases(leases: Leases) -> None:
    """Positions rise, no run reaches over what was taken, and the counts are those of the runs."""
    spans = [(at, at + run.count - 1) for at, run in zip(leases._positions, leases._runs, strict=True)]
    edges = [0, *(edge for span in spans for edge in span), leases.last + 1]
    assert all(one <= other for one, other in itertools.pairwise(edges))
    assert len({at for at, _ in spans}) == len(spans)
    assert not any(at <= leases.taken < end for at, end in spans)
    untaken = [run for (at, _), run in zip(spans, leases._runs, strict=True) if at > leases.taken]
    assert leases.untaken_items == sum(run.count for run in untaken)
    assert leases.untaken_bytes == sum(len(run.body) for run in untaken)
    assert leases.held_items + leases.untaken_items == sum(run.count for run in leases._runs)


def body_of(items: Iterable[bytes | int]) -> bytes:
    """Items as a batch of them travels."""
    return b"".join(codec.encode(item, trusted=False) for item in items)


def items_of(run: Run) -> list[bytes | int]:
    """What a run carries; it must be what it says."""
    items: list[bytes | int] = codec.decode(run.body, run.count, trusted=False)
    return items


def numbers_of(runs: Iterable[Run]) -> Iterator[int]:
    """The numbers of the items in `runs`."""
    for run in runs:
        yield from range(run.first, run.first + run.count)
