"""Other libraries' pools, where they are installed, behind the same few calls as ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from benchmarks.pool_runners import WORKERS, ExecutorRunner, Opening, Runner


class JoblibRunner:
    """Over `joblib.Parallel`, which takes whole lists of calls, and cuts them into batches by itself."""

    def __init__(self, parallel: Any) -> None:
        self._parallel = parallel

    def singly(self, func: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        from joblib import delayed

        values: list[Any] = self._parallel(delayed(func)(item) for item in items)
        return values

    def submit(self, func: Callable[[Any], Any], item: Any) -> Any:
        raise NotImplementedError

    def call(self, func: Callable[[Any], Any], item: Any) -> Any:
        return self.singly(func, [item])[0]

    def map(self, func: Callable[[Any], Any], items: Sequence[int]) -> list[Any]:
        return self.singly(func, items)

    def unordered(self, func: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        return self.singly(func, items)


@contextlib.contextmanager
def joblib(method: str) -> Iterator[Runner]:
    """It starts its workers by loky."""
    from joblib import Parallel

    with Parallel(n_jobs=WORKERS) as parallel:
        yield JoblibRunner(parallel)


@contextlib.contextmanager
def loky(method: str) -> Iterator[Runner]:
    """It has start methods of its own."""
    from loky import ProcessPoolExecutor as LokyExecutor

    made = LokyExecutor(max_workers=WORKERS)
    try:
        yield ExecutorRunner(made)
    finally:
        made.shutdown(wait=True)


def installed() -> dict[str, Opening]:
    """Those that are there."""
    known: dict[str, Opening] = {"loky": loky, "joblib": joblib}
    return {name: opening for name, opening in known.items() if find_spec(name) is not None}
