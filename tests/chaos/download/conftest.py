from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.download.scene import Scene
from tests.chaos.download.starter import Starter
from tests.support.web import Web

Mount = Callable[..., Path]


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    starter.close()


@pytest.fixture
def scene(tmp_path: Path, starter: Starter) -> Iterator[Scene]:
    with Web() as web:
        yield Scene(tmp_path, tmp_path / "saved", web, starter)
        starter.kill_all()


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Makes small file systems: ``mount("name", size="3m", nr_inodes=20)``; a name again changes that one."""
    mounted: list[Path] = []

    def make(name: str, **options: object) -> Path:
        place = tmp_path / name
        given = ",".join(
            f"{option}={value}" if value is not True else option for option, value in options.items()
        )
        if place in mounted:
            subprocess.run(["mount", "-o", f"remount,{given}", str(place)], timeout=10, check=True)
            return place
        if os.geteuid():
            pytest.skip("mounting a small file system wants root")
        place.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"{given},mode=755", "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        if done.returncode:
            pytest.skip(f"no tmpfs here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield make
    for place in reversed(mounted):
        subprocess.run(["umount", "-l", str(place)], timeout=10, check=True)
