"""The plan of a run, drawn from its seed: commands, the server's behaviour, faults and their times."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

LEASE = 1.0
"""Seconds of silence after which a host or coordinator of a run takes others for dead."""
WAIT = 4.0
"""Seconds that a command waits for a host that does not answer."""

FETCHING = ("offering", "offered", "fetched", "putting", "put", "settled")
SAVING = (
    *("received", "asked what is known", "draft open", "draft written", "draft finished", "before fsync"),
    *("synced", "intended", "placed", "renamed", "recorded", "done", "answered"),
)
"""Weighed towards the few lines on which a file's life hangs."""
NEAR = ("near starts", "near feeds", "near hears")
POINTS = {
    "producer": (*FETCHING, "leaving", "left", "failed"),
    "consumer": (*SAVING, "sweeping"),
    "queue": ("host hears", "host says"),
    "coordinator": ("coordinator hears", "coordinator says"),
    "agent": ("agent acts", "agent hears", "share begins", "share ends", *FETCHING),
    "pooled": ("share handed out", "share came back", "leaving", "share begins", "share ends", *FETCHING),
    "near": (*NEAR, *FETCHING, *SAVING),
    "direct": (*NEAR, "file whole", "file ended", "committed", *SAVING[1:-1]),
}
"""By what a command is; a near command and a pooled one meet those of their processes, too."""
OFTEN = frozenset(
    {"draft written", "draft finished", "draft open", "fetched", "settled", "placed", "put", "putting"}
    | {"file whole", "file ended"}
)
MANY = frozenset({"host hears", "host says", "coordinator says", "agent acts"})


@dataclass(frozen=True)
class Blow:
    """A signal from outside: `at` seconds after the start, to a command's process, or to one below it."""

    at: float
    role: str
    kind: str
    """``kill`` or ``stop``."""
    seconds: float
    """How long it stays stopped."""
    below: bool = False


@dataclass(frozen=True)
class Mine:
    """A signal to itself, at the nth time that a process of the command reaches a point."""

    point: str
    role: str
    nth: int
    kind: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """One run. The same seed gives the same plan; the result also depends on the machine."""

    seed: int
    shape: str
    """``far``, ``pool``, or one command: ``local`` (with near queues) or ``direct`` (without)."""
    transport: str
    host: str
    """The role that hosts the queue; empty for ``local``."""
    pool: str
    """``local:2``, or ``far`` for a coordinator and two agents; empty where there is none."""
    producers: int
    consumers: int
    files: int
    mischief: float
    """The share of files that the server gives badly at first."""
    blows: tuple[Blow, ...]
    mines: tuple[Mine, ...]
    jumps: tuple[tuple[float, float], ...]
    """Of the wall clock: after so many seconds, it is so many seconds off."""

    @property
    def near(self) -> bool:
        """Whether there is but one command."""
        return self.shape in ("local", "direct")

    @property
    def roles(self) -> dict[str, str]:
        """The kind of each command (a key of `POINTS`), by its role; the host comes first."""
        if self.near:
            return {"producer 1": "near" if self.shape == "local" else "direct"}
        roles = {"queue": "queue"} if self.host == "queue" else {}
        roles |= {f"consumer {number}": "consumer" for number in range(1, self.consumers + 1)}
        if self.pool == "far":
            roles |= {"coordinator": "coordinator", "agent 1": "agent", "agent 2": "agent"}
        kind = "pooled" if self.shape == "pool" else "producer"
        roles |= {f"producer {number}": kind for number in range(1, self.producers + 1)}
        return dict(sorted(roles.items(), key=lambda role: role[0] != self.host))

    @classmethod
    def draw(cls, seed: int) -> Plan:
        dice = Random(seed)
        shape = dice.choice(("far", "far", "local", "direct", "pool", "pool"))
        producers = dice.choice((1, 2)) if shape != "pool" else 1
        hosts = ["queue", "queue", "consumer 1", "consumer 1", *(["producer 1"] if producers == 1 else [])]
        plan = cls(
            seed=seed,
            shape=shape,
            transport=dice.choice(("tcp", "ipc")),
            host=dice.choice(hosts) if shape not in ("local", "direct") else "",
            pool=dice.choice(("local:2", "far")) if shape == "pool" else "",
            producers=producers,
            consumers=dice.choice((1, 2, 3)) if shape != "local" else dice.choice((1, 2)),
            files=dice.randrange(40, 121),
            mischief=dice.choice((0.0, 0.1, 0.3)),
            blows=(),
            mines=(),
            jumps=_jumps(dice) if not seed % 4 else (),
        )
        roles = plan.roles
        blows = tuple(_blow(dice, list(roles)) for _ in range(dice.randrange(1, 4)))
        mines = tuple(_mine(dice, *dice.choice(list(roles.items()))) for _ in range(dice.randrange(1, 4)))
        return cls(**{**vars(plan), "blows": tuple(sorted(blows, key=lambda blow: blow.at)), "mines": mines})


def _blow(dice: Random, roles: list[str]) -> Blow:
    role = dice.choice(roles)
    return Blow(round(dice.uniform(0.05, 1.5), 2), role, *_kind(dice), below=dice.random() < 0.5)


def _mine(dice: Random, role: str, kind: str) -> Mine:
    point = dice.choice(POINTS[kind])
    most = 120 if point in MANY else 12 if point in OFTEN else 3
    return Mine(point, role, dice.randint(1, most), *_kind(dice))


def _kind(dice: Random) -> tuple[str, float]:
    """Kill; or stop, for less than the lease or for more."""
    if dice.random() < 0.6:
        return "kill", 0.0
    return "stop", round(dice.choice((dice.uniform(0.1, 0.6), dice.uniform(1.3, 2.2))) * LEASE, 2)


def _jumps(dice: Random) -> tuple[tuple[float, float], ...]:
    """Back and forth, by seconds or by years."""
    sizes = (5.0, 3600.0, 86400.0 * 400)
    return tuple((at, dice.choice((-1, 1)) * dice.choice(sizes)) for at in (0.3, 0.7, 1.1, 1.6))
