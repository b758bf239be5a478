"""Random faults at random moments: ``python -m tests.exits.random_faults SECONDS [SEED]``.

The result is checked by rules that hold for any moment: it ends, with the exit code of the fault, without a
traceback, and leaves nothing behind. A seed repeats the same faults, but not to the microsecond.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random

from nearfar.cli.exits import Exit
from tests.exits.faults import BLOWS, signum_of
from tests.exits.matrix import DOWNLOADS, LEASE, WAIT
from tests.exits.play import ABREAST, NEVER
from tests.exits.scenes import COMPANY, running, together, words
from tests.exits.scripts import POOLS, QUEUES, Script
from tests.exits.stage import GONE_WITHIN, SLACK, Actor, Stage, pause, until

LONGEST = LEASE + WAIT + 3.0
"""Seconds in which anything ends."""
BLOWN = tuple(blow for blow in BLOWS if blow != "none")
PROGRAMS = (*DOWNLOADS, "queue", "coordinator", "coordinator workers", "worker", "gallery", "demo")
WAITING = tuple(script for script in (*QUEUES, *POOLS) if not script.one_liner)


def shots(seed: int) -> Iterator[tuple[str | Script, str, float]]:
    """The program, the fault, and the seconds after its start."""
    dice = Random(seed)
    while True:
        what = dice.choice(WAITING) if dice.random() < 0.3 else dice.choice(PROGRAMS)
        yield what, dice.choice(BLOWN), dice.random() ** 2 * 4


def hit(what: str | Script, blow: str, moment: float) -> str:
    """The error, if any."""
    name = what if isinstance(what, str) else f"script {what.name!r}"
    with Stage() as stage:
        try:
            actor = begin(stage, what)
        except AssertionError as error:
            return f"=== {name}: did not begin: {error}"
        begun = stage.folder / "begun"
        script = isinstance(what, Script)
        until(lambda: begun.exists() if script else actor.has_started() or not actor.runs(), 40, every=0.001)
        pause(moment)
        BLOWS[blow](actor)
        stage.open()
        (stage.folder / "gate").touch()  # what runs in workers ends: who is asked to stop waits for it
        began = time.monotonic()
        found = judge(stage, actor, what, blow)
        took = time.monotonic() - began
        listed = "".join(f"\n* {complaint}" for complaint in found)
        report = f"=== {name}, {blow} after {moment:.3f} s, {took:.1f} s{listed}\n{stage.report()}"
        return report if found else ""


def begin(stage: Stage, what: str | Script) -> Actor:
    """Start it, and its peers."""
    if isinstance(what, Script):
        path = stage.folder / "script.py"
        path.write_text(what.source())
        return stage.python(str(path), name="script")
    if what in ("coordinator workers", "worker"):
        return running(stage, {}, what)
    stage.serve(held=False)
    if what in COMPANY:
        return together(stage, {}, what)
    return stage.program(*words(what, stage))


def judge(stage: Stage, actor: Actor, what: str | Script, blow: str) -> list[str]:
    script = isinstance(what, Script)
    if not actor.ends_within(LONGEST + SLACK):
        actor.dump()
        return [f"still there after {LONGEST + SLACK:g} s, now aborted"]
    code, signum = actor.process.returncode, signum_of(blow)
    allowed = {-signum, 128 + signum, Exit.OK, Exit.LOST}
    found = [] if code in allowed or script else [f"exit code {code}, not {sorted(allowed)}"]
    said = actor.text("out") + actor.text("err")
    if not script:  # Ctrl-C shows a traceback there, as in any script
        found += [f"it says {word!r}" for word in NEVER if word in said]
    others = tuple(each for each in stage.actors if each is not actor)
    if not until(lambda: not stage.processes(others), GONE_WITHIN + SLACK):
        found.append(f"left: processes {stage.processes(others)}")
    dies = blow in ("KILL", "QUIT") or script or code == -signum
    if len(stage.actors) == 1 and not dies and (left := stage.files()):
        found.append(f"left: {', '.join(left)}")
    return found


def main(seconds: str = "60", seed: str = "1") -> int:
    print(f"seed {seed}", flush=True)
    end, aim = time.monotonic() + float(seconds), shots(int(seed))
    count = wrong = 0
    with ThreadPoolExecutor(ABREAST) as pool:
        while time.monotonic() < end:
            volley = [next(aim) for _ in range(ABREAST)]
            for complaint in pool.map(lambda shot: hit(*shot), volley):
                count += 1
                if complaint:
                    wrong += 1
                    print(complaint, flush=True)
            print(f"{count} blows, {wrong} wrong", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
