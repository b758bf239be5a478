"""The addresses and machines of a run's roles."""

from __future__ import annotations

from collections.abc import Iterator


def spread() -> Iterator[str]:
    """The machines of the roles: the first on one, the others spread over the rest."""
    yield "a"
    while True:
        yield from ("b", "c", "d")
