"""One run of a pool: calls, faults meanwhile, and the check of every call's outcome."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random

from nearfar.cli.exits import Exit
from tests.chaos.faults.faults import either
from tests.chaos.faults.hosts import Hosts
from tests.chaos.faults.leftovers import leftovers
from tests.chaos.faults.places import spread
from tests.chaos.faults.processes import Part
from tests.chaos.faults.proxied import LISTEN, TARGET, Proxied
from tests.chaos.faults.stage import Stage
from tests.chaos.faults.starter import Starter
from tests.chaos.pool.check import Check
from tests.chaos.pool.plan import HOST, Plan
from tests.support.ports import free_address, free_port

LIMIT = 45.0
PLACE = "tests.chaos.pool.roles"
WORK = 1.3
"""Seconds that all calls take, if nothing happens."""


class Run:
    """Everything of one run is below `folder`. Use it once, and close it."""

    def __init__(self, plan: Plan, folder: Path, starter: Starter, hosts: Hosts | None) -> None:
        self.plan = plan
        self._folder = folder
        self._dice = Random(plan.seed)
        self._stack = ExitStack()
        self._done: set[str] = set()
        self._hosts = hosts if plan.transport == "net" else None
        proxy = self._find_place(hosts)
        names = [plan.centre, *(name for name in self._roles() if name != plan.centre)]
        self._machines = dict(zip(names, spread(), strict=False)) | {HOST: "a"}
        self.stage = Stage(
            folder, starter, self._dice, hosts=self._hosts, machines=self._machines, proxy=proxy
        )
        self._add_parts()

    def run(self) -> None:
        """Raises `AssertionError` for each broken promise."""
        stage, plan = self.stage, self.plan
        for name in self._roles():
            stage.processes.start(name)
        frozen = [role for role, point in plan.failpoints if point.action == "stop"]
        stage.begin(plan.faults, {role: either(self._dice) for role in frozen})
        self._until("every call has its outcome", lambda: set(plan.callers) <= self._done)
        self._until("nothing happens any more", lambda: stage.quiet)
        if plan.centre == HOST:
            stage.processes.start("asker")
            self._until("the coordinator says how it stands", lambda: "asker" in self._done)
        self._dismiss(plan.helpers)
        self._dismiss([HOST] if plan.centre == HOST else [])
        left = leftovers(stage)
        assert not left, f"left behind: {left}"
        Check(plan, stage).all()

    def close(self) -> None:
        self.stage.close()
        self._stack.close()

    def _find_place(self, hosts: Hosts | None) -> Proxied | None:
        """Where the coordinator binds, and where the others find it."""
        match self.plan.transport:
            case "net":
                assert hosts is not None
                self._binds = self._calls = f"tcp://{hosts.address('a')}:5556"
            case "proxy":
                port = free_port()
                self._binds, self._calls = f"tcp://{TARGET}:{port}", f"tcp://{LISTEN}:{port}"
                return self._stack.enter_context(Proxied([port], self.plan.seed))
            case "tcp":
                self._binds = self._calls = free_address()
            case _:
                self._binds = self._calls = f"ipc://{self._folder}/pool"
        return None

    def _roles(self) -> list[str]:
        centre = [HOST] if self.plan.centre == HOST else []
        return [*centre, *self.plan.callers, *self.plan.helpers]

    def _add_parts(self) -> None:
        plan = self.plan
        workers = plan.processes * max(1, len(plan.helpers))
        order = {
            "journal": str(self._folder / "journal"),
            "address": self._calls,
            "binds": self._binds,
            "near": plan.near,
            "hosted": plan.hosted,
            "processes": plan.processes,
            "tasks": plan.tasks,
            "retries": plan.retries,
            "seconds": WORK * workers / (plan.tasks * plan.clients),
        }
        for name in {*self._roles(), HOST, "asker"}:
            mine = order | {"name": name} | ({"address": self._binds} if name == HOST else {})
            role = f"{PLACE}:{name.rstrip('0123456789')}"
            network = self._hosts.network(self._machines.get(name, "a")) if self._hosts else ""
            self.stage.processes.parts[name] = Part(role, [json.dumps(mine)], network)
        for name, failpoint in plan.failpoints:
            self.stage.processes.parts[name].failpoint = failpoint

    def _dismiss(self, names: list[str]) -> None:
        """SIGTERM, and each ends by itself."""
        self._until("those to dismiss run", lambda: set(names) <= self.stage.processes.running.keys())
        for name in names:
            self.stage.processes.signal(name, signal.SIGTERM)
        self._until(f"{names} have left", lambda: set(names) <= self._done)

    def _until(self, what: str, holds: Callable[[], bool]) -> None:
        self.stage.until(what, lambda: self._turn() or holds(), LIMIT)

    def _turn(self) -> bool:
        for ended in self.stage.turn():
            if ended.struck:
                self.stage.restart(ended.name, self._dice.uniform(0.0, 0.3))
                continue
            # an agent that was cut off when the coordinator left with its program waits for it in vain
            left_alone = self.plan.hosted and ended.name in self.plan.helpers
            fine = (Exit.OK, Exit.LOST) if left_alone else (Exit.OK,)
            assert ended.code in fine, f"{ended.name} ended with {ended.code}"
            self._done.add(ended.name)
        return False
