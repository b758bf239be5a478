"""Named steps at which a process kills or freezes itself, wrapped around the shipped code from outside.

``NEARFAR_FAILPOINT="lend-sent:kill@3"`` arms one in a process that `starting` starts: at the third time that
it reaches the step. The process that triggers it makes a file, so that it triggers once, even if several
inherit it.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
SPEC, MARK = "NEARFAR_FAILPOINT", "NEARFAR_FAILPOINT_MARK"


class Point(NamedTuple):
    """Before or after a call of `place` (``module:Class.method``).

    With `kind`, only a call counts that has an argument which is, or carries, a message of that kind.
    """

    place: str
    when: str = "after"
    kind: str = ""


@dataclass(frozen=True)
class Failpoint:
    """At the `nth` time at `point`: kill or stop."""

    point: str
    action: str
    nth: int

    @classmethod
    def parse(cls, text: str) -> Failpoint:
        """Read ``lend-sent:kill@3``."""
        point, _, rest = text.partition(":")
        action, _, nth = rest.partition("@")
        return cls(point, SIGNALS[action] and action, int(nth or 1))

    def __str__(self) -> str:
        return f"{self.point}:{self.action}@{self.nth}"


def arm(points: Mapping[str, Point], environment: Mapping[str, str] = os.environ) -> None:
    """Arm the failpoint of the environment, in this process and in those that it forks."""
    if environment.get(SPEC):
        failpoint = Failpoint.parse(environment[SPEC])
        _wrap(points[failpoint.point], _Strike(failpoint, Path(environment[MARK])))


class _Strike:
    def __init__(self, failpoint: Failpoint, mark: Path) -> None:
        self._left = failpoint.nth
        self._signal = SIGNALS[failpoint.action]
        self._mark = mark

    def __call__(self) -> None:
        self._left -= 1
        if self._left:
            return
        try:
            with self._mark.open("x") as mark:
                print(os.getpid(), file=mark)
        except FileExistsError:
            return
        os.kill(os.getpid(), self._signal)


def _wrap(point: Point, strike: Callable[[], None]) -> None:
    module, _, path = point.place.partition(":")
    owner: Any = importlib.import_module(module)
    *above, name = path.split(".")
    for part in above:
        owner = getattr(owner, part)
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        counts = not point.kind or any(_is(each, point.kind) for each in arguments)
        if counts and point.when == "before":
            strike()
        result = inner(*arguments, **options)
        if counts and point.when == "after":
            strike()
        return result

    setattr(owner, name, wrapped)


def _is(argument: Any, kind: str) -> bool:
    """Whether it is an envelope, a message or an action that carries a message of that kind."""
    for step in ("envelope", "message"):
        argument = getattr(argument, step, argument)
    return getattr(getattr(argument, "kind", None), "name", "") == kind
