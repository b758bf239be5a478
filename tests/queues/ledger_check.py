"""Invariants of a ledger, checked after every event."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.records import Deliveries, ItemRange, ReadyList
from nearfar.serialization import item_codec


def check(ledger: Ledger, *, honest: bool = True) -> None:
    """Every item is in one place, and every count is correct.

    A helper that left is forgotten: one that is not `honest` may come under its name again, and number anew.
    """
    ready_lists = [ledger.waiting, *ledger._addressed.values()]
    for ready_list in ready_lists:
        check_ready_list(ready_list)
    for consumer in ledger.consumers.values():
        check_leases(consumer.leases)
    leases = [consumer.leases for consumer in ledger.consumers.values()]
    waiting = [run for ready_list in ready_lists for _, run in ready_list._heap]
    lent = [run for lease in leases for run in lease._runs]

    orders = sorted(order for run in (*waiting, *lent) for order in range(run.order, run.order + run.count))
    assert len(set(orders)) == len(orders) == ledger.unsettled, "an item is in two places, or in none"
    assert not orders or 1 <= orders[0] <= orders[-1] <= ledger.stored
    numbers = [(run.producer, run.first + i) for run in (*waiting, *lent) for i in range(run.count)]
    assert len(set(numbers)) == len(numbers) or not honest

    ended = ledger.settled + ledger.died + ledger.dropped + ledger.undeliverable
    held = sum(lease.held_items for lease in leases)
    assert ledger.stored == ledger.size + held + ended
    assert ledger.size == sum(s.items for s in ready_lists) + sum(lease.untaken_items for lease in leases)
    assert ledger.size_bytes == sum(s.bytes for s in ready_lists) + sum(
        lease.untaken_bytes for lease in leases
    )
    assert all(run.strikes < ledger.max_attempts for run in (*waiting, *lent))
    had = {name: sum(len(run.body) for run in c.leases._runs) for name, c in ledger.consumers.items()}
    assert ledger.lent.held == {name: size for name, size in had.items() if size}
    assert ledger.lent.used == sum(had.values())
    assert ledger.dead_bytes == sum(len(letter.body) for letter in ledger.dead)
    check_names(ledger, waiting)
    check_producers(ledger)


def check_names(ledger: Ledger, waiting: list[ItemRange]) -> None:
    """An addressed item waits in the list of its tag, and a consumer with that tag exists."""
    for tag, bearers in ledger.bearers.items():
        assert (
            bearers == {name for name, consumer in ledger.consumers.items() if tag in consumer.tags} != set()
        )
    assert {tag for consumer in ledger.consumers.values() for tag in consumer.tags} == ledger.bearers.keys()
    assert {run.to for run in waiting} - {None} <= ledger.bearers.keys()
    assert all(run.to is None for _, run in ledger.waiting._heap)
    assert all(run.to == tag for tag, ready_list in ledger._addressed.items() for _, run in ready_list._heap)


def check_producers(ledger: Ledger) -> None:
    """Credit adds up and is never negative; producers with news are recorded."""
    producers = ledger.producers.values()
    assert sum(producer.granted[0] for producer in producers) == ledger._granted_items
    assert sum(producer.granted[1] for producer in producers) == ledger._granted_bytes
    assert all(min(producer.granted) >= 0 for producer in producers)
    assert (
        sum(not producer.helper and producer.state == 0 for producer in producers)
        == ledger.producer_registry.here
    )
    here = [producer for producer in producers if producer.state == 0]  # others are told when they return
    assert {producer.name for producer in here if producer.news} <= ledger.newsworthy


def check_ready_list(ready_list: ReadyList) -> None:
    """Its counts are those of its runs."""
    runs = [run for _, run in ready_list._heap]
    assert ready_list.items == sum(run.count for run in runs)
    assert ready_list.bytes == sum(len(run.body) for run in runs)
    assert bool(ready_list) is bool(runs)
    assert all(order == run.order and run.count > 0 for order, run in ready_list._heap)


def check_leases(leases: Deliveries) -> None:
    """Positions rise, no run spans taken and untaken items, and the counts are those of the runs."""
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
    """Items encoded as a batch."""
    return b"".join(item_codec.encode(item, trusted=False) for item in items)


def items_of(run: ItemRange) -> list[bytes | int]:
    """The items of a run; they must match its header."""
    items: list[bytes | int] = item_codec.decode(run.body, run.count, trusted=False)
    return items


def numbers_of(runs: Iterable[ItemRange]) -> Iterator[int]:
    """The numbers of the items in `runs`."""
    for run in runs:
        yield from range(run.first, run.first + run.count)
