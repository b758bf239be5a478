"""A wall clock that jumps, for every call of the C library: no wait depends on it, and no count is wrong."""

from __future__ import annotations

import threading
from itertools import cycle
from pathlib import Path

import pytest

from nearfar.cli.exits import Exit
from tests.chaos.download.scene import Scene

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not LIBRARY.exists(), reason="libfaketime is not here (Debian: apt install faketime)"),
]
OFFSETS = ("-1h", "+400d", "+0", "-5s", "+1h", "-3000d")


@pytest.mark.parametrize("shape", ["far", "local", "direct", "pool"])
def test_jumps_of_the_clock_change_nothing(scene: Scene, shape: str) -> None:
    scene.serve([f"{number}.bin" for number in range(300)], 3000)
    clock = scene.folder / "clock"
    clock.write_text("+0")
    scene.afresh = True
    scene.environment = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    over = threading.Event()

    def jump() -> None:
        for offset in cycle(OFFSETS):
            if over.wait(0.15):
                return
            new = clock.with_suffix(".new")
            new.write_text(offset)
            new.replace(clock)

    jumping = threading.Thread(target=jump)
    jumping.start()
    try:
        first, second = scene.download(shape), scene.download(shape)
    finally:
        over.set()
        jumping.join()
    assert (first.code, second.code) == (Exit.OK, Exit.OK), first.err + second.err
    assert first.out.startswith("300 urls: 300 saved, 0 already there, 0 failed")
    assert second.out.startswith("300 urls: 0 saved, 300 already there, 0 failed")
    assert scene.there() == scene.bodies
    assert len(scene.web.log) == 300
