"""The ledger, in scenarios: every item has one place, one holder, and one end."""

from __future__ import annotations

import pytest

from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.records import DEAD_LETTERS_KEPT, ProducerState, Settlement
from tests.queues.ledger_check import body_of, check, items_of

pytestmark = pytest.mark.pure


def ledger_with(count: int = 0, *, window: int = 100, consumers: str = "c", **options: int) -> Ledger:
    """A ledger with a producer p that put the numbers from 1 to `count`, and consumers with capacity."""
    ledger = Ledger(**options)
    ledger.enter("p")
    if count:
        ledger.store("p", 1, count, body_of(range(1, count + 1)), None)
    for name in consumers:
        admit(ledger, name, window=window)
    return ledger


def admit(ledger: Ledger, name: str, *tags: str, window: int = 100) -> None:
    consumer = ledger.admit(name, frozenset(tags))
    consumer.window_items, consumer.window_bytes = window, 1 << 20


def put(ledger: Ledger, first: int, count: int = 1, to: str | None = None, producer: str = "p") -> bool:
    return ledger.store(producer, first, count, body_of(range(first, first + count)), to)


def lent(ledger: Ledger, name: str = "c") -> list[int | bytes]:
    """Everything that the consumer gets now."""
    items = []
    while (delivered_batch := ledger.lend(name)) is not None:
        items += items_of(delivered_batch[1])
    check(ledger)
    return items


def news(ledger: Ledger, producer: str = "p") -> list[tuple[int, int, Settlement, bytes | None]]:
    told = [(n.first, n.count, n.outcome, n.answer) for n in ledger.producers[producer].news]
    ledger.producers[producer].news.clear()
    return told


# -- from put to done ----------------------------------------------------------------------------------


def test_an_item_goes_from_its_producer_to_a_consumer_and_the_outcome_returns() -> None:
    """Given three items that were stored,

    If a consumer gets them, takes two, and settles one, I expect the size to fall as they are taken, and the
    producer to get the outcome of the one.
    """
    ledger = ledger_with(3)
    assert ledger.size == ledger.unsettled == 3
    assert lent(ledger) == [1, 2, 3]
    assert ledger.size == 3
    ledger.took("c", 2)
    assert (ledger.size, ledger.unsettled) == (1, 3)
    ledger.settle("c", 1, 1)
    check(ledger)
    assert (ledger.settled, ledger.unsettled) == (1, 2)
    assert ledger.newsworthy == {"p"}
    assert news(ledger) == [(1, 1, Settlement.DONE, None)]


def test_news_of_adjacent_items_is_merged_and_answers_are_not() -> None:
    ledger = ledger_with(6)
    lent(ledger)
    ledger.took("c", 6)
    for position in (1, 2, 3):
        ledger.settle("c", position, position)
    ledger.settle("c", 4, 4, b"yes")
    ledger.settle("c", 6, 6)
    ledger.settle("c", 5, 5)
    assert news(ledger) == [
        (1, 3, Settlement.DONE, None),
        (4, 1, Settlement.ANSWERED, b"yes"),
        (6, 1, Settlement.DONE, None),
        (5, 1, Settlement.DONE, None),
    ]


def test_a_run_that_was_stored_before_is_not_stored_again() -> None:
    ledger = ledger_with(3)
    assert not put(ledger, 1, 3)
    assert not put(ledger, 2, 2)
    assert put(ledger, 4)
    check(ledger)
    assert lent(ledger) == [1, 2, 3, 4]


def test_a_run_is_spread_over_consumers_with_small_windows() -> None:
    ledger = ledger_with(5, consumers="abc", window=2)
    assert [lent(ledger, name) for name in "abc"] == [[1, 2], [3, 4], [5]]


def test_a_consumer_gets_its_window_and_no_more_until_it_takes() -> None:
    ledger = ledger_with(5, window=2)
    assert lent(ledger) == [1, 2]
    assert lent(ledger) == []
    ledger.took("c", 1)
    assert lent(ledger) == [3]


