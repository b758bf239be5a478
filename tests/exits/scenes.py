"""Starts each program, and brings it to a phase."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from tests.exits.stage import PATIENCE, Actor, Stage, pause, until

WAIT = "2"
"""``--wait`` of every program: seconds for a host that does not answer."""

UNSETTLED = re.compile(r"\b[1-9][\d,]* (waiting|unacknowledged)")
"""What a queue says while there are items that nobody has done with."""

Phase = Callable[[Stage, dict[str, str], str], Actor]
"""Starts a program, with its standard streams as they are said to be, and returns it in that phase."""


def words(program: str, stage: Stage) -> tuple[str, ...]:
    """The command line."""
    links = str(stage.folder / "urls.txt")
    fetch = ("-i", links, "--jobs", "4", "--wait", WAIT)
    lines: dict[str, tuple[str, ...]] = {
        "consumer": ("consumer", "--queue", stage.queue, "-o", "out", "--wait", WAIT),
        "consumer host": ("consumer", "--bind", stage.queue, "-o", "out"),
        "producer": ("producer", "--queue", stage.queue, *fetch),
        "producer host": ("producer", "--bind", stage.queue, *fetch),
        "producer local": ("producer", "--queue", "local", "-o", "out", *fetch),
        "producer pool local": ("producer", "--queue", stage.queue, "--pool", "local:2", *fetch),
        "producer pool": ("producer", "--queue", stage.queue, "--pool", stage.pool, *fetch),
        "queue": ("queue", "--bind", stage.queue, "--status-every", "0.1"),
        "coordinator": ("coordinator", "--bind", stage.pool),
        "coordinator workers": ("coordinator", "--bind", stage.pool, "--workers", "2", "--grace", "2"),
        "worker": ("worker", "--connect", stage.pool, "--processes", "2", "--wait", WAIT),
        "gallery": ("gallery", "--bind", "127.0.0.1:0", "--count", "3"),
        "demo": ("demo", "-o", "out"),
    }
    return lines[program]


READY = {
    "consumer": "connecting to the queue",
    "consumer host": "hosting the queue",
    "producer": "connecting to the queue",
    "producer host": "hosting the queue",
    "producer pool local": "connecting to the queue",
    "producer pool": "connecting to the queue",
    "queue": "hosting the queue",
    "coordinator": "coordinating at",
    "coordinator workers": "coordinating at",
    "worker": "working for",
    "gallery": "serving 3 images",
    "demo": "hosting the queue",
}
"""What it says when it is ready and nobody is there."""

COMPANY: dict[str, tuple[str, ...]] = {
    "consumer": ("queue", "*consumer", "producer"),
    "consumer host": ("*consumer host", "producer"),
    "producer": ("consumer host", "*producer"),
    "producer host": ("*producer host", "consumer"),
    "producer local": ("*producer local",),
    "producer pool local": ("consumer host", "*producer pool local"),
    "producer pool": ("consumer host", "coordinator", "worker", "*producer pool"),
    "queue": ("*queue", "consumer", "producer"),
}
"""Who takes part in a download in the middle of which the starred one is hit."""


def loading(moment: float) -> Phase:
    """Some seconds after it has begun to load, when Python itself has started."""

    def phase(stage: Stage, how: dict[str, str], program: str) -> Actor:
        stage.serve(held=False)
        actor = stage.program(*words(program, stage), **how)
        assert until(lambda: actor.has_started() or not actor.runs(), PATIENCE, every=0.001)
        pause(moment)
        return actor

    return phase


def alone(stage: Stage, how: dict[str, str], program: str) -> Actor:
    """Ready, without any peer."""
    stage.serve(held=False)
    actor = stage.program(*words(program, stage), **how)
    if "tty" not in how:
        actor.says(READY[program])
    elif program == "worker":
        assert until(lambda: len(stage.processes()) > 2, PATIENCE), stage.report()
    else:
        wait_for_host(stage, program)
    return actor


def middle(stage: Stage, how: dict[str, str], program: str) -> Actor:
    """In the middle of its work."""
    if program in ("coordinator workers", "worker"):
        return running(stage, how, program)
    stage.serve()
    return together(stage, how, program, stage.in_the_middle)


def together(
    stage: Stage, how: dict[str, str], program: str, until_when: Callable[[], None] = lambda: None
) -> Actor:
    """Start all programs of a download; returns the tested one."""
    hit: list[Actor] = []
    for each in COMPANY[program]:
        name = each.removeprefix("*")
        actor = stage.program(*words(name, stage), **(how if each != name else {}))
        if each != name:
            hit.append(actor)
        wait_for_host(stage, name)
    until_when()
    return hit[0]


def wait_for_host(stage: Stage, program: str) -> None:
    """Wait until the others can connect, as they do not wait for long."""
    if program in ("consumer host", "producer host", "queue"):
        stage.is_hosted(stage.queue)
    elif program in ("coordinator", "coordinator workers"):
        stage.is_hosted(stage.pool)


def running(stage: Stage, how: dict[str, str], program: str) -> Actor:
    """Its workers run two tasks, which last until there is a file ``gate``."""
    if program == "worker":
        stage.program(*words("coordinator", stage)).says(READY["coordinator"])
    actor = stage.program(*words(program, stage), **how)
    actor.says("working for" if program == "worker" else READY[program])
    script = (
        "import sys; from nearfar import Pool; from tests.pool.tasks import leave_then_wait_for as task\n"
        "pool = Pool.connect(sys.argv[1], wait=2.0)\n"
        "results = [pool.apply_async(task, (name, 'gate')) for name in ('mark 0', 'mark 1')]\n"
        "print([result.get(60) for result in results])"
    )
    stage.python("-c", script, stage.pool, name="client")
    assert until(lambda: all((stage.folder / f"mark {n}").exists() for n in range(2)), 40), stage.report()
    return actor


def frozen(stage: Stage, how: dict[str, str], program: str) -> Actor:
    """In the middle, with every other program frozen."""
    actor = middle(stage, how, program)
    for each in stage.actors:
        if each is not actor:
            each.signal(signal.SIGSTOP, group=True)
    return actor


def laden(stage: Stage, how: dict[str, str], program: str) -> Actor:
    """A queue in the middle, with more items put after its consumer was frozen."""
    actor = middle(stage, how, program)
    for each in stage.actors:
        if each.name == "consumer":
            each.signal(signal.SIGSTOP, group=True)
    before = len(actor.text("err"))
    stage.open()
    assert until(lambda: UNSETTLED.search(actor.text("err"), before) is not None, PATIENCE), stage.report()
    return actor


def bereft(stage: Stage, how: dict[str, str], program: str) -> Actor:
    """In the middle, with every other program killed."""
    actor = middle(stage, how, program)
    for each in stage.actors:
        if each is not actor:
            each.signal(signal.SIGKILL, group=True)
    return actor


def farewell(stage: Stage, how: dict[str, str], program: str) -> Actor:
    """Stopping, while it says goodbye to a frozen peer."""
    actor = frozen(stage, how, program)
    actor.signal(signal.SIGTERM)
    actor.says("stopping")
    stage.open()
    pause(0.5)
    return actor


def robbed(stage: Stage, how: dict[str, str], program: str) -> Actor:
    """In the middle, after its folder was removed."""
    actor = middle(stage, how, program)
    (stage.folder / "out").rename(stage.folder / "elsewhere")  # it is being written in: not to be torn
    shutil.rmtree(stage.folder / "elsewhere", ignore_errors=True)
    stage.open()
    return actor


def done(stage: Stage, how: dict[str, str], program: str) -> Actor:
    """After its last message."""
    stage.serve(held=False)
    actor = together(stage, how, program)
    actor.says(" saved")
    assert until(lambda: " saved" in actor.text("out"), 40), stage.report()
    return actor


def telling(stage: Stage, how: dict[str, str], program: str) -> Actor:
    """While it prints its address."""
    return stage.program(*words(program, stage), **how)


PHASES: dict[str, Phase] = {
    "tells": telling,
    "loading": loading(0.0),
    "loading 50 ms": loading(0.05),
    "loading 150 ms": loading(0.15),
    "alone": alone,
    "middle": middle,
    "laden": laden,
    "frozen": frozen,
    "bereft": bereft,
    "farewell": farewell,
    "robbed": robbed,
    "done": done,
}


def finish(stage: Stage, program: str) -> str:
    """Run the same commands again, to the end; returns the error then, if any."""
    company = COMPANY[program]
    stage.open()
    for place in (stage.queue, stage.pool):
        Path(place.removeprefix("ipc://")).unlink(missing_ok=True)
    actors = []
    for each in company:
        name = each.removeprefix("*")
        actors.append(stage.program(*words(name, stage)))
        wait_for_host(stage, name)
    for actor, each in zip(actors, company, strict=True):
        if each.removeprefix("*") in ("queue", "coordinator", "worker"):
            continue
        if not actor.ends_within(40) or actor.process.returncode:
            actor.dump()
            return f"the same command does not go on:\n{stage.report()}"
    return ""
