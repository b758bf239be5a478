"""A gallery: numbered pictures drawn from a seed, so that whoever knows the seed can check a copy."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from random import Random

from nearfar.demo.picture import draw

LARGE = (2400, 1600)
"""Width and height of a large picture: about 3 MB."""


@dataclass(frozen=True)
class Gallery:
    """`count` pictures of 10 to 30 kB, the last `large` of them of some MB."""

    count: int = 200
    large: int = 2
    seed: str = "nearfar"

    def names(self) -> list[str]:
        """``0001.png`` and on."""
        return [f"{number:04}.png" for number in range(1, self.count + 1)]

    def picture(self, name: str) -> bytes | None:
        """The PNG called `name`; None if there is none of that name."""
        stem = name.removesuffix(".png")
        if not (stem.isascii() and stem.isdigit() and name == f"{int(stem):04}.png"):
            return None
        number = int(stem)
        if not 1 <= number <= self.count:
            return None
        return drawn(self.seed, number, number > self.count - self.large)


@functools.lru_cache(maxsize=1024)
def drawn(seed: str, number: int, large: bool) -> bytes:
    """The picture of that number; a small one takes about 2 ms, a large one 150 ms."""
    size = Random(f"{seed} size {number}")
    width, height = LARGE if large else (size.randrange(130, 221), size.randrange(90, 151))
    return draw(f"{seed} {number}", width, height)
