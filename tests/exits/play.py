"""Runs one cell of the matrix, and returns what was wrong."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from tests.exits.faults import BLOWS, Terminal
from tests.exits.matrix import DRAFTS, EVERYTHING, Cell
from tests.exits.scenes import PHASES, finish
from tests.exits.stage import GONE_WITHIN, SLACK, WHOLE, Actor, Stage, until

ABREAST = 4
"""Cells at a time: most of a cell is waiting."""
NEVER = (
    "Traceback",
    "Exception ignored",
    "Exception in thread",
    "Error in atexit",
    "leaked",
    "Fatal Python error",
    "Warning:",
)
"""What no program may say, however it ends."""


def play_all(cells: Iterable[Cell]) -> list[str]:
    """The errors in these cells."""
    with ThreadPoolExecutor(ABREAST) as pool:
        return [complaint for complaint in pool.map(play, cells) if complaint]


def play(cell: Cell) -> str:
    """The error in one cell, with all output; or empty."""
    with Stage() as stage:
        try:
            complaints = _play(cell, stage)
        except AssertionError as error:
            complaints = [f"the phase was not reached: {error}"]
        if not complaints:
            return ""
        listed = "".join(f"\n* {complaint}" for complaint in complaints)
        return f"=== {cell}{listed}\n{stage.report()}\n"


def _play(cell: Cell, stage: Stage) -> list[str]:
    how, terminal = dict(cell.streams), None
    if "tty" in how:
        terminal = Terminal()
        how["tty"] = str(terminal.slave)
    actor = PHASES[cell.phase](stage, how, cell.program)
    began = time.monotonic()
    if terminal is not None:
        terminal.hang_up()
    else:
        BLOWS[cell.blow](actor)
    if cell.phase not in ("frozen", "bereft"):
        stage.open()
    if not actor.ends_within(cell.within + SLACK):
        actor.dump()
        return [f"still there after {cell.within + SLACK:g} s, now aborted"]
    took = time.monotonic() - began
    return [*_judge(cell, stage, actor, took), *_rest(cell, stage, actor)]


def _judge(cell: Cell, stage: Stage, actor: Actor, took: float) -> list[str]:
    found = []
    code = actor.process.returncode
    if code not in cell.codes:
        found.append(f"exit code {code}, not {sorted(map(int, cell.codes))} (after {took:.1f} s)")
    said = actor.text("out") + actor.text("err")
    found += [f"it says {word!r}" for word in NEVER if word in said]
    found += [f"it does not say {words!r}" for words in cell.says if words not in said]
    return found


def _rest(cell: Cell, stage: Stage, actor: Actor) -> list[str]:
    """Check leftovers, and whether the work continues."""
    found = []
    others = tuple(each for each in stage.actors if each is not actor)
    if not until(lambda: not stage.processes(others), GONE_WITHIN + SLACK):
        found.append(f"left: processes {stage.processes(others)}")
    if len(stage.actors) == 1 and cell.leaves != EVERYTHING:
        left = stage.files() + ([] if cell.leaves == DRAFTS or cell.program == "demo" else stage.drafts())
        found += [f"left: {', '.join(left)}"] if left else []
    found += [f"not whole: {name}" for name, data in stage.saved().items() if data != WHOLE.get(name, data)]
    if cell.goes_on and not found:
        had = stage.saved()
        stage.kill_all()
        if trouble := finish(stage, cell.program):
            found.append(trouble)
        elif stage.saved() != WHOLE:
            found.append(
                f"of {len(WHOLE)} files, {len(stage.saved())} are there in the end; before {len(had)}"
            )
    return found
