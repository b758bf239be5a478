"""Large and small files while any process is killed at random: only what was not kept is fetched twice."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from random import Random

import pytest

from tests.download.trade.large import LargeFiles, Run
from tests.support.web import Web

RATE = 1_000_000.0
SHAPES = ("direct", "near", "far", "pool")


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.seeds("1-8")
def test_files_go_on_whatever_is_killed(tmp_path: Path, seed: int) -> None:
    dice = Random(seed)
    sizes = {f"/large-{number}.bin": dice.randrange(1_000_000, 6_000_000) for number in range(3)}
    sizes |= {f"/small-{number}.bin": dice.randrange(1, 60_000) for number in range(40)}
    with Web() as web:
        files = LargeFiles(web, sizes, RATE, seed)
        run = Run(SHAPES[seed % len(SHAPES)], tmp_path, files)
        began = time.monotonic()
        moments = sorted(dice.uniform(0.5, 8.0) for _ in range(dice.randrange(1, 4)))

        def strike() -> None:
            if not moments or time.monotonic() - began < moments[0]:
                return
            moments.pop(0)
            victims = run.victims()
            if dice.random() < 0.2:
                print(f"{time.monotonic() - began:.1f} s: everything is killed")
                run.kill_all()
            elif victims:
                name = dice.choice(sorted(victims))
                print(f"{time.monotonic() - began:.1f} s: {name} is killed")
                run.kill(dice.choice(victims[name]))

        try:
            run.run(120, strike)
            run.verify()
        finally:
            run.close()
    figures = {
        "seed": seed,
        "shape": run.shape,
        "kills": run.kills,
        "bytes": sum(sizes.values()),
        "twice": files.sent_twice,
        "not kept": run.lost,
    }
    print(figures)
    if place := os.environ.get("NEARFAR_CHAOS_FIGURES"):
        with Path(place).open("a") as file:
            file.write(json.dumps(figures) + "\n")
