"""Random histories of a ledger, compared after each event with a model of single items."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.records import ProducerState, Settlement
from nearfar.serialization import item_codec
from tests.queues.ledger_check import check

pytestmark = pytest.mark.pure

TAGS = ["disk", "gpu"]
WAITING, LENT, HELD = "waiting", "lent", "held"


@dataclass
class Item:
    """One item in the model: it waits, or has a holder, or has ended."""

    order: int
    producer: str
    number: int
    encoded: bytes
    to: str | None
    place: str | Settlement = WAITING
    holder: str = ""
    position: int = 0
    attempt: int = 1
    strikes: int = 0


@dataclass
class Holder:
    """A consumer in the model."""

    tags: frozenset[str]
    window: tuple[int, int] = (0, 0)
    last: int = 0
    taken: int = 0


@dataclass
class Model:
    items: list[Item] = field(default_factory=list)
    holders: dict[str, Holder] = field(default_factory=dict)
    late: int = 0
    untold: dict[str, dict[int, tuple[Settlement, bytes | None]]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    drops: bool = False

    def at(self, *places: str | Settlement, holder: str | None = None) -> list[Item]:
        return [i for i in self.items if i.place in places and holder in (None, i.holder)]

    def of(self, holder: str, first: int, last: int) -> list[Item]:
        return [i for i in self.at(LENT, HELD, holder=holder) if first <= i.position <= last]

    def end(self, item: Item, outcome: Settlement, answer: bytes | None = None) -> None:
        item.place, item.holder = outcome, ""
        if item.producer not in self.gone:
            self.untold[item.producer][item.number] = (outcome, answer)

    def wait(self, item: Item) -> None:
        item.place, item.holder, item.position = WAITING, "", 0
        if self.drops:
            self.end(item, Settlement.DROPPED)
        elif item.to is not None and not any(item.to in holder.tags for holder in self.holders.values()):
            self.end(item, Settlement.UNDELIVERABLE)

    def fail(self, item: Item, guilty: bool, most: int) -> None:
        item.attempt += 1
        item.strikes += guilty
        if item.strikes >= most:
            self.end(item, Settlement.DEAD)
        else:
            self.wait(item)


class Histories(RuleBasedStateMachine):
    """All operations of the broker on a ledger, in any order."""

    @initialize(most=st.integers(1, 3), expected=st.integers(0, 2))
    def begin(self, most: int, expected: int) -> None:
        self.ledger = Ledger(100, 1000, max_attempts=most, expected=expected)
        self.expected = expected
        self.model = Model()
        self.open: dict[str, bool] = {}
        self.absent: dict[str, int] = {}
        self.arrivals: list[int] = []
        self.made = self.events = 0

    def name(self, prefix: str) -> str:
        self.made += 1
        return f"{prefix}{self.made}"

    def now(self) -> int:
        self.events += 1
        return self.events

    def lost(self) -> list[str]:
        """The absent producers that no new one replaces.

        Each new one replaces the first that was lost before it came.
        """
        lost = dict(self.absent)
        for arrived in self.arrivals:
            for name, since in lost.items():
                if since < arrived:
                    del lost[name]
                    break
        return list(lost)

    def some_producer(self, data: st.DataObject) -> str:
        return str(data.draw(st.sampled_from(sorted(self.open)), "producer"))

    def some_consumer(self, data: st.DataObject) -> str:
        return str(data.draw(st.sampled_from(sorted(self.model.holders)), "consumer"))

    def some_range(self, name: str, data: st.DataObject) -> tuple[int, int]:
        last = self.model.holders[name].last
        first = data.draw(st.integers(1, last + 1), "first")
        return first, data.draw(st.integers(first, max(first, last + 1)), "last")

    # -- producers -----------------------------------------------------------------------------------

    @precondition(lambda self: len(self.open) < 3)
    @rule(helper=st.booleans())
    def enter(self, helper: bool) -> None:
        name = self.name("helper" if helper else "p")
        self.ledger.enter(name, helper=helper)
        if not helper:
            self.arrivals.append(self.now())
        self.open[name] = True
        self.model.untold[name] = {}

    @precondition(lambda self: any(self.open.values()))
    @rule(
        data=st.data(),
        sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
        to=st.sampled_from([None, None, None, *TAGS, "nobody"]),
        skip=st.integers(0, 1),
    )
    def put(self, data: st.DataObject, sizes: list[int], to: str | None, skip: int) -> None:
        name = data.draw(st.sampled_from([p for p, is_open in self.open.items() if is_open]))
        first = self.ledger.producers[name].stored + 1 + skip
        encoded = [item_codec.encode(bytes(size), trusted=False) for size in sizes]
        assert self.ledger.store(name, first, len(sizes), b"".join(encoded), to)
        assert not self.ledger.store(name, first, len(sizes), b"".join(encoded), to)
        for offset, one in enumerate(encoded):
            item = Item(len(self.model.items) + 1, name, first + offset, one, to)
            self.model.items.append(item)
            self.model.wait(item)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), items=st.integers(0, 5), size=st.integers(0, 50))
    def grant(self, data: st.DataObject, items: int, size: int) -> None:
        name = self.some_producer(data)
        before = self.ledger.room()
        self.ledger.grant(name, items, size)
        assert self.ledger.room() == (before[0] - items, before[1] - size)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), state=st.sampled_from([ProducerState.GONE, ProducerState.LOST]))
    def leave(self, data: st.DataObject, state: ProducerState) -> None:
        name = self.some_producer(data)
        self.ledger.leave(name, state)
        if name.startswith("helper") and state is ProducerState.GONE:
            self.model.gone.add(name)
            del self.open[name]
            assert name not in self.ledger.producers
            return
        assert self.ledger.producers[name].granted == (0, 0)
        if self.open[name] and state is ProducerState.GONE:
            self.model.gone.add(name)
        elif self.open[name] and not name.startswith("helper"):
            self.absent[name] = self.now()
        self.open[name] = False

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        name = self.some_producer(data)
        self.ledger.enter(name)
        self.model.gone.discard(name)
        self.absent.pop(name, None)
        self.open[name] = True

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def tell(self, data: st.DataObject) -> None:
        """A producer gets all its news, for each item once."""
        name = self.some_producer(data)
        told: dict[int, tuple[Settlement, bytes | None]] = {}
        for news in self.ledger.producers[name].news:
            for number in range(news.first, news.first + news.count):
                assert number not in told
                told[number] = (news.outcome, news.answer)
        assert told == self.model.untold[name]
        self.ledger.producers[name].news.clear()
        self.model.untold[name] = {}

    # -- consumers -----------------------------------------------------------------------------------

    @precondition(lambda self: len(self.model.holders) < 4)
    @rule(tags=st.frozensets(st.sampled_from(TAGS)), items=st.integers(0, 8), size=st.integers(0, 90))
    def admit(self, tags: frozenset[str], items: int, size: int) -> None:
        name = self.name("c")
        consumer = self.ledger.admit(name, tags)
        consumer.window_items, consumer.window_bytes = items, size
        self.model.holders[name] = Holder(tags | {name}, (items, size))

    @precondition(lambda self: self.model.holders)
    @rule(data=st.data())
    def lend(self, data: st.DataObject) -> None:
        """A consumer gets the oldest items that it may have, up to its window, and at least one."""
        name = self.some_consumer(data)
        holder = self.model.holders[name]
        mine = [item for item in self.model.at(WAITING) if item.to is None or item.to in holder.tags]
        untaken = self.model.at(LENT, holder=name)
        wanted = holder.window[0] - len(untaken)
        has_capacity = wanted > 0 and (not untaken or sum(len(i.encoded) for i in untaken) < holder.window[1])
        delivered_batch = self.ledger.lend(name)
        if delivered_batch is None:
            assert not (mine and has_capacity)
            return
        position, run = delivered_batch
        assert has_capacity
        assert 1 <= run.count <= wanted
        assert position == holder.last + 1
        lent = mine[: run.count]
        assert [(i.producer, i.number) for i in lent] == [
            (run.producer, run.first + n) for n in range(run.count)
        ]
        assert {(i.attempt, i.strikes, i.to) for i in lent} == {(run.attempt, run.strikes, run.to)}
        assert b"".join(i.encoded for i in lent) == run.body
        for offset, item in enumerate(lent):
            item.place, item.holder, item.position = LENT, name, position + offset
        holder.last += run.count

    @precondition(lambda self: self.model.holders)
    @rule(data=st.data(), more=st.integers(0, 9))
    def take(self, data: st.DataObject, more: int) -> None:
        name = self.some_consumer(data)
        holder = self.model.holders[name]
        upto = holder.taken + more - 1
        self.ledger.took(name, upto)
        holder.taken = max(holder.taken, min(upto, holder.last))
        for item in self.model.of(name, 1, holder.taken):
            item.place = HELD

    @precondition(lambda self: self.model.holders)
    @rule(data=st.data(), answer=st.sampled_from([None, None, b"", b"yes"]))
    def settle(self, data: st.DataObject, answer: bytes | None) -> None:
        name = self.some_consumer(data)
        first, last = self.some_range(name, data)
        last = last if answer is None else first
        self.ledger.settle(name, first, last, answer)
        items = self.model.of(name, first, last)
        for item in items:
            self.model.end(item, Settlement.DONE if answer is None else Settlement.ANSWERED, answer)
        self.model.late += last - first + 1 - len(items)

    @precondition(lambda self: self.model.holders)
    @rule(data=st.data(), guilty=st.booleans())
    def fail(self, data: st.DataObject, guilty: bool) -> None:
        name = self.some_consumer(data)
        first, last = self.some_range(name, data)
        self.ledger.fail(name, first, last, "gave it up", guilty=guilty)
        items = self.model.of(name, first, last)
        for item in items:
            self.model.fail(item, guilty, self.ledger.max_attempts)
        self.model.late += last - first + 1 - len(items)

    @precondition(lambda self: self.model.holders)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        name = self.some_consumer(data)
        first, last = self.some_range(name, data)
        first = max(first, self.model.holders[name].taken + 1)
        self.ledger.give_back(name, first, last)
        for item in self.model.of(name, first, last):
            self.model.wait(item)

    @precondition(lambda self: self.model.holders)
    @rule(data=st.data(), cleanly=st.booleans())
    def dismiss(self, data: st.DataObject, cleanly: bool) -> None:
        name = self.some_consumer(data)
        self.ledger.dismiss(name, "gone", cleanly=cleanly)
        holder = self.model.holders.pop(name)
        for item in self.model.at(LENT, HELD, holder=name):
            if cleanly and item.place == LENT:
                self.model.wait(item)
            else:
                guilty = not cleanly and item.position <= holder.taken + 1
                self.model.fail(item, guilty, self.ledger.max_attempts)
        for item in self.model.at(WAITING):
            self.model.wait(item)

    @rule(data=st.data())
    def dead_letter(self, data: st.DataObject) -> None:
        if not self.model.holders:
            return
        name = self.some_consumer(data)
        first, last = self.some_range(name, data)
        self.ledger.dead_letter(name, first, last, "could not be read")
        for item in self.model.of(name, first, last):
            item.attempt += 1
            self.model.end(item, Settlement.DEAD)

    @precondition(lambda self: len(self.model.items) > 12)
    @rule()
    def shut_down(self) -> None:
        self.ledger.close(immediate=False)

    @precondition(lambda self: len(self.model.items) > 12)  # else most histories are of a shut queue
    @rule()
    def drop(self) -> None:
        self.ledger.close(immediate=True)
        self.model.drops = True
        for item in self.model.at(WAITING):
            self.model.end(item, Settlement.DROPPED)

    # -- always ----------------------------------------------------------------------------------------

    @invariant()
    def every_item_is_in_one_place(self) -> None:
        check(self.ledger)

    @invariant()
    def counts_are_those_of_the_items(self) -> None:
        ledger, model = self.ledger, self.model
        untaken = model.at(WAITING, LENT)
        assert ledger.stored == len(model.items)
        assert (ledger.size, ledger.size_bytes) == (len(untaken), sum(len(i.encoded) for i in untaken))
        assert ledger.unsettled == len(model.at(WAITING, LENT, HELD))
        assert ledger.settled == len(model.at(Settlement.DONE, Settlement.ANSWERED))
        assert ledger.died == sum(letter.count for letter in ledger.dead) == len(model.at(Settlement.DEAD))
        assert ledger.dropped == len(model.at(Settlement.DROPPED))
        assert ledger.undeliverable == len(model.at(Settlement.UNDELIVERABLE))
        assert ledger.late == model.late
        assert (ledger.waiting.items > 0) == any(item.to is None for item in model.at(WAITING))

    @invariant()
    def the_end_is_when_nobody_will_put_and_nothing_is_left(self) -> None:
        counted = [is_open for name, is_open in self.open.items() if name.startswith("p")]
        lost = self.lost()
        replaced = len(self.absent) - len(lost)
        ended = self.ledger.shut or (not any(counted) and len(counted) - replaced >= self.expected)
        assert self.ledger.lost == lost
        assert self.ledger.finished() == ended
        for name in self.model.holders:
            places = (WAITING, LENT) if self.ledger.shut else (WAITING, LENT, HELD)
            others = [i for i in self.model.at(*places) if (i.place, i.holder) != (HELD, name)]
            assert self.ledger.over(name) == (ended and not others)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
