"""Large payloads in shared memory: the guarantees for both sides, also if one dies or sends wrong data."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Sequence
from pickle import PickleBuffer
from typing import Any

import pytest

from nearfar.errors import ProtocolError
from nearfar.serialization.shared_memory import SMALLEST, SegmentDescriptor, layout, size_class
from tests.worker.channels import KIB, MIB, Channel, mapped, open_fds, opened

# What arrives


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b""],
        [b"one"],
        [b"one", b"", b"three" * 1000],
        [bytes(range(256)) * 4 * KIB, bytearray(b"x" * 63), memoryview(b"abcdef")[2:4]],
        [os.urandom(3 * MIB + 1)],
    ],
)
def test_parts_arrive_unchanged(channel: Channel, parts: Sequence[Any]) -> None:
    for _ in range(3):
        views = channel.send(*parts)
        assert [bytes(view) for view in views] == [bytes(part) for part in parts]
        del views
        assert channel.release() == [0]


def test_views_are_plain_writable_aligned_bytes(channel: Channel) -> None:
    views = channel.send(b"one", b"two")
    assert [(view.format, view.itemsize, view.ndim, view.readonly) for view in views] == [
        ("B", 1, 1, False)
    ] * 2
    views[0][0] = ord("O")
    assert [bytes(view) for view in views] == [b"One", b"two"]
    assert views[0][0] == ord("O")
    assert layout([3, 3, 64, 1]) == ([0, 64, 128, 192], 193)


def test_any_contiguous_buffer_can_be_placed(channel: Channel) -> None:
    numbers = memoryview(bytearray(range(16))).cast("I")
    grid = memoryview(bytearray(range(12))).cast("B", (3, 4))
    views = channel.send(numbers, grid, PickleBuffer(b"buffer"))
    assert [bytes(view) for view in views] == [numbers.tobytes(), grid.tobytes(), b"buffer"]


def test_a_noncontiguous_part_is_refused_and_changes_nothing(channel: Channel) -> None:
    gaps = memoryview(bytes(10))[::2]
    for _ in range(2):  # the first is about a new segment, the second about a free one
        fds = open_fds()
        with pytest.raises(BufferError):
            channel.sender.place([b"first", gaps])
        assert open_fds() == fds
        del channel.send(b"good")[:]
        assert channel.release() == [0]
    assert channel.new == 1


@pytest.mark.parametrize(
    ("length", "size"),
    [
        (0, 64 * KIB),
        (64 * KIB, 64 * KIB),
        (64 * KIB + 1, 128 * KIB),
        (64 * MIB, 64 * MIB),
        (64 * MIB + 1, 80 * MIB),
        (80 * MIB, 80 * MIB),
    ],
)
def test_segments_come_in_classes(length: int, size: int) -> None:
    assert size_class(length) == size == size_class(size)


# When a use ends


def test_a_use_ends_with_its_last_view(channel: Channel) -> None:
    first, second = channel.send(b"one", b"two")
    assert channel.release() == []
    part = memoryview(second)[1:]
    del first, second
    assert channel.release() == []
    del part
    assert channel.receiver.uses == 1
    assert channel.release() == [0]
    assert (channel.receiver.uses, channel.release()) == (0, [])


def test_a_use_lasts_as_long_as_an_array_over_it(channel: Channel) -> None:
    np = pytest.importorskip("numpy")
    array = np.frombuffer(channel.send(np.arange(1000.0))[0])
    tail = array[10:].reshape(10, 99)[::2]
    seen = memoryview(tail)
    del array, tail
    again = channel.send(b"another")
    assert channel.release() == []
    assert seen[0, 0] == 10.0
    del seen
    assert channel.release() == [0]
    del again
    assert channel.release() == [1]


def test_a_segment_is_reused_without_new_resources(channel: Channel) -> None:
    """Given a payload that was seen and let go,

    If others of about its size follow,
    I expect them in the same memory, and no file descriptor kept by anybody.
    """
    fds = open_fds()
    for number in range(20):
        views = channel.send(bytes([number]) * (70 * KIB + number))
        assert views[0][-1] == number
        del views
        channel.release()
    assert channel.new == 1
    assert mapped() == 2 * 128 * KIB
    assert open_fds() == fds


def test_kept_payloads_are_never_overwritten(channel: Channel) -> None:
    kept = [channel.send(bytes([number]) * 100) for number in range(50)]
    assert channel.release() == []
    assert [view[0] for (view,) in kept] == list(range(50))
    assert channel.new == 50


def test_uses_may_end_in_any_thread(channel: Channel) -> None:
    kept = [[channel.send(b"x" * 100) for _ in range(25)] for _ in range(4)]
    threads = [threading.Thread(target=lambda rows=rows: rows.clear()) for rows in kept]
    for thread in threads:
        thread.start()
    released: list[int] = []
    while any(thread.is_alive() for thread in threads):
        released += channel.release()
    for thread in threads:
        thread.join()
    assert sorted(released + channel.release()) == list(range(100))


class Knot:
    """Garbage in a cycle, whose finalizer still reads its view, and may save it."""

    def __init__(self, channel: Channel, view: memoryview, saved: list[memoryview]) -> None:
        self.channel, self.view, self.saved = channel, view, saved
        self.me = self

    def __del__(self) -> None:
        assert self.channel.release() == []
        assert bytes(self.view) == b"tied"
        self.saved.append(self.view)


def test_a_view_that_a_finalizer_saves_stays_good(channel: Channel) -> None:
    """Given a view in a circle of garbage,

    If the garbage collector finds it, and the circle's finalizer saves the view,
    I expect the use to last: weak references say that it ended, before the finalizer runs.
    """
    saved: list[memoryview] = []
    Knot(channel, channel.send(b"tied")[0], saved)
    gc.collect()
    assert channel.release() == []
    other = channel.send(b"next")
    assert (bytes(saved[0]), bytes(other[0])) == (b"tied", b"next")
    saved.clear()
    gc.collect()
    assert channel.release() == [0]


def test_views_outlive_their_receiver() -> None:
    channel = Channel()
    kept, gone = channel.send(b"kept"), channel.send(b"gone")
    del gone
    channel.receiver.close()
    channel.sender.close()
    kept[0][0] = ord("K")
    assert bytes(kept[0]) == b"Kept"
    assert mapped() == SMALLEST
    del kept
    assert mapped() == 0
    assert channel.receiver.take_released() == []


# What lies idle


def test_free_memory_is_bounded_at_both_sides() -> None:
    with opened(idle=4 * SMALLEST) as channel:
        kept = [channel.send(b"x") for _ in range(10)]
        assert mapped() == 20 * SMALLEST
        kept.clear()
        assert [number >= 0 for number in channel.release()] == [True] * 4 + [False] * 6
        assert channel.sender.idle == channel.receiver.idle == 4 * SMALLEST
        assert mapped() == 8 * SMALLEST


def test_the_longest_unused_segments_make_room_for_another_size() -> None:
    """Given free segments up to the bound, all of one size,

    If payloads of another size come,
    I expect the segments unused for longest to go, at both sides, so that the new ones are kept.
    """
    with opened(idle=4 * SMALLEST) as channel:
        kept = [channel.send(b"x") for _ in range(4)]
        for number in (2, 0, 1, 3):
            kept[number].clear()
            channel.release()
        descriptor, fds = channel.sender.place([bytes(2 * SMALLEST)])
        assert SegmentDescriptor.decode(descriptor).dropped == (2, 0)
        channel.receiver.map(descriptor, fds)
        channel.release()
        assert channel.sender.idle == channel.receiver.idle == 4 * SMALLEST
        del channel.send(bytes(2 * SMALLEST))[:]
        assert channel.new == 4


def test_the_longest_unused_segment_is_dropped_first_whatever_its_size() -> None:
    with opened(idle=4 * SMALLEST) as channel:
        kept = [channel.send(bytes(size)) for size in (SMALLEST, 2 * SMALLEST)]
        for views in kept:
            views.clear()
            channel.release()
        del channel.send(bytes(SMALLEST))[:]
        assert channel.release() == [0]
        descriptor, fds = channel.sender.place([bytes(3 * SMALLEST)])
        assert SegmentDescriptor.decode(descriptor).dropped == (1, 0)
        channel.sender.unplace(descriptor, fds)


def test_a_payload_above_the_bound_is_not_kept() -> None:
    with opened(idle=SMALLEST) as channel:
        del channel.send(b"kept")[:]
        assert channel.release() == [0]
        del channel.send(bytes(2 * SMALLEST))[:]
        assert channel.release() == [~1]
        assert (channel.sender.idle, channel.receiver.idle, mapped()) == (SMALLEST, SMALLEST, 2 * SMALLEST)


def test_beyond_the_limit_of_uses_payloads_are_copied() -> None:
    with opened(uses=2) as channel:
        kept, released = [], []
        for number in range(5):
            kept.append(channel.send(bytes([number]), b"tail"))
            released += channel.release()
        assert released == [2, 2, 2]
        assert channel.new == 3
        assert [bytes(first) for first, _ in kept] == [bytes([number]) for number in range(5)]
        assert not any(view.readonly for views in kept for view in views)


# Messages that do not arrive


def test_unsent_payloads_can_be_taken_back(channel: Channel) -> None:
    """Given a message whose segment the receiver does not have,

    If it is taken back,
    I expect its memory and file descriptor to be gone, and the next message to bring its own.
    """
    fds = open_fds()
    descriptor, came = channel.sender.place([b"never sent"])
    channel.sender.unplace(descriptor, came)
    assert (open_fds(), mapped(), channel.sender.idle) == (fds, 0, 0)
    assert bytes(channel.send(b"sent")[0]) == b"sent"


def test_a_segment_that_the_receiver_has_is_free_again(channel: Channel) -> None:
    del channel.send(b"known")[:]
    channel.release()
    descriptor, fds = channel.sender.place([b"never sent"])
    assert fds == []
    channel.sender.unplace(descriptor)
    assert bytes(channel.send(b"sent")[0]) == b"sent"
    assert channel.new == 1


def test_segments_dropped_in_a_recalled_message_are_reported_in_the_next() -> None:
    with opened(idle=2 * SMALLEST) as channel:
        del channel.send(b"x")[:]
        channel.release()
        descriptor, fds = channel.sender.place([bytes(2 * SMALLEST)])
        channel.sender.unplace(descriptor, fds)
        assert channel.receiver.idle == SMALLEST
        assert SegmentDescriptor.decode(descriptor).dropped == (0,)
        channel.send(b"x")
        assert channel.release() == [2]
        assert channel.sender.idle == channel.receiver.idle == SMALLEST


def test_nothing_is_taken_back_or_released_twice(channel: Channel) -> None:
    descriptor, fds = channel.sender.place([b"x"])
    channel.sender.unplace(descriptor, fds)
    with pytest.raises(ValueError, match="not placed"):
        channel.sender.unplace(descriptor)
    for number in (0, ~0, 7, -9):
        with pytest.raises(ProtocolError):
            channel.sender.released([number])