def test_a_window_in_bytes_lets_a_larger_item_through_alone() -> None:
    ledger = ledger_with()
    ledger.store("p", 1, 3, body_of([b"x" * 100] * 3), None)
    ledger.consumers["c"].window_bytes = 10
    assert len(lent(ledger)) == 1
    ledger.took("c", 1)
    assert len(lent(ledger)) == 1


def test_a_consumer_with_an_empty_window_gets_nothing() -> None:
    assert lent(ledger_with(5, window=0)) == []


def test_items_of_several_producers_come_by_age() -> None:
    ledger = ledger_with(2)
    ledger.enter("q")
    put(ledger, 1, 2, producer="q")
    put(ledger, 3)
    assert lent(ledger) == [1, 2, 1, 2, 3]


# -- when consumers fail ----------------------------------------------------------------------------------


def test_items_of_a_lost_consumer_are_redelivered_as_a_later_attempt() -> None:
    """Given a consumer that took one of three items,

    If it is lost,
    I expect another to get all three, marked as a second attempt; and the unacknowledged one, and the next,
    to get a strike.
    """
    ledger = ledger_with(3, consumers="ab")
    lent(ledger, "a")
    ledger.took("a", 1)
    ledger.dismiss("a", "killed")
    check(ledger)
    assert ledger.size == 3
    runs = [delivered_batch[1] for delivered_batch in iter(lambda: ledger.lend("b"), None)]
    assert [(run.first, run.count, run.attempt, run.strikes) for run in runs] == [
        (1, 1, 2, 1),
        (2, 1, 2, 1),
        (3, 1, 2, 0),
    ]
    assert {run.history for run in runs} == {("killed",)}


def test_a_consumer_that_leaves_cleanly_returns_untaken_items_unchanged() -> None:
    ledger = ledger_with(3, consumers="ab")
    lent(ledger, "a")
    ledger.took("a", 1)
    ledger.dismiss("a", "left", cleanly=True)
    check(ledger)
    runs = [delivered_batch[1] for delivered_batch in iter(lambda: ledger.lend("b"), None)]
    assert [(run.first, run.count, run.attempt, run.strikes) for run in runs] == [(1, 1, 2, 0), (2, 2, 1, 0)]


def test_a_late_ack_is_counted_and_changes_nothing() -> None:
    """Given a consumer that nacked an item, and another that holds it now,

    If the first acks it after all, I expect only the second's attempt to count.
    """
    ledger = ledger_with(1, consumers="ab")
    lent(ledger, "a")
    ledger.took("a", 1)
    ledger.fail("a", 1, 1, "gave it up")
    assert lent(ledger, "b") == [1]
    ledger.settle("a", 1, 1, b"late")
    ledger.settle("a", 1, 1)
    ledger.fail("a", 1, 1, "again")
    check(ledger)
    assert (ledger.late, ledger.settled, ledger.unsettled) == (3, 0, 1)
    assert news(ledger) == []
    ledger.took("b", 1)
    ledger.settle("b", 1, 1)
    assert (ledger.settled, ledger.unsettled) == (1, 0)


def test_an_ack_that_is_half_late_counts_for_the_other_half() -> None:
    ledger = ledger_with(4)
    lent(ledger)
    ledger.took("c", 4)
    ledger.settle("c", 1, 2)
    ledger.settle("c", 1, 4)
    check(ledger)
    assert (ledger.settled, ledger.late) == (4, 2)


def test_a_returned_item_is_next_again_and_not_an_attempt() -> None:
    ledger = ledger_with(3, consumers="ab")
    lent(ledger, "a")
    ledger.took("a", 1)
    ledger.give_back("a", 2, 3)
    check(ledger)
    position_and_run = ledger.lend("b")
    assert position_and_run is not None
    assert (position_and_run[1].first, position_and_run[1].attempt) == (2, 1)
    assert ledger.late == 0


