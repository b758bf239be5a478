"""``kill -9`` of each process of a download in the middle of a large file: the file goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.download.trade.large import LargeFiles, Run
from tests.support.redis_server import needed
from tests.support.web import Web

SIZE, RATE = 4_000_000, 1_500_000.0


@pytest.fixture
def files() -> Iterator[LargeFiles]:
    with Web() as web:
        yield LargeFiles(web, {"/large.bin": SIZE}, RATE)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("shape", "victim"),
    [
        ("direct", "producer's child"),
        ("far", "everything"),
        pytest.param("redis", "everything", marks=needed),
        *(
            pytest.param(shape, victim, marks=pytest.mark.slow)
            for shape, victim in (
                ("direct", "producer"),
                ("near", "producer"),
                ("near", "producer's child"),
                ("far", "producer"),
                ("far", "consumer"),
                ("far", "host"),
                ("pool", "producer"),
                ("pool", "producer's child"),
            )
        ),
        *(
            pytest.param("redis", victim, marks=[needed, pytest.mark.slow])
            for victim in ("producer", "consumer", "host")
        ),
    ],
)
def test_a_large_file_goes_on_after_a_kill(
    files: LargeFiles, tmp_path: Path, shape: str, victim: str
) -> None:
    run = Run(shape, tmp_path, files)

    def strike() -> None:
        if files.total < SIZE * 2 // 3 or run.kills:
            return
        if victim == "everything":
            run.kill_all()
        else:
            run.kill(*run.victims()[victim])

    try:
        run.run(200, strike)
        run.verify()
    finally:
        run.close()
    assert run.kills
    ranges = [request.fields.get("range") for request in files.web.log]
    assert ranges[0] is None and all(ranges[1:]), ranges
