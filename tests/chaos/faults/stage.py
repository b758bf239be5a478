"""The driver of a run, for queue and pool: its roles, their faults, and the end of the faults."""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.chaos.faults.faults import Fault, Undoing
from tests.chaos.faults.hosts import Hosts, connections
from tests.chaos.faults.journal import Journal
from tests.chaos.faults.processes import Ended, RunProcesses
from tests.chaos.faults.proxied import Proxied
from tests.chaos.faults.starter import Starter


class Stage:
    """Call `turn` until the run is over. `machines`: the machine of each role, if there are several."""

    def __init__(
        self,
        folder: Path,
        starter: Starter,
        dice: Random,
        *,
        hosts: Hosts | None = None,
        machines: dict[str, str] | None = None,
        proxy: Proxied | None = None,
    ) -> None:
        folder.mkdir()
        self.temporary = Path(tempfile.mkdtemp())  # a short path, as sockets need
        self.folder = folder
        self.journal = Journal(folder / "journal", "stage")
        self.processes = RunProcesses(starter, folder, self.temporary, self.journal)
        self.figures: Counter[str] = Counter()
        self.killed: set[str] = set()
        """Roles that were killed, whoever did it."""
        self.frozen: dict[int, str] = {}
        self._dice = dice
        self._hosts = hosts
        self._machines = machines or {}
        self._proxy = proxy
        self._undoing = Undoing()
        self._faults: list[Fault] = []
        self._began = time.monotonic()
        self._stopped: set[str] = set()
        self._stop_lengths: dict[str, float] = {}

    @property
    def quiet(self) -> bool:
        """True if there are no further faults, and all have ended."""
        return not (self._faults or self._undoing.due or self.frozen)

    def begin(self, faults: tuple[Fault, ...], stop_lengths: dict[str, float]) -> None:
        """The work begins; `stop_lengths`: for how long a failpoint freezes each role."""
        self._began = time.monotonic()
        self._faults = list(faults)
        self._stop_lengths = stop_lengths

    def turn(self) -> list[Ended]:
        """Do the due actions; returns the roles that have ended."""
        now = time.monotonic()
        for fault in [fault for fault in self._faults if now - self._began >= fault.at]:
            self._faults.remove(fault)
            self._do(fault, now)
        self._thaw_struck(now)
        self._undoing.turn(now)
        ended = self.processes.ended()
        for each in ended:
            if each.code == -signal.SIGKILL:
                self.killed.add(each.name)
                self.figures["kills"] += 1
        return ended

    def restart(self, name: str, after: float) -> None:
        """Start a role again."""
        self._undoing.later(time.monotonic() + after, lambda: self.processes.start(name))

    def until(self, what: str, holds: Callable[[], bool], within: float) -> None:
        """Wait until `holds()`, which is called every few milliseconds."""
        until = time.monotonic() + within
        pause = select.poll()
        while not holds():
            assert time.monotonic() < until, f"not in {within:g} s: {what}; running: {self._states()}"
            pause.poll(10)

    def close(self) -> None:
        """End all faults, and kill all roles."""
        if self._hosts is not None:
            self._hosts.heal()
        self.processes.starter.kill_all()
        shutil.rmtree(self.temporary)

    # -- what happens ------------------------------------------------------------------------------

    def _do(self, fault: Fault, now: float) -> None:
        done = True
        match fault.kind:
            case "kill" | "kill below" | "stop" | "stop below":
                done = self._strike(fault, now)
            case "reset" | "cut" | "half-open" | "delay" | "throttle" | "blackhole":
                self._strike_proxy(fault, now)
            case _:
                self._strike_network(fault, now)
        if done:
            self.journal.note("fault", kind=fault.kind, target=fault.target, length=fault.length)
            if "kill" not in fault.kind:
                self.figures["stops" if "stop" in fault.kind else fault.kind] += 1

    def _strike(self, fault: Fault, now: float) -> bool:
        name = fault.target
        if name not in self.processes.running:
            return False
        pid = self.processes.running[name]
        if "below" in fault.kind:
            below = self.processes.below(name)
            if not below:
                return False
            pid = self._dice.choice(below)
        if "kill" in fault.kind:
            self.processes.signal(name, signal.SIGKILL, pid)
            self.figures["workers killed" if "below" in fault.kind else "killed at random"] += 1
            return True
        if pid in self.frozen:
            return False
        self.processes.signal(name, signal.SIGSTOP, pid)
        self._freeze(name, pid, fault.length, now)
        return True

    def _freeze(self, name: str, pid: int, length: float, now: float) -> None:
        self.frozen[pid] = name

        def thaw() -> None:
            self.frozen.pop(pid, None)
            self.processes.signal(name, signal.SIGCONT, pid)

        self._undoing.later(now + length, thaw)

    def _thaw_struck(self, now: float) -> None:
        """Resume processes that a failpoint has stopped, after their time."""
        for name, pid in self.processes.struck().items():
            if name in self._stopped:
                continue
            self._stopped.add(name)
            self.figures["failpoints struck"] += 1
            self.journal.note("struck", role=name, pid=pid)
            if (length := self._stop_lengths.get(name)) is not None and Path(f"/proc/{pid}").exists():
                self.figures["stops"] += 1
                self.journal.note("fault", kind="stop", target=name, length=length)
                self._freeze(name, pid, length, now)

    def _strike_proxy(self, fault: Fault, now: float) -> None:
        assert self._proxy is not None
        self._proxy.order(fault.kind, ways=fault.ways, amount=fault.amount)
        if fault.length:
            self._undoing.later(now + fault.length, lambda: self._clear(self._proxy))

    def _clear(self, proxy: Proxied | None) -> None:
        assert proxy is not None
        proxy.order("clear")

    def _strike_network(self, fault: Fault, now: float) -> None:
        assert self._hosts is not None
        hosts, machine, centre = self._hosts, self._machines[fault.target], self._machines["host"]
        other = self._dice.choice(sorted(set(self._machines.values()) - {centre}))
        if machine == centre:
            machine = other
        match fault.kind:
            case "partition":
                hosts.partition(machine, centre)
            case "deaf":
                hosts.partition(machine, centre, one_way=True)
            case "mute":
                hosts.partition(centre, machine, one_way=True)
            case "lossy":
                hosts.lossy(machine, fault.amount)
            case "isolate":
                hosts.isolate(centre)
            case "forget":  # all but those to the port `amount`
                found = connections(self.processes.running[fault.target])
                for connection in found:
                    if connection.other == hosts.address(centre) and connection.theirs != int(fault.amount):
                        hosts.forget(machine, connection)
        self._undoing.later(now + fault.length, self._heal)

    def _heal(self) -> None:
        assert self._hosts is not None
        self._hosts.heal()
        self.journal.note("healed")

    def _states(self) -> str:
        states = []
        for name, pid in self.processes.running.items():
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                state = "gone"
            states.append(f"{name} ({pid}, {state})")
        return ", ".join(states) or os.strerror(0)
