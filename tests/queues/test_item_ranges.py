"""Runs are cut between items; a `ReadyList` gives out its items by age, as many as requested."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.queues.broker.records import ItemRange, ReadyList
from tests.queues.ledger_check import body_of, check_ready_list, items_of

pytestmark = pytest.mark.pure

payloads = st.lists(st.integers(0, 1 << 40) | st.binary(max_size=300), min_size=1, max_size=12)


def run_of(items: list[bytes | int], order: int = 1) -> ItemRange:
    return ItemRange("p", order, len(items), body_of(items), order)


@given(payloads, st.data())
def test_a_cut_run_becomes_two_adjacent_ones(items: list[bytes | int], data: st.DataObject) -> None:
    at = data.draw(st.integers(1, len(items)))
    run = ItemRange("p", 7, len(items), body_of(items), 40, "tag", 3, 2, ("a", "b"))
    head, tail = run.cut(at)
    assert head == ItemRange("p", 7, at, body_of(items[:at]), 40, "tag", 3, 2, ("a", "b"))
    assert tail == ItemRange(
        "p", 7 + at, len(items) - at, body_of(items[at:]), 40 + at, "tag", 3, 2, ("a", "b")
    )


@pytest.mark.parametrize("body", [b"", b"\x01", b"\x01\xc1\x02", b"\x01\xc5\xff\xff\x00"])
def test_a_body_with_missing_items_can_be_cut(body: bytes) -> None:
    """The host must not fail on a producer's data: the consumer finds that it cannot be read."""
    head, tail = ItemRange("p", 1, 5, body, 1).cut(3)
    assert (head.count, tail.count) == (3, 2)
    assert head.body + tail.body == body


def test_the_oldest_run_comes_first_and_a_returned_one_keeps_its_place() -> None:
    ready_list = ReadyList()
    for order in (5, 1, 3):
        ready_list.add(run_of([order], order))
    assert ready_list.oldest == 1
    first = ready_list.take(10, 1000)
    assert items_of(first) == [1]
    assert ready_list.oldest == 3
    ready_list.add(first)
    assert [items_of(run) for run in ready_list.clear()] == [[1], [3], [5]]
    assert (ready_list.items, ready_list.bytes, bool(ready_list)) == (0, 0, False)


def test_an_item_larger_than_the_window_is_taken_alone() -> None:
    ready_list = ReadyList()
    ready_list.add(run_of([b"x" * 1000, b"y" * 1000]))
    assert items_of(ready_list.take(10, 0)) == [b"x" * 1000]
    assert items_of(ready_list.take(10, 0)) == [b"y" * 1000]


def test_a_run_larger_than_the_window_is_never_taken_whole() -> None:
    """Two items of 1 and 2 bytes are of 1 byte by the average, and 2 of those fit into 2 bytes."""
    ready_list = ReadyList()
    ready_list.add(run_of([1, 128]))
    assert items_of(ready_list.take(10, 2)) == [1]
    assert items_of(ready_list.take(10, 2)) == [128]


@settings(max_examples=60)
@given(
    st.lists(payloads, min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(1, 8), st.integers(0, 600), st.booleans()), max_size=25),
)
def test_a_ready_list_returns_the_same_items_as_a_plain_list(
    batches: list[list[bytes | int]], takes: list[tuple[int, int, bool]]
) -> None:
    """Given runs in a ready list, and the same items in a list,

    If they are taken in parts, and some returned, I expect the list's first items each time: at most as many
    as requested, and at least one.
    """
    ready_list, model, order = ReadyList(), [], 1
    for batch in batches:
        ready_list.add(run_of(batch, order))
        model += batch
        order += len(batch)
    for items, size, put_back in takes:
        if not ready_list:
            break
        run = ready_list.take(items, size)
        check_ready_list(ready_list)
        assert 1 <= run.count <= items
        assert items_of(run) == model[: run.count]
        if put_back:
            ready_list.add(run)
        else:
            del model[: run.count]
        check_ready_list(ready_list)
        assert ready_list.items == len(model)
        assert ready_list.bytes == len(body_of(model))
    assert [item for run in ready_list.clear() for item in items_of(run)] == model


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 3000))
def test_items_of_equal_size_fill_the_window_exactly(count: int, items: int, size: int) -> None:
    ready_list = ReadyList()
    ready_list.add(run_of([b"x" * 100] * count))
    run = ready_list.take(items, size)
    assert run.count == max(1, min(count, items, size // len(body_of([b"x" * 100]))))
