"""One run of a queue: the work, faults meanwhile, and the check of every item."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.faults.faults import LEASE, either
from tests.chaos.faults.hosts import Hosts
from tests.chaos.faults.leftovers import leftovers
from tests.chaos.faults.places import spread
from tests.chaos.faults.processes import Part
from tests.chaos.faults.proxied import LISTEN, TARGET, Proxied
from tests.chaos.faults.stage import Stage
from tests.chaos.faults.starter import Starter
from tests.chaos.queue.check import Check
from tests.chaos.queue.plan import HOST, Plan
from tests.chaos.queue.roles import PRODUCER_LOST
from tests.support.ports import free_address, free_port

LIMIT = 60.0
PLACE = "tests.chaos.queue.roles"
LANES = 40
"""Ports beside the address: one for the inbox, and one for each consumer's session."""
WORK = 1.2
"""Seconds that producers take for their items, if nothing happens."""


class Run:
    """Everything of one run is below `folder`. Use it once, and close it."""

    def __init__(
        self, plan: Plan, folder: Path, starter: Starter, hosts: Hosts | None, lease: float = LEASE
    ) -> None:
        self.plan = plan
        self._folder = folder
        self._dice = Random(plan.seed)
        self._stack = ExitStack()
        self._machines = dict(zip([HOST, *plan.roles], spread(), strict=False))
        proxy = None
        self._options: dict[str, Any] = {"maxsize": plan.maxsize, "producers": plan.producers, "lease": lease}
        match plan.transport:
            case "ipc":
                self._binds = self._calls = f"ipc://{folder}/queue"
            case "net":
                assert hosts is not None
                self._binds = self._calls = f"tcp://{hosts.address('a')}:5555"
            case "tcp":
                self._binds = self._calls = free_address()
            case _:
                first = free_port(adjacent=LANES + 1)
                lanes = [*range(first + 1, first + LANES + 1)]
                proxy = self._stack.enter_context(Proxied([first, *lanes], plan.seed))
                self._binds, self._calls = f"tcp://{TARGET}:{first}", f"tcp://{LISTEN}:{first}"
                self._options["lanes"] = f"{lanes[0]}-{lanes[-1]}"
        self.stage = Stage(folder, starter, self._dice, hosts=hosts, machines=self._machines, proxy=proxy)
        self._hosts = hosts if plan.transport == "net" else None
        self._done: set[str] = set()
        self._add_parts()

    def run(self) -> None:
        """Raises `AssertionError` for each broken promise."""
        stage = self.stage
        stage.processes.start(HOST)
        stage.until("the host is there", lambda: self._turn() or any(stage.journal.notes("hosting")), 15)
        for role in self.plan.roles:
            stage.processes.start(role)
        points = [role for role, point in self.plan.failpoints if point.action == "stop"]
        stage.begin(self.plan.faults, {role: either(self._dice) for role in points})
        self._until("everything is put", lambda: self._producers() <= self._done)
        if HOST in stage.killed:
            self._until("nothing happens any more", lambda: stage.quiet)
            stage.processes.start("closer")
            self._until("the queue is shut down", lambda: "closer" in self._done)
        self._until("everything is got", lambda: set(self.plan.roles) <= self._done and stage.quiet)
        self._until("the host is there", lambda: HOST in stage.processes.running)
        stage.processes.signal(HOST, 15)
        self._until("the host has left", lambda: HOST in self._done)
        left = leftovers(stage)
        assert not left, f"left behind: {left}"
        Check(self.plan, stage).all()

    def close(self) -> None:
        self.stage.close()
        self._stack.close()

    def _add_parts(self) -> None:
        common = {"journal": str(self._folder / "journal"), "address": self._calls}
        putting = {"items": self.plan.items, "batch": self.plan.batch, "stay": self.plan.stay}
        orders: dict[str, dict[str, Any]] = {
            HOST: {"address": self._binds, "options": self._options},
            "closer": {},
            **dict.fromkeys(self._producers(), putting | {"pace": WORK / self.plan.items}),
        }
        for name in (HOST, "closer", *self.plan.roles):
            order = common | {"name": name, "pace": 0.002} | orders.get(name, {})
            role = f"{PLACE}:{name.rstrip('0123456789')}"
            network = self._hosts.network(self._machines.get(name, "a")) if self._hosts else ""
            self.stage.processes.parts[name] = Part(role, [json.dumps(order)], network)
        for name, failpoint in self.plan.failpoints:
            self.stage.processes.parts[name].failpoint = failpoint

    def _until(self, what: str, holds: Any) -> None:
        self.stage.until(what, lambda: self._turn() or holds(), LIMIT)

    def _turn(self) -> None:
        for ended in self.stage.turn():
            name = ended.name
            if ended.struck or (ended.code == PRODUCER_LOST and name.startswith("consumer")):
                if name not in self._done:
                    self.stage.restart(name, self._dice.uniform(0.0, 0.3))
                continue
            assert ended.code == 0, f"{name} ended with {ended.code}"
            if name.startswith("consumer") and self._producers() & self.stage.killed - self._done:
                self.stage.restart(name, 0.1)  # a producer killed behind its goodbye puts again
                continue
            assert not name.startswith("consumer") or self._over(), f"{name} saw the end before it had come"
            self._done.add(name)

    def _over(self) -> bool:
        """Whether every producer has closed, which it does some time before it ends."""
        roles = {note["uid"]: note["who"] for note in self.stage.journal.notes("end")}
        left = {roles.get(note["uid"]) for note in self.stage.journal.notes("death") if note["cleanly"]}
        return self._producers() <= left | self._done

    def _producers(self) -> set[str]:
        return {role for role in self.plan.roles if role.startswith("producer")}
