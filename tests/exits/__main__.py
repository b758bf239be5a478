"""``python -m tests.exits WORDS``: run the cells with these words in their names, and print how long each
took."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.exits.matrix import MATRIX, Cell
from tests.exits.play import ABREAST, play


def timed(cell: Cell) -> bool:
    began = time.monotonic()
    complaint = play(cell)
    print(f"{time.monotonic() - began:5.1f} s  {'WRONG' if complaint else 'well'}  {cell}", flush=True)
    if complaint:
        print(complaint, flush=True)
    return not complaint


def main(*words: str) -> int:
    cells = [cell for cell in MATRIX if all(word in str(cell) for word in words)]
    with ThreadPoolExecutor(ABREAST) as pool:
        well = list(pool.map(timed, cells))
    print(f"{len(well)} cells, {well.count(False)} wrong")
    return int(not all(well))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
