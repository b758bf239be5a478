"""What a message says of a payload that lies in a segment."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, pack, unpack
from typing import NamedTuple, Self

from nearfar.errors import ProtocolError

__all__ = ["Descriptor", "layout"]

ALIGNMENT = 64
HEADER = Struct("<QBII")
"""The segment's number, whether it is new, how many lengths and how many numbers follow."""


class Descriptor(NamedTuple):
    """Where the parts of a payload lie."""

    number: int
    """The segment's; no other segment of the same sender ever has it."""
    new: bool
    """Whether the segment's file descriptor travels with the message."""
    lengths: tuple[int, ...]
    """Bytes of each part; `layout` says where they are."""
    dropped: tuple[int, ...] = ()
    """Numbers of segments that will not be used again."""

    def encode(self) -> bytes:
        values = self.lengths + self.dropped
        header = HEADER.pack(self.number, self.new, len(self.lengths), len(self.dropped))
        return header + pack(f"<{len(values)}Q", *values)

    @classmethod
    def decode(cls, encoded: bytes | memoryview) -> Self:
        """Read what `encode` made. Raises ProtocolError."""
        if len(encoded) < HEADER.size:
            raise ProtocolError(f"a descriptor of {len(encoded)} bytes")
        number, new, lengths, dropped = HEADER.unpack_from(encoded)
        tail = encoded[HEADER.size :]
        if new > 1 or len(tail) != 8 * (lengths + dropped):
            raise ProtocolError(f"a descriptor of {len(encoded)} bytes for {lengths} parts")
        values = unpack(f"<{lengths + dropped}Q", tail)
        return cls(number, bool(new), values[:lengths], values[lengths:])


def layout(lengths: Sequence[int]) -> tuple[list[int], int]:
    """Where parts of these lengths begin, each aligned to 64 bytes, and where the last one ends; in bytes."""
    offsets = []
    end = 0
    for length in lengths:
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        offsets.append(offset)
        end = offset + length
    return offsets, end
