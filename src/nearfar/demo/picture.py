"""Draws pictures and writes them as PNG, with nothing but the standard library.

A picture is a plasma: every pixel is a sum of four waves, along x, y and both diagonals, and its value is
looked up in a palette. A row is summed as one large integer whose bytes are the pixels: the waves are
kept so small that no byte overflows into its neighbour. That is what makes a row cost microseconds.
"""

from __future__ import annotations

import math
import struct
import zlib
from random import Random

SIGNATURE = b"\x89PNG\r\n\x1a\n"
INDEXED = 3
"""The PNG colour type: a byte a pixel, looked up in a palette."""

WAVE = 60
GRAIN = 15
"""The largest byte of a wave and of the grain. 4 x 60 + 15 = 255: a sum of all never exceeds a byte."""


def draw(seed: str, width: int, height: int) -> bytes:
    """A PNG of `width` times `height` pixels; the same arguments give the same picture.

    The pixels are the same everywhere; the bytes are only promised where zlib is the same.
    """
    random = Random(seed)
    return encode(width, palette(random), plasma(random, width, height))


def plasma(random: Random, width: int, height: int) -> list[bytes]:
    """The rows of the picture, a byte a pixel; the grain makes it compress like a photograph."""
    across, down = wave(random, width), wave(random, height)
    falling, rising = wave(random, width + height), wave(random, width + height)
    still, grain = int.from_bytes(across), int.from_bytes(bytes([GRAIN]) * width)
    rows = []
    for y in range(height):
        row = still + int.from_bytes(falling[y : y + width])
        row += int.from_bytes(rising[height - y : height - y + width])
        row += int.from_bytes(down[y : y + 1] * width)
        row += random.getrandbits(8 * width) & grain
        rows.append(row.to_bytes(width))
    return rows


def wave(random: Random, length: int) -> bytes:
    """Two sines of different length, added, as bytes up to `WAVE`."""
    long, short = random.uniform(90, 240), random.uniform(30, 70)
    start = random.uniform(0, math.tau)
    return bytes(
        round(
            WAVE
            * (0.5 + 0.35 * math.sin(start + x / long * math.tau) + 0.15 * math.sin(x / short * math.tau))
        )
        for x in range(length)
    )


def palette(random: Random) -> bytes:
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


def encode(width: int, colours: bytes, rows: list[bytes]) -> bytes:
    """`rows` of palette indices as a PNG file (RFC 2083: signature, header, palette, data, end)."""
    header = struct.pack(">IIBBBBB", width, len(rows), 8, INDEXED, 0, 0, 0)
    unfiltered = b"".join(b"\0" + row for row in rows)
    data = zlib.compress(unfiltered, 1)
    return (
        SIGNATURE
        + chunk(b"IHDR", header)
        + chunk(b"PLTE", colours)
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
