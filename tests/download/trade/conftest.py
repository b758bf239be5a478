from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.download.trade.world import World
from tests.support import redis_server


@pytest.fixture(autouse=True, scope="session")
def redis() -> Iterator[None]:
    """A Redis server for this process's tests, where there is one."""
    with redis_server.for_all_tests():
        yield


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(bodies: dict[str, bytes], room: int = 1000) -> World:
        worlds.append(World(bodies, room))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()
