from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.download.trade.world import World


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(bodies: dict[str, bytes], room: int = 1000) -> World:
        worlds.append(World(bodies, room))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()
