"""The report of a run: on a failure the events, and its figures in a file, if requested."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.chaos.faults.hosts import missing
from tests.chaos.faults.stage import Stage

LONG = ("got", "ran", "outcome")
"""What there are too many notes of."""
FIGURES = "NEARFAR_CHAOS_FIGURES"
"""A file to which each run that is green adds its figures, a line of JSON."""


class Run(Protocol):
    """One run, of a queue or a pool."""

    stage: Stage

    def run(self) -> None: ...

    def close(self) -> None: ...


def play(what: str, plan: Any, make: Callable[[], Run]) -> None:
    """Make a run of a plan, run it, and close it."""
    print(plan)
    if plan.transport == "net" and missing():
        pytest.skip(missing())
    run = make()
    with told(what, plan.seed, run.stage):
        try:
            run.run()
        finally:
            run.close()


@contextmanager
def told(what: str, seed: int, stage: Stage) -> Iterator[None]:
    """Print the events of a run that fails, and record the figures of one that does not."""
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print("\n".join(_line(note, began) for note in stage.journal.notes() if note["what"] not in LONG))
        print(stage.processes.said())
        raise
    if place := os.environ.get(FIGURES):
        figures = {"what": what, "seed": seed, "seconds": round(time.monotonic() - began, 2)}
        with Path(place).open("a") as file:
            print(json.dumps(figures | {"starts": stage.processes.starts} | stage.figures), file=file)


def _line(note: dict[str, object], began: float) -> str:
    at = note["at"]
    assert isinstance(at, float)
    facts = ", ".join(f"{key}={value}" for key, value in note.items() if key not in ("at", "who", "what"))
    return f"{at - began:7.3f} {note['who']}: {note['what']} {facts}"