def test_an_item_that_keeps_failing_becomes_a_dead_letter() -> None:
    """Given two attempts at most,

    If consumers nack the same item twice, I expect it to become a dead letter with its history, its producer
    to be notified, and the other items to continue.
    """
    ledger = ledger_with(2, max_attempts=2)
    for attempt in (1, 2):
        lent(ledger)
        last = ledger.consumers["c"].leases.last
        ledger.took("c", last)
        ledger.fail("c", last - (attempt == 1), last - (attempt == 1), f"reason {attempt}")
    check(ledger)
    (letter,) = ledger.dead
    assert (letter.count, letter.producer, letter.attempts, letter.history) == (
        1,
        "p",
        2,
        ("reason 1", "reason 2"),
    )
    assert letter.body == body_of([1])
    assert (ledger.died, ledger.unsettled, ledger.size) == (1, 1, 0)
    assert news(ledger) == [(1, 1, Settlement.DEAD, None)]


def test_an_attempt_without_guilt_adds_no_strike() -> None:
    ledger = ledger_with(1, max_attempts=1)
    for _ in range(5):
        lent(ledger)
        last = ledger.consumers["c"].leases.last
        ledger.fail("c", last, last, "returned", guilty=False)
    check(ledger)
    assert (ledger.died, ledger.size) == (0, 1)


def test_a_history_keeps_the_latest_attempts() -> None:
    ledger = ledger_with(1, max_attempts=1000)
    for attempt in range(30):
        delivered_batch = ledger.lend("c")
        assert delivered_batch is not None
        ledger.fail("c", delivered_batch[0], delivered_batch[0], str(attempt))
    delivered_batch = ledger.lend("c")
    assert delivered_batch is not None
    assert delivered_batch[1].history == tuple(map(str, range(10, 30)))
    assert delivered_batch[1].attempt == 31


def test_the_oldest_dead_letters_are_forgotten_but_counted() -> None:
    ledger = ledger_with(DEAD_LETTERS_KEPT + 5, max_attempts=1, window=1)
    for _ in range(DEAD_LETTERS_KEPT + 5):
        delivered_batch = ledger.lend("c")
        assert delivered_batch is not None
        ledger.fail("c", delivered_batch[0], delivered_batch[0], "bad")
    assert (len(ledger.dead), ledger.died) == (DEAD_LETTERS_KEPT, DEAD_LETTERS_KEPT + 5)
    assert ledger.dead[0].body == body_of([6])


def test_a_body_that_contradicts_its_header_affects_no_other() -> None:
    """Given a producer that announced five items and sent two,

    If the host cuts them for its consumers, which cannot read the last three, I expect only those three to
    become dead letters.
    """
    ledger = ledger_with(2, window=1, max_attempts=1)
    ledger.store("p", 3, 5, body_of([3, 4]), None)
    put(ledger, 8)
    seen = []
    while (delivered_batch := ledger.lend("c")) is not None:
        position, run = delivered_batch
        ledger.took("c", position)
        if run.body:
            seen += items_of(run)
            ledger.settle("c", position, position)
        else:
            ledger.fail("c", position, position, "unreadable")
        check(ledger)
    assert seen == [1, 2, 3, 4, 8]
    assert (ledger.settled, ledger.died, ledger.unsettled) == (5, 3, 0)


# -- names ---------------------------------------------------------------------------------------------------


def test_an_addressed_item_reaches_only_consumers_with_the_tag() -> None:
    ledger = ledger_with(consumers="a")
    admit(ledger, "b", "disk")
    admit(ledger, "c", "disk")
    put(ledger, 1, to="disk")
    put(ledger, 2, to="a")
    put(ledger, 3)
    put(ledger, 4, to="disk")
    assert lent(ledger, "a") == [2, 3]
    assert lent(ledger, "c") == [1, 4]
    assert lent(ledger, "b") == []
    assert ledger.shared_tags == ["disk"]


