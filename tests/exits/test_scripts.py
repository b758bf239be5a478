"""No user's program hangs at its end, whatever it leaves open, and no process or file is left behind."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.exits.play import ABREAST, NEVER
from tests.exits.scripts import POOLS, QUEUES, Script
from tests.exits.stage import GONE_WITHIN, PATIENCE, SLACK, Stage, until

SCRIPTS = (*QUEUES, *POOLS)
LOADING = 1.5
"""Seconds for Python, modules, and the script's own waits."""


def run_all(scripts: Iterable[Script]) -> list[str]:
    with ThreadPoolExecutor(ABREAST) as pool:
        return [complaint for complaint in pool.map(run, scripts) if complaint]


def run(script: Script) -> str:
    """The error, with all output; or empty."""
    with Stage() as stage:
        path = stage.folder / "script.py"
        path.write_text(script.source())
        words = ("-c", script.body) if script.one_liner else (str(path),)
        actor = stage.python(*script.options, *words, name="script")
        if not script.one_liner:
            until(lambda: (stage.folder / "begun").exists() or not actor.runs(), PATIENCE)
        began = time.monotonic()
        if not actor.ends_within(LOADING + script.seconds + SLACK):
            actor.dump()
            return f"=== {script.name}\n* still there, now aborted\n{stage.report()}"
        took = time.monotonic() - began
        found = judge(script, actor.process.returncode, actor.text("out"), actor.text("err"))
        if not until(lambda: not stage.processes(), GONE_WITHIN + SLACK):
            found.append(f"left: processes {stage.processes()}")
        if left := stage.files():
            found.append(f"left: {', '.join(left)}")
        listed = "".join(f"\n* {complaint}" for complaint in found)
        return f"=== {script.name} ({took:.1f} s){listed}\n{stage.report()}" if found else ""


def judge(script: Script, code: int, out: str, err: str) -> list[str]:
    found = [f"exit code {code}, not {script.code}"] if code != script.code else []
    found += [f"printed {out!r}, not {script.out!r}"] if out != script.out else []
    found += [f"it does not say {words!r}" for words in script.err if words not in err]
    never = [word for word in NEVER if not (script.traceback and word == "Traceback")]
    found += [f"it says {word!r}" for word in never if word in err]
    if not script.err and (lines := [line for line in err.splitlines() if line]):
        found.append(f"it says {lines[-1]!r}")
    return found


def test_script_names_are_valid() -> None:
    kinds = [(script in POOLS, script.name) for script in SCRIPTS]
    assert len(kinds) == len(set(kinds))


def test_some_scripts_of_each_kind() -> None:
    complaints = run_all(script for script in SCRIPTS if script.everyday)
    assert not complaints, "\n".join(complaints)


@pytest.mark.matrix
@pytest.mark.timeout(240)
@pytest.mark.parametrize("scripts", [QUEUES, POOLS], ids=["queues", "pools"])
def test_every_script(scripts: tuple[Script, ...]) -> None:
    complaints = run_all(scripts)
    assert not complaints, "\n".join(complaints)
