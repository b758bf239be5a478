"""Generated pictures are valid PNGs, the same each time, and fast to make."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise

import pytest

from nearfar.demo.gallery import LARGE, Gallery, draw

pytestmark = pytest.mark.pure


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG, each with its checksum verified."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at = 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length) == (zlib.crc32(kind + data),)
        yield kind, data
        at += 12 + length


def size(png: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", png, 16)
    return width, height


def test_a_picture_is_a_whole_png() -> None:
    parts = list(chunks(draw("a seed", 61, 40)))
    assert [kind for kind, _ in parts] == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", parts[0][1]) == (61, 40, 8, 3, 0, 0, 0)
    assert len(parts[1][1]) == 3 * 256
    assert len(zlib.decompress(parts[2][1])) == 40 * (1 + 61)


def test_the_picture_follows_from_the_seed() -> None:
    assert draw("one", 60, 40) == draw("one", 60, 40)
    assert draw("one", 60, 40) != draw("two", 60, 40)


def test_neighbouring_pixels_are_alike() -> None:
    """A sum that overflowed its byte would show as a jump."""
    data = zlib.decompress(dict(chunks(draw("smooth", 300, 100)))[b"IDAT"])
    rows = [data[start + 1 : start + 301] for start in range(0, len(data), 301)]
    assert max(abs(a - b) for row in rows for a, b in pairwise(row)) < 60


def test_a_gallery_is_of_small_pictures_and_some_large() -> None:
    gallery = Gallery(count=40, large=1)
    assert gallery.names()[:2] == ["0001.png", "0002.png"]
    *small, large = [gallery.picture(name) or b"" for name in gallery.names()]
    assert all(9_000 < len(png) < 32_000 for png in small)
    assert len({size(png) for png in small}) > 30
    assert size(large) == LARGE
    assert 2_000_000 < len(large) < 5_000_000


@pytest.mark.parametrize(
    "name", ["0000.png", "0041.png", "1.png", "00001.png", "0001", "-001.png", "²001.png", ""]
)
def test_there_is_no_picture_of_another_name(name: str) -> None:
    assert Gallery(count=40).picture(name) is None