def test_an_item_for_an_unknown_tag_is_undeliverable() -> None:
    ledger = ledger_with()
    put(ledger, 1, 2, to="nobody")
    check(ledger)
    assert (ledger.undeliverable, ledger.unsettled, ledger.size) == (2, 0, 0)
    assert news(ledger) == [(1, 2, Settlement.UNDELIVERABLE, None)]


@pytest.mark.parametrize("cleanly", [True, False])
def test_items_for_the_last_consumer_with_a_tag_become_undeliverable(cleanly: bool) -> None:
    """Given items for a tag: waiting, in the buffer, and taken by the last consumer with the tag,

    If that consumer leaves or dies, I expect the producer to be notified that they are undeliverable.
    """
    ledger = ledger_with(window=2)
    put(ledger, 1, 3, to="c")
    lent(ledger)
    ledger.took("c", 1)
    ledger.dismiss("c", "gone", cleanly=cleanly)
    check(ledger)
    assert sorted(n[0] for n in news(ledger)) == [1, 2, 3]
    assert (ledger.undeliverable, ledger.unsettled, ledger.size) == (3, 0, 0)


def test_items_for_a_tag_wait_for_another_consumer_with_it() -> None:
    ledger = ledger_with(consumers="")
    admit(ledger, "a", "disk")
    admit(ledger, "b", "disk")
    put(ledger, 1, to="disk")
    lent(ledger, "a")
    ledger.took("a", 1)
    ledger.dismiss("a", "killed")
    assert ledger.shared_tags == ["disk"]
    assert lent(ledger, "b") == [1]
    ledger.dismiss("b", "killed")
    assert ledger.shared_tags == []


# -- the bound -----------------------------------------------------------------------------------------


def test_room_is_what_is_neither_used_nor_granted() -> None:
    ledger = ledger_with(maxsize=5, maxbytes=100)
    ledger.grant("p", 2, 20)
    assert ledger.room() == (3, 80)
    ledger.store("p", 1, 1, b"\x01", None)
    check(ledger)
    assert ledger.room() == (3, 80)
    lent(ledger)
    assert ledger.room() == (3, 80)
    ledger.took("c", 1)
    assert ledger.room() == (4, 81)
    ledger.revoke("p")
    assert ledger.room() == (5, 100)


def test_a_producer_that_exceeds_its_credit_affects_no_other() -> None:
    ledger = ledger_with(maxsize=5)
    ledger.enter("q")
    ledger.grant("p", 1, 0)
    ledger.grant("q", 2, 0)
    put(ledger, 1, 3)
    check(ledger)
    assert ledger.producers["q"].granted == (2, 0)
    assert ledger.room()[0] == 0


# -- the end -------------------------------------------------------------------------------------------


def test_the_end_is_reached_when_all_expected_producers_left_and_all_is_settled() -> None:
    ledger = ledger_with(1, expected=2)
    lent(ledger)
    ledger.leave("p", ProducerState.GONE)
    assert not ledger.finished()
    ledger.enter("q")
    assert not ledger.finished()
    ledger.leave("q", ProducerState.GONE)
    assert ledger.finished()
    assert not ledger.over("c")
    ledger.took("c", 1)
    assert ledger.over("c")


def test_the_end_is_not_reached_while_another_consumer_may_still_fail() -> None:
    ledger = ledger_with(1, consumers="ab")
    lent(ledger, "a")
    ledger.took("a", 1)
    ledger.leave("p", ProducerState.GONE)
    assert (ledger.over("a"), ledger.over("b")) == (True, False)
    ledger.settle("a", 1, 1)
    assert ledger.over("b")


