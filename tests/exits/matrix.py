"""The matrix of signals and phases for the programs, as data; docs/exits.md describes it for users."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nearfar.cli.exits import Exit
from tests.exits.faults import SIGNUM, signum_of

AT_ONCE = 1.0
"""Seconds in which a program ends that has nothing to wait for."""
HOST_STOPS = 2.0
"""`FarQueue.stop_hosting`: for ends to say goodbye."""
TURN = 1.0
"""`LONGEST_WAIT` of producer and consumer: until they look at whether to stop."""
LEASE = 10.0
"""Until an end takes a frozen host for dead, and a host a frozen end."""
WAIT = 2.0
"""``--wait`` in all cells: for a host to come back."""
GRACE = 2.0
"""``--grace`` of the coordinators in all cells; and a supervisor's workers have a second more to end."""
LAST_WORDS = 1.0
"""Of an agent that leaves at once."""


@dataclass(frozen=True)
class Cell:
    """One program, in one phase, with one fault."""

    program: str
    phase: str
    blow: str
    codes: frozenset[int]
    """Exit codes; negative: it died by that signal, as Python's subprocess tells it. A shell adds 128."""
    within: float
    """Seconds from the blow to the end, on a machine that does nothing else."""
    says: tuple[str, ...] = ()
    """What it must have said, on either stream."""
    streams: tuple[tuple[str, str], ...] = ()
    """Standard streams that are not files: closed, broken (a pipe without a reader), full."""
    leaves: str = ""
    """What may stay: drafts, if it left at once; everything, if it had no chance to remove anything."""
    goes_on: bool = False
    """Whether the same commands are run again afterwards, and must finish."""

    def __str__(self) -> str:
        streams = "".join(f", {stream} {how}" for stream, how in self.streams)
        return f"{self.program}, {self.phase}{streams}: {self.blow}"


STOPS_WELL = ("queue", "coordinator", "coordinator workers", "worker", "gallery")
"""Programs for which to be stopped is the good end."""
DOWNLOADS = (
    "consumer",
    "consumer host",
    "producer",
    "producer host",
    "producer local",
    "producer pool local",
    "producer pool",
)
TWICE = ("INT INT", "TERM TERM")
DRAFTS, EVERYTHING = "drafts", "everything"
LEAVES = dict.fromkeys(TWICE, DRAFTS) | {"QUIT": EVERYTHING, "KILL": EVERYTHING}
STOPPING = "stopping: finishing the current work"


def codes(program: str, blow: str) -> frozenset[int]:
    """The exit codes of a program that is ready."""
    signum = signum_of(blow)
    if blow in ("QUIT", "KILL"):
        return frozenset({-signum})
    if blow in TWICE:  # the second may come when it is nearly over, or over
        return frozenset({-signum, 128 + signum, *([Exit.OK] if program in STOPS_WELL else [])})
    if program not in STOPS_WELL:
        return frozenset({128 + signum})
    return frozenset({Exit.OK})


def loading() -> Iterator[Cell]:
    """It dies of the signal, or, if it has loaded, stops as when it is ready."""
    moments = ("loading", "loading 50 ms", "loading 150 ms")
    for program in (*DOWNLOADS, *STOPS_WELL, "demo"):
        for phase, blow in zip(moments, ("INT", "TERM", "HUP"), strict=True):
            either = codes(program, blow) | {-signum_of(blow)}
            yield Cell(program, phase, blow, either, AT_ONCE + HOST_STOPS)


def alone() -> Iterator[Cell]:
    """Ready, hosting or connecting, without any peer."""
    for program in (*DOWNLOADS, *STOPS_WELL, "demo"):
        if program == "producer local":  # has itself
            continue
        for blow in ("INT", "INT INT", "TERM", "HUP", "QUIT", "KILL", "Ctrl-C", "timeout"):
            dies = blow in ("QUIT", "KILL")
            says = () if dies or program == "demo" else (STOPPING,)
            within = AT_ONCE if dies else AT_ONCE + HOST_STOPS
            yield Cell(
                program, "alone", blow, codes(program, blow), within, says, leaves=LEAVES.get(blow, "")
            )


