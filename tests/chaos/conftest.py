from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.faults.access import VARIABLE
from tests.chaos.faults.faults import chosen_seeds
from tests.chaos.faults.hosts import Hosts, missing
from tests.chaos.faults.starter import Starter
from tests.support.keys import keys


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="the one seed of the chaos tests to run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test marked ``seeds("1-40")`` runs for each of these seeds, or for those given by an option."""
    marker = metafunc.definition.get_closest_marker("seeds")
    if marker is not None and "seed" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--seed", None)
        metafunc.parametrize("seed", chosen_seeds(marker.args[0], asked))


@pytest.fixture(scope="session")
def roles(temporary_folder: None) -> Iterator[Starter]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(keys()))
        starter = Starter()
        yield starter
        starter.close()


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts | None]:
    """Four simulated machines; skips the test if they are not possible."""
    if missing():
        yield None
        return
    with Hosts(["a", "b", "c", "d"]) as made:
        yield made