def test_a_new_producer_replaces_a_lost_one() -> None:
    ledger = ledger_with()
    ledger.enter("q")
    ledger.leave("p", ProducerState.LOST)
    ledger.leave("q", ProducerState.LOST)
    assert ledger.lost == ["p", "q"]
    assert ledger.finished()
    ledger.enter("r")
    assert ledger.lost == ["q"]
    ledger.enter("q")
    assert ledger.lost == []
    assert not ledger.finished()
    check(ledger)


def test_a_replacement_is_not_counted_as_another_expected_producer() -> None:
    """Given two expected, one lost and replaced, I expect the end to wait for the other."""
    ledger = ledger_with(expected=2)
    ledger.leave("p", ProducerState.LOST)
    ledger.enter("again")
    ledger.leave("again", ProducerState.GONE)
    assert (ledger.lost, ledger.finished()) == ([], False)
    ledger.enter("other")
    ledger.leave("other", ProducerState.GONE)
    assert (ledger.lost, ledger.finished()) == ([], True)


def test_a_producer_may_be_started_again_before_its_loss_is_seen() -> None:
    """Given a silent producer, last heard from at 5, and others that came at 4 and at 6,

    If it counts as lost, I expect the later one to be its replacement.
    """
    ledger = ledger_with(expected=2)
    ledger.enter("other", 4.0)
    ledger.enter("again", 6.0)
    ledger.leave("p", ProducerState.LOST, 5.0)
    assert ledger.lost == []
    ledger.leave("again", ProducerState.GONE)
    assert not ledger.finished()
    ledger.leave("other", ProducerState.GONE)
    assert (ledger.lost, ledger.finished()) == ([], True)


def test_a_producer_that_was_replaced_and_comes_back_counts_again() -> None:
    """Given two expected producers, of which one was lost when the other came, I expect both to count when it
    returns."""
    ledger = ledger_with(expected=2)
    ledger.leave("p", ProducerState.LOST)
    ledger.enter("other")
    ledger.leave("other", ProducerState.GONE)
    assert not ledger.finished()
    ledger.enter("p")
    ledger.leave("p", ProducerState.GONE)
    assert (ledger.lost, ledger.finished()) == ([], True)


@pytest.mark.parametrize("state", [ProducerState.GONE, ProducerState.LOST])
def test_a_helper_is_neither_expected_nor_lost_but_its_items_count(state: ProducerState) -> None:
    """Given an expected producer, and a helper that puts for it,

    If the helper leaves, or is lost, I expect no end before the producer's goodbye and before the helper's
    item is done, and no lost producer.
    """
    ledger = ledger_with()
    ledger.enter("helper", helper=True)
    put(ledger, 1, producer="helper")
    ledger.leave("helper", state)
    check(ledger)
    assert (ledger.lost, ledger.finished()) == ([], False)
    ledger.leave("p", ProducerState.GONE)
    assert (ledger.finished(), ledger.over("c")) == (True, False)
    assert lent(ledger) == [1]
    ledger.took("c", 1)
    assert ledger.over("c")
    ledger.settle("c", 1, 1)
    check(ledger)


def test_helpers_do_not_replace_expected_or_lost_producers() -> None:
    ledger = ledger_with(expected=2)
    ledger.leave("p", ProducerState.LOST)
    ledger.enter("helper", helper=True)
    assert ledger.lost == ["p"]
    ledger.leave("helper", ProducerState.GONE)
    assert not ledger.finished()


def test_a_disconnected_helper_gets_missed_news_and_one_that_left_is_forgotten() -> None:
    ledger = ledger_with()
    ledger.enter("helper", helper=True)
    put(ledger, 1, producer="helper")
    lent(ledger)
    ledger.took("c", 1)
    ledger.leave("helper", ProducerState.LOST)
    ledger.settle("c", 1, 1)
    assert ledger.enter("helper", helper=True).stored == 1
    assert news(ledger, "helper") == [(1, 1, Settlement.DONE, None)]
    ledger.leave("helper", ProducerState.GONE)
    assert set(ledger.producers) == {"p"}
    check(ledger)