def middle() -> Iterator[Cell]:
    """In the middle of a download."""
    for program in DOWNLOADS:
        for blow in ("INT", "TERM TERM", "HUP all", "Ctrl-C", "timeout", "KILL"):
            dies = blow == "KILL"
            says = () if dies else (STOPPING,)
            within = AT_ONCE if dies else TURN + HOST_STOPS + AT_ONCE
            goes_on = blow in ("INT", "TERM TERM", "KILL")
            leaves = LEAVES.get(blow, "")
            yield Cell(program, "middle", blow, codes(program, blow), within, says, (), leaves, goes_on)
    for program in ("coordinator workers", "worker"):
        for blow in ("TERM TERM", "INT INT", "QUIT", "KILL"):
            dies = blow in ("QUIT", "KILL")
            code = codes(program, blow) - {Exit.OK}
            yield Cell(program, "middle", blow, code, LAST_WORDS + AT_ONCE, leaves=LEAVES.get(blow, ""))
    for blow in ("INT", "HUP all"):  # its grace is over, and the tasks are not
        yield Cell("coordinator workers", "middle", blow, frozenset({Exit.OK}), GRACE + 1.0 + AT_ONCE)
    yield Cell(
        "queue", "laden", "TERM", frozenset({Exit.TERMINATED}), HOST_STOPS + AT_ONCE, ("stopped with",)
    )


def lost() -> Iterator[Cell]:
    """Its peers are frozen or killed, with or without a signal to itself."""
    away = LEASE + WAIT
    for program in ("consumer", "producer"):
        for phase in ("frozen", "bereft"):
            yield Cell(
                program, phase, "none", frozenset({Exit.LOST}), away + AT_ONCE, ("no host has answered",)
            )
            either = frozenset(
                {Exit.INTERRUPTED, Exit.LOST}
            )  # if something was in hand, and nobody to have it
            yield Cell(program, phase, "INT", either, away + AT_ONCE, (STOPPING,))
            again = frozenset({Exit.INTERRUPTED})
            yield Cell(program, phase, "INT INT", again, TURN + AT_ONCE, leaves=DRAFTS)
    for program in ("consumer", "consumer host", "producer", "queue"):
        after = codes(program, "INT INT") | {Exit.TERMINATED}
        yield Cell(program, "farewell", "INT", after, AT_ONCE, leaves=DRAFTS)
    for blow in ("INT", "HUP"):
        yield Cell("worker", "bereft", blow, frozenset({Exit.LOST}), away + AT_ONCE)


def broken() -> Iterator[Cell]:
    """Its folder was removed; its output is not read; it has ended already."""
    saved = frozenset({Exit.OK})
    for program in ("consumer host", "producer local"):
        failed = frozenset({Exit.FAILED, Exit.USAGE})
        yield Cell(program, "robbed", "none", failed, TURN + HOST_STOPS + AT_ONCE, leaves=DRAFTS)
    for program in ("consumer host", "producer", "queue", "coordinator", "worker"):
        blow = "TERM" if program in STOPS_WELL else "none"
        for how, said in (("broken", "the reader of standard output is gone"), ("full", "no space left")):
            out = (("out", how),)
            phase = "middle" if blow == "none" else "tells"
            failed = frozenset({Exit.FAILED})
            yield Cell(program, phase, "none", failed, TURN + HOST_STOPS + AT_ONCE, (said,), out)
    for program in ("consumer host", "producer", "producer local"):
        for how in ("broken", "full", "closed"):
            yield Cell(program, "middle", "none", saved, TURN + HOST_STOPS + AT_ONCE, (), (("err", how),))
        yield Cell(program, "middle", "none", saved, TURN + HOST_STOPS + AT_ONCE, (), (("out", "closed"),))
        code = frozenset({Exit.HUNG_UP})
        yield Cell(program, "middle", "hang-up", code, TURN + HOST_STOPS + AT_ONCE, (), (("tty", ""),))
    for program in ("queue", "coordinator workers", "worker"):
        code = frozenset({Exit.OK})
        yield Cell(program, "alone", "hang-up", code, HOST_STOPS + AT_ONCE, (), (("tty", ""),))
    for program in ("consumer host", "producer", "producer local", "producer pool local"):
        for blow in ("INT", "TERM", "HUP"):
            either = saved | {-SIGNUM[blow], 128 + SIGNUM[blow]}
            yield Cell(program, "done", blow, either, HOST_STOPS + AT_ONCE)


MATRIX = (*loading(), *alone(), *middle(), *lost(), *broken())

EVERYDAY = {
    "producer, loading: INT",
    "consumer, alone: INT",
    "producer, alone: Ctrl-C",
    "worker, alone: timeout",
    "consumer host, alone: INT INT",
    "queue, alone: KILL",
    "gallery, alone: HUP",
    "coordinator workers, alone, tty : hang-up",
    "producer local, middle: TERM TERM",
    "producer local, middle: KILL",
    "consumer host, middle: HUP all",
    "producer, middle, out broken: none",
    "queue, tells, out full: none",
    "consumer host, farewell: INT",
    "consumer host, done: TERM",
}
"""A few of each kind."""
