"""How many items travel together, and cutting them so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

__all__ = ["Sized", "chunks", "cut", "default_chunksize"]


class Sized(Protocol):
    """Whoever knows the number of its workers."""

    @property
    def size(self) -> int: ...


def cut(iterable: Iterable[Any], size: int | None, workers: Sized) -> tuple[Iterator[Sequence[Any]], int]:
    """`iterable` in pieces of `size` (None: as suits the workers), and its length: it is read if it does not
    tell. Raises `ValueError` for a size below 1.
    """
    items: Any = iterable if hasattr(iterable, "__len__") else list(iterable)
    if size is None:
        size = default_chunksize(len(items), workers.size)
    elif size < 1:
        raise ValueError(f"Chunksize must be 1+, not {size!r}")
    return chunks(items, size), len(items)


def default_chunksize(length: int, workers: int) -> int:
    """Items a chunk for `length` items, as the standard counts: four chunks for each worker."""
    size, extra = divmod(length, 4 * workers)
    return max(1, size + bool(extra))


def chunks(items: Iterable[Any], size: int) -> Iterator[Sequence[Any]]:
    """`items` in pieces of `size`, the last one perhaps smaller.

    Lists, tuples and ranges are cut by slices: a slice of a `range` is a range, however long.
    """
    if type(items) in (list, tuple, range):
        for start in range(0, len(items), size):  # type: ignore[arg-type]
            yield items[start : start + size]  # type: ignore[index]
        return
    source = iter(items)
    while piece := tuple(islice(source, size)):
        yield piece