def test_a_producer_that_returns_continues_its_numbers_and_gets_missed_news() -> None:
    ledger = ledger_with(2)
    lent(ledger)
    ledger.took("c", 2)
    ledger.leave("p", ProducerState.LOST)
    ledger.settle("c", 1, 2)
    producer = ledger.enter("p")
    assert producer.stored == 2
    assert news(ledger) == [(1, 2, Settlement.DONE, None)]


def test_a_producer_that_left_gets_no_news() -> None:
    ledger = ledger_with(1)
    lent(ledger)
    ledger.took("c", 1)
    ledger.leave("p", ProducerState.GONE)
    ledger.settle("c", 1, 1)
    assert news(ledger) == []
    assert ledger.newsworthy == set()


def test_an_immediate_close_drops_items_that_no_consumer_holds() -> None:
    ledger = ledger_with(3, window=1)
    put(ledger, 4, to="c")
    lent(ledger)
    ledger.close(immediate=True)
    check(ledger)
    assert (ledger.dropped, ledger.unsettled, ledger.size) == (3, 1, 1)
    assert news(ledger) == [(2, 2, Settlement.DROPPED, None), (4, 1, Settlement.DROPPED, None)]
    assert ledger.finished()


# -- bytes that are kept -------------------------------------------------------------------------------


def test_a_consumer_that_settles_nothing_gets_no_more_than_its_share() -> None:
    """Given 400 bytes that may be unsettled, and 50 items of 20,

    If one consumer takes all it gets, and settles nothing, I expect it to get no more than half; another to
    get some; and the first to get more once it settles some.
    """
    ledger = Ledger(max_unsettled=400)
    ledger.enter("p")
    for number in range(1, 51):
        ledger.store("p", number, 1, body_of([bytes(18)]), None)
    for name in ("hoards", "other"):
        consumer = ledger.admit(name, frozenset())
        consumer.window_items, consumer.window_bytes = 1000, 1 << 30
    while ledger.lend("hoards") is not None:
        ledger.took("hoards", ledger.consumers["hoards"].leases.last)
        check(ledger)
    assert 200 <= ledger.lent.used <= 220
    assert ledger.at_share("hoards") and not ledger.at_share("other")
    assert ledger.lend("other") is not None
    ledger.settle("hoards", 1, 5)
    assert ledger.lend("hoards") is not None
    ledger.dismiss("hoards", "left")
    check(ledger)
    assert ledger.lent.held.keys() == {"other"}


def test_a_consumer_with_nothing_gets_an_item_however_large() -> None:
    ledger = Ledger(max_unsettled=10)
    ledger.enter("p")
    for number in (1, 2):
        ledger.store("p", number, 1, body_of([bytes(100)]), None)
    consumer = ledger.admit("c", frozenset())
    consumer.window_items, consumer.window_bytes = 1000, 1 << 30
    assert ledger.lend("c") is not None
    assert ledger.lend("c") is None
    ledger.settle("c", 1, 1)
    assert ledger.lend("c") is not None


def test_dead_letters_are_kept_up_to_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfar.queues.broker.ledger.DEAD_BYTES_KEPT", 100)
    ledger = Ledger(max_attempts=1)
    ledger.enter("p")
    consumer = ledger.admit("c", frozenset())
    consumer.window_items, consumer.window_bytes = 1, 1 << 30
    for number, size in enumerate((30, 40, 40, 500), 1):
        ledger.store("p", number, 1, body_of([bytes(size - 2 - (size > 257))]), None)
        ledger.lend("c")
        ledger.fail("c", number, number, "cannot")
        check(ledger)
        expected = {1: [30], 2: [30, 40], 3: [40, 40], 4: [500]}[number]
        assert [len(letter.body) for letter in ledger.dead] == expected
    assert ledger.died == 4
