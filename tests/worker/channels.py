"""A sender and a receiver of segments, and the resources of both in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearfar.serialization.shared_memory import SegmentReceiver, SegmentSender

KIB = 1024
MIB = 1024 * KIB


class Channel:
    """A sender and a receiver with nothing between them: a message arrives when it is placed."""

    def __init__(self, idle: int = 64 * MIB, uses: int = 4096) -> None:
        self.sender = SegmentSender(idle)
        self.receiver = SegmentReceiver(idle, uses)
        self.new = 0

    def send(self, *parts: Any) -> list[memoryview]:
        descriptor, fds = self.sender.place(parts)
        self.new += len(fds)
        views = self.receiver.map(descriptor, fds)
        assert fds == []
        return views

    def release(self) -> list[int]:
        released = self.receiver.take_released()
        self.sender.released(released)
        return released


@contextmanager
def opened(idle: int = 64 * MIB, uses: int = 4096) -> Iterator[Channel]:
    channel = Channel(idle, uses)
    yield channel
    channel.sender.close()
    channel.receiver.close()


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def mapped() -> int:
    """Bytes of segments that this process maps."""
    lines = [
        line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:nearfar" in line
    ]
    ranges = [line[0].split("-") for line in lines]
    return sum(int(end, 16) - int(start, 16) for start, end in ranges)
