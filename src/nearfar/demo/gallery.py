"""A gallery of numbered pictures, drawn from a seed with the standard library alone: who knows the seed can
check a copy.

A picture is a plasma: every pixel is the sum of four waves, along x, y and both diagonals, looked up in a
palette. A row is summed as one large integer whose bytes are the pixels; the waves are small enough that no
byte overflows into the next one. That is why a row takes microseconds.
"""

from __future__ import annotations

import functools
import math
import struct
import zlib
from dataclasses import dataclass
from random import Random

LARGE = (2400, 1600)
"""Width and height of a large picture: about 3 MB."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"
INDEXED = 3
"""The PNG colour type: one byte for each pixel, looked up in a palette."""
WAVE = 60
GRAIN = 15
"""The largest byte of a wave and of the grain: 4 x 60 + 15 = 255, so a sum never exceeds a byte."""


@dataclass(frozen=True)
class Gallery:
    """`count` pictures of 10 to 30 kB; the last `large` of them have some MB."""

    count: int = 200
    large: int = 2
    seed: str = "nearfar"

    def names(self) -> list[str]:
        """``0001.png`` and on."""
        return [f"{number:04}.png" for number in range(1, self.count + 1)]

    def picture(self, name: str) -> bytes | None:
        """The PNG of that name; None if there is none."""
        stem = name.removesuffix(".png")
        if not (stem.isascii() and stem.isdigit() and name == f"{int(stem):04}.png"):
            return None
        number = int(stem)
        if not 1 <= number <= self.count:
            return None
        return _drawn(self.seed, number, number > self.count - self.large)


@functools.lru_cache(maxsize=1024)
def _drawn(seed: str, number: int, large: bool) -> bytes:
    """The picture of that number. A small one takes about 2 ms, a large one 150 ms."""
    size = Random(f"{seed} size {number}")
    width, height = LARGE if large else (size.randrange(130, 221), size.randrange(90, 151))
    return draw(f"{seed} {number}", width, height)


def draw(seed: str, width: int, height: int) -> bytes:
    """A PNG of `width` times `height` pixels.

    The same arguments give the same pixels everywhere, and the same bytes where zlib is the same.
    """
    random = Random(seed)
    return _encode(width, _palette(random), _plasma(random, width, height))


def _plasma(random: Random, width: int, height: int) -> list[bytes]:
    """The rows of the picture, one byte for each pixel. The grain makes it compress like a photograph."""
    across, down = _wave(random, width), _wave(random, height)
    falling, rising = _wave(random, width + height), _wave(random, width + height)
    still, grain = int.from_bytes(across), int.from_bytes(bytes([GRAIN]) * width)
    rows = []
    for y in range(height):
        row = still + int.from_bytes(falling[y : y + width])
        row += int.from_bytes(rising[height - y : height - y + width])
        row += int.from_bytes(down[y : y + 1] * width)
        row += random.getrandbits(8 * width) & grain
        rows.append(row.to_bytes(width))
    return rows


def _wave(random: Random, length: int) -> bytes:
    """The sum of two sines of different length, as bytes up to `WAVE`."""
    long, short = random.uniform(90, 240), random.uniform(30, 70)
    start = random.uniform(0, math.tau)
    heights = (
        0.5 + 0.35 * math.sin(start + x / long * math.tau) + 0.15 * math.sin(x / short * math.tau)
        for x in range(length)
    )
    return bytes(round(WAVE * height) for height in heights)


def _palette(random: Random) -> bytes:
    """256 colours that run into each other: a cosine for each channel.

    After Inigo Quilez, "Palettes" (iquilezles.org/articles/palettes).
    """
    phases = [random.random() for _ in range(3)]
    turns = [random.choice((1, 1, 2)) for _ in range(3)]
    return bytes(
        round(127.5 + 127.5 * math.cos(math.tau * (turns[channel] * index / 256 + phases[channel])))
        for index in range(256)
        for channel in range(3)
    )


def _encode(width: int, colours: bytes, rows: list[bytes]) -> bytes:
    """`rows` of palette indices as a PNG file (RFC 2083: signature, header, palette, data, end)."""
    header = struct.pack(">IIBBBBB", width, len(rows), 8, INDEXED, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 1)
    chunks = ((b"IHDR", header), (b"PLTE", colours), (b"IDAT", data), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
