"""Small items collect in the put buffer within the reserved room, in order, from many threads."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any

import pytest

from nearfar.errors import ItemError
from nearfar.queues.client.producer import ItemSender, PutRequest
from nearfar.queues.client.put_buffer import ANY, HEAVY, LARGEST, MANY, MOST, PutBuffer, packed
from nearfar.serialization import item_codec


def opened(limit: int = MOST) -> PutBuffer:
    put_buffer = PutBuffer()
    put_buffer.open(limit)
    return put_buffer


def contents(put_buffer: PutBuffer) -> bytes:
    """The buffer's items, concatenated; it is cleared."""
    return b"".join(item_codec.joined(body) for _, body in packed(put_buffer.clear(), MOST, ANY))


def test_no_item_is_accepted_before_it_is_open_or_beyond_its_limit() -> None:
    put_buffer = PutBuffer()
    assert put_buffer.append_now("early") == 0
    put_buffer.open(2)
    assert [put_buffer.append_now(item) for item in "abc"] == [1, 2, 0]
    assert item_codec.decode(contents(put_buffer), 2, trusted=False) == ["a", "b"]
    assert put_buffer.append_now("late") == 0


@pytest.mark.parametrize("room", [100, 10_000, 1_000_000, 40_000_000])
@pytest.mark.parametrize("size", [1, 100, 200, 5000])
def test_buffered_items_never_exceed_the_reserved_credit(room: int, size: int) -> None:
    """And all of it is used except a sixteenth and less than one item."""
    put_buffer = PutBuffer()
    put_buffer.open(MOST, room)
    item = bytes(size)
    while put_buffer.append_now(item):
        pass
    count = len(put_buffer.items)
    used = len(contents(put_buffer))
    assert used <= room
    assert count == MOST or used + len(item_codec.encode(item, trusted=False)) > room - room // 16


def test_many_threads_do_not_exceed_the_room() -> None:
    for _ in range(20):
        put_buffer = PutBuffer()
        put_buffer.open(MOST, 5000)
        start = threading.Barrier(4)

        def put(size: int, put_buffer: PutBuffer = put_buffer, start: threading.Barrier = start) -> None:
            start.wait()
            for _ in range(200):
                put_buffer.append_now(bytes(size))

        threads = [threading.Thread(target=put, args=(size,)) for size in (3, 40, 90, 300)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 2500 < len(contents(put_buffer)) <= 5000


@pytest.mark.parametrize(
    "item", [None, True, 7, 1 << 80, 0.5, "text", b"bytes", (1, [2]), {"a": {1}}], ids=repr
)
def test_an_item_comes_out_as_it_went_in(item: Any) -> None:
    put_buffer = opened()
    assert put_buffer.append_now(item) == 1
    assert item_codec.decode(contents(put_buffer), 1, trusted=False) == [item]


def test_mutable_items_are_packed_at_put() -> None:
    put_buffer, item = opened(), [1]
    put_buffer.append_now(item)
    item.append(2)
    assert item_codec.decode(contents(put_buffer), 1, trusted=False) == [[1]]


def test_batches_are_limited() -> None:
    """By their number, and, if some items are large, by their bytes."""
    put_buffer = opened(ANY)
    for number in range(10):
        put_buffer.append_now(number)
    assert [count for count, _ in packed(put_buffer.clear(), 4, ANY)] == [4, 4, 2]
    put_buffer.open(ANY)
    for _ in range(5):
        put_buffer.append_now(bytes(1000))
        put_buffer.append_now("light")
    assert [count for count, _ in packed(put_buffer.clear(), MOST, 2500)] == [4, 4, 2]


def test_without_a_bound_no_thread_loses_an_item() -> None:
    """While another thread clears the put buffer repeatedly."""
    put_buffer, over, found = opened(ANY), threading.Event(), []

    def put(name: int) -> None:
        for number in range(2000):
            while not put_buffer.append_now((name << 16) + number):
                pass

    def clear() -> None:
        while not over.is_set():
            found.extend(put_buffer.clear())
            put_buffer.open(ANY)

    clearing = threading.Thread(target=clear)
    clearing.start()
    threads = [threading.Thread(target=put, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    clearing.join()
    found += put_buffer.clear()
    assert len(found) == len(set(found)) == 6000
    assert [sorted(n for n in found if n >> 16 == name) for name in range(3)] == [
        [n for n in found if n >> 16 == name] for name in range(3)
    ]


@pytest.mark.parametrize("item", [bytes(LARGEST + 1), "x" * (LARGEST + 1), [bytes(LARGEST)]], ids=type)
def test_large_items_do_not_use_the_buffer(item: Any) -> None:
    put_buffer = opened()
    assert put_buffer.append_now(item) == 0
    assert put_buffer.clear() == []


@pytest.mark.parametrize("item", [Decimal(1), "\ud800"])
def test_an_item_that_cannot_be_serialized_raises_and_leaves_the_others(item: Any) -> None:
    put_buffer = opened()
    put_buffer.append_now(1)
    with pytest.raises(ItemError):
        put_buffer.append_now(item)
    assert (put_buffer.append_now(2), len(put_buffer.clear())) == (2, 2)


def test_it_reports_once_that_it_has_many_bytes() -> None:
    put_buffer = opened()
    told = [put_buffer.append_now(bytes(HEAVY // 16)) for _ in range(20)]
    assert told.count(MANY) == 1
    assert told.index(MANY) == 15


def test_many_threads_never_exceed_the_limit() -> None:
    put_buffer = opened(500)
    threads = [
        threading.Thread(target=lambda: [put_buffer.append_now(1) for _ in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(put_buffer.clear()) == 500


def test_buffered_items_go_before_later_ones_and_use_their_credit() -> None:
    """Given room for three items of a bounded queue, of which the put buffer took one,

    If three more are put without it, I expect two of them to be sent after it, and the third to wait.
    """
    sender = ItemSender()
    sender.begin(0, maxsize=9, maxbytes=0)
    sender.barred = False
    sender.gain(3, 0)
    sender.admit()
    assert sender.put_buffer.append_now(1) == 1
    entry = PutRequest(type(sender.entries)([b"\x02", b"\x03", b"\x04"]))  # type: ignore[arg-type]
    sender.put(entry)
    assert sender.put_buffer.append_now(5) == 0
    assert [(m.fields[:2], m.body) for m in sender.messages()] == [((1, 3), b"\x01\x02\x03")]
    assert (list(entry.items), sender.need()) == ([b"\x04"], (4, 0, 0))
