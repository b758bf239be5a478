"""Docker compose, version 1 or 2, for one run of the project's file."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.shell import ROOT

BUILD = 900.0
"""Seconds that building the image and a whole tour may take."""
ORDER = 60.0
"""Seconds that any other order may take."""


@cache
def commands() -> tuple[tuple[str, ...], ...]:
    """The compose commands that work here. Others can be named: NEARFAR_COMPOSE=/path/to/one."""
    named = os.environ.get("NEARFAR_COMPOSE")
    choices = [(named,)] if named else [("docker-compose",), ("docker", "compose")]
    return tuple(each for each in choices if shutil.which(each[0]) and _answers(*each, "version"))


def missing() -> str:
    """Why the tour cannot run here; empty if it can."""
    if not shutil.which("docker") or not _answers("docker", "version"):
        return "no Docker engine answers here"
    return "" if commands() else "there is no docker compose here"


def _answers(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, timeout=ORDER, check=False).returncode == 0


class Tour:
    """A separate project with its volumes, which is removed at the end; the image stays."""

    def __init__(self, compose: tuple[str, ...], **settings: str) -> None:
        self._compose = (*compose, "--project-name", f"nearfar-test-{os.getpid()}")
        self._environment = os.environ | settings

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        both = ("--profile", "hosted", "--profile", "redis")
        subprocess.run(
            [*self._compose, *both, "down", "--volumes", "--timeout", "1"],
            cwd=ROOT, env=self._environment, capture_output=True, timeout=ORDER, check=False,
        )  # fmt: skip

    def up(
        self, said: Path, *options: str, profile: str = "", files: tuple[Path, ...] = ()
    ) -> subprocess.Popen[bytes]:
        """``docker compose up``, with its output in a file, and what `files` change in the project's."""
        chosen = [*(("--profile", profile) if profile else ())]
        for file in ("docker-compose.yml", *files) if files else ():
            chosen += ["--file", str(file)]
        with said.open("wb") as out:
            return subprocess.Popen(
                [*self._compose, *chosen, "up", *options],
                cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers, running or not."""
        return self.docker(
            "ps", "--all", "--quiet", "--no-trunc",
            "--filter", f"label=com.docker.compose.project={self._compose[-1]}",
            "--filter", f"label=com.docker.compose.service={service}",
        ).split()  # fmt: skip

    def within(self, service: str, *words: str) -> str:
        """The output of a command in the first running container of a service; empty if there is none."""
        for container in self.containers(service):
            run = subprocess.run(
                ["docker", "exec", container, *words], capture_output=True, text=True, timeout=ORDER
            )
            if run.returncode == 0:
                return run.stdout
        return ""

    def said(self, service: str) -> str:
        """The log of a service's first container."""
        return self.docker("logs", self.containers(service)[0])

    def docker(self, *words: str) -> str:
        run = subprocess.run(
            ["docker", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=ORDER
        )
        assert run.returncode == 0, run.stdout
        return run.stdout
