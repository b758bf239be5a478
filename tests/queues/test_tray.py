"""Small items gather in the tray within the room set aside for them, in order, from many threads."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any

import pytest

from nearfar.errors import ItemError
from nearfar.net import codec
from nearfar.queues.ends.batches import Entry
from nearfar.queues.ends.sender import Sender
from nearfar.queues.ends.tray import ANY, HEAVY, LARGEST, MANY, MOST, Tray, packed


def opened(limit: int = MOST) -> Tray:
    tray = Tray()
    tray.open(limit)
    return tray


def contents(tray: Tray) -> bytes:
    """What lies there, end to end; it is cleared."""
    return b"".join(body for _, body in packed(tray.clear(), MOST, ANY))


def test_nothing_gets_in_before_it_is_open_nor_beyond_its_limit() -> None:
    tray = Tray()
    assert tray.slip("early") == 0
    tray.open(2)
    assert [tray.slip(item) for item in "abc"] == [1, 2, 0]
    assert codec.decode(contents(tray), 2, trusted=False) == ["a", "b"]
    assert tray.slip("late") == 0


@pytest.mark.parametrize("room", [100, 10_000, 1_000_000, 40_000_000])
@pytest.mark.parametrize("size", [1, 100, 200, 5000])
def test_what_lies_there_never_exceeds_its_room(room: int, size: int) -> None:
    """And it is used but for a sixteenth, and what would have been for one item more."""
    tray = Tray()
    tray.open(MOST, room)
    item = bytes(size)
    while tray.slip(item):
        pass
    count = len(tray.items)
    used = len(contents(tray))
    assert used <= room
    assert count == MOST or used + len(codec.encode(item, trusted=False)) > room - room // 16


def test_many_threads_do_not_exceed_the_room() -> None:
    for _ in range(20):
        tray = Tray()
        tray.open(MOST, 5000)
        start = threading.Barrier(4)

        def put(size: int, tray: Tray = tray, start: threading.Barrier = start) -> None:
            start.wait()
            for _ in range(200):
                tray.slip(bytes(size))

        threads = [threading.Thread(target=put, args=(size,)) for size in (3, 40, 90, 300)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 2500 < len(contents(tray)) <= 5000


@pytest.mark.parametrize(
    "item", [None, True, 7, 1 << 80, 0.5, "text", b"bytes", (1, [2]), {"a": {1}}], ids=repr
)
def test_an_item_comes_out_as_it_went_in(item: Any) -> None:
    tray = opened()
    assert tray.slip(item) == 1
    assert codec.decode(contents(tray), 1, trusted=False) == [item]


def test_what_can_change_is_packed_when_it_is_put() -> None:
    tray, item = opened(), [1]
    tray.slip(item)
    item.append(2)
    assert codec.decode(contents(tray), 1, trusted=False) == [[1]]


def test_batches_hold_no_more_than_they_may() -> None:
    """By their number, and, where some are not light, by their bytes."""
    tray = opened(ANY)
    for number in range(10):
        tray.slip(number)
    assert [count for count, _ in packed(tray.clear(), 4, ANY)] == [4, 4, 2]
    tray.open(ANY)
    for _ in range(5):
        tray.slip(bytes(1000))
        tray.slip("light")
    assert [count for count, _ in packed(tray.clear(), MOST, 2500)] == [4, 4, 2]


def test_without_a_bound_no_thread_loses_an_item() -> None:
    """While another clears the tray again and again."""
    tray, over, found = opened(ANY), threading.Event(), []

    def put(name: int) -> None:
        for number in range(2000):
            while not tray.slip((name << 16) + number):
                pass

    def clear() -> None:
        while not over.is_set():
            found.extend(tray.clear())
            tray.open(ANY)

    clearing = threading.Thread(target=clear)
    clearing.start()
    threads = [threading.Thread(target=put, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    clearing.join()
    found += tray.clear()
    assert len(found) == len(set(found)) == 6000
    assert [sorted(n for n in found if n >> 16 == name) for name in range(3)] == [
        [n for n in found if n >> 16 == name] for name in range(3)
    ]


@pytest.mark.parametrize("item", [bytes(LARGEST + 1), "x" * (LARGEST + 1), [bytes(LARGEST)]], ids=type)
def test_what_is_large_goes_another_way(item: Any) -> None:
    tray = opened()
    assert tray.slip(item) == 0
    assert tray.clear() == []


@pytest.mark.parametrize("item", [Decimal(1), "\ud800"])
def test_what_cannot_travel_raises_and_leaves_the_others(item: Any) -> None:
    tray = opened()
    tray.slip(1)
    with pytest.raises(ItemError):
        tray.slip(item)
    assert (tray.slip(2), len(tray.clear())) == (2, 2)


def test_it_says_once_that_it_has_become_heavy() -> None:
    tray = opened()
    told = [tray.slip(bytes(HEAVY // 8)) for _ in range(10)]
    assert told.count(MANY) == 1
    assert told.index(MANY) == 7


def test_many_threads_never_exceed_the_limit() -> None:
    tray = opened(500)
    threads = [threading.Thread(target=lambda: [tray.slip(1) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tray.clear()) == 500


def test_what_came_by_the_tray_goes_before_what_is_put_later_and_uses_its_room() -> None:
    """Given room for three items of a bounded queue, of which the tray took one,

    If three more are put the other way,
    I expect two of them to go after it, and the third to wait.
    """
    sender = Sender()
    sender.begin(0, maxsize=9, maxbytes=0)
    sender.barred = False
    sender.gain(3, 0)
    sender.admit()
    assert sender.tray.slip(1) == 1
    entry = Entry(type(sender.entries)([b"\x02", b"\x03", b"\x04"]))  # type: ignore[arg-type]
    sender.put(entry)
    assert sender.tray.slip(5) == 0
    assert [(m.fields[:2], m.body) for m in sender.messages()] == [((1, 3), b"\x01\x02\x03")]
    assert (list(entry.items), sender.need()) == ([b"\x04"], (4, 0, 0))
